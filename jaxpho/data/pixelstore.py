"""The pixel store: fluxes and inverse errors of all exposures, in super-pixel order (HDF5).

``BAND/exposure id/data`` is float32 [nx/8, ny/8, 128]: 64 fluxes, then 64 values of 1/sigma. It
leads with x; inside a super-pixel k = 8 i + j is the pixel (8 I + i, 8 J + j). An exposure id may
contain "/": its parts are nested groups. This is forcepho's format. Two things are ours, and may
be missing: images of any size, whose true (nx, ny) is the attribute ``nside`` of the data set, and
chunks, so that reading a few super-pixels reads little more than these.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path

import h5py
import numpy as np

from jaxpho.core.pixel import TILE, TILE_PIXELS
from jaxpho.data.hdf5 import open_hdf5, writing
from jaxpho.data.tiles import superpixels
from jaxpho.errors import InputError

CHUNK = 8
"""Super-pixels per side of a chunk: 64 x 64 pixels, 32 kB."""

CACHE_BYTES = 1 << 30
"""Memory for whole images that are asked for one after the other."""

SPARSE = 0.25
"""A selection that fills less of its bounding box than this is read row by row."""


class PixelStore:
    """A pixel store, open for reading; use it in a `with` block or close it.

    Parameters
    ----------
    path : HDF5 file.

    Raises
    ------
    InputError
        When the file is missing, truncated, foreign, or lacks `nside_full` or
        `super_pixel_size`.
    """

    def __init__(self, path):
        self.path = Path(path)
        self._file = open_hdf5(path, "pixel store")
        self._images: OrderedDict = OrderedDict()
        try:
            self.nside_full = self._nside_full()
        except BaseException:
            self.close()
            raise

    def _nside_full(self) -> tuple[int, int]:
        where, attrs = f"pixel store {self.path}", self._file.attrs
        for name in ("nside_full", "super_pixel_size"):
            if name not in attrs:
                raise InputError(f"{where} lacks the attribute '{name}': not a pixel store")
            values = np.asarray(attrs[name])
            if values.dtype.kind not in "iu" or values.size not in (1, 2) or values.min() < 1:
                raise InputError(
                    f"{where}: attribute '{name}' is {values.tolist()!r}, expected whole numbers"
                )
        if np.any(np.asarray(attrs["super_pixel_size"]) != TILE):
            raise InputError(
                f"{where}: super_pixel_size is {attrs['super_pixel_size']}, expected {TILE}"
            )
        nx, ny = np.broadcast_to(attrs["nside_full"], 2)
        return int(nx), int(ny)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def exposures(self) -> Iterator[tuple[str, str]]:
        """(band, exposure id) of every exposure: reads the names in the whole file."""
        found: list[str] = []

        def visit(path):
            if path.endswith("/data") and path.count("/") >= 2:
                found.append(path)

        try:
            self._file.visit_links(visit)
        except (OSError, RuntimeError) as error:
            raise InputError(f"pixel store {self.path} is damaged ({_reason(error)})") from None
        # an id may have a part that is called data
        groups = {path[: at.start() + 5] for path in found for at in re.finditer("/data/", path)}
        for path in found:
            if path not in groups:
                band, _, name = path.removesuffix("/data").partition("/")
                yield band, name

    def __contains__(self, key: tuple[str, str]) -> bool:
        return f"{key[0]}/{key[1]}/data" in self._file

    def where(self, band: str, name: str) -> str:
        """Names an exposure's data set in errors."""
        return f"pixel store {self.path}, {band}/{name}/data"

    def _data(self, band: str, name: str) -> h5py.Dataset:
        where = self.where(band, name)
        try:
            node = self._file.get(f"{band}/{name}/data")
        except (OSError, RuntimeError, ValueError) as error:
            raise InputError(f"{where}: cannot be read ({_reason(error)})") from None
        if node is None:
            raise InputError(f"{where}: the pixel store has no such exposure")
        if not isinstance(node, h5py.Dataset):
            raise InputError(f"{where}: found a group, expected a data set")
        if node.dtype.kind != "f" or node.dtype.itemsize != 4:
            raise InputError(f"{where}: dtype is {node.dtype}, expected float32")
        if node.ndim != 3 or node.shape[2] != 2 * TILE_PIXELS:
            raise InputError(
                f"{where}: shape is {node.shape}, expected (nx/8, ny/8, {2 * TILE_PIXELS})"
            )
        return node

    def attrs(self, band: str, name: str) -> dict:
        """Attributes of an exposure: counts_to_flux, flux_units, image_name ..."""
        return dict(self._data(band, name).attrs)

    def size(self, band: str, name: str) -> tuple[int, int]:
        """(nx, ny) of an exposure's image, padding to whole super-pixels left out.

        Raises
        ------
        InputError
            When the data set's shape is neither that of its own `nside` nor, without one, that
            of the store's `nside_full`.
        """
        node = self._data(band, name)
        own = "nside" in node.attrs
        nside = self.nside_full
        if own:
            values = np.asarray(node.attrs["nside"])
            if values.dtype.kind not in "iu" or values.shape != (2,) or values.min() < 1:
                raise InputError(
                    f"{self.where(band, name)}: attribute 'nside' is {values.tolist()!r}, expected "
                    "two whole numbers"
                )
            nside = tuple(values.tolist())
        expected = tuple(-(-n // TILE) for n in nside)
        if node.shape[:2] != expected:
            raise InputError(
                f"{self.where(band, name)}: shape is {node.shape}, expected "
                f"{(*expected, 2 * TILE_PIXELS)} for {'nside' if own else 'nside_full'} = {nside}"
            )
        return nside

    def superpixels(self, band: str, name: str, column, row) -> tuple[np.ndarray, np.ndarray]:
        """Some super-pixels of an exposure; no others are read, but for those of shared chunks.

        Parameters
        ----------
        band, name : exposure.
        column, row : ndarray
            [t] int, I and J.

        Returns
        -------
        flux, ierr : ndarray
            [t, 64] float32.

        Raises
        ------
        InputError
            For damaged data, fluxes that are not finite, negative inverse errors.
        """
        node = self._data(band, name)
        column, row = np.asarray(column, int), np.asarray(row, int)
        out = np.empty((len(column), 2 * TILE_PIXELS), np.float32)
        if len(column) == 0:
            return out[:, :TILE_PIXELS], out[:, TILE_PIXELS:]
        try:
            for part in _parts(column, row):
                i0, j0 = column[part].min(), row[part].min()
                box = node[i0 : column[part].max() + 1, j0 : row[part].max() + 1]
                out[part] = box[column[part] - i0, row[part] - j0]
        except OSError as error:
            raise InputError(
                f"{self.where(band, name)}: cannot be read ({_reason(error)})"
            ) from None
        flux, ierr = out[:, :TILE_PIXELS], out[:, TILE_PIXELS:]
        self._check(band, name, column, row, flux, ierr)
        return flux, ierr

    def _check(self, band, name, column, row, flux, ierr):
        for text, bad in (
            ("a flux that is not finite", ~np.isfinite(flux)),
            ("an inverse error that is not finite", ~np.isfinite(ierr)),
            ("a negative inverse error", ierr < 0),
        ):
            if bad.any():
                t, k = np.argwhere(bad)[0]
                x, y = TILE * column[t] + k // TILE, TILE * row[t] + k % TILE
                raise InputError(
                    f"{self.where(band, name)}: pixel x = {x}, y = {y} has {text} "
                    f"({int(bad.sum())} such pixels); masked pixels need inverse error 0"
                )

    def image(self, band: str, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Flux and 1/sigma of a whole exposure, [ny, nx] float32."""
        nx, ny = self.size(band, name)
        shape = -(-nx // TILE), -(-ny // TILE)
        column, row = (a.reshape(-1) for a in np.indices(shape))
        return tuple(
            flat_image(values.reshape(*shape, TILE, TILE))[:ny, :nx]
            for values in self.superpixels(band, name, column, row)
        )

    def cached_image(self, band: str, name: str) -> tuple[np.ndarray, np.ndarray]:
        """As `image`; the latest few, up to `CACHE_BYTES`, are kept in memory. Do not change them.

        Who reads images in turn, source by source, reads each of them once.
        """
        key = (band, name)
        if key not in self._images:
            self._images[key] = self.image(band, name)
            while len(self._images) > 1 and self._cached_bytes() > CACHE_BYTES:
                self._images.popitem(last=False)
        self._images.move_to_end(key)
        return self._images[key]

    def _cached_bytes(self) -> int:
        return sum(a.nbytes for pair in self._images.values() for a in pair)


def _reason(error) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _ids(group, prefix: str = "") -> Iterator[str]:
    for key, node in group.items():
        if isinstance(node, h5py.Group):
            yield from _ids(node, f"{prefix}{key}/")
        elif key == "data" and prefix:
            yield prefix[:-1]


def _parts(column, row):
    """Selections to read in one go each: all of it, or row by row where it is sparse."""
    box = (np.ptp(column) + 1) * (np.ptp(row) + 1)
    if len(column) >= SPARSE * box:
        return [np.arange(len(column))]
    return [np.flatnonzero(column == i) for i in np.unique(column)]


def flat_image(cube: np.ndarray) -> np.ndarray:
    """[I, J, i, j] -> [y, x]."""
    columns, rows = cube.shape[:2]
    return cube.transpose(1, 3, 0, 2).reshape(rows * TILE, columns * TILE)


def write_exposure(file, band: str, name: str, data, ierr, attrs: Mapping | None = None) -> None:
    """Write an exposure into an open HDF5 file.

    Parameters
    ----------
    file : h5py.File, open for writing.
    band, name : exposure; the name may contain "/".
    data, ierr : ndarray
        [ny, nx] flux and 1/sigma, any size; masked pixels have ierr = 0.
    attrs : further attributes: counts_to_flux, flux_units, image_name, ...

    Raises
    ------
    InputError
        For pixels that are not finite, negative inverse errors, an id that is used already or
        is the path to another.
    """
    where = f"exposure {band}/{name}"
    ny, nx = data.shape
    if ierr.shape != data.shape:
        raise InputError(f"{where}: inverse errors have shape {ierr.shape}, data {data.shape}")
    for text, bad in (
        ("fluxes that are not finite", ~np.isfinite(data)),
        ("inverse errors that are negative or not finite", ~(np.isfinite(ierr) & (ierr >= 0))),
    ):
        if bad.any():
            raise InputError(f"{where}: {int(bad.sum())} pixels have {text}")
    check_nesting(file, band, name)
    cube = np.concatenate([superpixels(data), superpixels(ierr)], -1).astype(np.float32)
    chunks = (*(min(CHUNK, n) for n in cube.shape[:2]), cube.shape[2])
    node = file.create_dataset(f"{band}/{name}/data", data=cube, chunks=chunks)
    node.attrs["nside"] = [nx, ny]
    node.attrs.update(attrs or {})


def check_nesting(file, band: str, name: str) -> None:
    """Raise unless an exposure can be a group of its own in an open store."""
    parts = name.split("/")
    if "" in parts or "." in parts or ".." in parts:
        raise InputError(f"exposure id '{name}' has an empty part, expected parts between '/'")
    for k in range(1, len(parts)):
        above = "/".join(parts[:k])
        if isinstance(file.get(f"{band}/{above}/data"), h5py.Dataset):
            raise InputError(f"exposure id '{above}' is the beginning of the path of '{name}'")
    here = file.get(f"{band}/{name}")
    if here is None:
        return
    if isinstance(here.get("data"), h5py.Dataset):
        raise InputError(f"exposure id '{name}' occurs twice in band {band}")
    inner = next(_ids(here), "")
    raise InputError(f"exposure id '{name}' is the beginning of the path of '{name}/{inner}'")


def write_pixel_store(path, exposures: Mapping, nside_full=None) -> None:
    """Write a pixel store in one step.

    Parameters
    ----------
    path : HDF5 file.
    exposures : (band, id) -> (data [ny, nx], ierr [ny, nx], attributes).
    nside_full : (nx, ny) of the file, which forcepho takes for the size of every image; default:
        the largest of all, padded to whole super-pixels.
    """
    if nside_full is None:
        sizes = [np.shape(data)[::-1] for data, _, _ in exposures.values()]
        nside_full = np.max(sizes, axis=0)
    with writing(path) as temporary, h5py.File(temporary, "w") as file:
        write_header(file, nside_full)
        for (band, name), (data, ierr, attrs) in exposures.items():
            write_exposure(file, band, name, np.asarray(data), np.asarray(ierr), attrs)


def write_header(file, nside_full) -> None:
    """The attributes of a pixel store's file."""
    file.attrs["nside_full"] = [-(-int(n) // TILE) * TILE for n in nside_full]
    file.attrs["super_pixel_size"] = TILE
