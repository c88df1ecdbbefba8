"""Model images on a patch's pixels, and of free-standing mixtures on a grid."""

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxpho.core.gaussians import Gaussians, stack
from jaxpho.core.likelihood import block_model, sum_images
from jaxpho.core.patch import Patch
from jaxpho.core.pixel import TILE, PixelMode, quadratic_form, tile_images


def render(gauss: Array, sky: Array, patch: Patch, mode: PixelMode = "fourth") -> Array:
    """Model of every pixel of a patch.

    Parameters
    ----------
    gauss : Array
        [E, 6, n] stacked Gaussians.
    sky : Array
        [E, 3] sky coefficients.
    patch : Patch
    mode : str
        Pixel integration.

    Returns
    -------
    Array
        [M, N] in image units, padding included; 0 in blocks that are padding.
    """
    form = quadratic_form(gauss, patch.pixel_term, mode)
    empty = jnp.zeros(patch.data.shape[1], form.dtype)

    def draw(block):
        return block_model(form, sky, patch, mode, block).reshape(-1)

    def one(block):
        # of a small patch most blocks are padding; unlike a loop that ends early, a condition
        # can be differentiated in reverse mode
        return lax.cond(block < patch.n_blocks, draw, lambda _: empty, block)

    return lax.map(one, jnp.arange(patch.data.shape[0]))


def render_image(
    g: Gaussians, shape: tuple[int, int], mode: PixelMode = "fourth", pixel_term: float = 1.0
) -> Array:
    """Image [ny, nx] of a sum of Gaussians on a grid with pixel (0, 0) at the origin.

    Parameters
    ----------
    g : Gaussians
        Fields [n].
    shape : tuple
        (ny, nx).
    mode : str
        Pixel integration.
    pixel_term : float
        0 when the PSF in the Gaussians includes the pixel.
    """
    ny, nx = shape
    rows, columns = -(-ny // TILE), -(-nx // TILE)
    half = (TILE - 1) / 2
    stacked = stack(g)
    dtype = stacked.dtype
    term = jnp.asarray(pixel_term, dtype)
    form = quadratic_form(stacked, term, mode)

    def tile(k):
        x = ((k % columns) * TILE + half).astype(dtype)
        y = ((k // columns) * TILE + half).astype(dtype)
        return sum_images(form[0], tile_images(form, x[None], y[None], term, mode).value)

    tiles = lax.map(jax.checkpoint(tile), jnp.arange(rows * columns))
    # within a tile x leads: [row, column, i (x), j (y)] -> [row, j, column, i]
    image = tiles.reshape(rows, columns, TILE, TILE).transpose(0, 3, 1, 2)
    return image.reshape(rows * TILE, columns * TILE)[:ny, :nx]
