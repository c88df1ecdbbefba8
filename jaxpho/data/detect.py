"""Peaks from the images themselves, through sep (Source Extractor as a library)."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import numpy as np
from scipy.interpolate import RectBivariateSpline
from scipy.ndimage import map_coordinates

from jaxpho.core.sources import AUTO
from jaxpho.data.catalog import AUTO_START, Peak, read_catalog
from jaxpho.data.exposure import Exposure
from jaxpho.data.moments import fill_starts, significance
from jaxpho.data.options import CatalogOptions, DetectOptions, WCSOptions
from jaxpho.data.wcs import build_wcs, pixel_area
from jaxpho.errors import InputError

log = logging.getLogger("jaxpho.detect")

COARSE = 16  # pixel, mesh on which coordinates are mapped exactly
MAX_SIDE = 20000  # pixel, of the detection image


def get_peaks(
    options: CatalogOptions,
    exposures: Sequence[Exposure],
    bands: Sequence[str],
    unit: str = "nJy",
    default_type: str = "sersic",
) -> list[Peak]:
    """The peaks as the options say, read or detected, unknown sizes and fluxes from moments."""
    if options.detect:
        if options.file is not None or options.positions is not None:
            raise InputError("peaks: detect: true excludes `file` and `positions`")
        peaks = detect_peaks(exposures, options.detection, options.type or default_type)
    else:
        peaks = read_catalog(options, bands, unit, default_type)
    return fill_starts(exposures, peaks, bands)


def _chosen(exposures: Sequence[Exposure], options: DetectOptions) -> list[Exposure]:
    if options.exposures is not None:
        names = {e.name for e in exposures}
        for name in options.exposures:
            if name not in names:
                raise InputError(f"peaks.detection.exposures: no exposure is named '{name}'")
        return [e for e in exposures if e.name in options.exposures]
    if options.bands is not None:
        present = {e.band for e in exposures}
        for band in options.bands:
            if band not in present:
                raise InputError(f"peaks.detection.bands: no exposure has band '{band}'")
        return [e for e in exposures if e.band in options.bands]
    return list(exposures)


def _grid(exposures: Sequence[Exposure]):
    """A north-up tangent WCS over all exposures at their finest pixel scale, and its shape."""
    ra, dec, scales = [], [], []
    for e in exposures:
        ny, nx = e.shape
        x = np.array([-0.5, nx - 0.5, -0.5, nx - 0.5])
        y = np.array([-0.5, -0.5, ny - 0.5, ny - 0.5])
        a, d = e.wcs.pixel_to_world_values(x, y)
        ra.append(np.asarray(a, float))
        dec.append(np.asarray(d, float))
        scales.append(math.degrees(math.sqrt(pixel_area(e.wcs, e.shape))) * 3600)
    ra, dec, scale = np.concatenate(ra), np.concatenate(dec), min(scales)
    offset = (ra - ra[0] + 180) % 360 - 180
    centre = ra[0] + (offset.min() + offset.max()) / 2, (dec.min() + dec.max()) / 2
    half = np.abs(ra[0] + offset - centre[0]).max() * math.cos(math.radians(centre[1])) * 3600
    nx = 2 * int(math.ceil(half / scale)) + 3
    ny = 2 * int(math.ceil(np.abs(dec - centre[1]).max() * 3600 / scale)) + 3
    if max(nx, ny) > MAX_SIDE:
        raise InputError(
            f"peaks.detect: the exposures span {nx} x {ny} pixels; detect on fewer exposures "
            "(peaks.detection.exposures) or give a catalogue"
        )
    from astropy.io import fits

    options = WCSOptions(pixel_scale=scale, ra=float(centre[0]), dec=float(centre[1]))
    wcs, _ = build_wcs(fits.Header(), options, (ny, nx), where="detection image")
    return wcs, (ny, nx)


def stack(exposures: Sequence[Exposure]):
    """Inverse-variance mean of exposures on a common grid.

    Parameters
    ----------
    exposures : in one unit.

    Returns
    -------
    image, sigma, wcs : [ny, nx] float32 flux per grid pixel and its error (inf where no data),
        the grid's WCS. Linear interpolation correlates the noise of neighbouring pixels.
    """
    wcs, shape = _grid(exposures)
    area = pixel_area(wcs, shape)
    top, weight = np.zeros(shape), np.zeros(shape)
    gy = np.unique(np.append(np.arange(0, shape[0], COARSE), shape[0] - 1))
    gx = np.unique(np.append(np.arange(0, shape[1], COARSE), shape[1] - 1))
    xx, yy = np.meshgrid(gx, gy)
    ra, dec = wcs.pixel_to_world_values(xx, yy)
    for e in exposures:
        px, py = (np.asarray(v, float) for v in e.wcs.world_to_pixel_values(ra, dec))
        if not (np.isfinite(px).all() and np.isfinite(py).all()):
            log.warning("%s: its WCS does not reach the whole field; not in the stack", e.name)
            continue
        rows, columns = np.arange(shape[0]), np.arange(shape[1])
        order = [min(3, len(g) - 1) for g in (gy, gx)]
        x = RectBivariateSpline(gy, gx, px, kx=order[0], ky=order[1])(rows, columns)
        y = RectBivariateSpline(gy, gx, py, kx=order[0], ky=order[1])(rows, columns)
        ratio = area / pixel_area(e.wcs, e.shape)
        good = (e.ierr > 0).astype(float)
        at = np.array([y, x])
        whole = map_coordinates(good, at, order=1, mode="constant") > 0.999
        data = map_coordinates(e.data.astype(float) * good, at, order=1, mode="constant") * ratio
        ierr = map_coordinates(e.ierr.astype(float), at, order=1, mode="constant") / ratio
        w = np.where(whole, ierr**2, 0.0)
        top += w * data
        weight += w
    with np.errstate(divide="ignore", invalid="ignore"):
        image = np.where(weight > 0, top / weight, 0.0).astype(np.float32)
        sigma = np.where(weight > 0, 1 / np.sqrt(weight), np.inf).astype(np.float32)
    return image, sigma, wcs


def detect_peaks(
    exposures: Sequence[Exposure], options: DetectOptions, default_type: str = "sersic"
) -> list[Peak]:
    """Detect sources on the stack of exposures.

    Parameters
    ----------
    exposures : of all bands.
    options : threshold, deblending, which exposures.
    default_type : type of the peaks.

    Returns
    -------
    peaks : brightest first, ids from 1, with positions only; `fill_starts` adds the rest.

    Raises
    ------
    InputError
        When sep is not installed, the choice of exposures is empty, or nothing is detected.
    """
    try:
        import sep
    except ImportError:
        raise InputError("peaks.detect needs the package sep: pip install 'jaxpho[sep]'") from None
    image, sigma, wcs = stack(_chosen(exposures, options))
    mask = ~np.isfinite(sigma)
    if mask.all():
        raise InputError("peaks.detect: the detection image has no usable pixel")
    image = np.ascontiguousarray(image)
    if options.mesh and min(image.shape) >= 3 * options.mesh:
        image = image - sep.Background(image, mask=mask, bw=options.mesh, bh=options.mesh).back()
    err = np.where(mask, np.float32(1e30), sigma)
    try:
        found = sep.extract(
            image, options.threshold, err=err, mask=mask, minarea=options.min_area,
            deblend_cont=options.deblend_contrast,
        )  # fmt: skip
    except Exception as error:
        # sep raises bare Exception, for instance when its pixel buffer overflows
        raise InputError(f"peaks.detect: sep failed ({error}); raise detection.threshold") from None
    if len(found) == 0:
        raise InputError(
            f"peaks.detect: nothing is above {options.threshold:g} sigma in "
            f"{options.min_area} connected pixels"
        )
    found = found[np.argsort(-found["flux"])]
    ra, dec = wcs.pixel_to_world_values(found["x"], found["y"])
    kind = AUTO_START if default_type == AUTO else default_type
    peaks = [
        Peak(0, kind, float(a) % 360.0, float(d), auto=default_type == AUTO)
        for a, d in zip(ra, dec, strict=True)
    ]
    sn = [
        significance(exposures, p, _covariance(f, wcs, image.shape))
        for p, f in zip(peaks, found, strict=True)
    ]
    keep = np.array(sn) >= options.min_sn
    peaks, found = [p for p, k in zip(peaks, keep, strict=True) if k], found[keep]
    if not peaks:
        raise InputError(
            f"peaks.detect: nothing has S/N > {options.min_sn:g} (peaks.detection.min_sn)"
        )
    for i, peak in enumerate(peaks):
        peak.id = i + 1
    if options.point_like:
        _mark_points(peaks, found)
    log.info(
        "%d sources detected above %g sigma per pixel and S/N %g; %d fainter ones dropped",
        len(peaks), options.threshold, options.min_sn, int((~keep).sum()),
    )  # fmt: skip
    return peaks


def _covariance(row, wcs, shape) -> np.ndarray:
    """Second moments of a detection on the sky [arcsec^2]; the grid is north-up, East left."""
    scale2 = pixel_area(wcs, shape) * (180 * 3600 / math.pi) ** 2
    xx, yy, xy = float(row["x2"]), float(row["y2"]), float(row["xy"])
    # a pixel's own extent keeps the matrix regular for detections one pixel wide
    return scale2 * np.array([[xx + 1 / 12, -xy], [-xy, yy + 1 / 12]])


def _mark_points(peaks, found):
    """Call sources point-like that are no wider than the narrowest tenth of the bright ones."""
    bright = found["flux"] > np.median(found["flux"])
    width = np.sqrt(found["a"] * found["b"])
    limit = 1.15 * np.percentile(width[bright] if bright.any() else width, 10)
    for peak, w, q in zip(peaks, width, found["b"] / found["a"], strict=True):
        if w <= limit and q > 0.8:
            peak.type, peak.auto = "point", False
