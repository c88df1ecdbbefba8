"""Quantities derived from the fit of a source: magnitudes, colours, apertures, Kron, brightness.

All are of the model before the PSF blurs it. Circularised radii m of a Sersic profile of index n
enclose the fraction P(2n, b (m / rhalf)^(1/n)) of its flux, with P the regularised incomplete gamma
function and P(2n, b) = 1/2; first-moment radii are those of Graham & Driver (2005, PASA 22, 118).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import gammainc, gammaincinv, gammaln

from jaxpho.core.scene import LARGEST_E
from jaxpho.core.sersic import N_MAX, N_MIN
from jaxpho.core.sources import SOURCE_TYPES
from jaxpho.data.units import AB_ZERO_POINT_NJY, flux_unit_to_njy
from jaxpho.errors import InputError
from jaxpho.fit.links import is_difference, wavelengths_of
from jaxpho.output.derived import Estimate, SourceView, ellipse_from_e, summarise

KRON_FACTOR = 2.5
ANGLES = 24
"""Points of a quarter of an ellipse: within 1e-6 of the total for b/a >= 0.1, 8e-5 for 0.05."""
STEP = 0.01
"""Of numerical derivatives, in standard deviations."""


class Sersic(NamedTuple):
    """Sersic profiles, arrays [...]: circularised half-light radius, index, axis ratio."""

    rhalf: np.ndarray
    n: np.ndarray
    q: np.ndarray

    def within_ellipse(self, radius) -> np.ndarray:
        """Fraction of the flux within an ellipse of the profile, by circularised radius."""
        b = gammaincinv(2 * self.n, 0.5)
        return gammainc(2 * self.n, b * (radius / self.rhalf) ** (1 / self.n))

    def within_circle(self, radius) -> np.ndarray:
        """Fraction of the flux within a circle about the centre.

        The mean over the eccentric angle t of the fraction within the ellipse that touches the
        circle there; the integrand is smooth and periodic, for which equal steps are best.
        """
        t = (np.arange(ANGLES) + 0.5) * (np.pi / 2 / ANGLES)
        n, q = self.n[..., None], self.q[..., None]
        reach = radius / np.sqrt(np.cos(t) ** 2 / q + q * np.sin(t) ** 2)
        b = gammaincinv(2 * n, 0.5)
        return gammainc(2 * n, b * (reach / self.rhalf[..., None]) ** (1 / n)).mean(-1)

    def kron_radius(self) -> np.ndarray:
        """First moment of the profile, circularised: int r^2 I dr / int r I dr."""
        b = gammaincinv(2 * self.n, 0.5)
        return self.rhalf * b**-self.n * np.exp(gammaln(3 * self.n) - gammaln(2 * self.n))


def magnitude_factor(unit: str) -> float | None:
    """The nJy of a flux unit; None where it has no AB magnitude (counts)."""
    try:
        return flux_unit_to_njy(unit) if unit else None
    except InputError:
        return None


def parameters_at(view: SourceView, theta) -> dict:
    """(name, band) -> values [...] of a source's parameters at `theta` [..., npar]."""
    theta = np.asarray(theta, float)
    out = {}
    for name in view.names:
        bands = [""]
        if is_difference(name):
            bands = [band for _, band in view.labels(name)]
        elif name in view.flux_names():
            bands = view.result.bands
        for band in bands:
            column = view.result.index(view.s, name, band)
            held = view.result.fixed.get((view.s, name, band), np.nan)
            out[name, band] = np.full(theta.shape[:-1], held) if column is None else (
                theta[..., column]
            )  # fmt: skip
    return out


