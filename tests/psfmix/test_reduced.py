"""Reduced mixtures: where they may be used they say the same as the full one."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxpho.core.sersic import load_mixture
from jaxpho.data.psfmodel import PSFModel
from jaxpho.errors import InputError
from psfmix.fit import from_array
from psfmix.model import brightness
from psfmix.reduced import (
    TOLERANCE,
    TOLERANCES,
    cost,
    per_radius,
    per_radius_model,
    reduce_mixture,
    reduce_model,
    reduced_ladder,
    rung_for,
)
from psfmix.smoothing import difference, largest_difference, sigmas, smoothed

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
WIDTHS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 16.0)
GALAXY = 1e-4  # of the galaxy's peak


@pytest.fixture(scope="module")
def ladder():
    return reduced_ladder(FULL, WIDTHS)


def test_ladder(ladder):
    sizes = [rung.ngauss for rung in ladder]
    assert sizes[0] == 4 and sizes == sorted(set(sizes), reverse=True) and sizes[-1] <= 2
    for rung in ladder[1:]:
        assert rung.error <= TOLERANCE
        assert rung.error == pytest.approx(largest_difference(rung.parameters, FULL, rung.width))
        # so do all wider Gaussians, round or elongated in any direction
        for factor, major, angle in ((1.0, 2.0, 0.3), (1.7, 1.7, 0.0), (3.0, 20.0, 2.0)):
            width = rung.width * factor
            error = difference(rung.parameters, FULL, width, rung.width * major, angle)
            assert error <= 1.05 * TOLERANCE
        assert rung.parameters["amp"].sum() == pytest.approx(1.0, abs=1e-6)
        p = rung.parameters.astype([(n, float) for n in rung.parameters.dtype.names])
        assert np.all((p["Cxx"] > 0) & (p["Cxx"] * p["Cyy"] > p["Cxy"] ** 2))
        # nothing becomes so narrow that pixels could not be integrated over
        narrowest = np.hypot(sigmas(rung.parameters)[0], rung.width)
        assert narrowest >= 0.999 * min(sigmas(FULL)[0], narrowest + rung.width)
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
    radii = np.array([0.0, 0.3, 2.0, 16.0])
    found = per_radius(FULL, radii)
    counts = np.bincount(found["sersic_bin"])
    assert counts[0] == 4 and counts[-1] <= 2 and np.all(np.diff(counts) <= 0)
    assert cost(found, radii) == len(found) / 16 < 1


def test_a_difference_is_that_of_images():
    """Points about the components find what a fine grid finds."""
    other = FULL.copy()
    other["Cxx"] *= 1.02
    axis = np.linspace(-30, 30, 601)
    grid = np.meshgrid(axis, axis)
    for case in ((2.0, None, 0.0), (1.0, 4.0, 0.7)):
        a, b = (brightness(smoothed(p, *case), *grid) for p in (other, FULL))
        expected = np.abs(a - b).max() / b.max()
        assert difference(other, FULL, *case) == pytest.approx(expected, rel=0.003)


@pytest.fixture(scope="module")
def varying():
    """Three places, a PSF that grows and leans."""
    parameters = np.stack([FULL] * 3)
    for k in range(3):
        for name in ("Cxx", "Cyy"):
            parameters[name][k] *= 1 + 0.1 * k
        parameters["Cxy"][k] += 0.05 * k * parameters["Cxx"][k]
    places = np.array([[0.0, 0.0], [1000.0, 0.0], [0.0, 1000.0]])
    return reduce_model(PSFModel(parameters, places), widths=WIDTHS)


def test_a_varying_psf_has_one_ladder(varying):
    """Sizes and widths are common, and what is interpolated is as good as what was fitted."""
    assert varying.reduced
    for rung in varying.reduced:
        assert rung.parameters.shape[0] == 3 and rung.error <= TOLERANCES[-1]
    for place in ((0, 0), (500, 0), (250, 250), (100, 700), (2000, 2000)):
        full, ladder = varying.at(*place), varying.ladder_at(*place)
        assert [r.width for r in ladder] == [r.width for r in varying.reduced]
        for rung in ladder:
            found = largest_difference(rung.parameters[0], full, rung.width)
            assert found <= 1.1 * TOLERANCES[-1]
            assert found <= 1.5 * rung.error  # farther than halfway from all three


def test_a_ladder_has_nothing_of_no_use(varying):
    rungs = varying.reduced
    for i, r in enumerate(rungs):
        for s in rungs[:i]:
            smaller = s.parameters.shape[1] <= r.parameters.shape[1]
            assert not (smaller and s.width <= r.width and s.error <= r.error)


def test_radii_of_a_varying_psf(varying):
    """One count per radius for all places; the layout that forcepho reads."""
    found = per_radius_model(varying, [0.0, 3.0, 16.0])
    bins = found.parameters["sersic_bin"]
    assert np.all(bins == bins[0]) and np.all(np.diff(bins[0]) >= 0) and bins.max() == 2
    assert np.count_nonzero(bins[0] == 0) == 4 and found.ngauss < 12
    for k in range(3):
        part = found.parameters[k][bins[k] == 2]
        assert largest_difference(part, varying.parameters[k], 16.0) <= TOLERANCE


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
    with pytest.raises(InputError, match="numbers from 0 on"):
        per_radius(FULL, [1.0, -2.0])
    with pytest.raises(InputError, match="for every Sersic radius"):
        ragged = np.concatenate([FULL, FULL[:2]])
        ragged["sersic_bin"] = [0] * 4 + [1] * 2
        reduce_model(PSFModel(ragged[None]))
