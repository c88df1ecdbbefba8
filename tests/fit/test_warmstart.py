"""Covariances carried from fit to fit: bounds, order, sources and nuisances change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sample_case import case_of, mode_of

from jaxpho.fit.options import SampleOptions
from jaxpho.fit.posterior import DEFAULT_STATIC, to_physical, to_unconstrained
from jaxpho.fit.sample import sample
from jaxpho.fit.target import root_of
from jaxpho.fit.transforms import Transform
from jaxpho.fit.uncertainty import laplace
from jaxpho.fit.warmstart import assemble, covariance_of_draws, named, remember

NAMES = ("flux", "rhalf", "sersic", "e1", "e2")
# float32 transforms
RTOL = 2e-3


def make(owners, low=0.5, high=8.0, e_max=0.8, sky=(), order=NAMES):
    """Labels and transform of sources, and of exposures with a free sky; one entry of padding."""
    labels, rows = [], []
    for owner in owners:
        for name in order:
            labels.append((owner, name, "r" if name == "flux" else ""))
            kind = {"flux": (0, 0, 0, 0, 1), "rhalf": (1, 1, 0, np.log(0.05), np.log(5)),
                    "sersic": (0, 1, 0, low, high)}.get(name, (0, 0, 1, 0, e_max))  # fmt: skip
            rows.append((*kind, 4.0 if name == "flux" else 1.0))
    for exposure in sky:
        labels.append((("exposure", exposure), "sky", ""))
        rows.append((0, 0, 0, 0, 1, 0.1))
    rows.append((0, 0, 0, 0, 1, 1.0))
    log, bounded, disc, low, high, scale = np.array(rows, float).T
    at = {label: i for i, label in enumerate(labels)}
    partner = np.arange(len(rows))
    for (owner, name, _), i in at.items():
        if name in ("e1", "e2"):
            partner[i] = at[owner, "e2" if name == "e1" else "e1", ""]
    zero = np.zeros(len(rows))
    arrays = (log > 0, bounded > 0, disc > 0, low, high, zero, scale, partner, zero, zero)
    kinds = [bool] * 3 + [np.float32] * 4 + [np.int32] + [np.float32] * 2
    return labels, Transform(*(jnp.asarray(a, k) for a, k in zip(arrays, kinds, strict=True)))


VALUES = {"flux": 30.0, "rhalf": 0.4, "sersic": 2.0, "e1": 0.2, "e2": -0.3, "sky": 0.02}


def theta_of(labels):
    return np.array([VALUES[name] for _, name, _ in labels] + [0.0])


def random_covariance(rng, n, size=0.05):
    root = rng.standard_normal((n, 2 * n)) * size
    return root @ root.T / n


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def test_the_same_fit_gets_the_same_covariance(rng):
    labels, transform = make(["a", "b"])
    covariance = random_covariance(rng, len(labels) + 1)
    known = remember(labels, theta_of(labels), covariance, transform)
    found = assemble([known], labels, transform)
    np.testing.assert_array_equal(found[:-1, :-1], covariance[:-1, :-1])
    assert found[-1, -1] == 1.0 and not found[-1, :-1].any()


def test_order_and_neighbours_change(rng):
    labels, transform = make(["a", "b"], sky=["x"])
    covariance = random_covariance(rng, len(labels) + 1)
    known = remember(labels, theta_of(labels), covariance, transform)
    order = ("e2", "sersic", "flux", "e1", "rhalf")
    others, other = make(["c", "b"], order=order, sky=["y"])
    fallback = np.full(len(others) + 1, 0.3)
    found = assemble([known], others, other, fallback)
    for i, one in enumerate(others):
        for j, two in enumerate(others):
            if one[0] == two[0] == "b":
                expected = covariance[labels.index(one), labels.index(two)]
                assert found[i, j] == pytest.approx(expected, rel=RTOL, abs=1e-7)
            else:  # a new source, another exposure's sky: the fallback, and no correlation
                assert found[i, j] == (0.3 if i == j else 0.0)
    assert np.linalg.eigvalsh(found).min() > 0


def test_what_is_known_later_replaces(rng):
    labels, transform = make(["a", "b"])
    n = len(labels)
    one, two = (random_covariance(rng, n + 1) for _ in range(2))
    first = remember(labels, theta_of(labels), one, transform)
    second = remember(labels, theta_of(labels), two, transform).select(["b"])
    found = assemble([first, second], labels, transform)
    half = n // 2
    np.testing.assert_allclose(found[:half, :half], one[:half, :half], rtol=1e-12)
    np.testing.assert_allclose(found[half:n, half:n], two[half:n, half:n], rtol=1e-12)
    assert not found[:half, half:n].any()  # of two fits: nobody knows how they go together


@pytest.mark.parametrize("change", [{"low": 0.3, "high": 3.0}, {"e_max": 0.95}])
def test_bounds_change(rng, change):
    """Against draws that are mapped one by one from the old z to the new."""
    labels, transform = make(["a"])
    _, other = make(["a"], **change)
    n = len(labels)
    covariance = random_covariance(rng, n + 1, 0.02)
    theta = theta_of(labels)
    found = assemble([remember(labels, theta, covariance, transform)], labels, other)
    z = np.asarray(to_unconstrained(jnp.asarray(theta, jnp.float32), transform), float)
    draws = rng.multivariate_normal(z, covariance, 20000)
    moved = jax.vmap(lambda z: to_unconstrained(to_physical(z, transform), other))(
        jnp.asarray(draws, jnp.float32)
    )
    expected = np.cov(np.asarray(moved, float).T)[:n, :n]
    unit = np.sqrt(np.diag(expected))
    # 20 000 draws know a correlation to .01
    np.testing.assert_allclose(
        found[:n, :n] / np.outer(unit, unit), expected / np.outer(unit, unit), atol=0.04
    )
    changed = np.abs(np.diag(found)[:n] / np.diag(covariance)[:n] - 1) > 0.02
    assert changed.any() and not changed[:2].any()


def test_a_value_beyond_the_new_bounds(rng):
    labels, transform = make(["a"])
    _, other = make(["a"], low=2.5)
    known = remember(labels, theta_of(labels), random_covariance(rng, len(labels) + 1), transform)
    found = assemble([known], labels, other)
    assert np.isfinite(found).all() and np.linalg.eigvalsh(found).min() >= 0


def test_half_a_disc_is_not_taken(rng):
    labels, transform = make(["a"])
    known = remember(labels, theta_of(labels), random_covariance(rng, len(labels) + 1), transform)
    without = [label if label[1] != "e2" else ("z", "e2", "") for label in labels]
    found = assemble([known], without, transform)
    assert found[3, 3] == 1.0 and found[0, 0] != 1.0


def test_names_of_sources():
    labels = [(0, "flux", "g"), (1, "ra", ""), (("exposure", "e1"), "sky", "")]
    assert named(labels, ["7", "12"]) == [
        ("7", "flux", "g"), ("12", "ra", ""), (("exposure", "e1"), "sky", ""),
    ]  # fmt: skip


def test_draws_are_right_with_any_covariance():
    """Whitened by that of another fit: the same posterior, and as few gradients."""
    case, mode = case_of("galaxy"), mode_of("galaxy")
    n = len(case.table.parameters)
    labels, transform = named(case.table.labels, ["s0", "s1", "s2", "s3"]), case.problem.transform
    covariance = laplace(mode, case.problem)[1]
    known = remember(labels, mode.theta, 1.3 * covariance, transform)
    carried = assemble([known], labels, transform)
    np.testing.assert_allclose(
        root_of(carried) @ root_of(carried).T, carried, rtol=1e-6, atol=1e-12
    )
    options = SampleOptions(num_samples=200, max_rounds=1)
    found, plain = (
        sample(
            jax.random.PRNGKey(4), mode, case.problem, options, DEFAULT_STATIC, covariance=given
        )
        for given in (carried, None)
    )  # fmt: skip
    np.testing.assert_allclose(found.mass_matrix_final[:n, :n], np.linalg.inv(carried)[:n, :n],
                               rtol=1e-4, atol=1e-2)  # fmt: skip
    for draws in (found, plain):
        assert draws.rhat[:n].max() < 1.03 and draws.ess[:n].min() > 200
    sigma = plain.theta.std((0, 1))[:n]
    assert (np.abs(found.theta.mean((0, 1)) - plain.theta.mean((0, 1)))[:n] < 0.3 * sigma).all()
    # what draws know of z is what was given
    own = covariance_of_draws(plain.theta, transform)[:n, :n]
    ratio = np.sqrt(np.diag(own) / np.diag(covariance)[:n])
    assert (np.abs(np.log(ratio)) < 0.3).all()
