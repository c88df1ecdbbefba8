"""Draws of a posterior, what the sampler said of each, and how many they are worth."""

from dataclasses import dataclass

import numpy as np
from numpyro.diagnostics import effective_sample_size, split_gelman_rubin

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


class Record:
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
