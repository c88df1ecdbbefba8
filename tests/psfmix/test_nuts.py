"""The posterior of a mixture: its density, its gradient, what is drawn and what is kept."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpho.errors import InputError
from psfmix.density import Density, likelihood_target, log_likelihood
from psfmix.fit import fit_mixture, floor_of, from_array, render_parameters
from psfmix.kernels import mixture_rows
from psfmix.modes import free_of
from psfmix.nuts import sample_mixture
from psfmix.posterior import COMPONENT_NAMES, diagnose
from psfmix.priors import Layout, Prior, log_prior

TRUE = np.array([[0.7, 0.05, -0.1, 0.8, 1.0, 0.15], [0.3, -0.2, 0.1, 6.0, 5.0, -0.8]])
OVERSAMPLE = 2.0
GRADIENT = 1e-5  # central differences in float64, of the largest element
SUMS = {"float32": 2e-5, "float64": 1e-11}
INTERVAL = (0.60, 0.76)  # share of 68 % intervals that hold the truth, per parameter
REALISATIONS = 200


def star(noise=0.0, seed=0, shape=(41, 43)):
    image = render_parameters(from_array(TRUE), shape, OVERSAMPLE)
    return image + noise * image.max() * np.random.default_rng(seed).standard_normal(shape)


def density_of(image, signed=False, fix_amplitude=False, fit_bg=True, snr=50.0, **layout):
    target = likelihood_target(image, oversample=OVERSAMPLE, **layout)
    raw = TRUE * [1 / image.sum(), 1, 1, 1, 1, 1]
    kind = Layout(len(TRUE), signed, fix_amplitude, fit_bg)
    return Density(target, target.peak / snr, kind, 0.3, raw[:, 0]), raw


def points(density, raw, count=3):
    rng = np.random.default_rng(1)
    return [
        free_of(raw, density) + 0.1 * rng.standard_normal(density.layout.size) for _ in range(3)
    ]


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_rows_are_the_rendered_image(precision, x64):
    image = star()
    density, raw = density_of(image)
    rows = density.rows(free_of(raw, density), precision)
    found = mixture_rows(jnp.asarray(raw, precision), rows)
    expected = render_parameters(from_array(TRUE), image.shape, OVERSAMPLE)
    expected = expected.ravel() * OVERSAMPLE**2 / image.sum()
    # the pixel's fourth cumulant is beyond `render_parameters`: some 1e-4 at this sampling
    np.testing.assert_allclose(found, expected, atol=2e-3 * expected.max())
    plain = mixture_rows(jnp.asarray(raw), density.rows(free_of(raw, density), "float64"))
    np.testing.assert_allclose(found, plain, atol=SUMS[precision] * float(plain.max()))


@pytest.mark.parametrize("includes", [False, True])
def test_gradient_of_the_rows(x64, includes):
    """The rule written out by hand, against central differences."""
    density, raw = density_of(star(), includes_pixel=includes)
    rows = density.rows(free_of(raw, density), "float64")
    weight = jnp.asarray(np.random.default_rng(2).standard_normal(len(density.target.x)))

    def total(raw):
        return jnp.sum(mixture_rows(raw, rows) * weight)

    found = np.asarray(jax.grad(total)(jnp.asarray(raw)))
    for k, p in np.ndindex(raw.shape):
        step = np.zeros_like(raw)
        step[k, p] = 1e-5
        slope = (total(raw + step) - total(raw - step)) / 2e-5
        assert abs(slope - found[k, p]) < GRADIENT * np.abs(found[:, p]).max(), (k, p)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("fix_amplitude", [False, True])
def test_density_in_numpy_and_jax(x64, signed, fix_amplitude):
    """The climb's own float64 density is the sampled one, and its gradient is right."""
    density, raw = density_of(star(0.02), signed, fix_amplitude)
    start = free_of(raw, density)
    rows = density.rows(start, "float64")
    prior = Prior(*(jnp.asarray(v) for v in density.prior))

    def sampled(z):
        z = jnp.asarray(z)
        return float(log_likelihood(z, rows, density.layout) + log_prior(z, prior, density.layout))

    base = density.evaluate(start)[0] - sampled(start)
    for z in points(density, raw):
        value, gradient, curvature = density.evaluate(z)
        scale = max(abs(value), 1.0)
        # without the pixel's fourth cumulant
        assert abs(value - sampled(z) - base) < 1e-3 * scale
        assert np.linalg.eigvalsh(curvature).min() > 0
        for k in range(len(z)):
            step = np.zeros(len(z))
            step[k] = 1e-5
            slope = (density.evaluate(z + step)[0] - density.evaluate(z - step)[0]) / 2e-5
            assert abs(slope - gradient[k]) < 1e-4 * np.abs(gradient).max(), k


