"""chi2 and its gradient in one pass over the pixels.

The work unit is a pixel x Gaussian evaluation. A block of 8x8 tiles at a time: exponents are one
small matrix product (coefficients x monomials), the model a sum over Gaussians, and the gradient
with respect to every Gaussian's parameters another product with the weighted residual, so nothing
of size pixels x Gaussians ever leaves the cache. chi2 is in delta form,

    chi2(m) - chi2(m0) = sum w (m0 - m) (2 d - m0 - m),

summed with compensation: in float32 a plain sum of a large patch loses the accept/reject decision
of the sampler. With reference m0 = 0 this is forcepho's sum (r^2 - d^2)/sigma^2.

`delta_chi2` has the fused rule (reverse mode only). `plain_delta_chi2` is the same sum without
custom rules, for jvp and hessian.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxpho.core.gaussians import Gaussians, unstack
from jaxpho.core.patch import Patch
from jaxpho.core.pixel import (
    TILE_PIXELS,
    PixelMode,
    polynomial_basis,
    tile_basis,
    tile_coefficients,
    tile_offsets,
)

_HIGHEST = lax.Precision.HIGHEST  # on GPUs float32 products default to TF32


class TwoSum(NamedTuple):
    """A sum and what rounding left over; the value is ``high + low``."""

    high: Array
    low: Array


def two_sum_add(total: TwoSum, term: Array) -> TwoSum:
    """Add a term, keeping the rounding error (Knuth's TwoSum)."""
    high = total.high + term
    part = high - total.high
    error = (total.high - (high - part)) + (term - part)
    return TwoSum(high, total.low + error)


def block_coefficients(
    stacked: Array, tile_x: Array, tile_y: Array, pixel_term: Array, mode: PixelMode
) -> tuple[Array, Array]:
    """Exponent [tiles, n, 6] and polynomial [tiles, n, nb] of one exposure's Gaussians [6, n]."""
    g = Gaussians(*(field[None, :] for field in unstack(stacked)))
    return tile_coefficients(g, tile_x[:, None], tile_y[:, None], pixel_term, mode)


def block_values(exponent: Array, polynomial: Array, mode: PixelMode) -> tuple[Array, Array]:
    """Exponential [tiles, n, 64] and value [tiles, n, 64] of every Gaussian on a block."""
    dtype = exponent.dtype
    phi = jnp.asarray(tile_basis(2, dtype))
    exponential = jnp.exp(jnp.matmul(exponent, phi, precision=_HIGHEST))
    if polynomial.shape[-1] == 1:
        return exponential, exponential * polynomial
    psi = jnp.asarray(polynomial_basis(mode, dtype))
    return exponential, exponential * jnp.matmul(polynomial, psi, precision=_HIGHEST)


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


def _tiles(values: Array, block: Array) -> Array:
    return values[block].reshape(-1, TILE_PIXELS)


def _chi2_block(gauss, sky, patch, reference, mode, block, with_gradient):
    """Delta chi2 of a block, and its gradient with respect to Gaussians [6, n] and sky [3]."""
    e = patch.block_exposure[block]
    coefficients, pullback = jax.vjp(
        lambda g: block_coefficients(
            g, patch.tile_x[block], patch.tile_y[block], patch.pixel_term[e], mode
        ),
        gauss[e],
    )
    exponential, values = block_values(*coefficients, mode)
    basis = sky_basis(patch, block)
    model = values.sum(1) + block_sky(sky[e], basis)
    data, ierr = _tiles(patch.data, block), _tiles(patch.ierr, block)
    weight = ierr * ierr
    m0 = 0.0 if reference is None else _tiles(reference, block)
    delta = (weight * (m0 - model) * (2.0 * data - m0 - model)).sum()
    if not with_gradient:
        return e, delta, None, None
    u = -2.0 * weight * (data - model)
    exponent_bar, polynomial_bar = _moments(exponential, values, u, mode)
    (gauss_bar,) = pullback((exponent_bar, polynomial_bar))
    return e, delta, gauss_bar, (basis * u).sum((1, 2))


def _moments(exponential: Array, values: Array, u: Array, mode: PixelMode):
    """Sums over a tile's pixels of u times values (exponentials) times the monomials."""
    dtype = values.dtype
    phi = jnp.asarray(tile_basis(2, dtype))
    psi = jnp.asarray(polynomial_basis(mode, dtype))

    def moment(a, basis):
        weighted = jnp.swapaxes(u[:, None, :] * basis, 1, 2)
        return jnp.matmul(a, weighted, precision=_HIGHEST)

    return moment(values, phi), moment(exponential, psi)


def _accumulate(gauss, sky, patch, reference, mode, width, with_gradient):
    """Loop over blocks, ``width`` at a time; padding blocks are never visited."""
    n_exposures, n_last = patch.n_exposures, patch.data.shape[0] - 1
    dtype = gauss.dtype
    zero = jnp.zeros(n_exposures, dtype)
    carry = (TwoSum(zero, zero),)
    if with_gradient:
        carry += (jnp.zeros_like(gauss), jnp.zeros_like(sky))
    one_block = partial(_chi2_block, gauss, sky, patch, reference, mode)

    def add(carry, e, delta, gauss_bar, sky_bar):
        total = carry[0]
        new = two_sum_add(TwoSum(total.high[e], total.low[e]), delta)
        out = (TwoSum(total.high.at[e].set(new.high), total.low.at[e].set(new.low)),)
        if with_gradient:
            out += (carry[1].at[e].add(gauss_bar), carry[2].at[e].add(sky_bar))
        return out

    if width == 1:

        def step(i, carry):
            return add(carry, *one_block(i, with_gradient))

        return lax.fori_loop(0, patch.n_blocks, step, carry)

    def wide_step(i, carry):
        blocks = i * width + jnp.arange(width)
        used = (blocks < patch.n_blocks).astype(dtype)
        blocks = jnp.minimum(blocks, n_last)
        e, delta, gauss_bar, sky_bar = jax.vmap(lambda b: one_block(b, with_gradient))(blocks)
        e = patch.block_exposure[blocks]
        sums = jax.ops.segment_sum(delta * used, e, n_exposures)
        out = (two_sum_add(carry[0], sums),)
        if with_gradient:
            out += (
                carry[1].at[e].add(gauss_bar * used[:, None, None]),
                carry[2].at[e].add(sky_bar * used[:, None]),
            )
        return out

    return lax.fori_loop(0, (patch.n_blocks + width - 1) // width, wide_step, carry)


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

    def body(total, block):
        e, delta, _, _ = _chi2_block_plain(gauss, sky, patch, reference, mode, block)
        used = (block < patch.n_blocks).astype(delta.dtype)
        return total.at[e].add(delta * used), None

    blocks = jnp.arange(patch.data.shape[0])
    return lax.scan(body, jnp.zeros(patch.n_exposures, gauss.dtype), blocks)[0]


def _chi2_block_plain(gauss, sky, patch, reference, mode, block):
    model = block_model(gauss, sky, patch, mode, block)
    weight = _tiles(patch.ierr, block) ** 2
    m0 = 0.0 if reference is None else _tiles(reference, block)
    delta = weight * (m0 - model) * (2.0 * _tiles(patch.data, block) - m0 - model)
    return patch.block_exposure[block], delta.sum(), None, None


def block_model(gauss: Array, sky: Array, patch: Patch, mode: PixelMode, block: Array) -> Array:
    """Model [tiles, 64] of one block."""
    e = patch.block_exposure[block]
    coefficients = block_coefficients(
        gauss[e], patch.tile_x[block], patch.tile_y[block], patch.pixel_term[e], mode
    )
    _, values = block_values(*coefficients, mode)
    return values.sum(1) + block_sky(sky[e], sky_basis(patch, block))
