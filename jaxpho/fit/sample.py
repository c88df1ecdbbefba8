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

from jaxpho.fit.models import whitened_model
from jaxpho.fit.optimize import Optimum
from jaxpho.fit.options import SampleOptions
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
STATISTICS = ("step_size", "diverging", "n_steps", "accept", "energy", "potential")
"""Of every iteration: step size, divergence, leapfrog steps, acceptance, total energy and minus the
log density in the whitened coordinates (both up to one constant)."""


SCALARS = ("divergences", "gradients", "warmup_gradients", "accept", "step_size", "rounds")
"""Fields of `Draws` that are one number each."""


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
    statistics : dict
        Of every draw, each [chains, draws]; see `STATISTICS`.
    warmup : ndarray
        [chains, warm-up iterations, n] physical parameters; draws that were thrown away for a
        smaller step are its last.
    warmup_statistics : dict
        As ``statistics``, of the warm-up.
    mass_matrix_initial, mass_matrix_final : ndarray
        [n, n] float64 mass matrix in the unconstrained parameters z (`jaxpho.fit.transforms`) at
        the first iteration and at the last. The coordinates are whitened with the Fisher matrix
        at the mode and only the step size is adapted: one is the other.
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
    statistics: dict[str, np.ndarray]
    warmup: np.ndarray
    warmup_statistics: dict[str, np.ndarray]
    mass_matrix_initial: np.ndarray
    mass_matrix_final: np.ndarray

    def of_parameters(self, n: int) -> dict:
        """The arrays as fields of a `PatchResult` whose first n parameters are not padding."""
        return {
            "samples": self.theta[..., :n],
            "statistics": self.statistics,
            "warmup": self.warmup[..., :n],
            "warmup_statistics": self.warmup_statistics,
            # padding is independent of the parameters: its rows and columns can be left out
            "mass_matrix_initial": self.mass_matrix_initial[:n, :n],
            "mass_matrix_final": self.mass_matrix_final[:n, :n],
        }


class Arguments(NamedTuple):
    """What the sampled density depends on, see `whitened_model`."""

    problem: Problem
    centre: jax.Array
    factor: jax.Array
    reference: jax.Array


class Settings(NamedTuple):
    """What a sampling program is compiled for."""

    static: Static
    max_tree_depth: int


class Adaptation(NamedTuple):
    """Of the step size: iterations so far, the acceptance to reach, and whether it goes on."""

    count: jax.Array
    target: float
    active: float


class _Sampler:
    """Compiled starts and steps of vectorised chains (numpyro's functional NUTS)."""

    def __init__(self, settings: Settings):
        self.settings = settings
        model = partial(whitened_model, static=settings.static)

        # compiled on its own, or every place in the tree that needs it would trace it again
        @jax.jit
        def energy(xi, arguments):
            return -log_density(model, tuple(arguments), {}, {"xi": xi})[0]

        self._init, self._sample = hmc(
            potential_fn_gen=lambda *a: lambda xi: energy(xi, Arguments(*a)), algo="NUTS"
        )
        self.begin = jax.jit(jax.vmap(self._begin, (0, 0, 0, 0, None, None)))
        self.advance = jax.jit(self._advance)

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
        """`CHUNK` iterations of all chains; draws of theta and statistics are collected."""
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
    sampler = _sampler(Settings(static, options.max_tree_depth))
    factor = whitening(mode.curvature)
    mass_matrix = np.linalg.inv(factor @ factor.T)
    arguments = Arguments(
        problem,
        jnp.asarray(mode.z, dtype),
        jnp.asarray(factor, dtype),
        model_of(jnp.asarray(mode.theta, dtype), problem, static),
    )
    start_key, key = jax.random.split(key)
    xi = 0.5 * jax.random.normal(start_key, (options.num_chains, len(mode.z)), dtype)
    state = sampler.begin(
        jax.random.split(key, options.num_chains), xi, *_energies(xi, arguments, static),
        arguments, STEP_SIZE,
    )  # fmt: skip
    warmup = _Record()
    for chunk in range(warmup_chunks):
        adaptation = Adaptation(float(chunk * CHUNK), options.target_accept, 1.0)
        state, theta, *found = sampler.advance(state, arguments, adaptation)
        warmup.add(theta, found)
    sizes = np.log(warmup.all("step_size"))
    step = float(np.exp(sizes[len(sizes) // 2 :].mean()))
    # the first draws count only if every chain moved
    constant = Adaptation(0.0, options.target_accept, 0.0)
    for _ in range(TRIALS):
        state = with_step_size(state, step)
        after, theta, *found = sampler.advance(state, arguments, constant)
        if _moving(found[STATISTICS.index("accept")], options):
            break
        state, step = after, SHRINK * step
        warmup.add(theta, found)
    draws = _Record()
    draws.add(theta, found)
    state = after
    for rounds in range(1, options.max_rounds + 1):  # noqa: B007 (reported)
        while len(draws.theta) < rounds * draw_chunks:
            state, theta, *found = sampler.advance(state, arguments, constant)
            draws.add(theta, found)
        theta = draws.chains()
        rhat, ess = diagnose(theta)
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


class _Record:
    """Draws and statistics as they come, [iteration, chain, ...] a call."""

    def __init__(self):
        self.theta: list[np.ndarray] = []
        self.found: list[list[np.ndarray]] = []

    def add(self, theta, found) -> None:
        self.theta.append(np.asarray(theta))
        self.found.append([np.asarray(a) for a in found])

    def all(self, name: str, last: int = 0) -> np.ndarray:
        """[iteration, chain] of a statistic, of the last calls only where their number is given.

        The step size, which all chains share, is [iteration].
        """
        k = STATISTICS.index(name)
        return np.concatenate([found[k] for found in self.found[-last:]])

    def chains(self) -> np.ndarray:
        """[chain, iteration, n]."""
        return np.swapaxes(np.concatenate(self.theta), 0, 1)

    def statistics(self) -> dict[str, np.ndarray]:
        """Name -> [chain, iteration]."""
        shape = self.all("accept").T.shape
        return {name: np.broadcast_to(self.all(name).T, shape) for name in STATISTICS}


def _energies(xi, arguments: Arguments, static: Static):
    """Potential energy and its gradient at [chain, n] points, by the optimiser's own program."""
    energies, gradients = [], []
    for one in np.asarray(xi, np.float64):
        z = np.asarray(arguments.centre, np.float64) + np.asarray(arguments.factor) @ one
        found = evaluate(
            jnp.asarray(z, xi.dtype), arguments.problem, arguments.reference,
            static=static, volume=1.0,
        )  # fmt: skip
        energies.append(0.5 * (found.chi2.high + found.chi2.low) + found.energy)
        gradients.append(jnp.matmul(found.gradient, arguments.factor, precision=HIGHEST))
    return jnp.stack(energies), jnp.stack(gradients)


def _moving(accept, options: SampleOptions) -> bool:
    """Whether every chain accepted enough, of acceptances [draw, chain]."""
    return np.asarray(accept).mean(0).min() >= SHRINK_BELOW * options.target_accept


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
