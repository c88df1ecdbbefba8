"""The numpyro model of physical parameters: our own samplers' density, and numpyro's tools."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from fit_case import draw, make_case, remake, z_of
from numpyro.handlers import condition, seed, substitute, trace
from numpyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO, init_to_value
from numpyro.infer.autoguide import AutoLaplaceApproximation
from numpyro.infer.util import log_density as numpyro_density
from scipy import stats

from jaxpho.data.exposure import Nuisance
from jaxpho.errors import InputError
from jaxpho.fit.models import SceneModel
from jaxpho.fit.options import FitOptions, PriorOptions
from jaxpho.fit.posterior import log_density, model_of, physical_jacobian
from jaxpho.fit.transforms import physical
from jaxpho.fit.uncertainty import laplace

# of ln densities of order 1000 in double precision
FLOAT64 = 1e-8
# Kolmogorov-Smirnov: a dozen distributions, one false alarm in 10^4
P_VALUE = 1e-5
# Laplace errors, numpyro's from the whole Hessian: data without noise, where only the priors'
# curvature differs
LAPLACE = 0.02
# standard deviations: means and widths of 200 draws with an ESS of 100 or more
MONTE_CARLO = 4.5

SIZES = PriorOptions(
    "size_magnitude", mean=0.4, sigma=0.3, slope=-0.25, magnitude=25.0, band="g", softening=3.0
)
CURVED = {
    "rhalf": SIZES,
    "sersic": PriorOptions("beta", a=1.5, b=3.0),
    "ellipticity": PriorOptions("disk_galaxies"),
    "flux_point": PriorOptions("uniform", low=-100.0, high=900.0),
    "position": PriorOptions("truncated_normal", sigma=0.1, low=-0.4, high=0.4),
}
PLAIN = {
    "rhalf": PriorOptions("log_normal", mean=0.4, sigma=0.3),
    "sersic": PriorOptions("normal", mean=1.5, sigma=0.7),
    "ellipticity": PriorOptions("normal", sigma=0.2),
    "flux": PriorOptions("log_uniform", low=1.0, high=1e4),
}
NUISANCES = [Nuisance(0.05, "exposure", 0.05, "plane", 0.3, 0.1, 0.2), None]


@cache
def mixed(priors):
    """A galaxy, a star, and one of two components with a held ellipticity, in one patch."""
    s = draw(7, ("sersic", "point", "sersic_point"), nuisances=True, dtype=np.float64)
    given = {"curved": CURVED, "plain": PLAIN}[priors]
    fixed = ((), (), ("e2",))
    return make_case(s, fixed, options=FitOptions(priors=given), nuisances=NUISANCES)


@cache
def single(dtype=np.float32):
    """One bright galaxy without noise in one exposure, and its optimum."""
    few = {"exposures_per_band": 1, "shape": (16, 16)}
    case = make_case(remake(draw(3, ("sersic",), flux=3000.0, dtype=dtype, **few)))
    return case, case.optimize(with_volume=True)


@pytest.mark.parametrize("priors", ["curved", "plain"])
def test_density_is_that_of_our_samplers(priors, x64):
    """Up to a constant, with the volume of the map between the two sets of parameters."""
    case = mixed(priors)
    model = SceneModel(case.problem, case.table)
    z0, rng = z_of(case.truth, case.problem), np.random.default_rng(0)
    theirs = jax.jit(lambda values: numpyro_density(model, (), {}, values)[0])
    ours = jax.jit(log_density)
    n, differences = len(case.table.parameters), []
    for _ in range(6):
        z = jnp.asarray(z0 + 0.3 * rng.standard_normal(len(z0)))
        jacobian = np.asarray(physical_jacobian(z, case.problem.transform))[:n, :n]
        theta = physical(z, case.problem.transform)
        volume = np.linalg.slogdet(jacobian)[1]
        # padding is unit normal
        padding = 0.5 * np.sum(np.asarray(z)[n:] ** 2)
        own = float(ours(z, case.problem, case.problem.patch.data)) - volume + padding
        differences.append(float(theirs(model.values(theta))) - own)
    np.testing.assert_allclose(differences, differences[0], atol=FLOAT64)


def test_sites_and_their_plates(x64):
    """Values go to theta and back; plates of what all sources share, and of what some have."""
    case = mixed("curved")
    model = SceneModel(case.problem, case.table, image=True)
    found = trace(seed(substitute(model, model.values(case.truth)), 0)).get_trace()
    theta = found["theta"]["value"]
    np.testing.assert_allclose(theta, case.truth)
    np.testing.assert_allclose(model.theta_of(model.values(case.truth)), case.truth)
    np.testing.assert_allclose(found["image"]["value"], model_of(theta, case.problem))
    shapes = {s.name: (s.owners, found[s.name]["value"].shape) for s in model.sites}
    assert shapes["flux"] == ((0, 1, 2), (1, 3)) and shapes["ra"] == ((0, 1, 2), (3,))
    assert shapes["rhalf"] == ((0, 2), (2,)) and shapes["flux_point"] == ((2,), (1, 1))
    # a pair, and one whose partner is held
    assert shapes["e"] == ((0,), (1, 2)) and shapes["e1"] == ((2,), (1,))
    assert shapes["sky"][0] == (("exposure", "e0"),)
    e = np.hypot(*case.truth[[case.find(0, "e1"), case.find(0, "e2")]])
    np.testing.assert_allclose(found["q"]["value"], (1 - e) / (1 + e))
    angle = 0.5 * np.arctan2(case.truth[case.find(0, "e2")], case.truth[case.find(0, "e1")])
    np.testing.assert_allclose(found["pa"]["value"], np.degrees(angle) % 180)
    plates = {f.name for f in found["flux"]["cond_indep_stack"]}
    assert plates == {"sources", "bands"}


def test_prior_predictive(x64):
    """Draws of numpyro against the distributions that the options name; pixels about the model."""
    priors = CURVED | {"flux": PriorOptions("normal", mean=300.0, sigma=100.0)}
    case = make_case(mixed("curved").synthetic, options=FitOptions(priors=priors))
    model = SceneModel(case.problem, case.table)
    found = Predictive(model, num_samples=1500)(jax.random.PRNGKey(1))

    def same(values, law):
        assert stats.kstest(np.asarray(values), law.cdf).pvalue > P_VALUE

    same(found["flux"][:, 0, 0], stats.norm(300, 100))
    same(found["sersic"][:, 0], stats.beta(1.5, 3.0, 0.5, 7.5))
    flux = np.asarray(found["flux"][:, 0, 0])
    magnitude = 31.4 - (np.arcsinh(flux / 6.0) + np.log(3.0)) / (0.4 * np.log(10))
    rest = np.log(found["rhalf"][:, 0]) - np.log(0.4) + 0.25 * (magnitude - 25.0)
    same(rest / 0.3, stats.norm())
    e = np.linalg.norm(found["e"][:, 0], axis=-1)
    grid = np.linspace(0, 0.804, 4001)
    law = grid * (1 - np.exp((grid - 0.804) / 0.2539)) / (1 + grid) / np.hypot(grid, 0.0256)
    share = np.cumsum(law) / law.sum()
    assert stats.kstest(np.interp(e, grid, share), "uniform").pvalue > P_VALUE
    patch, first = (
        case.problem.patch,
        {"theta": found["theta"][0]} | model.values(found["theta"][0]),
    )
    drawn = seed(substitute(model, first), 3)
    pixels = trace(drawn).get_trace(observed=False)["pixels"]["value"]
    chi = (pixels - model_of(first["theta"], case.problem)) * patch.ierr
    same(np.asarray(chi)[np.asarray(patch.ierr) > 0], stats.norm())


@pytest.mark.slow
def test_laplace_of_numpyro_is_ours(x64):
    """AutoLaplaceApproximation, started at the optimum."""
    case, mode = single(np.float64)
    model = SceneModel(case.problem, case.table, twice=True)
    guide = AutoLaplaceApproximation(
        model, init_loc_fn=init_to_value(values=model.values(mode.theta)),
        hessian_fn=lambda f, x: jax.jit(jax.hessian(f))(x),
    )  # fmt: skip
    svi = SVI(model, guide, numpyro.optim.Adam(1e-6), Trace_ELBO())
    state = svi.init(jax.random.PRNGKey(0))
    posterior = guide.sample_posterior(
        jax.random.PRNGKey(1), svi.get_params(state), sample_shape=(4000,)
    )
    n = len(case.table.parameters)
    covariance, _ = laplace(mode, case.problem)
    found = model.theta_of(posterior)[:, :n].std(0)
    expected = np.sqrt(np.diag(covariance))[:n]
    # a standard deviation of 4000 draws is good to 1.1 %
    np.testing.assert_allclose(found, expected, rtol=LAPLACE + 3 * 0.011)


@pytest.mark.slow
def test_numpyros_own_sampler():
    """Means and widths of its NUTS are those of the Laplace approximation of a bright source."""
    case, mode = single()
    model = SceneModel(case.problem, case.table)
    covariance, _ = laplace(mode, case.problem)
    n = len(case.table.parameters)
    mass = model.inverse_mass_matrix(mode.theta, covariance)
    kernel = NUTS(
        model, init_strategy=init_to_value(values=model.values(mode.theta)),
        inverse_mass_matrix=mass, dense_mass=list(mass), adapt_mass_matrix=False,
        max_tree_depth=3,
    )  # fmt: skip
    mcmc = MCMC(kernel, num_warmup=40, num_samples=200, progress_bar=False)
    mcmc.run(jax.random.PRNGKey(0))
    draws = mcmc.get_samples()
    theta, sigma = model.theta_of(draws)[:, :n], np.sqrt(np.diag(covariance))[:n]
    np.testing.assert_allclose(draws["theta"][:, :n], theta)
    assert (np.abs(theta.mean(0) - mode.theta[:n]) < MONTE_CARLO * sigma / np.sqrt(100)).all()
    np.testing.assert_allclose(theta.std(0), sigma, rtol=MONTE_CARLO / np.sqrt(200))
    # posterior predictive pixels
    few = {k: v[:3] for k, v in draws.items()}
    found = Predictive(model, few)(jax.random.PRNGKey(2), observed=False)
    assert found["pixels"].shape == (3, *case.problem.patch.data.shape)


def test_priors_of_ones_own():
    """A distribution, and a function with a hyper-parameter; conditioning on it."""
    case = make_case(draw(0))

    def sizes(values):
        assert values["flux"].shape == (1, 2)
        return dist.LogNormal(numpyro.sample("typical", dist.Normal(-1.0, 0.5)), 0.3)

    model = SceneModel(
        case.problem, case.table, priors={"rhalf": sizes, "sersic": dist.Uniform(0.6, 5.0)}
    )
    found = trace(seed(condition(model, {"typical": -0.7}), 1)).get_trace()
    assert found["typical"]["is_observed"] and found["rhalf"]["fn"].batch_shape == (2,)
    values = {name: found[name]["value"] for name in ("rhalf", "sersic")}
    density = found["rhalf"]["fn"].log_prob(values["rhalf"])
    expected = stats.lognorm(0.3, scale=np.exp(-0.7)).logpdf(np.asarray(values["rhalf"]))
    np.testing.assert_allclose(density, expected, rtol=1e-4)
    assert (values["sersic"] > 0.6).all() and (values["sersic"] < 5.0).all()
    with pytest.raises(InputError, match="no site 'size', expected one of flux, ra"):
        SceneModel(case.problem, case.table, priors={"size": sizes})
