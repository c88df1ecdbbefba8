"""Correlated and heavy-tailed noise against dense float64 algebra on an independent model."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fit_case import draw, make_case, remake, z_of
from scipy.linalg import cholesky
from scipy.signal import correlate2d
from scipy.stats import t as student_t
from synthetic_patch import derivative, oracle_model

from jaxpho.core.noise import Noise
from jaxpho.fit import noise as fitnoise
from jaxpho.fit.noise import correlation_at, make_whitening, student_noise, student_scale
from jaxpho.fit.posterior import DEFAULT_STATIC, evaluate, log_density
from jaxpho.fit.sandwich import correction, informations, move_draws
from jaxpho.fit.transforms import physical

KERNEL = np.outer([0.3, 1.0, 0.4], [0.35, 1.0, 0.3])
RHO = correlate2d(KERNEL, KERNEL) / (KERNEL**2).sum()
RHO[[0, -1]] *= 0.9  # not separable
STEP = 2e-3
DIFFERENCES = 1e-6  # of derivatives, in units of the curvature's root
NU = 4.0

density = jax.jit(jax.value_and_grad(log_density))


@pytest.fixture(autouse=True)
def double(x64):
    """Dense algebra is the reference."""


@cache
def make():
    """A galaxy in two exposures with masked pixels; the first has correlated noise."""
    s = draw(7, ("sersic",), dtype=np.float64)
    return make_case(remake(s, np.random.default_rng(1)))


def with_noise(case, noise):
    """Problem of a case with other noise."""
    return case.problem._replace(patch=case.problem.patch._replace(noise=noise))


@cache
def whitened():
    case = make()
    return with_noise(case, Noise(make_whitening(case.packed, [RHO, None])))


def pixels_of(case, e):
    """x, y, data, 1/sigma of the unmasked pixels of an exposure, and where they are in tiles."""
    t = case.synthetic.tiles[e]
    k = np.arange(64)
    x = t.x0[:, None] + k // 8
    y = t.y0[:, None] + k % 8
    good = t.ierr > 0
    return x[good], y[good], t.data[good], t.ierr[good], good


def texture(case, e):
    """Errors over the root of the mean of their squares in the 5 x 5 pixels about each."""
    x, y, _, ierr, _ = pixels_of(case, e)
    near = (np.abs(x[:, None] - x) <= 2) & (np.abs(y[:, None] - y) <= 2)
    return 1 / (ierr * np.sqrt((near / ierr**2).sum(1) / near.sum(1)))


def dense_whitening(case, e, rho, reach=fitnoise.REACH):
    """W of the unmasked pixels of an exposure, pixel by pixel."""
    x, y = pixels_of(case, e)[:2]
    n = len(x)
    if rho is None:
        return np.eye(n)
    lag = y[:, None] - y, x[:, None] - x
    full = correlation_at(rho, *lag) + fitnoise._RIDGE * np.eye(n)
    near = (np.abs(lag[0]) <= reach) & (np.abs(lag[1]) <= reach)
    before = near & ((lag[0] > 0) | ((lag[0] == 0) & (lag[1] > 0)))
    out = np.zeros((n, n))
    for i in range(n):
        j = np.flatnonzero(before[i])
        b = np.linalg.solve(full[np.ix_(j, j)], full[j, i])
        s = np.sqrt(full[i, i] - b @ full[j, i])
        out[i, i], out[i, j] = 1 / s, -b / s
    return out * texture(case, e)


def chi(case, z, e):
    """(d - m) / sigma of the unmasked pixels."""
    _, _, data, ierr, good = pixels_of(case, e)
    theta = np.asarray(physical(jnp.asarray(z), case.problem.transform))
    return (data - oracle_model(case.synthetic, case.theirs(theta), e)[good]) * ierr


def points(case, n):
    z = z_of(case.truth, case.problem)
    return z + 0.1 * np.random.default_rng(2).standard_normal((n, len(z)))


def relative(values):
    return np.diff(np.asarray(values, float))


def test_whitened_density_gradient_and_curvature():
    case, problem = make(), whitened()
    dense = [dense_whitening(case, e, rho) for e, rho in enumerate([RHO, None])]

    def white(z):
        return np.concatenate([w @ chi(case, z, e) for e, w in enumerate(dense)])

    at = points(case, 3)
    reference = problem.patch.data
    plain = [density(jnp.asarray(z), case.problem, reference)[0] for z in at]
    found = [density(jnp.asarray(z), problem, reference) for z in at]
    # priors and volume are those of the plain problem
    prior = np.array(plain) + [
        0.5 * sum((chi(case, z, e) ** 2).sum() for e in range(2)) for z in at
    ]
    expected = prior - [0.5 * (white(z) ** 2).sum() for z in at]
    np.testing.assert_allclose([f[0] for f in found], expected, rtol=1e-9)
    assert np.abs(expected - plain).min() > 10.0

    z = at[0]
    jacobian = -derivative(white, z, np.full(len(z), STEP))
    normal = evaluate(jnp.asarray(z), problem, reference)
    base = evaluate(jnp.asarray(z), case.problem, reference)
    np.testing.assert_allclose(normal.chi2.high + normal.chi2.low, (white(z) ** 2).sum(), rtol=1e-9)
    plain_j = -derivative(
        lambda z: np.concatenate([chi(case, z, e) for e in range(2)]), z, np.full(len(z), STEP)
    )
    difference = np.asarray(normal.curvature - base.curvature)
    expected = jacobian @ jacobian.T - plain_j @ plain_j.T
    unit = np.sqrt(np.diag(base.curvature))
    assert np.abs((difference - expected) / np.outer(unit, unit)).max() < DIFFERENCES
    assert np.abs(expected / np.outer(unit, unit)).max() > 0.1
    # the gradient of the sampler's density is that of the normal equations, with the volume
    full = evaluate(jnp.asarray(z), problem, reference, volume=1.0)
    np.testing.assert_allclose(found[0][1] / unit, -full.gradient / unit, atol=1e-8)
    gradient = -jacobian @ white(z) + plain_j @ np.concatenate([chi(case, z, e) for e in range(2)])
    np.testing.assert_allclose(
        (normal.gradient - base.gradient) / unit, gradient / unit, atol=DIFFERENCES
    )


def test_whitening_is_near_the_exact_covariance():
    """Fisher matrix of the approximation against that of the exact covariance."""
    case = make()
    x, y, *_ = pixels_of(case, 0)
    exact = correlation_at(RHO, y[:, None] - y, x[:, None] - x)
    root = cholesky(exact, lower=True)
    z = points(case, 1)[0]
    jacobian = derivative(lambda z: chi(case, z, 0), z, np.full(len(z), STEP)).T
    jacobian = jacobian * texture(case, 0)[:, None]
    used = np.abs(jacobian).sum(0) > 0
    jacobian = jacobian[:, used]
    w = dense_whitening(case, 0, RHO) / texture(case, 0)
    quoted = np.linalg.inv((w @ jacobian).T @ (w @ jacobian))
    best = np.linalg.inv((lambda a: a.T @ a)(np.linalg.solve(root, jacobian)))
    ratio = np.sqrt(np.diag(quoted) / np.diag(best))
    assert np.abs(ratio - 1).max() < 0.06
    plain = np.linalg.inv(jacobian.T @ jacobian)
    assert np.sqrt(np.diag(best) / np.diag(plain)).max() > 1.3


def test_sandwich_matrices_and_covariance():
    case = make()
    z = points(case, 1)[0]
    plain, spread = informations(z, case.problem, case.packed, [RHO, None], DEFAULT_STATIC)
    f, b = 0.0, 0.0
    for e, rho in enumerate([RHO, None]):
        j = derivative(lambda z, e=e: chi(case, z, e), z, np.full(len(z), STEP))
        x, y, *_ = pixels_of(case, e)
        r = np.eye(len(x))
        if rho is not None:
            r = correlation_at(rho, y[:, None] - y, x[:, None] - x)
        k = j if rho is None else j / texture(case, e)
        f, b = f + j @ j.T, b + k @ r @ k.T
    curvature = evaluate(jnp.asarray(z), case.problem, case.problem.patch.data).curvature
    curvature = np.asarray(curvature)
    unit = np.sqrt(np.diag(curvature))
    assert np.abs((plain - f) / np.outer(unit, unit)).max() < DIFFERENCES
    assert np.abs((spread - b) / np.outer(unit, unit)).max() < 10 * DIFFERENCES
    covariance, stretch = correction(curvature, plain, spread)
    prior = curvature - f
    known = np.diag(f) > 0
    at = np.ix_(known, known)
    godambe = np.zeros_like(f)
    godambe[at] = f[at] @ np.linalg.solve(b[at], f[at])
    expected = np.linalg.inv(godambe + prior)
    assert np.abs((covariance - expected) * np.outer(unit, unit)).max() < 1e-4
    back = stretch @ np.linalg.inv(curvature) @ stretch.T
    assert np.abs((back - expected) * np.outer(unit, unit)).max() < 1e-4
    # independent noise: nothing changes
    same, still = correction(curvature, plain, plain)
    np.testing.assert_allclose(same, np.linalg.inv(curvature), rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(still, np.eye(len(z)), atol=1e-8)


def test_draws_are_moved_about_the_mode_within_their_bounds():
    case = make()
    tr, centre = case.problem.transform, z_of(case.truth, case.problem)
    rng = np.random.default_rng(0)
    cloud = centre + 0.3 * rng.standard_normal((2, 500, len(centre)))
    theta = np.asarray(jax.vmap(jax.vmap(lambda z: physical(z, tr)))(jnp.asarray(cloud)))
    np.testing.assert_allclose(
        move_draws(theta, centre, np.eye(len(centre)), tr), theta, rtol=1e-6, atol=1e-9
    )
    moved = move_draws(theta, centre, 1.5 * np.eye(len(centre)), tr)
    expected = np.asarray(
        jax.vmap(jax.vmap(lambda z: physical(z, tr)))(jnp.asarray(centre + 1.5 * (cloud - centre)))
    )
    np.testing.assert_allclose(moved, expected, rtol=1e-6, atol=1e-9)


def test_student_density_gradient_and_limit():
    case = make()
    problem = with_noise(case, student_noise(NU, np.float64))
    at = points(case, 2)
    scale = student_scale(NU)

    def log_t(z):
        return sum(student_t.logpdf(chi(case, z, e), NU, scale=scale).sum() for e in range(2))

    def log_normal(z):
        return -0.5 * sum((chi(case, z, e) ** 2).sum() for e in range(2))

    reference = problem.patch.data
    found = [density(jnp.asarray(z), problem, reference) for z in at]
    plain = [density(jnp.asarray(z), case.problem, reference) for z in at]
    change = [log_t(z) - log_normal(z) for z in at]
    np.testing.assert_allclose(
        relative([f[0] - p[0] for f, p in zip(found, plain, strict=True)]), relative(change),
        rtol=1e-7,
    )  # fmt: skip
    z = at[0]
    unit = np.sqrt(np.diag(evaluate(jnp.asarray(z), case.problem, reference).curvature))
    expected = derivative(lambda z: log_t(z) - log_normal(z), z, np.full(len(z), STEP))
    np.testing.assert_allclose(
        (found[0][1] - plain[0][1]) / unit, expected / unit, atol=DIFFERENCES
    )
    normal = evaluate(jnp.asarray(z), problem, reference, volume=1.0)
    np.testing.assert_allclose(normal.gradient / unit, -found[0][1] / unit, atol=1e-8)
    many = with_noise(case, student_noise(1e8, np.float64))
    np.testing.assert_allclose(density(jnp.asarray(z), many, reference)[0], plain[0][0], rtol=1e-6)


@pytest.mark.parametrize("nu", [2.0, 4.0, 30.0])
def test_student_scale_makes_normal_noise_calibrated(nu):
    u = np.random.default_rng(0).standard_normal(400_000)
    noise = student_noise(nu, np.float64)
    psi = jax.grad(lambda u: 0.5 * (nu + 1) * jnp.log1p(u * u / (nu * noise.student[1] ** 2)).sum())
    slope = jax.jvp(psi, (jnp.asarray(u),), (jnp.ones_like(u),))[1]
    square = np.asarray(psi(jnp.asarray(u))) ** 2
    assert float(slope.mean()) == pytest.approx(square.mean(), rel=0.01)
