"""Algebra of two-dimensional Gaussians, written out in scalars.

Nothing here multiplies small matrices: 2x2 products are spelled out, which keeps every operation
elementwise (fast under ``vmap``) and clear of backends that get batched small products wrong.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array


class Gaussians(NamedTuple):
    """A set of 2-D Gaussians in the pixel frame of an exposure; all fields broadcast together.

    Attributes
    ----------
    flux : Array
        Integral of the Gaussian, in the image's unit.
    x, y : Array
        Centre in pixels (0-indexed, integer = pixel centre), relative to the exposure's origin.
    cxx, cyy, cxy : Array
        Covariance in pixels squared.
    """

    flux: Array
    x: Array
    y: Array
    cxx: Array
    cyy: Array
    cxy: Array


def shape_matrix(e1: Array, e2: Array) -> tuple[Array, Array, Array]:
    """Unit-determinant sky covariance of an ellipse of given ellipticity.

    With ``q`` the axis ratio, ``e = (1 - q)/(1 + q)``, ``e1 = e cos 2pa``, ``e2 = e sin 2pa`` and
    ``pa`` measured from North through East, the matrix has eigenvalues ``1/q`` along the major
    axis and ``q`` along the minor axis. It is smooth at ``q = 1``, where ``pa`` is undefined.

    Returns
    -------
    m_ee, m_nn, m_en : Array
        Elements in (East, North).
    """
    ee = e1 * e1 + e2 * e2
    inverse = 1.0 / (1.0 - ee)
    round_part = (1.0 + ee) * inverse
    return round_part - 2.0 * e1 * inverse, round_part + 2.0 * e1 * inverse, 2.0 * e2 * inverse


def transform_covariance(
    d: Array, s00: Array, s11: Array, s01: Array
) -> tuple[Array, Array, Array]:
    """Covariance ``D S D^T`` under a linear map.

    Parameters
    ----------
    d : Array
        [..., 2, 2] linear map.
    s00, s11, s01 : Array
        [...] elements of the symmetric ``S``.

    Returns
    -------
    cxx, cyy, cxy : Array
    """
    a, b, c, e = d[..., 0, 0], d[..., 0, 1], d[..., 1, 0], d[..., 1, 1]
    cxx = a * a * s00 + 2.0 * a * b * s01 + b * b * s11
    cyy = c * c * s00 + 2.0 * c * e * s01 + e * e * s11
    cxy = a * c * s00 + (a * e + b * c) * s01 + b * e * s11
    return cxx, cyy, cxy


def convolve(first: Gaussians, second: Gaussians) -> Gaussians:
    """Convolution of Gaussians: fluxes multiply, centres and covariances add."""
    return Gaussians(
        first.flux * second.flux,
        first.x + second.x,
        first.y + second.y,
        first.cxx + second.cxx,
        first.cyy + second.cyy,
        first.cxy + second.cxy,
    )


def evaluate(g: Gaussians, x: Array, y: Array) -> Array:
    """Surface density of Gaussians at points (no pixel integration), flux per pixel."""
    det = g.cxx * g.cyy - g.cxy * g.cxy
    dx, dy = x - g.x, y - g.y
    quad = (g.cyy * dx * dx - 2.0 * g.cxy * dx * dy + g.cxx * dy * dy) / det
    return g.flux / (2.0 * jnp.pi * jnp.sqrt(det)) * jnp.exp(-0.5 * quad)


def stack(g: Gaussians) -> Array:
    """Fields of broadcast Gaussians as one array [..., 6, n], the form the kernels read."""
    return jnp.stack(jnp.broadcast_arrays(*g), axis=-2)


def unstack(a: Array) -> Gaussians:
    """Inverse of :func:`stack`."""
    return Gaussians(*(a[..., i, :] for i in range(6)))
