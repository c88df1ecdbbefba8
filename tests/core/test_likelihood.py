"""The fused kernel's sums: against an independent model, other paths, packings and precisions.

Gradients against finite differences are in test_gradients.py.
"""

import math
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from synthetic_patch import make, oracle_chi2, oracle_model

from jaxpho.core.blocks import TwoSum, two_sum_add
from jaxpho.core.likelihood import delta_chi2, plain_delta_chi2
from jaxpho.core.render import render
from jaxpho.core.scene import row_gaussians, scene_rows

# Two float32 evaluations in different order: of chi2, and of the largest gradient of any kind.
CHI2_RTOL = 1e-6
GRADIENT_TOL = 1e-5
FLOAT64_RTOL = 1e-11
# rms error of delta chi2 between neighbouring models at |chi2| = 1e5; .1 would bias a sampler.
DELTA_RMS = 2e-3


@cache
def patch_of(dtype=np.float32, **kwargs):
    types = ("sersic", "point")
    return make(5, types, n_bands=1, exposures_per_band=3, shape=(29, 26), dtype=dtype, **kwargs)


def gaussians(theta, s):
    rows = scene_rows(theta, s.scene, s.patch)
    return row_gaussians(rows, s.scene, s.patch, s.mixture), rows.sky


def total(theta, scene, patch, mixture, reference=None, mode="fourth", width=1, weight=1.0):
    """chi2 summed over exposures with weights, and per exposure."""
    rows = scene_rows(theta, scene, patch)
    gauss = row_gaussians(rows, scene, patch, mixture)
    chi2 = delta_chi2(gauss, rows.sky, patch, reference, mode, width)
    each = chi2.high + chi2.low
    return (weight * each).sum(), each


compiled = jax.jit(jax.value_and_grad(total, has_aux=True), static_argnums=(5, 6))


def run(s, theta=None, reference=None, width=1, weight=None):
    dtype = s.patch.data.dtype
    theta = jnp.asarray(s.theta if theta is None else theta, dtype)
    weight = jnp.ones(s.patch.n_exposures, dtype) if weight is None else jnp.asarray(weight, dtype)
    (_, each), gradient = compiled(
        theta, s.scene, s.patch, s.mixture, reference, "fourth", width, weight
    )
    return np.asarray(each, float), np.asarray(gradient, float)


def assert_same(first, second, n_exposures=3):
    np.testing.assert_allclose(first[0][:n_exposures], second[0][:n_exposures], rtol=CHI2_RTOL)
    scale = np.abs(second[1]).max()
    np.testing.assert_allclose(first[1], second[1], atol=GRADIENT_TOL * scale)


def test_delta_form_against_the_independent_model(x64):
    """chi2(m) - chi2(m0) per exposure, with a reference model that is not zero."""
    s = patch_of(np.float64)
    reference = jax.jit(lambda t: render(*gaussians(t, s), s.patch))(jnp.asarray(s.theta * 1.05))
    found, _ = run(s, reference=reference)
    expected = oracle_chi2(s, s.theta) - oracle_chi2(s, s.theta * 1.05)
    np.testing.assert_allclose(found[:3], expected, rtol=FLOAT64_RTOL)
    model = s.flat(reference)
    for e in range(3):
        oracle = oracle_model(s, s.theta * 1.05, e)
        np.testing.assert_allclose(model[e], oracle, atol=1e-10 * oracle.max())


def test_two_sum_keeps_what_rounding_drops():
    terms = np.random.default_rng(0).standard_normal(2000).astype(np.float32)
    terms[::100] *= 1e6
    zero = jnp.zeros((), jnp.float32)
    sums = jax.jit(lambda a: jax.lax.scan(lambda c, t: (two_sum_add(c, t), None), a, terms)[0])(
        TwoSum(zero, zero)
    )
    exact = math.fsum(terms.tolist())
    found = float(sums.high) + float(sums.low)
    assert abs(found - exact) < 1e-3 * abs(float(np.cumsum(terms)[-1]) - exact)


def test_compensated_sum_keeps_the_accept_decision(x64):
    """Differences of chi2 between neighbouring models of a large patch, float32 against float64.

    Relative to a model nearby, as samplers use it, what is left is the rounding of the models
    themselves; without a reference also that of sums inside a block; a plain float32 sum over
    blocks (the path without custom rules) adds to both.
    """
    large = partial(
        make, 2, ("sersic",), n_bands=1, exposures_per_band=4, shape=(192, 192), flux=2e3,
        nuisances=False,
    )  # fmt: skip
    single, double = large(dtype=np.float32), large(dtype=np.float64)
    rng = np.random.default_rng(0)
    step = np.where(np.array(single.kinds()) == "flux", 3e-3 * single.theta, 1e-3)
    thetas = single.theta + step * rng.standard_normal((12, len(single.theta)))
    thetas = thetas.astype(np.float32)

    def chi2(theta, patch, reference, kernel):
        s = single._replace(patch=patch)
        gauss, sky = gaussians(theta.astype(patch.data.dtype), s)
        found = kernel(gauss, sky, patch, reference)
        return found if isinstance(found, TwoSum) else TwoSum(found, 0.0 * found)

    f = jax.jit(chi2, static_argnums=3)
    near = jax.jit(lambda t: render(*gaussians(t, single), single.patch))(jnp.asarray(thetas[0]))

    def differences(patch, reference=None, kernel=delta_chi2):
        sums = [f(jnp.asarray(t), patch, reference, kernel) for t in thetas]
        values = np.array([sum(float(np.sum(np.asarray(p, float))) for p in v) for v in sums])
        return values[1:] - values[0], values[0]

    exact, level = differences(double.patch)
    assert abs(level) > 1e5
    assert 1 < np.abs(exact).max() < 100
    cases = {"near": (near,), "zero": (None,), "plain": (None, plain_delta_chi2)}
    rms = {
        name: np.sqrt(np.mean((differences(single.patch, *case)[0] - exact) ** 2))
        for name, case in cases.items()
    }
    print(level, exact, rms)
    assert rms["near"] < DELTA_RMS
    assert rms["near"] < rms["zero"] < rms["plain"]


