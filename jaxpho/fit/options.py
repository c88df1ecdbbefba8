"""What the configuration may say about priors, the optimiser and the sampler."""

from __future__ import annotations

from dataclasses import dataclass

from jaxpho.errors import InputError
from jaxpho.fit.links import (
    LINK_HELP,
    WAVELENGTH_HELP,
    LinkOptions,
    check_links,
    is_difference,
)
from jaxpho.fit.prior_options import (
    FLAT,
    PRIOR_HELP,
    PriorOptions,
    check_priors,
    keys_of,
    prior_keys,
)
from jaxpho.schema import option

__all__ = ["FitOptions", "LinkOptions", "PriorOptions", "SampleOptions", "keys_of", "prior_keys"]


@dataclass
class FitOptions:
    """Priors and the optimiser."""

    priors: dict[str, PriorOptions] = option(dict, PRIOR_HELP)
    links: dict[str, LinkOptions] = option(dict, LINK_HELP)
    wavelengths: dict[str, float] = option(dict, WAVELENGTH_HELP, unit="micron")
    q_min: float = option(0.1, "smallest axis ratio b/a", gt=0, lt=1)
    pixel_mode: str = option(
        "fourth",
        "integration over pixels where the PSF does not include them (error for a Gaussian of "
        "sigma .7 px: fourth 9e-4, covariance 7e-3, second_order 2e-2 of peak)",
        choices=("point", "second_order", "covariance", "fourth", "sixth"),
    )
    reduced_psf: str = option(
        "auto",
        "fewer PSF Gaussians for the wide Gaussians of a galaxy, where its image keeps within 1e-4 "
        "of its peak and the PSF has reduced mixtures; auto: in patches so large that this pays",
        choices=("auto", "always", "never"),
    )
    max_iterations: int = option(60, "largest number of Levenberg-Marquardt steps", ge=1)
    tolerance: float = option(
        1e-3, "stop when the next step would lower chi2 by less than this", gt=0
    )
    restarts: int = option(
        3, "further starts, with other profiles, when a fit looks poor or ends at a bound", ge=0
    )
    poor_chi2: float = option(
        1.5, "chi2 per pixel within a source's area above which it is restarted and flagged", gt=0
    )

    type_penalty: float | None = option(
        None,
        "type `auto` takes the type of least chi2 plus this for each of its parameters; default "
        "the logarithm of the number of unmasked pixels in the source's area (BIC)",
        ge=0,
    )
    type_tie: float = option(
        2.0, "difference of penalised chi2 to the second best type below which it is flagged", ge=0
    )

    def __post_init__(self):
        check_priors(self.priors)
        check_links(self.links)

    def narrows(self, parameter: str) -> bool:
        """Whether a prior that is not flat is given for a parameter: information on purpose."""
        if is_difference(parameter):
            return True
        own, general = prior_keys(parameter)
        given = self.priors.get(own, self.priors.get(general))
        return given is not None and given.name not in FLAT


METHODS = ("nuts", "marginal", "nuts_dense", "nuts_diagonal", "laplace", "svi", "none")
SVI_PARTICLES = 8
"""Gradients that a step of SVI takes."""
WARMUP, ORDINARY_WARMUP = 50, 1000
"""Iterations of the warm-up: of a step size alone, and of a mass matrix with it."""


