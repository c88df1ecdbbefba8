"""Diagnostics of draws, against arviz, and what they say of chains that are known."""

import warnings

import numpy as np
import pytest

from jaxpho.fit.approximate import pareto_k
from jaxpho.fit.diagnostics import diagnose, ebfmi, mean_ess

# the same definitions; arviz sums in another order
RTOL = 1e-8


def chains(rng, draws, memory, n=3):
    """Autoregressive draws; the second parameter is skewed, the first chain of the third is off."""
    x = rng.standard_normal((4, draws, n))
    for t in range(1, draws):
        x[:, t] = memory * x[:, t - 1] + np.sqrt(1 - memory**2) * x[:, t]
    x[..., 1] = np.exp(2 * x[..., 1])
    x[0, :, 2] += 0.5
    return x


@pytest.mark.parametrize("draws", [25, 101, 500])
@pytest.mark.parametrize("memory", [-0.6, 0.0, 0.95])
def test_arviz_says_the_same(draws, memory):
    arviz = pytest.importorskip("arviz")
    x = chains(np.random.default_rng(1), draws, memory)
    found, mean = diagnose(x), mean_ess(x)
    for i in range(3):
        one = x[..., i]
        np.testing.assert_allclose(found.rhat[i], arviz.rhat(one, method="rank"), rtol=RTOL)
        np.testing.assert_allclose(found.bulk[i], arviz.ess(one, method="bulk"), rtol=RTOL)
        np.testing.assert_allclose(found.tail[i], arviz.ess(one, method="tail"), rtol=RTOL)
        np.testing.assert_allclose(mean[i], arviz.ess(one, method="mean"), rtol=RTOL)
    np.testing.assert_allclose(ebfmi(x[..., 0]), np.ravel(arviz.bfmi(x[..., 0])), rtol=RTOL)


def test_what_they_see():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 500, 4))
    x[0, :, 1] += 3.0
    x[..., 2] = 5.0
    x[0, :, 3] *= 4.0  # the right mean, and another width
    found = diagnose(x)
    assert found.rhat[0] < 1.02 and found.ess[0] > 1000
    assert found.rhat[1] > 1.4 and found.bulk[1] < 50
    assert np.isnan(found.rhat[2]) and np.isnan(found.ess[2])  # a constant has none
    assert found.rhat[3] > 1.05
    # draws that alternate know their mean well, and the tails no better
    turns = x[..., :1] * 0.2 + np.where(np.arange(500) % 2, 1.0, -1.0)[:, None]
    worth = diagnose(turns)
    assert worth.bulk[0] > 2000 and worth.ess[0] < 2000
    # an energy that wanders slowly is not explored
    energy = np.cumsum(rng.standard_normal((4, 500)), axis=1)
    assert ebfmi(energy).max() < 0.1 and ebfmi(x[..., 0]).min() > 1.2
    assert np.isnan(ebfmi(np.full((4, 50), np.nan))).all()


def test_tail_of_importance_ratios():
    rng = np.random.default_rng(2)
    # ratios of a Pareto law of shape k: (uniform)^-k
    for k in (0.2, 0.5, 0.9, 1.5):
        ratios = -k * np.log(rng.random(20000))
        assert pareto_k(ratios) == pytest.approx(k, abs=0.12)
    assert pareto_k(np.append(ratios, np.nan)) == np.inf
    arviz = pytest.importorskip("arviz")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for ratios in (rng.standard_normal(400), 3 * rng.standard_normal(1000)):
            assert pareto_k(ratios) == pytest.approx(float(arviz.psislw(ratios)[1]), abs=1e-6)
