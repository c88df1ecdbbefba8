"""The second fused pass against dense linear algebra with the Jacobian of the rendered pixels."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from synthetic_patch import make

from jaxpho.core.fisher import normal_equations
from jaxpho.core.render import render
from jaxpho.core.scene import row_gaussians, scene_rows

# Of sqrt(F_ii F_jj), and of the largest |gradient| per sqrt(F_ii).
TOL = {"float32": 1e-5, "float64": 1e-12}


@cache
def small(dtype, types=("sersic", "bulge_disk", "sersic_point", "point", "exp")):
    return make(3, types, exposures_per_band=1, shape=(20, 17), dtype=dtype)


def model(theta, scene, patch, mixture, mode):
    rows = scene_rows(theta, scene, patch)
    return render(row_gaussians(rows, scene, patch, mixture), rows.sky, patch, mode)


@partial(jax.jit, static_argnums=4)
def jacobian_and_image(*args):
    def twice(theta):
        image = model(theta, *args[1:])
        return image, image

    return jax.jacfwd(twice, has_aux=True)(args[0])


def dense(s, theta, mode="fourth"):
    """J^T W J and -J^T W r from the dense Jacobian, padding blocks masked by their weights."""
    theta = jnp.asarray(theta, s.patch.data.dtype)
    jacobian, image = jacobian_and_image(theta, s.scene, s.patch, s.mixture, mode)
    w = np.asarray(s.patch.ierr, float).ravel()
    r = (np.asarray(s.patch.data, float) - np.asarray(image, float)).ravel() * w
    jacobian = np.asarray(jacobian, float).reshape(-1, len(theta)) * w[:, None]
    return jacobian.T @ jacobian, -jacobian.T @ r


compiled = jax.jit(normal_equations, static_argnums=(5, 6, 7))


def fused(s, theta, reference=None, mode="fourth", linear_only=False, width=1):
    theta = jnp.asarray(theta, s.patch.data.dtype)
    if reference is None:
        reference = jnp.zeros_like(s.patch.data)
    return compiled(theta, s.scene, s.patch, s.mixture, reference, mode, linear_only, width)


def assert_equal(found, matrix, gradient, tolerance):
    unit = np.sqrt(np.diag(matrix))
    scale = np.where(unit > 0, unit, 1.0)
    difference = np.abs(np.asarray(found.fisher) - matrix) / np.outer(scale, scale)
    assert difference.max() < tolerance
    gradient = gradient / scale
    difference = np.abs(np.asarray(found.gradient) / scale - gradient)
    assert difference.max() < tolerance * np.abs(gradient).max()


def test_all_parameters_in_float64(x64):
    """All types of source, astrometric offsets, flux scales and sky planes free.

    Other pixel modes differ in the derivative images only, which have a test of their own.
    """
    s = small(np.float64)
    theta = s.theta * 1.01
    found = fused(s, theta)
    assert_equal(found, *dense(s, theta), TOL["float64"])


def test_wide_steps_give_the_same_sums(x64):
    """Blocks at once, as on GPUs; the last step is not full."""
    s = small(np.float64)
    assert int(s.patch.n_blocks) % 4 != 0
    one, wide = (fused(s, s.theta * 1.01, width=w) for w in (1, 4))
    assert_equal(wide, np.asarray(one.fisher), np.asarray(one.gradient), TOL["float64"])
    totals = [n.chi2.high.sum() + n.chi2.low.sum() for n in (one, wide)]
    np.testing.assert_allclose(*totals, rtol=1e-12)


def test_float32(x64):
    single, double = small(np.float32), small(np.float64)
    theta = single.theta * 1.01
    found, expected = fused(single, theta), fused(double, theta)
    assert_equal(found, expected.fisher, expected.gradient, TOL["float32"])
    # symmetric to the last bit, so that a Cholesky factor does not depend on the triangle used
    fisher = np.asarray(found.fisher)
    assert np.abs(fisher - fisher.T).max() <= TOL["float32"] * np.abs(fisher).max()


def test_linear_only_is_the_block_of_fluxes_and_sky(x64):
    s = small(np.float64)
    full, linear = fused(s, s.theta), fused(s, s.theta, linear_only=True)
    kinds = np.array(s.kinds())
    at = np.isin(kinds, ["flux", "sky", "sky_x", "sky_y"])
    np.testing.assert_allclose(linear.gradient[at], full.gradient[at], rtol=1e-10, atol=1e-8)
    block = np.ix_(at, at)
    np.testing.assert_allclose(linear.fisher[block], full.fisher[block], rtol=1e-10, atol=1e-9)
    nonlinear = np.isin(kinds, ["ra", "dec", "rhalf", "sersic", "e1", "e2", "dra", "ddec"])
    assert np.all(np.asarray(linear.gradient)[nonlinear] == 0.0)


def test_reference_model_changes_chi2_only(x64):
    s = small(np.float64)
    rng = np.random.default_rng(0)
    reference = jnp.asarray(rng.standard_normal(s.patch.data.shape))
    plain, shifted = fused(s, s.theta), fused(s, s.theta, reference)
    np.testing.assert_array_equal(plain.fisher, shifted.fisher)
    np.testing.assert_array_equal(plain.gradient, shifted.gradient)
    weight, data = (np.asarray(a) for a in (s.patch.ierr**2, s.patch.data))
    chi2_reference = (
        weight * (np.asarray(reference) ** 2 - 2 * data * np.asarray(reference))
    ).sum()
    found = plain.chi2.high.sum() - shifted.chi2.high.sum()
    np.testing.assert_allclose(found, chi2_reference, rtol=1e-9)


def test_one_parameter_of_two_components(x64):
    """Fluxes of two sources tied together, and bulge and disk sharing an index."""
    s = small(np.float64)
    index = np.array(s.scene.sersic_index)
    index[:, 2, 4] = index[:, 1, 4]
    index[0, 1, 0] = index[0, 0, 0]
    s = s._replace(scene=s.scene._replace(sersic_index=index))
    found = fused(s, s.theta)
    matrix, gradient = dense(s, s.theta)
    unused = np.diag(matrix) == 0
    assert unused.sum() == 2
    assert np.all(np.asarray(found.fisher)[unused] == 0)
    assert_equal(found, matrix, gradient, TOL["float64"])


@pytest.mark.parametrize("types", [("point",), ("sersic",)])
def test_scenes_of_one_kind_of_component(x64, types):
    s = small(np.float64, types)
    assert_equal(fused(s, s.theta * 1.01), *dense(s, s.theta * 1.01), TOL["float64"])
