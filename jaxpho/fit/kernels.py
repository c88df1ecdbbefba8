"""Compiled NUTS for chains that run as one vectorised program (numpyro's functional NUTS).

Two kinds share the density. Whitened ones keep the identity as mass matrix: only the step size is
adapted, one for all chains, by their mean acceptance (Robbins & Monro 1951). Ordinary ones adapt a
step size and a mass matrix for every chain in numpyro's windows, as a reference to compare with.
"""

from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from numpyro.infer.hmc import hmc
from numpyro.infer.util import ParamInfo, log_density

from jaxpho.fit.marginal import draw_linear
from jaxpho.fit.models import marginal_model, unwhiten, unwhiten_all, whitened_model
from jaxpho.fit.posterior import Static
from jaxpho.fit.target import Arguments, MarginalArguments
from jaxpho.fit.transforms import physical

CHUNK = 25
"""Iterations of one call of the compiled program: warm-up and draws share it."""
RATE, SLOWER_AFTER = 1.0, 5.0
"""Of the adaptation: change of the step's logarithm by acceptance, iterations."""
SHORT_DEPTH = 2
"""Depth of trees to begin with."""
LONG_PHASE = 10**6
"""numpyro has one depth for its warm-up, whose length this is, and one for later iterations."""


class Settings(NamedTuple):
    """What a sampling program is compiled for.

    Attributes
    ----------
    static : Static
    max_tree_depth : int
    marginal : bool
        Fluxes and sky are integrated out.
    adapts : str
        "" for whitened chains, or "dense" or "diagonal": numpyro adapts such a mass matrix.
    num_warmup : int
        iterations of that adaptation.
    target_accept : float
        of that adaptation.
    """

    static: Static
    max_tree_depth: int
    marginal: bool = False
    adapts: str = ""
    num_warmup: int = LONG_PHASE
    target_accept: float = 0.8


class Adaptation(NamedTuple):
    """Of the step size: iterations so far, the acceptance to reach, and whether it goes on."""

    count: jax.Array
    target: float
    active: float


class Sampler:
    """Compiled starts and steps of vectorised chains."""

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
        s = self.settings
        common = {"model_args": tuple(arguments), "rng_key": key, "step_size": step_size}
        start = ParamInfo(xi, energy, gradient)
        if s.adapts:
            dense = s.adapts == "dense"
            state = self._init(
                start, num_warmup=s.num_warmup, dense_mass=dense, max_tree_depth=s.max_tree_depth,
                target_accept_prob=s.target_accept, **common,
            )  # fmt: skip
        else:
            state = self._init(
                start, num_warmup=s.num_warmup, adapt_step_size=False, adapt_mass_matrix=False,
                inverse_mass_matrix=jnp.ones_like(xi),
                max_tree_depth=(min(SHORT_DEPTH, s.max_tree_depth), s.max_tree_depth), **common,
            )  # fmt: skip
        return _strong(state)

    def _advance(self, state, arguments: Arguments, adaptation: Adaptation):
        """`CHUNK` iterations of all chains; draws of xi and statistics are collected."""
        sample = jax.vmap(lambda s: self._sample(s, model_args=tuple(arguments)))

        def step(carry, _):
            state, count = carry
            size = state.adapt_state.step_size
            state = sample(state)
            if not self.settings.adapts:
                rate = adaptation.active * RATE / (1.0 + count / SLOWER_AFTER) ** 0.75
                missing = jnp.mean(state.accept_prob) - adaptation.target
                state = with_step_size(state, size[0] * jnp.exp(rate * missing))
            statistics = (
                size, state.diverging, state.num_steps, state.accept_prob, state.energy,
                state.potential_energy,
            )  # fmt: skip
            return (state, count + 1.0), (state.z, *statistics)

        start = state, adaptation.count
        (state, _), (xi, *statistics) = lax.scan(step, start, length=CHUNK)
        return _strong(state), xi, *statistics

    def _finish(self, key, xi, arguments):
        """Draws of theta [draw, chain, n] of those of xi."""

        def one(key, xi):
            a = arguments
            if self.settings.marginal:
                z, _ = unwhiten(xi, a.layout, a.factor, a.positive)
                return draw_linear(key, z, a.problem, a.layout, a.reference, self.settings.static)
            z, _ = unwhiten_all(xi, a.centre, a.factor, a.positive)
            return physical(z, a.problem.transform)

        keys = jax.random.split(key, xi.shape[:2])
        return lax.map(lambda a: jax.vmap(one)(*a), (keys, xi))


@lru_cache(maxsize=16)
def sampler_of(settings: Settings) -> Sampler:
    """One object per configuration: compiled programs live on it."""
    return Sampler(settings)


def with_step_size(state, step_size):
    """The state of vectorised chains with one step size for all."""
    sizes = jnp.full_like(state.adapt_state.step_size, step_size)
    return state._replace(adapt_state=state.adapt_state._replace(step_size=sizes))


def shrunk(state, factor: float):
    """The state of vectorised chains with every chain's step size made smaller."""
    sizes = state.adapt_state.step_size * jnp.asarray(factor, state.adapt_state.step_size.dtype)
    return state._replace(adapt_state=state.adapt_state._replace(step_size=sizes))


def with_long_trajectories(state):
    """The state of vectorised chains past the phase of short trees."""
    return state._replace(i=jnp.full_like(state.i, LONG_PHASE))


def _strong(tree):
    """No weak types: a state that comes from a file must fit the same compiled program."""
    return jax.tree.map(lambda a: lax.convert_element_type(a, a.dtype), tree)
