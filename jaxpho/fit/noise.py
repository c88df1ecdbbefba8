"""Constants of the noise of a patch: whitening from a correlation by lag, Student's scale."""

from __future__ import annotations

from functools import lru_cache

import jax.numpy as jnp
import numpy as np
from scipy.optimize import brentq

from jaxpho.core.noise import Noise, Whitening, error_texture

REACH = 4
"""Pixels that whitening looks back, along each axis."""
_CHUNK = 4096
"""Patterns of masks solved at once."""
_RIDGE = 0.02
"""White noise added to correlations before they are inverted: measured ones, and those of
resampled images, hardly have an inverse. Errors stay within some 5 % of the exact ones."""


def causal_lags(reach: int) -> np.ndarray:
    """Lags [K, 2] in (y, x) to the pixels before: the rows below, and the row's own left part."""
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1].reshape(2, -1)
    before = (y < 0) | ((y == 0) & (x < 0))
    lags = np.stack([y, x], -1)[before]
    return lags[np.argsort((lags**2).sum(-1), kind="stable")]


def correlation_at(rho: np.ndarray, y, x) -> np.ndarray:
    """Correlation at lags; 0 beyond those that are known."""
    reach = len(rho) // 2
    y, x = np.abs(y), np.sign(y) * x + (y == 0) * np.abs(x)  # the opposite lag is the same
    inside = (y <= reach) & (np.abs(x) <= reach)
    return np.where(inside, rho[np.clip(y + reach, 0, None) * inside, (x + reach) * inside], 0.0)


def stencils(rho: np.ndarray, lags: np.ndarray, present: np.ndarray):
    """Coefficients of each pixel's prediction from the pixels before it that are not masked.

    Parameters
    ----------
    rho : ndarray
        [2 L + 1, 2 L + 1] correlation by lag.
    lags : ndarray
        [K, 2]
    present : ndarray
        [U, K] bool, which of them there are.

    Returns
    -------
    weight : ndarray
        [U, K] minus the coefficients over the root of the remaining variance.
    own : ndarray
        [U] one over that root.
    """
    dy = lags[:, None, 0] - lags[None, :, 0]
    dx = lags[:, None, 1] - lags[None, :, 1]
    matrix = correlation_at(rho, dy, dx) + _RIDGE * np.eye(len(lags))
    vector = correlation_at(rho, lags[:, 0], lags[:, 1])
    weight, own = np.zeros(present.shape), np.zeros(len(present))
    for start in range(0, len(present), _CHUNK):
        at = slice(start, start + _CHUNK)
        have = present[at]
        both = have[:, :, None] & have[:, None, :]
        a = np.where(both, matrix, np.eye(len(lags)))
        b = np.linalg.solve(a, np.where(have, vector, 0.0)[..., None])[..., 0]
        rest = 1.0 + _RIDGE - (b * np.where(have, vector, 0.0)).sum(-1)
        own[at] = 1.0 / np.sqrt(np.maximum(rest, _RIDGE))
        weight[at] = -b * own[at, None]
    return weight, own


def make_whitening(packed, correlations: list[np.ndarray | None], reach: int = REACH) -> Whitening:
    """Whitening of a patch whose exposures have these correlations; None: independent pixels."""
    patch = packed.patch
    ierr = np.asarray(patch.ierr)
    m, n = ierr.shape
    lags = causal_lags(reach)
    index = np.broadcast_to(np.arange(m * n, dtype=np.int32), (len(lags), m * n)).copy()
    weight = np.zeros((len(lags), m * n))
    own = np.ones(m * n)
    x, y = np.rint(patch.xpix()).astype(int), np.rint(patch.ypix()).astype(int)
    for rho, at in zip(correlations, packed.blocks, strict=True):
        if rho is None:
            continue
        flat = (np.arange(m * n).reshape(m, n)[at])[ierr[at] > 0]
        px, py = x.reshape(-1)[flat], y.reshape(-1)[flat]
        px, py = px - px.min() + reach, py - py.min() + reach
        place = np.full((py.max() + reach + 1, px.max() + reach + 1), -1)
        place[py, px] = flat
        before = place[py + lags[:, :1], px + lags[:, 1:]]  # [K, pixels]
        present = before >= 0
        image = np.zeros(place.shape)
        image[py, px] = ierr.reshape(-1)[flat]
        texture = error_texture(image)
        code = np.packbits(present, axis=0)
        _, first, which = np.unique(code, axis=1, return_index=True, return_inverse=True)
        found, scale = stencils(rho, lags, present[:, first].T)
        which = which.reshape(-1)
        weight[:, flat] = found[which].T * texture[py + lags[:, :1], px + lags[:, 1:]]
        own[flat] = scale[which] * texture[py, px]
        index[:, flat] = np.where(present, before, flat)
    dtype = ierr.dtype
    return Whitening(
        jnp.asarray(index), jnp.asarray(weight.astype(dtype)), jnp.asarray(own.astype(dtype))
    )


@lru_cache(maxsize=64)
def student_scale(nu: float) -> float:
    """Scale s of Student's t, in quoted errors, at which errors are right for normal noise.

    With residuals u unit normal and psi(u) = -d ln p / du, the curvature of the likelihood must
    equal the variance of its gradient: E[psi'] = E[psi^2] (the second Bartlett identity). s tends
    to 1 for many degrees of freedom.
    """
    u, h = np.linspace(0.0, 12.0, 24001, retstep=True)
    density = np.exp(-0.5 * u * u)

    def excess(scale):
        floor = nu * scale * scale
        slope = (nu + 1.0) * (floor - u * u) / (floor + u * u) ** 2
        square = ((nu + 1.0) * u / (floor + u * u)) ** 2
        return float(np.trapezoid((slope - square) * density, dx=h))

    return float(brentq(excess, 0.2, 2.0))


def student_noise(nu: float, dtype) -> Noise:
    """Noise with the tails of Student's t."""
    return Noise(student=jnp.asarray([nu, student_scale(float(nu))], dtype))
