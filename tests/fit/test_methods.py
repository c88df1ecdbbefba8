"""Every method of sampling: one posterior, or an approximation that says how good it is."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.infer import SVI, Trace_ELBO, init_to_value
from numpyro.infer.autoguide import AutoLaplaceApproximation
from numpyro.optim import Adam
from sample_case import arguments, case_of, mode_of

from jaxpho.fit.diagnostics import mean_ess
from jaxpho.fit.models import unwhiten_all, whitened_model
from jaxpho.fit.options import ORDINARY_WARMUP, SampleOptions
from jaxpho.fit.positive_mode import make_positive, positive_mode
from jaxpho.fit.posterior import DEFAULT_STATIC, log_density, model_of
from jaxpho.fit.sample import sample
from jaxpho.fit.target import make_arguments, starting_energies
from jaxpho.fit.uncertainty import laplace

# Monte Carlo errors are compared at this many standard deviations
SIGMAS = 4.5
MANY = {"num_samples": 500, "max_rounds": 1}


@cache
def draws_of(kind, method, **options):
    case = case_of(kind)
    asked = SampleOptions(method=method, **MANY | options)
    return sample(
        jax.random.PRNGKey(5), mode_of(kind), case.problem, asked, DEFAULT_STATIC, case.linear
    )


def moments(draws):
    """Means and standard deviations, and their Monte Carlo errors, [n] each."""
    theta = draws.theta.astype(float)
    mean, sigma = theta.mean((0, 1)), theta.std((0, 1))
    own = sigma / np.sqrt(np.minimum(mean_ess(theta), theta[..., 0].size))
    square = (theta - mean) ** 2
    wide = square.std((0, 1)) / np.sqrt(np.minimum(mean_ess(square), theta[..., 0].size))
    return mean, sigma, own, wide / (2 * sigma)


def assert_alike(a, b, n):
    (mean, sigma, own, wide), (mean2, sigma2, own2, wide2) = moments(a), moments(b)
    assert (np.abs(mean - mean2) < SIGMAS * np.hypot(own, own2))[:n].all()
    assert (np.abs(sigma - sigma2) < SIGMAS * np.hypot(wide, wide2))[:n].all()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["nuts_dense", "nuts_diagonal"])
def test_numpyro_adapts_to_the_same_posterior(method):
    case, ours, theirs = case_of("galaxy"), draws_of("galaxy", "nuts"), draws_of("galaxy", method)
    n = len(case.table.parameters)
    assert theirs.method == method and theirs.warmup.shape[1] == ORDINARY_WARMUP
    assert theirs.divergences <= 2 and theirs.rhat[:n].max() < 1.03
    assert_alike(ours, theirs, n)
    # it learns the mass matrix, which ours begins with; a diagonal one is of marginal variances
    curvature = mode_of("galaxy").curvature
    mass = np.diag(curvature)
    if method == "nuts_diagonal":
        mass = 1.0 / np.diag(np.linalg.inv(curvature))
    scale = np.sqrt(np.diag(theirs.mass_matrix_final) / mass)
    assert (np.abs(np.log(scale[:n])) < 0.7).all()
    assert len(np.unique(theirs.statistics["step_size"][:, 0])) == 4  # a chain's own


def test_laplace_draws_are_those_of_the_normal_at_the_mode():
    case, mode, draws = case_of("linear"), mode_of("linear"), draws_of("linear", "laplace")
    theta = draws.theta.reshape(-1, case.n)
    root = np.linalg.inv(np.linalg.cholesky(laplace(mode, case.problem)[0]))
    white = (theta - mode.theta) @ root.T
    assert np.abs(white.mean(0)).max() < SIGMAS / np.sqrt(len(theta))
    assert np.abs(np.cov(white.T) - np.eye(case.n)).max() < SIGMAS * np.sqrt(2 / len(theta))
    # where the posterior is that normal, the ratios say so
    assert draws.pareto_k < 0.3 and draws.method == "laplace"
    assert draws.gradients == 0 and draws.warmup.shape[1] == 0
    assert np.isnan(draws.ebfmi).all() and draws.rhat.max() < 1.02


def test_laplace_draws_keep_within_bounds():
    case, draws = case_of("galaxy"), draws_of("galaxy", "laplace")
    index = draws.theta[..., case.find(0, "sersic")]
    assert index.min() > 0.5 and index.max() < 8.0
    theta = draws.theta.reshape(-1, case.n)[:, :7]
    sigma = np.sqrt(np.diag(laplace(mode_of("galaxy"), case.problem)[0]))[:7]
    assert np.abs(theta.std(0) / sigma - 1).max() < 0.25
    assert np.isfinite(draws.pareto_k)


@pytest.mark.slow
def test_laplace_guide_of_numpyro_agrees():
    """`AutoLaplaceApproximation` on the model of the patch: its own second derivatives."""
    problem, centre, factor, reference = arguments("galaxy")
    start = init_to_value(values={"xi": jnp.zeros(len(centre))})
    guide = AutoLaplaceApproximation(whitened_model, init_loc_fn=start)
    svi = SVI(whitened_model, guide, Adam(1e-6), Trace_ELBO())
    state = svi.init(jax.random.PRNGKey(0), problem, centre, factor, reference)
    found = guide.get_posterior(svi.get_params(state))
    # Fisher against the whole second derivative: they differ where the residuals bend the model
    np.testing.assert_allclose(found.covariance_matrix, np.eye(len(centre)), atol=0.25)
    draws = draws_of("galaxy", "laplace")
    z = np.asarray(factor) @ found.covariance_matrix @ np.asarray(factor).T
    z_sigma = np.sqrt(np.diag(z))
    own = np.sqrt(np.diag(np.linalg.inv(draws.mass_matrix_final)))
    np.testing.assert_allclose(z_sigma, own, rtol=0.15)


@pytest.mark.slow
def test_svi_finds_a_normal_near_the_posterior():
    n = len(case_of("galaxy").table.parameters)
    found, first, exact = (draws_of("galaxy", m) for m in ("svi", "laplace", "nuts"))
    assert found.method == "svi" and found.gradients == 8 * SampleOptions().svi_steps
    mean, sigma, *_ = moments(exact)
    for draws, tolerance in ((found, 0.15), (first, 0.3)):
        theirs = moments(draws)
        assert (np.abs(theirs[0] - mean) < tolerance * sigma)[:n].all()
        assert (np.abs(theirs[1] / sigma - 1) < tolerance)[:n].all()
    assert found.pareto_k < first.pareto_k + 0.1
    linear = draws_of("linear", "svi")
    root = np.sqrt(np.diag(laplace(mode_of("linear"), case_of("linear").problem)[0]))
    np.testing.assert_allclose(moments(linear)[1], root, rtol=0.1)


# ------------------------------------------------------------------ positive fluxes


@cache
def faint(method="nuts", **options):
    """Draws of the linear case where the truth of some fluxes is about nothing; and its normal."""
    case = case_of("linear")
    n = case.n
    mode = mode_of("linear")
    covariance, _ = laplace(mode, case.problem)
    fluxes = np.array([base == "flux" for _, base, _ in case.table.labels] + [False] * 2)
    # the data less most of the light: the model is linear
    theta = jnp.asarray(np.where(fluxes, 1.0, 0.0) * mode.theta, jnp.float32)
    zero = model_of(jnp.zeros(n, jnp.float32), case.problem)
    light = model_of(theta, case.problem) - zero
    patch = case.problem.patch
    problem = case.problem._replace(patch=patch._replace(data=patch.data - light))
    mode = case._replace(problem=problem).optimize(theta=np.zeros(n), with_volume=True)
    asked = SampleOptions(method=method, positive=True, **MANY | options)
    draws = sample(
        jax.random.PRNGKey(3), mode, problem, asked, DEFAULT_STATIC, case.linear, fluxes=fluxes
    )
    return draws, mode, covariance, fluxes


def reference_of(mean, covariance, positive, number=400_000):
    """Draws of a normal, those with a negative flux rejected."""
    rng = np.random.default_rng(0)
    draws = rng.multivariate_normal(mean, covariance, number)
    return draws[(draws[:, positive] > 0).all(1)]


def test_positive_fluxes_are_a_normal_cut_at_zero():
    draws, mode, covariance, fluxes = faint()
    n = len(fluxes)
    theta = draws.theta.reshape(-1, n).astype(float)
    assert (theta[:, fluxes] >= 0).all() and draws.divergences <= 2
    expected = reference_of(mode.theta, covariance, fluxes)
    assert len(expected) > 2000
    mean, sigma, own, wide = moments(draws)
    more = expected.std(0) / np.sqrt(len(expected))
    assert (np.abs(mean - expected.mean(0)) < SIGMAS * np.hypot(own, more)).all()
    assert (np.abs(sigma - expected.std(0)) < SIGMAS * np.hypot(wide, more)).all()
    # and that is far from the normal that was cut
    free = np.sqrt(np.diag(covariance))
    assert (sigma[fluxes] < 0.8 * free[fluxes]).all()


def test_bright_fluxes_do_not_feel_it():
    """Far above zero the coordinate is z itself: the draws are those without the condition."""
    case = case_of("linear")
    fluxes = np.array([base == "flux" for _, base, _ in case.table.labels] + [False] * 2)
    asked = SampleOptions(method="nuts", positive=True, **MANY)
    found = sample(
        jax.random.PRNGKey(5), mode_of("linear"), case.problem, asked, DEFAULT_STATIC, case.linear,
        fluxes=fluxes,
    )  # fmt: skip
    assert_alike(found, draws_of("linear", "nuts"), len(case.table.parameters))


def test_gradients_of_the_start_are_those_of_the_density():
    """The first energies come from the optimiser's program, with the fold of positive fluxes."""
    case, mode = case_of("linear"), mode_of("linear")
    fluxes = np.array([base == "flux" for _, base, _ in case.table.labels] + [False] * 2)
    positive = make_positive(fluxes, mode, case.problem)
    # a floor that runs through the posterior
    at = np.asarray(mode.z) - 0.5 * np.asarray(positive.width)
    positive = positive._replace(floor=jnp.asarray(np.where(fluxes, at, 0.0), jnp.float32))
    found = positive_mode(mode, positive, case.problem, DEFAULT_STATIC)
    assert found.converged
    args = make_arguments(found, case.problem, DEFAULT_STATIC, positive=positive)

    @jax.jit
    @jax.value_and_grad
    def energy(xi):
        z, volume = unwhiten_all(xi, args.centre, args.factor, positive)
        return -log_density(z, case.problem, args.reference) - volume

    xi = jnp.asarray(np.random.default_rng(0).standard_normal((2, case.n)), jnp.float32)
    energies, gradients = starting_energies(xi, args, DEFAULT_STATIC)
    for k in range(2):
        expected, slope = energy(xi[k])
        assert float(energies[k]) == pytest.approx(float(expected), rel=1e-4, abs=0.02)
        np.testing.assert_allclose(gradients[k], slope, atol=5e-3 * np.abs(slope).max())
    # the mode is one: nothing pulls
    _, pull = energy(jnp.zeros(case.n))
    assert np.abs(pull).max() < 0.1


@pytest.mark.slow
def test_marginal_sampling_with_positive_fluxes():
    """Faint fluxes are sampled, bright ones integrated out: the posterior is that of nuts."""
    (found, *_, fluxes), (exact, *_) = faint("marginal"), faint("nuts")
    theta = found.theta.reshape(-1, len(fluxes))
    assert (theta[:, fluxes] >= 0).all()
    assert_alike(found, exact, len(case_of("linear").table.parameters))
