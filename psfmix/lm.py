"""Levenberg-Marquardt for Gaussian mixtures: pixel rows, encircled energy, total, ridge."""

from typing import NamedTuple

import numpy as np

from psfmix.model import AMP, chain, columns, pieces_of, to_raw

_UP, _DOWN = 4.0, 0.3
_DAMPING_MAX = 1e8
# Stop after this many successive steps that lower the cost by less than this fraction.
_STALL, _STALL_FRACTION = 5, 3e-5


class Prior(NamedTuple):
    """Where free parameters are drawn to, and how strongly: weight (free - mean)^2 is added.

    Both are arrays (ngauss, 6).
    """

    mean: np.ndarray
    weight: np.ndarray


class Options(NamedTuple):
    """Weights of the residual rows beside the pixels (which count in units of the peak)."""

    floor: float = 0.4
    signed: bool = False
    ee_weight: float = 20.0
    ridge: float = 0.01
    total_weight: float = 1e3
    prior: Prior | None = None


class State(NamedTuple):
    """A point of the minimisation: free and raw parameters, model rows, cost, steps so far."""

    free: np.ndarray
    raw: np.ndarray
    model: np.ndarray
    cost: float
    steps: int


def minimise(free, target, options, max_steps, weight=None):
    """Minimise the weighted squared residual from a start.

    Parameters
    ----------
    free : array (ngauss, 6)
        See `psfmix.model.to_raw`.
    target : Target
    options : Options
    max_steps : int
    weight : array (nrow,), optional
        Row weights instead of the target's.

    Returns
    -------
    State
        The best point met.
    """
    weight = target.weight if weight is None else weight
    free = _clipped(free, target)
    state, work = _evaluate(free, target, options, weight)
    damping, stalled, step = 1e-2, 0, 0
    for step in range(1, max_steps + 1):
        normal, scales, gradient = _derivatives(state, work, target, options, weight)
        accepted = False
        while damping < _DAMPING_MAX:
            damped = normal + np.diag(damping * np.maximum(scales, 1e-9 * scales.max()))
            delta = np.linalg.solve(damped, -gradient).reshape(free.shape)
            trial = _clipped(state.free + np.clip(delta, -2, 2), target)
            new, new_work = _evaluate(trial, target, options, weight)
            if new.cost < state.cost:
                accepted = True
                break
            damping *= _UP
        if not accepted:
            return state._replace(steps=step)
        gain = 1 - new.cost / state.cost if state.cost > 0 else 0.0
        state, work = new, new_work
        damping = max(damping * _DOWN, 1e-9)
        stalled = stalled + 1 if gain < _STALL_FRACTION else 0
        if stalled >= _STALL:
            break
    return state._replace(steps=step)


def _clipped(free, target):
    """Keep widths and centres within the stamp: beyond it nothing constrains them."""
    free = free.copy()
    top = np.log(0.7 * target.halfsize)
    free[:, 3] = np.clip(free[:, 3], -4.0, top)
    free[:, 5] = np.clip(free[:, 5], -4.0, top)
    free[:, 4] = np.clip(free[:, 4], -0.7 * target.halfsize, 0.7 * target.halfsize)
    free[:, 1:3] = np.clip(free[:, 1:3], -0.7 * target.halfsize, 0.7 * target.halfsize)
    return free


def _evaluate(free, target, options, weight):
    """State, and what `_derivatives` needs to go on from it."""
    raw = to_raw(free, options.floor, options.signed)
    pieces = pieces_of(raw, target)
    model = raw[:, AMP] @ pieces.value
    difference = model - target.value
    residual = difference * weight / target.peak
    flux = options.ee_weight / target.total
    ee_residual = flux * target.energies(difference)
    total_residual = options.total_weight / target.total * (raw[:, AMP].sum() - target.total)
    ridge = options.ridge / target.total
    cost = (
        residual @ residual
        + ee_residual @ ee_residual
        + total_residual**2
        + ridge**2 * np.sum(raw[:, AMP] ** 2)
    )
    if options.prior is not None:
        cost += np.sum(options.prior.weight * (free - options.prior.mean) ** 2)
    return State(free, raw, model, float(cost), 0), (pieces, residual, ee_residual, total_residual)


def _derivatives(state, work, target, options, weight):
    """J^T J, its diagonal for the damping, and J^T r, for the free parameters."""
    pieces, residual, ee_residual, total_residual = work
    raw, n = state.raw, len(state.raw)
    jacobian = columns(raw, target, pieces).reshape(6 * n, -1)
    ee_rows = options.ee_weight / target.total * target.energies(jacobian)
    jacobian *= weight / target.peak
    normal = jacobian @ jacobian.T + ee_rows @ ee_rows.T
    gradient = jacobian @ residual + ee_rows @ ee_residual
    amps = slice(AMP * n, (AMP + 1) * n)
    total_scale = options.total_weight / target.total
    ridge = options.ridge / target.total
    normal[amps, amps] += ridge**2 * np.eye(n)
    gradient[amps] += total_scale * total_residual + ridge**2 * raw[:, AMP]
    # Raw rows are ordered (parameter, component), free ones (component, parameter).
    single = chain(state.free, options.signed)
    link = np.zeros((6, n, n, 6))
    link[:, np.arange(n), np.arange(n)] = single.transpose(1, 0, 2)
    link = link.reshape(6 * n, 6 * n)
    normal, gradient = link.T @ normal @ link, link.T @ gradient
    if options.prior is not None:
        normal += np.diag(options.prior.weight.ravel())
        gradient += (options.prior.weight * (state.free - options.prior.mean)).ravel()
    # The stiff total stays out of the damping scales, or amplitudes could hardly trade flux.
    scales = np.diag(normal).copy()
    total_row = total_scale * single[:, AMP].ravel()
    normal += np.outer(total_row, total_row)
    return normal, scales, gradient
