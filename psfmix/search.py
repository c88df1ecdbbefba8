"""Global search for a mixture: starts, a ladder, refinement, and a polish of the worst pixel."""

import numpy as np

from psfmix.lm import minimise
from psfmix.model import AMP, densities, to_free
from psfmix.starts import radial_starts, star_starts, with_amplitudes

# Steps spent on every start, starts that go on, starts that converge, first rung of the ladder.
_TRIAL_STEPS = 25
_SECOND, _THIRD = 8, 3
_LADDER_FROM = 3
_ROUND_STARTS, _STAR_STARTS, _STAR_FROM = 3, 10, 6
# The p-norm polish: rounds, steps in each, growth of the weights, and how much it may cost.
_POLISH_ROUNDS, _POLISH_STEPS, _POLISH_POWER, _POLISH_COST = 12, 5, 0.5, 1.3


def search(target, ngauss, options, max_steps):
    """Best mixture of `ngauss` components found from many starts.

    Round starts from the radial profile describe rings; a three-fold star of elongated components
    describes hexagonal mirrors; a component added at the worst residual of the mixture with one
    fewer describes the rest.

    Returns
    -------
    psfmix.lm.State
        ``steps`` counts every iteration spent.
    """
    previous, steps = None, 0
    for n in range(min(ngauss, _LADDER_FROM), ngauss):
        starts = radial_starts(target, n, options, 1)
        if previous is not None:
            starts.append(_added(target, previous, options))
        fits, used = _run(starts, target, options, _TRIAL_STEPS)
        previous, steps = fits[0], steps + used
    starts = radial_starts(target, ngauss, options, _ROUND_STARTS)
    if previous is not None:
        starts.append(_added(target, previous, options))
    if ngauss >= _STAR_FROM:
        starts += star_starts(target, ngauss, options, _STAR_STARTS)
    fits, used = _run(starts, target, options, _TRIAL_STEPS)
    steps += used
    # Successive halving: the cost after a few steps is a poor guide, so many go on.
    fits, used = _again(fits[:_SECOND], target, options, 2 * _TRIAL_STEPS)
    steps += used
    fits.sort(key=lambda fit: _score(fit, target))
    fits, used = _again(fits[:_THIRD], target, options, max_steps)
    steps += used
    finished = [polish(fit, target, options) for fit in fits]
    steps += sum(fit.steps for fit in finished)
    return min(finished, key=lambda fit: _score(fit, target))._replace(steps=steps)


def _score(fit, target):
    """Mean square and largest residual count alike (both squared)."""
    return fit.cost * peak_residual(fit, target) ** 2


def _run(starts, target, options, max_steps):
    """Minimise from raw starts; results in order of their cost, and the steps spent."""
    free = [to_free(raw, options.floor, options.signed) for raw in starts]
    fits = [minimise(one, target, options, max_steps) for one in free]
    return sorted(fits, key=lambda fit: fit.cost), sum(fit.steps for fit in fits)


def _again(fits, target, options, max_steps):
    fits = [minimise(fit.free, target, options, max_steps) for fit in fits]
    return sorted(fits, key=lambda fit: fit.cost), sum(fit.steps for fit in fits)


def polish(state, target, options):
    """Trade mean square for the largest residual: the weights of bad pixels grow (Lawson).

    Encircled energy stays in the cost. A round that raises the unweighted cost above 1.3 times the
    start's ends the polish.

    Returns
    -------
    psfmix.lm.State
        The state whose largest residual is smallest, with its unweighted cost.
    """
    best, best_peak, steps = state, peak_residual(state, target), 0
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
        peak = peak_residual(current, target)
        if peak < best_peak:
            best, best_peak = plain, peak
    return best._replace(steps=steps)


def peak_residual(state, target):
    """Largest |model - image| of a state's rows, native surface brightness."""
    return float(np.max(np.abs(state.model - target.value)))


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
