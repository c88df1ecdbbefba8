"""Model images on a patch's pixels, and of free-standing mixtures on a grid."""

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxpho.core.gaussians import Gaussians, stack
from jaxpho.core.likelihood import block_coefficients, block_model, block_values
from jaxpho.core.patch import Patch
from jaxpho.core.pixel import TILE, PixelMode


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
        [M, N] in image units, padding included.
    """

    def one(block):
        return block_model(gauss, sky, patch, mode, block).reshape(-1)

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

    def tile(k):
        x = ((k % columns) * TILE + half).astype(dtype)
        y = ((k // columns) * TILE + half).astype(dtype)
        coefficients = block_coefficients(
            stacked, x[None], y[None], jnp.asarray(pixel_term, dtype), mode
        )
        return block_values(*coefficients, mode)[1].sum((0, 1))

    tiles = lax.map(jax.checkpoint(tile), jnp.arange(rows * columns))
    # within a tile x leads: [row, column, i (x), j (y)] -> [row, j, column, i]
    image = tiles.reshape(rows, columns, TILE, TILE).transpose(0, 3, 1, 2)
    return image.reshape(rows * TILE, columns * TILE)[:ny, :nx]
