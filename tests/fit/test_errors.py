"""Laplace errors: against dense float64 algebra, and against the scatter over noise."""

from functools import cache

import numpy as np
from fit_case import draw, make_case, remake
from synthetic_patch import derivative, oracle_model

from jaxpho.fit.options import FitOptions, PriorOptions
from jaxpho.fit.uncertainty import laplace

# of sqrt(C_ii C_jj): a float32 Fisher matrix, inverted, with correlations up to .99
CORRELATION = 3e-3
REALISATIONS = 80


@cache
def pair(flux=3000.0, noise=None, options=None):
    s = draw(1, flux=flux)
    return make_case(s if noise is None else remake(s, np.random.default_rng(noise)))


def dense_fisher(case, theta):
    """J^T W J of all free parameters in float64, by finite differences of the other model."""

    def pixels(x):
        theirs = case.theirs(x)
        images = [oracle_model(case.synthetic, theirs, e) for e in range(len(case.synthetic.tiles))]
        weighted = zip(images, case.synthetic.tiles, strict=True)
        return np.concatenate([(image * t.ierr).ravel() for image, t in weighted])

    n = len(case.table.parameters)
    jacobian = derivative(pixels, theta[:n], 1e-3 * np.maximum(np.abs(theta[:n]), 0.1))
    return jacobian @ jacobian.T


def assert_same(found, expected):
    unit = np.sqrt(np.diag(expected))
    assert np.abs((found - expected) / np.outer(unit, unit)).max() < CORRELATION


def test_covariance_of_two_blended_galaxies():
    """rhalf is fitted as a logarithm, the ellipticities on a disc: theta has none of that."""
    case = pair(noise=1)
    found = case.optimize()
    n = len(case.table.parameters)
    assert_same(laplace(found, case.problem)[0][:n, :n],
                np.linalg.inv(dense_fisher(case, found.theta)))  # fmt: skip


def test_covariance_with_priors():
    """Normal priors as strong as the data, one of them in the logarithm."""
    options = FitOptions(
        priors={
            "rhalf": PriorOptions("log_normal", mean=0.3, sigma=0.004),
            "sersic": PriorOptions("normal", mean=2.0, sigma=0.02),
            "ellipticity": PriorOptions("normal", sigma=0.004),
            "flux": PriorOptions("normal", mean=3000.0, sigma=10.0),
        }
    )
    case = make_case(pair(noise=1).synthetic, options=options)
    found = case.optimize()
    n = len(case.table.parameters)
    precision = np.zeros(n)
    for i, p in enumerate(case.table.parameters):
        if p.prior.sigma is not None:
            width = p.prior.sigma * (found.theta[i] if p.prior.name == "log_normal" else 1.0)
            precision[i] = width**-2
    fisher = dense_fisher(case, found.theta)
    share = precision / np.diag(fisher)
    assert (share > 0.3).sum() == 10
    assert_same(laplace(found, case.problem)[0][:n, :n], np.linalg.inv(fisher + np.diag(precision)))


def test_pulls_over_noise():
    """Deviations from the truth scatter as the errors say, in every parameter."""
    case, rng = pair(), np.random.default_rng(0)
    n = len(case.table.parameters)
    pulls, chi2 = [], []
    for _ in range(REALISATIONS):
        problem = case.redraw(rng)
        found = case.optimize(problem=problem)
        sigma = np.sqrt(np.diag(laplace(found, problem)[0]))
        pulls.append((found.theta - case.truth)[:n] / sigma[:n])
        chi2.append(found.chi2)
    pulls = np.array(pulls)
    # four standard deviations of a mean and of a scatter
    assert np.abs(pulls.mean(0)).max() < 4 / np.sqrt(REALISATIONS)
    assert np.abs(pulls.std(0) - 1).max() < 4 / np.sqrt(2 * REALISATIONS)
    assert abs(pulls.std() - 1) < 0.05
    pixels = sum((t.ierr > 0).sum() for t in case.synthetic.tiles)
    expected = pixels - n
    assert abs(np.mean(chi2) - expected) < 4 * np.sqrt(2 * expected / REALISATIONS)
