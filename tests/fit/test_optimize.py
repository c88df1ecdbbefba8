"""The optimiser: the same minimum from bad starts, closed forms where there are some, odd cases."""

from functools import cache

import numpy as np
import pytest
from fit_case import bad_start, draw, make_case, remake
from scipy.optimize import minimize
from synthetic_patch import derivative, oracle_model

from jaxpho.data.exposure import Nuisance
from jaxpho.fit import quality
from jaxpho.fit.optimize import box_step, secant_matrix, solve_scaled
from jaxpho.fit.options import FitOptions, PriorOptions
from jaxpho.fit.uncertainty import laplace

# Two fits are at one minimum when chi2 agrees to this: the optimiser stops at 1e-3.
SAME = 0.01
# of a parameter's error; float32 matrices leave 1e-5 of the largest correlation
SIGMAS = 2e-3


def seeded(k):
    return np.random.default_rng(k)


@cache
def pair(seed=1, flux=300.0, noise=None):
    """Two blended Sersic sources, separation 2 to 6 pixels, rhalf 3 pixels."""
    s = draw(seed, flux=flux)
    return make_case(s if noise is None else remake(s, seeded(noise)))


def with_values(seed, noise=1, **values):
    """The pair with other true values of the first source (and every flux times ``scale``)."""
    s, scale = draw(seed), values.pop("scale", 1.0)
    theta = np.array(s.theta)
    for i, (owner, name, _) in enumerate(s.labels):
        if owner == 0 and name in values:
            theta[i] = values[name]
        elif name == "flux":
            theta[i] *= scale
    return make_case(remake(s._replace(theta=theta), seeded(noise)))


STARS = ("point",) * 4
SKIES = [Nuisance(sky="plane", sky_sigma=0.05 * k, sky_slope_sigma=0.04, sky_mean=0.02 * k)
         for k in (1, 2, 3)]  # fmt: skip


def stars(options=None):
    """Four blended stars in three exposures with free skies; positions are held."""
    s = draw(4, STARS, exposures_per_band=3, nuisances=True, spread=0.6, flux=200.0)
    return make_case(remake(s, seeded(2)), (("position",),) * 4, options, SKIES)


def errors(case, optimum):
    return np.sqrt(np.diag(laplace(optimum, case.problem)[0]))[: len(case.table.parameters)]


def assert_finite(case, optimum):
    covariance, _ = laplace(optimum, case.problem)
    assert np.isfinite(optimum.theta).all() and np.isfinite(optimum.z).all()
    assert np.isfinite(covariance).all()
    assert np.linalg.eigvalsh(covariance).min() >= -1e-6 * np.abs(covariance).max()


# ------------------------------------------------------------------ the true values


@pytest.mark.parametrize("seed", [1, 2, 3, 5])
def test_truth_from_bad_starts(seed):
    """Without noise the minimum is the truth, from wherever one starts."""
    case, rng = pair(seed), seeded(seed)
    sigma = errors(case, case.optimize())
    for _ in range(4):
        found = case.optimize(bad_start(case, rng))
        assert found.converged and 0 <= found.chi2 < SAME
        difference = (found.theta - case.truth)[: len(sigma)]
        # chi2 < .01 is a tenth of an error at most
        assert np.abs(difference / sigma).max() < 0.1


@pytest.mark.parametrize("flux", [300.0, 3e4, 3e5])
def test_one_minimum_with_noise(flux):
    """Also at S/N 10^4 and more, where float32 sums of data squared are off by hundreds."""
    case, rng = pair(1, flux, noise=3), seeded(0)
    found = [case.optimize(bad_start(case, rng)) for _ in range(4)]
    assert all(f.converged for f in found)
    chi2 = [f.chi2 for f in found]
    # rounding of pixels of 1e4 sigma is 1e-3 sigma, here in a few pixels
    assert np.ptp(chi2) < (SAME if flux < 1e5 else 0.1)
    used = sum((np.asarray(t.ierr) > 0).sum() for t in case.synthetic.tiles)
    assert abs(chi2[0] - used) < 5 * np.sqrt(2 * used)


def test_chi2_is_that_of_the_independent_model():
    case = pair(1, 3e4, noise=3)
    found, total = case.optimize(), 0.0
    for e, t in enumerate(case.synthetic.tiles):
        model = oracle_model(case.synthetic, case.theirs(found.theta), e)
        total += (t.ierr**2 * np.where(t.ierr > 0, t.data - model, 0.0) ** 2).sum()
    assert found.chi2 == pytest.approx(total, abs=0.02)


