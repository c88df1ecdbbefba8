"""Global search for a mixture: starts, a ladder, refinement, and a polish of the worst pixel."""

import numpy as np

from psfmix.lm import minimise
from psfmix.model import AMP, CXX, CXY, CYY, X, Y, densities, to_free
from psfmix.starts import radial_starts, star_starts, with_amplitudes

# Steps on every start; starts that go on, without splits and with them, converge, are polished.
_TRIAL_STEPS = 25
_SECOND, _SECOND_SPLIT, _THIRD, _POLISHED = 12, 20, 6, 4
# Mixtures that differ by less than this, of the peak, are the same to the search.
_SAME = 1e-3
_LADDER_FROM = 3
# Splits of a component: halves this many sigmas to each side, variances up and down by this part.
_APART, _WIDER = 0.5, 0.4
_ROUND_STARTS, _STAR_STARTS, _STAR_FROM = 3, 14, 6
# The p-norm polish: rounds, steps in each, growth of the weights, and how much it may cost.
_POLISH_ROUNDS, _POLISH_STEPS, _POLISH_POWER, _POLISH_COST = 30, 10, 0.3, 2.0
# Its encircled-energy rows weigh less: energy has been settled, the worst pixel has not.
_POLISH_EE = 0.85
# An encircled-energy error weighs as much as a residual this many times larger.
_EE_SCALE = 1.0
_CENTROID_SCALE = 1.0
# Two starts are enough when one is already this good; below the second nothing is worth a step.
_EXCELLENT, _NEGLIGIBLE = 2e-3, 1.5e-4


