"""Pixel integration: every mode against numerical integration over each pixel."""

from functools import partial
from math import erf

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpho.core.gaussians import Gaussians, evaluate, stack
from jaxpho.core.pixel import (
    CUT,
    PIXEL_MODES,
    derivative_images,
    quadratic_form,
    tile_images,
    tile_monomials,
    tile_offsets,
)

SIGMAS = (0.5, 0.7, 0.8, 1.0, 2.0)
# Largest error of a round Gaussian over all sub-pixel positions, over the image's own peak: the
# accuracy that the documentation quotes.
TABLE = {
    "point": (0.37, 0.179, 0.135, 0.085, 0.021),
    "second_order": (0.089, 0.0218, 0.0126, 5.0e-3, 3.1e-4),
    "forcepho": (0.089, 0.0218, 0.0126, 5.0e-3, 3.1e-4),
    "covariance": (0.024, 7.3e-3, 4.5e-3, 1.9e-3, 1.3e-4),
    "fourth": (5.3e-3, 9.6e-4, 4.7e-4, 1.36e-4, 2.46e-6),
    "sixth": (8.2e-4, 7.6e-5, 3.0e-5, 5.9e-6, 2.9e-8),
}
TABLE_RTOL = 0.03  # two or three digits are given
DEFAULT_LIMIT = 1e-3  # of peak, the default mode from sigma = .7 px on
NODES = 10  # Gauss-Legendre nodes a pixel and axis: exact to 1e-12 at sigma = .5
# Of the peak: rounding of exponents up to 100 in units of 1.2e-7.
FLOAT32_TOL = 5e-6


def gaussians(x, y, cxx, cyy, cxy=0.0, dtype=np.float64):
    """Unit-flux Gaussians [1, n], as `tile_coefficients` wants them."""
    fields = np.broadcast_arrays(1.0, x, y, cxx, cyy, cxy)
    return Gaussians(*(jnp.asarray(np.atleast_1d(f)[None, :], dtype) for f in fields))


def tile_values(g, tile_x, tile_y, mode, pixel_term=1.0):
    """[tiles, n, 64] of Gaussians [1, n] on tiles with these centres."""
    dtype = g.x.dtype
    centres = (jnp.asarray(np.atleast_1d(c), dtype) for c in (tile_x, tile_y))
    values = _tile_values(stack(g)[0], *centres, jnp.asarray(pixel_term, dtype), mode)
    return np.asarray(values, np.float64)


@partial(jax.jit, static_argnums=4)
def _tile_values(stacked, tile_x, tile_y, pixel_term, mode):
    form = quadratic_form(stacked, pixel_term, mode)
    return form[0][:, None] * tile_images(form, tile_x, tile_y, pixel_term, mode).value


def integrated(g, tile_x, tile_y, nodes=NODES):
    """The same by Gauss-Legendre quadrature over every pixel, in plain numpy."""
    t, w = np.polynomial.legendre.leggauss(nodes)
    t, w = t / 2, w / 2
    ox, oy = tile_offsets()
    f = [np.asarray(v, np.float64)[..., None] for v in g]
    total = 0.0
    for tx, wx in zip(t, w, strict=True):
        for ty, wy in zip(t, w, strict=True):
            dx = np.atleast_1d(tile_x)[:, None, None] + ox + tx - f[1]
            dy = np.atleast_1d(tile_y)[:, None, None] + oy + ty - f[2]
            det = f[3] * f[4] - f[5] ** 2
            quad = (f[4] * dx**2 - 2 * f[5] * dx * dy + f[3] * dy**2) / det
            total = total + wx * wy * f[0] / (2 * np.pi * np.sqrt(det)) * np.exp(-quad / 2)
    return total


def subpixel_grid(n=6):
    """Offsets covering an eighth of a pixel's symmetry: both axes 0 to half a pixel."""
    x, y = np.meshgrid(np.linspace(0, 0.5, n), np.linspace(0, 0.5, n))
    return x.ravel() + 0.5, y.ravel() + 0.5  # pixel centres of a tile at 0 are half-integers


def worst_error(mode, cxx, cyy, cxy=0.0, pixel_term=1.0):
    """Largest error over sub-pixel positions, over the peak of the integrated Gaussian."""
    g = gaussians(*subpixel_grid(), cxx, cyy, cxy)
    exact = integrated(g, 0.0, 0.0)
    found = tile_values(g, 0.0, 0.0, mode, pixel_term)
    return (np.abs(found - exact).max(-1) / exact.max(-1)).max()


@pytest.mark.parametrize("mode", PIXEL_MODES)
def test_error_table(x64, mode):
    found = np.array([worst_error(mode, s**2, s**2) for s in SIGMAS])
    np.testing.assert_allclose(found, TABLE[mode], rtol=TABLE_RTOL)


def test_quadrature_is_exact_enough():
    """The reference itself against the closed form of a round Gaussian."""
    g = gaussians(0.5, 0.5, 0.25, 0.25, dtype=np.float32)
    edges = np.arange(-4.0, 5.0) - 0.5
    cdf = np.array([0.5 * erf(v / (0.5 * np.sqrt(2.0))) for v in edges])
    exact = np.outer(np.diff(cdf), np.diff(cdf)).reshape(-1)
    np.testing.assert_allclose(integrated(g, 0.0, 0.0)[0, 0], exact, atol=1e-12)


