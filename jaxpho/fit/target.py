"""What is sampled: the posterior in whitened coordinates, fluxes and sky integrated out or not."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpho.fit.marginal import Layout, make_layout, place, profile, schur
from jaxpho.fit.models import unwhiten, unwhiten_all
from jaxpho.fit.optimize import Optimum
from jaxpho.fit.parameters import parameter_bucket
from jaxpho.fit.positive import Positive, energy_in_y, unfold
from jaxpho.fit.posterior import HIGHEST, Problem, Static, evaluate, model_of


class Arguments(NamedTuple):
    """What the sampled density depends on, see `whitened_model`."""

    problem: Problem
    centre: jax.Array
    factor: jax.Array
    reference: jax.Array
    positive: Positive | None = None


class MarginalArguments(NamedTuple):
    """The same with the linear parameters integrated out, see `marginal_model`."""

    problem: Problem
    layout: Layout
    factor: jax.Array
    reference: jax.Array
    positive: Positive | None = None


def whitening(curvature: np.ndarray) -> np.ndarray:
    """Factor W with W W^T the inverse of a curvature matrix, stable for any scaling."""
    scale = 1.0 / np.sqrt(np.maximum(np.diag(curvature), 1e-30))
    scaled = curvature * np.outer(scale, scale)
    value, basis = np.linalg.eigh(scaled)
    value = np.maximum(value, 1e-8 * value.max())
    # a symmetric root mixes parameters least: each xi stays close to its own parameter
    return scale[:, None] * ((basis / np.sqrt(value)) @ basis.T)


def root_of(covariance: np.ndarray) -> np.ndarray:
    """Symmetric root W of a covariance, W W^T, stable for any scaling."""
    scale = np.sqrt(np.maximum(np.diag(covariance), 1e-30))
    value, basis = np.linalg.eigh(covariance / np.outer(scale, scale))
    value = np.maximum(value, 1e-8 * value.max())
    return scale[:, None] * ((basis * np.sqrt(value)) @ basis.T)


def make_arguments(
    mode: Optimum,
    problem: Problem,
    static: Static,
    linear: np.ndarray | None = None,
    positive: Positive | None = None,
    covariance: np.ndarray | None = None,
) -> Arguments | MarginalArguments:
    """Centre, whitening and reference of the density in whitened coordinates.

    Parameters
    ----------
    mode, problem, static
        As for `jaxpho.fit.sample.sample`; with ``positive`` the mode of
        `jaxpho.fit.positive_mode.positive_mode`.
    linear : ndarray, optional
        [n] bool, what is integrated out; None for nothing.
    positive : Positive, optional
        Parameters that are kept above zero; none of them may be integrated out.
    covariance : ndarray, optional
        [n, n] covariance to whiten with; default the inverse of the curvature at the mode.
    """
    dtype = problem.patch.data.dtype
    reference = model_of(jnp.asarray(mode.theta, dtype), problem, static)
    if linear is None:
        root = whitening(mode.curvature) if covariance is None else root_of(covariance)
        centre = jnp.asarray(mode.z, dtype)
        return Arguments(problem, centre, jnp.asarray(root, dtype), reference, positive)
    layout = make_layout(mode.z.astype(dtype), linear, parameter_bucket)
    index = np.asarray(layout.nonlinear)
    index = index[index < len(mode.z)]
    factor = np.eye(len(layout.nonlinear))
    at = slice(len(index))
    if covariance is None:
        root = whitening(schur(mode.curvature, index, np.flatnonzero(linear)))
    else:
        root = root_of(covariance[np.ix_(index, index)])
    factor[at, at] = root
    return MarginalArguments(problem, layout, jnp.asarray(factor, dtype), reference, positive)


def starting_energies(xi, arguments, static: Static):
    """Potential energy and its gradient at [chain, k] points, by the optimiser's own program.

    With the linear parameters integrated out, the gradient of the determinant is left out: this is
    where the warm-up begins, and not worth a program of its own.
    """
    energies, gradients = [], []
    marginal = isinstance(arguments, MarginalArguments)
    positive = arguments.positive
    for one in np.asarray(xi, np.float64):
        one = jnp.asarray(one, xi.dtype)
        if marginal:
            layout = arguments.layout
            sampled, volume = unwhiten(one, layout, arguments.factor, positive)
            z = place(layout.base, sampled, layout)
        else:
            z, volume = unwhiten_all(one, arguments.centre, arguments.factor, positive)
        found = evaluate(z, arguments.problem, arguments.reference, static=static, volume=1.0)
        energy = 0.5 * (found.chi2.high + found.chi2.low) + found.energy
        gradient, curvature = found.gradient, found.curvature
        if positive is not None:
            energy = energy - volume
            gradient, curvature = energy_in_y(
                unfold(np.asarray(z, np.float64), positive, 1e-9), np.asarray(gradient, np.float64),
                np.asarray(curvature, np.float64), positive,
            )  # fmt: skip
            gradient, curvature = (jnp.asarray(a, xi.dtype) for a in (gradient, curvature))
        if marginal:
            energy, gradient = profile(energy, gradient, curvature, layout)
        energies.append(energy)
        gradients.append(jnp.matmul(gradient, arguments.factor, precision=HIGHEST))
    return jnp.stack(energies), jnp.stack(gradients)
