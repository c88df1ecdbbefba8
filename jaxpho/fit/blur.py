"""Is the Sersic mixture fine enough for a galaxy? It depends on how much the PSF blurs it."""

from __future__ import annotations

import numpy as np

from jaxpho.core.patch import Patch
from jaxpho.core.sersic import DESIGN_BLUR, blur_in_rhalf, mixture_for_blur

IMPORTANT = 0.1  # amplitude of a PSF component that counts
CUSPY = 2.0  # below this index the profile has no cusp that a coarse mixture could soften


def sharpest_psf(patch: Patch, n_exposures: int, source: int) -> float:
    """Width of the narrowest important PSF component of a source, pixel included, arcsec."""
    psf = patch.psf_point
    at = (slice(n_exposures), source)
    pixel = np.asarray(patch.pixel_term)[:n_exposures, None] / 12.0
    cxx, cyy = np.asarray(psf.cxx)[at] + pixel, np.asarray(psf.cyy)[at] + pixel
    cxy, amplitude = np.asarray(psf.cxy)[at], np.asarray(psf.flux)[at]
    smallest = (cxx + cyy) / 2 - np.sqrt((cxx - cyy) ** 2 / 4 + cxy**2)
    scale = np.abs(np.linalg.det(np.asarray(patch.d)[at])) ** -0.5
    width = np.sqrt(np.maximum(smallest, 0.0)) * scale[:, None]
    return float(np.where(amplitude > IMPORTANT, width, np.inf).min())


def mixture_needed(
    patch: Patch, n_exposures: int, shapes: list[tuple[int, dict[str, float]]], mixture: str
) -> tuple[str, float]:
    """The mixture that a patch's galaxies need, and the smallest blur found.

    Parameters
    ----------
    patch : Patch
    n_exposures : int
        Without padding.
    shapes : list
        (source index, {"rhalf", "sersic", "e1", "e2"}) of every Sersic component.
    mixture : str
        The one in use; the answer is this or a larger one.

    Returns
    -------
    name : str
    blur : float
        PSF width over rhalf; below ``DESIGN_BLUR[name]`` even the largest mixture softens the cusp.
    """
    blur = np.inf
    for source, shape in shapes:
        if shape["sersic"] > CUSPY:
            e = np.hypot(shape["e1"], shape["e2"])
            q = (1 - e) / (1 + e)
            width = sharpest_psf(patch, n_exposures, source)
            blur = min(blur, float(blur_in_rhalf(width, shape["rhalf"], q)))
    return mixture_for_blur(blur, mixture), blur


def too_coarse(name: str, blur: float) -> bool:
    """Whether the mixture softens the centre of the sharpest galaxy."""
    return blur < DESIGN_BLUR[name]