@pytest.mark.parametrize("minor", [0.7, 1.0])
@pytest.mark.parametrize("major", [1.0, 4.0])
@pytest.mark.parametrize("pa", [0.0, 20.0, 45.0])
def test_default_mode_on_elongated_gaussians(x64, minor, major, pa):
    """The fourth cumulant is exact in the orientation too: no worse than a round Gaussian."""
    c, s = np.cos(np.radians(pa)), np.sin(np.radians(pa))
    cxx, cyy = (
        (c * major * minor) ** 2 + (s * minor) ** 2,
        (s * major * minor) ** 2 + (c * minor) ** 2,
    )
    cxy = c * s * minor**2 * (major**2 - 1)
    found = worst_error("fourth", cxx, cyy, cxy)
    assert found < DEFAULT_LIMIT
    assert found < 1.02 * TABLE["fourth"][SIGMAS.index(minor)]


@pytest.mark.parametrize("mode", PIXEL_MODES)
def test_no_pixel_term_is_the_density(x64, mode):
    """A PSF that includes the pixel: every mode samples the Gaussian at the pixel's centre."""
    g = gaussians([0.3, -2.0], [1.2, 0.4], [0.5, 6.0], [0.9, 2.0], [0.1, -1.5])
    x, y = tile_offsets()
    expected = evaluate(Gaussians(*(v[..., None] for v in g)), 4.0 + x, -3.0 + y)
    found = tile_values(g, 4.0, -3.0, mode, pixel_term=0.0)
    if mode == "forcepho":  # cut off where exp(-Q/2) has fallen to 1.5e-8
        peak = np.asarray(g.flux / (2 * np.pi * np.sqrt(g.cxx * g.cyy - g.cxy**2)))[..., None]
        expected = np.where(expected < np.exp(-CUT / 2) * peak, 0.0, expected)
        assert (expected == 0).any() and (expected > 0).any()
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-300)


@pytest.mark.parametrize("mode", ["second_order", "fourth", "sixth"])
def test_flux_of_an_image_is_kept(x64, mode):
    """The pixel term neither makes nor loses light (sampling alone is exact to 1e-4 here)."""
    tile = np.arange(-3, 4) * 8.0
    tx, ty = (t.ravel() for t in np.meshgrid(tile, tile))
    g = gaussians(0.2, -0.3, 1.2, 0.9, 0.2)
    np.testing.assert_allclose(tile_values(g, tx, ty, mode).sum(), 1.0, atol=1e-7)


@pytest.mark.parametrize("mode", ["second_order", "fourth", "sixth"])
def test_float32_keeps_its_digits_on_any_tile(x64, mode):
    """Narrow and wide Gaussians, round and of axis ratio .1, near and far from their centre."""
    args = (
        [0.3, -2.0, 1.0, 0.0],
        [1.2, 0.4, 3.0, 0.1],
        [0.5, 400.0, 454.8, 900.3],
        [0.9, 300.0, 454.8, 9.3],
        [0.1, -150.0, 445.5, 0.0],
    )
    tx = np.array([0.0, 8.0, 40.0, -64.0, 16.0])
    ty = np.array([0.0, -8.0, 40.0, 0.0, 16.0])
    double, single = (
        tile_values(gaussians(*args, dtype=d), tx, ty, mode) for d in (np.float64, np.float32)
    )
    peak = 1.0 / (2 * np.pi * np.sqrt(np.array(args[2]) * args[3] - np.array(args[4]) ** 2))
    assert (np.abs(single - double).max((0, 2)) / peak).max() < FLOAT32_TOL


@pytest.mark.parametrize("mode", ["second_order", "fourth", "sixth"])
def test_far_tiles_are_zero_not_nan(mode):
    """4000 pixels away the polynomial is huge and the exponential zero."""
    g = gaussians(0.0, 0.0, 0.2, 0.2, 0.1, dtype=np.float32)
    np.testing.assert_array_equal(tile_values(g, 4000.0, -3000.0, mode), 0.0)


@pytest.mark.parametrize("mode", PIXEL_MODES)
def test_derivative_images_are_the_derivatives(x64, mode):
    """Written by hand for speed; here against forward-mode differentiation of the images."""
    g = gaussians([0.3, -2.0], [1.2, 0.4], [0.8, 6.0], [0.9, 2.0], [0.2, -1.5])
    tile_x, tile_y, term = jnp.array([0.0, 8.0]), jnp.array([0.0, -8.0]), jnp.asarray(0.7)
    form = quadratic_form(stack(g)[0], term, mode)

    def values(form):
        return form[0][:, None] * tile_images(form, tile_x, tile_y, term, mode).value

    found = derivative_images(form, tile_images(form, tile_x, tile_y, term, mode))
    for k, image in enumerate(found):
        direction = jnp.zeros_like(form).at[k].set(1.0)
        expected = jax.jvp(values, (form,), (direction,))[1]
        np.testing.assert_allclose(image, expected, rtol=1e-10, atol=1e-12)


def test_order_of_pixels_and_monomials():
    x, y = tile_offsets()
    assert (x[1] - x[0], y[1] - y[0], x[8] - x[0]) == (0.0, 1.0, 1.0)
    assert x.sum() == y.sum() == 0.0
    np.testing.assert_allclose(tile_monomials(np.float64), [x**0, x, y, x**2, x * y, y**2])
