"""Treatments of noise in the fit of a patch: outliers, rescaled errors, correlated noise."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from fit_case import MIXTURE, draw, packed_patch, peaks_of, remake
from scipy.signal import convolve2d, correlate2d

from jaxpho.errors import InputError
from jaxpho.fit.driver import fit_patch
from jaxpho.fit.options import FitOptions, NoiseOptions, SampleOptions
from jaxpho.fit.treatment import residual_ratio

ONCE = FitOptions(restarts=0)
KERNEL = np.outer([0.5, 1.0, 0.5], [0.5, 1.0, 0.5])
RHO = correlate2d(KERNEL, KERNEL) / (KERNEL**2).sum()
NONE = NoiseOptions(correlation="none")


@pytest.fixture(scope="module")
def star():
    return draw(11, ("point",), flux=300.0)


def fit(s, noise=NONE, sampling=None, packed=None, **kwargs):
    packed = packed_patch(s) if packed is None else packed
    return fit_patch(packed, peaks_of(s), ONCE, sampling, mixture=MIXTURE, noise=noise, **kwargs)


def pulls(found, truth):
    return (found.theta - truth.theta) / np.sqrt(np.diag(truth.covariance))


def test_cosmic_rays_bias_the_normal_fit_and_not_that_of_heavy_tails(star):
    clean = fit(remake(star, np.random.default_rng(5)))
    rng = np.random.default_rng(6)

    def hit(e, t):
        data = t.data.copy()
        k = np.arange(64)
        x, y = t.x0[:, None] + k // 8, t.y0[:, None] + k % 8
        x0, y0 = star.astrometry.crpix[e, 0]
        beside = (np.rint(x - x0) == 2) & (np.rint(y - y0) == 1)
        where = beside | (rng.random(data.shape) < 0.02)
        return t._replace(data=data + where * rng.uniform(10, 60, data.shape) / t.ierr.max())

    s = remake(star, np.random.default_rng(5), change=hit)
    normal = fit(s)
    heavy = fit(s, NoiseOptions(correlation="none", likelihood="student_t"))
    assert np.abs(pulls(normal, clean)).max() > 5.0
    assert np.abs(pulls(heavy, clean)).max() < 1.5
    assert heavy.diagnostics["converged"]
    # errors some 5 % larger than those of clean data, for 10 % of information, not 50
    ratio = np.sqrt(np.diag(heavy.covariance) / np.diag(clean.covariance))
    assert (ratio > 0.97).all() and (ratio < 1.15).all()
    # outliers without weight do not make the source a poor fit
    area = heavy.source_chi2 / heavy.source_npix
    assert area[0] < 1.5 < (normal.source_chi2 / normal.source_npix)[0]


def test_many_degrees_of_freedom_are_the_normal_fit(star):
    s = remake(star, np.random.default_rng(5))
    normal = fit(s)
    heavy = fit(s, NoiseOptions(correlation="none", likelihood="student_t", dof=1e5))
    assert np.abs(pulls(heavy, normal)).max() < 0.01
    np.testing.assert_allclose(heavy.covariance, normal.covariance, rtol=2e-3, atol=1e-12)


def test_errors_are_rescaled_by_residuals_and_the_input_is_not(star):
    s = remake(star, np.random.default_rng(5))
    quoted = [1.5, 0.7]
    tiles = [t._replace(ierr=t.ierr * f) for t, f in zip(s.tiles, quoted, strict=True)]
    s = s._replace(tiles=tiles)
    s = s.pack(np.float32)
    packed = packed_patch(s)
    before = np.asarray(packed.patch.ierr).copy()
    found = fit(s, NoiseOptions(inflation="residual"), packed=packed)
    np.testing.assert_array_equal(packed.patch.ierr, before)
    factors = [
        (p["ierr"].max() / t.ierr.max()) ** -1
        for p, t in zip(found.pixels.values(), s.tiles, strict=True)
    ]
    # 450 faint pixels: 6 %
    np.testing.assert_allclose(factors, quoted, rtol=0.2)
    np.testing.assert_allclose(found.chi2 / found.npix, 1.0, atol=0.25)
    assert any("errors times the scatter of the residuals: e0" in m for m in found.messages)


def test_a_ratio_ignores_what_is_bright_or_positive():
    rng = np.random.default_rng(0)
    data = 2.0 * rng.standard_normal(20000)
    model = np.zeros(20000)
    model[:5000] = 30.0
    data[:5000] += 60.0  # a bad model where the source is
    data[5000:6500] += rng.exponential(8.0, 1500)  # faint sources
    ratio, error = residual_ratio(data, model, np.ones(20000))
    assert abs(ratio - 2.0) < 0.12 and 0.01 < error < 0.03
    assert residual_ratio(data[:5100], model[:5100], np.ones(5100)) is None


def correlated(star, rng):
    """The star in correlated noise, and its packed patch that knows of it."""

    def add(e, t):
        side = 80
        field = convolve2d(rng.standard_normal((side, side)), KERNEL, mode="valid")
        field /= np.sqrt((KERNEL**2).sum())
        x, y = t.x0 - t.x0.min(), t.y0 - t.y0.min()
        k = np.arange(64)
        noise = field[y[:, None] + k % 8, x[:, None] + k // 8]
        return t._replace(data=t.data + noise / np.where(t.ierr > 0, t.ierr, np.inf))

    s = remake(star, change=add)
    packed = packed_patch(s)
    known = SimpleNamespace(correlation=RHO)
    return s, replace(packed, noise=[known] * len(packed.exposures))


def test_errors_and_draws_with_correlated_noise(star):
    s, packed = correlated(star, np.random.default_rng(4))
    plain = fit(s, packed=packed)
    sampling = SampleOptions(num_samples=200, max_rounds=1, min_ess=0)
    wide = fit(s, NoiseOptions(), sampling, packed)
    np.testing.assert_allclose(wide.theta, plain.theta, rtol=1e-5)
    ratio = np.sqrt(np.diag(wide.covariance) / np.diag(plain.covariance))
    assert (ratio > 1.3).all()
    assert any("correlated noise: errors times" in m for m in wide.messages)
    spread = wide.samples.reshape(-1, len(wide.theta)).std(0)
    np.testing.assert_allclose(spread, np.sqrt(np.diag(wide.covariance)), rtol=0.15)
    best = fit(s, NoiseOptions(correlation="covariance"), packed=packed)
    # the likelihood of the noise that there is knows more
    gain = np.sqrt(np.diag(best.covariance) / np.diag(wide.covariance))
    assert (gain < 1.02).all() and (gain > 0.5).all()
    assert np.abs(pulls(best, wide)).max() < 3.0


def test_options_that_exclude_each_other_are_refused():
    with pytest.raises(InputError, match="student_t takes pixels as independent"):
        NoiseOptions(likelihood="student_t", correlation="covariance")
    with pytest.raises(InputError, match="inflation: expected none, blank, residual"):
        NoiseOptions(inflation="blnk")
    with pytest.raises(InputError, match="more than 0"):
        NoiseOptions(inflation=-1.0)
