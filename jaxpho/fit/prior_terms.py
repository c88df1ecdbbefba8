"""Priors that are no independent normals: of size given flux, beta, of the shapes of populations.

Only problems that have such priors carry these arrays; the others compile without them.

The mean of one coordinate may depend on the flux of the source (size and magnitude),

    mean = m + slope ln F,   ln F = ln b + asinh(F / 2b)   (b: softening),

where asinh magnitudes (Lupton, Gunn & Szalay 1999, AJ 118, 1406) stand for the logarithm: the same
for F >> b, finite and monotonic for fluxes that noise has made negative. The prior is that of size
*given* flux, so where it is cut at bounds it is divided by the part within them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import log_ndtr

NO_FAMILY, DISKS, ELLIPTICALS = range(3)
FAMILY = {"disk_galaxies": DISKS, "elliptical_galaxies": ELLIPTICALS}

# Miller et al. 2013 (MNRAS 429, 2858), appendix B, for their ellipticity (1 - q)/(1 + q), ours
DISK_EDGE, DISK_FALL, DISK_CORE = 0.804, 0.2539, 0.0256
ELLIPTICAL_LINEAR, ELLIPTICAL_SQUARE = 2.368, 6.691
ROUND = 1e-12
"""Added to |e|^2 under the root, whose derivative is infinite at 0."""


class PriorTerms(NamedTuple):
    """Arrays [n], by parameter.

    Attributes
    ----------
    follow : Array
        int32, the flux that the mean depends on; itself where none.
    slope : Array
        Change of the mean per unit of ln flux.
    softening : Array
        Flux b.
    first, second : Array
        a - 1 and b - 1 of a beta prior.
    family : Array
        int32, `FAMILY` of a pair of ellipticities, or of the free one of a pair.
    beside : Array
        The held one of a pair.
    """

    follow: Array
    slope: Array
    softening: Array
    first: Array
    second: Array
    family: Array
    beside: Array


def log_flux(t: Array, log: Array, terms: PriorTerms) -> Array:
    """ln of the flux that each parameter follows, [n], softened where it may be negative."""
    flux = t[terms.follow]
    log = log[terms.follow]
    plain = jnp.where(log, 0.0, flux)
    soft = jnp.log(terms.softening) + jnp.arcsinh(plain / (2.0 * terms.softening))
    return jnp.where(log, flux, soft)


def means(t: Array, tr) -> Array:
    """Means of the normal priors of the coordinates t, [n]."""
    if tr.terms is None:
        return tr.mean
    return tr.mean + tr.terms.slope * log_flux(t, tr.log, tr.terms)


def log_within(t: Array, tr) -> Array:
    """ln of the part of a prior that follows a flux within its bounds, [n]; 0 for the others."""
    mean = means(t, tr)
    used = tr.bounded & (tr.terms.slope != 0.0)
    high = jnp.where(used, (tr.high - mean) * tr.precision, 1.0)
    low = jnp.where(used, (tr.low - mean) * tr.precision, -1.0)
    # on the side where the difference of the two does not cancel
    flip = low > 0
    above = log_ndtr(jnp.where(flip, -low, high))
    below = log_ndtr(jnp.where(flip, -high, low))
    return jnp.where(used, above + jnp.log1p(-jnp.exp(below - above)), 0.0)


def log_shape(e: Array, family: Array) -> Array:
    """ln density of (e1, e2) by |e|, up to a constant: p(|e|) / |e| of the two populations."""
    fall = jnp.where(family == DISKS, jnp.minimum(e, DISK_EDGE - 1e-5) - DISK_EDGE, -1.0)
    disk = (
        jnp.log(-jnp.expm1(fall / DISK_FALL))
        - jnp.log1p(e)
        - 0.5 * jnp.log(e * e + DISK_CORE * DISK_CORE)
    )
    elliptical = -ELLIPTICAL_LINEAR * e - ELLIPTICAL_SQUARE * e * e
    return jnp.where(family == DISKS, disk, jnp.where(family == ELLIPTICALS, elliptical, 0.0))


def _separable(z: Array, t: Array, tr) -> Array:
    """Minus the log densities of the beta and shape priors of every parameter, [n].

    In z where that is exact at the ends of the range: u = Phi(z), see `transforms`.
    """
    terms = tr.terms
    beta = -terms.first * log_ndtr(z) - terms.second * log_ndtr(-z)
    out = jnp.where(tr.bounded, beta, 0.0)
    other = jnp.where(tr.disc, t[tr.partner], terms.beside)
    shape = log_shape(jnp.sqrt(t * t + other * other + ROUND), terms.family)
    # half of it for each of the two
    return out - jnp.where(tr.disc, 0.5, 1.0) * shape


def extra_energy(z: Array, t: Array, tr) -> Array:
    """Minus the log density of all terms beyond the squares of the normal priors, []."""
    return jnp.sum(_separable(z, t, tr)) + jnp.sum(log_within(t, tr))


def extra_curvature(z: Array, tr, coordinate) -> Array:
    """Positive part of the second derivative of the beta and shape priors in z, [n, n].

    ``coordinate(z, tr)`` gives t. The normalisation within bounds is left out: it is flat but
    where a size lies beyond them.
    """
    hessian = jax.hessian(lambda x: jnp.sum(_separable(x, coordinate(x, tr), tr)))(z)
    own = jnp.diag(hessian)
    at = jnp.arange(z.shape[0])
    pair = tr.partner != at
    cross = jnp.where(pair, hessian[at, tr.partner], 0.0)
    other = jnp.where(pair, own[tr.partner], own)
    # eigenvalues of the 2 x 2 block of a pair; both are the entry itself where there is none
    middle, half = 0.5 * (own + other), jnp.sqrt(0.25 * (own - other) ** 2 + cross**2)
    upper, lower = middle + half, middle - half
    share = jnp.maximum(upper, 0.0) / jnp.where(half > 0, 2.0 * half, 1.0)
    keep = (lower >= 0.0) | (half == 0.0)
    diagonal = jnp.where(keep, jnp.maximum(own, 0.0), share * (own - lower))
    off = jnp.where(keep, jnp.where(lower >= 0.0, cross, 0.0), share * cross)
    return jnp.diag(diagonal) + jnp.zeros_like(hessian).at[at, tr.partner].add(
        jnp.where(pair, off, 0.0)
    )
