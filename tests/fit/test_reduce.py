"""Reduced PSF mixtures in a fit: how exact, what may be used where, and that padding is free."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reduced_case import (
    POSITIVE,
    SCALE,
    Pair,
    make_exposure,
    make_peak,
    psf_model,
    without_ladder,
)

from jaxpho.core.fisher import normal_equations
from jaxpho.core.sersic import load_mixture
from jaxpho.data.psfmodel import PSFModel, ReducedPSF
from jaxpho.fit import reduce, uncertainty
from jaxpho.fit.driver import fit_patch
from jaxpho.fit.options import FitOptions, PriorOptions, SampleOptions
from jaxpho.fit.posterior import DEFAULT_STATIC, delta_of, model_of, to_unconstrained
from jaxpho.fit.reduce import near, outside, reduce_problem, shape_range
from psfmix.fit import from_array

# What is promised of a galaxy's image, of its peak.
GALAXY = 1e-4
# Sums of a few hundred float32 terms.
FLOAT32 = 3e-6


def ellipticity(q, angle):
    e = (1 - q) / (1 + q)
    return {"e1": e * np.cos(angle), "e2": e * np.sin(angle)}


# ------------------------------------------------------------------ exactness


@pytest.mark.parametrize(
    ("name", "shapes"),
    # n, rhalf in pixels, q
    [
        ("signed", [(0.5, 12, 1.0), (2.5, 16, 0.5), (6.0, 10, 0.1), (4.0, 3, 0.3)]),
        ("positive", [(1.0, 20, 1.0), (6.0, 16, 0.1), (4.0, 10, 0.5)]),
        ("moffat", [(0.5, 4, 0.1), (1.0, 10, 0.6), (2.5, 6, 0.3), (6.0, 2, 0.1), (6.0, 16, 1.0)]),
    ],
)
def test_held_shapes(name, shapes):
    """From n = .5 to 6 and down to the least axis ratio."""
    exposure = make_exposure(psf_model(name))
    for i, (sersic, rhalf, q) in enumerate(shapes):
        shape = {"rhalf": rhalf * SCALE, "sersic": sersic, **ellipticity(q, 2.0 * i)}
        pair = Pair([exposure], [make_peak(**shape)])
        assert pair.reduced is not pair.full and "instead of" in pair.text
        assert pair.error() <= GALAXY
        # all of them within the same, whether it pays or not
        assert pair.gaussians <= reduce.gaussians_per_pixel(pair.reduced)


@pytest.mark.parametrize(
    ("name", "rhalf", "sersic", "e_max"),
    [
        ("signed", (1.4, 2.2), (0.5, 1.0), 0.1),
        ("signed", (1.0, 1.5), (3.5, 6.0), 0.4),
        ("moffat", (0.5, 1.0), (1.0, 1.5), 0.3),
        ("moffat", (0.3, 1.0), (3.0, 6.0), 0.8),
    ],
)
def test_within_bounds(name, rhalf, sersic, e_max):
    """Random shapes within the priors, and their corners."""
    priors = {
        "rhalf": PriorOptions("log_uniform", *rhalf),
        "sersic": PriorOptions("uniform", *sersic),
        "ellipticity": PriorOptions("uniform", high=e_max),
    }
    peak = make_peak(fixed=(), rhalf=sum(rhalf) / 2, sersic=sum(sersic) / 2, e1=0.0, e2=0.0)
    pair = Pair([make_exposure(psf_model(name))], [peak], FitOptions(priors=priors))
    assert pair.reduced is not pair.full
    rng = np.random.default_rng(2)
    corners = [(r, n, e) for r in rhalf for n in sersic for e in (0.0, e_max)]
    inside = [(rng.uniform(*rhalf), rng.uniform(*sersic), e_max * rng.uniform()) for _ in range(12)]
    for r, n, e in corners + inside:
        angle = rng.uniform(0, 2 * np.pi)
        shape = {"e1": e * np.cos(angle), "e2": e * np.sin(angle)}
        assert pair.error(pair.theta(rhalf=r, sersic=n, **shape)) <= GALAXY


def test_optimum_is_the_same():
    """A tenth of a standard deviation at a peak of 300 sigma, where 1e-4 of it is .03 sigma."""
    model = psf_model("moffat")
    exposure = make_exposure(model, size=64, noise=1.0)
    held = make_peak(flux=5e4, rhalf=0.8, sersic=2.0, **ellipticity(0.6, 0.5))
    truth = Pair([exposure], [held], mixture="k8")
    image = np.zeros((64, 64), np.float32)
    pixels = truth.packed.pixels(0, model=np.asarray(model_of(truth.theta(), truth.full)))
    image[pixels["y"], pixels["x"]] = pixels["model"]
    exposure.data = exposure.data + image
    assert image.max() > 300
    free = replace(held, fixed=frozenset())
    priors = {
        "rhalf": PriorOptions("log_uniform", 0.6, 1.0),
        "sersic": PriorOptions("uniform", 1.5, 2.5),
        "ellipticity": PriorOptions("uniform", high=0.4),
    }
    found = {}
    for how in ("always", "never"):
        options = FitOptions(priors=priors, reduced_psf=how, restarts=0)
        patch = Pair([exposure], [free], options, "k8").packed
        found[how] = fit_patch(patch, [free], options, mixture="k8")
    said = [m for m in found["always"].messages if "PSF Gaussians" in m]
    assert len(said) == 1 and not any("PSF Gaussians" in m for m in found["never"].messages)
    a, b = found["always"], found["never"]
    sigma = np.sqrt(np.diag(b.covariance))
    assert np.all(np.abs(a.theta - b.theta) <= 0.1 * sigma)
    np.testing.assert_allclose(np.sqrt(np.diag(a.covariance)), sigma, rtol=0.01)


# ------------------------------------------------------------------ the layout


@pytest.fixture(scope="module")
def split():
    """A PSF of which two of five Gaussians have no light, and a ladder of the other three."""
    full = np.concatenate([POSITIVE[:3], POSITIVE[1:3]])
    full[3:, 0] = 0.0
    rung = ReducedPSF(1e-6, from_array(full[:3])[None], 1e-12)
    model = PSFModel(from_array(full)[None], reduced=[rung])
    exposures = [make_exposure(model, size=32, name=f"e{k}", seed=k) for k in range(3)]
    peaks = [
        make_peak("bulge_disk", fixed=(), rhalf=0.5),
        make_peak("point", fixed=(), dra=1.0),
        make_peak("sersic", fixed=(), rhalf=0.3, dra=-0.8),
    ]
    return Pair(exposures, peaks, mixture="k8")


def test_terms_are_the_same_model(split):
    """Model, chi2, gradient and Fisher matrix, with padded rows, components and exposures."""
    # 3 components of 8 x 3 Gaussians in 2 rows each, of 10 rows; one is padding
    assert split.reduced.patch.terms.bin.shape == (3, 7, 12)
    theta = jnp.asarray(split.theta())
    full, reduced = split.full, split.reduced
    scale = float(np.abs(model_of(theta, full)).max())
    np.testing.assert_allclose(
        model_of(theta, reduced), model_of(theta, full), atol=FLOAT32 * scale
    )
    (a, da), (b, db) = _chi2(theta, full), _chi2(theta, reduced)
    assert float(b) == pytest.approx(float(a), rel=1e-5)
    np.testing.assert_allclose(db, da, atol=1e-4 * np.abs(da).max())
    a, b = (_fisher(theta, p) for p in (full, reduced))
    size = _size_of(a)
    np.testing.assert_allclose(b.fisher / size, a.fisher / size, atol=1e-4)
    np.testing.assert_allclose(b.gradient, a.gradient, atol=2e-3 * np.abs(a.gradient).max())
    # fluxes alone are a part of it
    some = _fisher(theta, reduced, linear_only=True).fisher
    fluxes = np.flatnonzero([name.startswith("flux") for _, name, _ in split.table.labels])
    both = np.ix_(fluxes, fluxes)
    np.testing.assert_allclose(some[both], b.fisher[both], rtol=1e-4, atol=1e-9)


@partial(jax.jit, static_argnames="linear_only")
def _fisher(theta, problem, linear_only=False):
    return normal_equations(
        theta, problem.scene, problem.patch, problem.mixture, linear_only=linear_only
    )


def _size_of(normal):
    """Largest elements that a matrix could have, [n, n]."""
    root = np.sqrt(np.abs(np.diag(normal.fisher)))
    return np.outer(root, root) + 1e-9


@jax.jit
def _chi2(theta, problem):
    def total(t):
        found = delta_of(t, problem, None, DEFAULT_STATIC)
        return found.high.sum() + found.low.sum()

    return jax.value_and_grad(total)(theta)


def test_padding_has_no_effect(split):
    """Rows of padding may say anything but flux."""
    theta = jnp.asarray(split.theta())
    terms = split.reduced.patch.terms
    more = jax.tree.map(lambda a: jnp.concatenate([a, a[:, :5]], 1), (terms.psf, terms.bin))
    psf = more[0]._replace(flux=more[0].flux.at[:, -5:].set(0.0))
    component = jnp.concatenate([terms.component, jnp.asarray([2, 0, 1, 1, 0], jnp.int32)])
    patch = split.reduced.patch._replace(terms=terms._replace(psf=psf, bin=more[1],
                                                              component=component))  # fmt: skip
    padded = split.reduced._replace(patch=patch)
    a, b = (model_of(theta, p) for p in (split.reduced, padded))
    np.testing.assert_allclose(b, a, atol=FLOAT32 * float(a.max()))
    (a, da), (b, db) = _chi2(theta, split.reduced), _chi2(theta, padded)
    assert float(b) == pytest.approx(float(a), rel=1e-6)
    np.testing.assert_allclose(db, da, atol=1e-5 * np.abs(da).max())


# ------------------------------------------------------------------ what may be used


def test_without_a_ladder_nothing_changes():
    model = without_ladder(psf_model("positive"))
    pair = Pair([make_exposure(model)], [make_peak(rhalf=2.0, sersic=1.0, e1=0.0, e2=0.0)])
    assert pair.reduced is pair.full and pair.text == ""
    assert not pair.packed.reducible


def test_too_little_work_for_a_program_of_its_own():
    pair = Pair([make_exposure(psf_model("moffat"))], [make_peak(rhalf=2.0, sersic=1.0)])
    pixels = 96 * 96 * reduce.gaussians_per_pixel(pair.full)
    assert reduce_problem(pair.packed, pair.full, pair.limits, pixels + 1)[1] == ""
    assert reduce_problem(pair.packed, pair.full, pair.limits, pixels - 1)[1] != ""
    assert reduce.worth_of(FitOptions(reduced_psf="never"), 1.0) == np.inf
    assert reduce.worth_of(FitOptions(), 7.0) == 7.0


def test_limits():
    """Held shapes are exact; types hold indices; free ones have their priors' ends."""
    options = FitOptions(
        priors={"rhalf": PriorOptions("log_uniform", 0.2, 2.0),
                "rhalf_bulge": PriorOptions("log_uniform", 0.1, 0.5)},
        q_min=0.25,
    )  # fmt: skip
    peaks = [
        make_peak("dev", fixed=("shape",), rhalf=0.7, e1=0.2, e2=-0.1),
        make_peak("point", fixed=()),
        make_peak("bulge_disk", fixed=(), rhalf=0.5),
        make_peak("sersic", fixed=("e1",), rhalf=0.5, e1=0.3, e2=0.0),
    ]
    exposure = make_exposure(psf_model("positive"), size=32)
    limits = Pair([exposure], peaks, options).limits
    assert [s for s, _ in limits] == [0, 2, 2, 3]
    held = limits[0][1]
    assert held["sersic"] == (4.0, 4.0) and held["rhalf"] == pytest.approx((0.7, 0.7))
    assert held["e1"] == pytest.approx((0.2, 0.2)) and "e" not in held
    disk, bulge = limits[1][1], limits[2][1]
    assert disk["sersic"] == (0.5, 8.0) and disk["rhalf"] == (0.2, 2.0)
    assert bulge["rhalf"] == (0.1, 0.5) and bulge["e"] == pytest.approx((0.0, 0.6))
    chord = limits[3][1]
    assert chord["e1"] == pytest.approx((0.3, 0.3)) and "e" not in chord
    assert np.hypot(0.3, chord["e2"][1]) == pytest.approx(0.6)
    # the least axis ratio, of two that share a disc and of one beside a held one
    mixture = load_mixture("k12")
    for limit in (disk, chord | {"sersic": (0.5, 8.0)}):
        assert shape_range(0, limit, mixture).minor ** 2 == pytest.approx(0.25, rel=1e-6)


