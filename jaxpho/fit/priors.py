"""The prior of each parameter, and draws from the priors of a patch.

The draws are for simulation-based calibration and predictive checks.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import truncnorm

from jaxpho.core.sources import base_name
from jaxpho.errors import InputError
from jaxpho.fit.options import FitOptions, PriorOptions, prior_keys
from jaxpho.fit.prior_options import LARGEST_DISK
from jaxpho.fit.prior_terms import log_shape

if TYPE_CHECKING:
    from jaxpho.fit.table import ParameterTable, SourceStart

# The default prior; the mixtures reach down to n = .3, for whom flatter profiles are wanted.
SERSIC_RANGE = (0.5, 8.0)
NJY_ZERO_POINT = 31.4
"""AB magnitude of 1 nJy."""
LN_FLUX_PER_MAGNITUDE = -0.4 * math.log(10.0)

FLATTEST = 1e5
"""A normal prior wider than this many times the scale of its parameter stands for a flat one."""


def default_prior(name: str, start: SourceStart, options: FitOptions, pixel: float) -> PriorOptions:
    """Prior of a source's parameter of which nothing is said; ``pixel`` in arcsec."""
    base = base_name(name)
    if base == "flux":
        return PriorOptions("flat")
    if base in ("ra", "dec"):
        reach = max(3.0 * pixel, 0.5 * start.size)
        return PriorOptions("uniform", low=-reach, high=reach)
    if base == "rhalf":
        largest = max(20.0 * start.size, 60.0 * pixel)
        return PriorOptions("log_uniform", low=0.02 * pixel, high=largest)
    if base == "sersic":
        return PriorOptions("uniform", low=SERSIC_RANGE[0], high=SERSIC_RANGE[1])
    e_max = (1.0 - options.q_min) / (1.0 + options.q_min)
    return PriorOptions("uniform", low=-e_max, high=e_max)


def prior_of(
    name: str, start: SourceStart, value: float, options: FitOptions, pixel: float
) -> PriorOptions:
    """Prior of a source's parameter: the component's own, the parameter's, or the default."""
    base = base_name(name)
    own, general = prior_keys(name)
    default = default_prior(name, start, options, pixel)
    given = options.priors.get(own, options.priors.get(general))
    if given is None:
        prior = default
    else:
        low, high = given.low, given.high
        ranged = given.name in ("uniform", "log_uniform", "beta")
        if ranged or base in ("sersic", "e1", "e2", "rhalf"):
            low = default.low if low is None else low
            high = default.high if high is None else high
            if given.name == "disk_galaxies":
                high = min(high, LARGEST_DISK)
                low = -high
            if low >= high:  # the one that was given says where, the default gives way
                low, high = (low, 100.0 * low) if given.high is None else (0.01 * high, high)
        mean = given.mean
        if mean is None and base in ("ra", "dec", "e1", "e2"):
            mean = 0.0
        prior = replace(given, low=low, high=high, mean=mean)
    if base in ("ra", "dec"):  # given as offsets from the peak
        shift = {k: getattr(prior, k) for k in ("low", "high", "mean")}
        shift = {k: None if v is None else v + value for k, v in shift.items()}
        prior = replace(prior, **shift)
    return prior


def size_given_flux(prior: PriorOptions, log_flux: float) -> float:
    """Mean of ln rhalf by a `size_magnitude` prior at the logarithm of a flux."""
    if prior.flux is not None:
        pivot = math.log(prior.flux)
    else:
        pivot = LN_FLUX_PER_MAGNITUDE * (prior.magnitude - NJY_ZERO_POINT)
    return math.log(prior.mean) + prior.slope / LN_FLUX_PER_MAGNITUDE * (log_flux - pivot)


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
    terms = None if tr.terms is None else tr.terms._make(np.asarray(a) for a in tr.terms)
    t = np.zeros(n)
    for i, p in enumerate(table.parameters):
        sigma = 1.0 / precision[i] if precision[i] > 0 else np.inf
        centre = mean[i]
        if p.follow is not None:
            k, soft = p.follow, terms.softening[i]
            known = t[k] if log[k] else np.log(soft) + np.arcsinh(t[k] / (2.0 * soft))
            centre = centre + terms.slope[i] * known
        if terms is not None and terms.family[i]:
            if i <= partner[i]:
                shape = _of_population(rng, terms.family[i], high[i], terms.beside[i], disc[i])
                t[[i, partner[i]]] = shape[: 1 + disc[i]]
        elif disc[i]:
            if i < partner[i]:
                t[i], t[partner[i]] = _in_disc(rng, high[i], mean[[i, partner[i]]], sigma)
        elif p.prior.name == "beta":
            share = rng.beta(p.prior.a, p.prior.b)
            t[i] = low[i] + (high[i] - low[i]) * share
        elif bounded[i] and np.isfinite(sigma):
            a, b = (low[i] - centre) / sigma, (high[i] - centre) / sigma
            t[i] = truncnorm.rvs(a, b, centre, sigma, random_state=rng)
        elif bounded[i]:
            t[i] = rng.uniform(low[i], high[i])
        elif sigma < FLATTEST * scale[i]:
            t[i] = rng.normal(centre, sigma)
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


def _of_population(rng, family: int, radius: float, beside: float, both: bool) -> tuple:
    """Two ellipticities of a population within a disc; one of them where the other is held."""
    grid = np.linspace(0.0 if both else -radius, radius, 20001)
    e = np.hypot(grid, beside)
    density = np.exp(np.asarray(log_shape(e, family), float)) * (grid if both else 1.0)
    share = np.concatenate([[0.0], np.cumsum(0.5 * (density[1:] + density[:-1]))])
    at = np.interp(rng.uniform(0.0, share[-1]), share, grid)
    angle = rng.uniform(0.0, 2.0 * np.pi)
    return (at * np.cos(angle), at * np.sin(angle)) if both else (at,)
