"""What free astrometric offsets would gain: predicted, and then fitted."""

import re
from functools import cache

import numpy as np
import pytest
from fit_case import MIXTURE, draw, packed_patch, peaks_of, remake

from jaxpho.data.exposure import Nuisance
from jaxpho.fit.driver import fit_patch
from jaxpho.fit.options import FitOptions, PriorOptions

PIXEL = 0.1
SHIFT = np.array([[0.02, -0.015], [-0.025, 0.01], [0.0, 0.02]])  # arcsec, up to .3 pixels


@cache
def field(shifted):
    """Two galaxies in three exposures on a sloping sky."""
    s = draw(3, flux=3000.0, exposures_per_band=3, nuisances=True)
    zero = [name in ("dra", "ddec", "scale") for _, name, _ in s.labels]
    theta = np.where(zero, [name == "scale" for _, name, _ in s.labels], s.theta)
    s = s._replace(theta=theta)
    return remake(s, np.random.default_rng(0), offsets=SHIFT if shifted else None)


def fit(s, offset_sigma=0.0, options=None):
    options = options or FitOptions(restarts=0)
    sky = Nuisance(offset_sigma, sky="plane", sky_sigma=0.5, sky_slope_sigma=0.5)
    return fit_patch(packed_patch(s, [sky] * 3), peaks_of(s), options, mixture=MIXTURE)


def predicted(result):
    found = [re.search(r"offset.* lower chi2 by about (\d+)", m) for m in result.messages]
    return next((float(m[1]) for m in found if m), None)


def test_prediction_against_the_fit():
    """A score test is good to second order in the shifts; the free sky stays free in it."""
    plain, free = fit(field(True)), fit(field(True), PIXEL)
    gain = plain.chi2.sum() - free.chi2.sum()
    assert gain > 100
    assert predicted(plain) == pytest.approx(gain, rel=0.15)
    assert predicted(free) is None
    # and they are the true ones, up to a common shift
    offset = [
        [free.theta[free.index(("exposure", f"e{e}"), k)] for k in ("dra", "ddec")]
        for e in range(3)
    ]
    np.testing.assert_allclose(offset - np.mean(offset, 0), SHIFT - SHIFT.mean(0), atol=0.003)


def test_silent_when_nothing_is_shifted():
    assert predicted(fit(field(False))) is None


def test_silent_when_something_else_is_wrong():
    """A profile that the prior does not allow, pressing against its bound."""
    options = FitOptions(restarts=0, priors={"sersic": PriorOptions("uniform", 4.0, 8.0)})
    result = fit(field(False), options=options)
    assert result.chi2.sum() > 1.2 * result.npix.sum()
    assert result.at_bound.any()
    assert predicted(result) is None
