"""How wide the Gaussians of a galaxy are at least: what reduced PSF mixtures may be used for."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np

from jaxpho.core.sersic import N_GAUSSIAN
from jaxpho.core.sources import SOURCE_TYPES
from jaxpho.core.terms import ShapeRange
from jaxpho.fit.options import FitOptions
from jaxpho.fit.parameters import ParameterTable, SourceStart
from jaxpho.fit.posterior import Problem

log = logging.getLogger("jaxpho.fit.reduce")

WORTH = 1e6
"""Evaluations (pixel x Gaussian) of one pass below which `auto` compiles no program of its own."""
WORTH_SAMPLING = 5e6
"""The same for another program for the sampler: half a minute of thousands of gradients."""
DRAWS_WITHIN = 6.0
"""Standard deviations about the mode within which the sampler's mixtures are exact enough."""
LEAST_SAVED = 0.8
"""Part of the Gaussians that may be left for another program to be compiled."""
_STEPS_N, _STEPS_RHALF = 17, 5
_ROUNDING = 1e-5


def shape_limits(
    table: ParameterTable, starts: Sequence[SourceStart]
) -> list[tuple[int, dict[str, tuple[float, float]]]]:
    """(source, {"rhalf", "sersic", "e1", "e2": (low, high)}) of each Sersic component.

    In the order of the scene. Held parameters have low = high. Free ellipticities share a disc,
    whose radius is the high end of a further entry "e".
    """
    free = {p.label: p for p in table.parameters}
    out = []
    for s, start in enumerate(starts):
        for component in SOURCE_TYPES[start.type].components:
            if component.profile != "sersic":
                continue
            limits = {k: (float(v), float(v)) for k, v in component.fixed}
            for name in ("rhalf", "sersic", "e1", "e2"):
                label = (s, name + component.suffix, "")
                if label in free:
                    prior = free[label].prior
                    high = np.inf if prior.high is None else prior.high
                    low = -np.inf if prior.low is None else prior.low
                    if free[label].partner is not None:
                        low, limits["e"] = -high, (0.0, high)
                    limits[name] = (low, high)
                elif name not in limits:
                    limits[name] = (table.fixed[label],) * 2
            out.append((s, limits))
    return out


def near(
    limits: Sequence[tuple[int, dict]],
    table: ParameterTable,
    starts: Sequence[SourceStart],
    theta: np.ndarray,
    sigma: np.ndarray,
) -> list[tuple[int, dict]]:
    """The limits narrowed to `DRAWS_WITHIN` standard deviations about a mode.

    Parameters
    ----------
    limits : from `shape_limits`
    theta, sigma : arrays [n]
        Mode and standard deviations; those of rhalf are taken in its logarithm.
    """
    where = {p.label: i for i, p in enumerate(table.parameters)}
    out = []
    for (s, wide), suffix in zip(limits, _suffixes(starts), strict=True):
        limits_here = dict(wide)
        for name, (low, high) in wide.items():
            i = where.get((s, name + suffix, ""))
            if i is None or not (np.isfinite(theta[i]) and np.isfinite(sigma[i])):
                continue
            reach = DRAWS_WITHIN * sigma[i]
            if name == "rhalf":
                reach /= theta[i]
                ends = theta[i] * np.exp([-reach, reach])
            else:
                ends = theta[i] + np.array([-reach, reach])
            limits_here[name] = (max(low, float(ends[0])), min(high, float(ends[1])))
        out.append((s, limits_here))
    return out


def outside(
    limits: Sequence[tuple[int, dict]],
    table: ParameterTable,
    starts: Sequence[SourceStart],
    theta: np.ndarray,
) -> int:
    """How many draws [..., n] leave the limits of any component."""
    where = {p.label: i for i, p in enumerate(table.parameters)}
    out = np.zeros(theta.shape[:-1], bool)
    for (s, limit), suffix in zip(limits, _suffixes(starts), strict=True):
        for name, (low, high) in limit.items():
            i = where.get((s, name + suffix, ""))
            if i is not None:
                # draws at a prior's end are rounded to single precision
                out |= theta[..., i] < low - _ROUNDING * abs(low)
                out |= theta[..., i] > high + _ROUNDING * abs(high)
    return int(out.sum())


