"""Draws from priors against the distributions that the configuration names."""

import numpy as np
import pytest
from fit_case import BANDS, draw, make_case
from scipy import stats

from jaxpho.data.exposure import Nuisance
from jaxpho.errors import InputError
from jaxpho.fit.options import FitOptions, PriorOptions
from jaxpho.fit.prior_options import check_fluxes
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


SIZES = {
    "name": "size_magnitude", "mean": 0.4, "sigma": 0.3, "slope": -0.25, "band": "g",
    "softening": 3.0,
}  # fmt: skip


@pytest.mark.parametrize("pivot", [{"magnitude": 25.0}, {"flux": 10**2.56}])
def test_sizes_given_fluxes_and_populations(pivot):
    priors = {
        "flux": PriorOptions("normal", mean=60.0, sigma=40.0),
        "rhalf": PriorOptions(**SIZES, **pivot),
        "sersic": PriorOptions("beta", a=1.5, b=3.0),
        "ellipticity": PriorOptions("disk_galaxies"),
        "position": PriorOptions("truncated_normal", low=-0.2, high=0.2, sigma=0.1),
    }
    case, theta = drawn(priors)
    flux = theta[:, case.find(0, "flux", BANDS[0])]
    assert (flux < 0).any()
    magnitude = 31.4 - (np.arcsinh(flux / 6.0) + np.log(3.0)) / (0.4 * np.log(10))
    rest = np.log(theta[:, case.find(0, "rhalf")] / 0.4) + 0.25 * (magnitude - 25.0)
    assert_distributed(rest, stats.norm(0, 0.3))
    assert_distributed(theta[:, case.find(0, "sersic")], stats.beta(1.5, 3.0, 0.5, 7.5))
    e = np.hypot(theta[:, case.find(0, "e1")], theta[:, case.find(0, "e2")])
    grid = np.linspace(0, 0.804, 4001)
    law = grid * (1 - np.exp((grid - 0.804) / 0.2539)) / (1 + grid) / np.hypot(grid, 0.0256)
    assert_distributed(np.interp(e, grid, np.cumsum(law) / law.sum()), stats.uniform())


def test_the_posterior_follows_the_size_given_its_flux():
    """A faint galaxy: the optimum has no slope left, and its errors are those of the Hessian."""
    priors = {"rhalf": PriorOptions(**SIZES, magnitude=25.0)}
    case = make_case(draw(0, ("sersic",), flux=60.0), options=FitOptions(priors=priors))
    assert case.linear[0] and not case.table.normal[0]
    mode = case.optimize()
    flat = make_case(draw(0, ("sersic",), flux=60.0)).optimize()
    at, flux = case.find(0, "rhalf"), mode.theta[0]
    centre = 31.4 - (np.arcsinh(flux / 6.0) + np.log(3.0)) / (0.4 * np.log(10))
    centre = np.log(0.4) - 0.25 * (centre - 25.0)
    # between where the pixels have it and where the prior does
    low, high = sorted([np.log(flat.theta[at]), centre])
    assert low < np.log(mode.theta[at]) < high
    assert mode.converged
    scale = np.sqrt(np.diag(mode.curvature))
    assert (np.abs(mode.gradient) < 0.1 * scale).all()


def test_a_held_flux_gives_a_log_normal_size():
    priors = {"rhalf": PriorOptions(**SIZES, magnitude=25.0)}
    case = make_case(draw(0, ("sersic",)), (("flux",),), FitOptions(priors=priors))
    prior = case.table.parameters[case.find(0, "rhalf")].prior
    held = case.table.fixed[0, "flux", "g"]
    magnitude = 31.4 - (np.arcsinh(held / 6.0) + np.log(3.0)) / (0.4 * np.log(10))
    assert prior.name == "log_normal"
    assert prior.mean == pytest.approx(0.4 * np.exp(-0.25 * (magnitude - 25.0)))


@pytest.mark.parametrize(
    "change, unit, words",
    [
        ({"band": "z"}, "nJy", "expected one of g, found 'z'"),
        ({}, "electron/s", "have no magnitude"),
    ],
)
def test_bands_and_units_that_there_are_not(change, unit, words):
    priors = {"rhalf": PriorOptions(**SIZES | change, magnitude=25.0)}
    with pytest.raises(InputError, match=words):
        check_fluxes(priors, ["g"], unit)


def test_what_cannot_be_drawn_is_named():
    with pytest.raises(InputError, match="prior of 0 flux g is flat"):
        drawn({})
