"""Least squares for one mixture and many stars: per-star numbers are eliminated star by star.

The model of a star's pixels is flux * mixture(x - centre) + background. For a given mixture and
centre, flux and background are linear and solved exactly (variable projection, Golub & Pereyra
1973; the derivatives are Kaufman's). Together with the centre they make a block of four numbers
per star, which is eliminated from the normal equations (Schur complement), so that a step costs as
much as the mixture's own parameters and grows linearly with the number of stars.
"""

from __future__ import annotations

import numpy as np

from psfmix.model import AMP, X, Y
from psfmix.starmodel import evaluate, star_derivatives

_UP, _DOWN, _DAMPING_MAX = 4.0, 0.3, 1e8
_STALL = 3
# Largest step of a parameter of the mixture (logarithms, native px) and of a centre (native px).
_STEP, _STEP_CENTER = 1.0, 0.7
# Width of the prior on position-dependent coefficients (in logarithms and native px). Half across
# the detector is more than any camera has: it only stops what no pixel constrains. Flux that moves
# between components looks much like widths that change, and is told to do so last.
_PRIOR = np.array([0.1, 0.5, 0.5, 0.5, 0.5, 0.5])
# Components below this part of the amplitudes are revived, see `revived`; logarithm of the change
# of widths.
_DEAD, _SPLIT = 1e-3, 0.2
_FAINTEST = -12.0  # logarithm of an amplitude relative to the largest


def minimise(problem, state, stars, max_steps=30, tolerance=1e-6):
    """Levenberg-Marquardt on the mixture, centres, fluxes and backgrounds of some stars.

    Parameters
    ----------
    problem : Problem
    state : State
    stars : int array
        Those that count.
    max_steps : int
    tolerance : float
        Relative gain below which, three times in a row, it stops.

    Returns
    -------
    State
    """
    state = evaluate(problem, state.coef, state.center, stars, state)
    damping, stalled = 1e-3, 0
    for _ in range(max_steps):
        system = _normal(problem, state, stars)
        accepted = False
        while damping < _DAMPING_MAX:
            new = _step(problem, state, stars, system, damping)
            if _total(new, stars) < _total(state, stars):
                accepted = True
                break
            damping *= _UP
        if not accepted:
            break
        gain = 1 - _total(new, stars) / _total(state, stars)
        state, damping = new, max(damping * _DOWN, 1e-9)
        stalled = stalled + 1 if gain < tolerance else 0
        if stalled >= _STALL:
            break
    return state


def place(problem, state, stars, max_steps=8):
    """Centre, flux and background of some stars with the mixture held, star by star."""
    state = evaluate(problem, state.coef, state.center, stars, state)
    for k in stars:
        damping = 1e-3
        for _ in range(max_steps):
            _, own, _ = star_derivatives(problem, state, k)
            block, gradient = own_normal(problem, state, own, k)
            move, new = np.inf, None
            while damping < _DAMPING_MAX:
                delta = _solve(_damped(block, damping, 2), gradient)[:2]
                center = state.center.copy()
                center[k] += np.clip(delta, -_STEP_CENTER, _STEP_CENTER)
                new = evaluate(problem, state.coef, center, [k], state)
                if new.cost[k] <= state.cost[k]:
                    move = np.max(np.abs(new.center[k] - state.center[k]))
                    break
                damping *= _UP
            if not np.isfinite(move):
                break
            state, damping = new, damping * _DOWN
            if move < 1e-4:
                break
    return state


def _total(state, stars):
    return float(np.sum(state.cost[stars]) + np.sum((state.coef[1:] / _PRIOR) ** 2))


def _damped(matrix, damping, count):
    """Copy with the first `count` diagonal elements raised."""
    out = matrix.copy()
    index = np.arange(count)
    out[index, index] *= 1 + damping
    # A star without pixels has an empty block.
    out[np.diag_indices(len(out))] += 1e-30
    return out


def _solve(matrix, vector):
    scale = 1 / np.sqrt(np.maximum(np.diag(matrix), 1e-300))
    scaled = matrix * scale[:, None] * scale
    shape = vector.shape
    vector = (vector.T * scale).T
    try:
        answer = np.linalg.solve(scaled, vector)
    except np.linalg.LinAlgError:
        answer = np.linalg.lstsq(scaled, vector, rcond=None)[0]
    return (answer.T * scale).T.reshape(shape)


