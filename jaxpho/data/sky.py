"""Sky: models from files, estimates, and statistics of the blank pixels."""

from __future__ import annotations

import logging
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from scipy.interpolate import RectBivariateSpline

from jaxpho.errors import InputError

log = logging.getLogger("jaxpho.sky")

MAD_TO_SIGMA = 1.4826
MIN_BLANK_FRACTION = 0.02  # below, nothing reliable can be said about the sky


class SkyStatistics(NamedTuple):
    """The blank pixels of an image.

    Attributes
    ----------
    mean : mean level, the image's unit.
    error : its uncertainty; from the scatter between boxes, so that correlated noise and
        structure of the background count.
    scatter : robust standard deviation of single pixels.
    structure : scatter between box means beyond that of white noise.
    npix : number of blank pixels.
    fraction : of the usable pixels.
    """

    mean: float
    error: float
    scatter: float
    structure: float
    npix: int
    fraction: float


def spline_sky(row, shape, where: str = "sky model") -> np.ndarray:
    """Sky of a legacypipe spline model.

    Parameters
    ----------
    row : mapping with gridvals [gridh, gridw], xgrid, ygrid, and optionally gridw, gridh (the
        true size where a merged table pads its rows), x0, y0 (where the image lies in the frame
        of the model) and order.
    shape : (ny, nx) of the image.
    where : names the model in errors.

    Returns
    -------
    sky : [ny, nx] float64, in the image's unit: the spline at (x0 + x, y0 + y).

    Raises
    ------
    InputError
        When the row lacks a grid, or the grid is not finite and increasing.
    """
    names = {k.lower(): k for k in row}
    missing = [k for k in ("gridvals", "xgrid", "ygrid") if k not in names]
    if missing:
        raise InputError(f"{where}: no column {', '.join(missing)}; is this a spline sky model?")

    def get(key, default):
        return int(np.ravel(row[names[key]])[0]) if key in names else default

    values = np.atleast_2d(np.asarray(row[names["gridvals"]], float))
    width, height = get("gridw", values.shape[1]), get("gridh", values.shape[0])
    x = np.ravel(np.asarray(row[names["xgrid"]], float))[:width]
    y = np.ravel(np.asarray(row[names["ygrid"]], float))[:height]
    values = values[:height, :width]
    if values.shape != (len(y), len(x)) or not np.isfinite(values).all():
        raise InputError(
            f"{where}: gridvals has shape {values.shape} for {len(x)} x {len(y)} grid points, or "
            "is not finite"
        )
    order = min(get("order", 3), len(x) - 1, len(y) - 1)
    if order < 1 or np.any(np.diff(x) <= 0) or np.any(np.diff(y) <= 0):
        raise InputError(f"{where}: xgrid and ygrid must increase and have two points or more")
    spline = RectBivariateSpline(x, y, values.T, kx=order, ky=order)
    xx, yy = np.arange(shape[1]) + get("x0", 0), np.arange(shape[0]) + get("y0", 0)
    if xx[0] < x[0] - 1 or xx[-1] > x[-1] + 1 or yy[0] < y[0] - 1 or yy[-1] > y[-1] + 1:
        log.warning("%s: the image reaches beyond the grid of the sky model; ends are held", where)
    return spline(xx, yy).T


def mesh_sky(mesh: np.ndarray, shape, where: str = "sky model") -> np.ndarray:
    """Sky of a lower-resolution image stretched over the image (cubic where the mesh allows).

    Mesh pixel i covers image pixels [i f, (i + 1) f), f = image size / mesh size.
    """
    mesh = np.asarray(mesh, float)
    if mesh.ndim != 2 or mesh.size == 0 or not np.isfinite(mesh).all():
        raise InputError(f"{where}: expected a finite 2-D image, found shape {mesh.shape}")
    if mesh.shape[0] > shape[0] or mesh.shape[1] > shape[1]:
        raise InputError(f"{where}: mesh {mesh.shape} is larger than the image {tuple(shape)}")
    if mesh.shape == tuple(shape):
        return mesh.copy()
    if mesh.shape[0] == 1 or mesh.shape[1] == 1:
        mesh = np.pad(
            mesh, [(0, 1) if n == 1 else (0, 0) for n in mesh.shape], mode="edge"
        )  # a spline needs two points
    axes, at = [], []
    for n, full in zip(mesh.shape, shape, strict=True):
        step = full / n
        centres = (np.arange(n) + 0.5) * step - 0.5
        axes.append(centres)
        # beyond the outermost centres the level is held, a cubic would run away
        at.append(np.clip(np.arange(full), centres[0], centres[-1]))
    order = [min(3, n - 1) for n in mesh.shape]
    return RectBivariateSpline(*axes, mesh, kx=order[0], ky=order[1])(*at)


