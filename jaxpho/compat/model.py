"""chi2, its gradient and residuals with forcepho's parameters and conventions.

Its kernel: second-order pixel integral, Gaussians cut off where Q > 36, the PSF of the first
source for all sources of an exposure, pixel coordinates counted from the image's corner.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxpho.core.likelihood import delta_chi2
from jaxpho.core.patch import Patch
from jaxpho.core.pixel import PixelMode
from jaxpho.core.render import render
from jaxpho.core.scene import Rows, Scene, row_gaussians
from jaxpho.core.sersic import SersicSplines
from jaxpho.data.packing import PackedPatch
from jaxpho.data.unpack import patch_from_arrays


class Values(NamedTuple):
    """What `evaluate` returns.

    Attributes
    ----------
    chi2 : ndarray [B]
        sum (r^2 - d^2)/sigma^2 per band, float64.
    lnlike : float
        -chi2/2 of all bands.
    gradient : ndarray [npar]
        Of lnlike by the parameters.
    model : ndarray [npix]
        In the order of the packed pixels, masked ones included.
    """

    chi2: np.ndarray
    lnlike: float
    gradient: np.ndarray
    model: np.ndarray


def patch_of(arrays, dtype=np.float32, first_psf: bool = True, pad: bool = False) -> PackedPatch:
    """The patch of packed arrays as forcepho's kernel sees it."""
    return patch_from_arrays(arrays, first_psf=first_psf, relative=False, pad=pad, dtype=dtype)


def parameter_rows(params: Array, patch: Patch, n_sources: int, n_bands: int) -> Rows:
    """Rows of the scene from forcepho's vector [flux..., ra, dec, q, pa, sersic, rhalf] x S.

    q is sqrt(b/a) and pa runs from East to North, in radians; positions are degrees from the
    reference.
    """
    p = params.reshape(n_sources, n_bands + 6)
    ra, dec, q, pa, sersic, rhalf = (p[:, n_bands + i] for i in range(6))
    e = (1.0 - q * q) / (1.0 + q * q)
    angle = 2.0 * (0.5 * np.pi - pa)
    rest = jnp.stack([ra, dec, rhalf, sersic, e * jnp.cos(angle), e * jnp.sin(angle)], -1)
    flux = p[:, :n_bands].T[patch.exposure_band] * patch.g[:, None]
    n_e = patch.n_exposures
    rest = jnp.broadcast_to(rest, (n_e, n_sources, 6))
    rows = jnp.concatenate([flux[..., None], rest], -1)
    empty = jnp.zeros((n_e, 0, 3), params.dtype)
    return Rows(rows, empty, jnp.zeros((n_e, 3), params.dtype))


def _gaussians(params, patch, splines, n_sources, n_bands):
    rows = parameter_rows(params, patch, n_sources, n_bands)
    scene = Scene(None, None, np.arange(n_sources), np.zeros(0, int), None, None, None)
    return row_gaussians(rows, scene, patch, splines), rows.sky


_STATIC = ("n_sources", "n_bands", "mode")


@partial(jax.jit, static_argnames=_STATIC)
def _chi2(params, patch, splines, *, n_sources, n_bands, mode):
    def total(p):
        found = delta_chi2(*_gaussians(p, patch, splines, n_sources, n_bands), patch, None, mode)
        return found.high.sum(), found

    return jax.value_and_grad(total, has_aux=True)(params)


@partial(jax.jit, static_argnames=_STATIC)
def _render(params, patch, splines, *, n_sources, n_bands, mode):
    return render(*_gaussians(params, patch, splines, n_sources, n_bands), patch, mode)


def evaluate(
    params, packed: PackedPatch, splines: SersicSplines, mode: PixelMode = "forcepho"
) -> Values:
    """chi2, gradient and model of a scene.

    Parameters
    ----------
    params : ndarray [S (B + 6)]
        See `parameter_rows`.
    packed : PackedPatch
        From `patch_of`.
    splines : SersicSplines
        Its dtype and that of the patch are those of the computation.
    mode : str
        Pixel integral.
    """
    patch, n_bands = packed.patch, len(packed.bands)
    params = jnp.asarray(params, patch.data.dtype)
    static = {"n_sources": packed.n_sources, "n_bands": n_bands, "mode": mode}
    (_, total), gradient = _chi2(params, patch, splines, **static)
    per_exposure = np.asarray(total.high, np.float64) + np.asarray(total.low, np.float64)
    chi2 = np.zeros(n_bands)
    n_e = len(packed.exposures)
    np.add.at(chi2, np.asarray(patch.exposure_band)[:n_e], per_exposure[:n_e])
    gradient = -0.5 * np.asarray(gradient, np.float64)
    return Values(chi2, -0.5 * chi2.sum(), gradient, model_pixels(params, packed, splines, mode))


def model_pixels(
    params, packed: PackedPatch, splines: SersicSplines, mode="forcepho"
) -> np.ndarray:
    """Model of all pixels, flat, masked ones included; see `evaluate`."""
    static = {"n_sources": packed.n_sources, "n_bands": len(packed.bands), "mode": mode}
    params = jnp.asarray(params, packed.patch.data.dtype)
    model = _render(params, packed.patch, splines, **static)
    return np.concatenate(
        [packed.pixels(e, model=model)["model"] for e in range(len(packed.exposures))]
    )