def test_widths_are_the_least_within_limits():
    mixture = load_mixture("k12")
    limits = {"sersic": (1.0, 4.0), "rhalf": (0.5, 2.0), "e1": (0.0, 0.0), "e2": (0.0, 0.0)}
    found = shape_range(3, limits, mixture)
    assert found.source == 3 and found.minor == 1.0
    n = jnp.linspace(1.0, 4.0, 400)
    expected = np.sqrt(np.asarray(mixture.evaluate(n, 0.5)[1])).min(0)
    np.testing.assert_allclose(found.sigma.min(0), expected, rtol=2e-3)
    np.testing.assert_allclose(found.amplitude.sum(-1), 1.0, atol=1e-5)
    # flatter than a Gaussian, amplitudes cancel: nothing is reduced
    flat = shape_range(0, limits | {"sersic": (0.3, 4.0)}, mixture)
    assert not flat.sigma.any()


# ------------------------------------------------------------------ sampling


def test_near_a_mode():
    options = FitOptions(priors={"rhalf": PriorOptions("log_uniform", 0.9, 5.0)}, q_min=0.1)
    peak = make_peak(fixed=(), rhalf=1.0, sersic=2.0, e1=0.1, e2=0.0)
    pair = Pair([make_exposure(psf_model("positive"), size=32)], [peak], options)
    labels = pair.table.labels
    where = {name: labels.index((0, name, "")) for name in ("rhalf", "sersic", "e1", "e2")}
    theta, sigma = pair.theta().astype(float), np.full(pair.n, 0.02)
    ((s, found),) = near(pair.limits, pair.table, pair.starts, theta, sigma)
    assert s == 0
    assert found["rhalf"] == pytest.approx((0.9, np.exp(0.12)))  # the prior's end
    assert found["sersic"] == pytest.approx((1.88, 2.12))
    assert found["e1"] == pytest.approx((-0.02, 0.22))
    draws = np.tile(theta, (2, 5, 1))
    assert outside([(s, found)], pair.table, pair.starts, draws) == 0
    draws[1, 2, where["rhalf"]] = np.nextafter(np.float32(0.9), np.float32(0))  # the end, rounded
    assert outside([(s, found)], pair.table, pair.starts, draws) == 0
    draws[0, 1, where["sersic"]] = 2.2
    draws[1, 4, where["e1"]], draws[1, 4, where["rhalf"]] = 0.3, 0.8
    assert outside([(s, found)], pair.table, pair.starts, draws) == 2
    sigma[where["sersic"]] = np.nan  # not known: the prior's
    ((_, found),) = near(pair.limits, pair.table, pair.starts, theta, sigma)
    assert found["sersic"] == (0.5, 8.0)