def quick(image, **options):
    start = fit_mixture(image, oversample=OVERSAMPLE, ngauss=2, normalize="stamp")
    counts = {"num_warmup": 75, "num_samples": 100, "progress": False}
    return start, sample_mixture(image, start, oversample=OVERSAMPLE, **(counts | options))


@pytest.fixture(scope="module")
def sampled():
    image = star(0.02)
    return image, *quick(image, snr=50.0, seed=3)


def test_best_draw(sampled):
    image, start, posterior = sampled
    sigma = image.max() / 50.0
    assert posterior.sigma == pytest.approx(sigma)

    def log_likelihood_of(parameters):
        drawn = render_parameters(parameters, image.shape, OVERSAMPLE)
        return -0.5 * np.sum(((drawn - image) / sigma) ** 2)

    assert posterior.best_log_likelihood >= posterior.optimum_log_likelihood
    best, optimum = (log_likelihood_of(p) for p in (posterior.parameters, start.parameters))
    assert best == pytest.approx(posterior.best_log_likelihood, abs=0.05)
    assert optimum == pytest.approx(posterior.optimum_log_likelihood, abs=0.05)
    assert posterior.parameters["amp"].sum() == pytest.approx(image.sum(), rel=1e-5)
    assert posterior.fit.residual < 0.1


def test_draws(sampled):
    image, _, posterior = sampled
    assert set(posterior.draws) == set(COMPONENT_NAMES)
    assert posterior.draws["amp"].shape == (2, 100, 2)
    assert posterior.divergences == 0
    assert max(r.max() for r in posterior.rhat.values()) < 1.1
    found = posterior.summary()
    for p, name in enumerate(COMPONENT_NAMES):
        low, high = found[name]["low"], found[name]["high"]
        assert np.all(np.abs(found[name]["median"] - TRUE[:, p]) < 4 * (high - low)), name
    again = quick(image, snr=50.0, seed=3)[1]
    np.testing.assert_array_equal(again.draws["x"], posterior.draws["x"])
    other = quick(image, snr=50.0, seed=4)[1]
    assert np.mean(other.draws["x"] == posterior.draws["x"]) < 0.01


def test_background_and_held_amplitudes():
    image = star(0.01) + 0.02 * star().max()
    start, posterior = quick(image, snr=100.0, fit_bg=True)
    level = posterior.draws["background"] / star().max()
    assert abs(level.mean() - 0.02) < 4 * level.std()
    _, held = quick(image, snr=100.0, fix_amplitude=True)
    assert np.ptp(held.draws["amp"], axis=(0, 1)).max() < 1e-9
    assert np.isnan(held.rhat["amp"]).all()


def test_snr_dials_the_errors(sampled):
    image, _, posterior = sampled
    wide = quick(image, snr=10.0)[1]
    ratio = wide.draws["x"][..., 0].std() / posterior.draws["x"][..., 0].std()
    assert 3.5 < ratio < 7.0


def test_bad_input(sampled):
    image, start, _ = sampled
    for change, message in (
        ({"num_samples": 0}, "num_samples is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"snr": np.nan}, "snr is nan"),
        ({"oversample": 3.0}, "the start has oversample=2.0"),
    ):
        options = {"oversample": OVERSAMPLE, "progress": False} | change
        with pytest.raises(InputError, match=message):
            sample_mixture(image, start, **options)
    negative = start.parameters.copy()
    negative["amp"][0] = -1
    with pytest.raises(InputError, match="must be positive unless signed"):
        sample_mixture(image, negative, oversample=OVERSAMPLE, progress=False)


def test_diagnose_of_constants_and_few_draws():
    draws = {"amp": np.ones((2, 10, 3)), "x": np.random.default_rng(0).normal(size=(2, 3, 1))}
    rhat, ess = diagnose(draws)
    assert np.isnan(rhat["amp"]).all() and np.isnan(ess["x"]).all()


def test_floor_is_that_of_the_fit():
    target = likelihood_target(star(), oversample=OVERSAMPLE)
    assert 0 < floor_of(target) <= 0.4


@pytest.mark.slow
def test_coverage():
    """68 % intervals hold the truth in 60-76 % of noisy images, for every parameter."""
    inside, snr = [], 50.0
    for seed in range(REALISATIONS):
        image = star(1 / snr, seed)
        _, posterior = quick(image, snr=snr * image.max() / star().max(), seed=seed)
        summary = posterior.summary()
        inside.append(
            [
                (summary[name]["low"] < TRUE[:, p]) & (TRUE[:, p] < summary[name]["high"])
                for p, name in enumerate(COMPONENT_NAMES)
            ]
        )
    share = np.mean(inside, axis=0)
    print(share)
    assert share.min() > INTERVAL[0] and share.max() < INTERVAL[1]
