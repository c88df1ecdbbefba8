"""Draws from the posterior of a patch, by the method that is asked for.

After whitening with the Fisher matrix at the mode the posterior is close to a unit normal: the mass
matrix stays the identity and only the step size is adapted, which takes a dozen iterations.
Trajectories of three steps, half a turn of a unit normal, are then the best: longer ones come back
to where they began at two to five times the cost. Where a posterior is so far from normal that they
do not suffice, NUTS may choose longer ones.
"""

import logging
from dataclasses import asdict, replace

import jax
import jax.numpy as jnp
import numpy as np

from jaxpho.fit.approximate import approximate
from jaxpho.fit.chains import DONE, Chains
from jaxpho.fit.checkpoint import Checkpoint, fingerprint
from jaxpho.fit.diagnostics import diagnose, ebfmi
from jaxpho.fit.draws import APPROXIMATE, Draws
from jaxpho.fit.kernels import CHUNK, LONG_PHASE, Settings, sampler_of
from jaxpho.fit.optimize import Optimum
from jaxpho.fit.options import SampleOptions
from jaxpho.fit.positive import near_zero
from jaxpho.fit.positive_mode import make_positive, positive_mode
from jaxpho.fit.posterior import Problem, Static
from jaxpho.fit.target import Arguments, make_arguments, root_of, whitening

log = logging.getLogger("jaxpho.fit")

ADAPTS = {"nuts_dense": "dense", "nuts_diagonal": "diagonal"}
"""Methods of numpyro's own adaptation, and the mass matrix of each."""
NO_EFFECT = ("save_every",)
"""Options that a chain does not depend on."""
WHITENING = ("z", "theta", "curvature")
"""Of the mode, what the coordinates of a chain depend on."""


