"""NUTS in coordinates whitened by the Fisher matrix at the mode.

After whitening the posterior is close to a unit normal: the mass matrix stays the identity, only
the step size is adapted, and trajectories of all chains have nearly the same length, so chains run
as one vectorised program.
"""

from dataclasses import dataclass
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.diagnostics import effective_sample_size, split_gelman_rubin
from numpyro.infer.hmc import hmc
from numpyro.infer.util import log_density

from jaxpho.fit.models import whitened_model
from jaxpho.fit.optimize import Optimum
from jaxpho.fit.options import SampleOptions
from jaxpho.fit.posterior import HIGHEST, Problem, Static, model_of
from jaxpho.fit.transforms import physical

CHUNK = 25
"""Iterations of one call of the compiled program: warm-up and draws share it."""
SHRINK_BELOW, SHRINK = 0.7, 0.7
"""A round in which a chain accepts less than this share of the target makes the step smaller."""


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


class Arguments(NamedTuple):
    """What the sampled density depends on, see `whitened_model`."""

    problem: Problem
    centre: jax.Array
    factor: jax.Array
    reference: jax.Array


class Settings(NamedTuple):
    """What a sampling program is compiled for."""

    static: Static
    num_warmup: int
    target_accept: float
    max_tree_depth: int


class _Sampler:
    """Compiled starts and steps of vectorised chains (numpyro's functional NUTS)."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self._init, self._sample = hmc(potential_fn_gen=self._potential, algo="NUTS")
        self.begin = jax.jit(jax.vmap(self._begin, (0, 0, None)))
        self.advance = jax.jit(self._advance)

    def _potential(self, *arguments):
        model = partial(whitened_model, static=self.settings.static)

        def energy(xi):
            return -log_density(model, arguments, {}, {"xi": xi})[0]

        return energy

    def _begin(self, key, xi, arguments: Arguments):
        return self._init(
            xi,
            num_warmup=self.settings.num_warmup,
            step_size=0.5,
            adapt_mass_matrix=False,
            target_accept_prob=self.settings.target_accept,
            max_tree_depth=self.settings.max_tree_depth,
            find_heuristic_step_size=False,
            model_args=tuple(arguments),
            rng_key=key,
        )

    def _advance(self, state, arguments: Arguments):
        """`CHUNK` iterations of all chains; draws of theta and statistics are collected."""
        sample = jax.vmap(lambda s: self._sample(s, model_args=tuple(arguments)))

        def step(state, _):
            state = sample(state)
            return state, (state.z, state.diverging, state.num_steps, state.accept_prob)

        state, (xi, *statistics) = jax.lax.scan(step, state, length=CHUNK)
        z = arguments.centre + jnp.einsum("ij,dcj->dci", arguments.factor, xi, precision=HIGHEST)
        theta = jax.vmap(jax.vmap(lambda x: physical(x, arguments.problem.transform)))(z)
        return state, theta, *statistics


@lru_cache(maxsize=16)
def _sampler(settings: Settings) -> _Sampler:
    """One object per configuration: compiled programs live on it."""
    return _Sampler(settings)


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
    warmup_chunks = -(-options.num_warmup // CHUNK)
    draw_chunks = -(-options.num_samples // CHUNK)
    sampler = _sampler(
        Settings(static, warmup_chunks * CHUNK, options.target_accept, options.max_tree_depth)
    )
    arguments = Arguments(
        problem,
        jnp.asarray(mode.z, dtype),
        jnp.asarray(whitening(mode.curvature), dtype),
        model_of(jnp.asarray(mode.theta, dtype), problem, static),
    )
    start_key, key = jax.random.split(key)
    start = 0.5 * jax.random.normal(start_key, (options.num_chains, len(mode.z)), dtype)
    state = sampler.begin(jax.random.split(key, options.num_chains), start, arguments)
    warmup = 0
    for _ in range(warmup_chunks):
        state, _, _, steps, _ = sampler.advance(state, arguments)
        warmup += int(steps.sum())
    # One chain's short adaptation can end at a step that leaves it stuck; all together cannot.
    state = with_step_size(state, float(np.median(state.adapt_state.step_size)))
    parts, statistics = [], []
    for rounds in range(1, options.max_rounds + 1):  # noqa: B007 (reported)
        for _ in range(draw_chunks):
            state, theta, *found = sampler.advance(state, arguments)
            parts.append(np.asarray(theta))
            statistics.append([np.asarray(a) for a in found])
        # [draw, chain, n] -> [chain, draw, n]
        theta = np.swapaxes(np.concatenate(parts), 0, 1)
        rhat, ess = diagnose(theta)
        if np.nanmax(rhat) < options.max_rhat and np.nanmin(ess) > options.min_ess:
            break
        accepted = np.concatenate([a[-1] for a in statistics[-draw_chunks:]])
        worst = accepted.mean(0).min()  # of the chains, in this round
        if worst < SHRINK_BELOW * options.target_accept:
            state = with_step_size(state, SHRINK * float(state.adapt_state.step_size[0]))
    diverging, steps, accept = (np.concatenate(a) for a in zip(*statistics, strict=True))
    return Draws(
        theta=theta,
        rhat=rhat,
        ess=ess,
        divergences=int(diverging.sum()),
        gradients=int(steps.sum()),
        warmup_gradients=warmup,
        accept=float(accept.mean()),
        step_size=float(np.mean(state.adapt_state.step_size)),
        rounds=rounds,
    )


def with_step_size(state, step_size: float):
    """The state of vectorised chains with one step size for all."""
    sizes = jnp.full_like(state.adapt_state.step_size, step_size)
    return state._replace(adapt_state=state.adapt_state._replace(step_size=sizes))


def diagnose(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split R-hat and effective sample size [n] of draws [chains, draws, n]."""
    x = np.asarray(theta, np.float64)
    with np.errstate(all="ignore"):
        return split_gelman_rubin(x), effective_sample_size(x)
