"""Maximum a posteriori by Levenberg-Marquardt, with the linear parameters solved for directly.

The model is linear in fluxes and sky. Every trial of the other parameters is judged after the
linear ones have been re-solved (variable projection, Golub & Pereyra 1973, with Kaufman's
approximation of the Jacobian), which makes a bad starting flux harmless. Matrices are accumulated
on the device in the patch's precision; the small dense algebra runs in float64 on the host.
"""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import lsq_linear

from jaxpho.fit.posterior import DEFAULT_STATIC, Problem, Static, evaluate, to_physical

MAX_STEP, CONFINED_STEP = 2.0, 1.2
"""Largest change of a nonlinear z in one step, of an unbounded and of a bounded parameter."""
Z_LIMIT = 3.2
"""|z| of bounded parameters is kept below this: 7e-4 of the range from a bound."""

CHEAPER_FROM = 40
"""Parameters from which derivatives of the linear ones alone are worth a program of their own."""
RIDGE = 1e-9
"""Added to the diagonal of matrices scaled to a unit diagonal."""

SECANT_BELOW, SECANT_PAIRS = 15.0, 2
"""The last steps that began with less than this of chi2 to gain correct the Gauss-Newton matrix."""
SECANT_LEAST = 0.1
"""A correction to less than this share of the matrix along a step is left out."""
STALLED = 10.0, 2
"""Converged when so many trials fail while less than this times the tolerance is to be gained."""


@dataclass
class Optimum:
    """Where the optimiser stopped.

    Attributes
    ----------
    z, theta : ndarray
        [n] parameters (float64), padding included.
    chi2 : float
        sum of squared residuals over sigma (relative to the reference's when one is given).
    objective : float
        chi2 / 2 plus the prior's energy.
    gradient, curvature : ndarray
        of the objective in z.
    converged : bool
    iterations, evaluations : int
    """

    z: np.ndarray
    theta: np.ndarray
    chi2: float
    objective: float
    gradient: np.ndarray
    curvature: np.ndarray
    converged: bool
    iterations: int
    evaluations: int


class _State:
    """One evaluation, in float64 on the host."""

    def __init__(self, z, problem, static, reference, **kwargs):
        dtype = problem.patch.data.dtype
        if reference is None:
            # the data as reference: a sum of squares, which cannot cancel in float32
            reference = problem.patch.data
        found = evaluate(jnp.asarray(z, dtype), problem, reference, static=static, **kwargs)
        self.z = np.asarray(z, np.float64)
        self.chi2 = float(np.float64(found.chi2.high) + np.float64(found.chi2.low))
        self.objective = 0.5 * self.chi2 + float(found.energy)
        self.gradient = np.asarray(found.gradient, np.float64)
        self.curvature = np.asarray(found.curvature, np.float64)

    @property
    def finite(self):
        return np.isfinite(self.objective) and np.isfinite(self.curvature).all()