def link_weights(view: SourceView, wavelengths=None) -> dict[str, np.ndarray]:
    """Slope or difference of a shape -> [B] its factor in each band; NaN where it is not known.

    Parameters
    ----------
    view : SourceView
    wavelengths : band -> micron, of `fit.wavelengths`.
    """
    bands, out = view.result.bands, {}
    for name in filter(is_difference, view.names):
        own = [band for _, band in view.labels(name)]
        if own != [""]:
            out[name] = np.array([float(band in own) for band in bands])
            continue
        try:
            wave = wavelengths_of(bands, wavelengths or {})
        except InputError:
            wave = np.full(len(bands), np.nan)
        out[name] = wave - wave.mean()
    return out


def derived_at(view: SourceView, theta, apertures=(), wavelengths=None) -> dict[str, np.ndarray]:
    """Every derived quantity of the registry at parameters [..., npar].

    Parameters
    ----------
    view : SourceView
    theta : array [..., npar]
    apertures : radii [arcsec] of circular apertures.
    wavelengths : band -> micron, where the shape is linear in wavelength and the name of the band
        does not tell; without, what depends on the shape in a band is NaN.

    Returns
    -------
    dict
        Column name -> values [...]. Magnitudes of fluxes that are not positive are infinite,
        colours of such NaN; fluxes of bands without pixels are NaN.
    """
    known, result = parameters_at(view, theta), view.result
    components = SOURCE_TYPES[view.type].components
    profiles = [_profile(known, c) for c in components]
    factor = magnitude_factor(result.unit)
    shape = np.asarray(theta).shape[:-1]
    weights = link_weights(view, wavelengths)
    here, (enclosed, kron) = profiles, _fractions(profiles, apertures, shape)
    out, mags = {}, []
    with np.errstate(all="ignore"):
        for b, band in enumerate(result.bands):
            if weights:
                shift = {k: _shift(known, k, band, w[b]) for k, w in weights.items()}
                here = [_profile(known, c, shift) for c in components]
                enclosed, kron = _fractions(here, apertures, shape)
            fluxes = [_flux(view, known, c, band, shape) for c in components]
            if factor is not None:
                mags.append(_magnitude(sum(fluxes) * factor))
                out[f"mag_{band}"] = mags[-1]
            for k, fractions in enumerate(enclosed, start=1):
                out[f"flux_aper{k}_{band}"] = _dot(fluxes, fractions)
            out[f"flux_kron_{band}"] = _dot(fluxes, kron)
            for component, flux, profile in zip(components, fluxes, here, strict=True):
                if profile and factor is not None:
                    area = 2 * np.pi * profile.rhalf**2
                    out[f"sb{component.suffix}_{band}"] = _magnitude(flux * factor / area)
        for b in range(len(mags) - 1):
            color = mags[b] - mags[b + 1]
            finite = np.isfinite(color)
            name = f"color_{result.bands[b]}_{result.bands[b + 1]}"
            out[name] = np.where(finite, color, np.nan)
    for component, profile in zip(components, profiles, strict=True):
        if profile:
            out["kron" + component.suffix] = profile.kron_radius()
            out["ellipticity" + component.suffix] = 1 - profile.q
    return out


def _fractions(profiles, apertures, shape) -> tuple[list[list], list]:
    """Of the flux of each profile, within each aperture and within 2.5 Kron radii."""
    with np.errstate(all="ignore"):
        enclosed = [
            [p.within_circle(r) if p else np.ones(shape) for p in profiles] for r in apertures
        ]
        # of several components the Kron radius depends on the band: it is given for single ones
        if len(profiles) > 1:
            return enclosed, [np.full(shape, np.nan)] * len(profiles)
        (p,) = profiles
        kron = p.within_ellipse(KRON_FACTOR * p.kron_radius()) if p else np.ones(shape)
    return enclosed, [kron]


def _shift(known: dict, name: str, band: str, weight: float):
    """What is added to a shape in a band; nothing in the one the shape itself belongs to."""
    value = known.get((name, ""), known.get((name, band)))
    return 0.0 if value is None else weight * value


