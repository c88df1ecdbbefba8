"""The posterior and its normal equations against dense float64 algebra on an independent model."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fit_case import draw, make_case, remake, z_of
from scipy.stats import norm
from synthetic_patch import derivative, oracle_model

from jaxpho.data.exposure import Nuisance
from jaxpho.fit.options import FitOptions, PriorOptions
from jaxpho.fit.posterior import evaluate, log_density, model_of

RTOL = 1e-9
# Derivatives in units of the curvature's root, by differences with steps in z.
DIFFERENCES = 1e-6
STEP = 2e-3
# of chi2, of the largest gradient and of sqrt(F_ii F_jj)
FLOAT32 = 1e-5

NUISANCES = [
    Nuisance(0.05, "exposure", 0.05, "plane", 0.3, 0.1, 0.2),
    Nuisance(sky="constant", sky_sigma=0.5),
]
OPTIONS = FitOptions(
    priors={
        "rhalf": PriorOptions("log_normal", mean=0.4, sigma=0.3),
        "ellipticity": PriorOptions("normal", sigma=0.2),
        "sersic": PriorOptions("normal", mean=1.5, sigma=0.7),
        "position": PriorOptions("normal", sigma=0.1),
        "flux_point": PriorOptions("uniform", low=-100.0, high=900.0),
    }
)

density = jax.jit(jax.value_and_grad(log_density))


@pytest.fixture(autouse=True)
def double(x64):
    """Dense algebra is the reference."""


@cache
def make(dtype=np.float64):
    """Two sources of three components with nuisances and priors of every kind."""
    s = draw(7, ("sersic", "sersic_point"), nuisances=True, dtype=dtype)
    return make_case(remake(s, np.random.default_rng(1)), options=OPTIONS, nuisances=NUISANCES)


@pytest.fixture
def case():
    return make()


def normal(case, z, volume=0.0, **kwargs):
    """`evaluate` relative to the data, so that chi2 is a sum of squares."""
    z = jnp.asarray(z, case.problem.patch.data.dtype)
    return evaluate(z, case.problem, case.problem.patch.data, volume=volume, **kwargs)


def log_posterior(case, z):
    """Value and gradient."""
    z = jnp.asarray(z, case.problem.patch.data.dtype)
    return density(z, case.problem, case.problem.patch.data)


def points(case, n=3):
    """Unconstrained points around the truth."""
    z = z_of(case.truth, case.problem)
    return z + 0.1 * np.random.default_rng(2).standard_normal((n, len(z)))


def physical_of(case, z):
    """theta by the definitions, in numpy."""
    tr = jax.tree.map(lambda a: np.asarray(a, float), case.problem.transform)
    partner = np.asarray(case.problem.transform.partner)
    bounded = tr.low + (tr.high - tr.low) * norm.cdf(z)
    radius2 = z**2 + z[partner] ** 2
    disc = tr.high * z * np.sqrt((1 - np.exp(-radius2 / 2)) / np.maximum(radius2, 1e-12))
    t = np.where(tr.bounded, bounded, np.where(tr.disc, disc, tr.centre + tr.scale * z))
    return np.where(tr.log, np.exp(t), t)


def chi2_of(case, theta):
    """Sum of squared residuals over sigma."""
    total = 0.0
    for e, t in enumerate(case.synthetic.tiles):
        model = oracle_model(case.synthetic, case.theirs(theta), e)
        total += (t.ierr**2 * (np.where(t.ierr > 0, t.data, 0.0) - model) ** 2).sum()
    return total


def log_prior(case, theta, z, volume=True):
    """Density in z (or in the coordinates), from the priors as the table has them."""
    total = -0.5 * (z[len(case.table.parameters) :] ** 2).sum()  # padding: unit normals
    for i, p in enumerate(case.table.parameters):
        log = p.prior.name in ("log_normal", "log_uniform")
        t, low, high = (
            None if v is None else np.log(v) if log else v
            for v in (theta[i], p.prior.low, p.prior.high)
        )
        if p.prior.sigma is not None:
            mean = np.log(p.prior.mean) if log else p.prior.mean
            total -= 0.5 * ((t - mean) / p.prior.sigma) ** 2
        if volume and p.partner is not None:
            e2 = theta[i] ** 2 + theta[p.partner] ** 2
            total += 0.5 * np.log(1 - e2 / high**2)  # half of the pair's
        elif volume and low is not None:
            total -= 0.5 * norm.ppf((t - low) / (high - low)) ** 2
    return total


def test_theta_is_that_of_the_definitions(case):
    for z in points(case):
        np.testing.assert_allclose(normal(case, z).theta, physical_of(case, z), rtol=1e-10)


def test_log_density_against_dense_numpy(case):
    """Differences between points: likelihood, priors and volume."""
    found = [float(log_posterior(case, z)[0]) for z in points(case)]
    expected = []
    for z in points(case):
        theta = physical_of(case, z)
        expected.append(-0.5 * chi2_of(case, theta) + log_prior(case, theta, z))
    assert np.ptp(expected) > 100
    np.testing.assert_allclose(np.diff(found), np.diff(expected), atol=1e-6)


def test_reference_model(case):
    """The density is that at the reference's own place plus what chi2 falls from there."""
    here, there = (jnp.asarray(z) for z in points(case, 2))
    reference = model_of(jnp.asarray(physical_of(case, there)), case.problem)
    found = [density(z, case.problem, reference)[0] for z in (here, there)]
    theta = [physical_of(case, z) for z in (here, there)]
    prior = [log_prior(case, t, z) for t, z in zip(theta, (here, there), strict=True)]
    np.testing.assert_allclose(found[1], prior[1], rtol=RTOL)
    fall = -0.5 * (chi2_of(case, theta[0]) - chi2_of(case, theta[1]))
    np.testing.assert_allclose(found[0], fall + prior[0], rtol=RTOL)


