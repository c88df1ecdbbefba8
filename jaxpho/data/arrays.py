"""Exposures from arrays in memory, for notebooks and other pipelines."""

from __future__ import annotations

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from jaxpho.data.exposure import Exposure, Nuisance
from jaxpho.data.masks import HUGE
from jaxpho.data.psfmodel import PSFModel
from jaxpho.errors import InputError


def simple_wcs(
    shape: tuple[int, int], pixel_scale: float, ra: float = 0.0, dec: float = 0.0, rotation=0.0
) -> WCS:
    """Tangential WCS with (ra, dec) at the middle of an image, North up and East to the left.

    Parameters
    ----------
    shape : tuple
        (ny, nx).
    pixel_scale : float
        arcsec per pixel.
    ra, dec : float
        deg.
    rotation : float
        Angle from the image's y axis to North, degrees counter-clockwise.
    """
    angle, step = np.radians(rotation), pixel_scale / 3600.0
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [ra, dec]
    wcs.wcs.crpix = [(shape[1] + 1) / 2, (shape[0] + 1) / 2]
    wcs.wcs.cd = step * np.array(
        [[-np.cos(angle), -np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
    )
    return wcs


def exposure_from_arrays(
    data,
    error,
    psf,
    *,
    band: str = "band",
    name: str | None = None,
    wcs=None,
    pixel_scale: float | None = None,
    ra: float = 0.0,
    dec: float = 0.0,
    mask=None,
    unit: str = "counts",
    nuisance: Nuisance | None = None,
) -> Exposure:
    """An exposure from arrays.

    Parameters
    ----------
    data, error : array or path of a ``.npy`` file
        [ny, nx] flux per pixel (sky subtracted) and its 1-sigma error, in ``unit``; a scalar
        error serves all pixels.
    psf : PSFModel or MixtureFit
        The PSF as a mixture: from a store (`jaxpho.data.psfstore`) or an image
        (`jaxpho.psf_from_image`, `psfmix.fit.fit_mixture`).
    band, name : str
        The name identifies the exposure; default the band.
    wcs : WCS, optional
        Anything with ``world_to_pixel_values`` and ``pixel_to_world_values``.
    pixel_scale : float, optional
        arcsec, instead of a WCS: North up, with (ra, dec) at the image's middle.
    ra, dec : float
        deg, for ``pixel_scale``.
    mask : array, optional
        True = bad pixel.
    unit : str
        Unit of data and fluxes.
    nuisance : Nuisance, optional

    Raises
    ------
    InputError
        For shapes that disagree, no usable pixel, neither WCS nor pixel scale, or a PSF that is
        no mixture.
    """
    name = name or band
    data, error = (np.load(a) if isinstance(a, str) else np.asarray(a) for a in (data, error))
    if data.ndim != 2:
        raise InputError(f"{name}: data has {data.ndim} dimensions, expected 2")
    for what, array in (("error", error), ("mask", mask)):
        if array is not None and np.ndim(array) and np.shape(array) != data.shape:
            raise InputError(f"{name}: {what} is {np.shape(array)}, expected {data.shape} as data")
    error = np.broadcast_to(error, data.shape)
    good = (np.abs(data) < HUGE) & np.isfinite(error) & (error > 0)
    if mask is not None:
        good &= ~np.asarray(mask, bool)
    if not good.any():
        raise InputError(f"{name}: no pixel is finite and unmasked with an error above 0")
    if wcs is None:
        if pixel_scale is None:
            raise InputError(f"{name}: neither wcs nor pixel_scale is given, expected one of them")
        wcs = simple_wcs(data.shape, pixel_scale, ra, dec)
    if not hasattr(psf, "at") and not hasattr(psf, "parameters"):
        raise InputError(
            f"{name}: psf is of type {type(psf).__name__}, expected a mixture of Gaussians; "
            "jaxpho.psf_from_image makes one of an image"
        )
    if not hasattr(psf, "at"):
        psf = PSFModel(np.atleast_2d(psf.parameters), None, psf.includes_pixel)
    return Exposure(
        name=name,
        band=band,
        data=np.where(good, data, 0.0).astype(np.float32),
        ierr=np.where(good, 1.0 / np.where(good, error, 1.0), 0.0).astype(np.float32),
        wcs=wcs,
        unit=unit,
        header=fits.Header(),
        nuisance=nuisance or Nuisance(),
        psf=psf,
        notes={"unit_from": "given", "sky_from": "subtracted by the caller"},
    )