def test_jit_and_eager_agree():
    s = patch_of()
    gauss, sky = jax.jit(partial(gaussians, s=s))(jnp.asarray(s.theta, jnp.float32))
    eager = delta_chi2(gauss, sky, s.patch, None)
    np.testing.assert_allclose(eager.high[:3], run(s)[0][:3], rtol=CHI2_RTOL)


def test_batches_of_chains_and_of_patches():
    """Chains of one patch, and patches of one bucket whose loops end at different blocks."""
    first = patch_of()
    tiles = [t._replace(**{k: getattr(t, k)[:5] for k in t._fields}) for t in first.tiles]
    second = first._replace(tiles=tiles).pack()
    assert int(first.patch.n_blocks) != int(second.patch.n_blocks)
    patches = [s.patch for s in (first, first, second)]
    batch = jax.tree.map(lambda *a: jnp.stack(a), *patches)
    thetas = jnp.asarray(first.theta * np.array([[1.0], [1.01], [0.98]]), jnp.float32)
    f = jax.vmap(jax.value_and_grad(total, has_aux=True), in_axes=(0, None, 0, None))
    (_, each), gradient = jax.jit(f)(thetas, first.scene, batch, first.mixture)
    for k, s in enumerate((first, first, second)):
        assert_same((np.asarray(each[k]), np.asarray(gradient[k])), run(s, thetas[k]))


@pytest.mark.parametrize(
    "packing", [{"pad": False, "tiles_per_block": 1}, {"tiles_per_block": 2}, {"width": 8}], ids=str
)
def test_padding_and_blocks_change_nothing(packing):
    s = patch_of()
    width = packing.get("width", 1)
    other = s.pack(**{k: v for k, v in packing.items() if k != "width"})
    assert_same(run(other, width=width), run(s))


def test_order_of_exposures_changes_nothing():
    s = patch_of()
    turned = s._replace(
        tiles=s.tiles[::-1],
        exposure_band=s.exposure_band[::-1],
        astrometry=s.astrometry.__class__(*(a[::-1] for a in vars(s.astrometry).values())),
        psf=s.psf[::-1],
        gain=s.gain[::-1],
        pixel_term=s.pixel_term[::-1],
        scene=s.scene._replace(nuisance_index=s.scene.nuisance_index[:3][::-1]),
    ).pack()
    chi2, gradient = run(turned)
    assert_same((chi2[:3][::-1], gradient), run(s))


def test_masked_pixels_are_ignored():
    s = patch_of()
    garbage = jnp.where(s.patch.ierr > 0, s.patch.data, 1e20)
    dirty = s._replace(patch=s.patch._replace(data=garbage))
    for a, b in zip(run(dirty), run(s), strict=True):
        np.testing.assert_array_equal(a, b)


def test_weights_of_exposures_in_the_gradient():
    """The rule scales with the cotangent of each exposure (priors on exposures, tempering)."""
    s = patch_of()
    unit = np.eye(3)
    parts = [run(s, weight=w)[1] for w in unit]
    whole = run(s, weight=[1.0, 0.0, -0.5])[1]
    expected = parts[0] - 0.5 * parts[2]
    assert all(np.abs(p).max() > 0 for p in parts)
    np.testing.assert_allclose(whole, expected, atol=GRADIENT_TOL * np.abs(expected).max())


def test_plain_path_has_forward_and_second_derivatives(x64):
    """Its gradient, jvp and Hessian agree with the fused gradient and its differences."""
    s = patch_of(np.float64)
    theta = jnp.asarray(s.theta)

    def plain(theta):
        return plain_delta_chi2(*gaussians(theta, s), s.patch).sum()

    direction = jnp.asarray(np.random.default_rng(1).standard_normal(len(theta)))
    (value, gradient), (slope, hessian_direction) = jax.jit(
        lambda t: jax.jvp(jax.value_and_grad(plain), (t,), (direction,))
    )(theta)
    chi2, fused = run(s)
    np.testing.assert_allclose(value, chi2.sum(), rtol=FLOAT64_RTOL)
    np.testing.assert_allclose(gradient, fused, atol=FLOAT64_RTOL * np.abs(fused).max())
    np.testing.assert_allclose(slope, fused @ direction, rtol=1e-9)
    step = 1e-5
    ahead, behind = (run(s, theta + sign * step * direction)[1] for sign in (1, -1))
    difference = (ahead - behind) / (2 * step)
    assert np.abs(hessian_direction - difference).max() < 1e-6 * np.abs(difference).max()


def test_fused_rule_refuses_forward_mode():
    """It holds the first derivative only: no silent wrong Hessian."""
    s = patch_of()
    gauss, sky = jnp.ones((3, 6, 4)), jnp.zeros((3, 3))
    with pytest.raises(TypeError):
        jax.jvp(lambda g: delta_chi2(g, sky, s.patch, None).high.sum(), (gauss,), (gauss,))
