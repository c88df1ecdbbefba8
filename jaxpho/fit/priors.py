"""Draws from the priors of a patch, for simulation-based calibration and predictive checks."""

from __future__ import annotations

import numpy as np
from scipy.stats import truncnorm

from jaxpho.errors import InputError
from jaxpho.fit.parameters import ParameterTable

FLATTEST = 1e5
"""A normal prior wider than this many times the scale of its parameter stands for a flat one."""


def draw_prior(rng: np.random.Generator, table: ParameterTable, n: int) -> np.ndarray:
    """One draw of all free parameters from their priors.

    Parameters
    ----------
    rng : Generator
    table : ParameterTable
    n : int
        Padded number of parameters; padding is 0.

    Returns
    -------
    ndarray
        [n] physical parameters.

    Raises
    ------
    InputError
        For a prior that is flat without bounds, which cannot be drawn from.
    """
    tr = table.transform(n)
    log, bounded, disc, low, high, mean, precision, scale, partner = (
        np.asarray(getattr(tr, k))
        for k in (
            "log", "bounded", "disc", "low", "high", "mean", "precision", "scale", "partner",
        )
    )  # fmt: skip
    t = np.zeros(n)
    for i, p in enumerate(table.parameters):
        sigma = 1.0 / precision[i] if precision[i] > 0 else np.inf
        if disc[i]:
            if i < partner[i]:
                t[i], t[partner[i]] = _in_disc(rng, high[i], mean[[i, partner[i]]], sigma)
        elif bounded[i] and np.isfinite(sigma):
            a, b = (low[i] - mean[i]) / sigma, (high[i] - mean[i]) / sigma
            t[i] = truncnorm.rvs(a, b, mean[i], sigma, random_state=rng)
        elif bounded[i]:
            t[i] = rng.uniform(low[i], high[i])
        elif sigma < FLATTEST * scale[i]:
            t[i] = rng.normal(mean[i], sigma)
        else:
            name = " ".join(str(part) for part in p.label if part != "")
            raise InputError(f"the prior of {name} is flat without bounds: it cannot be drawn from")
    return np.where(log, np.exp(np.where(log, t, 0.0)), t) * (np.arange(n) < len(table.parameters))


def _in_disc(rng, radius, mean, sigma):
    """Two ellipticities: uniform in the disc of a radius, or normal within it."""
    while True:
        at = rng.uniform(-radius, radius, 2) if np.isinf(sigma) else rng.normal(mean, sigma, 2)
        if np.hypot(*at) < radius:
            return at
