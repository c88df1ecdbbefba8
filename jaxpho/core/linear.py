"""Normal equations of what the model is linear in, differentiable by everything else.

With J_i(p) the images of the components at unit flux and the sky's basis, and a their coefficients,
the model of an exposure is m = sum_i a_i J_i. One pass over the pixels gives

    chi2(m) - chi2(m0),   g = -J^T W (d - m),   A = J^T W J,

from which fluxes can be solved for, or integrated over (see `jaxpho.fit.marginal`). The gradient of
any function of the three is a second pass: with cotangents c, h and B, the image of component k
counts in pixel p with the weight

    w [a_k sum_i h_i J_i - r (2 c a_k + h_k) + sum_j (B + B^T)_kj J_j],   r = d - m,

which takes the place of the residual in the moments of `likelihood`. Nothing of size pixels x
Gaussians is kept between the two.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from jaxpho.core.blocks import TwoSum, sum_blocks
from jaxpho.core.likelihood import (
    HIGHEST,
    block_images,
    form_gradient,
    sky_basis,
    tiles_of,
)
from jaxpho.core.patch import Patch
from jaxpho.core.pixel import TILE_PIXELS, PixelMode, TileImages, quadratic_form

Groups = tuple[tuple[int, int], ...]
"""(components, Gaussians of each) of the Sersic and the point components, in stacking order."""


def _parts(groups: Groups):
    """(slice of the Gaussians, components) of every group that is not empty."""
    start = 0
    for n_component, n_gauss in groups:
        stop = start + n_component * n_gauss
        if stop > start:
            yield slice(start, stop), n_component
        start = stop


def _basis_images(form, images: TileImages, basis, groups: Groups) -> Array:
    """Images [L, tiles, 64] of every component at unit flux and of the sky."""
    out = []
    for part, n_component in _parts(groups):
        # a sum of products, not a batch of small matrix products, which are slow on CPUs
        image = images.value[:, part] * form[0, part, None]
        image = image.reshape(len(image), n_component, -1, TILE_PIXELS).sum(2)
        out.append(jnp.swapaxes(image, 0, 1))
    return jnp.concatenate([*out, basis])


def _block(form, coefficients, patch, reference, mode, groups, block):
    """Images [L, tiles, 64], what they are made of, model, data and weight of a block."""
    e = patch.block_exposure[block]
    tile = block_images(form, patch, mode, block)
    images = _basis_images(form[e], tile, sky_basis(patch, block), groups)
    model = (coefficients[e][:, None, None] * images).sum(0)
    return images, tile, model, tiles_of(patch.data, block), tiles_of(patch.ierr, block)


def _forward_block(form, coefficients, patch, reference, mode, groups, block):
    images, _, model, data, ierr = _block(form, coefficients, patch, reference, mode, groups, block)
    m0 = 0.0 if reference is None else tiles_of(reference, block)
    delta = (ierr * ierr * (m0 - model) * (2.0 * data - m0 - model)).sum()
    weighted = (images * ierr).reshape(len(images), -1)
    residual = (ierr * (data - model)).reshape(-1)
    gradient = -jnp.matmul(weighted, residual, precision=HIGHEST)
    return delta, (gradient, jnp.matmul(weighted, weighted.T, precision=HIGHEST))


def _backward_block(form, coefficients, bars, patch, mode, groups, block):
    """Gradient with respect to the forms [6, n] of the block's exposure."""
    e = patch.block_exposure[block]
    images, tile, model, data, ierr = _block(form, coefficients, patch, None, mode, groups, block)
    a, (delta_bar, gradient_bar, matrix_bar) = coefficients[e], (b[e] for b in bars)
    mixing = matrix_bar + matrix_bar.T + a[:, None] * gradient_bar
    pull = 2.0 * delta_bar * a + gradient_bar
    u = jnp.einsum("kl,ltx->ktx", mixing, images, precision=HIGHEST)
    u = ierr * ierr * (u - pull[:, None, None] * (data - model))
    # every Gaussian with the weights of its component
    own, first = [], 0
    for part, n_component in _parts(groups):
        each = (part.stop - part.start) // n_component
        own.append(jnp.repeat(u[first : first + n_component], each, axis=0))
        first += n_component
    own = jnp.swapaxes(jnp.concatenate(own), 0, 1)
    tiles = patch.tile_x[block], patch.tile_y[block]
    bar = form_gradient(form[e], tile, own, *tiles, patch.pixel_term[e], mode)
    return jnp.zeros((), u.dtype), bar


@partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def linear_normal(
    gauss: Array,
    coefficients: Array,
    patch: Patch,
    reference: Array | None,
    mode: PixelMode,
    groups: Groups,
    width: int = 1,
) -> tuple[TwoSum, Array, Array]:
    """chi2 and the normal equations of all linear coefficients, per exposure.

    Differentiable in reverse mode with respect to Gaussians and coefficients, once.

    Parameters
    ----------
    gauss : Array
        [E, 6, n] stacked Gaussians of components of unit flux.
    coefficients : Array
        [E, L] fluxes of the components in the image's unit, then the three of the sky.
    patch : Patch
    reference : Array or None
        [M, N] model m0 that chi2 is relative to; None is zero.
    mode : str
        Pixel integration.
    groups : tuple
        See `Groups`.
    width : int
        Blocks per step: 1 on CPUs, tens on GPUs.

    Returns
    -------
    chi2 : TwoSum
        [E]
    gradient : Array
        [E, L] half the derivative of chi2 by the coefficients, -J^T W (d - m).
    matrix : Array
        [E, L, L] J^T W J.
    """
    form = quadratic_form(gauss, patch.pixel_term, mode)
    one = partial(_forward_block, form, coefficients, patch, reference, mode, groups)
    chi2, (gradient, matrix) = sum_blocks(one, patch, width)
    return chi2, gradient, matrix


def _forward(gauss, coefficients, patch, reference, mode, groups, width):
    out = linear_normal(gauss, coefficients, patch, reference, mode, groups, width)
    return out, (gauss, coefficients, patch, out[1], out[2])


def _backward(mode, groups, width, saved, bars):
    gauss, coefficients, patch, gradient, matrix = saved
    (delta_bar, _), gradient_bar, matrix_bar = bars
    form, pullback = jax.vjp(lambda g: quadratic_form(g, patch.pixel_term, mode), gauss)
    own = (delta_bar, gradient_bar, matrix_bar)
    one = partial(_backward_block, form, coefficients, own, patch, mode, groups)
    form_bar = sum_blocks(one, patch, width)[1]
    coefficient_bar = 2.0 * delta_bar[:, None] * gradient + jnp.einsum(
        "elk,ek->el", matrix, gradient_bar, precision=HIGHEST
    )
    return *pullback(form_bar), coefficient_bar, None, None


linear_normal.defvjp(_forward, _backward)
