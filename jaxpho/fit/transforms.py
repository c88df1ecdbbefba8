"""Unconstrained, well-scaled parameters z for the optimiser and the samplers, and priors.

Every parameter has a natural coordinate t (the value itself, or its logarithm). Unbounded ones are
``t = centre + scale z``; bounded ones ``t = low + (high - low) sigmoid(z)``; the two ellipticities
of a component share ``e = e_max v / sqrt(1 + |v|^2)``, v = (z, z_partner), which maps the plane to
the disc of allowed axis ratios and is smooth at e = 0.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxpho.fit.prior_terms import PriorTerms, extra_curvature, extra_energy, means


class Transform(NamedTuple):
    """Arrays [n] describing transform and prior of every parameter.

    Attributes
    ----------
    log : Array
        bool, the coordinate is the logarithm of the value.
    bounded, disc : Array
        bool, kind of the map; neither is the linear map.
    low, high : Array
        bounds of t (bounded); for discs ``high`` is e_max.
    centre, scale : Array
        of the linear map.
    partner : Array
        int32, index of the other ellipticity (itself when not a disc).
    mean, precision : Array
        normal prior of t: mean and 1/sigma (0: flat).
    terms : PriorTerms, optional
        What the priors have beyond that.
    """

    log: Array
    bounded: Array
    disc: Array
    low: Array
    high: Array
    centre: Array
    scale: Array
    partner: Array
    mean: Array
    precision: Array
    terms: PriorTerms | None = None


def coordinate(z: Array, tr: Transform) -> Array:
    """Natural coordinates t of unconstrained parameters."""
    linear = tr.centre + tr.scale * z
    logistic = tr.low + (tr.high - tr.low) * jax.nn.sigmoid(z)
    w = z[tr.partner]
    disc = tr.high * z / jnp.sqrt(1.0 + z * z + w * w)
    return jnp.where(tr.bounded, logistic, jnp.where(tr.disc, disc, linear))


def physical(z: Array, tr: Transform) -> Array:
    """Physical parameters theta of unconstrained parameters."""
    t = coordinate(z, tr)
    return jnp.where(tr.log, jnp.exp(jnp.where(tr.log, t, 0.0)), t)


def inverse(theta: Array, tr: Transform, margin: float = 1e-4) -> Array:
    """Unconstrained parameters of physical ones; values at or beyond a bound are moved inside.

    Parameters
    ----------
    theta : Array
        [n] physical values.
    margin : float
        Fraction of the range that is kept from the bounds.
    """
    tiny = jnp.finfo(theta.dtype).tiny  # a logarithm's parameter starts at or below zero
    t = jnp.where(tr.log, jnp.log(jnp.where(tr.log, jnp.maximum(theta, tiny), 1.0)), theta)
    width = jnp.where(tr.bounded, tr.high - tr.low, 1.0)
    fraction = jnp.clip(jnp.where(tr.bounded, (t - tr.low) / width, 0.5), margin, 1.0 - margin)
    logistic = jnp.log(fraction) - jnp.log1p(-fraction)
    e_max = jnp.where(tr.disc, tr.high, 1.0)
    unit = jnp.where(tr.disc, t, 0.0) / e_max
    radius2 = unit**2 + unit[tr.partner] ** 2
    limit = 1.0 - margin
    shrink = jnp.where(radius2 > limit**2, limit / jnp.sqrt(jnp.maximum(radius2, 1e-12)), 1.0)
    disc = unit * shrink / jnp.sqrt(jnp.maximum(1.0 - radius2 * shrink**2, 1e-12))
    linear = (t - tr.centre) / tr.scale
    return jnp.where(tr.bounded, logistic, jnp.where(tr.disc, disc, linear))


def prior_energy(z: Array, tr: Transform) -> Array:
    """Minus the log prior density in the coordinates t, without constants."""
    t = coordinate(z, tr)
    energy = 0.5 * jnp.sum(((t - means(t, tr)) * tr.precision) ** 2)
    return energy if tr.terms is None else energy + extra_energy(z, t, tr)


def log_volume(z: Array, tr: Transform) -> Array:
    """ln |dt/dz|, without constants: what a density in z has beyond that in t."""
    logistic = jax.nn.log_sigmoid(z) + jax.nn.log_sigmoid(-z)
    w = z[tr.partner]
    disc = -jnp.log1p(z * z + w * w)  # half of -2 ln(1 + |v|^2), for each of the two
    return jnp.sum(jnp.where(tr.bounded, logistic, jnp.where(tr.disc, disc, 0.0)))


def prior_curvature(slope: Array, z: Array, tr: Transform, volume: Array | float) -> Array:
    """A positive approximation to the second derivative of the prior in z, [n, n].

    Parameters
    ----------
    slope : Array
        [n, n] dt/dz.
    z, tr, volume
        As for the energy: ``prior_energy - volume log_volume``.

    Notes
    -----
    For the normal priors the Gauss-Newton part, which is all for linear maps. For the volume the
    diagonal, where it is positive; logistic maps have no other, discs have none other at e = 0.
    For `PriorTerms` see there.
    """
    deviation = slope
    if tr.terms is not None:
        t = coordinate(z, tr)
        follow = jax.jacfwd(lambda t: t - means(t, tr))(t)
        deviation = jnp.matmul(follow, slope, precision=jax.lax.Precision.HIGHEST)
    weighted = tr.precision[:, None] * deviation
    s = jax.nn.sigmoid(z)
    norm = 1.0 + z * z + z[tr.partner] ** 2
    disc = jnp.maximum(4.0 * (norm - 2.0 * z * z) / norm**2, 0.0)
    bent = jnp.where(tr.bounded, 2.0 * s * (1.0 - s), jnp.where(tr.disc, disc, 0.0))
    square = jnp.matmul(weighted.T, weighted, precision=jax.lax.Precision.HIGHEST)
    square = square + jnp.diag(volume * bent)
    return square if tr.terms is None else square + extra_curvature(z, tr, coordinate)