@pytest.mark.parametrize("factor", [0.0, -3.0, 1e4])
def test_linear_parameters_start_anywhere(factor):
    case = pair(1, noise=3)
    theta = np.where(case.linear, factor * case.truth, case.truth)
    best = case.optimize()
    assert case.optimize(theta).chi2 == pytest.approx(best.chi2, abs=SAME)


# ------------------------------------------------------------------ closed forms


def design(case):
    """Weighted derivatives of all pixels by the parameters [n, pixels], and weighted data."""

    def pixels(theta):
        theirs = case.theirs(theta)
        images = [oracle_model(case.synthetic, theirs, e) for e in range(len(case.synthetic.tiles))]
        return np.concatenate(
            [(m * t.ierr).ravel() for m, t in zip(images, case.synthetic.tiles, strict=True)]
        )

    n = len(case.table.parameters)
    held = pixels(np.zeros(n))
    data = [(np.where(t.ierr > 0, t.data, 0.0) * t.ierr).ravel() for t in case.synthetic.tiles]
    return derivative(pixels, np.zeros(n), np.ones(n)), np.concatenate(data) - held


def least_squares(case):
    """MAP and covariance of a linear model, in float64."""
    images, data = design(case)
    prior = [p.prior for p in case.table.parameters]
    precision = np.array([0.0 if p.sigma is None else p.sigma**-2 for p in prior])
    mean = np.array([0.0 if p.mean is None else p.mean for p in prior])
    covariance = np.linalg.inv(images @ images.T + np.diag(precision))
    return covariance @ (images @ data + precision * mean), covariance


def test_stars_and_skies_are_weighted_least_squares():
    """Flat fluxes, planes of sky with priors."""
    case = stars()
    n = len(case.table.parameters)
    assert case.linear[:n].all() and n == 4 + 9
    expected, covariance = least_squares(case)
    found = case.optimize(np.zeros(case.n))
    assert found.converged and found.iterations == 1
    sigma = np.sqrt(np.diag(covariance))
    assert np.abs((found.theta[:n] - expected) / sigma).max() < SIGMAS
    mine = laplace(found, case.problem)[0][:n, :n]
    assert np.abs((mine - covariance) / np.outer(sigma, sigma)).max() < SIGMAS


@pytest.mark.parametrize("sigma", [1.0, 100.0])
def test_normal_priors_of_fluxes(sigma):
    prior = PriorOptions("normal", mean=150.0, sigma=sigma)
    case = stars(FitOptions(priors={"flux": prior}))
    n = len(case.table.parameters)
    expected, covariance = least_squares(case)
    found = case.optimize(np.zeros(case.n))
    errors_ = np.sqrt(np.diag(covariance))
    assert np.abs((found.theta[:n] - expected) / errors_).max() < SIGMAS
    assert (errors_[:4] < sigma).all()


def test_offsets_and_scales_are_recovered():
    """Nuisances of each exposure, from zero."""
    free = [Nuisance(offset_sigma=0.1, scale_sigma=0.05) for _ in range(3)]
    s = draw(4, STARS, exposures_per_band=3, nuisances=True, spread=0.6, flux=2e4)
    theta = np.array(s.theta)
    theta[[label[1].startswith("sky") for label in s.labels]] = 0.0
    case = make_case(remake(s._replace(theta=theta)), (("position",),) * 4, None, free)
    start = case.truth.copy()
    for i, (owner, name, _) in enumerate(case.table.labels):
        if not isinstance(owner, int):
            start[i] = float(name == "scale")
    found = case.optimize(start)
    assert found.converged
    sigma = errors(case, found)
    shift = [i for i, label in enumerate(case.table.labels) if label[1] in ("dra", "ddec")]
    scale = [i for i, label in enumerate(case.table.labels) if label[1] == "scale"]
    flux = [i for i, label in enumerate(case.table.labels) if label[1] == "flux"]
    assert len(shift) == 6 and np.ptp(case.truth[shift]) > 0.02
    # no noise: the truth, but for the pull of the priors, which is small beside the data
    assert np.abs((found.theta - case.truth)[shift] / sigma[shift]).max() < 0.05
    ratio = found.theta[scale] / case.truth[scale]
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-4)
    # fluxes are free, so that the prior alone says what one may multiply all scales with
    true = case.truth[scale]
    np.testing.assert_allclose(ratio[0], true.sum() / (true**2).sum(), rtol=1e-3)
    np.testing.assert_allclose(found.theta[flux] * ratio[0], case.truth[flux], rtol=1e-3)


# ------------------------------------------------------------------ ends of the ranges


