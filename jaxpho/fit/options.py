"""What the configuration may say about priors, the optimiser and the sampler."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from jaxpho.core.sources import SOURCE_TYPES, base_name
from jaxpho.errors import InputError
from jaxpho.schema import option

PRIOR_NAMES = ("flat", "uniform", "log_uniform", "normal", "log_normal")


@dataclass
class PriorOptions:
    """Prior of one parameter, by name. Left out: the default of the parameter."""

    name: str = option(
        "uniform",
        "flat (unbounded), uniform or log_uniform within [low, high], normal, or log_normal "
        "(normal in the natural logarithm); a normal with low and high is truncated there",
        choices=PRIOR_NAMES,
    )
    low: float | None = option(None, "lower bound, in the parameter's unit")
    high: float | None = option(None, "upper bound, in the parameter's unit")
    mean: float | None = option(None, "mean, in the parameter's unit (of log_normal: the median)")
    sigma: float | None = option(
        None, "standard deviation, in the parameter's unit (of log_normal: of ln value)", gt=0
    )

    def __post_init__(self):
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise InputError(f"prior: low = {self.low:g} is not below high = {self.high:g}")
        if self.name in ("normal", "log_normal") and self.sigma is None:
            raise InputError(f"prior '{self.name}': expected a value for sigma, found none")
        if self.name.startswith("log_"):
            for key in ("low", "high", "mean"):
                value = getattr(self, key)
                if value is not None and value <= 0:
                    raise InputError(f"prior '{self.name}': expected {key} > 0, found {value:g}")


_PRIOR_KEYS = ("flux", "position", "rhalf", "sersic", "ellipticity")
_PRIOR_HELP = (
    "parameter -> prior. Parameters: flux, position (offset from the peak, arcsec: low and high, "
    "or normal), rhalf (arcsec), sersic (within .5 and 8; low may be .3, flatter than a Gaussian), "
    "ellipticity (uniform in the disc of axis ratios above q_min, or normal in e1 and e2); a "
    "component's own by its suffix: rhalf_bulge, sersic_disk"
)


_SHARED = {"ra": "position", "dec": "position", "e1": "ellipticity", "e2": "ellipticity"}


def prior_keys(parameter: str) -> tuple[str, str]:
    """Keys of `priors` that a parameter obeys: its component's own comes before the general one."""
    base = base_name(parameter)
    key = _SHARED.get(base, base)
    return key + parameter[len(base) :], key


def keys_of(types) -> set[str]:
    """All keys of `priors` that sources of these types have."""
    return {k for t in types for name in SOURCE_TYPES[t].parameters for k in prior_keys(name)}


def _check_prior(key: str, base: str, prior: PriorOptions) -> None:
    """Raise for a prior that the named parameter cannot have."""

    def refuse(expected: str, found: str):
        raise InputError(f"'fit.priors.{key}': expected {expected}, found {found}")

    low, high = prior.low, prior.high
    ends = f"low = {low}, high = {high}"
    if base in ("position", "ellipticity") and prior.name.startswith("log_"):
        refuse("flat, uniform or normal", prior.name)
    # the others have defaults for the end that is missing
    bounded = prior.name in ("uniform", "log_uniform")
    if base == "flux" and bounded and (low is None or high is None):
        refuse(f"both low and high of {prior.name}", ends)
    if base in ("flux", "position") and not bounded and (low is None) != (high is None):
        refuse("both low and high, or neither", ends)
    if base == "sersic" and not 0.3 <= (low or 0.5) < (high or 8.0) <= 8.0:
        refuse("low < high within 0.3 and 8, the range of the Sersic mixtures", ends)
    if base == "rhalf" and (low or 0.0) < 0:
        refuse("low >= 0", ends)
    if base == "ellipticity" and high is not None and not 0 < high < 1:
        refuse("0 < high < 1 (the largest ellipticity)", ends)
    if base == "ellipticity" and low is not None and (high is None or low != -high):
        refuse("no low (the range is the disc of ellipticities up to high)", ends)


@dataclass
class FitOptions:
    """Priors and the optimiser."""

    priors: dict[str, PriorOptions] = option(dict, _PRIOR_HELP)
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

    def __post_init__(self):
        for key, prior in self.priors.items():
            known = keys_of(SOURCE_TYPES)
            if key not in known:
                close = difflib.get_close_matches(key, sorted(known), n=1)
                hint = f"; did you mean '{close[0]}'?" if close else ""
                raise InputError(
                    f"'fit.priors': unknown parameter '{key}', expected one of "
                    + ", ".join(_PRIOR_KEYS)
                    + f" (with a component's suffix where a source has several){hint}"
                )
            _check_prior(key, base_name(key), prior)

    def narrows(self, parameter: str) -> bool:
        """Whether a normal or log_normal prior is given for a parameter: information on purpose."""
        own, general = prior_keys(parameter)
        given = self.priors.get(own, self.priors.get(general))
        return given is not None and given.sigma is not None


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
                    "noise.inflation: expected none, blank, residual or a number, found "
                    f"'{self.inflation}'"
                )
        elif not 0.0 < self.inflation < float("inf"):
            raise InputError(f"noise.inflation: expected more than 0, found {self.inflation}")
        if self.likelihood == "student_t" and self.correlation == "covariance":
            raise InputError(
                "noise: likelihood student_t takes pixels as independent, expected correlation "
                "inflate or none with it"
            )


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
