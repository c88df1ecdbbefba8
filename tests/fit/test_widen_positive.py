"""Positive fluxes with the wider spread of correlated noise: normals cut at zero, fits, bounds."""

from dataclasses import replace

import numpy as np
import pytest
from fit_case import MIXTURE, draw, packed_patch, peaks_of, remake
from scipy.signal import correlate2d
from scipy.stats import kstest, truncnorm

from jaxpho.data.noise import NoiseStatistics
from jaxpho.fit.driver import fit_patch
from jaxpho.fit.options import FitOptions, SampleOptions
from jaxpho.fit.widen_positive import linear_map, to_wider, widen_positive

KERNEL = np.outer([0.5, 1.0, 0.5], [0.5, 1.0, 0.5])
RHO = correlate2d(KERNEL, KERNEL) / (KERNEL**2).sum()
NOISE = NoiseStatistics(1.0, 0.01, RHO, 5000, 1.0)
FEWEST = 1e-3  # least p of a Kolmogorov-Smirnov test


@pytest.mark.parametrize("height", [-30.0, -3.0, 0.0, 2.0, 9.0, 1e4])
def test_one_flux_becomes_the_wider_normal_cut_at_zero(height):
    """Zero to 30 errors below and far above it; the error is 2, then 5."""
    mean, before, after = 2.0 * height, 2.0, 5.0
    quantile = (np.arange(4000) + 0.5) / 4000
    z = truncnorm.ppf(quantile, -mean / before, np.inf, loc=mean, scale=before)
    found = to_wider(z[:, None], *(np.array([v]) for v in (mean, before, after)), np.eye(1))[:, 0]
    assert (found > 0).all()
    law = truncnorm(-mean / after, np.inf, loc=mean, scale=after)
    np.testing.assert_allclose(law.cdf(found), quantile, atol=1e-6)


def cut(rng, mean, covariance, on, number):
    draws = rng.multivariate_normal(mean, covariance, number)
    return draws[(draws[:, on] > 0).all(1)]


def test_parameters_follow_their_flux_and_bright_fluxes_move_linearly():
    before = np.array([[1.0, -0.4, 0.6], [-0.4, 1.0, 0.2], [0.6, 0.2, 1.0]])
    wide = np.array([2.0, 1.8, 1.4])
    after = before * np.outer(wide, wide)
    rng = np.random.default_rng(0)
    on = np.array([True, True, False])
    for mean in ([-1.0, 30.0, 5.0], [25.0, 30.0, 5.0]):
        mean = np.array(mean)
        z = cut(rng, mean, before, on, 60_000)
        found = widen_positive(z, mean, before, after, on)
        assert (found[:, on] > 0).all()
        expected = cut(rng, mean, after, on, 60_000)
        sigma = expected.std(0)
        # a bright neighbour and a shape follow a flux that is cut; .03 are four standard errors
        assert (np.abs(found.mean(0) - expected.mean(0)) / sigma).max() < 0.03
        np.testing.assert_allclose(found.std(0), sigma, rtol=0.03)
    moved = mean + (z - mean) @ linear_map(before, after).T
    np.testing.assert_allclose(np.cov(found.T), np.cov(moved.T), rtol=0.02)
    assert kstest(found[:, 2], moved[:, 2]).pvalue > FEWEST


def test_draws_of_a_fit_stay_above_zero():
    """A faint star in noise whose correlation widens its draws."""
    s = remake(draw(11, ("point",), flux=6.0), np.random.default_rng(5))
    packed = packed_patch(s)
    sampling = SampleOptions(method="laplace", positive=True, num_samples=200)
    flux = []
    for known in (None, [NOISE] * len(packed.exposures)):
        one = replace(packed, noise=known)
        found = fit_patch(one, peaks_of(s), FitOptions(restarts=0), sampling, mixture=MIXTURE)
        at = [k for k, (_, name, _) in enumerate(found.labels) if name == "flux"]
        flux.append(found.samples[..., at].reshape(-1, len(at)))
        assert (flux[-1] > 0).all() and np.isfinite(found.samples).all()
    assert any("correlated noise: errors times" in m for m in found.messages)
    assert (flux[1].std(0) > 1.2 * flux[0].std(0)).all()