@pytest.mark.parametrize(
    "name, values",
    [
        ("sersic", {"sersic": 0.5}),
        ("sersic", {"sersic": 8.0}),
        ("e1", {"e1": 0.86, "e2": 0.0}),
        ("e2", {"e1": -0.5, "e2": -0.7}),
        ("rhalf", {"rhalf": 0.0005}),
    ],
)
def test_solutions_at_a_bound(name, values):
    """Found from several starts, flagged, finite, and the others' values not held up by it."""
    case, usual, rng = with_values(1, scale=10.0, **values), pair(1), seeded(0)
    found = [case.optimize(bad_start(usual, rng)) for _ in range(3)]
    assert all(f.converged for f in found)
    assert np.ptp([f.chi2 for f in found]) < 5 * SAME
    for f in found:
        assert_finite(case, f)
        flagged = quality.at_bound(case.table, f.theta[: len(case.table.parameters)])
        assert flagged[case.find(0, name)]
        assert not flagged[case.find(1, "sersic")] and not flagged[case.find(1, "ra")]
        sigma = errors(case, f)
        at = case.find(1, "flux", "g")
        assert abs(f.theta[at] - case.truth[at]) < 6 * sigma[at]


def test_no_bound_no_flag():
    case = pair(1, 3e4, noise=3)
    found = case.optimize()
    assert not quality.at_bound(case.table, found.theta[: len(case.table.parameters)]).any()


# ------------------------------------------------------------------ odd data


def test_negative_flux():
    """Negative fluxes are allowed: an over-subtracted source is measured as what it is."""
    s = draw(1)
    theta = np.where(np.array(s.kinds()) == "flux", -10 * s.theta, s.theta)
    case = make_case(remake(s._replace(theta=theta), seeded(1)))
    found = case.optimize(pair(1).truth)
    assert found.converged
    flux = [case.find(k, "flux", "g") for k in (0, 1)]
    sigma = errors(case, found)[flux]
    assert np.all(np.abs(found.theta[flux] - case.truth[flux]) < 5 * sigma)
    assert np.all(found.theta[flux] < -5 * sigma)


@pytest.mark.parametrize("seed", range(4))
def test_nothing_there(seed):
    """Sources of zero flux: any shape will do, but nothing may break."""
    s = draw(1)
    theta = np.where(np.array(s.kinds()) == "flux", 0.0, s.theta)
    case = make_case(remake(s._replace(theta=theta), seeded(seed)))
    found = case.optimize(pair(1).truth)
    assert_finite(case, found)
    flux = case.find(0, "flux", "g")
    assert abs(found.theta[flux]) < 5 * errors(case, found)[flux] + 1e-9


def masked(case, radius):
    """Mask a circle of this many pixels about the first source."""
    s = case.synthetic

    def change(e, t):
        k = np.arange(64)
        x, y = t.x0[:, None] + k // 8, t.y0[:, None] + k % 8
        x0, y0 = s.astrometry.crpix[e, 0]
        near = (x - x0) ** 2 + (y - y0) ** 2 < radius**2
        return t._replace(ierr=np.where(near, 0.0, t.ierr), data=np.where(near, np.nan, t.data))

    return make_case(remake(s, seeded(5), change))


@pytest.mark.parametrize("radius", [4, 8, 12, 16, 99])
def test_masked_sources(radius):
    case = masked(pair(1), radius)
    found = case.optimize()
    assert_finite(case, found)
    if radius == 99:  # no pixel at all: everything stays where it was
        assert found.chi2 == 0 and found.converged
        at = ~case.linear
        np.testing.assert_allclose(found.theta[at], case.truth[at], atol=1e-5)


def test_a_band_without_pixels():
    """The flux there is known by nothing but its very wide prior: proper, and finite."""
    s = draw(2, ("point", "point"), n_bands=2, exposures_per_band=1)

    def change(e, t):
        return t._replace(ierr=np.zeros_like(t.ierr)) if e == 1 else t

    case = make_case(remake(s, seeded(0), change))
    found = case.optimize()
    assert found.converged
    assert_finite(case, found)
    sigma = errors(case, found)
    seen, unseen = case.find(0, "flux", "g"), case.find(0, "flux", "r")
    assert abs(found.theta[unseen]) < 1e-6 and sigma[unseen] > 1e4 * sigma[seen]
    assert abs(found.theta[seen] - case.truth[seen]) < 5 * sigma[seen]


@pytest.mark.parametrize("unit", [1e-12, 1e12])
def test_any_unit(unit):
    """Fluxes scale with the unit of the image, and nothing else changes."""
    one = pair(1, noise=3)
    s = one.synthetic
    tiles = [t._replace(data=t.data * unit, ierr=t.ierr / unit) for t in s.tiles]
    theta = np.where(np.array(s.kinds()) == "flux", s.theta * unit, s.theta)
    other = make_case(s._replace(tiles=tiles, theta=theta).pack())
    a, b = one.optimize(), other.optimize()
    assert b.converged and b.chi2 == pytest.approx(a.chi2, abs=SAME)
    scale = np.where(one.linear, unit, 1.0)
    n = len(one.table.parameters)
    difference = (b.theta / scale - a.theta)[:n]
    assert np.abs(difference / errors(one, a)).max() < 0.05


