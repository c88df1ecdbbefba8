"""The reference cases of another code's format, as patches (shared by tests)."""

import jax.numpy as jnp
import numpy as np

from jaxpho.core.sersic import load_splines
from jaxpho.data.packing import PSF_FIELDS, Astrometry, build_patch
from jaxpho.data.tiles import tiles_from_pixels

PSF_DTYPE = np.dtype([(name, "f4") for name in PSF_FIELDS] + [("sersic_bin", "i4")])


def load_case(folder, dtype=np.float32, gain=None, **kwargs):
    """Patch, splines and expected numbers of one case (kernel quirk: first source's PSF)."""
    import h5py

    expected = np.load(folder / "expected.npz")
    n_e, n_s = expected["D"].shape[:2]
    tiles, psf = [], []
    bands = np.repeat(np.arange(len(expected["band_N"])), expected["band_N"])
    for e in range(n_e):
        at = slice(expected["exposure_start"][e], None)
        at = slice(at.start, at.start + expected["exposure_N"][e])
        tiles.append(
            tiles_from_pixels(*(expected[k][at] for k in ("xpix", "ypix", "data", "ierr")))
        )
        n = expected["n_psf_per_source"][bands[e]]
        at = slice(expected["psfgauss_start"][e], expected["psfgauss_start"][e] + n)
        p = np.zeros(n, PSF_DTYPE)
        for ours, theirs in zip(
            PSF_DTYPE.names, ("amp", "xcen", "ycen", "Cxx", "Cyy", "Cxy", "sersic_bin"), strict=True
        ):
            p[ours] = expected[f"psfgauss_{theirs}"][at]
        psf.append([p] * n_s)
    astrometry = Astrometry(*(expected[k].astype(float) for k in ("D", "CW", "crpix", "crval")))
    patch, blocks = build_patch(
        tiles,
        bands,
        astrometry,
        psf,
        n_radii=9,
        gain=expected["G"] if gain is None else gain,
        dtype=dtype,
        **kwargs,
    )
    with h5py.File(folder / "sersic_splines.h5") as f:
        splines = load_splines(
            *(f[k][:] for k in ("radii", "nsersic", "rh", "amplitudes")), dtype=dtype
        )
    return patch, blocks, splines, expected


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
