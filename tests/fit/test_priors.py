"""Draws from priors against the distributions that the configuration names."""

import numpy as np
import pytest
from fit_case import BANDS, draw, make_case
from scipy import stats

from jaxpho.data.exposure import Nuisance
from jaxpho.errors import InputError
from jaxpho.fit.options import FitOptions, PriorOptions
from jaxpho.fit.priors import draw_prior

# Kolmogorov-Smirnov: a dozen distributions, one false alarm in 10^4
P_VALUE = 1e-5
NUMBER = 2000


def drawn(priors, **kwargs):
    case = make_case(draw(0, ("sersic",)), options=FitOptions(priors=priors), **kwargs)
    rng = np.random.default_rng(4)
    return case, np.array([draw_prior(rng, case.table, case.n) for _ in range(NUMBER)])


def assert_distributed(values, distribution):
    assert stats.kstest(values, distribution.cdf).pvalue > P_VALUE


def test_every_kind():
    sky = Nuisance(sky="constant", sky_mean=0.2, sky_sigma=0.3)
    priors = {
        "flux": PriorOptions("normal", mean=50.0, sigma=4.0),
        "position": PriorOptions("normal", low=-0.2, high=0.2, mean=0.0, sigma=0.1),
        "rhalf": PriorOptions("log_uniform", low=0.1, high=2.0),
        "sersic": PriorOptions("uniform", low=0.7, high=3.0),
        "ellipticity": PriorOptions("uniform", high=0.5),
    }
    case, theta = drawn(priors, nuisances=[sky] * 2)
    get = {name: theta[:, case.find(0, name, b)] for name, b in (
        ("flux", BANDS[0]), ("ra", ""), ("rhalf", ""), ("sersic", ""), ("e1", ""), ("e2", ""),
    )}  # fmt: skip
    assert_distributed(get["flux"], stats.norm(50, 4))
    start = case.table.parameters[case.find(0, "ra")].start
    assert_distributed(get["ra"], stats.truncnorm(-2, 2, start, 0.1))
    assert_distributed(get["rhalf"], stats.loguniform(0.1, 2.0))
    assert_distributed(get["sersic"], stats.uniform(0.7, 2.3))
    # uniform over a disc: the square of the radius, and the angle, are uniform
    assert_distributed((get["e1"] ** 2 + get["e2"] ** 2) / 0.25, stats.uniform())
    angle = np.arctan2(get["e2"], get["e1"])
    assert_distributed(angle, stats.uniform(-np.pi, 2 * np.pi))
    assert_distributed(theta[:, case.find(("exposure", "e0"), "sky")], stats.norm(0.2, 0.3))
    assert (theta[:, len(case.table.parameters) :] == 0).all()


def test_normal_in_a_disc_and_log_normal():
    priors = {
        "flux": PriorOptions("log_normal", mean=50.0, sigma=0.2),
        "ellipticity": PriorOptions("normal", high=0.5, sigma=0.3),
    }
    case, theta = drawn(priors)
    e = np.hypot(theta[:, case.find(0, "e1")], theta[:, case.find(0, "e2")])
    # a Rayleigh law, cut
    cut = stats.rayleigh(scale=0.3)
    assert_distributed(cut.cdf(e) / cut.cdf(0.5), stats.uniform())
    assert_distributed(np.log(theta[:, case.find(0, "flux", BANDS[0])] / 50), stats.norm(0, 0.2))


def test_what_cannot_be_drawn_is_named():
    with pytest.raises(InputError, match="prior of 0 flux g is flat"):
        drawn({})
