"""A whole patch: restarts, what the result holds, flags for everything that can go wrong."""

import dataclasses
import logging
import re
from functools import cache

import numpy as np
import pytest
from fit_case import MIXTURE, draw, packed_patch, peaks_of, remake
from synthetic_patch import oracle_model

from jaxpho.fit import flags
from jaxpho.fit.driver import fit_patch
from jaxpho.fit.options import FitOptions, PriorOptions, SampleOptions

ONCE = FitOptions(restarts=0)


@cache
def pair(flux=3000.0, change=None):
    """Two galaxies with noise."""
    s = draw(1, flux=flux)
    return remake(s, np.random.default_rng(0), change)


def fit(s, options=None, fixed=(), values=None, **kwargs):
    peaks = peaks_of(s, fixed)
    if values is not None:
        peaks = [dataclasses.replace(peak, values=values) for peak in peaks]
    return fit_patch(packed_patch(s), peaks, options, mixture=MIXTURE, **kwargs)


def names(result, s):
    return set(flags.decode(result.flags[s]))


def assert_finite(result):
    for name in ("theta", "covariance", "chi2", "source_chi2"):
        assert np.isfinite(getattr(result, name)).all(), name
    assert all(np.isfinite(p["model"]).all() for p in result.pixels.values())


def near(s, radius, source=0):
    """A change of tiles that masks the pixels within a radius of a source."""

    def change(e, t):
        k = np.arange(64)
        x, y = t.x0[:, None] + k // 8, t.y0[:, None] + k % 8
        x0, y0 = s.astrometry.crpix[e, source]
        return t._replace(ierr=np.where(np.hypot(x - x0, y - y0) < radius, 0.0, t.ierr))

    return change


def test_result_of_a_good_fit():
    s = pair()
    result = fit(s, patch_id=7)
    truth = dict(zip(s.labels, s.theta, strict=True))
    sigma = np.sqrt(np.diag(result.covariance))
    for (owner, name, band), value, error in zip(result.labels, result.theta, sigma, strict=True):
        assert abs(value - truth[owner, name, 0 if band else None]) < 5 * error
    assert result.patch_id == 7 and result.source_ids == ["s0", "s1"]
    assert result.index(1, "flux", "g") == 7 and result.index(0, "flux", "r") is None
    assert_finite(result)
    for k in (0, 1):
        assert names(result, k) <= {"blended"}
    assert not result.at_bound.any() and result.fixed == {}
    assert result.diagnostics["converged"] and result.samples is None
    assert "converged" in result.messages[0] and result.seconds["map"] > 0


