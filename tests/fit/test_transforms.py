"""Maps between unconstrained and physical parameters: inverses, volumes, priors, ends of ranges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.stats import kstest

from jaxpho.fit.optimize import Z_LIMIT
from jaxpho.fit.prior_terms import PriorTerms
from jaxpho.fit.transforms import (
    SERIES,
    Transform,
    coordinate,
    inverse,
    log_volume,
    physical,
    prior_curvature,
    prior_energy,
)

# z -> theta -> z in float32 where the maps are steep enough to be inverted at all
ROUND_TRIP = 1e-3
FLOAT64 = 1e-12

LINEAR, LOG_LINEAR, BOUNDED, LOG_BOUNDED, E1, F1, E2, F2 = range(8)


def transform(dtype=np.float32, normal=False):
    """One parameter of every kind, and two pairs of ellipticities that interleave."""
    n = 8
    log, bounded, disc = np.zeros((3, n), bool)
    log[[LOG_LINEAR, LOG_BOUNDED]] = True
    bounded[[BOUNDED, LOG_BOUNDED]] = True
    disc[[E1, E2, F1, F2]] = True
    partner = np.arange(n, dtype=np.int32)
    partner[[E1, E2, F1, F2]] = [E2, E1, F2, F1]
    low, high, centre, scale = np.zeros(n), np.ones(n), np.zeros(n), np.ones(n)
    low[BOUNDED], high[BOUNDED] = 0.5, 8.0
    low[LOG_BOUNDED], high[LOG_BOUNDED] = np.log(2e-3), np.log(6.0)
    high[[E1, E2]], high[[F1, F2]] = 0.8, 0.9
    centre[LINEAR], scale[LINEAR] = 10.0, 7.0
    centre[LOG_LINEAR], scale[LOG_LINEAR] = np.log(50.0), 0.4
    mean, precision = np.zeros((2, n))
    if normal:
        mean[:] = [3.0, 4.0, 2.0, -1.0, 0.1, -0.2, 0.0, 0.3]
        precision[:] = [0.1, 2.0, 0.5, 1.5, 4.0, 3.0, 5.0, 0.0]
    floats = (np.asarray(a, dtype) for a in (low, high, centre, scale, mean, precision))
    low, high, centre, scale, mean, precision = floats
    return Transform(log, bounded, disc, low, high, centre, scale, partner, mean, precision)


positions = st.lists(st.floats(-2.5, 2.5), min_size=8, max_size=8)


@settings(max_examples=60, deadline=None)
@given(positions)
def test_inverse_undoes_physical(z):
    tr = transform()
    z = np.array(z, np.float32)
    back = inverse(physical(jnp.asarray(z), tr), tr)
    np.testing.assert_allclose(back, z, atol=ROUND_TRIP * (1.0 + np.abs(z).max()))


def test_physical_values(x64):
    """By the definitions, at points worked out by hand."""
    tr = transform(np.float64)
    # the normal distribution holds .975002105 below 1.96
    z = np.array([2.0, -1.0, 1.96, 0.0, 0.6, 0.0, -0.8, 0.0])
    theta = np.asarray(physical(jnp.asarray(z), tr))
    expected = [24.0, 50.0 * np.exp(-0.4), 0.5 + 7.5 * 0.975002105, np.sqrt(2e-3 * 6.0)]
    np.testing.assert_allclose(theta[:4], expected, rtol=1e-9)
    # |v| = 1
    radius = 0.8 * np.sqrt(1.0 - np.exp(-0.5))
    np.testing.assert_allclose(theta[[E1, E2]], radius * np.array([0.6, -0.8]), rtol=FLOAT64)
    np.testing.assert_allclose(theta[[F1, F2]], 0.0, atol=FLOAT64)


def test_flat_priors_are_unit_normals():
    """Of draws of z: uniform in the ranges, and in the disc."""
    tr = transform()
    z = jnp.asarray(np.random.default_rng(3).standard_normal((4000, 8)), jnp.float32)
    theta = np.asarray(jax.vmap(lambda x: physical(x, tr))(z), float)
    share = [
        (theta[:, BOUNDED] - 0.5) / 7.5,
        np.log(theta[:, LOG_BOUNDED] / 2e-3) / np.log(6.0 / 2e-3),
        (theta[:, E1] ** 2 + theta[:, E2] ** 2) / 0.8**2,
        np.arctan2(theta[:, F2], theta[:, F1]) / (2 * np.pi) + 0.5,
    ]
    for values in share:
        assert kstest(values, "uniform").pvalue > 1e-4


def test_discs_are_smooth_where_the_series_takes_over(x64):
    """Value, slope and inverse on both sides of the change."""
    tr = transform(np.float64)

    def both(radius2):
        z = jnp.zeros(8).at[E1].set(jnp.sqrt(radius2))
        slope = jax.jacfwd(coordinate)(z, tr)[E1, E1]
        back = inverse(coordinate(z, tr), tr._replace(log=tr.log & False))[E1]
        return float(coordinate(z, tr)[E1] / z[E1]), float(slope), float(back / z[E1])

    for edge in (2 * SERIES, -2 * np.log1p(-SERIES)):
        below, above = both(edge * (1 - 1e-9)), both(edge * (1 + 1e-9))
        np.testing.assert_allclose(below, above, rtol=1e-9)
        np.testing.assert_allclose(above[2], 1.0, rtol=1e-9)


@settings(max_examples=60, deadline=None)
@given(positions)
def test_theta_stays_in_range(z):
    tr = transform()
    theta = np.asarray(physical(10.0 * jnp.asarray(z, jnp.float32), tr))
    assert 0.5 <= theta[BOUNDED] <= 8.0
    # exp and log of float32 are good to a few units of the last place
    assert 2e-3 * (1 - 1e-5) <= theta[LOG_BOUNDED] <= 6.0 * (1 + 1e-5)
    assert np.hypot(theta[E1], theta[E2]) <= 0.8 * (1 + 1e-6)
    assert np.hypot(theta[F1], theta[F2]) <= 0.9 * (1 + 1e-6)


def test_log_volume_is_that_of_the_jacobian(x64):
    tr = transform(np.float64)
    rng = np.random.default_rng(0)
    points = np.concatenate([np.zeros((1, 8)), 2.0 * rng.standard_normal((20, 8))])
    determinant = jax.vmap(lambda z: jnp.linalg.slogdet(jax.jacfwd(coordinate)(z, tr))[1])
    exact = determinant(jnp.asarray(points))
    found = jax.vmap(lambda z: log_volume(z, tr))(jnp.asarray(points))
    # constants may differ
    np.testing.assert_allclose(found - found[0], exact - exact[0], atol=1e-9)


def test_prior_energy_is_a_normal_in_the_coordinates(x64):
    tr = transform(np.float64, normal=True)
    z = jnp.asarray(np.random.default_rng(1).standard_normal(8))
    theta = np.asarray(physical(z, tr))
    t = np.where(tr.log, np.log(np.where(tr.log, theta, 1.0)), theta)
    expected = 0.5 * np.sum((t - tr.mean) ** 2 * tr.precision**2)
    np.testing.assert_allclose(prior_energy(z, tr), expected, rtol=FLOAT64)


def test_prior_curvature(x64):
    """The whole Hessian for linear maps; J^T P J for others, off-diagonals of discs included."""
    tr = transform(np.float64, normal=True)
    z = jnp.asarray(np.random.default_rng(2).standard_normal(8))
    slope = jax.jacfwd(coordinate)(z, tr)
    found = np.asarray(prior_curvature(slope, z, tr, 0.0))
    hessian = np.asarray(jax.hessian(prior_energy)(z, tr))
    linear = np.ix_([LINEAR, LOG_LINEAR], [LINEAR, LOG_LINEAR])
    np.testing.assert_allclose(found[linear], hessian[linear], atol=FLOAT64)
    jacobian = np.asarray(slope)
    gauss_newton = jacobian.T @ np.diag(tr.precision**2) @ jacobian
    np.testing.assert_allclose(found, gauss_newton, atol=1e-10)
    assert abs(found[E1, E2]) > 0.1  # what a diagonal would leave out
    # at the prior's mean nothing is left but the Gauss-Newton part
    tr = tr._replace(mean=coordinate(z, tr))
    np.testing.assert_allclose(found, jax.hessian(prior_energy)(z, tr), atol=1e-9)


def test_curvature_of_the_volume(x64):
    """Exact."""
    tr = transform(np.float64)
    hessian = jax.hessian(lambda z: -log_volume(z, tr))
    slope = np.zeros((8, 8))
    z = jnp.asarray([0.3, -0.2, 1.5, -3.0, 0.0, 2.0, -1.0, 0.5])
    np.testing.assert_allclose(prior_curvature(slope, z, tr, 1.0), hessian(z), atol=1e-10)
    half = prior_curvature(slope, z, tr, 0.5)
    np.testing.assert_allclose(half, 0.5 * hessian(z), atol=1e-10)


def curved(dtype=np.float64):
    """A size that follows a flux, a beta prior, and the shapes of both populations."""
    tr = transform(dtype, normal=True)
    follow, slope, family = np.arange(8, dtype=np.int32), np.zeros(8), np.zeros(8, np.int32)
    follow[LOG_BOUNDED], slope[LOG_BOUNDED] = LINEAR, 0.3
    first, second = np.zeros((2, 8))
    first[BOUNDED], second[BOUNDED] = 0.7, 2.0
    family[[E1, E2]], family[[F1, F2]] = 1, 2
    precision = np.array(tr.precision)
    precision[[BOUNDED, E1, E2, F1, F2]] = 0.0
    floats = (np.asarray(a, dtype) for a in (slope, np.full(8, 2.0), first, second))
    terms = PriorTerms(follow, *floats, family, np.zeros(8, dtype))
    return tr._replace(precision=precision.astype(dtype), terms=terms)


def test_energies_beyond_normals(x64):
    """The densities by scipy and by the formulas of their sources, normalised where need be."""
    tr = curved()

    def expected(theta):
        flux, size, n = theta[LINEAR], theta[LOG_BOUNDED], theta[BOUNDED]
        mean, sigma = -1.0 + 0.3 * (np.log(2.0) + np.arcsinh(flux / 4.0)), 1 / 1.5
        ends = (np.array([tr.low[LOG_BOUNDED], tr.high[LOG_BOUNDED]]) - mean) / sigma
        out = stats.truncnorm(*ends, mean, sigma).logpdf(np.log(size))
        out += stats.beta(1.7, 3.0, 0.5, 7.5).logpdf(n)
        out += stats.norm(3.0, 10.0).logpdf(flux)
        out += stats.norm(4.0, 0.5).logpdf(np.log(theta[LOG_LINEAR]))
        e, f = np.hypot(theta[E1], theta[E2]), np.hypot(theta[F1], theta[F2])
        out += np.log((1 - np.exp((e - 0.804) / 0.2539)) / ((1 + e) * np.hypot(e, 0.0256)))
        return out - 2.368 * f - 6.691 * f * f

    rng = np.random.default_rng(5)
    # the last two with a size that its bounds cut, and a negative flux
    points = [*rng.standard_normal((6, 8)), np.full(8, 0.1), np.full(8, 0.1)]
    points[-2][LINEAR], points[-1][LINEAR] = 1e3, -30.0
    values = [float(prior_energy(jnp.asarray(z), tr)) for z in points]
    known = [-expected(np.asarray(physical(jnp.asarray(z), tr))) for z in points]
    np.testing.assert_allclose(np.subtract(values, values[0]), np.subtract(known, known[0]), 1e-9)


def test_curvature_beyond_normals(x64):
    """Where the second derivative is positive it is that; elsewhere the nearest that is."""
    tr = curved()
    quiet = tr._replace(precision=np.zeros(8))
    hessian = jax.jit(jax.hessian(lambda z: prior_energy(z, quiet)))
    rng = np.random.default_rng(6)
    for z in rng.standard_normal((10, 8)):
        z = jnp.asarray(z)
        slope = jax.jacfwd(coordinate)(z, tr)
        exact = np.array(hessian(z))
        exact[[LINEAR, LOG_BOUNDED]] = exact[:, [LINEAR, LOG_BOUNDED]] = 0.0  # of the normalisation
        value, basis = np.linalg.eigh(exact)
        nearest = (basis * np.maximum(value, 0)) @ basis.T
        np.testing.assert_allclose(prior_curvature(slope, z, quiet, 0.0), nearest, atol=1e-9)
        # size and flux: Gauss-Newton of (t - mean(flux)) / sigma
        found = np.asarray(prior_curvature(slope, z, tr, 0.0)) - nearest
        flux = float(coordinate(z, tr)[LINEAR])
        row = np.zeros(8)
        row[LOG_BOUNDED] = slope[LOG_BOUNDED, LOG_BOUNDED]
        row[LINEAR] = -0.3 * 7.0 / np.sqrt(flux**2 + 16.0)
        at = np.ix_([LINEAR, LOG_BOUNDED], [LINEAR, LOG_BOUNDED])
        wanted = 1.5**2 * np.outer(row, row) + np.diag([(0.1 * 7.0) ** 2] + [0.0] * 7)
        np.testing.assert_allclose(found[at], wanted[at], rtol=1e-9)


@pytest.mark.parametrize("z", [Z_LIMIT, 15.0, 60.0])
def test_terms_at_the_ends_are_finite_in_float32(z):
    tr = curved(np.float32)
    for signs in np.random.default_rng(1).choice([-1.0, 1.0], (10, 8)):
        x = jnp.asarray(z * signs, jnp.float32)
        slope = jax.jacfwd(coordinate)(x, tr)
        values = (prior_energy(x, tr), jax.grad(prior_energy)(x, tr),
                  prior_curvature(slope, x, tr, 1.0))  # fmt: skip
        assert all(np.isfinite(v).all() for v in values)


@pytest.mark.parametrize("z", [Z_LIMIT, 15.0, 60.0])
def test_ends_of_the_ranges_are_finite_in_float32(z):
    tr = transform(normal=True)
    for signs in np.random.default_rng(0).choice([-1.0, 1.0], (10, 8)):
        x = jnp.asarray(z * signs, jnp.float32)
        theta = physical(x, tr)
        jacobian = jax.jacfwd(physical)(x, tr)
        slope = jax.jacfwd(coordinate)(x, tr)
        values = (
            theta, jacobian, inverse(theta, tr), prior_energy(x, tr), log_volume(x, tr),
            jax.grad(prior_energy)(x, tr), jax.grad(log_volume)(x, tr),
            prior_curvature(slope, x, tr, 1.0),
        )  # fmt: skip
        assert all(np.isfinite(v).all() for v in values)
        if z == Z_LIMIT:
            # the optimiser still feels every bounded parameter there
            assert (np.abs(np.diag(jacobian)) > 0).all()


def test_values_at_and_beyond_the_bounds_start_inside():
    tr = transform()
    for low in (True, False):
        theta = np.array([0, 1.0, 0.5, 2e-3, 0.0, 0.0, 0.8, 0.9], np.float32)
        if not low:
            theta[[BOUNDED, LOG_BOUNDED, E1, F1]] = [99.0, 1e9, 5.0, -0.9]
        z = np.asarray(inverse(jnp.asarray(theta), tr))
        assert np.isfinite(z).all()
        back = np.asarray(physical(jnp.asarray(z), tr))
        assert 0.5 < back[BOUNDED] < 8.0 and 2e-3 < back[LOG_BOUNDED] < 6.0
        assert np.hypot(back[E1], back[E2]) < 0.8
    # the direction of an ellipticity that is too large is kept
    theta[[E1, E2]] = 3.0, -4.0
    back = np.asarray(physical(inverse(jnp.asarray(theta), tr), tr))
    np.testing.assert_allclose(back[E1] / back[E2], -0.75, rtol=1e-3)


def test_logarithm_of_a_negative_start():
    """A flux with a log-normal prior may start below zero: the lowest value, not NaN."""
    tr = transform()
    theta = np.full(8, 0.1, np.float32)
    theta[[LOG_LINEAR, LOG_BOUNDED]] = -5.0, 0.0
    z = np.asarray(inverse(jnp.asarray(theta), tr))
    assert np.isfinite(z).all()
    back = np.asarray(physical(jnp.asarray(z), tr))
    assert np.isfinite(back).all() and 0 <= back[LOG_LINEAR] < 1e-30
    np.testing.assert_allclose(back[LOG_BOUNDED], 2e-3, rtol=2e-3)
