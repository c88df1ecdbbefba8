"""Integration of Gaussians over pixels, as exponent and polynomial on 8x8 tiles.

On a tile every Gaussian is ``exp(A . phi) * (B . psi)``: ``phi`` the six monomials up to second
order and ``psi`` those up to the order of the pixel term, in coordinates about the tile's centre
(absolute pixel coordinates would cost float32 three digits). The modes and their errors:

============= ===================================================== =====================
mode          value                                                 error, sigma = .7 px
============= ===================================================== =====================
point         density at the pixel's centre                         .18 of peak
second_order  density times (1 + Laplacian/24), forcepho's           .022
covariance    density with covariance S + I/12                      7.3e-3
fourth        the same and the fourth cumulant of a square pixel    9.6e-4
sixth         the same and the sixth cumulant                       7.6e-5
============= ===================================================== =====================

A square pixel has variance 1/12 and cumulants k4 = -1/120, k6 = 1/252 along each axis, so with
``F = (S + I/12)^-1``, ``v = F d`` and Hermite polynomials ``H``, the pixel average of a Gaussian
is ``N(d) [1 + k4/4! (H4(vx, Fxx) + H4(vy, Fyy)) + k6/6! (H6 + H6) + ...]``.
"""

from math import factorial
from typing import Literal, get_args

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxpho.core.gaussians import Gaussians

PixelMode = Literal["point", "second_order", "covariance", "fourth", "sixth"]
PIXEL_MODES: tuple[str, ...] = get_args(PixelMode)

TILE = 8
TILE_PIXELS = TILE * TILE
# Local coordinates are in units of 4 pixels, so that monomials of any order stay near one.
SCALE = 4.0

_DEGREE = {"point": 0, "covariance": 0, "second_order": 2, "fourth": 4, "sixth": 6}
_K4 = -1.0 / 120.0 / 24.0
_K6 = 1.0 / 252.0 / 720.0


def monomials(degree: int) -> list[tuple[int, int]]:
    """Exponents (m, n) of x^m y^n up to ``degree``, by total order: (0,0), (1,0), (0,1), ..."""
    return [(total - n, n) for total in range(degree + 1) for n in range(total + 1)]


def tile_offsets() -> tuple[np.ndarray, np.ndarray]:
    """Pixel offsets [64] from a tile's centre; x leads (k = 8 i + j is x = i, y = j)."""
    k = np.arange(TILE_PIXELS)
    half = (TILE - 1) / 2
    return k // TILE - half, k % TILE - half


def tile_basis(degree: int, dtype) -> np.ndarray:
    """Monomials of the scaled offsets on a tile, [n_monomials, 64]."""
    x, y = (offset / SCALE for offset in tile_offsets())
    return np.stack([x**m * y**n for m, n in monomials(degree)]).astype(dtype)


def polynomial_basis(mode: PixelMode, dtype) -> np.ndarray:
    """The basis ``psi`` of a mode, [n_monomials, 64]."""
    return tile_basis(_DEGREE[mode], dtype)


def _linear_power(a: Array, b: Array, c: Array, power: int, degree: int) -> list:
    """Coefficients of (a + b x + c y)^power on the monomials up to ``degree``."""
    out = []
    for m, n in monomials(degree):
        k = power - m - n
        if k < 0:
            out.append(None)
            continue
        factor = factorial(power) / (factorial(k) * factorial(m) * factorial(n))
        out.append(factor * a**k * b**m * c**n)
    return out


def _combine(terms: list[tuple[Array, list]]) -> list:
    """Weighted sum of coefficient lists; None stands for zero."""
    out = []
    for column in zip(*(coefficients for _, coefficients in terms), strict=True):
        parts = [
            weight * value
            for (weight, _), value in zip(terms, column, strict=True)
            if value is not None
        ]
        out.append(sum(parts[1:], start=parts[0]) if parts else 0.0)
    return out


def tile_coefficients(
    g: Gaussians, tile_x: Array, tile_y: Array, pixel_term: Array, mode: PixelMode
) -> tuple[Array, Array]:
    """Exponent and polynomial coefficients of Gaussians on a tile.

    Parameters
    ----------
    g : Gaussians
        Fields broadcast against ``tile_x``, e.g. [1, n] against [tiles, 1].
    tile_x, tile_y : Array
        Centre of the tile, pixels.
    pixel_term : Array
        1 where the pixel must be integrated over, 0 where the PSF includes the pixel already.
    mode : str
        One of `PIXEL_MODES`.

    Returns
    -------
    exponent : Array
        [..., 6]
    polynomial : Array
        [..., n_monomials of the mode]
    """
    cxx, cyy, cxy = g.cxx, g.cyy, g.cxy
    if mode in ("covariance", "fourth", "sixth"):
        cxx, cyy = cxx + pixel_term / 12.0, cyy + pixel_term / 12.0
    det = cxx * cyy - cxy * cxy
    fxx, fyy, fxy = cyy / det, cxx / det, -cxy / det
    dx, dy = tile_x - g.x, tile_y - g.y
    # Q = Fxx p^2 + dy^2/Cyy with p = dx - (Cxy/Cyy) dy: a sum of squares, so that an elongated
    # Gaussian keeps its float32 precision far out along its major axis.
    slope = cxy / cyy
    p = dx - slope * dy
    inv_cyy = 1.0 / cyy
    exponent = [
        -0.5 * (fxx * p * p + dy * dy * inv_cyy),
        -SCALE * fxx * p,
        SCALE * (fxx * p * slope - dy * inv_cyy),
        -0.5 * SCALE**2 * fxx,
        SCALE**2 * fxx * slope,
        -0.5 * SCALE**2 * (fxx * slope * slope + inv_cyy),
    ]
    norm = g.flux / (2.0 * jnp.pi * jnp.sqrt(det))
    degree = _DEGREE[mode]
    if degree == 0:
        polynomial = [norm]
    else:
        vx = (fxx * p, SCALE * fxx, SCALE * fxy)
        vy = (-fxx * p * slope + dy * inv_cyy, SCALE * fxy, SCALE * fyy)
        one = _linear_power(jnp.ones_like(norm), norm, norm, 0, degree)
        terms = [(norm, one)]
        weight = norm * pixel_term
        for v, f in ((vx, fxx), (vy, fyy)):
            terms += _hermite_terms(v, f, weight, mode, degree)
        polynomial = _combine(terms)
    shape = jnp.broadcast_shapes(norm.shape, dx.shape)
    return (
        jnp.stack([jnp.broadcast_to(c, shape) for c in exponent], -1),
        jnp.stack([jnp.broadcast_to(c, shape) for c in polynomial], -1),
    )


def _hermite_terms(v: tuple, f: Array, weight: Array, mode: PixelMode, degree: int) -> list:
    """Terms of the pixel integral along one axis; ``v`` is linear on the tile, ``f`` is Fxx."""
    zero = _linear_power(*v, 0, degree)
    two = _linear_power(*v, 2, degree)
    if mode == "second_order":
        return [(weight / 24.0, two), (-weight * f / 24.0, zero)]
    four = _linear_power(*v, 4, degree)
    w4 = weight * _K4
    terms = [(w4, four), (-6.0 * w4 * f, two), (3.0 * w4 * f * f, zero)]
    if mode == "sixth":
        six = _linear_power(*v, 6, degree)
        w6 = weight * _K6
        terms += [
            (w6, six),
            (-15.0 * w6 * f, four),
            (45.0 * w6 * f * f, two),
            (-15.0 * w6 * f * f * f, zero),
        ]
    return terms