def test_draws_that_leave_are_drawn_again(monkeypatch):
    """The sampler itself is not run: which problem it is given, and what is done with its draws."""
    peak = make_peak(fixed=("e1", "e2"), rhalf=1.0, sersic=1.0, e1=0.0, e2=0.0)
    options = FitOptions(reduced_psf="always")
    pair = Pair([make_exposure(psf_model("moffat"), size=32)], [peak], options)
    assert pair.reduced is pair.full  # the default priors allow any size
    z = np.asarray(to_unconstrained(jnp.asarray(pair.theta()), pair.full.transform), float)
    curvature = np.diag(np.full(pair.n, 1e6))
    mode = SimpleNamespace(z=z, theta=pair.theta().astype(float), curvature=curvature)
    fitter = SimpleNamespace(
        packed=pair.packed, problem=pair.full, table=pair.table, starts=pair.starts,
        limits=pair.limits, options=options, linear=np.zeros(pair.n, bool), dtype=np.float32,
        n=pair.n, normal=np.zeros(pair.n, bool),
        noise=SimpleNamespace(widen=lambda draws, *rest: draws),
        static=DEFAULT_STATIC, optimize=lambda theta, with_volume: mode,
    )  # fmt: skip
    seen, spread = [], [0.0]

    def fake(key, mode, problem, sampling, static, *rest, **given):
        seen.append(problem.patch.terms is not None)
        return SimpleNamespace(theta=np.tile(mode.theta * (1 + spread[0]), (2, 10, 1)))

    monkeypatch.setattr(uncertainty, "sample", fake)
    _, messages = uncertainty.draw(fitter, mode, SampleOptions(), None)
    assert seen == [True] and len(messages) == 1 and messages[0].startswith("sampling: PSF Gauss")
    spread[0] = 0.5
    _, messages = uncertainty.draw(fitter, mode, SampleOptions(), None)
    assert seen == [True, True, False]
    assert "20 draws left the shapes" in messages[1]
    fitter.options = FitOptions(reduced_psf="never")
    assert uncertainty.draw(fitter, mode, SampleOptions(), None)[1] == []