def test_a_start_without_chi2_is_refused():
    """Overflow (or NaN pixels) end the patch with a sentence, not with a Cholesky factor."""
    case = pair(1, noise=3)
    patch = case.problem.patch
    broken = case.problem._replace(patch=patch._replace(data=patch.data + np.nan))
    with pytest.raises(FloatingPointError, match="not finite at the starting values"):
        case.optimize(problem=broken)


def test_too_few_steps_are_admitted():
    case = pair(1, noise=3)
    start = bad_start(case, seeded(0))
    stopped = case.optimize(start, max_iterations=1)
    assert not stopped.converged and stopped.iterations == 1
    assert_finite(case, stopped)
    assert case.optimize(start, max_iterations=60).converged


def test_mode_of_the_density_in_z():
    """With the volume the mode of a parameter at its bound moves inside."""
    case = with_values(1, scale=10.0, sersic=8.0)
    start = pair(1).truth
    edge = case.optimize(start)
    inside = case.optimize(start, with_volume=True)
    at = case.find(0, "sersic")
    assert inside.converged and inside.z[at] < edge.z[at] - 1.0
    assert inside.chi2 < edge.chi2 + 10.0


# ------------------------------------------------------------------ small algebra


def quadratic(rng, n=12):
    """An ill-scaled, nearly degenerate quadratic model."""
    j = rng.standard_normal((n + 3, n)) * 10.0 ** rng.uniform(-3, 3, n)
    j[:, 1] = j[:, 0] * 1e-2 + j[:, 1] * 1e-3
    matrix = j.T @ j
    return matrix, 3 * rng.standard_normal(n) * np.sqrt(np.diag(matrix))


def test_solve_scaled():
    matrix, vector = quadratic(seeded(0))
    unit = np.sqrt(np.diag(matrix))
    found = solve_scaled(matrix, vector)
    np.testing.assert_allclose(matrix @ found / unit, vector / unit, atol=1e-4)
    # a direction without data gets no step, an indefinite matrix a finite one
    empty = np.diag([4.0, 0.0])
    np.testing.assert_allclose(solve_scaled(empty, np.array([2.0, 0.0])), [0.5, 0.0], atol=1e-8)
    assert np.isfinite(solve_scaled(np.array([[1.0, 1.1], [1.1, 1.0]]), np.ones(2))).all()


@pytest.mark.parametrize("seed", range(6))
def test_box_step_is_the_minimum_in_the_box(seed):
    rng = seeded(seed)
    matrix, gradient = quadratic(rng)
    unit = np.sqrt(np.diag(matrix))
    high = rng.choice([0.0, 0.5, np.inf], 12) / unit
    low = -rng.choice([0.1, 2.0, np.inf], 12) / unit
    step = box_step(matrix, gradient, low, high)
    assert (step >= low).all() and (step <= high).all()
    slope = (gradient + matrix @ step) / unit
    scale = np.abs(gradient / unit).max()
    at_low, at_high = np.isclose(step, low, 1e-9), np.isclose(step, high, 1e-9, 1e-12)
    inside = ~at_low & ~at_high
    assert np.abs(slope[inside]).max(initial=0.0) < 1e-4 * scale
    assert (slope[at_low] > -1e-4 * scale).all()
    assert (slope[at_high] < 1e-4 * scale).all()

    def model(x):
        x = x / unit
        return gradient @ x + 0.5 * x @ matrix @ x, (gradient + matrix @ x) / unit

    bounds = list(zip(low * unit, high * unit, strict=True))
    other = minimize(model, np.zeros(12), jac=True, bounds=bounds, method="L-BFGS-B")
    assert model(step * unit)[0] <= other.fun + 1e-6 * abs(other.fun)


@pytest.mark.parametrize("seed", range(5))
def test_secant_matrix_has_the_curvature_seen(seed):
    rng = seeded(seed)
    a, true = (m @ m.T + np.eye(6) for m in rng.standard_normal((2, 6, 6)))
    steps = rng.standard_normal((2, 6))
    found = secant_matrix(a, [(s, true @ s) for s in steps])
    assert np.allclose(found @ steps[-1], true @ steps[-1])
    assert np.allclose(found, found.T) and np.linalg.eigvalsh(found).min() > 0
    # a direction of negative curvature, noise or a far point: left out
    assert secant_matrix(a, [(steps[0], -steps[0])]) is a
