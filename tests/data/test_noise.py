"""Noise of blank pixels against images whose noise is known."""

import numpy as np
import pytest
from scipy.signal import convolve2d, correlate2d

from jaxpho.data.arrays import exposure_from_arrays
from jaxpho.data.noise import (
    NoiseStatistics,
    autocovariance,
    measure_exposure,
    measure_noise,
    positive_correlation,
    tell_noise,
)
from jaxpho.data.psfmodel import PSF_DTYPE, PSFModel
from jaxpho.output.noise import noise_table

TRIANGLE = np.outer([0.5, 1.0, 0.5], [0.5, 1.0, 0.5])
RATIO = 1.2
# Of images of 160 x 160 pixels, from 20 of them: .8 % for the ratio in white noise, 4 % for the
# factor in correlated noise.
RATIO_TOLERANCE, FACTOR_TOLERANCE = 0.04, 0.15


def field(rng, kernel, n=160):
    """Noise of unit scatter with the correlation of a kernel."""
    white = rng.standard_normal((n + len(kernel) - 1,) * 2)
    return convolve2d(white, kernel, mode="valid") / np.sqrt((kernel**2).sum())


def sky(rng, kernel, sources=12, n=160):
    """The same with a gradient, sources of any brightness, errors that vary, masked pixels."""
    y, x = np.indices((n, n))
    sigma = 1.0 + 0.5 * x / n
    data = RATIO * sigma * field(rng, kernel, n)
    for _ in range(sources):
        x0, y0 = rng.uniform(0, n, 2)
        flux = rng.lognormal(2.5, 1.5)
        data += flux * np.exp(-((x - x0) ** 2 + (y - y0) ** 2) / (2 * 2.5**2))
    ierr = np.where(rng.random((n, n)) < 0.05, 0.0, 1 / sigma)
    data[rng.random((n, n)) < 1e-3] += 200.0  # cosmic rays
    return data + 3.0 + 0.01 * x, ierr


@pytest.mark.parametrize("kernel", [np.ones((1, 1)), TRIANGLE], ids=["white", "correlated"])
def test_ratio_and_correlation(kernel):
    found = measure_noise(*sky(np.random.default_rng(3), kernel))
    assert found.ratio == pytest.approx(RATIO, abs=RATIO_TOLERANCE)
    assert abs(found.ratio - RATIO) < 4 * found.ratio_error < 0.25
    rho = correlate2d(kernel, kernel) / (kernel**2).sum()
    assert found.factor == pytest.approx(np.sqrt(rho.sum()), rel=FACTOR_TOLERANCE)
    if len(kernel) > 1:
        reach, k = len(rho) // 2, len(found.correlation) // 2
        at = slice(k - reach, k + reach + 1)
        np.testing.assert_allclose(found.correlation[at, at], rho, atol=0.06)
        assert found.next_pixel == pytest.approx(2 / 3, abs=0.05)


def test_calibration_and_level_do_not_matter():
    data, ierr = sky(np.random.default_rng(3), TRIANGLE)
    one, other = measure_noise(data, ierr), measure_noise(1e4 * data - 7e5, ierr / 1e4)
    assert other.ratio == pytest.approx(one.ratio, rel=0.02)
    assert other.factor == pytest.approx(one.factor, rel=0.02)


def test_nothing_is_concluded_from_few_pixels():
    rng = np.random.default_rng(0)
    assert measure_noise(rng.standard_normal((15, 15)), np.ones((15, 15))) is None
    y, x = np.indices((48, 48)) - 24.0
    galaxy = 500 * np.exp(-np.hypot(x, y) / 6)
    assert measure_noise(galaxy + rng.standard_normal((48, 48)), np.ones((48, 48))) is None
    assert measure_noise(galaxy, np.zeros((48, 48))) is None


def test_autocovariance_against_sums():
    rng = np.random.default_rng(1)
    u, select = rng.standard_normal((13, 17)), rng.random((13, 17)) < 0.7
    covariance, pairs = autocovariance(u, select, 3)
    for dy, dx in ((0, 0), (2, -3), (-1, 2)):
        product, count = 0.0, 0
        for j in range(13):
            for i in range(17):
                if (
                    0 <= j + dy < 13
                    and 0 <= i + dx < 17
                    and select[j, i]
                    and select[j + dy, i + dx]
                ):
                    product, count = product + u[j, i] * u[j + dy, i + dx], count + 1
        assert pairs[3 + dy, 3 + dx] == count
        assert covariance[3 + dy, 3 + dx] == pytest.approx(product / count)


def test_a_correlation_without_a_spectrum_is_mended():
    rho = np.array([[0.3, 0.6, 0.3], [0.6, 1.0, 0.6], [0.3, 0.6, 0.3]])
    found = positive_correlation(rho)
    y, x = np.mgrid[:8, :8].reshape(2, -1)
    dy, dx = y[:, None] - y, x[:, None] - x
    inside = (abs(dy) < 2) & (abs(dx) < 2)
    matrix = np.where(inside, found[(dy + 1) * inside, (dx + 1) * inside], 0.0)
    assert np.linalg.eigvalsh(matrix).min() > 0
    assert found[1, 1] == 1.0 and np.abs(found - rho).max() < 0.25
    np.testing.assert_allclose(positive_correlation(found), found, atol=1e-3)


def test_plain_values_and_back():
    found = measure_noise(*sky(np.random.default_rng(3), TRIANGLE))
    again = NoiseStatistics.from_plain(found.to_plain())
    np.testing.assert_allclose(again.correlation, found.correlation, atol=1e-5)
    assert vars(again) | {"correlation": 0} == vars(found) | {"correlation": 0}


def test_exposures_are_measured_told_and_tabled(caplog):
    psf = np.zeros((1, 1), PSF_DTYPE)
    psf["amp"], psf["Cxx"], psf["Cyy"], psf["sersic_bin"] = 1.0, 2.0, 2.0, -1
    data, ierr = sky(np.random.default_rng(3), TRIANGLE)
    error = np.where(ierr > 0, 1 / np.where(ierr > 0, ierr, 1), -1)

    def exposures():
        return [
            exposure_from_arrays(d, e, PSFModel(psf), name=n, pixel_scale=0.2)
            for n, d, e in (("wide", data, error), ("small", data[:15, :15], error[:15, :15]))
        ]

    caplog.set_level("INFO", "jaxpho.noise")
    told = exposures()
    tell_noise(told, "none", "inflate")
    assert [e.inflation for e in told] == [1.0, 1.0] and told[1].noise is None
    assert "noise.inflation: blank corrects them" in caplog.text
    assert "small; pixels as independent" in caplog.text
    table = noise_table(told)
    assert list(table["blank_pixels"] > 0) == [True, False] and np.isnan(table["noise"][1])
    caplog.clear()
    blank, number = exposures(), exposures()
    tell_noise(blank, "blank", "inflate")
    assert [e.inflation for e in blank] == [measure_exposure(told[0]).ratio, 1.0]
    assert "corrects them" not in caplog.text and "; errors times 1.1" in caplog.text
    tell_noise(number, 1.3, "none")
    assert [e.inflation for e in number] == [1.3, 1.3]
    assert "up to 2.6 times too small: noise.correlation: inflate" in caplog.text
