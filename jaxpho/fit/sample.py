"""NUTS in coordinates whitened by the Fisher matrix at the mode.

After whitening the posterior is close to a unit normal: the mass matrix stays the identity, only
the step size is adapted, and trajectories of all chains have nearly the same length, so chains run
as one vectorised program.
"""

from dataclasses import dataclass
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.diagnostics import effective_sample_size, split_gelman_rubin
from numpyro.infer import MCMC, NUTS

from jaxpho.fit.models import whitened_model
from jaxpho.fit.optimize import Optimum
from jaxpho.fit.options import SampleOptions
from jaxpho.fit.posterior import Problem, Static, model_of

_FIELDS = ("diverging", "num_steps", "accept_prob", "adapt_state.step_size")


@dataclass
class Draws:
    """Draws of the posterior and how the sampler fared.

    Attributes
    ----------
    theta : ndarray
        [chains, draws, n] physical parameters.
    rhat, ess : ndarray
        [n] split R-hat and effective sample size.
    divergences, gradients : int
        after warm-up; gradients are leapfrog steps summed over chains.
    warmup_gradients : int
    accept, step_size : float
    rounds : int
    """

    theta: np.ndarray
    rhat: np.ndarray
    ess: np.ndarray
    divergences: int
    gradients: int
    warmup_gradients: int
    accept: float
    step_size: float
    rounds: int


@lru_cache(maxsize=32)
def _sampler(static: Static, options: tuple) -> MCMC:
    """One MCMC object per configuration: numpyro caches compiled programs on it."""
    warmup, samples, chains, accept, depth = options
    kernel = NUTS(
        partial(whitened_model, static=static),
        adapt_mass_matrix=False,
        target_accept_prob=accept,
        max_tree_depth=depth,
        step_size=0.5,
    )
    return MCMC(
        kernel,
        num_warmup=warmup,
        num_samples=samples,
        num_chains=chains,
        chain_method="vectorized",
        progress_bar=False,
        jit_model_args=True,
    )


def whitening(curvature: np.ndarray) -> np.ndarray:
    """Factor W with W W^T the inverse of a curvature matrix, stable for any scaling."""
    scale = 1.0 / np.sqrt(np.maximum(np.diag(curvature), 1e-30))
    scaled = curvature * np.outer(scale, scale)
    value, basis = np.linalg.eigh(scaled)
    value = np.maximum(value, 1e-8 * value.max())
    # a symmetric root mixes parameters least: each xi stays close to its own parameter
    return scale[:, None] * ((basis / np.sqrt(value)) @ basis.T)


def sample(
    key: jax.Array, mode: Optimum, problem: Problem, options: SampleOptions, static: Static
) -> Draws:
    """Draw from the posterior of a patch.

    Parameters
    ----------
    key : Array
        PRNG key.
    mode : Optimum
        Mode of the density in z (``with_volume=True``).
    problem : Problem
    options : SampleOptions
    static : Static

    Returns
    -------
    Draws
    """
    dtype = problem.patch.data.dtype
    centre = jnp.asarray(mode.z, dtype)
    factor = jnp.asarray(whitening(mode.curvature), dtype)
    reference = model_of(jnp.asarray(mode.theta, dtype), problem, static)
    mcmc = _sampler(
        static,
        (
            options.num_warmup,
            options.num_samples,
            options.num_chains,
            options.target_accept,
            options.max_tree_depth,
        ),
    )
    start_key, key = jax.random.split(key)
    shape = (options.num_chains, len(mode.z))
    start = 0.5 * jax.random.normal(start_key, shape, dtype)
    if options.num_chains == 1:
        start = start[0]
    arguments = (problem, centre, factor, reference)
    mcmc.post_warmup_state = None
    mcmc.warmup(
        key, *arguments, init_params={"xi": start}, extra_fields=_FIELDS, collect_warmup=True
    )
    warmup = int(np.sum(np.asarray(mcmc.get_extra_fields()["num_steps"])))
    parts, extra = [], []
    for rounds in range(1, options.max_rounds + 1):  # noqa: B007 (reported)
        mcmc.run(mcmc.post_warmup_state.rng_key, *arguments, extra_fields=_FIELDS)
        parts.append(np.asarray(mcmc.get_samples(group_by_chain=True)["theta"]))
        extra.append(jax.tree.map(np.asarray, mcmc.get_extra_fields(group_by_chain=True)))
        mcmc.post_warmup_state = mcmc.last_state
        theta = np.concatenate(parts, 1)
        rhat, ess = diagnose(theta)
        if np.nanmax(rhat) < options.max_rhat and np.nanmin(ess) > options.min_ess:
            break

    def total(name):
        return sum(np.sum(e[name]) for e in extra)

    return Draws(
        theta=theta,
        rhat=rhat,
        ess=ess,
        divergences=int(total("diverging")),
        gradients=int(total("num_steps")),
        warmup_gradients=warmup,
        accept=float(np.mean([e["accept_prob"].mean() for e in extra])),
        step_size=float(np.mean(extra[-1]["adapt_state.step_size"])),
        rounds=rounds,
    )


def diagnose(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split R-hat and effective sample size [n] of draws [chains, draws, n]."""
    x = np.asarray(theta, np.float64)
    with np.errstate(all="ignore"):
        return split_gelman_rubin(x), effective_sample_size(x)
