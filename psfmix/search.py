"""Global search for a mixture: starts, a ladder, refinement, and a polish of the worst pixel."""

import numpy as np

from psfmix.lm import minimise
from psfmix.model import AMP, densities, to_free
from psfmix.starts import radial_starts, star_starts, with_amplitudes

# Steps on every start; starts that go on, converge, are polished; first rung of the ladder.
_TRIAL_STEPS = 25
_SECOND, _THIRD, _POLISHED = 12, 6, 4
_LADDER_FROM = 3
_ROUND_STARTS, _STAR_STARTS, _STAR_FROM = 3, 14, 6
# The p-norm polish: rounds, steps in each, growth of the weights, and how much it may cost.
_POLISH_ROUNDS, _POLISH_STEPS, _POLISH_POWER, _POLISH_COST = 30, 10, 0.3, 2.0
# Its encircled-energy rows weigh less: energy has been settled, the worst pixel has not.
_POLISH_EE = 0.85
# An encircled-energy error weighs as much as a residual this many times larger.
_EE_SCALE = 1.0
# One start is enough when it is already this good.
_EXCELLENT = 1e-3


def search(target, coarse, ngauss, options, max_steps):
    """Best mixture of `ngauss` components found from many starts.

    Round starts from the radial profile describe rings; a three-fold star of elongated components
    describes hexagonal mirrors; a component added at the worst residual of the mixture with one
    fewer describes the rest.

    Parameters
    ----------
    target, coarse : psfmix.target.Target
        The second, with fewer rows, serves the first stages.
    ngauss : int
    options : psfmix.lm.Options
    max_steps : int
        Limit of the last stage, per start.

    Returns
    -------
    psfmix.lm.State
        ``steps`` counts every iteration spent.
    """
    fits, steps = _candidates(coarse, ngauss, options)
    # Successive halving: the cost after a few steps is a poor guide, so many go on.
    fits, used = _again(fits[:_SECOND], coarse, options, 2 * _TRIAL_STEPS)
    steps += used
    fits.sort(key=lambda fit: _score(fit, coarse))
    kept = 1 if worst_error(fits[0], coarse) < _EXCELLENT else _THIRD
    fits, used = _again(fits[:kept], target, options, max_steps)
    steps += used
    fits.sort(key=lambda fit: _score(fit, target))
    finished = [polish(fit, target, options) for fit in fits[:_POLISHED]]
    steps += sum(fit.steps for fit in finished)
    return min(finished, key=lambda fit: _score(fit, target))._replace(steps=steps)


def _candidates(target, ngauss, options):
    """Every start after a few steps, in order of cost, and the steps spent."""
    previous, steps = None, 0
    for n in range(min(ngauss, _LADDER_FROM), ngauss + 1):
        starts = radial_starts(target, n, options, _ROUND_STARTS if n == ngauss else 1)
        if previous is not None:
            starts.append(_added(target, previous, options))
        if n == ngauss >= _STAR_FROM:
            starts += star_starts(target, n, options, _STAR_STARTS)
        free = [to_free(raw, options.floor, options.signed) for raw in starts]
        fits = [minimise(one, target, options, _TRIAL_STEPS) for one in free]
        fits.sort(key=lambda fit: fit.cost)
        previous = fits[0]
        steps += sum(fit.steps for fit in fits)
    return fits, steps


def _score(fit, target):
    """Mean square and worst errors count alike (both squared)."""
    return fit.cost * worst_error(fit, target) ** 2


def _again(fits, target, options, max_steps):
    """Go on from earlier states; results in order of cost, and the steps spent."""
    fits = [minimise(fit.free, target, options, max_steps) for fit in fits]
    return sorted(fits, key=lambda fit: fit.cost), sum(fit.steps for fit in fits)


def polish(state, target, options):
    """Trade mean square for the worst errors: the weights of bad pixels grow (Lawson).

    Encircled energy stays in the cost. A round that raises the unweighted cost above twice the
    start's ends the polish.

    Returns
    -------
    psfmix.lm.State
        The state whose worst error is smallest, with its unweighted cost.
    """
    options = options._replace(ee_weight=_POLISH_EE * options.ee_weight)
    state = minimise(state.free, target, options, 0)
    best, least, steps = state, worst_error(state, target), 0
    current, weight = state, target.weight
    for _ in range(_POLISH_ROUNDS):
        size = np.abs(current.model - target.value) * target.weight
        weight = weight * (0.1 + size / size.max()) ** _POLISH_POWER
        # Keep the pixels' share of the cost, or the encircled energy would take over.
        weight = weight * np.sqrt(np.sum(size**2) / np.sum((size * weight / target.weight) ** 2))
        current = minimise(current.free, target, options, _POLISH_STEPS, weight)
        steps += current.steps
        plain = minimise(current.free, target, options, 0)
        if plain.cost > _POLISH_COST * state.cost:
            break
        error = worst_error(current, target)
        if error < least:
            best, least = plain, error
    return best._replace(steps=steps)


def worst_error(state, target):
    """Largest residual relative to the peak and encircled-energy error at 1-5 px, combined."""
    difference = state.model - target.value
    peak = np.max(np.abs(difference)) / target.peak
    energy = target.ee[target.ee_reported] @ difference / target.total
    return float(np.hypot(peak, _EE_SCALE * np.max(np.abs(energy), initial=0.0)))


def _added(target, current, options):
    """The current mixture (raw) with one more component at the worst residual."""
    difference = (target.value - current.model) * target.weight
    where = int(np.argmax(np.abs(difference) if options.signed else difference))
    x, y = target.x[where], target.y[where]
    reach = np.hypot(x - target.ee_center[0], y - target.ee_center[1])
    best, best_cost = None, np.inf
    for sigma in (0.3 * target.fwhm, 0.6 * target.fwhm, 0.5 * reach, reach):
        sigma = max(sigma, 1.1 * options.floor)
        for place in ((x, y), target.ee_center):
            new = np.array([[1.0, *place, sigma**2, sigma**2, 0.0]])
            raw = with_amplitudes(np.concatenate([current.raw, new]), target, options)
            model = raw[:, AMP] @ densities(raw, target)
            cost = np.sum(((target.value - model) * target.weight) ** 2)
            if cost < best_cost:
                best, best_cost = raw, cost
    return best
