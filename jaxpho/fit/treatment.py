"""How the noise of a patch is treated in its fit: weights, likelihood, and errors."""

from __future__ import annotations

from dataclasses import replace

import jax.numpy as jnp
import numpy as np

from jaxpho.core.noise import Noise, student_weight
from jaxpho.fit.diagnostics import diagnose
from jaxpho.fit.draws import Draws
from jaxpho.fit.noise import make_whitening, student_noise
from jaxpho.fit.optimize import Optimum
from jaxpho.fit.options import NoiseOptions
from jaxpho.fit.posterior import Problem, Static, physical_jacobian, prior_matrix
from jaxpho.fit.sandwich import correction, informations, move_draws
from jaxpho.fit.target import whitening

FAINT = 1.0
"""Model over sigma below which a pixel tells of the noise rather than of the model."""
LEAST_FAINT = 200
"""Faint pixels of an exposure that a ratio is taken from."""
LOWER_QUANTILE = 0.15865525393145707
TOLD = 1.02
"""Factor on an error that is worth telling."""


class NoiseTreatment:
    """Of one patch.

    Attributes
    ----------
    correlations : list
        Of each exposure, [2 L + 1, 2 L + 1] by lag, or None for independent pixels.
    noise : Noise or None
        What the likelihood is taken for, where this is not independent and normal.
    messages : list of str
    """

    def __init__(self, packed, options: NoiseOptions):
        self.packed, self.options = packed, options
        found = packed.noise or [None] * len(packed.exposures)
        self.correlations = [None if n is None else n.correlation for n in found]
        self.noise, self.messages, self._known = None, [], None
        if options.correlation == "none":
            self.correlations = [None] * len(packed.exposures)
        if self.correlated and options.correlation == "covariance":
            self.noise = Noise(make_whitening(packed, self.correlations))
        if options.likelihood == "student_t":
            self.noise = student_noise(options.dof, np.asarray(packed.patch.data).dtype)

    @property
    def correlated(self) -> bool:
        """Whether any exposure has correlated noise that is to be treated."""
        return any(rho is not None for rho in self.correlations)

    @property
    def student(self) -> bool:
        """Whether the likelihood has heavy tails."""
        return self.noise is not None and self.noise.student is not None

    @property
    def widens(self) -> bool:
        """Whether errors and draws are widened after a fit of independent pixels."""
        return self.correlated and self.options.correlation == "inflate"

    def apply(self, problem: Problem) -> Problem:
        """The problem with this noise."""
        return problem._replace(patch=problem.patch._replace(noise=self.noise))

    def rescale(self, pixels: list[dict]) -> np.ndarray | None:
        """Factors [E] on the errors by residuals, where asked for; fills `messages`.

        Parameters
        ----------
        pixels : list of dict
            Per exposure data, model, ierr.
        """
        if self.options.inflation != "residual":
            return None
        found = [residual_ratio(p["data"], p["model"], p["ierr"]) for p in pixels]
        parts = []
        for name, ratio in zip(self.packed.exposures, found, strict=True):
            text = "too few faint pixels, as quoted" if ratio is None else (
                f"{ratio[0]:.3f} +- {ratio[1]:.3f}"
            )  # fmt: skip
            parts.append(f"{name} {text}")
        self.messages.append(f"errors times the scatter of the residuals: {', '.join(parts)}")
        return np.array([1.0 if ratio is None else ratio[0] for ratio in found])

    def laplace(
        self, optimum: Optimum, problem: Problem, static: Static, volume: float = 0.0
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Covariance of theta at an optimum, and the map of draws; None: that of the curvature."""
        if not (self.widens or self.student):
            return None
        plain, spread = self._informations(optimum, problem, static)
        z = jnp.asarray(optimum.z, problem.patch.data.dtype)
        prior = np.asarray(prior_matrix(z, problem.transform, volume), np.float64)
        covariance, stretch = correction(plain + prior, plain, spread)
        jacobian = np.asarray(physical_jacobian(z, problem.transform), np.float64)
        return jacobian @ covariance @ jacobian.T, stretch

    def tell_widening(self, before: np.ndarray, after: np.ndarray) -> None:
        """Message on the change of errors, from covariances of the parameters."""
        ratio = np.sqrt(np.diag(after) / np.maximum(np.diag(before), 1e-300))
        ratio = ratio[np.isfinite(ratio)]
        if self.widens and len(ratio) and ratio.max() > TOLD:
            self.messages.append(
                f"correlated noise: errors times {ratio.min():.2f} to {ratio.max():.2f} "
                f"(median {np.median(ratio):.2f})"
            )

    def widen(
        self,
        draws: Draws,
        mode: Optimum,
        problem: Problem,
        static: Static,
        positive: np.ndarray | None = None,
    ) -> Draws:
        """Draws with the spread of correlated noise; those of ``positive`` [n] stay above zero."""
        if not self.widens:
            return draws
        _, stretch = self.laplace(mode, problem, static, volume=1.0)
        root = whitening(mode.curvature)
        how = stretch, problem.transform, positive, root @ root.T
        theta = move_draws(draws.theta, mode.z, *how)
        warmup = move_draws(draws.warmup, mode.z, *how)
        return replace(draws, theta=theta, warmup=warmup, worth=diagnose(theta))

    def effective_ierr(self, pixels: dict) -> np.ndarray:
        """1/sigma with outliers weighted as the likelihood does; of chi2 of a source.

        For Student's t the squares that follow have the mean 1 (`jaxpho.fit.mismatch.student_law`).
        """
        if not self.student:
            return pixels["ierr"]
        u = (pixels["data"] - pixels["model"]) * pixels["ierr"]
        weight = student_weight(u, np.asarray(self.noise.student, np.float64))
        return pixels["ierr"] * np.sqrt(weight)

    def absorbed(self, optimum: Optimum, problem: Problem, static: Static):
        """What each parameter [n] takes from the mean of chi2, and of its variance over 2.

        None: one each, for independent pixels.

        A fit with the hat matrix H = J C J^T to noise of the correlation R leaves the mean
        tr((1 - H) R (1 - H)^T) of chi2, which is the number of pixels less
        tr(2 C B - C F C B), C the covariance that the fit believes in. Its variance, 2 tr R^2
        before the fit, loses 2 tr (H R)^2 = 2 tr (C B)^2 where the model is smooth over the noise.
        """
        if not self.correlated:
            return None
        plain, spread = self._informations(optimum, problem, static)
        if not self.widens:
            # the weights of `covariance` are those of R: F C is left
            root = whitening(optimum.curvature)
            hat = root @ root.T @ plain
            return np.diag(hat), np.diag(hat @ hat)
        z = jnp.asarray(optimum.z, problem.patch.data.dtype)
        prior = np.asarray(prior_matrix(z, problem.transform, 0.0), np.float64)
        root = whitening(plain + prior)
        hat = root @ root.T
        moved = hat @ spread
        return np.diag(2.0 * moved - hat @ plain @ moved), np.diag(moved @ moved)

    def loss(self, optimum: Optimum, problem: Problem, static: Static, owned: np.ndarray) -> float:
        """How many times less differences of chi2 tell where independent pixels are fitted.

        tr(C B) / tr(C F) over the parameters ``owned`` [n] bool: the mean square by which
        the noise moves what the data know of them, over that of independent pixels.
        """
        if not self.widens or not owned.any():
            return 1.0
        plain, spread = self._informations(optimum, problem, static)
        z = jnp.asarray(optimum.z, problem.patch.data.dtype)
        prior = np.asarray(prior_matrix(z, problem.transform, 1.0), np.float64)
        root = whitening(plain + prior)
        known = [np.einsum("ij,ji->i", root @ root.T, m)[owned].sum() for m in (plain, spread)]
        # negative correlations (of a subtracted sky, say) are no reason to trust pixels more
        return float(max(known[1] / known[0], 1.0)) if known[0] > 0 else 1.0

    def _informations(self, optimum: Optimum, problem: Problem, static: Static):
        """F and B at an optimum, kept for those who ask again."""
        key = np.asarray(optimum.z).tobytes()
        if self._known is None or self._known[0] != key:
            found = informations(optimum.z, problem, self.packed, self.correlations, static)
            self._known = key, found
        return self._known[1]


def residual_ratio(data, model, ierr) -> tuple[float, float] | None:
    """Scatter of residuals over the quoted errors where the model is faint, and its error.

    The lower half of the residuals counts: sources that are not in the model are positive.
    """
    faint = (ierr > 0) & (np.abs(model) * ierr < FAINT)
    n = int(faint.sum())
    if n < LEAST_FAINT:
        return None
    u = ((data - model) * ierr)[faint].astype(np.float64)
    low, middle = np.quantile(u, [LOWER_QUANTILE, 0.5])
    ratio = float(middle - low)
    return (ratio, 1.2 * ratio / np.sqrt(n)) if ratio > 0 else None


def scaled_errors(packed, factors: np.ndarray):
    """The packed patch with errors multiplied by a factor of each exposure."""
    scale = np.ones(packed.patch.n_exposures)
    scale[: len(factors)] = 1.0 / factors
    blocks = scale[np.asarray(packed.patch.block_exposure)][:, None]
    ierr = np.asarray(packed.patch.ierr) * blocks
    patch = packed.patch._replace(ierr=jnp.asarray(ierr, packed.patch.ierr.dtype))
    old = packed.inflation or [1.0] * len(factors)
    return replace(
        packed, patch=patch, inflation=[a * float(b) for a, b in zip(old, factors, strict=True)]
    )