def sample(
    key: jax.Array,
    mode: Optimum,
    problem: Problem,
    options: SampleOptions,
    static: Static,
    linear: np.ndarray | None = None,
    label: str = "",
    *,
    fluxes: np.ndarray | None = None,
    covariance: np.ndarray | None = None,
    checkpoint: Checkpoint | None = None,
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
    fluxes : ndarray, optional
        [n] bool, linear parameters that ``positive=True`` keeps above zero.
    covariance : ndarray, optional
        [n, n] covariance in z to whiten with, instead of the inverse of the Fisher matrix (see
        `jaxpho.fit.warmstart`). It need not be exact: draws are right with any.
    checkpoint : Checkpoint, optional
        Where the state of the chains is kept. A sampling of the same problem, options and key that
        was stopped goes on from there, and ends with the very draws of one that was not.

    Returns
    -------
    Draws
    """
    # numpyro draws momenta in the process's default precision, which must be the patch's
    with jax.enable_x64(problem.patch.data.dtype == jnp.float64):
        if not (options.positive and fluxes is not None and np.any(fluxes)):
            return _sample(
                key, mode, problem, options, static, linear, label, None, covariance, checkpoint
            )
        return _positive(
            key, mode, problem, options, static, linear, label, fluxes, covariance, checkpoint
        )


def _positive(key, mode, problem, options, static, linear, label, fluxes, covariance, checkpoint):
    """Draws without negative fluxes; see `jaxpho.fit.positive`."""
    positive = make_positive(fluxes, mode, problem)
    wanted = np.array(positive.on)
    marginal = options.method == "marginal" and linear is not None
    on = near_zero(positive, mode.z) if marginal else wanted
    for attempt in range(1 + int(wanted.sum())):
        chosen = positive._replace(on=jnp.asarray(on))
        found = positive_mode(mode, chosen, problem, static)
        stage = None if checkpoint is None else checkpoint.stage(f"positive{attempt}")
        integrated = linear & ~on if marginal else None
        draws = _sample(
            key, found, problem, options, static, integrated, label, chosen, covariance, stage
        )
        below = wanted & ~on & (draws.theta.min((0, 1)) < 0)
        if not below.any():
            break
        # one that was taken for far above zero is not: it must not be integrated out
        log.info("%s%d fluxes taken for far above zero are not: sampled again", label, below.sum())
        on = on | below
    return draws


def _sample(key, mode, problem, options, static, linear, label, positive, covariance, checkpoint):
    mark, saved = "", None
    if checkpoint is not None:
        kept = {k: v for k, v in asdict(options).items() if k not in NO_EFFECT}
        kind = None if positive is None else positive.on
        mark = fingerprint(key, problem, repr(kept), repr(static), linear, kind, covariance)
        saved = checkpoint.load(mark)
    if saved is not None:
        made = CHUNK * len(saved.chunks)
        log.info("%ssampling goes on after %d iterations that were saved", label, made)
        # the mode is found again, by programs that may round otherwise
        mode = replace(mode, **{k: saved.state[f"mode_{k}"] for k in WHITENING})
        if positive is not None:
            width = saved.state["positive_width"]
            positive = positive._replace(width=jnp.asarray(width))
    marginal = options.method == "marginal" and linear is not None
    arguments = make_arguments(
        mode, problem, static, linear if marginal else None, positive, covariance
    )
    if options.method in APPROXIMATE:
        return approximate(key, arguments, options, static, label)
    adapts = ADAPTS.get(options.method, "")
    spread = None
    if adapts:
        spread, arguments = arguments, _plain(arguments, mode)
    settings = Settings(
        static, options.max_tree_depth, marginal, adapts,
        -(-options.warmup() // CHUNK) * CHUNK if adapts else LONG_PHASE, options.target_accept,
    )  # fmt: skip
    chains = Chains(key, sampler_of(settings), arguments, options, label, spread, saved)
    constant = {f"mode_{k}": np.asarray(getattr(mode, k)) for k in WHITENING}
    if positive is not None:
        constant["positive_width"] = np.asarray(positive.width)
    while chains.progress.phase != DONE:
        chains.advance()
        if checkpoint is not None:
            state, chunks = chains.save()
            checkpoint.save(mark, state | constant, chunks, chains.progress.phase == DONE)
    root = whitening(mode.curvature) if covariance is None else root_of(covariance)
    return _collect(chains, np.linalg.inv(root @ root.T), options)


def _collect(chains: Chains, mass_matrix: np.ndarray, options: SampleOptions) -> Draws:
    """What chains have drawn, and how they fared."""
    warmup, draws, progress = chains.warmup, chains.draws, chains.progress
    theta, statistics = draws.chains(), draws.statistics()
    last = mass_matrix
    if chains.adapts:
        last = np.asarray(chains.state.adapt_state.inverse_mass_matrix, np.float64).mean(0)
        last = np.linalg.inv(last) if last.ndim == 2 else np.diag(1.0 / last)
        mass_matrix = np.eye(len(last))
    return Draws(
        theta=theta,
        method=options.method,
        worth=diagnose(theta),
        ebfmi=ebfmi(statistics["energy"]),
        divergences=int(draws.all("diverging").sum()),
        gradients=int(draws.all("n_steps").sum()),
        warmup_gradients=int(warmup.all("n_steps").sum()),
        accept=float(draws.all("accept").mean()),
        step_size=float(np.mean(draws.all("step_size")[-1])),
        rounds=progress.rounds,
        redone=progress.redone,
        over_budget=progress.over_budget,
        pareto_k=float("nan"),
        statistics=statistics,
        warmup=warmup.chains(),
        warmup_statistics=warmup.statistics(),
        mass_matrix_initial=mass_matrix,
        mass_matrix_final=last,
    )


def _plain(arguments: Arguments, mode: Optimum) -> Arguments:
    """The same density in z itself, for those who adapt a mass matrix of their own."""
    n = len(mode.z)
    dtype = arguments.centre.dtype
    return arguments._replace(centre=jnp.zeros(n, dtype), factor=jnp.eye(n, dtype=dtype))
