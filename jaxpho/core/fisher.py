"""Second fused pass: the Fisher matrix J^T W J and the gradient, without storing J.

Per exposure the model depends on the rows of its components only (7 numbers a Sersic, 3 a point,
3 for the sky). On each block the derivative images with respect to those rows are formed from the
same exponentials as the model, weighted, and their products added up. The matrix of the actual
parameters follows from the (sparse, exact) Jacobian of the rows with respect to them.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxpho.core.likelihood import (
    _HIGHEST,
    TwoSum,
    _tiles,
    block_coefficients,
    block_sky,
    block_values,
    sky_basis,
    two_sum_add,
)
from jaxpho.core.patch import Patch
from jaxpho.core.pixel import PixelMode, polynomial_basis, tile_basis
from jaxpho.core.scene import Mixture, Rows, Scene, row_gaussians, scene_rows


class Normal(NamedTuple):
    """Normal equations of a scene at a point.

    Attributes
    ----------
    chi2 : TwoSum
        [E] chi2 relative to the reference model.
    gradient : Array
        [n] d chi2 / d theta / 2, i.e. -J^T W r.
    fisher : Array
        [n, n] J^T W J.
    """

    chi2: TwoSum
    gradient: Array
    fisher: Array


def _row_tangents(rows: Rows, scene: Scene, patch: Patch, mixture: Mixture, n_row: int) -> Array:
    """Derivative of all Gaussians with respect to their own component's row: [R, E, 6, n]."""

    def push(k):
        def direction(a):
            return jnp.zeros_like(a).at[..., k].set(1.0)

        n_point = rows.point.shape[-1]
        point = direction(rows.point) if k < n_point else jnp.zeros_like(rows.point)
        tangent = Rows(direction(rows.sersic), point, jnp.zeros_like(rows.sky))
        return jax.jvp(lambda r: row_gaussians(r, scene, patch, mixture), (rows,), (tangent,))[1]

    return jnp.stack([push(k) for k in range(n_row)])


def _derivative_images(exponential, values, exponent_dot, polynomial_dot, mode, components):
    """Images [R, C, tiles, 64] of the derivative of each component along each row entry."""
    dtype = values.dtype
    n_component, n_gauss = components

    def contract(dot, image, basis):
        if dot.shape[-1] == 0:
            return 0.0
        r, t = dot.shape[:2]
        dot = dot.reshape(r, t, n_component, n_gauss, -1)
        image = image.reshape(t, n_component, n_gauss, -1)
        inner = jnp.einsum("rtcpi,tcpx->rtcix", dot, image, precision=_HIGHEST)
        return (inner * basis).sum(-2)

    phi = jnp.asarray(tile_basis(2, dtype))
    psi = jnp.asarray(polynomial_basis(mode, dtype))
    out = contract(exponent_dot, values, phi) + contract(polynomial_dot, exponential, psi)
    return out.transpose(0, 2, 1, 3)


def _fisher_block(gauss, tangents, rows, patch, reference, mode, groups, block):
    """chi2, gradient and matrix of one block with respect to its exposure's rows and sky."""
    e = patch.block_exposure[block]

    def coefficients(g):
        return block_coefficients(
            g, patch.tile_x[block], patch.tile_y[block], patch.pixel_term[e], mode
        )

    exponent, polynomial = coefficients(gauss[e])
    _, push = jax.linearize(coefficients, gauss[e])
    exponent_dot, polynomial_dot = jax.vmap(push)(tangents[:, e])
    exponential, values = block_values(exponent, polynomial, mode)
    basis = sky_basis(patch, block)
    model = values.sum(1) + block_sky(rows.sky[e], basis)
    data, ierr = _tiles(patch.data, block), _tiles(patch.ierr, block)
    m0 = 0.0 if reference is None else _tiles(reference, block)
    delta = (ierr * ierr * (m0 - model) * (2.0 * data - m0 - model)).sum()
    images, start = [], 0
    for n_component, n_gauss, n_row in groups:
        if n_component * n_gauss * n_row:
            part = slice(start, start + n_component * n_gauss)
            image = _derivative_images(
                exponential[:, part],
                values[:, part],
                exponent_dot[:n_row, :, part],
                polynomial_dot[:n_row, :, part],
                mode,
                (n_component, n_gauss),
            )
            # component-major, as Rows flatten
            images.append(jnp.swapaxes(image, 0, 1).reshape(n_component * n_row, -1))
        start += n_component * n_gauss
    images.append(basis.reshape(3, -1))
    weighted = jnp.concatenate(images) * ierr.reshape(-1)
    residual = (ierr * (data - model)).reshape(-1)
    gradient = -jnp.matmul(weighted, residual, precision=_HIGHEST)
    matrix = jnp.matmul(weighted, weighted.T, precision=_HIGHEST)
    return e, delta, gradient, matrix


