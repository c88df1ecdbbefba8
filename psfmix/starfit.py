"""Least squares for one mixture and many stars: per-star numbers are eliminated star by star.

The model of a star's pixels is flux * mixture(x - centre) + background. For a given mixture and
centre, flux and background are linear and solved exactly (variable projection, Golub & Pereyra
1973; the derivatives are Kaufman's). Together with the centre they make a block of four numbers
per star, which is eliminated from the normal equations (Schur complement), so that a step costs as
much as the mixture's own parameters and grows linearly with the number of stars.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from psfmix.model import AMP, CXX, CXY, CYY, X, Y, chain, columns, pieces_of, to_raw

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


class Field(NamedTuple):
    """Polynomial terms of a detector position, scaled to -1 ... 1.

    Attributes
    ----------
    order : int
        Total degree, 0 to 2.
    middle, half : (x, y)
        Pixel in the middle and half the size of the detector.
    """

    order: int
    middle: tuple[float, float]
    half: tuple[float, float]

    @property
    def nterm(self):
        """Number of terms: 1, 3, 6."""
        return (self.order + 1) * (self.order + 2) // 2

    def terms(self, places):
        """Array (nplace, nterm) of places (nplace, 2): 1, u, v, u^2, u v, v^2."""
        u, v = ((np.asarray(places, float) - self.middle) / self.half).T
        return np.stack(
            [u ** (d - k) * v**k for d in range(self.order + 1) for k in range(d + 1)], axis=-1
        )


class Rows(NamedTuple):
    """Pixels of one star, in the form that `psfmix.model` evaluates mixtures on."""

    x: np.ndarray
    y: np.ndarray
    groups: list
    pixel_variance: float


@dataclass(frozen=True)
class Problem:
    """Pixels of all stars and how the mixture is written.

    Attributes
    ----------
    images, weight : arrays (nstar, npixel)
        Data, and inverse variance (0 for pixels that do not count).
    x, y : arrays (npixel,)
        Pixel of the stamp.
    terms : array (nstar, nterm)
    floor : float
        Smallest sigma, native px.
    signed : bool
    pixel_variance : float
        Of the native pixel: 1/12, or 0 when the mixture includes it.
    widest : float
        Largest sigma, native px.
    """

    images: np.ndarray
    weight: np.ndarray
    x: np.ndarray
    y: np.ndarray
    terms: np.ndarray
    floor: float
    signed: bool
    pixel_variance: float
    widest: float

    def rows(self, center):
        """Pixels relative to a centre."""
        v = self.pixel_variance
        return Rows(self.x - center[0], self.y - center[1], [(slice(None), v)], v)


class State(NamedTuple):
    """A point of the minimisation.

    Attributes
    ----------
    coef : array (nterm, ngauss, 6)
        Polynomial coefficients of the free parameters (`psfmix.model.to_raw`).
    center : array (nstar, 2), pixels of the stamp
    flux, background : arrays (nstar,)
    profile : array (nstar, npixel)
        The mixture at every star (its amplitudes are not normalised here): the model is
        ``flux * profile + background``.
    cost : array (nstar,)
        Weighted sum of squared residuals.
    """

    coef: np.ndarray
    center: np.ndarray
    flux: np.ndarray
    background: np.ndarray
    profile: np.ndarray
    cost: np.ndarray

    @property
    def model(self):
        """Array (nstar, npixel)."""
        return self.flux[:, None] * self.profile + self.background[:, None]


def free_at(coef, terms):
    """Free parameters (ngauss, 6) where the polynomial terms have these values."""
    return np.tensordot(terms, coef, axes=1)


def linear(profile, image, weight):
    """Flux and background of least squares, and the weighted sum of squared residuals."""
    pp, p1, ones = weight @ profile**2, weight @ profile, weight.sum()
    pd, d1 = (weight * profile) @ image, weight @ image
    determinant = pp * ones - p1**2
    if not determinant > 1e-12 * pp * ones:
        return 0.0, d1 / ones if ones > 0 else 0.0, np.inf
    flux = (pd * ones - p1 * d1) / determinant
    background = (pp * d1 - p1 * pd) / determinant
    residual = image - flux * profile - background
    return flux, background, float(weight @ residual**2)


def evaluate(problem, coef, center, stars=None, state=None):
    """State at given coefficients and centres; only for `stars`, the others as in `state`."""
    nstar, npixel = problem.images.shape
    if state is None:
        state = State(
            coef, center, np.zeros(nstar), np.zeros(nstar), np.zeros((nstar, npixel)),
            np.full(nstar, np.inf),
        )  # fmt: skip
    flux, background, profile, cost = (
        np.array(a) for a in (state.flux, state.background, state.profile, state.cost)
    )
    for k in range(nstar) if stars is None else stars:
        raw = to_raw(free_at(coef, problem.terms[k]), problem.floor, problem.signed)
        profile[k] = raw[:, AMP] @ pieces_of(raw, problem.rows(center[k])).value
        flux[k], background[k], cost[k] = linear(profile[k], problem.images[k], problem.weight[k])
    return State(coef, center, flux, background, profile, cost)


def star_derivatives(problem, state, k):
    """Derivatives of one star's model.

    Returns
    -------
    mixture : array (ngauss * 6, npixel)
        With respect to the free parameters at the star, ordered (component, parameter).
    own : array (4, npixel)
        With respect to centre x, y, flux, background.
    shape : array (3, npixel)
        With respect to a covariance added to all components: Cxx = Cyy, Cxx = -Cyy, Cxy.
    """
    free = free_at(state.coef, problem.terms[k])
    raw = to_raw(free, problem.floor, problem.signed)
    slope = state.flux[k] * columns(raw, problem.rows(state.center[k]))
    own = np.stack(
        [slope[X].sum(0), slope[Y].sum(0), state.profile[k], np.ones_like(state.profile[k])]
    )
    cxx, cyy, cxy = (slope[c].sum(0) for c in (CXX, CYY, CXY))
    link = chain(free, problem.signed)
    mixture = np.einsum("pkn,kpf->kfn", slope, link).reshape(-1, slope.shape[-1])
    return mixture, own, np.stack([cxx + cyy, cxx - cyy, cxy])


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
            weight = problem.weight[k]
            block = (own * weight) @ own.T
            gradient = (own * weight) @ (problem.images[k] - state.model[k])
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
        out.append(
            (
                problem.terms[k], weighted @ mixture.T, weighted @ own.T, (own * weight) @ own.T,
                mixture @ residual, own @ residual,
            )
        )  # fmt: skip
    return out


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


def with_weight(problem, weight):
    """The problem with other weights."""
    return replace(problem, weight=weight)


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