def _suffixes(starts):
    """Suffix of each Sersic component, in the order of the scene."""
    return [
        component.suffix
        for start in starts
        for component in SOURCE_TYPES[start.type].components
        if component.profile == "sersic"
    ]


def shape_range(source: int, limits: Mapping[str, tuple[float, float]], mixture) -> ShapeRange:
    """The Gaussians of a component over the shapes within limits.

    Below n = .5 Gaussians cancel, and errors of their images do not: widths of 0 then ask for the
    full PSF.
    """
    low, high = limits["sersic"]
    n, r = np.meshgrid(
        np.geomspace(low, high, _STEPS_N) if high > low else np.array([low]),
        np.geomspace(*_positive(limits["rhalf"]), _STEPS_RHALF)
        if limits["rhalf"][1] > limits["rhalf"][0]
        else np.array([limits["rhalf"][0]]),
    )
    amplitude, variance = mixture.evaluate(jnp.asarray(n.ravel()), jnp.asarray(r.ravel()))
    sigma = np.sqrt(np.asarray(variance, float))
    if low < N_GAUSSIAN:
        sigma = np.zeros_like(sigma)
    return ShapeRange(source, sigma, np.asarray(amplitude, float), _minor(limits))


def _positive(limits):
    """Limits of rhalf that have a logarithm; an infinite one is as good as a million times more."""
    low = max(limits[0], 1e-6)
    return low, min(limits[1], 1e6 * low)


def _minor(limits) -> float:
    """Square root of the least axis ratio."""
    e = np.hypot(*(max(abs(v) for v in limits[k]) for k in ("e1", "e2")))
    e = min(float(e), limits.get("e", (0.0, 1.0))[1])
    e = min(e, 1.0 - 1e-9)
    return float(np.sqrt((1.0 - e) / (1.0 + e)))


def gaussians_per_pixel(problem: Problem) -> int:
    """Gaussians of all galaxies that are evaluated in every pixel, padding included."""
    patch = problem.patch
    if patch.terms is not None:
        return int(np.prod(patch.terms.bin.shape[1:]))
    return problem.scene.sersic_source.shape[0] * patch.psf_bin.shape[-1]


def reduce_problem(
    packed, problem: Problem, limits: Sequence[tuple[int, dict]], worth: float
) -> tuple[Problem, str]:
    """The problem with reduced PSF mixtures, and what this saves.

    Parameters
    ----------
    packed : PackedPatch
    problem : Problem
        With the PSFs of the patch or others; its scene says how many components there are.
    limits : from `shape_limits`
    worth : float
        Evaluations of one pass (pixel x Gaussian) from which on this is done.

    Returns
    -------
    problem : Problem
        The same where there are no reduced mixtures or little would be saved.
    text : str
        Empty where nothing changed.
    """
    patch = problem.patch
    if problem.scene.link is not None:  # the limits are those of one shape in all bands
        return problem, ""
    if not limits or not getattr(packed, "reducible", False):
        return problem, ""
    now = gaussians_per_pixel(problem)
    if now * int(patch.n_blocks) * patch.data.shape[-1] < worth:
        return problem, ""
    each = patch.psf_bin.shape[-1]
    ranges = [shape_range(s, limit, problem.mixture) for s, limit in limits]
    terms, counts = packed.terms(ranges, problem.scene.sersic_source.shape[0] * each)
    if terms is None:
        return problem, ""
    reduced = problem._replace(patch=patch._replace(terms=terms))
    used = gaussians_per_pixel(reduced)
    if used > LEAST_SAVED * now:
        return problem, ""
    return reduced, (
        f"PSF Gaussians per galaxy component: {counts.mean():.0f} instead of {each} "
        f"({used} instead of {now} in every pixel)"
    )


def worth_of(options: FitOptions, least: float) -> float:
    """Evaluations of one pass from which on reduced mixtures are used."""
    return {"always": 0.0, "auto": least, "never": np.inf}[options.reduced_psf]