def test_gradient_against_finite_differences(case):
    z = points(case, 1)[0]

    def posterior(x):
        theta = physical_of(case, x)
        return -0.5 * chi2_of(case, theta) + log_prior(case, theta, x)

    expected = derivative(posterior, z, np.full(len(z), STEP))
    found = log_posterior(case, z)[1]
    unit = np.sqrt(np.diag(normal(case, z, 1.0).curvature))
    np.testing.assert_allclose(found / unit, expected / unit, atol=DIFFERENCES)


def test_normal_equations(case):
    """Gradient that of the density; curvature J^T W J plus the prior's."""
    z = points(case, 1)[0]
    found = normal(case, z)
    np.testing.assert_allclose(
        float(found.chi2.high) + float(found.chi2.low), chi2_of(case, physical_of(case, z)), RTOL
    )

    def pixels(x):
        theta = case.theirs(physical_of(case, x))
        images = [
            (oracle_model(case.synthetic, theta, e) * t.ierr).ravel()
            for e, t in enumerate(case.synthetic.tiles)
        ]
        return np.concatenate(images)

    def coordinates(x):
        theta = physical_of(case, x)
        log = np.asarray(case.problem.transform.log)
        return np.where(log, np.log(np.where(log, theta, 1.0)), theta)

    def prior(x):
        return log_prior(case, physical_of(case, x), x, volume=False)

    steps = np.full(len(z), STEP)
    jacobian, slope = derivative(pixels, z, steps), derivative(coordinates, z, steps)
    weighted = slope * np.asarray(case.problem.transform.precision)
    expected = jacobian @ jacobian.T + weighted @ weighted.T
    unit = np.sqrt(np.diag(expected))
    difference = (np.asarray(found.curvature) - expected) / np.outer(unit, unit)
    assert np.abs(difference).max() < DIFFERENCES
    data = [(np.where(t.ierr > 0, t.data, 0.0) * t.ierr).ravel() for t in case.synthetic.tiles]
    residual = np.concatenate(data) - pixels(z)
    gradient = -jacobian @ residual - derivative(prior, z, steps)
    np.testing.assert_allclose(found.gradient / unit, gradient / unit, atol=DIFFERENCES)
    np.testing.assert_allclose(found.energy, -prior(z), rtol=RTOL)


def test_volume(case):
    """The sampler's density: its gradient, and a curvature that the volume only raises."""
    z = points(case, 1)[0]
    plain, full = normal(case, z), normal(case, z, 1.0)
    unit = np.sqrt(np.diag(full.curvature))
    gradient = log_posterior(case, z)[1]
    np.testing.assert_allclose(full.gradient / unit, -gradient / unit, atol=1e-9)
    raised = np.asarray(full.curvature - plain.curvature)
    assert np.linalg.eigvalsh(raised).min() > -1e-9 and raised.max() > 0.1


def test_linear_block(case):
    z = points(case, 1)[0]
    plain, linear = normal(case, z), normal(case, z, linear_only=True)
    at = np.ix_(case.linear, case.linear)
    # two fluxes and four skies: the uniform flux of the point is bounded, so not linear
    assert case.linear.sum() == 6
    np.testing.assert_allclose(linear.curvature[at], plain.curvature[at], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(linear.gradient[case.linear], plain.gradient[case.linear], 1e-9)


def test_float32_follows_float64(case):
    single = make(np.float32)
    z = points(case, 1)[0].astype(np.float32)
    double, found = normal(case, z), normal(single, z)
    unit = np.sqrt(np.diag(double.curvature))
    np.testing.assert_allclose(found.theta, double.theta, rtol=FLOAT32, atol=FLOAT32)
    difference = np.abs(np.asarray(found.curvature) - double.curvature) / np.outer(unit, unit)
    assert difference.max() < FLOAT32
    scale = np.abs(double.gradient / unit).max()
    difference = np.abs(np.asarray(found.gradient) - double.gradient) / unit
    assert difference.max() < FLOAT32 * scale
    chi2 = [float(f.chi2.high) + float(f.chi2.low) for f in (found, double)]
    np.testing.assert_allclose(*chi2, rtol=FLOAT32)
