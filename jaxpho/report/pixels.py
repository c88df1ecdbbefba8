"""The pixels of a patch for its page: model, residual and errors, quantised.

Half a percent of a pixel's value, or a hundredth of the noise, is more than an eye can tell. The
data are not sent: they are model + chi sigma.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxpho.report.jsdata import packed, rounded

MODEL_STEPS, CHI_STEPS, ERROR_STEPS = 200.0, 20.0, 64.0
"""Steps per unit of asinh(model / sigma), of chi, and of log2(sigma / median)."""
OUTSIDE, MASKED, LIMIT = -32768, -32767, 32000
BYTES = 2.3
"""Of a pixel in a report, where all of it is noise (benchmarks/report.py)."""


class Stamp(NamedTuple):
    """Images [ny, nx] of the pixels of one exposure in a patch.

    Attributes
    ----------
    x0, y0 : exposure pixel of the first one.
    bin : exposure pixels per pixel here, along each axis.
    model, residual : flux, sums over the exposure pixels of a bin; NaN outside.
    ierr : 1 / sigma, 0 where masked; NaN outside.
    sigma : its median.
    """

    x0: int
    y0: int
    bin: int
    model: np.ndarray
    residual: np.ndarray
    ierr: np.ndarray
    sigma: float


def make_stamp(pixels: dict, bin: int = 1) -> Stamp:
    """Pixels of a patch as images; `bin` > 1 adds up squares of so many pixels.

    The sums are over the good pixels of a square, scaled to all of it.
    """
    x, y = np.asarray(pixels["x"], int), np.asarray(pixels["y"], int)
    x0, y0 = int(x.min()), int(y.min())
    shape = int(y.max()) - y0 + 1, int(x.max()) - x0 + 1
    at = y - y0, x - x0
    planes = []
    model = np.asarray(pixels["model"], np.float32)
    for values in (model, np.asarray(pixels["data"], np.float32) - model, pixels["ierr"]):
        plane = np.full(shape, np.nan, np.float32)
        plane[at] = values
        planes.append(plane)
    stamp = Stamp(x0, y0, 1, *planes, _typical(planes[2]))
    return stamp if bin == 1 else _binned(stamp, bin)


def _typical(ierr: np.ndarray) -> float:
    good = ierr[np.nan_to_num(ierr) > 0]
    return float(1 / np.median(good)) if len(good) else 1.0


def _binned(stamp: Stamp, n: int) -> Stamp:
    ny, nx = (-(-size // n) for size in stamp.model.shape)

    def blocks(plane):
        wide = np.full((ny * n, nx * n), np.nan, np.float32)
        wide[: plane.shape[0], : plane.shape[1]] = plane
        return wide.reshape(ny, n, nx, n).transpose(0, 2, 1, 3).reshape(ny, nx, n * n)

    model, residual, ierr = (blocks(p) for p in stamp[3:6])
    good, inside = np.nan_to_num(ierr) > 0, np.isfinite(ierr)
    count, every = good.sum(-1), inside.sum(-1)
    with np.errstate(all="ignore"):
        share = n * n / np.where(count > 0, count, np.nan)
        variance = np.where(good, ierr, 1.0) ** -2.0
        sigma = share * np.sqrt(np.where(good, variance, 0).sum(-1))
        out = np.where(good, residual, 0).sum(-1) * share
        mean = np.where(inside, model, 0).sum(-1) * (n * n / np.where(every > 0, every, np.nan))
        weight = np.where(count > 0, 1 / sigma, np.where(every > 0, 0.0, np.nan))
    planes = [a.astype(np.float32) for a in (mean, out, weight)]
    return Stamp(stamp.x0, stamp.y0, n, *planes, _typical(planes[2]))


def stamp_data(stamp: Stamp) -> dict:
    """What `pixels.js` turns into images again."""
    good = np.nan_to_num(stamp.ierr) > 0
    sigma = stamp.sigma
    outside = ~np.isfinite(stamp.ierr)
    with np.errstate(all="ignore"):
        model = np.arcsinh(stamp.model / sigma) * MODEL_STEPS
        chi = stamp.residual * stamp.ierr * CHI_STEPS
        error = -np.log2(stamp.ierr * sigma) * ERROR_STEPS
    out = {"x0": stamp.x0, "y0": stamp.y0, "bin": stamp.bin, "sigma": rounded(sigma, 7)}
    error = np.where(good, np.clip(np.nan_to_num(error), -LIMIT, LIMIT), MASKED)
    for name, values in (("model", model), ("chi", np.where(good, chi, 0)), ("error", error)):
        values = np.where(outside, OUTSIDE, values)
        if name != "error":
            values = np.where(outside, OUTSIDE, np.clip(np.nan_to_num(values), -LIMIT, LIMIT))
        out[name] = packed(np.rint(values), "i2")
    return out


def bin_factor(pixels: float, budget: float) -> int:
    """The smallest factor by which images of so many pixels fit into a budget of bytes."""
    n = 1
    while BYTES * pixels / n**2 > budget and n < 64:
        n += 1
    return n
