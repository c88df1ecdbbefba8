"""Draws of fluxes above zero, given the wider spread that correlated noise asks for.

Without the condition the posterior is near a normal in the unconstrained parameters, with the
covariance C of independent pixels or V of correlated ones (`jaxpho.fit.sandwich`); with it, this
normal is cut at zero. Each flux is mapped from the quantile of its own cut normal to that of the
wider one, so that it stays above zero and piles up there as it should. All other parameters, fluxes
far above zero among them, follow their regression on these fluxes, which the cut leaves as it is,
and what is left over is stretched. For one flux it is exact, for several that are correlated and
all near zero it is not quite: each has the cut of its own, not those of the others.
"""

from __future__ import annotations

import numpy as np
from scipy.special import log_ndtr, ndtri_exp

from jaxpho.fit.positive import FAR

_LEAST = 1e-9
"""Of an error: what draws keep above zero."""


def _root(matrix: np.ndarray, power: float) -> np.ndarray:
    value, basis = np.linalg.eigh((matrix + matrix.T) / 2)
    value = np.maximum(value, 1e-10 * value.max())
    return (basis * value**power) @ basis.T


def linear_map(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """M with M before M^T = after, stable for any scaling; near a diagonal where both are."""
    if not len(before):
        return before
    a, b = (np.sqrt(np.diag(m)) for m in (before, after))
    out = _root(after / np.outer(b, b), 0.5) @ _root(before / np.outer(a, a), -0.5)
    return b[:, None] * out / a


def to_wider(value, mean, before, after, turn) -> np.ndarray:
    """Positive values [draw, k] of normals cut at zero to those of wider ones.

    Parameters
    ----------
    value : ndarray
        [draw, k]
    mean : ndarray
        [k] of the normals before they are cut.
    before, after : ndarray
        [k] their standard deviations.
    turn : ndarray
        [k, k] map of their quantiles, in units of a normal; the identity for one.
    """
    value = np.maximum(value, _LEAST * before)
    above = log_ndtr((mean - value) / before) - log_ndtr(mean / before)
    normal = -ndtri_exp(np.minimum(above, -1e-300)) @ turn.T
    above = log_ndtr(-normal) + log_ndtr(mean / after)
    return np.maximum(mean - after * ndtri_exp(above), _LEAST * after)


def widen_positive(
    z: np.ndarray, centre: np.ndarray, before: np.ndarray, after: np.ndarray, on: np.ndarray
) -> np.ndarray:
    """Draws [draw, n], of which ``on`` [n] are above zero, with another covariance.

    Parameters
    ----------
    z : ndarray
        [draw, n] unconstrained parameters; those of ``on`` are zero where the flux is.
    centre : ndarray
        [n] mode without the condition.
    before, after : ndarray
        [n, n] covariance without the condition that the draws have, and that they are to have.
    on : ndarray
        [n] bool
    """
    error = np.sqrt(np.diag(after))
    near = on & (centre < FAR * error)
    inner, spread, rest, bright = [], [], [], on & ~near
    on, off = np.flatnonzero(near), np.flatnonzero(~near)
    for c in (before, after):
        own = c[np.ix_(on, on)]
        slope = np.linalg.solve(own, c[np.ix_(on, off)]).T
        inner.append(own)
        spread.append(slope)
        rest.append(c[np.ix_(off, off)] - slope @ c[np.ix_(on, off)])
    a, b = (np.sqrt(np.diag(m)) for m in inner)
    flux, mean = z[:, on], centre[on]
    wide = to_wider(flux, mean, a, b, linear_map(*inner) * a / b[:, None])
    left = z[:, off] - centre[off] - (flux - mean) @ spread[0].T
    out = np.empty_like(z)
    out[:, on] = wide
    out[:, off] = centre[off] + (wide - mean) @ spread[1].T + left @ linear_map(*rest).T
    out[:, bright] = np.maximum(out[:, bright], _LEAST * error[bright])
    return out
