"""The posterior as a numpyro model."""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import Array

from jaxpho.fit.posterior import DEFAULT_STATIC, Problem, Static, log_density
from jaxpho.fit.transforms import physical


def whitened_model(
    problem: Problem,
    centre: Array,
    factor: Array,
    reference: Array,
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
    static : Static
    """
    n = centre.shape[0]
    xi = numpyro.sample("xi", dist.ImproperUniform(dist.constraints.real_vector, (), (n,)))
    z = centre + jnp.sum(factor * xi, -1)
    numpyro.deterministic("theta", physical(z, problem.transform))
    numpyro.factor("posterior", log_density(z, problem, reference, static))
