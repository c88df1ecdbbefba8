"""Where the posterior has its mode when fluxes must not be negative."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np

from jaxpho.fit.optimize import MAX_STEP, Optimum, solve_scaled
from jaxpho.fit.positive import Positive, energy_in_y, fold, log_slope, unfold
from jaxpho.fit.posterior import Problem, Static, evaluate
from jaxpho.fit.target import whitening

REACH = 2.0
"""Largest step of a flux, in its errors."""


def make_positive(wanted: np.ndarray, mode: Optimum, problem: Problem) -> Positive:
    """Condition for the ``wanted`` [n] bool linear parameters of a problem."""
    tr = problem.transform
    dtype = problem.patch.data.dtype
    root = whitening(mode.curvature)
    width = np.sqrt(np.maximum((root**2).sum(1), 1e-30))
    on = np.asarray(wanted, bool)
    floor = -np.asarray(tr.centre, np.float64) / np.asarray(tr.scale, np.float64)
    return Positive(
        jnp.asarray(on),
        jnp.asarray(np.where(on, floor, 0.0), dtype),
        jnp.asarray(np.where(on, width, 1.0), dtype),
    )


def positive_mode(
    mode: Optimum, positive: Positive, problem: Problem, static: Static, max_iterations: int = 60,
    tolerance: float = 1e-3,
) -> Optimum:  # fmt: skip
    """Mode of the density in y, by Levenberg-Marquardt from the mode without the condition.

    Returns
    -------
    Optimum
        ``z`` and the derivatives are those of y, ``theta`` is physical.
    """
    dtype = problem.patch.data.dtype
    reference = problem.patch.data
    free = np.asarray(problem.transform.bounded) | np.asarray(problem.transform.disc)

    def at(y):
        z = np.asarray(fold(jnp.asarray(y, dtype), positive))
        found = evaluate(jnp.asarray(z), problem, reference, static=static, volume=1.0)
        gradient, curvature = energy_in_y(
            y, np.asarray(found.gradient, np.float64), np.asarray(found.curvature, np.float64),
            positive,
        )  # fmt: skip
        chi2 = float(np.float64(found.chi2.high) + np.float64(found.chi2.low))
        volume = float(log_slope(jnp.asarray(y, dtype), positive))
        return replace(
            mode, z=y, theta=np.asarray(found.theta, np.float64), chi2=chi2,
            objective=0.5 * chi2 + float(found.energy) - volume,
            gradient=gradient, curvature=curvature,
        )  # fmt: skip

    best, damping, iteration = at(unfold(mode.z, positive)), 1e-3, 0
    reach = np.where(np.asarray(positive.on), REACH * np.asarray(positive.width), np.inf)
    reach = np.where(free, MAX_STEP, reach)
    converged = False
    for iteration in range(1, max_iterations + 1):  # noqa: B007 (reported)
        undamped = -solve_scaled(best.curvature, best.gradient)
        if -best.gradient @ undamped < tolerance:
            converged = True
            break
        matrix = best.curvature + damping * np.diag(np.diag(best.curvature))
        step = np.clip(-solve_scaled(matrix, best.gradient), -reach, reach)
        trial = at(best.z + step)
        if np.isfinite(trial.objective) and trial.objective < best.objective:
            best, damping = trial, max(damping / 8.0, 1e-7)
        else:
            damping *= 8.0
            if damping > 1e8:  # no descent left at this precision
                break
    return replace(best, converged=converged, iterations=iteration)
