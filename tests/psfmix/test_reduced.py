"""Reduced mixtures: where they may be used they say the same as the full one."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxpho.core.sersic import load_mixture
from jaxpho.errors import InputError
from psfmix.fit import from_array
from psfmix.model import brightness
from psfmix.reduced import (
    TOLERANCE,
    cost,
    difference,
    per_radius,
    reduce_mixture,
    reduced_ladder,
    rung_for,
    smoothed,
)

# A core, a ring's substitute and two wings, as of a space telescope; native pixels.
FULL = from_array(
    np.array(
        [
            [0.55, 0.02, -0.01, 0.70, 0.72, 0.01],
            [0.20, -0.05, 0.05, 2.50, 2.20, -0.20],
            [0.15, 0.10, 0.00, 12.0, 13.0, 1.00],
            [0.10, 0.30, -0.20, 90.0, 80.0, 5.00],
        ]
    )
)
WIDTHS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
GALAXY = 1e-4  # of the galaxy's peak


@pytest.fixture(scope="module")
def ladder():
    return reduced_ladder(FULL, WIDTHS)


def test_ladder(ladder):
    sizes = [rung.ngauss for rung in ladder]
    assert sizes[0] == 4 and sizes == sorted(set(sizes), reverse=True) and sizes[-1] <= 2
    for rung in ladder[1:]:
        assert rung.error <= TOLERANCE
        assert rung.error == pytest.approx(difference(rung.parameters, FULL, rung.width))
        # wider Gaussians see still less of the difference
        assert difference(rung.parameters, FULL, 1.5 * rung.width) <= 1.1 * rung.error
        assert rung.parameters["amp"].sum() == pytest.approx(1.0, abs=1e-6)
        p = rung.parameters.astype([(n, float) for n in rung.parameters.dtype.names])
        assert np.all((p["Cxx"] > 0) & (p["Cxx"] * p["Cyy"] > p["Cxy"] ** 2))
    assert rung_for(ladder, 0.0).ngauss == 4
    assert rung_for(ladder, 100.0) is ladder[-1]


@pytest.mark.parametrize(("sersic", "rhalf"), [(1.0, 2.0), (1.0, 8.0), (4.0, 2.0), (4.0, 4.0)])
def test_galaxy_through_reduced_mixtures(ladder, sersic, rhalf):
    """Each Gaussian of the profile with the smallest mixture that serves it."""
    amplitude, variance = load_mixture("k12").evaluate(jnp.asarray(sersic), jnp.asarray(rhalf))
    axis = np.linspace(-40, 40, 241)
    grids = np.meshgrid(axis, axis)
    full = reduced = 0.0
    evaluations = 0
    for a, v in zip(np.asarray(amplitude, float), np.asarray(variance, float), strict=True):
        chosen = rung_for(ladder, np.sqrt(v))
        evaluations += chosen.ngauss
        full = full + a * brightness(smoothed(FULL, np.sqrt(v)), *grids)
        reduced = reduced + a * brightness(smoothed(chosen.parameters, np.sqrt(v)), *grids)
    assert np.abs(reduced - full).max() <= GALAXY * full.max()
    assert evaluations < 4 * len(amplitude) or (sersic, rhalf) == (1.0, 2.0)


def test_per_radius():
    radii = np.array([0.0, 0.3, 2.0, 8.0])
    found = per_radius(FULL, radii)
    counts = np.bincount(found["sersic_bin"])
    assert counts[0] == 4 and counts[-1] <= 2 and np.all(np.diff(counts) <= 0)
    assert cost(found, radii) == len(found) / 16 < 1


def test_nothing_to_gain():
    """A mixture that is needed as it is comes back as it is."""
    found = reduce_mixture(FULL, 0.05)
    np.testing.assert_array_equal(found.parameters, FULL)
    assert found.error == 0.0


def test_bad_input():
    with pytest.raises(InputError, match="smoothing width is 0"):
        reduce_mixture(FULL, 0.0)
    with pytest.raises(InputError, match="tolerance is -1"):
        reduce_mixture(FULL, 1.0, -1)
