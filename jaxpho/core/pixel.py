"""Integration of Gaussians over pixels, on 8x8 tiles.

The modes and their errors (of the image's peak, round Gaussian, worst sub-pixel position):

============= ===================================================== =====================
mode          value                                                 error, sigma = .7 px
============= ===================================================== =====================
point         density at the pixel's centre                         .18 of peak
second_order  density times (1 + Laplacian/24)                      .022
forcepho      the same; 0 where Q = d F d > 36                      .022
covariance    density with covariance S + I/12                      7.3e-3
fourth        the same and the fourth cumulant of a square pixel    9.6e-4
sixth         the same and the sixth cumulant                       7.6e-5
============= ===================================================== =====================

A square pixel has variance 1/12 and cumulants k4 = -1/120, k6 = 1/252 along each axis, so with
``F = (S + I/12)^-1``, ``v = F d`` and Hermite polynomials ``H``, the pixel average of a Gaussian
is ``N(d) [1 + k4/4! (H4(vx, Fxx) + H4(vy, Fyy)) + k6/6! (H6 + H6) + ...]``.

The kernels see every Gaussian in the form ``norm exp(-(f p^2 + w d^2)/2) (1 + ...)`` with
``d = y - y0`` and ``p = x - x0 - slope d``: the Cholesky factors of F. Sums of squares keep their
float32 precision far out along an elongated Gaussian, and all that is costly (inverse, root) is
done once per Gaussian instead of once per tile.
"""

from typing import Literal, NamedTuple, get_args

import jax.numpy as jnp
import numpy as np
from jax import Array

PixelMode = Literal["point", "second_order", "forcepho", "covariance", "fourth", "sixth"]
PIXEL_MODES: tuple[str, ...] = get_args(PixelMode)

TILE = 8
TILE_PIXELS = TILE * TILE

CUT = 36.0
"""Squared distance, in units of the covariance, at which forcepho cuts a Gaussian off."""

_K2 = 1.0 / 24.0
_K4 = -1.0 / 120.0 / 24.0
_K6 = 1.0 / 252.0 / 720.0

# dH/df = a (dH/dv / v) + b f where the mode's polynomials allow it: (a, b), saves an image.
FORM_DERIVATIVE = {
    "second_order": (-0.5, 0.0),
    "forcepho": (-0.5, 0.0),
    "fourth": (-1.5, -12.0 * _K4),
}


def tile_offsets() -> tuple[np.ndarray, np.ndarray]:
    """Pixel offsets [64] from a tile's centre; x leads (k = 8 i + j is x = i, y = j)."""
    k = np.arange(TILE_PIXELS)
    half = (TILE - 1) / 2
    return k // TILE - half, k % TILE - half


def tile_monomials(dtype) -> np.ndarray:
    """1, x, y, x^2, xy, y^2 of the offsets on a tile, [6, 64]."""
    x, y = tile_offsets()
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y]).astype(dtype)


def quadratic_form(stacked: Array, pixel_term: Array, mode: PixelMode) -> Array:
    """Gaussians in the form the kernels evaluate.

    Parameters
    ----------
    stacked : Array
        [..., 6, n] flux, x, y, cxx, cyy, cxy, see `gaussians.stack`.
    pixel_term : Array
        [...] 1 where the pixel must be integrated over, 0 where the PSF includes it already.
    mode : str
        One of `PIXEL_MODES`.

    Returns
    -------
    Array
        [..., 6, n] norm, x, y, f, slope, w.
    """
    flux, x, y, cxx, cyy, cxy = (stacked[..., i, :] for i in range(6))
    if mode in ("covariance", "fourth", "sixth"):
        variance = pixel_term[..., None] / 12.0
        cxx, cyy = cxx + variance, cyy + variance
    f = cyy / (cxx * cyy - cxy * cxy)
    w = 1.0 / cyy
    norm = flux * jnp.sqrt(f * w) / (2.0 * jnp.pi)
    return jnp.stack([norm, x, y, f, cxy * w, w], -2)


