"""NUTS in coordinates whitened by the Fisher matrix at the mode.

After whitening the posterior is close to a unit normal: the mass matrix stays the identity and only
the step size is adapted, one for all chains, by their mean acceptance (Robbins & Monro 1951; the
average of the second half is kept), which takes a dozen iterations. Trajectories of three steps,
half a turn of a unit normal, are then the best: longer ones come back to where they began at two to
five times the cost. Where a posterior is so far from normal that they do not suffice, NUTS may
choose longer ones. Chains run as one vectorised program.
"""

import logging
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer.hmc import hmc
from numpyro.infer.util import ParamInfo, log_density

from jaxpho.fit.draws import STATISTICS, Draws, Record, diagnose
from jaxpho.fit.marginal import draw_linear
from jaxpho.fit.models import marginal_model, unwhiten, whitened_model
from jaxpho.fit.optimize import Optimum
from jaxpho.fit.options import SampleOptions
from jaxpho.fit.posterior import Problem, Static
from jaxpho.fit.target import (
    Arguments,
    MarginalArguments,
    make_arguments,
    starting_energies,
    whitening,
)
from jaxpho.fit.transforms import physical

log = logging.getLogger("jaxpho.fit")

CHUNK = 25
"""Iterations of one call of the compiled program: warm-up and draws share it."""
STEP_SIZE, RATE, SLOWER_AFTER = 0.8, 1.0, 5.0
"""Of the adaptation: the first step, change of its logarithm by acceptance, iterations."""
SHRINK_BELOW, SHRINK = 0.7, 0.7
"""A round in which a chain accepts less than this share of the target makes the step smaller."""
SHORT_DEPTH, SHORT_ENOUGH = 2, 0.1
"""Depth of trees to begin with, and the effective samples a draw below which they may grow."""
_SHORT_PHASE = 10**6
"""numpyro has one depth for its warm-up, whose length this is, and one for later iterations."""
TRIALS = 8
"""Times that the first draws may be thrown away for a smaller step."""


class Settings(NamedTuple):
    """What a sampling program is compiled for."""

    static: Static
    max_tree_depth: int
    marginal: bool = False


class Adaptation(NamedTuple):
    """Of the step size: iterations so far, the acceptance to reach, and whether it goes on."""

    count: jax.Array
    target: float
    active: float


class _Sampler:
    """Compiled starts and steps of vectorised chains (numpyro's functional NUTS)."""

    def __init__(self, settings: Settings):
        self.settings = settings
        model = marginal_model if settings.marginal else whitened_model
        kind = MarginalArguments if settings.marginal else Arguments
        model = partial(model, static=settings.static)

        # compiled on its own, or every place in the tree that needs it would trace it again
        @jax.jit
        def energy(xi, arguments):
            return -log_density(model, tuple(arguments), {}, {"xi": xi})[0]

        self._init, self._sample = hmc(
            potential_fn_gen=lambda *a: lambda xi: energy(xi, kind(*a)), algo="NUTS"
        )
        self.begin = jax.jit(jax.vmap(self._begin, (0, 0, 0, 0, None, None)))
        self.advance = jax.jit(self._advance)
        self.finish = jax.jit(self._finish)

    def _begin(self, key, xi, energy, gradient, arguments: Arguments, step_size):
        longest = self.settings.max_tree_depth
        return self._init(
            ParamInfo(xi, energy, gradient),
            num_warmup=_SHORT_PHASE,
            step_size=step_size,
            adapt_step_size=False,
            adapt_mass_matrix=False,
            inverse_mass_matrix=jnp.ones_like(xi),
            max_tree_depth=(min(SHORT_DEPTH, longest), longest),
            model_args=tuple(arguments),
            rng_key=key,
        )

    def _advance(self, state, arguments: Arguments, adaptation: Adaptation):
        """`CHUNK` iterations of all chains; draws of xi and statistics are collected."""
        sample = jax.vmap(lambda s: self._sample(s, model_args=tuple(arguments)))

        def step(carry, _):
            state, count = carry
            size = state.adapt_state.step_size[0]
            state = sample(state)
            rate = adaptation.active * RATE / (1.0 + count / SLOWER_AFTER) ** 0.75
            missing = jnp.mean(state.accept_prob) - adaptation.target
            state = with_step_size(state, size * jnp.exp(rate * missing))
            statistics = (
                size, state.diverging, state.num_steps, state.accept_prob, state.energy,
                state.potential_energy,
            )  # fmt: skip
            return (state, count + 1.0), (state.z, *statistics)

        start = state, adaptation.count
        (state, _), (xi, *statistics) = jax.lax.scan(step, start, length=CHUNK)
        return state, xi, *statistics

    def _finish(self, key, xi, arguments):
        """Draws of theta [draw, chain, n] of those of xi."""

        def one(key, xi):
            a = arguments
            if self.settings.marginal:
                z = unwhiten(xi, a.layout, a.factor)
                return draw_linear(key, z, a.problem, a.layout, a.reference, self.settings.static)
            return physical(a.centre + jnp.sum(a.factor * xi, -1), a.problem.transform)

        keys = jax.random.split(key, xi.shape[:2])
        return jax.lax.map(lambda a: jax.vmap(one)(*a), (keys, xi))


