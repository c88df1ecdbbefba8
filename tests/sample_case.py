"""Small problems that the tests of samplers share."""

from functools import cache

import jax.numpy as jnp
import numpy as np
from fit_case import draw, make_case, remake

from jaxpho.data.exposure import Nuisance
from jaxpho.fit.posterior import model_of
from jaxpho.fit.target import whitening

TYPES = ("sersic", "point", "point", "point")


@cache
def case_of(kind):
    """One structure, so that both share the compiled sampler.

    "linear": positions and shapes held, fluxes and skies free. "galaxy": one galaxy free beside
    held stars.
    """
    s = remake(draw(6, TYPES, nuisances=True, flux=600.0), np.random.default_rng(3))
    if kind == "linear":
        sky = [Nuisance(sky="constant", sky_sigma=0.3)] * 2
        held = (("position", "shape"), *[("position",)] * 3)
        return make_case(s, held, nuisances=sky)
    s = remake(draw(6, TYPES, flux=600.0), np.random.default_rng(3))
    return make_case(s, ((), *[("all",)] * 3))


@cache
def mode_of(kind):
    return case_of(kind).optimize(with_volume=True)


@cache
def arguments(kind):
    """Arguments of `jaxpho.fit.models.whitened_model`."""
    case, mode = case_of(kind), mode_of(kind)
    factor = jnp.asarray(whitening(mode.curvature), jnp.float32)
    theta = jnp.asarray(mode.theta, jnp.float32)
    return (
        case.problem, jnp.asarray(mode.z, jnp.float32), factor, model_of(theta, case.problem),
    )  # fmt: skip
