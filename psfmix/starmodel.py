"""The pixels of many stars as one mixture, and what their model depends on.

The model of a star's pixels is flux * mixture(x - centre) + background. For a given mixture and
centre, flux and background are linear and solved exactly.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from psfmix.model import AMP, CXX, CXY, CYY, X, Y, chain, columns, pieces_of, to_raw


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
    background_ivar : float
        Inverse variance of the prior of every star's background about 0; 0 for none.
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
    background_ivar: float = 0.0

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


def linear(profile, image, weight, background_ivar=0.0):
    """Flux and background of least squares, and the weighted sum of squared residuals.

    The sum counts the background as one more datum, 0 with inverse variance `background_ivar`.
    """
    pp, p1, ones = weight @ profile**2, weight @ profile, weight.sum() + background_ivar
    pd, d1 = (weight * profile) @ image, weight @ image
    determinant = pp * ones - p1**2
    if not determinant > 1e-12 * pp * ones:
        return 0.0, d1 / ones if ones > 0 else 0.0, np.inf
    flux = (pd * ones - p1 * d1) / determinant
    background = (pp * d1 - p1 * pd) / determinant
    residual = image - flux * profile - background
    return flux, background, float(weight @ residual**2 + background_ivar * background**2)


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
        flux[k], background[k], cost[k] = linear(
            profile[k], problem.images[k], problem.weight[k], problem.background_ivar
        )
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


def with_weight(problem, weight):
    """The problem with other weights."""
    return replace(problem, weight=weight)
