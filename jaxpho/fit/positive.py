"""Fluxes that must not be negative.

Their posterior is the one without the condition, cut at zero. What is cut has no closed integral
over several fluxes, so these are sampled along with the shapes, in a coordinate y without bounds:
``z = floor + w ln(1 + exp(y / w))`` with w the error of the flux. It is z itself a few errors above
zero, and near zero as well-behaved as a logarithm. A flux that is many errors above zero feels
nothing of the condition and may still be integrated out.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.special import expit

FAR = 7.0
"""Errors above zero from which a flux can be integrated out; draws show whether that was right."""


class Positive(NamedTuple):
    """Which entries of z are kept above zero, arrays [n].

    Attributes
    ----------
    on : Array
        bool
    floor : Array
        z where the parameter is zero.
    width : Array
        w, in z.
    """

    on: Array
    floor: Array
    width: Array


def near_zero(positive: Positive, z: np.ndarray) -> np.ndarray:
    """[n] bool: parameters within `FAR` errors of zero, or below."""
    height = (z - np.asarray(positive.floor)) / np.asarray(positive.width)
    return np.asarray(positive.on) & (height < FAR)


def fold(y: Array, positive: Positive | None) -> Array:
    """z of coordinates y."""
    if positive is None:
        return y
    on, floor, width = positive
    return jnp.where(on, floor + width * jax.nn.softplus(y / width), y)


def log_slope(y: Array, positive: Positive | None) -> Array:
    """ln |dz/dy|, summed."""
    if positive is None:
        return jnp.zeros((), y.dtype)
    return jnp.sum(jnp.where(positive.on, jax.nn.log_sigmoid(y / positive.width), 0.0))


def unfold(z: np.ndarray, positive: Positive, least: float = 0.1) -> np.ndarray:
    """y of z, float64; values at or below zero are moved ``least`` errors above."""
    on, floor, width = (np.asarray(a) for a in positive)
    height = np.where(on, np.maximum((z - floor) / width, least), 1.0)
    return np.where(on, width * (height + np.log(-np.expm1(-height))), z)


def energy_in_y(y: np.ndarray, gradient: np.ndarray, curvature: np.ndarray, positive: Positive):
    """Gradient and a positive curvature in y of an energy with those in z, float64.

    What the map's volume adds is included.
    """
    on, _, width = (np.asarray(a, np.float64) for a in positive)
    s = expit(y / width)
    slope = np.where(on, s, 1.0)
    bent = on * s * (1.0 - s) / width
    extra = bent / width + np.maximum(gradient, 0.0) * bent
    pull = gradient * slope - on * (1.0 - s) / width
    return pull, curvature * np.outer(slope, slope) + np.diag(extra)
