"""p values and structure of residuals: uniform where the model is right, found where it is not."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from fit_case import MIXTURE, draw, packed_patch, peaks_of, remake
from scipy.signal import convolve2d, correlate2d
from scipy.stats import chi2 as chi2_law
from scipy.stats import kstest
from scipy.stats import t as student_t

from jaxpho.fit import flags
from jaxpho.fit.driver import fit_patch
from jaxpho.fit.mismatch import p_value, smoothed_residual, student_law
from jaxpho.fit.noise import student_scale
from jaxpho.fit.options import FitOptions, NoiseOptions

KERNEL = np.outer([0.5, 1.0, 0.5], [0.5, 1.0, 0.5])
RHO = correlate2d(KERNEL, KERNEL) / (KERNEL**2).sum()
FEWEST = 1e-3  # least p of a Kolmogorov-Smirnov test


def grid(n):
    y, x = np.indices((n, n)).reshape(2, -1)
    return {"x": x + 7, "y": y + 3, "ierr": np.ones(n * n), "model": np.zeros(n * n)}


def test_p_value_of_independent_pixels_is_that_of_chi2():
    assert p_value(130.0, 107, 7, 2 * 107.0) == pytest.approx(chi2_law.sf(130.0, 100))
    assert np.isnan(p_value(1.0, 5, 7, 10.0))


def test_p_values_are_uniform_with_correlated_noise():
    rng = np.random.default_rng(2)
    n = 24
    found = []
    for _ in range(400):
        field = convolve2d(rng.standard_normal((n + 2, n + 2)), KERNEL, mode="valid")
        field /= np.sqrt((KERNEL**2).sum())
        found.append(p_value((field**2).sum(), n * n, 0, 2.0 * n * n * (RHO**2).sum()))
    assert kstest(found, "uniform").pvalue > FEWEST


@pytest.mark.parametrize("rho", [None, RHO], ids=["white", "correlated"])
def test_smoothed_residuals_have_unit_scatter(rho):
    rng = np.random.default_rng(3)
    p, out = grid(40), []
    p["ierr"] = np.where(rng.random(1600) < 0.1, 0.0, 2.0)
    for _ in range(30):
        field = rng.standard_normal((42, 42))
        if rho is not None:
            field = convolve2d(field, KERNEL, mode="valid") / np.sqrt((KERNEL**2).sum())
        p["data"] = field[:40, :40].reshape(-1) / 2.0
        out.append(smoothed_residual(p, 1.3, rho))
    # 1600 pixels of which some 60 are independent, 30 times: 1.7 %; at the edges as well
    assert np.std(out) == pytest.approx(1.0, abs=0.05)
    edge = np.asarray(out)[:, p["x"] == 7]
    assert edge.std() == pytest.approx(1.0, abs=0.12)


def test_a_neighbour_that_is_missing_is_flagged():
    s = draw(11, ("point",), flux=300.0)
    once = FitOptions(restarts=0)

    def fit(change=None):
        own = remake(s, np.random.default_rng(5), change=change)
        return fit_patch(packed_patch(own), peaks_of(own), once, mixture=MIXTURE)

    good = fit()
    mask = flags.bit("model_mismatch")
    assert 1e-3 < good.source_p_value[0] < 1 - 1e-3 and abs(good.source_residual_peak[0]) < 4.5
    assert not good.flags[0] & mask

    def neighbour(e, t):
        k = np.arange(64)
        x, y = t.x0[:, None] + k // 8, t.y0[:, None] + k % 8
        x0, y0 = s.astrometry.crpix[e, 0] + [2.5, 1.0]
        image = 4.0 * np.exp(-((x - x0) ** 2 + (y - y0) ** 2) / 4.0)
        return t._replace(data=t.data + image / t.ierr.max())

    bad = fit(neighbour)
    assert bad.source_residual_peak[0] > 6.0 and bad.flags[0] & mask
    assert bad.source_p_value[0] < 0.1 * good.source_p_value[0]


@pytest.mark.parametrize("nu", [2.5, 4.0, 30.0])
def test_law_of_weighted_squares(nu):
    """Against numerical integrals over Student's t."""
    s = student_scale(nu)
    u = np.sinh(np.linspace(-12.0, 12.0, 400001))  # to 80 000 errors: the tails count
    density = student_t.pdf(u / s, nu) / s
    floor = nu * s * s
    square = (nu + 1) * u**2 / (floor + u**2)
    score = (nu + 1) * u / (floor + u**2)
    slope = (nu + 1) * (floor - u**2) / (floor + u**2) ** 2

    def mean(values):
        return np.trapezoid(values * density, u)

    first = 2 * (nu + 1) * floor * u / (floor + u**2) ** 2
    second = 2 * (nu + 1) * floor * (floor - 3 * u**2) / (floor + u**2) ** 3
    absorbed = mean(first * score) / mean(slope)
    absorbed -= mean(second) * mean(score**2) / (2 * mean(slope) ** 2)
    variance, own = student_law(nu)
    assert mean(square) == pytest.approx(1.0, abs=1e-4)
    assert mean((square - 1) ** 2) == pytest.approx(variance, rel=1e-3)
    assert absorbed == pytest.approx(own, rel=1e-3)


@pytest.mark.parametrize(
    "law", ["student", "inflate", pytest.param("covariance", marks=pytest.mark.slow)]
)
def test_p_values_of_fits_are_uniform(law):
    """A star fitted in 60 realisations of the noise that the fit assumes."""
    s = draw(11, ("point",), flux=100.0)
    nu, k, found = 4.0, np.arange(64), []
    noise = NoiseOptions(correlation="none", likelihood="student_t", dof=nu)
    if law != "student":
        noise = NoiseOptions(correlation=law)
    for seed in range(60):
        rng = np.random.default_rng(seed)

        def add(e, t, rng=rng):
            if law == "student":
                field = student_scale(nu) * rng.standard_t(nu, t.data.shape)
            else:
                field = convolve2d(rng.standard_normal((80, 80)), KERNEL, mode="valid")
                x, y = t.x0 - t.x0.min(), t.y0 - t.y0.min()
                field = field[y[:, None] + k % 8, x[:, None] + k // 8]
                field = field / np.sqrt((KERNEL**2).sum())
            return t._replace(data=t.data + field / np.where(t.ierr > 0, t.ierr, np.inf))

        own = remake(s, change=add)
        packed = packed_patch(own)
        if law != "student":
            packed = replace(packed, noise=[SimpleNamespace(correlation=RHO)] * 2)
        once = FitOptions(restarts=0)
        fitted = fit_patch(packed, peaks_of(own), once, mixture=MIXTURE, noise=noise)
        found.append(fitted.source_p_value[0])
    assert kstest(found, "uniform").pvalue > FEWEST
    # a median of 60 is known to .065
    assert abs(np.median(found) - 0.5) < 0.2
