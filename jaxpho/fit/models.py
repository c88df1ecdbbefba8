"""The posterior as a numpyro model.

`scene_model` (of `jaxpho.fit.scene_model`) has a site for each physical parameter, for models of
one's own; the two here have one site of whitened coordinates, for the samplers of this package.
"""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import Array

from jaxpho.fit.marginal import Layout, conditional, place
from jaxpho.fit.positive import Positive, fold, log_slope
from jaxpho.fit.posterior import DEFAULT_STATIC, Problem, Static, log_density
from jaxpho.fit.scene_model import SceneModel, scene_model
from jaxpho.fit.transforms import physical

__all__ = ["SceneModel", "marginal_model", "scene_model", "unwhiten", "whitened_model"]


def whitened_model(
    problem: Problem,
    centre: Array,
    factor: Array,
    reference: Array,
    positive: Positive | None = None,
    static: Static = DEFAULT_STATIC,
):
    """numpyro model of a patch in whitened coordinates.

    One site ``xi`` [n] with ``z = centre + factor xi``: when ``factor`` is the inverse Cholesky
    factor of the curvature at the mode, the posterior is near a unit normal and an identity mass
    matrix is right from the start. ``theta`` holds the physical parameters.

    Parameters
    ----------
    problem : Problem
    centre : Array
        [n] mode in z.
    factor : Array
        [n, n] lower or upper triangular factor, ``factor factor^T`` the covariance at the mode.
    reference : Array
        [M, N] model at the mode; chi2 is relative to it.
    positive : Positive, optional
        Parameters that must not be negative; ``centre + factor xi`` are then its coordinates.
    static : Static
    """
    n = centre.shape[0]
    xi = numpyro.sample("xi", dist.ImproperUniform(dist.constraints.real_vector, (), (n,)))
    z, volume = unwhiten_all(xi, centre, factor, positive)
    numpyro.deterministic("theta", physical(z, problem.transform))
    numpyro.factor("posterior", log_density(z, problem, reference, static) + volume)


def marginal_model(
    problem: Problem,
    layout: Layout,
    factor: Array,
    reference: Array,
    positive: Positive | None = None,
    static: Static = DEFAULT_STATIC,
):
    """numpyro model of a patch with fluxes and sky integrated out, in whitened coordinates.

    One site ``xi`` [k], with the sampled entries of z at ``base + factor xi``; ``theta`` has the
    linear parameters at their values of the mode: `jaxpho.fit.marginal.draw_linear` draws them.

    Parameters
    ----------
    problem : Problem
    layout : Layout
    factor : Array
        [k, k] as for `whitened_model`, of the sampled parameters.
    reference : Array
        [M, N] model that chi2 is relative to.
    positive : Positive, optional
        [n] as for `whitened_model`; of the sampled parameters only.
    static : Static
    """
    k = layout.nonlinear.shape[0]
    xi = numpyro.sample("xi", dist.ImproperUniform(dist.constraints.real_vector, (), (k,)))
    nonlinear, volume = unwhiten(xi, layout, factor, positive)
    numpyro.deterministic(
        "theta", physical(place(layout.base, nonlinear, layout), problem.transform)
    )
    found = conditional(nonlinear, problem, layout, reference, static)
    numpyro.factor("posterior", volume - found.energy)


def unwhiten_all(xi: Array, centre: Array, factor: Array, positive: Positive | None = None):
    """z [n] at whitened coordinates, and the logarithm of the map's volume beyond the linear."""
    y = centre + jnp.sum(factor * xi, -1)
    return fold(y, positive), log_slope(y, positive)


def unwhiten(xi: Array, layout: Layout, factor: Array, positive: Positive | None = None):
    """The same for the sampled entries of z [k]; padding starts from zero."""
    n = layout.base.shape[0]
    pad = layout.nonlinear >= n
    at = jnp.minimum(layout.nonlinear, n - 1)
    y = jnp.where(pad, 0.0, layout.base[at]) + jnp.sum(factor * xi, -1)
    if positive is not None:
        positive = Positive(positive.on[at] & ~pad, positive.floor[at], positive.width[at])
    return fold(y, positive), log_slope(y, positive)