@pytest.mark.slow
def test_sampling_near_the_mode(monkeypatch):
    """Posteriors with and without agree; drawn again, they are those without to the last digit."""
    exposure = make_exposure(psf_model("moffat"), size=48)
    shape = {"rhalf": 1.0, "sersic": 1.0, "e1": 0.0, "e2": 0.0}
    truth = Pair([exposure], [make_peak(flux=2e4, fixed=("all",), **shape)], mixture="k8")
    pixels = truth.packed.pixels(0, model=np.asarray(model_of(truth.theta(), truth.full)))
    exposure.data[pixels["y"], pixels["x"]] += pixels["model"]
    peak = make_peak(flux=2e4, fixed=("position", "e1", "e2"), **shape)
    packed = Pair([exposure], [peak], mixture="k8").packed
    sampling = SampleOptions(num_warmup=25, num_samples=250, num_chains=2, max_rounds=1, min_ess=0)
    always, never = (FitOptions(reduced_psf=how) for how in ("always", "never"))
    result, without = (
        fit_patch(packed, [peak], options, sampling, mixture="k8") for options in (always, never)
    )
    said = [m for m in result.messages if "PSF Gaussians" in m]
    assert len(said) == 1 and said[0].startswith("sampling: ")
    sigma = np.sqrt(np.diag(without.covariance))
    mean = [r.samples.reshape(-1, len(sigma)).mean(0) for r in (result, without)]
    assert np.all(np.abs(mean[0] - mean[1]) < 0.3 * sigma)  # 500 correlated draws each
    monkeypatch.setattr(reduce, "DRAWS_WITHIN", 1.0)
    again = fit_patch(packed, [peak], always, sampling, mixture="k8")
    assert any("draws left the shapes" in m for m in again.messages)
    np.testing.assert_allclose(again.samples, without.samples)
