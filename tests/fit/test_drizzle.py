"""A galaxy in a mosaic by `drizzle`: errors are those of the scatter, and of its exposures.

Twelve realisations, instead of the hundreds of `benchmarks/drizzled.py` (docs/noise.md).
"""

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import chi2

pytest.importorskip("drizzle")
pytest.importorskip("galsim")

ROOT = Path(__file__).resolve().parents[2]
NUMBER, SEED = 12, 3
# 84 squared pulls, of parameters that are correlated: as 40 independent ones at the least
LEAST, MOST = (chi2.ppf([1e-3, 1 - 1e-3], 40) / 40) ** 0.5


@pytest.fixture(scope="module")
def found():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import drizzled
    finally:
        sys.path.pop(0)
    methods = ("none", "inflate", "joint")
    return drizzled.run(NUMBER, SEED, methods)[:3]


def test_the_propagated_errors_are_the_scatter_and_the_correlation_is_that_of_the_drops(found):
    noise = found[2].mean(0)
    assert noise[0] == pytest.approx(1.0, abs=0.03)
    # Fruchter & Hook (2002), their equation 9, for drops of .8 / .6 pixels of the mosaic
    r = 0.8 / 0.6
    assert noise[2] == pytest.approx(r / (1 - 1 / (3 * r)), rel=0.08)


def test_widened_errors_are_those_of_the_joint_fit_and_of_the_scatter(found):
    values, errors, _ = found
    mean = np.sqrt((errors**2).mean(0))
    np.testing.assert_allclose(mean[1], mean[2], rtol=0.1)
    assert (mean[0] < 0.65 * mean[2]).all()
    # the mosaic has kept what the exposures know
    change = values[:, 1] - values[:, 2]
    assert (change.std(0) < 0.5 * mean[2]).all()
    pull = (values[:, 1] - values[:, 1].mean(0)) / errors[:, 1] * np.sqrt(NUMBER / (NUMBER - 1))
    assert LEAST < np.sqrt((pull**2).mean()) < MOST
