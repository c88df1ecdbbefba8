"""What the configuration may say about priors."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

from jaxpho.core.sources import SOURCE_TYPES, base_name
from jaxpho.errors import InputError
from jaxpho.schema import option

FLAT = ("flat", "uniform", "log_uniform")
ELLIPTICITY = ("disk_galaxies", "elliptical_galaxies")
LARGEST_DISK = 0.804
"""Largest ellipticity of `disk_galaxies`."""
PRIOR_NAMES = (
    *FLAT, "normal", "truncated_normal", "log_normal", "beta", "size_magnitude", *ELLIPTICITY,
)  # fmt: skip

_NEEDED = {
    "normal": ("sigma",),
    "truncated_normal": ("sigma",),
    "log_normal": ("sigma",),
    "beta": ("a", "b"),
    "size_magnitude": ("mean", "sigma", "slope", "band"),
}
_NORMAL = ("low", "high", "mean", "sigma")
_ALLOWED = {
    "flat": (),
    "uniform": ("low", "high"),
    "log_uniform": ("low", "high"),
    "normal": _NORMAL,
    "truncated_normal": _NORMAL,
    "log_normal": _NORMAL,
    "beta": ("low", "high", "a", "b"),
    "size_magnitude": (*_NORMAL, "slope", "band", "magnitude", "flux", "softening"),
    **dict.fromkeys(ELLIPTICITY, ("high",)),
}


@dataclass
class PriorOptions:
    """Prior of one parameter, by name. Left out: the default of the parameter."""

    name: str = option(
        "uniform",
        "flat (unbounded), uniform or log_uniform within [low, high], normal, or log_normal "
        "(normal in the natural logarithm), both cut off at low and high where these are given; "
        "truncated_normal (must have both); beta with exponents a - 1, b - 1 from low to high; "
        "size_magnitude (rhalf; docs/models.md); disk_galaxies, elliptical_galaxies (ellipticity)",
        choices=PRIOR_NAMES,
    )
    low: float | None = option(None, "lower bound, in the parameter's unit")
    high: float | None = option(None, "upper bound, in the parameter's unit")
    mean: float | None = option(
        None,
        "mean, in the parameter's unit (of log_normal and size_magnitude: the median); left "
        "out: 0 for position and ellipticity, else the starting value, which must not come from "
        "the pixels that are fitted",
    )
    sigma: float | None = option(
        None,
        "standard deviation, in the parameter's unit (of log_normal, size_magnitude: of ln value)",
        gt=0,
    )
    a: float | None = option(None, "beta: its first parameter; 1 is flat at low", ge=1)
    b: float | None = option(None, "beta: its second parameter; 1 is flat at high", ge=1)
    slope: float | None = option(
        None, "size_magnitude: change of the mean of ln rhalf per magnitude (negative: fainter is "
        "smaller)",
    )  # fmt: skip
    magnitude: float | None = option(
        None, "size_magnitude: AB magnitude at which rhalf has its `mean` (fluxes in nJy)"
    )
    flux: float | None = option(
        None, "size_magnitude: instead of `magnitude`, the flux, in the run's unit", gt=0
    )
    band: str | None = option(None, "size_magnitude: band of the magnitude")
    softening: float | None = option(
        None, "size_magnitude: flux below which magnitudes are softened (asinh), so that negative "
        "fluxes have one; default the typical error of a flux in that band", gt=0,
    )  # fmt: skip

    def __post_init__(self):
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise InputError(f"prior: low = {self.low:g} is not below high = {self.high:g}")
        given = {k for k, v in vars(self).items() if v is not None and k != "name"}
        for key in _NEEDED.get(self.name, ()):
            if key not in given:
                raise InputError(f"prior '{self.name}': expected a value for {key}, found none")
        for key in sorted(given - set(_ALLOWED[self.name]) - {"low", "high", "mean"}):
            raise InputError(f"prior '{self.name}' has no {key}; it belongs to another prior")
        if self.name == "size_magnitude" and (self.magnitude is None) == (self.flux is None):
            raise InputError("prior 'size_magnitude': expected one of magnitude and flux")
        if self.logarithmic:
            for key in ("low", "high", "mean"):
                value = getattr(self, key)
                if value is not None and value <= 0:
                    raise InputError(f"prior '{self.name}': expected {key} > 0, found {value:g}")

    @property
    def logarithmic(self) -> bool:
        """Whether the natural coordinate of the parameter is the logarithm."""
        return self.name in ("log_uniform", "log_normal", "size_magnitude")


_KEYS = ("flux", "position", "rhalf", "sersic", "ellipticity")
PRIOR_HELP = (
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


def check_priors(priors: Mapping[str, PriorOptions]) -> None:
    """Raise InputError for a prior of an unknown parameter, or that a parameter cannot have."""
    known = keys_of(SOURCE_TYPES)
    for key, prior in priors.items():
        if key not in known:
            close = difflib.get_close_matches(key, sorted(known), n=1)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            raise InputError(
                f"'fit.priors': unknown parameter '{key}', expected one of "
                + ", ".join(_KEYS)
                + f" (with a component's suffix where a source has several){hint}"
            )
        _check_prior(key, base_name(key), prior)


def check_fluxes(priors: Mapping[str, PriorOptions], bands, unit: str) -> None:
    """Raise InputError when a prior asks for a band that is not fitted, or for magnitudes of fluxes
    that are not in nJy."""
    for key, prior in priors.items():
        if prior.band is not None and prior.band not in bands:
            raise InputError(
                f"'fit.priors.{key}.band': expected one of {', '.join(bands)}, found '{prior.band}'"
            )
        if prior.magnitude is not None and unit != "nJy":
            raise InputError(
                f"'fit.priors.{key}.magnitude': fluxes are in {unit or 'an unknown unit'}, not "
                "nJy, and have no magnitude; give `flux` in their unit instead"
            )


def _check_prior(key: str, base: str, prior: PriorOptions) -> None:
    """Raise for a prior that the named parameter cannot have."""

    def refuse(expected: str, found: str):
        raise InputError(f"'fit.priors.{key}': expected {expected}, found {found}")

    low, high = prior.low, prior.high
    ends = f"low = {low}, high = {high}"
    if base in ("position", "ellipticity") and (prior.logarithmic or prior.name == "beta"):
        refuse("flat, uniform or normal", prior.name)
    if prior.name == "size_magnitude" and base != "rhalf":
        refuse("a prior of one parameter (size_magnitude is for rhalf)", prior.name)
    if prior.mean is not None and "mean" not in _ALLOWED[prior.name]:
        refuse(f"no mean, which '{prior.name}' does not have", f"{prior.mean:g}")
    if prior.name in ELLIPTICITY and base != "ellipticity":
        refuse("a prior of a number (this one is for ellipticity)", prior.name)
    if prior.name == "disk_galaxies" and high is not None and high > LARGEST_DISK:
        refuse(f"high <= {LARGEST_DISK} (beyond it {prior.name} is zero)", ends)
    # the others have defaults for the end that is missing
    bounded = prior.name in ("uniform", "log_uniform", "truncated_normal", "beta")
    if base == "flux" and bounded and (low is None or high is None):
        refuse(f"both low and high of {prior.name}", ends)
    if prior.name == "truncated_normal" and base != "ellipticity" and None in (low, high):
        refuse("both low and high of truncated_normal", ends)
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
