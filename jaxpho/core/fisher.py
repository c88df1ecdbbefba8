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

from jaxpho.core.blocks import TwoSum, sum_blocks
from jaxpho.core.likelihood import (
    HIGHEST,
    block_images,
    block_sky,
    sky_basis,
    sum_images,
    tiles_of,
)
from jaxpho.core.patch import Patch
from jaxpho.core.pixel import TILE_PIXELS, PixelMode, derivative_images, quadratic_form
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


class _Group(NamedTuple):
    """Components of one kind: their number, rows of Gaussians, how many in each, derivatives.

    ``member`` [components, rows] says which rows make up a component; None: one row each.
    """

    n_component: int
    rows: int
    n_gauss: int
    n_row: int
    member: Array | None = None


def _sersic_group(n_component: int, patch: Patch, n_row: int, dtype) -> _Group:
    if patch.terms is None:
        return _Group(n_component, n_component, patch.psf_bin.shape[-1], n_row)
    component = patch.terms.component
    member = (jnp.arange(n_component)[:, None] == component).astype(dtype)
    return _Group(n_component, *patch.terms.bin.shape[1:], n_row, member)


def _row_tangents(
    rows: Rows, scene: Scene, patch: Patch, mixture: Mixture, mode: PixelMode, n_row: int
) -> Array:
    """Derivative of all forms with respect to their own component's row: [R, E, 6, n]."""

    def forms(r):
        return quadratic_form(row_gaussians(r, scene, patch, mixture), patch.pixel_term, mode)

    def push(k):
        def direction(a):
            return jnp.zeros_like(a).at[..., k].set(1.0)

        n_point = rows.point.shape[-1]
        point = direction(rows.point) if k < n_point else jnp.zeros_like(rows.point)
        tangent = Rows(direction(rows.sersic), point, jnp.zeros_like(rows.sky))
        return jax.jvp(forms, (rows,), (tangent,))[1]

    return jnp.stack([push(k) for k in range(n_row)])


def _component_images(derivatives: list[Array], tangents: Array, n_component: int) -> Array:
    """Images [C, R, pixels] of the derivative of each component along each row entry.

    ``derivatives`` F times [tiles, C * P, 64] are those of each Gaussian by the first entries of
    its form, ``tangents`` [R, F, C * P] those of the entries by the row.
    """
    n_tiles, (n_row, n_form, _) = derivatives[0].shape[0], tangents.shape
    tangents = tangents.reshape(n_row, n_form, n_component, -1).transpose(1, 2, 0, 3)
    images = 0.0
    for image, tangent in zip(derivatives, tangents, strict=True):
        image = image.reshape(n_tiles, n_component, -1, TILE_PIXELS)
        tangent = jnp.broadcast_to(tangent, (n_tiles, *tangent.shape))
        images = images + jnp.matmul(tangent, image, precision=HIGHEST)
    return images.transpose(1, 2, 0, 3).reshape(n_component, n_row, -1)


def _block_images(form, tangents, rows, patch, mode, groups, block):
    """Model [tiles, 64] of a block, and its derivatives by its exposure's rows and sky [L, N]."""
    e = patch.block_exposure[block]
    tile = block_images(form, patch, mode, block)
    # a flux changes the norms alone
    n_form = tangents.shape[2]
    derivatives = (tile.value,) if n_form == 1 else derivative_images(form[e], tile)
    basis = sky_basis(patch, block)
    model = sum_images(form[e, 0], tile.value) + block_sky(rows.sky[e], basis)
    images, start = [], 0
    for group in groups:
        part = slice(start, start + group.rows * group.n_gauss)
        if group.rows * group.n_gauss * group.n_row:
            image = _component_images(
                [a[:, part] for a in derivatives], tangents[: group.n_row, e, :, part], group.rows
            )
            if group.member is not None:
                image = jnp.tensordot(group.member, image, 1, precision=HIGHEST)
            images.append(image.reshape(group.n_component * group.n_row, -1))
        start = part.stop
    images.append(basis.reshape(3, -1))
    return model, jnp.concatenate(images)


def _fisher_block(form, tangents, rows, patch, reference, mode, groups, block):
    """chi2, gradient and matrix of one block with respect to its exposure's rows and sky."""
    model, images = _block_images(form, tangents, rows, patch, mode, groups, block)
    data, ierr = tiles_of(patch.data, block), tiles_of(patch.ierr, block)
    m0 = 0.0 if reference is None else tiles_of(reference, block)
    delta = (ierr * ierr * (m0 - model) * (2.0 * data - m0 - model)).sum()
    weighted = images * ierr.reshape(-1)
    residual = (ierr * (data - model)).reshape(-1)
    gradient = -jnp.matmul(weighted, residual, precision=HIGHEST)
    matrix = jnp.matmul(weighted, weighted.T, precision=HIGHEST)
    return delta, (gradient, matrix)