def _scaled(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Matrix scaled to unit diagonal, with a ridge, and the roots of its diagonal."""
    diagonal = np.sqrt(np.maximum(np.diag(matrix), 1e-30))
    scaled = matrix / np.outer(diagonal, diagonal)
    scaled[np.diag_indices_from(scaled)] += RIDGE
    return scaled, diagonal


def solve_scaled(matrix: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Solve a symmetric positive system after scaling to unit diagonal.

    Directions that the data do not constrain at all get no step: the ridge is relative.
    """
    scaled, diagonal = _scaled(matrix)
    try:
        return cho_solve(cho_factor(scaled), vector / diagonal) / diagonal
    except np.linalg.LinAlgError:
        value, basis = np.linalg.eigh(scaled)
        value = np.maximum(value, 1e-7 * value.max())
        return basis @ ((basis.T @ (vector / diagonal)) / value) / diagonal


def secant_matrix(matrix: np.ndarray, pairs: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Gauss-Newton matrix with the curvature seen along the last steps (BFGS updates).

    What Gauss-Newton leaves out, the residuals times second derivatives, makes its last steps gain
    a constant factor each. It is small and changes little there (Dennis, Gay & Welsch 1981).

    Parameters
    ----------
    matrix : ndarray
        [n, n], positive.
    pairs : list
        (step, change of the gradient) [n] each, the oldest first.
    """
    for step, change in pairs:
        seen, along = step @ change, matrix @ step
        expected = step @ along
        if expected > 0 and seen > SECANT_LEAST * expected:
            matrix = matrix + np.outer(change, change) / seen - np.outer(along, along) / expected
    return matrix


def optimize(
    z: np.ndarray,
    problem: Problem,
    linear: np.ndarray,
    *,
    static: Static = DEFAULT_STATIC,
    reference=None,
    max_iterations: int = 60,
    tolerance: float = 1e-3,
    with_volume: bool = False,
) -> Optimum:
    """Minimise chi2 / 2 + prior energy from a starting point.

    Parameters
    ----------
    z : ndarray
        [n] start; the linear entries are re-solved at once and may be anything.
    problem : Problem
    linear : ndarray
        [n] bool, parameters the model is linear in (unbounded).
    static : Static
    reference : Array, optional
        Model that chi2 is relative to; default the data, which gives the whole chi2.
    max_iterations : int
        Accepted or rejected steps.
    tolerance : float
        Converged when the undamped step would lower chi2 by less.
    with_volume : bool
        Optimise the density in z instead of the natural coordinates.

    Returns
    -------
    Optimum

    Raises
    ------
    FloatingPointError
        When chi2 is not finite at the start.
    """
    options = {"volume": 1.0 if with_volume else 0.0}
    free = ~linear
    cheaper = len(z) >= CHEAPER_FROM
    transform = problem.transform
    confined = np.asarray(transform.bounded) | np.asarray(transform.disc)
    evaluations = 0

    def project(trial):
        """Solve the linear parameters at a trial; returns z and the objective there."""
        nonlocal evaluations
        evaluations += 1
        state = _State(trial, problem, static, reference, linear_only=cheaper, **options)
        if not state.finite:
            return trial, np.inf
        if not linear.any():
            return trial, state.objective
        at = np.ix_(linear, linear)
        step = -solve_scaled(state.curvature[at], state.gradient[linear])
        gain = -0.5 * state.gradient[linear] @ step
        solved = trial.copy()
        solved[linear] += step
        return solved, state.objective - gain

    def full(at):
        nonlocal evaluations
        evaluations += 1
        return _State(at, problem, static, reference, **options)

    z = np.array(z, np.float64)
    given, objective = project(z)
    if not np.isfinite(objective):
        # a starting flux beyond single precision: any other serves as well
        given, _ = project(np.where(linear, 0.0, z))
    z = given
    state = full(z)
    if not state.finite:
        raise FloatingPointError("chi2 or its derivatives are not finite at the starting values")
    damping, converged, iteration = 1e-3, False, 0
    pairs, failed = [], 0
    for iteration in range(1, max_iterations + 1):  # noqa: B007 (reported)
        low, high = _box(state.z, confined, free)
        curvature = secant_matrix(state.curvature, pairs[-SECANT_PAIRS:])
        undamped = box_step(curvature, state.gradient, low, high)
        decrease = -(2.0 * state.gradient @ undamped + undamped @ curvature @ undamped)
        if decrease < tolerance or (decrease < STALLED[0] * tolerance and failed >= STALLED[1]):
            converged = True
            break
        matrix = curvature.copy()
        diagonal = np.diag_indices_from(matrix)
        matrix[diagonal] *= np.where(free, 1.0 + damping, 1.0)
        step = box_step(matrix, state.gradient, low, high)
        trial, objective = project(state.z + step)
        fall = state.objective - objective
        found = full(trial) if fall > 0 else state
        if transform.terms is not None:  # not quadratic in the linear ones: see what it came to
            fall = min(fall, state.objective - found.objective) if found is not state else fall
        if fall > 0 and found.finite:
            predicted = -(state.gradient @ step + 0.5 * step @ curvature @ step)
            if fall > 0.75 * predicted:
                damping = max(damping / 8.0, 1e-7)
            elif fall < 0.25 * predicted:
                damping *= 4.0
            if decrease < SECANT_BELOW:
                pairs.append((found.z - state.z, found.gradient - state.gradient))
            state, failed = found, 0
        else:
            failed += 1
            damping *= 8.0
            if damping > 1e8:  # no descent left at this precision
                converged = decrease < 100.0 * tolerance
                break
    theta = np.asarray(to_physical(jnp.asarray(state.z, problem.patch.data.dtype), transform))
    return Optimum(
        state.z,
        theta.astype(np.float64),
        state.chi2,
        state.objective,
        state.gradient,
        state.curvature,
        converged,
        iteration,
        evaluations,
    )


def _box(z, confined, free):
    """Smallest and largest step of every parameter."""
    reach = np.where(free, np.where(confined, CONFINED_STEP, MAX_STEP), np.inf)
    high = np.where(confined, np.minimum(reach, Z_LIMIT - z), reach)
    low = np.where(confined, np.maximum(-reach, -Z_LIMIT - z), -reach)
    return np.minimum(low, high), np.maximum(low, high)


def box_step(matrix, gradient, low, high):
    """Step to the minimum of a quadratic model within a box.

    Parameters
    ----------
    matrix, gradient : ndarray
        [n, n] and [n].
    low, high : ndarray
        [n] box.

    Returns
    -------
    ndarray
        [n] step. A parameter that presses against its bound stays there while the others go to
        the minimum that this leaves them; clipping the free step would hold them up.
    """
    step = -solve_scaled(matrix, gradient)
    if ((step >= low) & (step <= high)).all():
        return step
    scaled, diagonal = _scaled(matrix)
    value, basis = np.linalg.eigh(scaled)
    root = np.sqrt(np.maximum(value, RIDGE))
    target = -(basis.T @ (gradient / diagonal)) / root
    bounds = (low * diagonal, high * diagonal)
    found = lsq_linear((basis * root).T, target, bounds, method="bvls", tol=1e-8)
    return np.clip(found.x / diagonal, low, high)
