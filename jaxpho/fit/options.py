"""What the configuration may say about priors, the optimiser and the sampler."""

from __future__ import annotations

from dataclasses import dataclass

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


@dataclass
class SampleOptions:
    """Posterior sampling by NUTS."""

    method: str = option(
        "nuts",
        "nuts: no-U-turn sampler whitened by the Fisher matrix; marginal: the same with fluxes "
        "and sky integrated out and drawn afterwards, as exact (half the gradients per effective "
        "sample in blends, at about twice the cost each); none: optimum and Laplace errors",
        choices=("nuts", "marginal", "none"),
    )
    num_warmup: int = option(50, "warm-up iterations per chain (step size only)", ge=10)
    num_samples: int = option(100, "draws per chain and round", ge=10)
    num_chains: int = option(4, "chains, run as one vectorised program", ge=1)
    max_rounds: int = option(8, "rounds of draws until max_rhat and min_ess are met, at most", ge=1)
    min_ess: float = option(200.0, "effective samples wanted for every parameter", ge=0)
    max_rhat: float = option(1.02, "largest split R-hat wanted", gt=1)
    target_accept: float = option(0.8, "acceptance that the step size is adapted to", gt=0, lt=1)
    max_tree_depth: int = option(
        8,
        "largest depth of NUTS trajectories; they begin with a depth of 2, which suits posteriors "
        "near normal",
        ge=1,
        le=12,
    )
