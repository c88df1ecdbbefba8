"""Mosaics of exported images, one for each band: the only module that imports `reproject`.

Images hold flux per pixel. They are resampled as surface brightness with the spherical overlap of
pixels (`reproject_exact`), and come back as flux per pixel of the mosaic: sums over a source are
kept, its PSF is widened by about a pixel, and neighbouring pixels become correlated.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np
from astropy.io import fits

from jaxpho.data.fitsread import CREATOR
from jaxpho.data.wcs import pixel_area
from jaxpho.errors import InputError
from jaxpho.files import replacing
from jaxpho.output.cutouts import ImageFiles

LAYERS = ("DATA", "MODEL", "RESIDUAL")
MAX_PIXELS = 400_000_000
"""Of a mosaic: larger ones take coarser pixels (a layer of this size is 1.6 GB)."""


def check_reproject(what: str) -> None:
    """Raise InputError when `reproject` is not installed; `what` asks for it."""
    if find_spec("reproject") is None:
        raise InputError(
            f"{what}: the package reproject is not installed; 'pip install \"jaxpho[export]\"' "
            "installs it"
        )


def make_mosaic(
    images: ImageFiles, chosen: Sequence[int], scale: float | None = None, progress=iter
):
    """The mean of several exposures on one tangent plane, North up.

    Exposures are weighted by their inverse median variance per solid angle, one number for each:
    weights that follow the light of sources would bias their fluxes.

    Parameters
    ----------
    images : ImageFiles
    chosen : which of them.
    scale : arcsec per pixel; default: that of the finest exposure.
    progress : wraps the iterator over exposures.

    Returns
    -------
    layers : dict
        DATA, MODEL, RESIDUAL [ny, nx], flux per pixel, and COVERAGE, the share of a pixel that good
        pixels of exposures cover, summed over exposures; NaN where that is 0.
    wcs : WCS

    Raises
    ------
    InputError
        When reproject is not installed, or the mosaic would be larger than `MAX_PIXELS`.
    """
    check_reproject("mosaics")
    import astropy.units as u
    from reproject import reproject_exact
    from reproject.mosaicking import find_optimal_celestial_wcs

    known = [(images.shapes[i], images.wcs[i]) for i in chosen]
    wcs, shape = find_optimal_celestial_wcs(
        known,
        frame="icrs",
        auto_rotate=False,
        resolution=None if scale is None else scale * u.arcsec,
    )
    if shape[0] * shape[1] > MAX_PIXELS:
        raise InputError(
            f"the mosaic would have {shape[1]} x {shape[0]} pixels, more than {MAX_PIXELS}; "
            "give a coarser --scale [arcsec]"
        )
    sums = {layer: np.zeros(shape, np.float32) for layer in LAYERS}
    weights, coverage = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for i in progress(list(chosen)):
        ny, nx = images.shapes[i]
        area = pixel_area(images.wcs[i], (ny, nx))
        with fits.open(images.paths[i]) as hdus:
            layers = {k: np.array(hdus[k].data, float) for k in LAYERS}
            chi = np.array(hdus["CHI"].data, float)
        good = np.isfinite(layers["RESIDUAL"]) & np.isfinite(chi)
        box = _box(wcs, shape, images.wcs[i], (ny, nx))
        if not good.any() or box is None:
            continue
        with np.errstate(invalid="ignore", divide="ignore"):
            sigma = np.median(np.abs(layers["RESIDUAL"] / chi)[good & (chi != 0)])
        weight = (area / sigma) ** 2
        target, size = wcs[box], tuple(s.stop - s.start for s in box)

        def moved(values, source=images.wcs[i], target=target, size=size):
            out, inside = reproject_exact((values, source), target, shape_out=size)
            return np.where(inside > 0, np.nan_to_num(out) * inside, 0.0)

        share = moved(good.astype(float))
        weights[box] += weight * share
        coverage[box] += share
        for layer, values in layers.items():
            sums[layer][box] += weight * moved(np.where(good, values / area, 0.0))
    out_area = pixel_area(wcs, shape)
    with np.errstate(invalid="ignore", divide="ignore"):
        out = {k: np.where(weights > 0, v / weights, np.nan) * out_area for k, v in sums.items()}
    out = {k: v.astype(np.float32) for k, v in out.items()}
    return out | {"COVERAGE": coverage}, wcs


def _box(wcs, shape, source, size):
    """Slices of the mosaic that an exposure may touch, from its border."""
    ny, nx = size
    x, y = np.linspace(-0.5, nx - 0.5, 33), np.linspace(-0.5, ny - 0.5, 33)
    ends = [(x, np.full(33, -0.5)), (x, np.full(33, ny - 0.5)), (np.full(33, -0.5), y),
            (np.full(33, nx - 0.5), y)]  # fmt: skip
    border = np.concatenate(ends, axis=1)
    at = wcs.world_to_pixel_values(*source.pixel_to_world_values(*border))
    out = []
    for values, n in zip(at[::-1], shape, strict=True):
        if not np.isfinite(values).all():
            return slice(0, shape[0]), slice(0, shape[1])
        low, high = max(int(values.min()) - 2, 0), min(int(values.max()) + 3, n)
        if low >= high:
            return None
        out.append(slice(low, high))
    return tuple(out)


def write_mosaic(path, layers: dict[str, np.ndarray], wcs, band: str, unit: str) -> None:
    """Write the layers of a mosaic as one FITS file, in one step."""
    hdus = [fits.PrimaryHDU()]
    hdus[0].header["CREATOR"] = (CREATOR, "a mosaic of a fit")
    hdus[0].header["BAND"] = (band, "band")
    for name, image in layers.items():
        hdu = fits.ImageHDU(image, header=wcs.to_header(), name=name)
        if name in LAYERS and unit:
            hdu.header["BUNIT"] = (unit, "per pixel")
        hdus.append(hdu)
    with replacing(path) as temporary:
        fits.HDUList(hdus).writeto(temporary, overwrite=True)
