"""Pixels of images as 8x8 tiles (super-pixels), the order the kernels and stores use.

Within a tile x leads: pixel k = 8 i + j is (x0 + i, y0 + j). Tiles sit on the grid of multiples
of eight from the image's corner; pixels beyond the image's edge are padding with ierr = 0.
"""

from typing import NamedTuple

import numpy as np

from jaxpho.core.pixel import TILE, TILE_PIXELS


class TileSet(NamedTuple):
    """The tiles of one exposure.

    Attributes
    ----------
    x0, y0 : ndarray
        [t] int, lower corner of each tile in the exposure's pixels.
    data, ierr : ndarray
        [t, 64] flux and 1/sigma.
    """

    x0: np.ndarray
    y0: np.ndarray
    data: np.ndarray
    ierr: np.ndarray


def superpixels(image: np.ndarray) -> np.ndarray:
    """An image [ny, nx] in super-pixel order, [nx/8, ny/8, 64], padded with zeros."""
    ny, nx = image.shape
    image = np.pad(image, ((0, -ny % TILE), (0, -nx % TILE)))
    rows, columns = image.shape[0] // TILE, image.shape[1] // TILE
    # [row, j, column, i] -> [column, row, i, j]
    blocks = image.reshape(rows, TILE, columns, TILE).transpose(2, 0, 3, 1)
    return blocks.reshape(columns, rows, TILE_PIXELS)


def cut_tiles(data: np.ndarray, ierr: np.ndarray, select: np.ndarray | None = None) -> TileSet:
    """Tiles of an image.

    Parameters
    ----------
    data, ierr : ndarray
        [ny, nx] flux and 1/sigma.
    select : ndarray, optional
        [ny, nx] bool, pixels wanted; a tile is kept when one of its pixels is wanted and one is
        unmasked. By default every tile with an unmasked pixel is kept.

    Returns
    -------
    TileSet
        In C order of (tile x, tile y), as forcepho orders its super-pixels.
    """
    tile_data, tile_ierr = superpixels(data), superpixels(ierr)
    wanted = (tile_ierr > 0).any(-1)
    if select is not None:
        wanted &= superpixels(select).any(-1)
    column, row = np.nonzero(wanted)
    return TileSet(column * TILE, row * TILE, tile_data[column, row], tile_ierr[column, row])


def tiles_of(select: np.ndarray) -> np.ndarray:
    """Whether a pixel of each super-pixel is selected: [ny, nx] bool -> [nx/8, ny/8]."""
    return _any(select).T


def count_tiles(ierr: np.ndarray, select: np.ndarray | None = None) -> tuple[int, int]:
    """How many tiles `cut_tiles` would keep of an image of these 1/sigma, and unmasked pixels."""
    keep = _any(ierr > 0) & (True if select is None else _any(select))
    ny, nx = ierr.shape
    inside = np.repeat(np.repeat(keep, TILE, 0), TILE, 1)[:ny, :nx]
    return int(keep.sum()), int((inside & (ierr > 0)).sum())


def _any(image: np.ndarray) -> np.ndarray:
    """Whether a pixel of each tile is set."""
    ny, nx = image.shape
    image = np.pad(image, ((0, -ny % TILE), (0, -nx % TILE)))
    return image.reshape(image.shape[0] // TILE, TILE, -1, TILE).any((1, 3))


def tiles_from_pixels(x: np.ndarray, y: np.ndarray, data: np.ndarray, ierr: np.ndarray) -> TileSet:
    """Tiles from flat lists of pixels, in any order, as other codes pack them.

    Pixels of a tile that are not in the lists are padding. A list already in super-pixel order
    keeps its order of tiles.

    Parameters
    ----------
    x, y : ndarray
        [n] integer pixel coordinates.
    data, ierr : ndarray
        [n] flux and 1/sigma.

    Raises
    ------
    ValueError
        When a pixel is listed more than once.
    """
    x, y = (np.rint(np.asarray(v)).astype(np.int64) for v in (x, y))
    corner = np.stack([x // TILE, y // TILE], -1)
    keys, first, tile = np.unique(corner, axis=0, return_index=True, return_inverse=True)
    rank = np.empty(len(keys), np.int64)
    order = np.argsort(first, kind="stable")
    rank[order] = np.arange(len(keys))
    tile = rank[tile.reshape(-1)]
    keys = keys[order]
    k = (x % TILE) * TILE + y % TILE
    if len(np.unique(tile * TILE_PIXELS + k)) < len(k):
        raise ValueError("a pixel is listed more than once")
    out = np.zeros((2, len(keys), TILE_PIXELS), np.float64)
    out[0, tile, k], out[1, tile, k] = data, ierr
    return TileSet(keys[:, 0] * TILE, keys[:, 1] * TILE, out[0], out[1])
