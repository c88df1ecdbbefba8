"""Levenberg-Marquardt for Gaussian mixtures: pixel rows, encircled energy, total, ridge."""

from typing import NamedTuple

import numpy as np

from psfmix.model import AMP, chain, columns, to_raw

_UP, _DOWN = 4.0, 0.3
_DAMPING_MAX = 1e8
# Stop after this many successive steps that lower the cost by less than this fraction.
_STALL, _STALL_FRACTION = 5, 3e-5


class Options(NamedTuple):
    """Weights of the residual rows beside the pixels (which count in units of the peak)."""

    floor: float = 0.4
    signed: bool = False
    ee_weight: float = 20.0
    ridge: float = 0.01
    total_weight: float = 1e3


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
    state, normal, scales, gradient = _evaluate(free, target, options, weight)
    damping, stalled, step = 1e-2, 0, 0
    for step in range(1, max_steps + 1):
        accepted = False
        while damping < _DAMPING_MAX:
            damped = normal + np.diag(damping * np.maximum(scales, 1e-9 * scales.max()))
            delta = np.linalg.solve(damped, -gradient).reshape(free.shape)
            trial = _clipped(state.free + np.clip(delta, -2, 2), target)
            new, new_normal, new_scales, new_gradient = _evaluate(trial, target, options, weight)
            if new.cost < state.cost:
                accepted = True
                break
            damping *= _UP
        if not accepted:
            return state._replace(steps=step)
        gain = 1 - new.cost / state.cost if state.cost > 0 else 0.0
        state, normal, scales, gradient = new, new_normal, new_scales, new_gradient
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
    """State, J^T J, its diagonal for the damping, and J^T r, for the free parameters."""
    n = len(free)
    raw = to_raw(free, options.floor, options.signed)
    jacobian = columns(raw, target)
    model = raw[:, AMP] @ jacobian[AMP]
    difference = model - target.value
    jacobian = jacobian.reshape(6 * n, -1)
    flux = options.ee_weight / target.total
    ee_rows = flux * (jacobian @ target.energy.T)
    ee_residual = flux * (target.energy @ difference)
    scaled = jacobian * (weight / target.peak)
    residual = difference * weight / target.peak
    normal = scaled @ scaled.T + ee_rows @ ee_rows.T
    gradient = scaled @ residual + ee_rows @ ee_residual
    amps = slice(AMP * n, (AMP + 1) * n)
    total_scale = options.total_weight / target.total
    total_residual = total_scale * (raw[:, AMP].sum() - target.total)
    ridge = options.ridge / target.total
    normal[amps, amps] += ridge**2 * np.eye(n)
    gradient[amps] += total_scale * total_residual + ridge**2 * raw[:, AMP]
    cost = (
        residual @ residual
        + ee_residual @ ee_residual
        + total_residual**2
        + ridge**2 * np.sum(raw[:, AMP] ** 2)
    )
    # Raw columns are ordered (parameter, component); the chain rule mixes parameters only.
    link = chain(free, options.signed)
    normal = normal.reshape(6, n, 6, n)
    normal = np.einsum("kai,akbl,lbj->kilj", link, normal, link, optimize=True)
    normal = normal.reshape(6 * n, 6 * n)
    gradient = np.einsum("kai,ak->ki", link, gradient.reshape(6, n))
    # The stiff total stays out of the damping scales, or amplitudes could hardly trade flux.
    scales = np.diag(normal).copy()
    total_row = total_scale * link[:, AMP, :].ravel()
    normal += np.outer(total_row, total_row)
    return State(free, raw, model, float(cost), 0), normal, scales, gradient.ravel()
