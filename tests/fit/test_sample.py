"""NUTS: exact where the posterior is normal, reproducible, and a plain numpyro model."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from fit_case import z_of
from numpyro.infer import MCMC, NUTS
from numpyro.infer.util import log_density as numpyro_density
from sample_case import arguments, case_of, mode_of

from jaxpho.fit.draws import STATISTICS
from jaxpho.fit.kernels import CHUNK, with_step_size
from jaxpho.fit.models import whitened_model
from jaxpho.fit.optimize import solve_scaled
from jaxpho.fit.options import SampleOptions
from jaxpho.fit.posterior import DEFAULT_STATIC, log_density, model_of
from jaxpho.fit.sample import sample
from jaxpho.fit.target import whitening
from jaxpho.fit.uncertainty import laplace

# Monte Carlo errors are compared at this many standard deviations: 30 numbers, one in 10^4
SIGMAS = 4.0
OPTIONS = SampleOptions(num_warmup=75, num_samples=200, num_chains=4, max_rounds=1)


@cache
def draws_of(kind, seed=0, options=None):
    case = case_of(kind)
    options = OPTIONS if options is None else SampleOptions(**dict(options))
    key = jax.random.PRNGKey(seed)
    return sample(key, mode_of(kind), case.problem, options, DEFAULT_STATIC)


def test_both_cases_have_one_shape():
    shapes = [
        [a.shape for a in jax.tree.leaves(case_of(kind).problem)] for kind in ("linear", "galaxy")
    ]
    assert shapes[0] == shapes[1]


def test_normal_posterior():
    """Means, errors and correlations of a linear model are those of the normal equations."""
    case, mode, draws = case_of("linear"), mode_of("linear"), draws_of("linear")
    n = len(case.table.parameters)
    assert case.linear[:n].all() and n == 6
    theta = draws.theta.reshape(-1, case.n)
    covariance = laplace(mode, case.problem)[0]
    root = np.linalg.inv(np.linalg.cholesky(covariance))
    white = (theta - mode.theta) @ root.T
    # unit normals, padding included; draws are anti-correlated at best
    count = np.minimum(draws.ess, len(theta))
    assert draws.ess.min() > 300
    assert np.abs(white.mean(0)).max() < SIGMAS / np.sqrt(count.min())
    assert np.abs(np.cov(white.T) - np.eye(case.n)).max() < SIGMAS * np.sqrt(2 / count.min())
    assert draws.divergences == 0


def test_galaxy():
    """A posterior with bounds and curvature: sane statistics, near the Laplace errors."""
    case, mode, draws = case_of("galaxy"), mode_of("galaxy"), draws_of("galaxy")
    n = len(case.table.parameters)
    assert n == 7
    assert draws.theta.shape == (4, 200, case.n)
    assert draws.rhat.shape == draws.ess.shape == (case.n,)
    assert draws.rhat.max() < 1.03 and draws.ess.min() > 200
    assert draws.divergences <= 2
    assert 0.6 < draws.accept < 0.99 and 0.1 < draws.step_size < 2.0
    assert draws.rounds == 1
    # a few leapfrog steps a draw: whitening works
    assert draws.gradients <= 3 * 800
    assert 0 < draws.warmup_gradients <= 3 * 4 * 75
    theta = draws.theta.reshape(-1, case.n)[:, :n]
    sigma = np.sqrt(np.diag(laplace(mode, case.problem)[0]))[:n]
    assert np.abs(theta.std(0) / sigma - 1).max() < 0.25
    assert np.abs((theta.mean(0) - case.truth[:n]) / sigma).max() < 5
    assert (theta[:, 4] > 0.5).all() and (theta[:, 4] < 8).all()


def test_keys_decide():
    first = draws_of("galaxy")
    case, mode = case_of("galaxy"), mode_of("galaxy")
    again = sample(jax.random.PRNGKey(0), mode, case.problem, OPTIONS, DEFAULT_STATIC)
    np.testing.assert_array_equal(first.theta, again.theta)
    other = draws_of("galaxy", 1)
    assert np.isclose(first.theta, other.theta)[..., 0].mean() < 0.02  # but for chance
    chains = first.theta[:, 0, 0]
    assert len(np.unique(chains)) == 4


def test_a_float32_patch_where_the_process_is_in_float64():
    """Of a notebook that says numpyro.enable_x64(): the draws are those of any other process."""
    options = tuple(vars(OPTIONS).items())
    mode_of("linear")
    with jax.enable_x64(True):
        there = sample(
            jax.random.PRNGKey(0), mode_of("linear"), case_of("linear").problem, OPTIONS,
            DEFAULT_STATIC,
        )  # fmt: skip
    assert there.theta.dtype == np.float32
    np.testing.assert_array_equal(there.theta, draws_of("linear", 0, options).theta)


def test_rounds_go_on_until_enough():
    common = {"num_warmup": 75, "num_chains": 4}
    few = common | {"num_samples": CHUNK, "min_ess": 150.0, "max_rounds": 20}
    draws = draws_of("galaxy", 2, tuple(few.items()))
    assert 1 < draws.rounds < 20
    assert draws.theta.shape[1] == draws.rounds * CHUNK
    assert draws.ess.min() > 150 and draws.rhat.max() < SampleOptions().max_rhat
    capped = common | {"num_samples": 10, "min_ess": 1e9, "max_rounds": 2}
    draws = draws_of("galaxy", 2, tuple(capped.items()))
    # whole calls of the compiled program
    assert draws.rounds == 2 and draws.theta.shape[1] == 2 * CHUNK


def test_a_chain_that_stands_still_makes_the_step_smaller(monkeypatch):
    """Too large a step for all, as after an unlucky warm-up: the next rounds find their way."""
    import jaxpho.fit.chains as module

    sizes = []

    def spoilt(state, step_size):
        if not isinstance(step_size, float):  # within the compiled program
            return with_step_size(state, step_size)
        sizes.append(step_size * (6.0 if not sizes else 1.0))
        return with_step_size(state, sizes[-1])

    monkeypatch.setattr(module, "with_step_size", spoilt)
    options = (("num_warmup", 75), ("num_samples", 25), ("max_rounds", 8), ("min_ess", 1e9))
    draws = draws_of.__wrapped__("galaxy", options=options)
    assert len(sizes) > 1 and all(b < a for a, b in zip(sizes, sizes[1:], strict=False))
    assert draws.step_size == pytest.approx(sizes[-1])
    assert draws.step_size < 0.5 * sizes[0]


@pytest.mark.parametrize("first", [0.2, 5.0])
def test_warm_up_finds_the_step(monkeypatch, first):
    """From far too small or too large a step to the acceptance asked for."""
    import jaxpho.fit.chains as module

    monkeypatch.setattr(module, "STEP_SIZE", first)
    options = (("num_warmup", 50), ("num_samples", 100), ("max_rounds", 1))
    draws = draws_of.__wrapped__("galaxy", options=options)
    assert draws.accept == pytest.approx(OPTIONS.target_accept, abs=0.1)
    assert draws.step_size == pytest.approx(draws_of("galaxy").step_size, rel=0.3)


def test_trajectories_are_short_until_that_does_not_suffice(monkeypatch):
    import jaxpho.fit.chains as module

    options = (("num_warmup", 50), ("num_samples", 100), ("max_rounds", 2), ("min_ess", 1e9))
    short = draws_of.__wrapped__("galaxy", options=options)
    assert short.gradients <= 3 * 4 * 200
    monkeypatch.setattr(module, "SHORT_ENOUGH", 10.0)
    free = draws_of.__wrapped__("galaxy", options=options)
    np.testing.assert_array_equal(free.theta[:, :100], short.theta[:, :100])
    assert free.gradients > 1.2 * short.gradients


@pytest.mark.parametrize("scale", [0.0, 6.0])
def test_whitening(scale):
    rng = np.random.default_rng(1)
    j = rng.standard_normal((20, 12)) * 10 ** rng.uniform(-scale, scale, 12)
    curvature = j.T @ j
    w = whitening(curvature)
    unit = np.sqrt(np.diag(curvature))
    np.testing.assert_allclose(
        w @ w.T * np.outer(unit, unit), np.linalg.inv(curvature / np.outer(unit, unit)), rtol=1e-6
    )
    np.testing.assert_allclose(w.T @ curvature @ w, np.eye(12), atol=1e-6)
    # the same answer as the optimiser's solver
    vector = rng.standard_normal(12) * unit
    np.testing.assert_allclose(w @ (w.T @ vector), solve_scaled(curvature, vector), rtol=1e-5)


def test_whitening_of_nearly_singular_matrices():
    """Rounding may make float32 matrices indefinite; a direction may have no data at all."""
    for matrix in (np.ones((2, 2)), np.array([[1.0, 1.0001], [1.0001, 1.0]]), np.diag([4.0, 0.0])):
        w = whitening(matrix)
        assert np.isfinite(w).all()
    np.testing.assert_allclose(whitening(np.diag([4.0, 1.0])), np.diag([0.5, 1.0]))


# ------------------------------------------------------------------ as a numpyro model


def test_model_is_the_posterior():
    problem, centre, factor, reference = arguments("galaxy")

    @jax.jit
    def both(xi):
        found, trace = numpyro_density(
            whitened_model, (problem, centre, factor, reference), {}, {"xi": xi}
        )
        z = centre + factor @ xi
        return found, log_density(z, problem, reference), trace["theta"]["value"]

    for xi in np.random.default_rng(0).standard_normal((3, 8)):
        found, expected, theta = both(jnp.asarray(xi, jnp.float32))
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        assert np.isfinite(theta).all()
        # near a unit normal: this is what whitening is for
        at_mode = both(jnp.zeros(8, jnp.float32))[0]
        np.testing.assert_allclose(found - at_mode, -0.5 * xi @ xi, rtol=0.3, atol=0.3)


@pytest.mark.slow
def test_other_inference_of_numpyro():
    """MCMC as its documentation has it."""
    model = partial(whitened_model, *arguments("linear"))
    start = numpyro.infer.init_to_value(values={"xi": jnp.zeros(8)})
    kernel = NUTS(model, adapt_mass_matrix=False, init_strategy=start)
    mcmc = MCMC(kernel, num_warmup=50, num_samples=200, progress_bar=False)
    mcmc.run(jax.random.PRNGKey(0))
    xi = mcmc.get_samples()["xi"]
    assert xi.shape == mcmc.get_samples()["theta"].shape == (200, 8)
    assert np.abs(xi.mean(0)).max() < 0.4 and np.abs(xi.std(0) - 1).max() < 0.4


def test_warm_up_and_statistics_are_kept():
    """Of every iteration and chain; the means are those that are reported."""
    case, draws = case_of("galaxy"), draws_of("galaxy")
    assert set(draws.statistics) == set(draws.warmup_statistics) == set(STATISTICS)
    assert all(a.shape == (4, 200) for a in draws.statistics.values())
    n_warmup = draws.warmup.shape[1]
    assert n_warmup >= 75 and draws.warmup.shape == (4, n_warmup, case.n)
    assert all(a.shape == (4, n_warmup) for a in draws.warmup_statistics.values())
    assert draws.statistics["n_steps"].sum() == draws.gradients
    assert draws.statistics["accept"].mean() == pytest.approx(draws.accept)
    assert draws.statistics["diverging"].sum() == draws.divergences
    np.testing.assert_allclose(draws.statistics["step_size"], draws.step_size, rtol=1e-6)
    # the step changes while it is looked for
    assert len(np.unique(draws.warmup_statistics["step_size"])) > 20
    # the energy has the kinetic part, of about n/2, beyond the potential
    kinetic = draws.statistics["energy"] - draws.statistics["potential"]
    assert kinetic.min() > 0 and 0.3 * case.n < kinetic.mean() < case.n


def test_potential_is_the_density_of_the_draws():
    """Differences between draws are those of minus the log density at their parameters."""
    case, mode, draws = case_of("linear"), mode_of("linear"), draws_of("linear")
    reference = model_of(jnp.asarray(mode.theta, jnp.float32), case.problem, DEFAULT_STATIC)
    theta, potential = draws.theta[1, ::40], draws.statistics["potential"][1, ::40]
    z = np.stack([z_of(t, case.problem) for t in theta]).astype(np.float32)
    density = np.array([log_density(x, case.problem, reference) for x in z], float)
    expected = -(density - density[0])
    # float32: thousands of pixels, and z is computed back from theta
    np.testing.assert_allclose(potential - potential[0], expected, atol=0.02)


def test_mass_matrices_are_the_curvature():
    mode, draws = mode_of("galaxy"), draws_of("galaxy")
    scale = np.sqrt(np.diag(mode.curvature))
    for matrix in (draws.mass_matrix_initial, draws.mass_matrix_final):
        np.testing.assert_allclose(
            matrix / np.outer(scale, scale), mode.curvature / np.outer(scale, scale), atol=1e-6
        )
    n = 7
    fields = draws.of_parameters(n)
    assert fields["mass_matrix_final"].shape == (n, n) and fields["warmup"].shape[-1] == n
    # nothing is lost without the padding
    inverse = np.linalg.inv(mode.curvature)[:n, :n]
    found = np.linalg.inv(fields["mass_matrix_initial"])
    size = np.sqrt(np.diag(inverse))
    np.testing.assert_allclose(found / np.outer(size, size), inverse / np.outer(size, size),
                               atol=1e-5)  # fmt: skip
