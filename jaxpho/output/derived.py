"""Quantities of a source that tables show, with errors, from the fit of its patch.

Without samples, errors come from the Laplace covariance by linear propagation; with samples,
from the draws. Values are always those of the maximum a posteriori fit.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxpho.core.sources import SOURCE_TYPES
from jaxpho.fit.result import PatchResult

PA_ERR_MAX = 180.0 / np.sqrt(12.0)  # deg: standard deviation of an angle known not at all


class Estimate(NamedTuple):
    """A value, its 1 sigma error, and (with samples) mean and 16, 50, 84 % quantiles."""

    value: float
    error: float
    mean: float = np.nan
    p16: float = np.nan
    p50: float = np.nan
    p84: float = np.nan


class Fluxes(NamedTuple):
    """Total fluxes [B] of a source and their covariance [B, B]."""

    value: np.ndarray
    covariance: np.ndarray


def sky_position(reference, dra, ddec):
    """(ra, dec) in degrees of offsets in arcsec (RA times cos dec, dec) from `reference`."""
    ra0, dec0 = reference
    ra = ra0 + np.asarray(dra) / 3600.0 / np.cos(np.deg2rad(dec0))
    return ra % 360.0, dec0 + np.asarray(ddec) / 3600.0


def ellipse_from_e(e1, e2):
    """Axis ratio q and position angle (deg East of North, in [0, 180)) of (e1, e2)."""
    e = np.hypot(e1, e2)
    return (1 - e) / (1 + e), np.rad2deg(0.5 * np.arctan2(e2, e1)) % 180.0


class SourceView:
    """One source of a patch fit: its parameters as values, gradients and draws.

    Parameters
    ----------
    result : PatchResult
    s : index of the source in the patch.
    """

    def __init__(self, result: PatchResult, s: int):
        self.result, self.s = result, s
        self.type = result.types[s]
        held = [name for (owner, name, _) in result.fixed if owner == s]
        free = [name for (owner, name, _) in result.labels if owner == s]
        self.names = list(dict.fromkeys(free + held))
        self.held = list(dict.fromkeys(held))
        samples = result.samples
        self.draws = None if samples is None else samples.reshape(-1, samples.shape[-1])

    def has(self, name: str) -> bool:
        """Whether the source has a parameter of this name, free or fixed."""
        return name in self.names

    def value(self, name: str, band: str = "") -> float:
        """Fitted or fixed value; NaN when the source has no such parameter."""
        column = self.result.index(self.s, name, band)
        if column is not None:
            return float(self.result.theta[column])
        return float(self.result.fixed.get((self.s, name, band), np.nan))

    def labels(self, name: str) -> list[tuple[str, str]]:
        """(name, band) of every value of a parameter, free or fixed."""
        known = [*self.result.labels, *self.result.fixed]
        return list(dict.fromkeys((n, b) for o, n, b in known if o == self.s and n == name))

    def columns(self, names, bands=("",)) -> list[int]:
        """Columns in theta of the free ones among the named parameters."""
        found = (self.result.index(self.s, name, band) for name in names for band in bands)
        return [column for column in found if column is not None]

    def block(self, name1: str, name2: str) -> float:
        """Laplace covariance between two parameters without band; 0 when one is fixed."""
        i, j = self.result.index(self.s, name1, ""), self.result.index(self.s, name2, "")
        return 0.0 if i is None or j is None else float(self.result.covariance[i, j])

    def drawn(self, name: str, band: str = "") -> np.ndarray:
        """Draws [n] of a parameter; a fixed one repeats its value."""
        column = self.result.index(self.s, name, band)
        if column is None:
            return np.full(len(self.draws), self.value(name, band))
        return self.draws[:, column].astype(float)

    def suffixes(self) -> list[str]:
        """Component suffixes with a size: [""] or ["_disk", "_bulge"]; [] for a point."""
        return [name[len("rhalf") :] for name in self.names if name.startswith("rhalf")]

    def flux_names(self) -> list[str]:
        """Names of the flux parameters: "flux", "flux_bulge", ..."""
        return [name for name in self.names if name == "flux" or name.startswith("flux_")]


def _root(variance: float) -> float:
    return float(np.sqrt(variance)) if variance >= 0 else np.nan


def summarise(value: float, error: float, draws: np.ndarray | None) -> Estimate:
    """An Estimate; with draws, the error is their standard deviation."""
    if draws is None:
        return Estimate(value, error)
    p16, p50, p84 = np.percentile(draws, [15.865525, 50.0, 84.134475])
    return Estimate(value, float(np.std(draws)), float(np.mean(draws)), p16, p50, p84)


def parameter(view: SourceView, name: str, band: str = "") -> Estimate:
    """Estimate of a plain parameter; a fixed one has error 0."""
    column = view.result.index(view.s, name, band)
    error = 0.0 if column is None else _root(view.result.covariance[column, column])
    draws = None if view.draws is None or column is None else view.drawn(name, band)
    return summarise(view.value(name, band), error, draws)


def _held_by_type(source_type: str, suffix: str) -> dict[str, float]:
    """Shape parameters that a type holds: {"sersic": 4.0} for "dev"."""
    components = SOURCE_TYPES[source_type].components if source_type in SOURCE_TYPES else ()
    return {k: v for c in components if c.suffix == suffix for k, v in c.fixed}


def shape(view: SourceView, suffix: str = "") -> dict[str, Estimate]:
    """rhalf, rhalf_major (arcsec), sersic, e1, e2, q, pa (deg) of one component.

    Keys carry the suffix. Linear propagation fails for the angle of a round source: its error
    is limited to that of an angle known not at all, 52 deg.
    """
    keys = {key: key + suffix for key in ("rhalf", "sersic", "e1", "e2")}
    out = {keys[key]: parameter(view, keys[key]) for key in keys if view.has(keys[key])}
    held = _held_by_type(view.type, suffix)
    if "sersic" in held and not view.has(keys["sersic"]):
        out[keys["sersic"]] = Estimate(held["sersic"], 0.0)
    if not view.has(keys["e1"]):
        return out
    rhalf, e1, e2 = (view.value(keys[key]) for key in ("rhalf", "e1", "e2"))
    e = np.hypot(e1, e2)
    s11, s22 = (view.block(keys[key], keys[key]) for key in ("e1", "e2"))
    s12 = view.block(keys["e1"], keys["e2"])
    # unit vector along the ellipticity; a round source has none and takes the mean variance
    c, d = (e1 / e, e2 / e) if e > 0 else (np.sqrt(0.5), np.sqrt(0.5))
    along = c * c * s11 + 2 * c * d * s12 * (e > 0) + d * d * s22
    across = d * d * s11 - 2 * c * d * s12 * (e > 0) + c * c * s22
    q, pa = (float(x) for x in ellipse_from_e(e1, e2))
    pa_err = np.rad2deg(0.5 * _root(across) / e) if e > 0 else PA_ERR_MAX * (across > 0)
    # rhalf_major = rhalf sqrt((1 + e) / (1 - e)), and d/de = rhalf_major / (1 - e^2)
    major = rhalf / np.sqrt(q)
    slope = major / max(1 - e * e, 1e-12)
    covariance = c * view.block(keys["rhalf"], keys["e1"]) + d * view.block(
        keys["rhalf"], keys["e2"]
    )
    variance = (
        view.block(keys["rhalf"], keys["rhalf"]) / q
        + 2 * slope / np.sqrt(q) * covariance * (e > 0)
        + slope**2 * along
    )
    draws = {"q": None, "pa": None, "rhalf_major": None}
    if view.draws is not None:
        q_draws, pa_draws = ellipse_from_e(view.drawn(keys["e1"]), view.drawn(keys["e2"]))
        # angles within 90 deg of the fitted one, so that 179 and 1 deg are neighbours
        pa_draws = pa + (pa_draws - pa + 90.0) % 180.0 - 90.0
        draws = {"q": q_draws, "pa": pa_draws}
        draws["rhalf_major"] = view.drawn(keys["rhalf"]) / np.sqrt(q_draws)
    out["q" + suffix] = summarise(q, 2 * _root(along) / (1 + e) ** 2, draws["q"])
    out["pa" + suffix] = summarise(pa, float(min(pa_err, PA_ERR_MAX)), draws["pa"])
    out["rhalf_major" + suffix] = summarise(major, _root(variance), draws["rhalf_major"])
    return out


def total_fluxes(view: SourceView) -> Fluxes:
    """Total flux per band (all components added) with the covariance between the bands."""
    bands, names = view.result.bands, view.flux_names()
    values = np.array([[view.value(name, band) for name in names] for band in bands])
    values = values.reshape(len(bands), len(names))
    present = np.isfinite(values).any(axis=1)
    total = np.where(present, np.nansum(values, axis=1), np.nan)
    if view.draws is not None:
        drawn = np.array([sum(view.drawn(name, band) for name in names) for band in bands])
        covariance = np.atleast_2d(np.cov(drawn, ddof=0)) if len(view.draws) > 1 else None
        if covariance is not None:
            return Fluxes(total, covariance)
    gradient = np.zeros((len(bands), len(view.result.theta)))
    for b, band in enumerate(bands):
        gradient[b, view.columns(names, [band])] = 1.0
    used = np.flatnonzero(gradient.any(axis=0))
    block = np.asarray(view.result.covariance, float)[np.ix_(used, used)]
    covariance = gradient[:, used] @ block @ gradient[:, used].T
    covariance[~present] = np.nan
    covariance[:, ~present] = np.nan
    return Fluxes(total, covariance)
