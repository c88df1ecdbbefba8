"""Mixtures of one component less than another, as close to it as can be."""

from itertools import combinations
from typing import NamedTuple

import numpy as np

from psfmix.lm import Options, minimise
from psfmix.model import AMP, CXX, CXY, CYY, X, Y, densities, to_free

# Starts that are tried, steps on each, and on the best of them.
_STARTS, _TRIAL_STEPS, _STEPS = 4, 15, 40
# Rounds in which the weights of the worst points grow (Lawson), steps in each, their power.
_ROUNDS, _ROUND_STEPS, _POWER = 12, 8, 0.5
# A fit this many times worse than asked for is not worth these rounds.
_HOPELESS = 4.0


class Rows(NamedTuple):
    """The full mixture under several smoothings, in the form of a `psfmix.target.Target`.

    Attributes
    ----------
    x, y, value, weight : arrays (nrow,)
        Positions, native pixels; the smoothed mixture there; 1 / its peak.
    groups : list of (slice, variance)
        Rows that share a smoothing.
    total : float
        Sum of the amplitudes.
    halfsize : float
        Bound on centres and widths, native pixels.
    floor : float
        Smallest sigma, native pixels.
    """

    x: np.ndarray
    y: np.ndarray
    value: np.ndarray
    weight: np.ndarray
    groups: list
    total: float
    halfsize: float
    floor: float

    pixel_variance = 0.0
    peak = 1.0

    def energies(self, brightness):
        """No rows of encircled energy."""
        return np.zeros((*np.shape(brightness)[:-1], 0))

    @property
    def options(self):
        """Amplitudes of both signs; their sum is held."""
        return Options(self.floor, True, 0.0, 1e-5, 1e3)


def without_one(raw, rows):
    """Starts with one component less: one left out or two made one, amplitudes solved for.

    Parameters
    ----------
    raw : array (ngauss, 6)
    rows : Rows

    Returns
    -------
    list of array (ngauss - 1, 6), the best first
    """
    n = len(raw)
    candidates = [np.delete(raw, k, axis=0) for k in range(n)]
    for i, k in combinations(range(n), 2):
        rest = np.delete(raw, [i, k], axis=0)
        candidates.append(np.concatenate([rest, _merged(raw[i], raw[k])[None]]))
    found = [_with_amplitudes(candidate, rows) for candidate in candidates]
    found.sort(key=lambda pair: pair[1])
    return [start for start, _ in found[:_STARTS]]


def _merged(a, b):
    """The Gaussian with the moments of two (Runnalls 2007), weighted by their size."""
    wa, wb = abs(a[AMP]), abs(b[AMP])
    pa = wa / (wa + wb) if wa + wb > 0 else 0.5
    pb = 1.0 - pa
    out = pa * a + pb * b
    dx, dy = a[X] - b[X], a[Y] - b[Y]
    out[CXX] += pa * pb * dx * dx
    out[CYY] += pa * pb * dy * dy
    out[CXY] += pa * pb * dx * dy
    out[AMP] = a[AMP] + b[AMP]
    return out


def _with_amplitudes(raw, rows):
    """The components with the amplitudes of least squares, and the cost."""
    basis = densities(raw, rows) * rows.weight
    # the sum is a row of its own, heavy enough to hold
    heavy = 10 * np.sqrt(len(rows.x)) / rows.total
    system = np.vstack([basis.T, np.full(len(raw), heavy)])
    wanted = np.append(rows.value * rows.weight, heavy * rows.total)
    amplitude, *_ = np.linalg.lstsq(system, wanted, rcond=1e-7)
    out = raw.copy()
    out[:, AMP] = amplitude
    return out, float(np.sum((system @ amplitude - wanted) ** 2))


def fit_smaller(starts, rows, tolerance, check):
    """The best mixture from several starts.

    Parameters
    ----------
    starts : list of array (ngauss, 6)
    rows : Rows
    tolerance : float
        Error that is good enough.
    check : callable
        Error of a mixture (ngauss, 6) for good; anything above `tolerance` if it is not.

    Returns
    -------
    array (ngauss, 6), float
        The mixture and its error.
    """
    options = rows.options
    trials = [
        minimise(to_free(raw, rows.floor, True), rows, options, _TRIAL_STEPS) for raw in starts
    ]
    state = min(trials, key=lambda fit: fit.cost)
    state = minimise(state.free, rows, options, _STEPS)
    best, least, weight = _normalised(state.raw, rows), np.inf, rows.weight
    for _ in range(_ROUNDS):
        size = np.abs(state.model - rows.value) * rows.weight
        worst = size.max()
        if worst < least:
            best, least = _normalised(state.raw, rows), worst
        if worst <= tolerance:
            error = check(best)
            if error <= tolerance:
                return best, error
            least = min(least, error)
        if worst > _HOPELESS * tolerance or worst > 2 * least:
            break
        weight = weight * (0.1 + size / worst) ** _POWER
        weight *= np.sqrt(np.sum(size**2) / np.sum((size * weight / rows.weight) ** 2))
        state = minimise(state.free, rows, options, _ROUND_STEPS, weight)
    return best, max(least, np.nextafter(tolerance, 1.0))


def _normalised(raw, rows):
    """The mixture with exactly the full one's sum of amplitudes."""
    out = raw.copy()
    out[:, AMP] *= rows.total / out[:, AMP].sum()
    return out
