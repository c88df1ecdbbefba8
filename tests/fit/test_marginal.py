"""Fluxes and sky integrated out: against dense normal equations, finite differences, and NUTS."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from fit_case import draw, make_case, remake, z_of
from reduced_case import Pair, make_exposure, make_peak, psf_model

from jaxpho.data.exposure import Nuisance
from jaxpho.fit.marginal import conditional, draw_linear, make_layout, profile, schur
from jaxpho.fit.options import FitOptions, PriorOptions, SampleOptions
from jaxpho.fit.posterior import (
    DEFAULT_STATIC,
    evaluate,
    log_density,
    model_of,
    to_unconstrained,
)
from jaxpho.fit.sample import sample
from jaxpho.fit.uncertainty import laplace

# Of energies (which are of order 100) and of gradients relative to the largest.
TOL = {"float32": 2e-3, "float64": 1e-9}
# central differences of the energy in float64, step 1e-5
TOL_DIFFERENCE = 1e-6
# Monte Carlo errors are compared at this many standard deviations: 40 numbers, one in 10^4
SIGMAS = 4.5
TYPES = ("sersic", "point", "point", "point")


@cache
def blend(dtype=np.float32):
    """A galaxy and three stars, skies and flux scales free."""
    s = remake(draw(6, TYPES, nuisances=True, flux=4000.0, dtype=dtype), np.random.default_rng(3))
    nuisance = Nuisance(sky="constant", sky_sigma=0.05, scale_sigma=0.01)
    return make_case(s, nuisances=[nuisance] * 2)


@cache
def mode_of(dtype=np.float32):
    return blend(dtype).optimize(with_volume=True)


@cache
def layout_of(dtype=np.float32, size=4):
    """Numbers padded to multiples of `size`."""
    mode = mode_of(dtype)
    return make_layout(mode.z.astype(dtype), blend(dtype).linear, lambda n: -(-n // size) * size)


def reference_of(dtype):
    case = blend(dtype)
    return model_of(jnp.asarray(mode_of(dtype).theta, dtype), case.problem, DEFAULT_STATIC)


def energy_of(dtype):
    case, layout = blend(dtype), layout_of(dtype)
    reference = reference_of(dtype)

    def energy(nonlinear):
        return conditional(nonlinear, case.problem, layout, reference, DEFAULT_STATIC).energy

    return jax.jit(jax.value_and_grad(energy))


def points(dtype, number=3):
    """Sampled coordinates within a few sigma of the mode; padding at one."""
    layout, mode = layout_of(dtype), mode_of(dtype)
    index = np.asarray(layout.nonlinear)
    used = index < len(mode.z)
    sigma = np.sqrt(np.diag(np.linalg.inv(mode.curvature)))
    rng = np.random.default_rng(8)
    for _ in range(number):
        out = np.ones(len(index))
        at = index[used]
        out[used] = mode.z[at] + sigma[at] * rng.standard_normal(len(at))
        yield out


def test_energy_is_that_of_the_dense_normal_equations(x64):
    """Minus the log of the integral over a normal density, from the fused pass over all."""
    case, layout = blend(np.float64), layout_of(np.float64)
    reference, energy = reference_of(np.float64), energy_of(np.float64)
    constants = []
    for x in points(np.float64):
        z = np.array(layout.base)
        index = np.asarray(layout.nonlinear)
        z[index[index < len(z)]] = x[index < len(z)]
        found = evaluate(jnp.asarray(z), case.problem, reference, volume=1.0)
        at = np.asarray(layout.linear)
        at = at[at < len(z)]
        block, gradient = found.curvature[np.ix_(at, at)], found.gradient[at]
        expected = 0.5 * (found.chi2.high + found.chi2.low) + found.energy
        expected += 0.5 * np.linalg.slogdet(block)[1]
        expected -= 0.5 * gradient @ np.linalg.solve(block, gradient)
        expected += 0.5 * np.sum(index >= len(z))
        constants.append(float(energy(jnp.asarray(x))[0] - expected))
        start = float(0.5 * (found.chi2.high + found.chi2.low) + found.energy)
        # the start of the chains: the same energy but for the padding, from the same equations
        theirs = profile(start, found.gradient, found.curvature, layout)[0]
        np.testing.assert_allclose(theirs + 0.5 * np.sum(index >= len(z)), expected, atol=1e-6)
        mean = conditional(jnp.asarray(x), case.problem, layout, reference, DEFAULT_STATIC).mean
        np.testing.assert_allclose(
            mean[: len(at)], z[at] - np.linalg.solve(block, gradient), rtol=1e-8, atol=1e-8
        )
    assert np.abs(constants).max() < TOL["float64"] * 100


def test_fluxes_that_a_size_prior_couples_are_not_integrated_out(x64):
    """Two bands, sizes given the flux in one of them, which is sampled; the other's is integrated.

    The density of what is left is that of all, by its derivatives: quadratic in the other's flux.
    """
    prior = PriorOptions(
        name="size_magnitude", band="g", mean=0.4, slope=-0.25, sigma=0.3, magnitude=25.0
    )
    s = draw(1, ("sersic",), n_bands=2, exposures_per_band=1, dtype=np.float64)
    case = make_case(s, options=FitOptions(priors={"rhalf": prior}))
    normal = np.zeros(case.n, bool)
    normal[: len(case.table.parameters)] = case.table.normal
    named = {label for label, yes in zip(case.table.labels, normal, strict=False) if yes}
    assert named == {(0, "flux", "r")}

    z = z_of(case.truth, case.problem)
    layout = make_layout(z, normal)
    reference = model_of(jnp.asarray(case.truth), case.problem, DEFAULT_STATIC)

    energy_of_all = jax.jit(jax.value_and_grad(lambda z: -log_density(z, case.problem, reference)))
    rng = np.random.default_rng(5)
    constants = []
    for _ in range(3):
        z = np.array(layout.base) + 0.02 * rng.standard_normal(len(z))
        value, gradient = energy_of_all(jnp.asarray(z))
        slope = np.asarray(gradient)[normal]
        # slopes of what is quadratic are straight: any step gives the second derivatives
        block = np.array(
            [
                energy_of_all(jnp.asarray(z + unit))[1][normal] - slope
                for unit in np.eye(len(z))[normal]
            ]
        )
        step = np.linalg.solve(block, slope)
        found = conditional(
            jnp.asarray(z[~normal]), case.problem, layout, reference, DEFAULT_STATIC
        )
        np.testing.assert_allclose(found.mean, z[normal] - step, rtol=1e-7, atol=1e-7)
        expected = value - 0.5 * slope @ step + 0.5 * np.linalg.slogdet(block)[1]
        constants.append(float(found.energy) - expected)
    assert np.ptp(constants) < 1e-6 * abs(value)


def test_reduced_psf_mixtures(x64):
    """Several rows of Gaussians for one component: still one flux."""
    peaks = [make_peak(rhalf=1.2, sersic=2.0, e1=0.2, e2=0.1)]
    pair = Pair([make_exposure(psf_model("positive"), size=48)], peaks, dtype=np.float64)
    problem = pair.reduced
    assert problem.patch.terms.component.shape[0] > 1
    z = np.asarray(to_unconstrained(jnp.asarray(pair.theta(), float), problem.transform))
    linear = np.zeros(pair.n, bool)
    linear[: len(pair.table.parameters)] = pair.table.linear
    layout = make_layout(z, linear)
    found = conditional(jnp.asarray(z[~linear]), problem, layout, None, DEFAULT_STATIC)
    dense = evaluate(jnp.asarray(z), problem, jnp.zeros_like(problem.patch.data))
    block, gradient = (np.asarray(a)[linear] for a in (dense.curvature, dense.gradient))
    expected = z[linear] - np.linalg.solve(block[:, linear], gradient)
    np.testing.assert_allclose(found.mean, expected, rtol=1e-8)


def test_gradient_is_that_of_finite_differences(x64):
    energy = energy_of(np.float64)
    for x in points(np.float64, 1):
        gradient = np.asarray(energy(jnp.asarray(x))[1])
        for i in range(len(x)):
            step = np.zeros(len(x))
            step[i] = 1e-5
            high, low = (float(energy(jnp.asarray(x + s * step))[0]) for s in (1, -1))
            difference = (high - low) / 2e-5
            assert abs(gradient[i] - difference) < TOL_DIFFERENCE * np.abs(gradient).max() + 1e-6


def test_float32(x64):
    """Energies and gradients of both precisions, at the same points about the same mode."""
    single = layout_of(np.float32)
    case = blend(np.float32)
    reference = reference_of(np.float64)
    double = layout_of(np.float64)

    def energy(nonlinear, problem, layout, reference):
        return conditional(nonlinear, problem, layout, reference, DEFAULT_STATIC).energy

    both = jax.jit(jax.value_and_grad(energy))
    base = single._replace(base=double.base.astype(np.float32))
    values = []
    for x in points(np.float64):
        a = both(jnp.asarray(x, jnp.float32), case.problem, base, reference.astype(np.float32))
        b = both(jnp.asarray(x), blend(np.float64).problem, double, reference)
        values.append(float(a[0]) - float(b[0]))
        assert np.abs(a[1] - b[1]).max() < TOL["float32"] * np.abs(b[1]).max()
    # differences of energies decide; rounding of the reference shifts all of them alike
    assert np.ptp(values) < TOL["float32"] * 10


def test_draws_of_the_linear_parameters():
    """Given the others they are normal: mean, errors and correlations of the equations."""
    case, layout, mode = blend(), layout_of(), mode_of()
    index = np.asarray(layout.nonlinear)
    x = jnp.asarray(np.append(mode.z, 0.0)[np.minimum(index, len(mode.z))], jnp.float32)
    reference = reference_of(np.float32)
    one = partial(
        draw_linear, problem=case.problem, layout=layout, reference=reference,
        static=DEFAULT_STATIC,
    )  # fmt: skip
    keys = jax.random.split(jax.random.PRNGKey(5), 2000)
    theta = np.asarray(jax.jit(lambda k: jax.lax.map(lambda key: one(key, x), k))(keys), float)
    linear = case.linear
    scale = np.asarray(case.problem.transform.scale, float)[linear]
    block = mode.curvature[np.ix_(linear, linear)] / np.outer(scale, scale)
    root = np.linalg.cholesky(block)
    white = (theta[:, linear] - mode.theta[linear]) @ root
    assert np.abs(white.mean(0)).max() < SIGMAS / np.sqrt(len(theta))
    assert np.abs(np.cov(white.T) - np.eye(linear.sum())).max() < SIGMAS * np.sqrt(2 / len(theta))
    held = theta[:, ~linear]
    np.testing.assert_array_equal(held, held[:1].repeat(len(held), 0))


def test_curvature_of_what_is_left_is_the_inverse_of_the_covariance():
    mode, case = mode_of(), blend()
    sampled, linear = np.flatnonzero(~case.linear), np.flatnonzero(case.linear)
    curvature = (mode.curvature + mode.curvature.T) / 2  # of float32 sums
    unit = np.sqrt(np.diag(curvature))
    curvature /= np.outer(unit, unit)
    covariance = np.linalg.inv(curvature)[np.ix_(sampled, sampled)]
    found = schur(curvature, sampled, linear) @ covariance
    np.testing.assert_allclose(found, np.eye(len(sampled)), atol=1e-8)
    np.testing.assert_array_equal(
        schur(curvature, sampled, linear[:0]), curvature[np.ix_(sampled, sampled)]
    )


def test_draws_are_reproducible():
    first, second = (draws_of("marginal", seed=2, samples=25) for _ in range(2))
    np.testing.assert_array_equal(first.theta, second.theta)


@cache
def draws_of(method, seed, samples):
    case = blend()
    options = SampleOptions(
        method=method, num_warmup=75, num_samples=samples, num_chains=4, max_rounds=1
    )
    key = jax.random.PRNGKey(seed)
    return sample(key, mode_of(), case.problem, options, DEFAULT_STATIC, case.linear)


def test_the_posterior_is_that_of_nuts():
    """Means and errors of every parameter agree within their Monte Carlo errors."""
    found = {m: draws_of(m, 1, 500) for m in ("nuts", "marginal")}
    n = len(blend().table.parameters)
    mean, sigma, error = {}, {}, {}
    for method, draws in found.items():
        theta = draws.theta[..., :n].reshape(-1, n).astype(float)
        mean[method], sigma[method] = theta.mean(0), theta.std(0)
        error[method] = 1.0 / np.sqrt(np.minimum(draws.ess[:n], len(theta)))
        assert draws.divergences == 0 and draws.ess[:n].min() > 500
    unit = sigma["nuts"]
    combined = np.hypot(error["nuts"], error["marginal"])
    assert (np.abs(mean["nuts"] - mean["marginal"]) / unit / combined).max() < SIGMAS
    ratio = np.abs(np.log(sigma["marginal"] / unit))
    assert (ratio / combined).max() < SIGMAS
    # near normal: the Laplace errors are a third opinion
    covariance = laplace(mode_of(), blend().problem)[0][:n, :n]
    np.testing.assert_allclose(unit, np.sqrt(np.diag(covariance)), rtol=0.1)