def row_normal(
    rows: Rows,
    scene: Scene,
    patch: Patch,
    mixture: Mixture,
    reference: Array | None,
    mode: PixelMode,
    linear_only: bool = False,
) -> tuple[TwoSum, Array, Array]:
    """chi2 [E], gradient [E, L] and matrix [E, L, L] with respect to each exposure's rows.

    L runs over Sersic components x 7, point components x 3, sky x 3; with ``linear_only`` over
    the fluxes (one per component) and the sky.
    """
    gauss = row_gaussians(rows, scene, patch, mixture)
    n_sersic, n_point = rows.sersic.shape[-1], rows.point.shape[-1]
    if linear_only:
        n_sersic = n_point = 1
    tangents = _row_tangents(rows, scene, patch, mixture, n_sersic)
    groups = (
        (rows.sersic.shape[1], patch.psf_bin.shape[-1], n_sersic),
        (rows.point.shape[1], patch.psf_point.flux.shape[-1], n_point),
    )
    n_local = sum(c * r for c, p, r in groups if p) + 3
    n_exposures, dtype = patch.n_exposures, gauss.dtype
    zero = jnp.zeros(n_exposures, dtype)
    carry = (
        TwoSum(zero, zero),
        jnp.zeros((n_exposures, n_local), dtype),
        jnp.zeros((n_exposures, n_local, n_local), dtype),
    )
    one = partial(_fisher_block, gauss, tangents, rows, patch, reference, mode, groups)

    def step(i, carry):
        total, gradient, matrix = carry
        e, delta, g, f = one(i)
        new = two_sum_add(TwoSum(total.high[e], total.low[e]), delta)
        total = TwoSum(total.high.at[e].set(new.high), total.low.at[e].set(new.low))
        return total, gradient.at[e].add(g), matrix.at[e].add(f)

    return lax.fori_loop(0, patch.n_blocks, step, carry)


def _flat_rows(rows: Rows, linear_only: bool) -> Array:
    n = 1 if linear_only else None
    e = rows.sky.shape[0]
    parts = (rows.sersic[..., :n], rows.point[..., :n], rows.sky)
    return jnp.concatenate([p.reshape(e, -1) for p in parts], -1)


def normal_equations(
    theta: Array,
    scene: Scene,
    patch: Patch,
    mixture: Mixture,
    reference: Array | None = None,
    mode: PixelMode = "fourth",
    linear_only: bool = False,
) -> Normal:
    """chi2, gradient and Fisher matrix of the parameters by the fused pass.

    Parameters
    ----------
    theta : Array
        [n] parameters, see `scene`.
    linear_only : bool
        Differentiate with respect to fluxes and sky only (other rows and columns are zero, but
        those of nuisances that scale or share these): six times cheaper.

    Returns
    -------
    Normal
    """
    rows = scene_rows(theta, scene, patch)
    chi2, gradient, matrix = row_normal(rows, scene, patch, mixture, reference, mode, linear_only)
    jacobian = jax.jacfwd(lambda t: _flat_rows(scene_rows(t, scene, patch), linear_only))(theta)
    gradient = jnp.einsum("eln,el->n", jacobian, gradient, precision=_HIGHEST)
    half = jnp.einsum("elk,ekn->eln", matrix, jacobian, precision=_HIGHEST)
    fisher = jnp.einsum("elm,eln->mn", jacobian, half, precision=_HIGHEST)
    return Normal(chi2, gradient, fisher)
