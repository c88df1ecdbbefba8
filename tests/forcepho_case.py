"""The reference cases of another code's format, as patches (shared by tests)."""

import jax.numpy as jnp
import numpy as np

from jaxpho.data.splinestore import read_spline_table
from jaxpho.data.unpack import patch_from_arrays


def load_case(folder, dtype=np.float32, gain=None, **kwargs):
    """Patch, blocks, splines and expected numbers of a case (first source's PSF for all)."""
    expected = np.load(folder / "expected.npz")
    arrays = {key: expected[key] for key in expected}
    if gain is not None:
        arrays["G"] = gain
    packed = patch_from_arrays(arrays, first_psf=True, dtype=dtype, **kwargs)
    splines = read_spline_table(folder / "sersic_splines.h5").splines(dtype)
    return packed.patch, packed.blocks, splines, expected


def forcepho_rows(params, n_source, n_band, exposure_band):
    """Rows [E, S, 7] from forcepho's vector [flux..., ra, dec, q, pa, sersic, rhalf] per source.

    q there is sqrt(b/a) and pa runs from East to North, in radians.
    """
    p = params.reshape(n_source, n_band + 6)
    ra, dec, q, pa, sersic, rhalf = (p[:, n_band + i] for i in range(6))
    e = (1.0 - q * q) / (1.0 + q * q)
    angle = 2.0 * (jnp.pi / 2.0 - pa)
    rest = jnp.stack([ra, dec, rhalf, sersic, e * jnp.cos(angle), e * jnp.sin(angle)], -1)
    flux = p[:, :n_band].T[exposure_band]
    rest = jnp.broadcast_to(rest, (len(exposure_band), n_source, 6))
    return jnp.concatenate([flux[..., None], rest], -1)