@dataclass
class NoiseOptions:
    """What the quoted errors of pixels are taken for."""

    inflation: str | float = option(
        "none",
        "errors of all pixels of an exposure are multiplied by this: a number; blank: the scatter "
        "of its blank pixels over their quoted errors (where enough pixels are blank); residual: "
        "the same of the residuals of a first fit, where the model is faint; none. What blank "
        "pixels say is logged and written to noise.ecsv in any case",
    )
    correlation: str = option(
        "inflate",
        "noise that is correlated between pixels, as in resampled images, measured in blank "
        "pixels: inflate: pixels are fitted as if independent, and errors and draws widened to "
        "what that is worth; covariance: the likelihood of correlated noise itself, at three "
        "to four times the cost; none: taken for independent, errors too small",
        choices=("none", "inflate", "covariance"),
    )
    likelihood: str = option(
        "normal",
        "normal, or student_t: heavy tails, which leave cosmic rays and other bad pixels without "
        "weight",
        choices=("normal", "student_t"),
    )
    dof: float = option(
        4.0, "degrees of freedom of student_t: fewer leave outliers less weight", gt=0.5
    )

    def __post_init__(self):
        if isinstance(self.inflation, str):
            if self.inflation not in ("none", "blank", "residual"):
                raise InputError(
                    "inflation: expected none, blank, residual or a number, found "
                    f"'{self.inflation}'"
                )
        elif not 0.0 < self.inflation < float("inf"):
            raise InputError(f"inflation: expected more than 0, found {self.inflation}")
        if self.likelihood == "student_t" and self.correlation == "covariance":
            raise InputError(
                "noise: likelihood student_t takes pixels as independent, expected correlation "
                "inflate or none with it"
            )


@dataclass
class SampleOptions:
    """Posterior sampling."""

    method: str = option(
        "nuts",
        "nuts: no-U-turn sampler whitened by the Fisher matrix; marginal: the same with fluxes "
        "and sky integrated out and drawn afterwards, as exact; nuts_dense, nuts_diagonal: "
        "numpyro's own adaptation of a mass matrix, to compare with; laplace: draws from the "
        "normal at the mode, an approximation; svi: from the normal that stochastic variational "
        "inference finds, an approximation; none: optimum and Laplace errors",
        choices=METHODS,
    )
    positive: bool = option(
        False,
        "no draws of negative fluxes (of those without bounds); exact in all methods that are: "
        "with marginal, fluxes within 7 errors of zero are sampled instead of integrated out",
    )
    num_warmup: int | None = option(
        None,
        f"warm-up iterations per chain; default {WARMUP} (step size only), of nuts_dense and "
        f"nuts_diagonal {ORDINARY_WARMUP}; rounded up to a multiple of 25",
        ge=10,
    )
    num_samples: int = option(
        100,
        "draws per chain and round, rounded up to a multiple of 25 (laplace and svi: exactly)",
        ge=10,
    )
    num_chains: int = option(4, "chains, run as one vectorised program", ge=1)
    max_rounds: int = option(8, "rounds of draws until max_rhat and min_ess are met, at most", ge=1)
    min_ess: float = option(
        200.0, "effective samples (bulk and tail) wanted for every parameter", ge=0
    )
    max_rhat: float = option(1.01, "largest rank-normalised split R-hat wanted", gt=1)
    max_gradients: int | None = option(
        None,
        "gradients (leapfrog steps of all chains, warm-up included) after which sampling ends, "
        "flagged; default: no limit. svi takes 8 x svi_steps",
        ge=1,
    )
    target_accept: float = option(0.8, "acceptance that the step size is adapted to", gt=0, lt=1)
    max_tree_depth: int = option(
        8,
        "largest depth of NUTS trajectories; whitened ones begin with a depth of 2, which suits "
        "posteriors near normal",
        ge=1,
        le=12,
    )
    svi_steps: int = option(1000, "steps of svi, of 8 gradients each", ge=10)
    save_every: float = option(
        10.0,
        "seconds between saved states of the chains, from which a run that was stopped goes on, "
        "to the very draws of one that was not (jaxpho-fit --resume); 0: after every 25 draws",
        ge=0,
    )

    def __post_init__(self):
        spent = SVI_PARTICLES * self.svi_steps
        if self.method == "svi" and self.max_gradients is not None and self.max_gradients < spent:
            raise InputError(
                f"max_gradients: svi takes {SVI_PARTICLES} x svi_steps = {spent} gradients, "
                f"expected as many or fewer steps, found {self.max_gradients}"
            )

    def warmup(self) -> int:
        """Warm-up iterations, by method where none are given."""
        if self.num_warmup is not None:
            return self.num_warmup
        return ORDINARY_WARMUP if self.method in ("nuts_dense", "nuts_diagonal") else WARMUP
