"""A constant background of a PSF image, fitted together with its mixture."""

import logging
from dataclasses import replace

import numpy as np
from scipy.optimize import minimize_scalar

from psfmix.fit import build_targets, fit_mixture, floor_of, from_array, to_array
from psfmix.lm import Options, minimise
from psfmix.model import to_free, to_raw
from psfmix.target import check_image

log = logging.getLogger("psfmix.background")

# The background lies within this part of the peak below the edge's median: wings are no brighter.
_BELOW = 0.05
# Steps of the mixture at every trial background, and accuracy of the latter in units of the peak.
_STEPS, _ACCURACY = 60, 1e-7
_MAD = 1.4826


def fit_background(image, *, ngauss=4, signed=False, **layout):
    """The constant, and the mixture, for which the sum of the squared residuals is least.

    For each constant the mixture is fitted anew, with its encircled energy and sum those of the
    image less the constant. The constant is what the pixels alone find best then. It lies between
    the edge's median (with its scatter) and 5 % of the peak less.

    Parameters
    ----------
    image : array (ny, nx)
    ngauss : int
    signed : bool
    **layout
        Other options of `psfmix.fit.fit_mixture`.

    Returns
    -------
    float
        Background per image pixel, in the image's unit.
    MixtureFit
        Of the image less the background: what `fit_mixture` would start from.

    Raises
    ------
    InputError
        The image or an option cannot be used.
    """
    layout = layout | {"normalize": "stamp"}
    plain = {name: value for name, value in layout.items() if name != "includes_pixel"}
    trimmed, _, _, valid, _ = check_image(image, ngauss=ngauss, **plain)
    edge = valid.copy()
    edge[1:-1, 1:-1] = False
    edge = trimmed[edge] if edge.any() else np.zeros(1)
    middle = float(np.median(edge))
    scatter = _MAD * float(np.median(np.abs(edge - middle)))
    peak = float(np.max(trimmed[valid])) - middle
    image = np.asarray(image, float) - middle
    first = fit_mixture(image, ngauss=ngauss, signed=signed, **layout)
    target, _ = build_targets(image, **layout)
    options = Options(floor=floor_of(target), signed=signed)
    best = {"free": to_free(to_array(first.parameters), options.floor, signed), "cost": np.inf}

    def cost(level):
        shifted = _less(target, level)
        state = minimise(best["free"], shifted, options, _STEPS)
        value = float(np.sum(((state.model - shifted.value) * shifted.weight) ** 2))
        if value < best["cost"]:
            best.update(free=state.free, cost=value)
        return value

    bounds = (-_BELOW * peak - 3 * scatter, 3 * scatter + _ACCURACY * peak)
    found = minimize_scalar(
        cost, bounds=bounds, method="bounded", options={"xatol": _ACCURACY * peak, "maxiter": 40}
    )
    level = float(found.x)
    start = replace(first, parameters=from_array(to_raw(best["free"], options.floor, signed)))
    fit = fit_mixture(image - level, ngauss=ngauss, signed=signed, start=start, **layout)
    log.info(
        "background %.4g per image pixel, %.3g of the peak", middle + level, (middle + level) / peak
    )
    return middle + level, fit


def _less(target, level):
    """A target of the image less a constant per image pixel."""
    density = level * target.oversample**2
    return replace(
        target,
        image=target.image - level,
        value=target.value - density,
        peak=target.peak - density,
        total=target.total - level * target.image.size,
    )
