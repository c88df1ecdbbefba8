"""Draws of a posterior, what the sampler said of each, and how many they are worth."""

from dataclasses import dataclass

import numpy as np

from jaxpho.fit.diagnostics import Worth

STATISTICS = ("step_size", "diverging", "n_steps", "accept", "energy", "potential")
"""Of every iteration: step size, divergence, leapfrog steps, acceptance, total energy and minus the
log density in the whitened coordinates (both up to one constant)."""
SCALARS = (
    "method", "divergences", "gradients", "warmup_gradients", "accept", "step_size", "rounds",
    "redone", "over_budget", "pareto_k",
)  # fmt: skip
"""Fields of `Draws` that are one number or text each."""
APPROXIMATE = ("laplace", "svi")
"""Methods whose draws are those of an approximation."""


def method_text(method: str) -> str:
    """A method as headers name it: that it is an approximation cannot be overlooked."""
    return f"{method} (approximation)" if method in APPROXIMATE else method


@dataclass
class Draws:
    """Draws of the posterior and how the sampler fared.

    Attributes
    ----------
    theta : ndarray
        [chains, draws, n] physical parameters.
    method : str
        of `jaxpho.fit.options.SampleOptions`; draws of `APPROXIMATE` ones are no posterior's.
    worth : Worth
        rank-normalised R-hat, bulk and tail effective sample sizes, [n] each.
    ebfmi : ndarray
        [chains] energy fraction of missing information, NaN of methods without energies.
    divergences, gradients : int
        after warm-up; gradients are leapfrog steps summed over chains.
    warmup_gradients : int
    accept, step_size : float
    rounds, redone : int
        rounds that count, and those that were done again with a smaller step.
    over_budget : bool
        whether sampling ended because its gradients ran out.
    pareto_k : float
        of approximations: shape of the tail of the importance ratios; above .7 the approximation
        is no good (Yao et al. 2018). NaN otherwise.
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
    method: str
    worth: Worth
    ebfmi: np.ndarray
    divergences: int
    gradients: int
    warmup_gradients: int
    accept: float
    step_size: float
    rounds: int
    redone: int
    over_budget: bool
    pareto_k: float
    statistics: dict[str, np.ndarray]
    warmup: np.ndarray
    warmup_statistics: dict[str, np.ndarray]
    mass_matrix_initial: np.ndarray
    mass_matrix_final: np.ndarray

    @property
    def rhat(self) -> np.ndarray:
        """[n] rank-normalised R-hat."""
        return self.worth.rhat

    @property
    def ess(self) -> np.ndarray:
        """[n] effective sample size, the smaller one of bulk and tail."""
        return self.worth.ess

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


class Record:
    """Chunks of draws and statistics as they come, [iteration, chain, ...] each.

    ``chunks`` maps their numbers, which count all chunks of a sampling, to their arrays: ``theta``
    and one for each of `STATISTICS`.
    """

    def __init__(self, chunks: dict[int, dict[str, np.ndarray]] | None = None):
        self.chunks = dict(chunks or {})

    def __len__(self) -> int:
        return len(self.chunks)

    @classmethod
    def restore(cls, chunks: list[dict], numbers) -> "Record":
        """The record of those chunks that have these numbers, in their order."""
        return cls({int(k): chunks[int(k)] for k in numbers})

    def numbers(self) -> np.ndarray:
        """Numbers of the chunks, in order."""
        return np.array(list(self.chunks), np.int64)

    def add(self, number: int, theta, found) -> None:
        """Add a chunk; ``found`` are the statistics in the order of `STATISTICS`."""
        arrays = {"theta": np.asarray(theta)}
        arrays |= {k: np.asarray(a) for k, a in zip(STATISTICS, found, strict=True)}
        self.chunks[number] = arrays

    def give(self, other: "Record", last: int) -> None:
        """Move the last chunks to the end of another record."""
        for number in list(self.chunks)[len(self.chunks) - last :]:
            other.chunks[number] = self.chunks.pop(number)

    def all(self, name: str, last: int = 0) -> np.ndarray:
        """[iteration, chain] of a statistic, of the last chunks only where their number is given.

        Of ``theta`` [iteration, chain, n].
        """
        return np.concatenate([c[name] for c in list(self.chunks.values())[-last:]])

    def chains(self) -> np.ndarray:
        """[chain, iteration, n]."""
        return np.swapaxes(self.all("theta"), 0, 1)

    def statistics(self) -> dict[str, np.ndarray]:
        """Name -> [chain, iteration]."""
        return {name: self.all(name).T for name in STATISTICS}