def _normal(problem, state, stars):
    """Per star: (terms, mixture block, cross block, own block, gradients)."""
    out = []
    model = state.model
    for k in stars:
        mixture, own, _ = star_derivatives(problem, state, k)
        weight = problem.weight[k]
        residual = weight * (problem.images[k] - model[k])
        weighted = mixture * weight
        block, gradient = own_normal(problem, state, own, k)
        out.append(
            (
                problem.terms[k], weighted @ mixture.T, weighted @ own.T, block,
                mixture @ residual, gradient,
            )
        )  # fmt: skip
    return out


def own_normal(problem, state, own, k):
    """Matrix and gradient of a star's centre, flux and background; `own` [4, npixel]."""
    weighted = own * problem.weight[k]
    block = weighted @ own.T
    model = state.flux[k] * state.profile[k] + state.background[k]
    gradient = weighted @ (problem.images[k] - model)
    block[3, 3] += problem.background_ivar
    gradient[3] -= problem.background_ivar * state.background[k]
    return block, gradient


def _step(problem, state, stars, system, damping):
    """State after a damped step."""
    nterm, ngauss, _ = state.coef.shape
    size = 6 * ngauss
    normal = np.zeros((nterm, size, nterm, size))
    gradient = np.zeros((nterm, size))
    back = []
    for terms, mm, mo, oo, gm, go in system:
        inverse = _solve(_damped(oo, damping, 2), np.concatenate([mo.T, go[:, None]], axis=1))
        elimination, own = inverse[:, :-1], inverse[:, -1]
        normal += np.einsum("s,t,ij->sitj", terms, terms, mm - mo @ elimination)
        gradient += np.outer(terms, gm - mo @ own)
        back.append((elimination, own))
    prior = np.zeros((nterm, size))
    prior[1:] = np.tile(_PRIOR, ngauss) ** -2.0
    gradient -= prior * state.coef.reshape(nterm, size)
    flat = normal.reshape(nterm * size, nterm * size)
    diagonal = np.diag(flat).copy()
    flat[np.diag_indices(len(flat))] += (
        damping * np.maximum(diagonal, 1e-9 * diagonal.max()) + prior.ravel()
    )
    delta = np.clip(_solve(flat, gradient.ravel()).reshape(nterm, size), -_STEP, _STEP)
    coef = _clipped(state.coef + delta.reshape(state.coef.shape), problem)
    center = state.center.copy()
    for k, (elimination, own) in zip(stars, back, strict=True):
        move = (own - elimination @ (problem.terms[k] @ delta))[:2]
        center[k] += np.clip(move, -_STEP_CENTER, _STEP_CENTER)
    return evaluate(problem, coef, center, stars, state)


def _clipped(coef, problem):
    """Widths stay within the stamp and logarithms of amplitudes finite."""
    coef = coef.copy()
    top = np.log(problem.widest)
    coef[0, :, 3] = np.clip(coef[0, :, 3], -4.0, top)
    coef[0, :, 5] = np.clip(coef[0, :, 5], -4.0, top)
    for column in (1, 2, 4):
        coef[0, :, column] = np.clip(coef[0, :, column], -problem.widest, problem.widest)
    if not problem.signed:
        coef[0, :, 0] = np.maximum(coef[0, :, 0], coef[0, :, 0].max() + _FAINTEST)
    return coef


def revived(coef, signed):
    """Coefficients whose vanished components are put to use, and how many there were.

    A component that early weights have driven to nothing has no gradient left to come back by: it
    takes half of the brightest one, narrower, and leaves it the rest, wider.
    """
    coef = coef.copy()
    amplitude = np.abs(coef[0, :, 0]) if signed else np.exp(coef[0, :, 0])
    dead = np.flatnonzero(amplitude < _DEAD * amplitude.sum())
    for k in dead:
        brightest = int(np.argmax(amplitude))
        half = 0.5 * coef[0, brightest, 0] if signed else coef[0, brightest, 0] - np.log(2)
        coef[:, k] = coef[:, brightest]
        for j, wider in ((k, -_SPLIT), (brightest, _SPLIT)):
            coef[0, j, 0] = half
            coef[0, j, [3, 5]] += wider
        amplitude[[k, brightest]] = 0.5 * amplitude[brightest]
    return coef, len(dead)


def normalised(raw):
    """The convention: amplitudes sum to 1 and their mean centre is 0.

    Parameters
    ----------
    raw : array (ngauss, 6)

    Returns
    -------
    raw : array (ngauss, 6)
    total : float
        Sum of the amplitudes before: fluxes are to be multiplied by it.
    shift : array (2,)
        Mean centre before: centres of stars are to be moved by it.
    """
    out = raw.copy()
    total = raw[:, AMP].sum()
    out[:, AMP] /= total
    shift = out[:, AMP] @ raw[:, [X, Y]]
    out[:, [X, Y]] -= shift
    return out, total, shift