class TileImages(NamedTuple):
    """Gaussians of unit norm on tiles, and what their derivatives are made of; [tiles, n, 64].

    Attributes
    ----------
    p, d : Array
        Coordinates in which the quadratic form is diagonal.
    vx, vy : Array
        F times the distance from the centre.
    exponential : Array
    value : Array
        Exponential times the pixel term 1 + H(vx, Fxx) + H(vy, Fyy).
    rx, ry : Array or None
        dH/dv over v, along each axis; None for modes without pixel term.
    cx, cy : Array or None
        dH/dF.
    """

    p: Array
    d: Array
    vx: Array
    vy: Array
    exponential: Array
    value: Array
    rx: Array | None
    ry: Array | None
    cx: Array | None
    cy: Array | None


def tile_images(
    form: Array, tile_x: Array, tile_y: Array, pixel_term: Array, mode: PixelMode
) -> TileImages:
    """Evaluate Gaussians on tiles.

    Parameters
    ----------
    form : Array
        [6, n] from `quadratic_form`.
    tile_x, tile_y : Array
        [tiles] centres, pixels.
    pixel_term : Array
        [] see `quadratic_form`.
    mode : str
        The same as given to `quadratic_form`.
    """
    x, y = (offset.astype(form.dtype) for offset in tile_offsets())
    slope, f, w = form[4][:, None], form[3][:, None], form[5][:, None]
    d0 = (tile_y[:, None] - form[2])[..., None]
    p0 = (tile_x[:, None] - form[1])[..., None] - slope * d0
    # the pixel's part of p is the same on every tile
    p, d = p0 + (x - slope * y), d0 + y
    vx, wd = f * p, w * d
    vy = wd - slope * vx
    square = vx * p + wd * d
    exponential = jnp.exp(-0.5 * square)
    if mode == "forcepho":
        exponential = jnp.where(square > CUT, 0.0, exponential)
    if mode in ("point", "covariance"):
        return TileImages(p, d, vx, vy, exponential, exponential, None, None, None, None)
    hx, rx, cx = _pixel_polynomial(vx, f, mode)
    hy, ry, cy = _pixel_polynomial(vy, f * slope * slope + w, mode)
    value = exponential * (1.0 + pixel_term * (hx + hy))
    factors = (pixel_term * a for a in (rx, ry, cx, cy))
    return TileImages(p, d, vx, vy, exponential, value, *factors)


def _pixel_polynomial(v: Array, f: Array, mode: PixelMode) -> tuple[Array, Array, Array]:
    """Pixel term H(v, f) along one axis, dH/dv over v, and dH/df."""
    v2 = v * v
    if mode in ("second_order", "forcepho"):
        return _K2 * (v2 - f), 2.0 * _K2, -_K2
    h3 = v2 - 3.0 * f  # over v
    h4 = h3 * h3 - 6.0 * f * f
    h, r, c = _K4 * h4, 4.0 * _K4 * h3, -6.0 * _K4 * (v2 - f)
    if mode == "sixth":
        h5 = (v2 - 10.0 * f) * v2 + 15.0 * f * f  # over v
        h += _K6 * (v2 * h5 - 5.0 * f * h4)
        r += 6.0 * _K6 * h5
        c += -15.0 * _K6 * h4
    return h, r, c


def derivative_images(form: Array, t: TileImages) -> tuple[Array, ...]:
    """Derivatives of every Gaussian with respect to its form, six times [tiles, n, 64]."""
    norm, _, _, f, slope, w = form[..., None]
    p_part, d_part, f_part, w_part, slope_part = 0.0, 0.0, 0.0, 0.0, 0.0
    if t.rx is not None:
        x_part, y_part = t.rx * t.vx, t.ry * t.vy
        p_part = t.exponential * (x_part - slope * y_part)
        d_part = t.exponential * y_part
        f_part = p_part * t.p + t.exponential * (t.cx + slope * slope * t.cy)
        w_part = d_part * t.d + t.exponential * t.cy
        slope_part = -d_part * t.vx + 2.0 * f * slope * t.exponential * t.cy
    along_p = f * (p_part - t.value * t.p)
    along_d = w * (d_part - t.value * t.d)
    return (
        t.value,
        -norm * along_p,
        norm * (slope * along_p - along_d),
        norm * (f_part - 0.5 * t.value * t.p * t.p),
        norm * (slope_part - t.d * along_p),
        norm * (w_part - 0.5 * t.value * t.d * t.d),
    )