def search(target, coarse, ngauss, options, max_steps):
    """Best mixture of `ngauss` components found from many starts.

    Round starts from the radial profile describe rings; a three-fold star of elongated components
    describes hexagonal mirrors; a component added at the worst residual of the mixture with one
    fewer, or one of its components split, describes the rest.

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
    plain, _ = _rung(target, coarse, ngauss, None, options, max_steps)
    if worst_error(plain, target) < _EXCELLENT:
        # A round PSF has few minima: the smaller ones need no search of their own.
        return plain
    found = list(climb(target, coarse, range(1, ngauss + 1), options, max_steps, plain))
    return found[-1]._replace(steps=sum(state.steps for state in found))


def climb(target, coarse, sizes, options, max_steps, last_plain=None):
    """Mixtures of more and more components, each started from the one before as well.

    Parameters
    ----------
    sizes : ascending ints
        Numbers of components; the others are those of `search`.
    last_plain : State, optional
        The last size's mixture without splits, where it is known.

    Yields
    ------
    psfmix.lm.State
        One per size, as soon as it is found; none is worse than the one before.
    """
    sizes = list(sizes)
    seed, last = None, None
    for n in sizes:
        plain = last_plain if n == sizes[-1] else None
        if plain is None:
            plain, _ = _rung(target, coarse, n, None, options, max_steps)
        found = [plain]
        if seed is None or worst_error(plain, target) >= _EXCELLENT:
            split, seed = _rung(target, coarse, n, seed, options, max_steps, splits=True)
            found.append(split)
        best = min(found, key=lambda fit: _score(fit, target))
        if last is not None:
            best = _never_worse(best, last, n, target, options)
        last = best
        yield best._replace(steps=sum(fit.steps for fit in found))


def _never_worse(best, last, ngauss, target, options):
    """`best`, or the smaller mixture with components split in two where that is better.

    One split in equal parts says the same as before: more components are never worse.
    """
    if worst_error(best, target) <= worst_error(last, target):
        return best
    split = minimise(_split(last.free, ngauss, options.signed), target, options, 0)
    split = polish(split, target, options)
    return min((best, split), key=lambda fit: worst_error(fit, target))


def _rung(target, coarse, ngauss, previous, options, max_steps, splits=False):
    """Best mixture of one size, and the best on the coarse target before its polish.

    `previous` is one of fewer components. Starts by `splits` crowd out others, which may end
    better: each way is worth going by itself.
    """
    steps = 0
    for n in range(len(previous.raw) + 1 if previous else min(ngauss, _LADDER_FROM), ngauss):
        fits, used = _candidates(coarse, n, previous, options, 1, 0, splits)
        previous, steps = fits[0], steps + used
    stars = _STAR_STARTS if ngauss >= _STAR_FROM else 0
    fits, used = _candidates(coarse, ngauss, previous, options, _ROUND_STARTS, stars, splits)
    # Successive halving: the cost after a few steps is a poor guide, so many go on.
    fits = fits[: _SECOND_SPLIT if splits else _SECOND]
    steps += used
    fits, used = _again(fits, coarse, options, 2 * _TRIAL_STEPS)
    steps += used
    fits = _ranked(fits, coarse, splits)
    seed = fits[0]
    kept = 2 if worst_error(seed, coarse) < _EXCELLENT else _THIRD
    fits, used = _again(fits[:kept], target, options, max_steps)
    steps += used
    fits = _ranked(fits, target, splits)
    kept = 1 if worst_error(fits[0], target) < _EXCELLENT else _POLISHED
    finished = [polish(fit, target, options) for fit in fits[:kept]]
    steps += sum(fit.steps for fit in finished)
    best = min(finished, key=lambda fit: _score(fit, target))
    return best._replace(steps=steps), seed


def _candidates(target, ngauss, previous, options, rounds, stars, splits):
    """Starts after a few steps, in order of cost, and the steps spent."""
    starts = radial_starts(target, ngauss, options, rounds)
    if previous is not None:
        starts.append(_added(target, previous, options))
    fits = [_trial(raw, target, options) for raw in starts]
    done = min(worst_error(fit, target) for fit in fits) < _EXCELLENT
    if not done:
        starts = _splits(previous.raw) if splits and previous is not None else []
        if stars:
            starts += star_starts(target, ngauss, options, stars)
        fits += [_trial(raw, target, options) for raw in starts]
    fits.sort(key=lambda fit: fit.cost)
    return fits[:2] if done else fits, sum(fit.steps for fit in fits)


def _trial(raw, target, options):
    return minimise(to_free(raw, options.floor, options.signed), target, options, _TRIAL_STEPS)


def _split(free, ngauss, signed):
    """The same mixture with its brightest component in so many parts that there are `ngauss`."""
    k = int(np.argmax(free[:, 0]))
    parts = ngauss - len(free) + 1
    shared = free[k].copy()
    shared[0] = shared[0] / parts if signed else shared[0] - np.log(parts)
    return np.concatenate([np.delete(free, k, axis=0), np.tile(shared, (parts, 1))])


def _splits(raw):
    """Mixtures of one component more, of the same moments: each component in two, in two ways."""
    out = []
    for k, component in enumerate(raw):
        rest = np.delete(raw, k, axis=0)
        a, b = component.copy(), component.copy()
        a[AMP] = b[AMP] = 0.5 * component[AMP]
        wide, narrow = a.copy(), b.copy()
        wide[CXX:] *= 1 + _WIDER
        narrow[CXX:] *= 1 - _WIDER
        out.append(np.concatenate([rest, [narrow, wide]]))
        half = 0.5 * (component[CXX] - component[CYY])
        largest = 0.5 * (component[CXX] + component[CYY]) + np.hypot(half, component[CXY])
        angle = 0.5 * np.arctan2(component[CXY], half)
        dx, dy = _APART * np.sqrt(largest) * np.array([np.cos(angle), np.sin(angle)])
        for part, sign in ((a, 1), (b, -1)):
            part[[X, Y]] += sign * dx, sign * dy
            part[[CXX, CYY, CXY]] -= dx * dx, dy * dy, dx * dy
        out.append(np.concatenate([rest, [a, b]]))
    return out


def _score(fit, target):
    """Mean square and worst errors count alike (both squared)."""
    return fit.cost * worst_error(fit, target) ** 2


def _ranked(fits, target, distinct):
    """States in order of their score; if asked, less those that say the same as a better one.

    Splits lead to many that are alike. Of others even the twins of a good one are worth going on
    with: polished, they part.
    """
    kept = []
    for fit in sorted(fits, key=lambda fit: _score(fit, target)):
        if not distinct or all(
            np.max(np.abs(fit.model - k.model)) > _SAME * target.peak for k in kept
        ):
            kept.append(fit)
    return kept


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
    for _ in range(_POLISH_ROUNDS if least > _NEGLIGIBLE else 0):
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
            if least < _NEGLIGIBLE:
                break
    return best._replace(steps=steps)


def worst_error(state, target):
    """Largest residual, encircled-energy error at 1-5 px and centroid error, combined.

    They are parts of the peak, of the total and of the FWHM.
    """
    difference = state.model - target.value
    peak = np.max(np.abs(difference)) / target.peak
    energy = target.energies(difference)[: len(target.ee_radii)][target.ee_reported]
    energy = np.max(np.abs(energy), initial=0.0) / target.total
    shift = target.shift(difference) / target.fwhm
    return float(np.sqrt(peak**2 + (_EE_SCALE * energy) ** 2 + (_CENTROID_SCALE * shift) ** 2))


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
