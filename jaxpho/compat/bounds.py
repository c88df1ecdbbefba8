"""forcepho's bounds on parameters, and the posterior in the variables its sampler moves in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jaxpho.compat.catalog import Catalog
from jaxpho.errors import InputError
from jaxpho.schema import option


@dataclass
class BoundsOptions:
    """`bounds_kwargs` of forcepho's configuration."""

    n_sig_flux: float = option(5.0, "half-width of a flux's range, in units of sqrt(|flux|)", gt=0)
    n_pix: float = option(2.0, "half-width of a position's range", unit="pixel", gt=0)
    pixscale: float = option(0.03, "pixel that n_pix counts", unit="arcsec", gt=0)
    dpos: list[float] | None = option(
        None, "half-widths in RA cos dec and Dec, instead of n_pix", unit="arcsec"
    )
    dra: float | None = option(None, "half-width in RA, not times cos dec", unit="deg", gt=0)
    ddec: float | None = option(None, "half-width in Dec", unit="deg", gt=0)
    sqrtq_range: list[float] = option(lambda: [0.4, 1.0], "range of q = sqrt(b/a)")
    pa_range: list[float] = option(
        lambda: [-0.6 * np.pi, 0.6 * np.pi], "range of pa, from East to North", unit="rad"
    )
    rhalf_range: list[float] = option(
        lambda: [0.03, 0.3], "range of the half-light radius", unit="arcsec"
    )
    sersic_range: list[float] = option(lambda: [1.0, 5.0], "range of the Sersic index")

    def __post_init__(self):
        for name in ("sqrtq_range", "pa_range", "rhalf_range", "sersic_range"):
            values = getattr(self, name)
            if len(values) != 2 or not values[0] < values[1]:
                raise InputError(f"bounds_kwargs.{name}: expected [low, high], found {values}")
        if self.dpos is not None and (len(self.dpos) != 2 or not min(self.dpos) > 0):
            raise InputError(f"bounds_kwargs.dpos: expected two numbers > 0, found {self.dpos}")


def flux_bounds(flux: np.ndarray, n_sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """Range of fluxes: n sqrt(|flux|) either way, always with room around zero."""
    least = (n_sigma / 2.0) ** 2
    width = n_sigma * np.sqrt(np.abs(flux))
    low, high = flux - width, flux + width
    return np.where(flux <= least, np.minimum(low, -least), low), np.maximum(high, least)


def make_bounds(
    start: Catalog,
    bands,
    reference,
    options: BoundsOptions,
    minflux: float | None = None,
    maxfluxfactor: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper bounds [npar] of the parameters, in the order of `Catalog.vector`.

    Parameters
    ----------
    start : starting values: fluxes and positions are bounded around them.
    minflux : lower bounds of fluxes are at most this.
    maxfluxfactor : upper bounds of fluxes are at least this many times the flux.
    """
    degrees = options.n_pix * options.pixscale / 3600.0
    cosine = np.cos(np.deg2rad(start.dec))
    east, north = np.array(options.dpos or [3600.0 * degrees] * 2) / 3600.0
    dra = east / cosine if options.dra is None else np.full(len(start), options.dra)
    ddec = np.full(len(start), north if options.ddec is None else options.ddec)
    columns = []
    for band in bands:
        flux = start.fluxes(band)
        low, high = flux_bounds(flux, options.n_sig_flux)
        if minflux is not None:
            low = np.minimum(low, minflux)
        if maxfluxfactor > 0:
            high = np.maximum(high, flux * maxfluxfactor)
        columns.append((low, high))
    for position, width, zero in ((start.ra, dra, reference[0]), (start.dec, ddec, reference[1])):
        columns.append((position - width - zero, position + width - zero))
    for name in ("sqrtq_range", "pa_range", "sersic_range", "rhalf_range"):
        columns.append(tuple(np.full(len(start), v) for v in getattr(options, name)))
    low, high = (np.stack([c[i] for c in columns], -1).reshape(-1) for i in (0, 1))
    return low, high


def bounded_posterior(theta, lnlike, gradient, low, high):
    """The posterior in z, where theta = low + (high - low) / (1 + exp(-z)).

    Parameters
    ----------
    theta, low, high : ndarray [npar]
    lnlike : float
    gradient : ndarray [npar]
        Of lnlike by theta.

    Returns
    -------
    z : ndarray [npar]
        Infinite for parameters at or beyond a bound.
    lnp : float
        lnlike + ln |prod dtheta/dz|; -inf outside the bounds.
    lnp_gradient : ndarray [npar]
        By z; nan where z is infinite.
    """
    width = high - low
    y = (np.asarray(theta, float) - low) / width
    inside = (y > 0) & (y < 1)
    z = np.where(y >= 1, np.inf, -np.inf)
    z[inside] = np.log(y[inside]) - np.log1p(-y[inside])
    slope = np.where(inside, width * y * (1 - y), np.nan)
    lnp = lnlike + np.log(slope).sum() if inside.all() else -np.inf
    return z, lnp, np.asarray(gradient, float) * slope + np.where(inside, 1 - 2 * y, np.nan)
