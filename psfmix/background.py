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
# First trials, parts of the lowest background.
_TRIALS = (0.4, 0.15, 0.05)
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
    middle, scatter = edge_level(image, layout.get("trim", 0))
    image = np.asarray(image, float) - middle
    plain = {name: value for name, value in layout.items() if name != "includes_pixel"}
    trimmed, _, _, valid, _ = check_image(image, ngauss=ngauss, **plain)
    peak = float(np.max(trimmed[valid]))
    first = fit_mixture(image, ngauss=ngauss, signed=signed, **layout)
    target, _ = build_targets(image, **layout)
    options = Options(floor=floor_of(target), signed=signed)
    start = to_free(to_array(first.parameters), options.floor, signed)
    best = {"free": start, "cost": np.inf, "level": 0.0}

    def cost(level):
        shifted, values = _less(target, level), []
        # from the best so far alone, a component that has become wide would stay so
        for free in (best["free"], start):
            state = minimise(free, shifted, options, _STEPS)
            values.append(float(np.sum(((state.model - shifted.value) * shifted.weight) ** 2)))
            if values[-1] < best["cost"]:
                best.update(free=state.free, cost=values[-1], level=level)
        return min(values)

    low, high = -_BELOW * peak - 3 * scatter, 3 * scatter + _ACCURACY * peak
    trials = np.append(np.array([1, *_TRIALS]) * low, [0.0, high])
    place = int(np.argmin([cost(level) for level in trials]))
    bounds = trials[max(place - 1, 0)], trials[min(place + 1, len(trials) - 1)]
    minimize_scalar(
        cost, bounds=bounds, method="bounded", options={"xatol": _ACCURACY * peak, "maxiter": 30}
    )
    level = best["level"]
    found = from_array(to_raw(best["free"], options.floor, signed))
    fit = fit_mixture(image - level, ngauss=ngauss, signed=signed, start=found, **layout)
    log.info(
        "background %.4g per image pixel, %.3g of the peak", middle + level, (middle + level) / peak
    )
    return middle + level, fit


def edge_level(image, trim=0):
    """Median and scatter (as a standard deviation) along the edge of the trimmed image."""
    image = np.asarray(image, float)
    if image.ndim == 2 and trim > 0:
        image = image[trim:-trim, trim:-trim]
    if image.ndim != 2 or not image.size:
        return 0.0, 0.0  # which the fit will say more about
    edge = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    edge = edge[np.isfinite(edge)]
    middle = float(np.median(edge)) if len(edge) else 0.0
    return middle, _MAD * float(np.median(np.abs(edge - middle))) if len(edge) else 0.0


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