def blank_pixels(data: np.ndarray, good: np.ndarray, nsigma: float = 2.0) -> np.ndarray:
    """Usable pixels without detectable light: [ny, nx] bool.

    Sources are pixels above `nsigma` in the image smoothed by 5 x 5, iterated and grown by 5
    pixels. Wings below that remain, so on a small image the level is biased high.
    """
    filled = np.where(good, data, 0.0).astype(float)
    weight = np.maximum(ndimage.uniform_filter(good.astype(float), 5, mode="constant"), 1e-6)
    blank = good.copy()
    grow = np.ones((3, 3), bool)
    for _ in range(4):
        values = filled[blank]
        if values.size < 16:
            return blank
        level = np.median(values)
        smooth = ndimage.uniform_filter(np.where(good, filled - level, 0.0), 5, mode="constant")
        smooth /= weight
        below = values[values < level]
        scatter = MAD_TO_SIGMA * np.median(level - below) if below.size else 0.0
        if not scatter > 0:
            return blank
        # 25 pixels averaged; correlated noise leaves more than 1/5, which the data tell
        rest = smooth[blank]
        noise = MAD_TO_SIGMA * np.median(np.abs(rest - np.median(rest)))
        sources = smooth > nsigma * max(noise, scatter / 5)
        sources = ndimage.binary_opening(sources, grow) | (filled - level > 5 * scatter) & good
        new = good & ~ndimage.binary_dilation(sources, grow, iterations=5)
        if (new == blank).all() or new.sum() < MIN_BLANK_FRACTION * good.sum():
            break
        blank = new
    return blank


def blank_statistics(data: np.ndarray, good: np.ndarray, box: int | None = None) -> SkyStatistics:
    """Level and uncertainty of the blank sky.

    Parameters
    ----------
    data : [ny, nx], any unit.
    good : [ny, nx] bool, usable pixels.
    box : side of the boxes [pixel]; default: a quarter of the smaller side, 8 to 64.

    Raises
    ------
    InputError
        When no pixel is usable.
    """
    if not good.any():
        raise InputError("no usable pixel for the statistics of the sky")
    blank = blank_pixels(data, good)
    values = data[blank].astype(float)
    if values.size == 0:
        blank, values = good, data[good].astype(float)
    level = np.median(values)
    scatter = MAD_TO_SIGMA * np.median(np.abs(values - level))
    keep = np.abs(values - level) <= 4 * scatter if scatter > 0 else np.ones(values.size, bool)
    mean = float(values[keep].mean())
    box = box or int(np.clip(min(data.shape) // 4, 8, 64))
    means, counts = [], []
    clipped = blank & (np.abs(np.where(blank, data, 0) - level) <= max(4 * scatter, 0))
    for j in range(0, data.shape[0], box):
        for i in range(0, data.shape[1], box):
            inside = clipped[j : j + box, i : i + box]
            if inside.sum() >= 0.25 * box * box:
                means.append(data[j : j + box, i : i + box][inside].mean(dtype=float))
                counts.append(inside.sum())
    error = float(scatter / np.sqrt(max(values.size, 1)))
    structure = 0.0
    if len(means) >= 4:
        spread = float(np.std(means, ddof=1))
        structure = float(np.sqrt(max(spread**2 - scatter**2 / np.mean(counts), 0.0)))
        error = max(error, spread / np.sqrt(len(means)))
    elif values.size:
        error = max(error, float(scatter) / 3)  # a handful of pixels says little
    fraction = float(values.size / good.sum())
    return SkyStatistics(mean, error, float(scatter), structure, int(values.size), fraction)


def estimate_sky(data: np.ndarray, good: np.ndarray, mesh: int = 0) -> np.ndarray | float:
    """Sky from the image itself, sources clipped.

    Parameters
    ----------
    data, good : [ny, nx] pixels and which are usable.
    mesh : box size [pixel]; 0 gives one number.

    Returns
    -------
    sky : float, or [ny, nx] interpolated between the medians of the boxes; boxes with less than
        a tenth of their pixels blank take the median of the others.
    """
    blank = blank_pixels(data, good)
    if not blank.any():
        raise InputError("no blank pixel to estimate the sky from")
    if not mesh or mesh >= max(data.shape):
        return blank_statistics(data, good).mean
    rows, columns = (max(1, round(n / mesh)) for n in data.shape)
    levels = np.full((rows, columns), np.nan)
    for j, band in enumerate(np.array_split(np.arange(data.shape[0]), rows)):
        for i, part in enumerate(np.array_split(np.arange(data.shape[1]), columns)):
            box = np.ix_(band, part)
            inside = blank[box]
            if inside.sum() >= 0.1 * inside.size:
                levels[j, i] = np.median(data[box][inside])
    levels = np.where(np.isfinite(levels), levels, np.nanmedian(levels))
    size = [min(3, n) for n in levels.shape]
    return mesh_sky(ndimage.median_filter(levels, size=size, mode="nearest"), data.shape)