def _profile(known: dict, component, shift=None) -> Sersic | None:
    """The profile at the reference, or with what `shift` adds to its shape in a band."""
    if component.profile != "sersic":
        return None
    held, suffix = dict(component.fixed), component.suffix
    rhalf = known["rhalf" + suffix, ""]
    n = known.get(("sersic" + suffix, ""), np.full(rhalf.shape, held.get("sersic", np.nan)))
    e1, e2 = (known.get((key + suffix, ""), np.zeros(rhalf.shape)) for key in ("e1", "e2"))
    if shift:
        add = {key: shift.get(f"d{key}{suffix}", 0.0) for key in ("rhalf", "sersic", "e1", "e2")}
        rhalf = rhalf * np.exp(add["rhalf"])
        # kept to what the fit keeps them to (`jaxpho.core.scene`)
        n = np.clip(n + add["sersic"], N_MIN, N_MAX)
        e1, e2 = e1 + add["e1"], e2 + add["e2"]
        e = np.hypot(e1, e2)
        smaller = np.where(e > LARGEST_E, LARGEST_E / np.maximum(e, LARGEST_E), 1.0)
        e1, e2 = e1 * smaller, e2 * smaller
    return Sersic(rhalf, n, ellipse_from_e(e1, e2)[0])


def _flux(view: SourceView, known: dict, component, band: str, shape):
    name = "flux" + component.suffix
    free = view.result.index(view.s, name, band) is not None
    if free and not view.result.measured(view.s, band):
        return np.full(shape, np.nan)
    return known.get((name, band), np.full(shape, np.nan))


def _magnitude(njy):
    return np.where(njy > 0, AB_ZERO_POINT_NJY - 2.5 * np.log10(njy), np.where(
        np.isnan(njy), np.nan, np.inf))  # fmt: skip


def _dot(fluxes, fractions):
    return sum(f * w for f, w in zip(fluxes, fractions, strict=True))


def derived_estimates(
    view: SourceView, apertures=(), draws=None, wavelengths=None
) -> dict[str, Estimate]:
    """Derived quantities with errors: of draws where there are any, else by linear propagation.

    Parameters
    ----------
    view : SourceView
    apertures : radii, arcsec.
    draws : name -> draws [n] of `derived_at`, or None.
    wavelengths : as of `derived_at`.

    Returns
    -------
    dict
        Column name -> Estimate. Where the flux of some draw is not positive, mean and error of
        magnitudes are NaN and quantiles count it as infinitely faint.
    """
    theta = np.asarray(view.result.theta, float)
    value = derived_at(view, theta, apertures, wavelengths)
    if draws is not None:
        return {k: _of_draws(float(v), np.ravel(draws[k])) for k, v in value.items()}
    own = [i for i, (owner, _, _) in enumerate(view.result.labels) if owner == view.s]
    covariance = np.asarray(view.result.covariance, float)[np.ix_(own, own)]
    steps = STEP * np.sqrt(np.maximum(np.diag(covariance), 0.0))
    used = np.isfinite(steps) & (steps > 0)
    own, covariance, steps = np.array(own, int)[used], covariance[np.ix_(used, used)], steps[used]
    shifted = np.repeat(theta[None], 2 * len(own), axis=0)
    for k, (column, step) in enumerate(zip(own, steps, strict=True)):
        shifted[2 * k, column] += step
        shifted[2 * k + 1, column] -= step
    moved = derived_at(view, shifted, apertures, wavelengths)
    out = {}
    for name, at in value.items():
        with np.errstate(invalid="ignore"):
            gradient = (moved[name][0::2] - moved[name][1::2]) / (2 * steps)
            variance = gradient @ covariance @ gradient
        error = np.sqrt(variance) if variance >= 0 else np.nan
        out[name] = _finite(Estimate(float(at), float(error)))
    return out


def _of_draws(value: float, draws: np.ndarray) -> Estimate:
    with np.errstate(invalid="ignore"):
        return _finite(summarise(value, np.nan, draws))


def _finite(estimate: Estimate) -> Estimate:
    return Estimate(*[x if np.isfinite(x) else np.nan for x in estimate])
