"""Which draw of the posterior of a mixture is kept: likely, and no worse than the optimum."""

import numpy as np

from psfmix.model import AMP, pieces_of

# Candidates for the best draw, by their float32 likelihood, that are looked at in float64.
_CANDIDATES = 100


def _stored(raw, unit, light=1.0):
    """A mixture (ngauss, 6) as the file will have it, relative to the stamp's sum.

    In float32, and with amplitudes that sum to what the file says they sum to: the stamp's sum
    less that of the background, which is `light` times the former.
    """
    scale = np.array([unit * light / raw[:, AMP].sum(), 1, 1, 1, 1, 1])
    return (raw * scale).astype(np.float32) / np.array([unit, 1, 1, 1, 1, 1])


def best_draw(likelihood, raw, background, density, judge, optimum, unit):
    """Place, mixture, background and log likelihood of the draw to keep, the optimum included.

    The one of highest likelihood among those that are no worse than the optimum in worst residual,
    encircled energy, centroids and ellipticities as well: at a low snr many mixtures are likely
    that lose the wings.
    """
    level = density.best_background(optimum)
    optimum = _stored(optimum, unit, density.light(level))
    first = density.log_likelihood(optimum, level)
    allowed = _errors(optimum, level, judge)
    order = np.argsort(-np.nan_to_num(likelihood, nan=-np.inf), axis=None)
    for flat in order[:_CANDIDATES]:
        at = tuple(int(k) for k in np.unravel_index(flat, likelihood.shape))
        sky = float(background[at])
        mixture = _stored(raw[at], unit, density.light(sky))
        value = density.log_likelihood(mixture, sky)
        if value > first and np.all(_errors(mixture, sky, judge) <= allowed):
            return (at, mixture, sky, value), first
    return (None, optimum, level, first), first


def _errors(raw, background, target):
    """Worst residual over the peak, encircled energy at 1-5 px, centroid (native px), shape."""
    model = raw[:, AMP] @ pieces_of(raw, target).value + background * target.peak
    difference = model - target.value
    energy = target.energies(difference)[: len(target.ee_radii)]
    worst = np.max(np.abs(energy[target.ee_reported]), initial=0.0)
    peak = np.max(np.abs(difference)) / target.peak
    return np.array([peak, worst, target.shift(difference), target.ellipticity(difference)])
