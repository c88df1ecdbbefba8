"""chi2 and its gradient in one pass over the pixels.

The work unit is a pixel x Gaussian evaluation. A block of 8x8 tiles at a time, the Gaussians'
images are evaluated and summed to the model; their moments with the weighted residual, one matrix
product per tile, are all that the gradient with respect to every Gaussian's parameters needs. So
nothing of size pixels x Gaussians ever leaves the cache. chi2 is in delta form,

    chi2(m) - chi2(m0) = sum w (m0 - m) (2 d - m0 - m),

summed with compensation (see `blocks`). With reference m0 = 0 this is forcepho's sum
(r^2 - d^2)/sigma^2.

`delta_chi2` has the fused rule (reverse mode only). `plain_delta_chi2` is the same sum without
custom rules, for jvp and hessian.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxpho.core.blocks import TwoSum, sum_blocks
from jaxpho.core.patch import Patch
from jaxpho.core.pixel import (
    FORM_DERIVATIVE,
    TILE_PIXELS,
    PixelMode,
    TileImages,
    quadratic_form,
    tile_images,
    tile_monomials,
    tile_offsets,
)

HIGHEST = lax.Precision.HIGHEST  # on GPUs float32 products default to TF32


def block_images(form: Array, patch: Patch, mode: PixelMode, block: Array) -> TileImages:
    """Images of one exposure's Gaussians on a block; ``form`` is [E, 6, n]."""
    e = patch.block_exposure[block]
    tile_x, tile_y = patch.tile_x[block], patch.tile_y[block]
    return tile_images(form[e], tile_x, tile_y, patch.pixel_term[e], mode)


def sum_images(norm: Array, value: Array) -> Array:
    """Sum of Gaussians: norms [n] times values [tiles, n, 64]."""
    return jnp.einsum("n,tnx->tx", norm, value, precision=HIGHEST)


def sky_basis(patch: Patch, block: Array) -> Array:
    """Constant, x and y slope of the sky on a block, [3, tiles, 64]."""
    e = patch.block_exposure[block]
    x, y = tile_offsets()
    scale = 1.0 / patch.sky_scale[e]
    px = (patch.tile_x[block][:, None] + x.astype(patch.tile_x.dtype)) - patch.sky_center[e, 0]
    py = (patch.tile_y[block][:, None] + y.astype(patch.tile_y.dtype)) - patch.sky_center[e, 1]
    return jnp.stack([jnp.ones_like(px), px * scale, py * scale])


def block_sky(sky: Array, basis: Array) -> Array:
    """Sky [tiles, 64] from its three coefficients."""
    return sky[0] * basis[0] + sky[1] * basis[1] + sky[2] * basis[2]


def tiles_of(values: Array, block: Array) -> Array:
    """Pixels [tiles, 64] of one block of an [M, N] array."""
    return values[block].reshape(-1, TILE_PIXELS)


def _chi2_block(form, sky, patch, reference, mode, with_gradient, block):
    """Delta chi2 of a block, and its gradient with respect to forms [6, n] and sky [3]."""
    e = patch.block_exposure[block]
    images = block_images(form, patch, mode, block)
    basis = sky_basis(patch, block)
    model = sum_images(form[e, 0], images.value) + block_sky(sky[e], basis)
    data, ierr = tiles_of(patch.data, block), tiles_of(patch.ierr, block)
    weight = ierr * ierr
    m0 = 0.0 if reference is None else tiles_of(reference, block)
    delta = (weight * (m0 - model) * (2.0 * data - m0 - model)).sum()
    if not with_gradient:
        return delta, ()
    u = -2.0 * weight * (data - model)
    tiles = patch.tile_x[block], patch.tile_y[block]
    form_bar = form_gradient(form[e], images, u, *tiles, patch.pixel_term[e], mode)
    return delta, (form_bar, (basis * u).sum((1, 2)))


class _Moments(NamedTuple):
    """Sums over pixels of an image times 1, p, d, p^2, p d, d^2; [tiles, n]."""

    one: Array
    p: Array
    d: Array
    pp: Array
    pd: Array
    dd: Array


def form_gradient(form, images, u, tile_x, tile_y, pixel_term, mode):
    """Sum over a block's pixels of ``u`` times the derivatives of the model by the forms [6, n].

    ``u`` is [tiles, 64], or [tiles, n, 64] with weights of each Gaussian's own. The transpose of
    `pixel.derivative_images`. Moments are taken in the tile's own coordinates and moved to p and d
    afterwards: a matrix product with 6 columns for each image.
    """
    norm, x, y, f, slope, w = form
    d0 = tile_y[:, None] - y
    p0 = tile_x[:, None] - x - slope * d0
    monomials = tile_monomials(u.dtype)
    shared = u.ndim == 2
    weighted = jnp.swapaxes(u[:, None, :] * monomials, 1, 2) if shared else monomials.T

    def moments(image):
        raw = jnp.matmul(image if shared else image * u, weighted, precision=HIGHEST)
        one, mx, my, mxx, mxy, myy = (raw[..., i] for i in range(6))
        along = mx - slope * my
        p, d = p0 * one + along, d0 * one + my
        pp = p0 * (p + along) + mxx - slope * (2.0 * mxy - slope * myy)
        pd = d0 * p + p0 * my + mxy - slope * myy
        return _Moments(one, p, d, pp, pd, d0 * (d + my) + myy)

    a = moments(images.value)
    p_bar, d_bar = -f * a.p, -w * a.d
    f_bar, slope_bar, w_bar = -0.5 * a.pp, f * a.pd, -0.5 * a.dd
    if images.rx is not None:
        gx = moments(images.exponential * images.rx)
        gy = moments(images.exponential * images.ry)
        cx, cy = _form_derivative_sums(form, images, u, gx, gy, pixel_term, mode)
        fs = f * slope
        y_one, y_p, y_d = (
            w * e - fs * g for e, g in ((gy.d, gy.p), (gy.pd, gy.pp), (gy.dd, gy.pd))
        )
        p_bar += f * (f * gx.p - slope * y_one)
        d_bar += w * y_one
        f_bar += f * gx.pp - slope * y_p + cx + slope * slope * cy
        slope_bar += -f * (f * gx.pd - slope * y_d + y_p) + 2.0 * fs * cy
        w_bar += y_d + cy
    bars = (-p_bar, slope * p_bar - d_bar, f_bar, slope_bar, w_bar)
    return jnp.stack([a.one.sum(0), *(norm * bar.sum(0) for bar in bars)])


