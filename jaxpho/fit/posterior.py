"""The posterior of a patch as pure functions of z, and its normal equations.

Everything that changes from patch to patch is in the pytree `Problem`; what a compiled program is
specialised on is in the (hashable) `Static`. Patches of one bucket share programs.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxpho.core.blocks import TwoSum
from jaxpho.core.fisher import normal_equations
from jaxpho.core.general import delta_deviance, general_normal
from jaxpho.core.likelihood import delta_chi2
from jaxpho.core.patch import Patch
from jaxpho.core.pixel import PixelMode
from jaxpho.core.render import render
from jaxpho.core.scene import Mixture, Scene, row_gaussians, scene_rows
from jaxpho.fit.transforms import (
    Transform,
    coordinate,
    inverse,
    log_volume,
    physical,
    prior_curvature,
    prior_energy,
)


class Static(NamedTuple):
    """What programs are compiled for."""

    mode: PixelMode = "fourth"
    width: int = 1


DEFAULT_STATIC = Static()
HIGHEST = jax.lax.Precision.HIGHEST  # on GPUs float32 products default to TF32


class Problem(NamedTuple):
    """A patch with its scene, transforms and Sersic mixture."""

    patch: Patch
    scene: Scene
    transform: Transform
    mixture: Mixture


class Evaluation(NamedTuple):
    """Normal equations in z; chi2 relative to the reference as high + low.

    ``energy`` is minus the log prior (and volume) density; ``gradient`` and ``curvature`` [n, n]
    are those of chi2 / 2 + energy.
    """

    chi2: TwoSum
    energy: Array
    gradient: Array
    curvature: Array
    theta: Array


def _energy(z: Array, tr: Transform, volume: Array | float) -> Array:
    return prior_energy(z, tr) - volume * log_volume(z, tr)


@partial(jax.jit, static_argnames=("static", "linear_only"))
def evaluate(
    z: Array,
    problem: Problem,
    reference: Array | None = None,
    *,
    static: Static = DEFAULT_STATIC,
    linear_only: bool = False,
    volume: Array | float = 0.0,
) -> Evaluation:
    """chi2, gradient and Gauss-Newton matrix of the posterior at z.

    Parameters
    ----------
    z : Array
        [n] unconstrained parameters.
    problem : Problem
    reference : Array, optional
        [M, N] model that chi2 is relative to.
    static : Static
    linear_only : bool
        Derivatives with respect to fluxes and sky only (cheaper).
    volume : float
        0 for the density in the natural coordinates, 1 for that in z, as the sampler sees it.
    """
    patch, scene, tr, mixture = problem
    theta = physical(z, tr)
    equations = normal_equations if patch.noise is None else general_normal
    normal = equations(
        theta, scene, patch, mixture, reference, static.mode, linear_only, static.width
    )
    slope = jax.jacfwd(coordinate)(z, tr)
    jacobian = slope * jnp.where(tr.log, theta, 1.0)[:, None]
    half = jnp.matmul(normal.fisher, jacobian, precision=HIGHEST)
    fisher = jnp.matmul(jacobian.T, half, precision=HIGHEST)
    energy, pull = jax.value_and_grad(_energy)(z, tr, volume)
    gradient = jnp.matmul(normal.gradient, jacobian, precision=HIGHEST) + pull
    curvature = fisher + prior_curvature(slope, z, tr, volume)
    chi2 = TwoSum(normal.chi2.high.sum(), normal.chi2.low.sum())
    return Evaluation(chi2, energy, gradient, curvature, theta)


def gaussians_of(theta: Array, problem: Problem) -> tuple[Array, Array]:
    """Stacked Gaussians [E, 6, n] and sky [E, 3] of physical parameters."""
    patch, scene, _, mixture = problem
    rows = scene_rows(theta, scene, patch)
    return row_gaussians(rows, scene, patch, mixture), rows.sky


@partial(jax.jit, static_argnames="static")
def model_of(theta: Array, problem: Problem, static: Static = DEFAULT_STATIC) -> Array:
    """Model [M, N] of all pixels."""
    return render(*gaussians_of(theta, problem), problem.patch, static.mode)


def delta_of(theta: Array, problem: Problem, reference: Array | None, static: Static) -> TwoSum:
    """chi2 (-2 ln likelihood for other noise) per exposure [E] relative to the reference."""
    gauss, sky = gaussians_of(theta, problem)
    delta = delta_chi2 if problem.patch.noise is None else delta_deviance
    return delta(gauss, sky, problem.patch, reference, static.mode, static.width)


def log_likelihood(
    theta: Array, problem: Problem, reference: Array | None = None, static: Static = DEFAULT_STATIC
) -> Array:
    """-chi2/2 relative to the reference model; differentiable in reverse mode."""
    total = delta_of(theta, problem, reference, static)
    return -0.5 * (total.high.sum() + total.low.sum())


def log_density(
    z: Array, problem: Problem, reference: Array | None = None, static: Static = DEFAULT_STATIC
) -> Array:
    """Log posterior density in z (likelihood, priors and volume), up to a constant."""
    likelihood = log_likelihood(physical(z, problem.transform), problem, reference, static)
    return likelihood - _energy(z, problem.transform, 1.0)


@jax.jit
def prior_matrix(z: Array, tr: Transform, volume: Array | float) -> Array:
    """Curvature of the priors in z, [n, n]; ``volume`` as for `evaluate`."""
    return prior_curvature(jax.jacfwd(coordinate)(z, tr), z, tr, volume)


to_physical = jax.jit(physical)
to_unconstrained = jax.jit(inverse, static_argnames="margin")


@jax.jit
def physical_jacobian(z: Array, tr: Transform) -> Array:
    """d theta / d z, [n, n]."""
    return jax.jacfwd(physical)(z, tr)
