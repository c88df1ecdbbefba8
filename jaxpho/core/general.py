"""chi2, gradient and normal equations for any `Noise`: render, weigh, and the fused pass back.

Where pixels are neither independent nor normal the sum over pixels cannot be taken block by block.
The model is drawn as a whole, the likelihood taken of the image, and the gradient by every
Gaussian's parameters is the same product of moments as in `likelihood`, with the image's cotangent
in the place of the weighted residual: twice the exponentials of the fused kernel.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from jaxpho.core.blocks import TwoSum, sum_blocks, two_sum_add
from jaxpho.core.fisher import Normal, gather_normal, normal_equations, row_images
from jaxpho.core.likelihood import (
    HIGHEST,
    block_images,
    form_gradient,
    sky_basis,
    tiles_of,
)
from jaxpho.core.noise import deviance, student_weight, whiten
from jaxpho.core.patch import Patch
from jaxpho.core.pixel import PixelMode, quadratic_form
from jaxpho.core.render import render
from jaxpho.core.scene import Mixture, Scene, row_gaussians, scene_rows


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def render_fused(
    gauss: Array, sky: Array, patch: Patch, mode: PixelMode = "fourth", width: int = 1
) -> Array:
    """`render` [M, N] with a gradient that keeps nothing of size pixels x Gaussians."""
    return render(gauss, sky, patch, mode)


def _forward(gauss, sky, patch, mode, width):
    return render(gauss, sky, patch, mode), (gauss, sky, patch)


def _backward(mode, width, saved, cotangent):
    gauss, sky, patch = saved
    form, pullback = jax.vjp(lambda g: quadratic_form(g, patch.pixel_term, mode), gauss)

    def one(block):
        e = patch.block_exposure[block]
        images = block_images(form, patch, mode, block)
        u = tiles_of(cotangent, block)
        tiles = patch.tile_x[block], patch.tile_y[block]
        bar = form_gradient(form[e], images, u, *tiles, patch.pixel_term[e], mode)
        return jnp.zeros((), u.dtype), (bar, (sky_basis(patch, block) * u).sum((1, 2)))

    _, (form_bar, sky_bar) = sum_blocks(one, patch, width)
    return *pullback(form_bar), sky_bar, None


render_fused.defvjp(_forward, _backward)


def sum_exposures(values: Array, patch: Patch) -> TwoSum:
    """Sums [E] of pixels [M, N] by exposure, over the blocks in a tree with compensation."""
    used = jnp.arange(len(values)) < patch.n_blocks
    own = patch.block_exposure[None] == jnp.arange(patch.n_exposures)[:, None]
    high = jnp.where(own & used, values.sum(-1), 0.0)
    low = jnp.zeros_like(high)
    while high.shape[1] > 1:
        if high.shape[1] % 2:
            high, low = (jnp.pad(a, ((0, 0), (0, 1))) for a in (high, low))
        total = two_sum_add(TwoSum(high[:, ::2], low[:, ::2]), high[:, 1::2])
        high, low = total.high, total.low + low[:, 1::2]
    return TwoSum(high[:, 0], low[:, 0])


def delta_deviance(
    gauss: Array,
    sky: Array,
    patch: Patch,
    reference: Array | None,
    mode: PixelMode = "fourth",
    width: int = 1,
) -> TwoSum:
    """-2 ln likelihood relative to a reference model, per exposure, for `Patch.noise`.

    Parameters and result as those of `likelihood.delta_chi2`, which this is for independent normal
    noise.
    """
    model = render_fused(gauss, sky, patch, mode, width)
    reference = jnp.zeros_like(model) if reference is None else reference
    found = deviance(model, reference, patch.data, patch.ierr, patch.noise)
    return sum_exposures(found, patch)


def general_normal(
    theta: Array,
    scene: Scene,
    patch: Patch,
    mixture: Mixture,
    reference: Array | None = None,
    mode: PixelMode = "fourth",
    linear_only: bool = False,
    width: int = 1,
) -> Normal:
    """`fisher.normal_equations` for `Patch.noise`.

    ``chi2`` is -2 ln likelihood, ``gradient`` half its gradient. ``fisher`` is J^T C^-1 J for
    correlated noise, for which the images of all derivatives [pixel, L] are in memory at once, and
    the iterated weights' matrix for Student's t.
    """
    rows = scene_rows(theta, scene, patch)
    if patch.noise.whitening is None:
        return _weighted_normal(theta, rows, scene, patch, mixture, reference, mode, linear_only,
                                width)  # fmt: skip
    model, images = row_images(rows, scene, patch, mixture, mode, linear_only)
    reference = jnp.zeros_like(model) if reference is None else reference
    chi2 = sum_exposures(deviance(model, reference, patch.data, patch.ierr, patch.noise), patch)
    m, n = model.shape
    flat = jnp.swapaxes(images * patch.ierr[:, None], 1, 2).reshape(m * n, -1)
    white = whiten(flat, patch.noise.whitening).reshape(m, n, -1)
    residual = whiten(((patch.data - model) * patch.ierr).reshape(-1), patch.noise.whitening)
    residual = residual.reshape(m, n)

    def one(block):
        j = white[block]
        gradient = -jnp.matmul(residual[block], j, precision=HIGHEST)
        return jnp.zeros((), j.dtype), (gradient, jnp.matmul(j.T, j, precision=HIGHEST))

    _, (gradient, matrix) = sum_blocks(one, patch, width)
    return gather_normal(theta, scene, patch, chi2, gradient, matrix, linear_only)


def _weighted_normal(theta, rows, scene, patch, mixture, reference, mode, linear_only, width):
    model = render(row_gaussians(rows, scene, patch, mixture), rows.sky, patch, mode)
    reference = jnp.zeros_like(model) if reference is None else reference
    found = deviance(model, reference, patch.data, patch.ierr, patch.noise)
    ierr = patch.ierr
    if patch.noise.student is not None:
        u = (patch.data - model) * ierr
        ierr = ierr * jnp.sqrt(student_weight(u, patch.noise.student))
    normal = normal_equations(
        theta, scene, patch._replace(ierr=ierr, noise=None), mixture, None, mode, linear_only, width
    )
    return normal._replace(chi2=sum_exposures(found, patch))