def test_chi2_and_pixels_are_those_of_the_model():
    s = pair()
    result = fit(s)
    theta = dict(zip(s.labels, s.theta, strict=True))
    for (owner, name, band), value in zip(result.labels, result.theta, strict=True):
        theta[owner, name, 0 if band else None] = value
    theta = np.array([theta[label] for label in s.labels])
    for e, t in enumerate(s.tiles):
        model, good = oracle_model(s, theta, e), t.ierr > 0
        pixels = result.pixels[f"e{e}"]
        assert len(pixels["x"]) == t.data.size
        used = pixels["ierr"] > 0
        assert used.sum() == good.sum() == result.npix[e]
        np.testing.assert_allclose(
            pixels["model"][used], model.ravel()[used], atol=2e-5 * model.max()
        )
        k = np.arange(64)
        np.testing.assert_array_equal(pixels["x"], (t.x0[:, None] + k // 8).ravel())
        np.testing.assert_array_equal(pixels["y"], (t.y0[:, None] + k % 8).ravel())
        chi2 = (t.ierr**2 * np.where(good, t.data - model, 0.0) ** 2).sum()
        assert result.chi2[e] == pytest.approx(chi2, abs=0.05)
    assert np.all(result.source_chi2 < 1.3 * result.source_npix)
    assert np.all(result.source_npix < result.npix.sum()) and np.all(result.source_nexp == 2)


BAD = {"rhalf": 8.0, "sersic": 0.5}


def test_a_local_minimum_is_left_behind():
    """From a start far too large and flat the optimiser goes to the wrong place."""
    stuck, rescued, best = fit(pair(), ONCE, values=BAD), fit(pair(), values=BAD), fit(pair())
    assert stuck.chi2.sum() > 5 * stuck.npix.sum()
    assert "poor_fit" in names(stuck, 0)
    assert rescued.chi2.sum() == pytest.approx(best.chi2.sum(), abs=0.05)
    assert "poor_fit" not in names(rescued, 0)
    assert "1 restart" in rescued.messages[0] or "2 restart" in rescued.messages[0]
    assert "0 restart" in best.messages[0]


def test_too_few_steps_are_flagged():
    result = fit(pair(), FitOptions(max_iterations=1, restarts=0), values={"sersic": 4.0})
    assert "no_convergence" in names(result, 0) & names(result, 1)
    assert "NOT converged" in result.messages[0]
    assert_finite(result)


@pytest.mark.parametrize("radius", [9, 99])
def test_masked_source(radius):
    """Its neighbour is measured; with no pixel at all nothing is, and nothing breaks."""
    s = draw(2, spread=0.9, flux=3000.0)
    separation = np.hypot(*(s.astrometry.crpix[0, 0] - s.astrometry.crpix[0, 1]))
    s = remake(s, np.random.default_rng(0), near(s, radius))
    result = fit(s, ONCE)
    assert_finite(result)
    assert "no_data" in names(result, 0)
    if radius == 99:
        assert result.npix.sum() == 0 and (result.chi2 == 0).all()
        assert "no_data" in names(result, 1)
    else:
        assert separation > radius
        assert not {"no_data", "nonfinite"} & names(result, 1)


def test_half_masked_source():
    s = pair()

    def change(e, t):
        x = t.x0[:, None] + np.arange(64) // 8
        return t._replace(ierr=np.where(x < s.astrometry.crpix[e, 0, 0], 0.0, t.ierr))

    result = fit(remake(draw(1, flux=3000.0), np.random.default_rng(0), change), ONCE)
    assert "partial_coverage" in names(result, 0)
    assert "no_data" not in names(result, 0)


def test_something_unmodelled_is_a_poor_fit():
    s = pair()

    def spike(e, t):
        data = t.data.copy()
        x0, y0 = s.astrometry.crpix[e, 0]
        k = np.arange(64)
        x, y = t.x0[:, None] + k // 8, t.y0[:, None] + k % 8
        return t._replace(data=data + 40.0 * ((np.abs(x - x0) < 2.5) & (np.abs(y - y0) < 1.5)))

    result = fit(remake(draw(1, flux=3000.0), np.random.default_rng(0), spike), ONCE)
    assert "poor_fit" in names(result, 0)
    assert_finite(result)


def test_faint_source_is_told_by_its_priors():
    """At a signal to noise of 2 the shape is up to the prior, and the flags say so."""
    s = draw(1, flux=12.0)
    result = fit(remake(s, np.random.default_rng(0)))
    assert_finite(result)
    assert {"prior_dominated", "at_bound"} & names(result, 0)


def test_held_neighbour():
    """Rendered where it is, without a free parameter, as a patch gets it from next door."""
    s = pair()
    held = fit(s, fixed=((), ("all",)))
    assert {owner for owner, _, _ in held.labels} == {0}
    truth = dict(zip(s.labels, s.theta, strict=True))
    known = {k: v for (o, k, _), v in held.fixed.items() if o == 1}
    for name, value in known.items():
        assert value == pytest.approx(truth[1, name, 0 if name == "flux" else None], abs=1e-6)
    error = np.sqrt(held.covariance[0, 0])
    assert abs(held.theta[0] - truth[0, "flux", 0]) < 5 * error
    assert held.chi2.sum() == pytest.approx(held.npix.sum(), rel=0.15)
    # less is free, so errors are smaller
    free = fit(s)
    assert error < np.sqrt(free.covariance[0, 0])


def test_nothing_free():
    s = pair()
    result = fit(s, fixed=(("all",), ("all",)))
    assert result.theta.shape == (0,) and result.covariance.shape == (0, 0)
    assert len(result.fixed) == 14
    assert result.chi2.sum() == pytest.approx(result.npix.sum(), rel=0.15)
    assert not {"no_convergence", "nonfinite", "poor_fit"} & names(result, 0)


def test_targets_of_the_sampling_are_the_flags(caplog, monkeypatch):
    """What the configuration asks for is what is judged, and the log says what was missed."""
    asked = SampleOptions(num_warmup=25, num_samples=25, max_rounds=1, min_ess=1e5, max_rhat=1.02)
    monkeypatch.setattr(logging.getLogger("jaxpho"), "propagate", True)  # a command stops that
    with caplog.at_level("INFO", "jaxpho.fit"):
        result = fit(pair(), ONCE, sampling=asked)
    # a long fit says how it goes on
    assert re.search(r"patch 0: optimum after \d+ steps .*chi2 = \d+\.\d of \d+ pix", caplog.text)
    said = r"patch 0: round 1 of at most 1: min ESS \d+, max R-hat \d+\.\d+, \d+ gradients so far"
    assert re.search(said, caplog.text)
    assert "low_ess" in names(result, 0) & names(result, 1)
    (text,) = (m for m in result.messages if "sample.min_ess" in m)
    assert text.startswith("WARNING") and "s0, s1" in text
    content = fit(pair(), ONCE, sampling=dataclasses.replace(asked, min_ess=0.0, max_rhat=9.0))
    assert not {"low_ess", "high_rhat"} & (names(content, 0) | names(content, 1))


def test_a_flux_beyond_single_precision_is_harmless():
    s = pair()
    peaks = [dataclasses.replace(p, flux={**p.flux, ("flux", "g"): 1e30}) for p in peaks_of(s)]
    found = fit_patch(packed_patch(s), peaks, ONCE, mixture=MIXTURE)
    np.testing.assert_allclose(found.chi2, fit(s, ONCE).chi2, rtol=1e-4)


def test_a_prior_given_as_knowledge_is_not_flagged():
    """A narrow normal prior dominates by intention; a range that is too wide does so by default."""
    s = draw(1, flux=3000.0)
    known = {"sersic": PriorOptions("normal", mean=1.5, sigma=0.01)}
    narrow = {"sersic": PriorOptions("uniform", low=1.45, high=1.55)}
    flagged = [
        "prior_dominated" in names(fit(s, FitOptions(restarts=0, priors=p)), 0)
        for p in (known, narrow)
    ]
    assert flagged == [False, True]
