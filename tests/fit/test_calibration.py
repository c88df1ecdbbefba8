"""Simulation-based calibration of both samplers, small; `make calibrate` is the whole."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
NUMBER = 40
# of uniform ranks, over 7 parameters: one false alarm in 10^4
P_VALUE = 1e-4 / 7


@pytest.fixture(scope="module")
def calibration():
    """The benchmark's module."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec = importlib.util.spec_from_file_location("calibration", BENCHMARKS / "calibration.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(BENCHMARKS))
    return module


def test_uniform_ranks_pass_and_wrong_errors_do_not(calibration):
    rng = np.random.default_rng(2)
    truth, draws = rng.standard_normal((500, 2)), rng.standard_normal((50, 500, 2))
    right = (draws < truth).sum(0)
    assert (calibration.uniformity(right, 50) > P_VALUE).all()
    np.testing.assert_allclose(calibration.coverage(right, 50, 0.68), 0.68, atol=0.08)
    # errors too small by a third, means off by half a sigma
    for wrong in ((draws / 1.5 < truth).sum(0), (draws + 0.5 < truth).sum(0)):
        assert (calibration.uniformity(wrong, 50) < P_VALUE).all()


@pytest.mark.parametrize("method", ["nuts", "marginal"])
def test_ranks_of_truths_drawn_from_the_prior(calibration, method):
    found = calibration.run("galaxy", NUMBER, method, seed=5, max_rounds=2)
    assert found.ranks.shape == (NUMBER, 7)
    assert calibration.uniformity(found.ranks, found.levels).min() > P_VALUE
    inside = binom.ppf([1e-5, 1 - 1e-5], NUMBER, 0.68) / NUMBER
    covered = calibration.coverage(found.ranks, found.levels, 0.68)
    assert (covered >= inside[0]).all() and (covered <= inside[1]).all()
