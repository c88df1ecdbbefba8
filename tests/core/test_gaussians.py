"""Gaussian algebra against dense linear algebra, and the properties any Gaussian has."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxpho.core.gaussians import (
    Gaussians,
    convolve,
    evaluate,
    shape_matrix,
    stack,
    transform_covariance,
    unstack,
)

# Rounding of a dozen operations, relative to the largest element.
RTOL = {"float32": 1e-6, "float64": 1e-11}
# A sum over a grid finer than half the smallest sigma is exact to exp(-2 pi^2 / .5^2).
QUADRATURE_RTOL = 1e-10

fast = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
angle = st.floats(-np.pi, np.pi)
ratio = st.floats(0.1, 1.0)
position = st.floats(-3.0, 3.0)
flux = st.floats(-10.0, 10.0).filter(lambda v: abs(v) > 0.1)


def rotation(theta):
    c, s = np.cos(theta), np.sin(theta)
    return np.array([[c, -s], [s, c]])


def ellipse(q, pa):
    """Dense sky covariance (East, North): 1/q along the major axis at pa from North to East."""
    major, minor = (
        np.array([np.sin(pa), np.cos(pa)]),
        np.array([np.cos(pa), -np.sin(pa)]),
    )
    return np.outer(major, major) / q + np.outer(minor, minor) * q


def ellipticity(q, pa):
    e = (1 - q) / (1 + q)
    return e * np.cos(2 * pa), e * np.sin(2 * pa)


def dense(xx, yy, xy):
    return np.array([[float(xx), float(xy)], [float(xy), float(yy)]])


def gaussian(flux, x, y, c):
    return Gaussians(*(jnp.asarray(float(v)) for v in (flux, x, y, c[0, 0], c[1, 1], c[0, 1])))


@st.composite
def covariances(draw, largest=4.0):
    r = rotation(draw(angle))
    return r @ np.diag([draw(st.floats(0.5, largest)), draw(st.floats(0.5, largest))]) @ r.T


@fast
@given(q=ratio, pa=angle)
def test_shape_matrix_is_the_ellipse(x64, q, pa):
    found = dense(*shape_matrix(*(jnp.asarray(v) for v in ellipticity(q, pa))))
    np.testing.assert_allclose(found, ellipse(q, pa), rtol=RTOL["float64"], atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(found), 1.0, rtol=1e-10)


@fast
@given(q=ratio, pa=angle, turn=angle)
def test_turning_the_ellipse_turns_its_matrix(x64, q, pa, turn):
    """pa grows from North to East, against the mathematical sense of (East, North) axes."""
    before, after = (
        dense(*shape_matrix(*(jnp.asarray(v) for v in ellipticity(q, a)))) for a in (pa, pa + turn)
    )
    r = rotation(-turn)
    np.testing.assert_allclose(after, r @ before @ r.T, rtol=1e-9, atol=1e-10)


def test_shape_matrix_is_smooth_when_round():
    jacobian = jax.jacobian(lambda e: jnp.stack(shape_matrix(e[0], e[1])))(jnp.zeros(2))
    np.testing.assert_allclose(jacobian, [[-2, 0], [2, 0], [0, 2]], atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_transform_covariance_is_the_matrix_product(x64, dtype):
    rng = np.random.default_rng(1)
    d = rng.standard_normal((5, 4, 2, 2))
    half = rng.standard_normal((5, 4, 2, 2))
    s = half @ half.swapaxes(-1, -2)
    found = transform_covariance(
        *(jnp.asarray(a, dtype) for a in (d, s[..., 0, 0], s[..., 1, 1], s[..., 0, 1]))
    )
    expected = d @ s @ d.swapaxes(-1, -2)
    assert all(f.dtype == dtype for f in found)
    scale = np.abs(expected).max((-1, -2))
    for f, (i, j) in zip(found, ((0, 0), (1, 1), (0, 1)), strict=True):
        assert (np.abs(f - expected[..., i, j]) / scale).max() < RTOL[dtype]


@fast
@given(f=flux, x=position, y=position, c=covariances())
def test_density_against_dense_algebra_and_its_integral(x64, f, x, y, c):
    grid = np.arange(-18.0, 18.0, 0.35)
    px, py = np.meshgrid(grid, grid)
    found = np.asarray(evaluate(gaussian(f, x, y, c), px, py))
    d = np.stack([px - x, py - y])
    quad = np.einsum("iab,ij,jab->ab", d, np.linalg.inv(c), d)
    expected = f * np.exp(-0.5 * quad) / (2 * np.pi * np.sqrt(np.linalg.det(c)))
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(found.sum() * 0.35**2, f, rtol=QUADRATURE_RTOL)


@fast
@given(f=flux, x=position, y=position, c=covariances(), shift=st.tuples(position, position))
def test_translation_and_rotation(x64, f, x, y, c, shift):
    px, py = np.random.default_rng(0).uniform(-4, 4, (2, 50))
    here = evaluate(gaussian(f, x, y, c), px, py)
    there = evaluate(gaussian(f, x + shift[0], y + shift[1], c), px + shift[0], py + shift[1])
    np.testing.assert_allclose(there, here, rtol=1e-9)
    r = rotation(shift[0])
    centre, (qx, qy) = r @ [x, y], r @ np.stack([px, py])
    turned = evaluate(gaussian(f, *centre, r @ c @ r.T), qx, qy)
    np.testing.assert_allclose(turned, here, rtol=1e-9)


@fast
@given(first=flux, second=flux, x=position, y=position, c=covariances())
def test_fluxes_add(x64, first, second, x, y, c):
    px, py = np.random.default_rng(0).uniform(-4, 4, (2, 50))
    parts = [evaluate(gaussian(f, x, y, c), px, py) for f in (first, second)]
    whole = evaluate(gaussian(first + second, x, y, c), px, py)
    np.testing.assert_allclose(whole, parts[0] + parts[1], rtol=1e-9, atol=1e-14)


@fast
@given(f=flux, g=flux, x=position, y=position, c1=covariances(2.0), c2=covariances(2.0))
def test_convolution_against_a_sum_over_a_grid(x64, f, g, x, y, c1, c2):
    """(f * g)(p) = sum over a fine grid of f(t) g(p - t); and the order does not matter."""
    first, second = gaussian(f, x, y, c1), gaussian(g, y, -x, c2)
    grid = np.arange(-12.0, 12.0, 0.3)
    tx, ty = np.meshgrid(grid, grid)
    points = np.array([[0.0, 0.0], [1.3, -0.4], [x + y, y - x]])
    found = evaluate(convolve(first, second), *points.T)
    values = np.asarray(evaluate(first, tx, ty)) * 0.09
    expected = [
        (values * np.asarray(evaluate(second, px - tx, py - ty))).sum() for px, py in points
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-12)
    swapped = evaluate(convolve(second, first), *points.T)
    np.testing.assert_allclose(found, swapped, rtol=1e-12)


def test_stack_broadcasts_and_unstack_inverts():
    g = Gaussians(jnp.ones((3, 1)), jnp.zeros(4), *(jnp.full((3, 4), v) for v in (1, 2, 3, 4.0)))
    stacked = stack(g)
    assert stacked.shape == (3, 6, 4)
    for field, back in zip(jnp.broadcast_arrays(*g), unstack(stacked), strict=True):
        np.testing.assert_array_equal(field, back)
