"""NUTS in coordinates whitened by the Fisher matrix at the mode.

After whitening the posterior is close to a unit normal: the mass matrix stays the identity and only
the step size is adapted, one for all chains, by their mean acceptance (Robbins & Monro 1951; the
average of the second half is kept), which takes a dozen iterations. Trajectories of three steps,
half a turn of a unit normal, are then the best: longer ones come back to where they began at two to
five times the cost. Where a posterior is so far from normal that they do not suffice, NUTS may
choose longer ones. Chains run as one vectorised program.
"""

from dataclasses import dataclass
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.diagnostics import effective_sample_size, split_gelman_rubin
from numpyro.infer.hmc import hmc
from numpyro.infer.util import ParamInfo, log_density

from jaxpho.fit.marginal import (
    Layout,
    draw_linear,
    make_layout,
    place,
    profile,
    schur,
)
from jaxpho.fit.models import marginal_model, unwhiten, whitened_model
from jaxpho.fit.optimize import Optimum
from jaxpho.fit.options import SampleOptions
from jaxpho.fit.parameters import parameter_bucket
from jaxpho.fit.posterior import HIGHEST, Problem, Static, evaluate, model_of
from jaxpho.fit.transforms import physical

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


class MarginalArguments(NamedTuple):
    """The same with the linear parameters integrated out, see `marginal_model`."""

    problem: Problem
    layout: Layout
    factor: jax.Array
    reference: jax.Array


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
            statistics = (size, state.diverging, state.num_steps, state.accept_prob)
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


def whitening(curvature: np.ndarray) -> np.ndarray:
    """Factor W with W W^T the inverse of a curvature matrix, stable for any scaling."""
    scale = 1.0 / np.sqrt(np.maximum(np.diag(curvature), 1e-30))
    scaled = curvature * np.outer(scale, scale)
    value, basis = np.linalg.eigh(scaled)
    value = np.maximum(value, 1e-8 * value.max())
    # a symmetric root mixes parameters least: each xi stays close to its own parameter
    return scale[:, None] * ((basis / np.sqrt(value)) @ basis.T)


def sample(
    key: jax.Array,
    mode: Optimum,
    problem: Problem,
    options: SampleOptions,
    static: Static,
    linear: np.ndarray | None = None,
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

    Returns
    -------
    Draws
    """
    dtype = problem.patch.data.dtype
    warmup_chunks = -(-options.num_warmup // CHUNK)
    draw_chunks = -(-options.num_samples // CHUNK)
    marginal = options.method == "marginal"
    sampler = _sampler(Settings(static, options.max_tree_depth, marginal))
    start_key, chain_key, finish_key = jax.random.split(key, 3)
    arguments = _arguments(mode, problem, static, linear if marginal else None)
    k = len(arguments.factor)
    xi = 0.5 * jax.random.normal(start_key, (options.num_chains, k), dtype)
    state = sampler.begin(
        jax.random.split(chain_key, options.num_chains), xi, *_energies(xi, arguments, static),
        arguments, STEP_SIZE,
    )  # fmt: skip
    warmup, sizes = 0, []
    for chunk in range(warmup_chunks):
        adaptation = Adaptation(float(chunk * CHUNK), options.target_accept, 1.0)
        state, _, size, _, steps, _ = sampler.advance(state, arguments, adaptation)
        warmup += int(steps.sum())
        sizes.append(np.asarray(size))
    sizes = np.log(np.concatenate(sizes))
    step = float(np.exp(sizes[len(sizes) // 2 :].mean()))
    # the first draws count only if every chain moved
    constant = Adaptation(0.0, options.target_accept, 0.0)
    for _ in range(TRIALS):
        state = with_step_size(state, step)
        after, xi, *found = sampler.advance(state, arguments, constant)
        if _moving(found, options):
            break
        state, step = after, SHRINK * step
        warmup += int(found[2].sum())

    def finished(chunk, xi):
        """Draws of theta of a chunk: the same whatever came before it."""
        return np.asarray(sampler.finish(jax.random.fold_in(finish_key, chunk), xi, arguments))

    parts, statistics = [finished(0, xi)], [[np.asarray(a) for a in found]]
    state = after
    for rounds in range(1, options.max_rounds + 1):  # noqa: B007 (reported)
        while len(parts) < rounds * draw_chunks:
            state, xi, *found = sampler.advance(state, arguments, constant)
            parts.append(finished(len(parts), xi))
            statistics.append([np.asarray(a) for a in found])
        # [draw, chain, n] -> [chain, draw, n]
        theta = np.swapaxes(np.concatenate(parts), 0, 1)
        rhat, ess = diagnose(theta)
        if np.nanmax(rhat) < options.max_rhat and np.nanmin(ess) > options.min_ess:
            break
        if np.nanmin(ess) < SHORT_ENOUGH * theta.shape[0] * theta.shape[1]:
            state = state._replace(i=jnp.full_like(state.i, _SHORT_PHASE))
        latest = zip(*statistics[-draw_chunks:], strict=True)
        if not _moving([np.concatenate(a) for a in latest], options):
            step *= SHRINK
            state = with_step_size(state, step)
    _, diverging, steps, accept = (np.concatenate(a) for a in zip(*statistics, strict=True))
    return Draws(
        theta=theta,
        rhat=rhat,
        ess=ess,
        divergences=int(diverging.sum()),
        gradients=int(steps.sum()),
        warmup_gradients=warmup,
        accept=float(accept.mean()),
        step_size=step,
        rounds=rounds,
    )


def _arguments(mode: Optimum, problem: Problem, static: Static, linear: np.ndarray | None):
    """Centre, whitening and reference of the density, the linear parameters integrated or not."""
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


def _energies(xi, arguments, static: Static):
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


def _moving(statistics, options: SampleOptions) -> bool:
    """Whether every chain accepted enough; statistics (see `_Sampler`) are [draw, chain]."""
    accept = np.asarray(statistics[-1])
    return accept.mean(0).min() >= SHRINK_BELOW * options.target_accept


def with_step_size(state, step_size: float):
    """The state of vectorised chains with one step size for all."""
    sizes = jnp.full_like(state.adapt_state.step_size, step_size)
    return state._replace(adapt_state=state.adapt_state._replace(step_size=sizes))


def diagnose(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split R-hat and effective sample size [n] of draws [chains, draws, n].

    The effective size is the smaller one of those for the mean and for the variance: successive
    draws on opposite sides of the mean know it well, and say little about the error.
    """
    x = np.asarray(theta, np.float64)
    with np.errstate(all="ignore"):
        ess = np.minimum(_ess(x), _ess((x - x.mean((0, 1))) ** 2))
        return split_gelman_rubin(x), ess


def _ess(x):
    """Effective sample size; of draws that alternate its estimate is unbounded, then negative."""
    size = effective_sample_size(x)
    return np.where(size < 0, x.shape[0] * x.shape[1], size)
