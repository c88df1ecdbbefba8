"""What a fit to stars starts from: a stack of them, its mixture, and weights that trust neither."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from jaxpho.errors import InputError
from psfmix.fit import FLOOR, FLOOR_CORE, FWHM, build_targets, check_size, floor_of
from psfmix.lm import Options
from psfmix.model import CXX, CYY
from psfmix.search import search
from psfmix.starmodel import evaluate, with_weight

log = logging.getLogger("psfmix.stars")

PIXEL = 1 / 12
"""Variance of the native pixel."""
# Enough stars fill a stack of half pixels.
_FINE_STACK = 12
_STEPS = 100
# First weights: a Cauchy law of this width around the stack, whose own errors are this part of it,
# within a window of this many FWHM: a close neighbour may be brighter than the star.
_CAUCHY, _STACK_ERROR, _WINDOW, _ROUNDS = 2.5, 0.1, 3.0, 8


@dataclass(frozen=True)
class Start:
    """A first mixture (ngauss, 6), the FWHM of the stack and the smallest sigma, native px."""

    raw: np.ndarray
    fwhm: float
    floor: float


def start_mixture(stamps, center, flux, background, usable, ngauss, signed, includes_pixel):
    """The mixture of a stack of the stars."""
    fine = 2 if np.count_nonzero(usable) >= _FINE_STACK else 1
    picture, _ = stack(stamps.images, stamps.ivar, center, flux, background, usable, fine)
    try:
        target, coarse = build_targets(picture, oversample=float(fine), includes_pixel=True)
        check_size(ngauss, target)
    except InputError as error:
        raise InputError(f"the stack of {np.count_nonzero(usable)} stars: {error}") from error
    options = Options(floor=floor_of(target), signed=signed)
    raw = search(target, coarse, ngauss, options, _STEPS).raw.copy()
    effective = np.nanmax(picture)
    area = np.count_nonzero(picture > effective / 2) / fine**2
    fwhm = 2 * np.sqrt(area / np.pi)
    # A pixel's variance, as a Gaussian's, is inside the stack.
    pixel = 0.0 if includes_pixel else PIXEL
    core = np.sqrt(max((fwhm / FWHM) ** 2 - pixel, 0.04))
    floor = min(FLOOR, FLOOR_CORE * core)
    raw[:, CXX : CYY + 1] = np.maximum(raw[:, CXX : CYY + 1] - pixel, 1.02 * floor**2)
    log.info("stack of %d stars: FWHM %.2f native px", np.count_nonzero(usable), fwhm)
    return Start(raw, float(fwhm), floor)


def stack(images, ivar, center, flux, background, stars, fine=1, robust=True):
    """Median or mean of stars, scaled to flux 1 and shifted on a common grid.

    Pixels keep their values (nothing is interpolated): each falls into the cell of 1 / `fine`
    native pixels that its offset from the star's centre lies in.

    Parameters
    ----------
    images, ivar : arrays (nstar, ny, nx)
        Data and inverse variance; pixels where it is 0 are left out.
    center : array (nstar, 2)
        Pixel of the stamps.
    flux, background : arrays (nstar,)
    stars : bool array (nstar,)
    fine : int
    robust : bool
        The median, in which stars count by their signal; or the mean of inverse variance.

    Returns
    -------
    value, sigma : arrays (n, n)
        NaN where nothing fell. The second is the standard error of the mean.
    """
    ny, nx = images.shape[1:]
    side = fine * min(ny, nx)
    side -= 1 - side % 2
    gy, gx = np.indices((ny, nx))
    cells, values, weights = [], [], []
    for k in np.flatnonzero(stars):
        ix = np.rint(fine * (gx - center[k, 0])).astype(int) + side // 2
        iy = np.rint(fine * (gy - center[k, 1])).astype(int) + side // 2
        inside = (ivar[k] > 0) & (ix >= 0) & (iy >= 0) & (ix < side) & (iy < side)
        cells.append((iy * side + ix)[inside])
        values.append(((images[k] - background[k]) / flux[k])[inside])
        weights.append((flux[k] * np.sqrt(ivar[k]))[inside])
    cells, values, weights = (np.concatenate(a) for a in (cells, values, weights))
    information = np.bincount(cells, weights**2, side * side)
    with np.errstate(divide="ignore", invalid="ignore"):
        sigma = np.where(information > 0, information**-0.5, np.nan)
        out = np.bincount(cells, weights**2 * values, side * side) / information
    if robust:
        order = np.lexsort((values, cells))
        cells, values, weights = cells[order], values[order], weights[order]
        first = np.flatnonzero(np.diff(cells, prepend=-1))
        for low, high in zip(first, [*first[1:], len(cells)], strict=True):
            total = np.cumsum(weights[low:high])
            out[cells[low]] = values[low + np.searchsorted(total, 0.5 * total[-1])]
    return out.reshape(side, side), sigma.reshape(side, side)


def robust_weights(problem, state, fwhm):
    """First weights, array (nstar, npixel): those of a Cauchy law around the stack, per star."""
    weight = problem.weight.copy()
    for k in np.flatnonzero(np.isfinite(state.cost)):
        plain = problem.weight[k]
        radius = np.hypot(problem.x - state.center[k, 0], problem.y - state.center[k, 1])
        window = plain * np.exp(-0.5 * (radius / (_WINDOW * fwhm)) ** 2)
        for _ in range(_ROUNDS):
            now = evaluate(with_weight(problem, weight), state.coef, state.center, [k], state)
            residual = problem.images[k] - now.model[k]
            variance = 1 / np.maximum(plain, 1e-300)
            variance = variance + (_STACK_ERROR * now.flux[k] * now.profile[k]) ** 2
            weight[k] = window / (1 + residual**2 / (_CAUCHY**2 * variance))
    return weight