def _prepare(rows, scene, patch, mixture, mode, linear_only):
    """Forms of the Gaussians, their tangents by the rows, and the groups of components."""
    gauss = row_gaussians(rows, scene, patch, mixture)
    form = quadratic_form(gauss, patch.pixel_term, mode)
    n_sersic, n_point = rows.sersic.shape[-1], rows.point.shape[-1]
    if linear_only:
        n_sersic = n_point = 1
    tangents = _row_tangents(rows, scene, patch, mixture, mode, n_sersic)
    if linear_only:
        tangents = tangents[:, :, :1]
    groups = (
        _sersic_group(rows.sersic.shape[1], patch, n_sersic, gauss.dtype),
        _Group(rows.point.shape[1], rows.point.shape[1], patch.psf_point.flux.shape[-1], n_point),
    )
    return form, tangents, groups


def row_images(
    rows: Rows,
    scene: Scene,
    patch: Patch,
    mixture: Mixture,
    mode: PixelMode,
    linear_only: bool = False,
) -> tuple[Array, Array]:
    """Model [M, N], and its derivatives [M, L, N] by the rows of each block's exposure.

    L as for `row_normal`. This is all of the Jacobian that there is: for what couples pixels of
    different blocks, such as correlated noise.
    """
    form, tangents, groups = _prepare(rows, scene, patch, mixture, mode, linear_only)

    def draw(block):
        model, images = _block_images(form, tangents, rows, patch, mode, groups, block)
        return model.reshape(-1), images

    shapes = jax.eval_shape(draw, jax.ShapeDtypeStruct((), jnp.int32))
    empty = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

    def one(block):
        return lax.cond(block < patch.n_blocks, draw, lambda _: empty, block)

    return lax.map(one, jnp.arange(patch.data.shape[0]))


def row_normal(
    rows: Rows,
    scene: Scene,
    patch: Patch,
    mixture: Mixture,
    reference: Array | None,
    mode: PixelMode,
    linear_only: bool = False,
    width: int = 1,
) -> tuple[TwoSum, Array, Array]:
    """chi2 [E], gradient [E, L] and matrix [E, L, L] with respect to each exposure's rows.

    L runs over Sersic components x 7, point components x 3, sky x 3; with ``linear_only`` over
    the fluxes (one per component) and the sky.
    """
    form, tangents, groups = _prepare(rows, scene, patch, mixture, mode, linear_only)
    one = partial(_fisher_block, form, tangents, rows, patch, reference, mode, groups)
    chi2, (gradient, matrix) = sum_blocks(one, patch, width)
    return chi2, gradient, matrix


def flat_rows(rows: Rows, linear_only: bool = False) -> Array:
    """The values of rows in the order of the matrices, [E, L]."""
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
    width: int = 1,
) -> Normal:
    """chi2, gradient and Fisher matrix of the parameters by the fused pass.

    Parameters
    ----------
    theta : Array
        [n] parameters, see `scene`.
    linear_only : bool
        Differentiate with respect to fluxes and sky only (other rows and columns are zero, but
        those of nuisances that scale or share these): six times cheaper.
    width : int
        Blocks per step: 1 on CPUs, tens on GPUs.

    Returns
    -------
    Normal
    """
    rows = scene_rows(theta, scene, patch)
    found = row_normal(rows, scene, patch, mixture, reference, mode, linear_only, width)
    return gather_normal(theta, scene, patch, *found, linear_only)


def gather_normal(
    theta: Array,
    scene: Scene,
    patch: Patch,
    chi2: TwoSum,
    gradient: Array,
    matrix: Array,
    linear_only: bool = False,
) -> Normal:
    """Normal equations of the parameters from those of each exposure's rows, see `row_normal`."""
    jacobian = jax.jacfwd(lambda t: flat_rows(scene_rows(t, scene, patch), linear_only))(theta)
    gradient = jnp.einsum("eln,el->n", jacobian, gradient, precision=HIGHEST)
    half = jnp.einsum("elk,ekn->eln", matrix, jacobian, precision=HIGHEST)
    fisher = jnp.einsum("elm,eln->mn", jacobian, half, precision=HIGHEST)
    return Normal(chi2, gradient, fisher)