@lru_cache(maxsize=16)
def _sampler(settings: Settings) -> _Sampler:
    """One object per configuration: compiled programs live on it."""
    return _Sampler(settings)


def sample(
    key: jax.Array,
    mode: Optimum,
    problem: Problem,
    options: SampleOptions,
    static: Static,
    linear: np.ndarray | None = None,
    label: str = "",
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
    linear : ndarray, optional
        [n] bool, what ``method="marginal"`` integrates over.
    label : str
        Begins the lines of the log, one after each round of draws.

    Returns
    -------
    Draws
    """
    # numpyro draws momenta in the process's default precision, which must be the patch's
    with jax.enable_x64(problem.patch.data.dtype == jnp.float64):
        return _sample(key, mode, problem, options, static, linear, label)


def _sample(key, mode, problem, options, static, linear, label) -> Draws:
    dtype = problem.patch.data.dtype
    warmup_chunks = -(-options.num_warmup // CHUNK)
    draw_chunks = -(-options.num_samples // CHUNK)
    marginal = options.method == "marginal"
    sampler = _sampler(Settings(static, options.max_tree_depth, marginal))
    factor = whitening(mode.curvature)
    mass_matrix = np.linalg.inv(factor @ factor.T)
    start_key, chain_key, warmup_key, draw_key = jax.random.split(key, 4)
    arguments = make_arguments(mode, problem, static, linear if marginal else None)
    xi = 0.5 * jax.random.normal(start_key, (options.num_chains, len(arguments.factor)), dtype)
    state = sampler.begin(
        jax.random.split(chain_key, options.num_chains), xi,
        *starting_energies(xi, arguments, static), arguments, STEP_SIZE,
    )  # fmt: skip

    def keep(record, key, xi, found):
        """Add a chunk to a record; its draws are the same whatever came before it."""
        key = jax.random.fold_in(key, len(record.theta))
        record.add(sampler.finish(key, xi, arguments), found)

    warmup = Record()
    for chunk in range(warmup_chunks):
        adaptation = Adaptation(float(chunk * CHUNK), options.target_accept, 1.0)
        state, xi, *found = sampler.advance(state, arguments, adaptation)
        keep(warmup, warmup_key, xi, found)
    sizes = np.log(warmup.all("step_size"))
    step = float(np.exp(sizes[len(sizes) // 2 :].mean()))
    # the first draws count only if every chain moved
    constant = Adaptation(0.0, options.target_accept, 0.0)
    for _ in range(TRIALS):
        state = with_step_size(state, step)
        after, xi, *found = sampler.advance(state, arguments, constant)
        if _moving(found[STATISTICS.index("accept")], options):
            break
        state, step = after, SHRINK * step
        keep(warmup, warmup_key, xi, found)
    draws = Record()
    keep(draws, draw_key, xi, found)
    state = after
    for rounds in range(1, options.max_rounds + 1):
        while len(draws.theta) < rounds * draw_chunks:
            state, xi, *found = sampler.advance(state, arguments, constant)
            keep(draws, draw_key, xi, found)
        theta = draws.chains()
        rhat, ess = diagnose(theta)
        spent = warmup.all("n_steps").sum() + draws.all("n_steps").sum()
        log.info(
            "%sround %d of at most %d: min ESS %.0f, max R-hat %.3f, %d gradients so far",
            label, rounds, options.max_rounds, np.nanmin(ess), np.nanmax(rhat), spent,
        )  # fmt: skip
        if np.nanmax(rhat) < options.max_rhat and np.nanmin(ess) > options.min_ess:
            break
        if np.nanmin(ess) < SHORT_ENOUGH * theta.shape[0] * theta.shape[1]:
            state = state._replace(i=jnp.full_like(state.i, _SHORT_PHASE))
        if not _moving(draws.all("accept", draw_chunks), options):
            step *= SHRINK
            state = with_step_size(state, step)
    return Draws(
        theta=theta,
        rhat=rhat,
        ess=ess,
        divergences=int(draws.all("diverging").sum()),
        gradients=int(draws.all("n_steps").sum()),
        warmup_gradients=int(warmup.all("n_steps").sum()),
        accept=float(draws.all("accept").mean()),
        step_size=step,
        rounds=rounds,
        statistics=draws.statistics(),
        warmup=warmup.chains(),
        warmup_statistics=warmup.statistics(),
        mass_matrix_initial=mass_matrix,
        mass_matrix_final=mass_matrix,
    )


def _moving(accept, options: SampleOptions) -> bool:
    """Whether every chain accepted enough, of acceptances [draw, chain]."""
    return np.asarray(accept).mean(0).min() >= SHRINK_BELOW * options.target_accept


def with_step_size(state, step_size: float):
    """The state of vectorised chains with one step size for all."""
    sizes = jnp.full_like(state.adapt_state.step_size, step_size)
    return state._replace(adapt_state=state.adapt_state._replace(step_size=sizes))