def _form_derivative_sums(form, images, u, gx, gy, pixel_term, mode):
    """Sums over pixels of u E dH/dF along both axes, [tiles, n]."""

    def total(image):
        if u.ndim == image.ndim:
            return (image * u).sum(-1)
        return jnp.matmul(image, u[..., None], precision=HIGHEST)[..., 0]

    if mode not in FORM_DERIVATIVE:
        return total(images.exponential * images.cx), total(images.exponential * images.cy)
    factor, rest = FORM_DERIVATIVE[mode]
    cx, cy = factor * gx.one, factor * gy.one
    if rest:
        f, slope, w = form[3:]
        constant = (rest * pixel_term) * total(images.exponential)
        cx, cy = cx + f * constant, cy + (f * slope * slope + w) * constant
    return cx, cy


def _accumulate(gauss, sky, patch, reference, mode, width, with_gradient):
    """The pass over the pixels, and the way back from forms to Gaussians."""
    form, pullback = jax.vjp(lambda g: quadratic_form(g, patch.pixel_term, mode), gauss)
    one = partial(_chi2_block, form, sky, patch, reference, mode, with_gradient)
    total, bars = sum_blocks(one, patch, width)
    if not with_gradient:
        return (total,)
    return total, *pullback(bars[0]), bars[1]


@partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def delta_chi2(
    gauss: Array,
    sky: Array,
    patch: Patch,
    reference: Array | None,
    mode: PixelMode = "fourth",
    width: int = 1,
) -> TwoSum:
    """chi2 relative to a reference model, per exposure, by the fused kernel.

    Differentiable in reverse mode with respect to ``gauss`` and ``sky`` (and so, through them, to
    sources, PSFs and astrometry); pixels and reference are constants.

    Parameters
    ----------
    gauss : Array
        [E, 6, n] stacked Gaussians of every exposure, see `gaussians.stack`.
    sky : Array
        [E, 3] sky constant and slopes, image unit per pixel.
    patch : Patch
    reference : Array or None
        [M, N] reference model m0; None is zero, forcepho's convention.
    mode : str
        Pixel integration, one of `pixel.PIXEL_MODES`.
    width : int
        Blocks per step: 1 on CPUs, hundreds on GPUs.

    Returns
    -------
    TwoSum
        [E] chi2(model) - chi2(reference).
    """
    return _accumulate(gauss, sky, patch, reference, mode, width, with_gradient=False)[0]


def _forward(gauss, sky, patch, reference, mode, width):
    total, gauss_bar, sky_bar = _accumulate(gauss, sky, patch, reference, mode, width, True)
    return total, (gauss_bar, sky_bar)


def _backward(mode, width, residuals, cotangent):
    gauss_bar, sky_bar = residuals
    scale = cotangent.high
    return gauss_bar * scale[:, None, None], sky_bar * scale[:, None], None, None


delta_chi2.defvjp(_forward, _backward)


def plain_delta_chi2(
    gauss: Array,
    sky: Array,
    patch: Patch,
    reference: Array | None = None,
    mode: PixelMode = "fourth",
) -> Array:
    """The same [E] sums without custom rules: any order of derivative, in forward mode too.

    Keeps pixels x Gaussians in memory when differentiated; meant for tests, hessians and models
    that are small.
    """

    form = quadratic_form(gauss, patch.pixel_term, mode)

    def body(total, block):
        e = patch.block_exposure[block]
        model = block_model(form, sky, patch, mode, block)
        weight = tiles_of(patch.ierr, block) ** 2
        m0 = 0.0 if reference is None else tiles_of(reference, block)
        delta = (weight * (m0 - model) * (2.0 * tiles_of(patch.data, block) - m0 - model)).sum()
        used = (block < patch.n_blocks).astype(delta.dtype)
        return total.at[e].add(delta * used), None

    blocks = jnp.arange(patch.data.shape[0])
    return lax.scan(body, jnp.zeros(patch.n_exposures, gauss.dtype), blocks)[0]


def block_model(form: Array, sky: Array, patch: Patch, mode: PixelMode, block: Array) -> Array:
    """Model [tiles, 64] of one block; ``form`` is [E, 6, n] from `pixel.quadratic_form`."""
    e = patch.block_exposure[block]
    images = block_images(form, patch, mode, block)
    return sum_images(form[e, 0], images.value) + block_sky(sky[e], sky_basis(patch, block))
