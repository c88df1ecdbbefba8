"""Images: renderer against the independent model, far from the detector's corner, and its edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from synthetic_patch import make, oracle_model, oracle_values

from jaxpho.core.gaussians import Gaussians
from jaxpho.core.render import render, render_image
from jaxpho.core.scene import row_gaussians, scene_rows

# Of the image's peak.
TOL = {"float32": 2e-6, "float64": 1e-12}
SHIFT_TOL = 1e-5
FIELDS = np.array(
    [
        [100.0, 7.3, 9.8, 1.2, 0.9, 0.2],
        [-30.0, 20.1, 3.0, 6.0, 2.5, -1.0],
        [500.0, 12.0, 12.5, 30.0, 45.0, 20.0],
    ]
)


def image(shape, dtype, **kwargs):
    g = Gaussians(*jnp.asarray(FIELDS.T, dtype))
    return np.asarray(jax.jit(lambda g: render_image(g, shape, **kwargs))(g))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("mode", ["second_order", "fourth"])
def test_image_against_the_textbook_formula(x64, mode, dtype):
    """A shape that is no multiple of a tile, x along columns."""
    y, x = np.mgrid[:21, :34]
    for term in (1.0, 0.0):
        found = image((21, 34), dtype, mode=mode, pixel_term=term)
        expected = oracle_values(FIELDS, x, y, mode, term)
        assert found.shape == (21, 34) and found.dtype == dtype
        assert np.abs(found - expected).max() / expected.max() < TOL[dtype]


def draw(s, theta):
    @jax.jit
    def f(theta):
        rows = scene_rows(theta, s.scene, s.patch)
        return render(row_gaussians(rows, s.scene, s.patch, s.mixture), rows.sky, s.patch)

    return f(jnp.asarray(theta, s.patch.data.dtype))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_patch_against_the_independent_model(request, dtype):
    """All types of source, nuisances, sky, several bands and exposures."""
    if dtype == "float64":
        request.getfixturevalue("x64")
    s = make(7, exposures_per_band=1, dtype=np.dtype(dtype).type)
    images = s.flat(draw(s, s.theta))
    for e in range(2):
        expected = oracle_model(s, s.theta, e)
        assert np.abs(images[e] - expected).max() / np.abs(expected).max() < TOL[dtype]


@pytest.mark.parametrize("corner", [(12000, 48), (48, 12000), (30008, 20000)])
def test_float32_far_from_the_corner_of_the_detector(corner):
    """x = 12000 is as good as x = 50: positions are kept from an origin near the patch.

    Absolute float32 positions there are good to 5e-4 px only, 3e-4 of the peak.
    """
    near, far = (
        make(8, n_bands=1, exposures_per_band=2, psf_sigma=1.0, origin=origin)
        for origin in ((48, 48), corner)
    )
    assert np.all(np.asarray(far.patch.pix0)[:2] == corner)
    one, other = (np.asarray(draw(s, near.theta)) for s in (near, far))
    assert np.abs(one - other).max() / one.max() < SHIFT_TOL
    images = far.flat(other)
    for e in range(2):
        expected = oracle_model(far, far.theta, e)
        assert np.abs(images[e] - expected).max() / expected.max() < SHIFT_TOL


def test_grid_of_tiles_does_not_matter():
    """Moving images and sources by 3 pixels moves the tiles they fall on, nothing else."""
    shift = 3
    g = FIELDS.copy()
    g[:, 1:3] += shift

    def f(fields, shape):
        return render_image(Gaussians(*jnp.asarray(fields.T, jnp.float32)), shape)

    one, other = f(FIELDS, (24, 32)), f(g, (24 + shift, 32 + shift))
    assert np.abs(other[shift:, shift:] - one).max() / one.max() < TOL["float32"]


def test_render_is_differentiable_both_ways(x64):
    """Through the loop over tiles, in reverse and forward mode."""
    g = Gaussians(*jnp.asarray(FIELDS.T))
    weight = jnp.asarray(np.random.default_rng(0).standard_normal((16, 24)))

    def f(g):
        return (weight * render_image(g, (16, 24))).sum()

    gradient = jax.jit(jax.grad(f))(g)
    for name in ("flux", "x", "cxy"):
        tangent = jax.tree.map(jnp.zeros_like, g)._replace(**{name: jnp.ones(3)})
        slope = jax.jit(lambda t: jax.jvp(f, (g,), (t,))[1])(tangent)
        np.testing.assert_allclose(slope, getattr(gradient, name).sum(), rtol=1e-10)


def test_padding_blocks_are_not_drawn():
    """They are most of a small patch; the others, and gradients, do not change."""
    s = make(7, n_bands=1, exposures_per_band=1, pad=False)
    n = len(s.patch.data)

    def grown(a):
        return jnp.concatenate([a, jnp.ones((5, *a.shape[1:]), a.dtype)])

    # padding with what would be seen if it were drawn
    names = ("data", "ierr", "tile_x", "tile_y")
    larger = s.patch._replace(
        block_exposure=jnp.concatenate([s.patch.block_exposure, jnp.zeros(5, jnp.int32)]),
        **{name: grown(getattr(s.patch, name)) for name in names},
    )
    small, large = draw(s, s.theta), draw(s._replace(patch=larger), s.theta)
    np.testing.assert_array_equal(large[:n], small)
    assert not np.any(large[n:])
    slopes = [
        jax.grad(lambda theta, t=t: (draw(t, theta) ** 2).sum())(jnp.asarray(s.theta))
        for t in (s, s._replace(patch=larger))
    ]
    np.testing.assert_allclose(*slopes, rtol=1e-5, atol=1e-3)
