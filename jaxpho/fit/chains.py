"""Chains that can be stopped after any chunk of iterations and go on as if they had not been.

A sampling is a sequence of chunks: those of the warm-up, trials of its step size, and draws in
rounds. What happens next depends on nothing but `Progress`, the sampler's state and the chunks so
far, all of which a checkpoint holds.
"""

import json
import logging
from dataclasses import asdict, dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxpho.fit.checkpoint import Arrays, Saved
from jaxpho.fit.diagnostics import diagnose
from jaxpho.fit.draws import STATISTICS, Record
from jaxpho.fit.kernels import (
    CHUNK,
    Adaptation,
    Sampler,
    shrunk,
    with_long_trajectories,
    with_step_size,
)
from jaxpho.fit.options import SampleOptions
from jaxpho.fit.posterior import HIGHEST
from jaxpho.fit.target import starting_energies

log = logging.getLogger("jaxpho.fit")

STEP_SIZE = 0.8
"""The first step in whitened coordinates."""
FIRST_ORDINARY_STEP = 0.1
"""The first step where numpyro adapts: in z, whose scales differ."""
SHRINK_BELOW, SHRINK = 0.7, 0.7
"""A round in which a chain accepts less than this share of the target makes the step smaller."""
SHORT_ENOUGH = 0.1
"""Effective samples a draw below which trajectories may grow longer."""
TRIALS = 8
"""Times that the first draws may be thrown away for a smaller step."""
DIVERGENT, REDOS = 0.005, 3
"""Share of divergent draws above which a round is done again, and how many rounds may be."""
WARMUP, TRIAL, DRAW, DONE = "warm-up", "trial", "draw", "done"


@dataclass
class Progress:
    """Where a sampling stands.

    Attributes
    ----------
    phase : one of `WARMUP`, `TRIAL`, `DRAW`, `DONE`.
    step : the step size of the present phase.
    trials : first draws that were thrown away.
    rounds : rounds that are finished and kept.
    redone : rounds that were thrown away for their divergences.
    start : chunks of draws before the present round.
    spent : gradients of all iterations so far.
    over_budget : whether the gradients ran out.
    """

    phase: str = WARMUP
    step: float = STEP_SIZE
    trials: int = 0
    rounds: int = 0
    redone: int = 0
    start: int = 0
    spent: int = 0
    over_budget: bool = False


