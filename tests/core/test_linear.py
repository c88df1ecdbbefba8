"""Normal equations of the linear coefficients against dense algebra, and their derivatives.

The independent path renders every component alone with `core.render` and differentiates through it.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from synthetic_patch import make

from jaxpho.core.linear import linear_normal
from jaxpho.core.render import render
from jaxpho.core.scene import row_gaussians, scene_rows

# Of the largest element (chi2: of the value). In float32 the derivative by the coefficients is what
# remains of terms with random weights that cancel.
TOL = {"float32": 1e-4, "float64": 1e-11}
TYPES = ("sersic", "bulge_disk", "point")


def parts(s):
    """Unit-flux Gaussians [E, 6, n], coefficients [E, L] and groups of a synthetic patch."""
    theta = jnp.asarray(s.theta, s.patch.data.dtype)
    rows = scene_rows(theta, s.scene, s.patch)
    unit = rows._replace(
        sersic=rows.sersic.at[..., 0].set(1.0), point=rows.point.at[..., 0].set(1.0)
    )
    gauss = row_gaussians(unit, s.scene, s.patch, s.mixture)
    coefficients = jnp.concatenate([rows.sersic[..., 0], rows.point[..., 0], rows.sky], -1)
    n_point = s.patch.psf_point.flux.shape[-1]
    groups = (
        (rows.sersic.shape[1], s.patch.psf_bin.shape[-1]),
        (rows.point.shape[1], n_point),
    )
    return gauss, coefficients, groups


def images_of(gauss, patch, groups, mode):
    """[L, M, N] images of unit coefficients, one rendering each."""
    start, out = 0, []
    for n_component, n_gauss in groups:
        for _ in range(n_component):
            one = gauss[:, :, start : start + n_gauss]
            out.append(render(one, jnp.zeros((len(gauss), 3), gauss.dtype), patch, mode))
            start += n_gauss
    no_flux = gauss[:, :, :1].at[:, 0].set(0.0)
    for k in range(3):
        sky = jnp.zeros((len(gauss), 3), gauss.dtype).at[:, k].set(1.0)
        out.append(render(no_flux, sky, patch, mode))
    return jnp.stack(out)


def dense(gauss, coefficients, patch, reference, mode, groups):
    """The three results summed over exposures with one weight each, plainly."""
    images = images_of(gauss, patch, groups, mode)
    e = patch.block_exposure
    model = jnp.einsum("ml,lmx->mx", coefficients[e], images)
    weight = patch.ierr**2
    m0 = 0.0 if reference is None else reference
    chi2 = (weight * (m0 - model) * (2 * patch.data - m0 - model)).sum(-1)
    gradient = -jnp.einsum("lmx,mx->ml", images, weight * (patch.data - model))
    matrix = jnp.einsum("kmx,lmx,mx->mkl", images, images, weight)
    n = len(gauss)
    return tuple(jax.ops.segment_sum(a, e, n) for a in (chi2, gradient, matrix))


def fused(gauss, coefficients, patch, reference, mode, groups, width=1):
    chi2, gradient, matrix = linear_normal(
        gauss, coefficients, patch, reference, mode, groups, width
    )
    return chi2.high + chi2.low, gradient, matrix


def score(function, weights, *fixed):
    """A scalar that depends on all results in all elements, nonlinearly in the matrix."""

    def value(gauss, coefficients):
        chi2, gradient, matrix = function(gauss, coefficients, *fixed)
        a, b, c = weights
        return (a * chi2).sum() + (b * gradient).sum() + (c * jnp.sin(matrix / 1e3)).sum() * 1e3

    return jax.jit(jax.value_and_grad(value, (0, 1)))


def close(found, expected, tolerance):
    for f, e in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        f, e = np.asarray(f, float), np.asarray(e, float)
        assert np.abs(f - e).max() <= tolerance * np.abs(e).max()


@pytest.mark.parametrize("mode", ["fourth", "second_order", "covariance"])
def test_values_and_derivatives_in_float64(x64, mode):
    s = make(2, TYPES, exposures_per_band=1, shape=(20, 17), dtype=np.float64)
    gauss, coefficients, groups = parts(s)
    rng = np.random.default_rng(0)
    reference = jnp.asarray(rng.standard_normal(s.patch.data.shape))
    arguments = gauss, coefficients, s.patch, reference, mode, groups
    close(fused(*arguments), dense(*arguments), TOL["float64"])
    shapes = [a.shape for a in dense(*arguments)]
    weights = [jnp.asarray(rng.standard_normal(shape)) for shape in shapes]
    fixed = (s.patch, reference, mode, groups)
    found = score(fused, weights, *fixed)(gauss, coefficients)
    expected = score(dense, weights, *fixed)(gauss, coefficients)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-9)
    # each kind of Gaussian parameter has a scale of its own
    for k in range(6):
        close(found[1][0][:, k], expected[1][0][:, k], TOL["float64"])
    close(found[1][1], expected[1][1], TOL["float64"])


def test_wide_steps_and_float32(x64):
    double = make(2, TYPES, exposures_per_band=1, shape=(20, 17), dtype=np.float64)
    single = make(2, TYPES, exposures_per_band=1, shape=(20, 17), dtype=np.float32)
    rng = np.random.default_rng(1)
    results = []
    for s, width in ((double, 1), (double, 4), (single, 1)):
        gauss, coefficients, groups = parts(s)
        fixed = (s.patch, None, "fourth", groups, width)
        shapes = [a.shape for a in fused(gauss, coefficients, *fixed)]
        rng = np.random.default_rng(1)
        weights = [jnp.asarray(rng.standard_normal(a), gauss.dtype) for a in shapes]
        found = score(fused, weights, *fixed)(gauss, coefficients)
        results.append([*fused(gauss, coefficients, *fixed), found[1][1]]
                       + [found[1][0][:, k] for k in range(6)])  # fmt: skip
    close(results[1], results[0], TOL["float64"])
    close(results[2], results[0], TOL["float32"])


@pytest.mark.parametrize("types", [("point",), ("sersic",)])
def test_scenes_of_one_kind_of_component(x64, types):
    s = make(3, types, exposures_per_band=1, shape=(20, 17), dtype=np.float64)
    gauss, coefficients, groups = parts(s)
    arguments = gauss, coefficients, s.patch, None, "fourth", groups
    close(fused(*arguments), dense(*arguments), TOL["float64"])
    weights = [jnp.ones(a.shape) for a in dense(*arguments)]
    fixed = arguments[2:]
    found, expected = (score(f, weights, *fixed)(gauss, coefficients) for f in (fused, dense))
    for k in range(6):
        close(found[1][0][:, k], expected[1][0][:, k], TOL["float64"])
