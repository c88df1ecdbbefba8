"""What is sampled: the posterior in whitened coordinates, fluxes and sky integrated out or not."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpho.fit.marginal import Layout, make_layout, place, profile, schur
from jaxpho.fit.models import unwhiten
from jaxpho.fit.optimize import Optimum
from jaxpho.fit.parameters import parameter_bucket
from jaxpho.fit.posterior import HIGHEST, Problem, Static, evaluate, model_of


class Arguments(NamedTuple):
    """What the sampled density depends on, see `whitened_model`."""

    problem: Problem
    centre: jax.Array
    factor: jax.Array
    reference: jax.Array


class MarginalArguments(NamedTuple):
    """The same with the linear parameters integrated out, see `marginal_model`."""

    problem: Problem
    layout: Layout
    factor: jax.Array
    reference: jax.Array


def whitening(curvature: np.ndarray) -> np.ndarray:
    """Factor W with W W^T the inverse of a curvature matrix, stable for any scaling."""
    scale = 1.0 / np.sqrt(np.maximum(np.diag(curvature), 1e-30))
    scaled = curvature * np.outer(scale, scale)
    value, basis = np.linalg.eigh(scaled)
    value = np.maximum(value, 1e-8 * value.max())
    # a symmetric root mixes parameters least: each xi stays close to its own parameter
    return scale[:, None] * ((basis / np.sqrt(value)) @ basis.T)


def make_arguments(
    mode: Optimum, problem: Problem, static: Static, linear: np.ndarray | None = None
) -> Arguments | MarginalArguments:
    """Centre, whitening and reference of the density in whitened coordinates.

    Parameters
    ----------
    mode, problem, static
        As for `jaxpho.fit.sample.sample`.
    linear : ndarray, optional
        [n] bool, what is integrated out; None for nothing.
    """
    dtype = problem.patch.data.dtype
    reference = model_of(jnp.asarray(mode.theta, dtype), problem, static)
    if linear is None:
        factor = jnp.asarray(whitening(mode.curvature), dtype)
        return Arguments(problem, jnp.asarray(mode.z, dtype), factor, reference)
    layout = make_layout(mode.z.astype(dtype), linear, parameter_bucket)
    index = np.asarray(layout.nonlinear)
    index = index[index < len(mode.z)]
    factor = np.eye(len(layout.nonlinear))
    at = slice(len(index))
    factor[at, at] = whitening(schur(mode.curvature, index, np.flatnonzero(linear)))
    return MarginalArguments(problem, layout, jnp.asarray(factor, dtype), reference)


def starting_energies(xi, arguments, static: Static):
    """Potential energy and its gradient at [chain, k] points, by the optimiser's own program.

    With the linear parameters integrated out, the gradient of the determinant is left out: this is
    where the warm-up begins, and not worth a program of its own.
    """
    energies, gradients = [], []
    for one in np.asarray(xi, np.float64):
        marginal = isinstance(arguments, MarginalArguments)
        if marginal:
            layout = arguments.layout
            sampled = unwhiten(jnp.asarray(one, xi.dtype), layout, arguments.factor)
            z = place(layout.base, sampled, layout)
        else:
            z = np.asarray(arguments.centre, np.float64) + np.asarray(arguments.factor) @ one
        found = evaluate(
            jnp.asarray(z, xi.dtype), arguments.problem, arguments.reference,
            static=static, volume=1.0,
        )  # fmt: skip
        energy = 0.5 * (found.chi2.high + found.chi2.low) + found.energy
        gradient = found.gradient
        if marginal:
            energy, gradient = profile(energy, gradient, found.curvature, layout)
        energies.append(energy)
        gradients.append(jnp.matmul(gradient, arguments.factor, precision=HIGHEST))
    return jnp.stack(energies), jnp.stack(gradients)