class Chains:
    """Vectorised chains of one problem.

    Parameters
    ----------
    key : Array
        PRNG key.
    sampler : Sampler
    arguments : Arguments or MarginalArguments
        Of the sampled density.
    options : SampleOptions
    label : str
        Begins the lines of the log.
    spread : Arguments, optional
        Whitening by which the chains of a sampler without one are spread out at first.
    saved : Saved, optional
        What to go on from.
    """

    def __init__(
        self,
        key,
        sampler: Sampler,
        arguments,
        options: SampleOptions,
        label: str = "",
        spread=None,
        saved: Saved | None = None,
    ):
        self.sampler, self.arguments, self.options = sampler, arguments, options
        self.label = label
        self.adapts = bool(sampler.settings.adapts)
        self.warmup_chunks = -(-options.warmup() // CHUNK)
        self.draw_chunks = -(-options.num_samples // CHUNK)
        self.progress, self.warmup, self.draws = Progress(), Record(), Record()
        start_key, chain_key, *self.keys = jax.random.split(key, 4)
        keys = jax.random.split(chain_key, options.num_chains)
        static = sampler.settings.static
        dtype = arguments.factor.dtype
        shape = options.num_chains, len(arguments.factor)
        self.first_step = FIRST_ORDINARY_STEP if self.adapts else STEP_SIZE
        if saved is not None:
            self._restore(saved, keys, shape, dtype)
            return
        xi = 0.5 * jax.random.normal(start_key, shape, dtype)
        if spread is not None:
            xi = spread.centre + jnp.matmul(xi, spread.factor.T, precision=HIGHEST)
        energies = starting_energies(xi, arguments, static)
        self.state = sampler.begin(keys, xi, *energies, arguments, self.first_step)

    # ------------------------------------------------------------------ one chunk after another

    def advance(self) -> None:
        """One chunk of iterations, and the decisions that follow it."""
        p, target = self.progress, self.options.target_accept
        if p.phase == WARMUP:
            adaptation = Adaptation(float(len(self.warmup) * CHUNK), target, 1.0)
        else:
            adaptation = Adaptation(0.0, target, 0.0)
        self.state, xi, *found = self.sampler.advance(self.state, self.arguments, adaptation)
        p.spent += int(np.sum(np.asarray(found[STATISTICS.index("n_steps")], np.int64)))
        if self.options.max_gradients and p.spent > self.options.max_gradients:
            p.over_budget = True
        if p.phase == WARMUP:
            self._keep(self.warmup, 0, xi, found)
            if len(self.warmup) == self.warmup_chunks or p.over_budget:
                self._end_warmup()
        elif p.phase == TRIAL and not self._good_trial(found):
            self._keep(self.warmup, 0, xi, found)
        else:
            p.phase = DRAW
            self._keep(self.draws, 1, xi, found)
            if p.over_budget or len(self.draws) - p.start == self.draw_chunks:
                self._end_round()

    def _keep(self, record: Record, which: int, xi, found) -> None:
        """Add a chunk; its draws are the same whatever came before it."""
        key = jax.random.fold_in(self.keys[which], len(record))
        number = len(self.warmup) + len(self.draws)
        record.add(number, self.sampler.finish(key, xi, self.arguments), found)

    def _end_warmup(self) -> None:
        p = self.progress
        if self.adapts:
            p.phase = DRAW
            if p.over_budget:  # numpyro would go on adapting
                self.state = with_long_trajectories(self.state)
            return
        sizes = np.log(self.warmup.all("step_size")[:, 0])
        p.step = float(np.exp(sizes[len(sizes) // 2 :].mean()))
        p.phase = TRIAL
        self.state = with_step_size(self.state, p.step)

    def _good_trial(self, found) -> bool:
        """Whether the first draws count, as they do only if every chain moved."""
        p = self.progress
        moving = _moving(found[STATISTICS.index("accept")], self.options)
        sound = np.mean(found[STATISTICS.index("diverging")]) <= DIVERGENT
        if (moving and sound) or p.over_budget or p.trials == TRIALS:
            return True
        p.trials += 1
        self._shrink()
        return False

    def _end_round(self) -> None:
        """Decide after a round: again with a smaller step, another one, or enough."""
        p, options = self.progress, self.options
        length = len(self.draws) - p.start
        divergent = self.draws.all("diverging", length)
        if divergent.mean() > DIVERGENT and p.redone < REDOS and not p.over_budget:
            # the chains go on from where they are: none is led away from where it is difficult
            self.draws.give(self.warmup, length)
            p.redone += 1
            self._shrink()
            log.info(
                "%s%d of %d draws diverged: the round is done again with a smaller step (%d of "
                "at most %d times)", self.label, divergent.sum(), divergent.size, p.redone, REDOS,
            )  # fmt: skip
            return
        p.rounds += 1
        p.start = len(self.draws)
        theta = self.draws.chains()
        worth = diagnose(theta)
        rhat, ess = np.nanmax(worth.rhat), np.nanmin(worth.ess)
        log.info(
            "%sround %d of at most %d: min ESS %.0f, max R-hat %.3f, %d gradients so far",
            self.label, p.rounds, options.max_rounds, ess, rhat, p.spent,
        )  # fmt: skip
        enough = rhat < options.max_rhat and ess > options.min_ess
        if enough or p.rounds >= options.max_rounds or p.over_budget:
            p.phase = DONE
            return
        if self.adapts:
            return
        if ess < SHORT_ENOUGH * theta.shape[0] * theta.shape[1]:
            self.state = with_long_trajectories(self.state)
        if not _moving(self.draws.all("accept", self.draw_chunks), options):
            self._shrink()

    def _shrink(self) -> None:
        p = self.progress
        p.step *= SHRINK
        if self.adapts:
            self.state = shrunk(self.state, SHRINK)
        else:
            self.state = with_step_size(self.state, p.step)

    # ------------------------------------------------------------------ saved and restored

    def save(self) -> tuple[Arrays, list[Arrays]]:
        """The state and all chunks, as plain arrays."""
        state = {
            f"leaf{i:03d}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(self.state))
        }
        state["progress"] = np.array(json.dumps(asdict(self.progress)))
        state["warmup"], state["draws"] = self.warmup.numbers(), self.draws.numbers()
        chunks = self.warmup.chunks | self.draws.chunks
        return state, [chunks[number] for number in sorted(chunks)]

    def _restore(self, saved: Saved, keys, shape, dtype) -> None:
        number, size = shape
        arrays = (jax.ShapeDtypeStruct(shape, dtype), jax.ShapeDtypeStruct((number,), dtype))
        # tracing alone: the sampler learns its settings, and the structure of the state is known
        structure = jax.eval_shape(
            self.sampler.begin, keys, arrays[0], arrays[1], arrays[0], self.arguments,
            self.first_step,
        )  # fmt: skip
        leaves, tree = jax.tree.flatten(structure)
        found = [saved.state.get(f"leaf{i:03d}") for i in range(len(leaves))]
        for leaf, array in zip(leaves, found, strict=True):
            if array is None or array.shape != leaf.shape or array.dtype != leaf.dtype:
                raise ValueError("the saved state is not that of this sampler")
        self.state = jax.tree.unflatten(tree, [jnp.asarray(a) for a in found])
        self.progress = Progress(**json.loads(str(saved.state["progress"])))
        self.warmup = Record.restore(saved.chunks, saved.state["warmup"])
        self.draws = Record.restore(saved.chunks, saved.state["draws"])


def _moving(accept, options: SampleOptions) -> bool:
    """Whether every chain accepted enough, of acceptances [draw, chain]."""
    return np.asarray(accept).mean(0).min() >= SHRINK_BELOW * options.target_accept
