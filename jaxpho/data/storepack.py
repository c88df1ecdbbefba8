"""Exposures whose pixels stay in the pixel store until a patch asks for them."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from jaxpho.core.pixel import TILE
from jaxpho.data.exposure import Nuisance
from jaxpho.data.metastore import MetaStore, header_number, open_meta_store
from jaxpho.data.noise import NoiseStatistics
from jaxpho.data.pack import check_sources, pack_patch
from jaxpho.data.packing import PackedPatch
from jaxpho.data.pixelstore import PixelStore, flat_image
from jaxpho.data.psfmodel import PSFModel
from jaxpho.data.psfstore import list_psf_groups, read_psf_store
from jaxpho.data.sky import SkyStatistics
from jaxpho.data.skyregion import Circle, Region
from jaxpho.data.storeinfo import read_info
from jaxpho.data.tiles import TileSet, tiles_of
from jaxpho.errors import InputError

log = logging.getLogger("jaxpho.stores")

UNCALIBRATED = {"image": "count", "counts": "count"}
"""forcepho's names of units that are those of the image."""


@dataclass
class StoredExposure:
    """An exposure of a meta and a pixel store; has what `jaxpho.data.exposure.Exposure` has."""

    name: str
    band: str
    id: str
    meta: MetaStore = field(repr=False)
    pixels: PixelStore = field(repr=False)
    psf: object | None = None
    unit: str = "nJy"
    level: float = 0.0
    nuisance: Nuisance = field(default_factory=Nuisance)
    notes: dict = field(default_factory=dict)
    noise: NoiseStatistics | None = None
    inflation: float = 1.0

    @cached_property
    def shape(self) -> tuple[int, int]:
        """(ny, nx)."""
        nside = self.pixels.size(self.band, self.id)
        if nside != self.meta.nside(self.band, self.id):
            raise InputError(
                f"{self.pixels.where(self.band, self.id)}: the image is {nside} pixels, its "
                f"header says {self.meta.nside(self.band, self.id)} ({self.meta.path})"
            )
        return nside[::-1]

    @property
    def wcs(self):
        """World coordinates, made when first asked for."""
        return self.meta.wcs(self.band, self.id)

    @property
    def header(self):
        """FITS header."""
        return self.meta.header(self.band, self.id)

    @cached_property
    def info(self) -> dict:
        """What `jaxpho preprocess` noted; see `jaxpho.data.storeinfo.read_info`."""
        return read_info(self.pixels.attrs(self.band, self.id))

    @property
    def pixel_scale(self) -> float:
        """Side of a pixel, arcsec, without making the WCS."""
        return self.meta.footprints.pixel_scale(self.meta.number(self.band, self.id))

    @property
    def masked(self) -> float | None:
        """Fraction of masked pixels; None where only reading them all would tell."""
        return self.info.get("summary", {}).get("masked")

    @property
    def typical_error(self) -> float | None:
        """Median 1-sigma error of the unmasked pixels; None where it was not noted."""
        return self.info.get("summary", {}).get("error")

    @property
    def blank(self) -> SkyStatistics | None:
        """Statistics of the blank pixels, where they were noted."""
        if "blank" not in self.info:
            return None
        found = SkyStatistics(*self.info["blank"])
        return found._replace(mean=found.mean - self.level)

    @property
    def noted_noise(self) -> NoiseStatistics | None:
        """Noise of the blank pixels, where it was noted."""
        noted = self.info.get("noise")
        return None if noted is None else NoiseStatistics.from_plain(noted)

    def near(self, ra, dec, radius) -> np.ndarray:
        """Whether the image may touch circles: [n] bool; ra, dec [deg], radius [arcsec]."""
        number = self.meta.number(self.band, self.id)
        return self.meta.footprints.image_near(number, ra, dec, radius)

    def good(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Whether pixels [n] (integers, inside) are unmasked; reads their super-pixels."""
        x, y = np.asarray(x, int), np.asarray(y, int)
        _, rows = self.shape
        tile, which = np.unique(x // TILE * rows + y // TILE, return_inverse=True)
        _, ierr = self.pixels.superpixels(self.band, self.id, tile // rows, tile % rows)
        return ierr[which, x % TILE * TILE + y % TILE] > 0

    def cutout(self, x0: int, x1: int, y0: int, y1: int) -> tuple[np.ndarray, np.ndarray]:
        """Flux and 1/sigma [y1 - y0, x1 - x0] of a rectangle; reads its super-pixels."""
        columns = np.arange(x0 // TILE, -(-x1 // TILE))
        rows = np.arange(y0 // TILE, -(-y1 // TILE))
        column, row = (a.reshape(-1) for a in np.meshgrid(columns, rows, indexing="ij"))
        flux, ierr = self.pixels.superpixels(self.band, self.id, column, row)
        flux = np.where(ierr > 0, flux - np.float32(self.level), np.float32(0.0))
        box = slice(y0 % TILE, y0 % TILE + y1 - y0), slice(x0 % TILE, x0 % TILE + x1 - x0)
        shape = len(columns), len(rows), TILE, TILE
        return tuple(flat_image(values.reshape(shape))[box] for values in (flux, ierr))

    def count_tiles(self, select: np.ndarray | None = None) -> tuple[int, int]:
        """How many tiles `tiles` would give, and unmasked pixels in them; reads these."""
        found = self.tiles(select).ierr
        return len(found), int((found > 0).sum())

    def _image(self) -> tuple[np.ndarray, np.ndarray]:
        data, ierr = self.pixels.cached_image(self.band, self.id)
        return np.where(ierr > 0, data - np.float32(self.level), np.float32(0.0)), ierr

    @property
    def data(self) -> np.ndarray:
        """[ny, nx] flux: reads the whole exposure."""
        return self._image()[0]

    @property
    def ierr(self) -> np.ndarray:
        """[ny, nx] 1/sigma: reads the whole exposure."""
        return self._image()[1]

    def tiles(self, select: np.ndarray | None = None) -> TileSet:
        """Super-pixels with a pixel of a selection [ny, nx] in them, and one that is unmasked.

        Only these are read.
        """
        ny, nx = self.shape
        if select is None:
            wanted = np.ones((-(-nx // TILE), -(-ny // TILE)), bool)
        else:
            wanted = tiles_of(select)
        column, row = np.nonzero(wanted)
        flux, ierr = self.pixels.superpixels(self.band, self.id, column, row)
        used = (ierr > 0).any(-1)
        column, row, flux, ierr = (a[used] for a in (column, row, flux, ierr))
        flux = np.where(ierr > 0, flux - np.float32(self.level), np.float32(0.0))
        return TileSet(TILE * column, TILE * row, flux, ierr)


def check_pair(meta: MetaStore, pixels: PixelStore, bands: Sequence[str] | None = None) -> None:
    """Raise InputError for an exposure of the pixel store that the meta store lacks.

    Parameters
    ----------
    meta, pixels : open stores.
    bands : those to look at; default all.
    """
    for band, name in pixels.exposures():
        if (bands is None or band in bands) and (band, name) not in meta:
            raise InputError(
                f"{pixels.where(band, name)}: this exposure is not in the meta store {meta.path}"
            )


def stored_exposures(
    meta: MetaStore,
    pixels: PixelStore,
    psf_store=None,
    *,
    keys: Sequence[tuple[str, str]] | None = None,
    tweak_background: str | None = None,
) -> list[StoredExposure]:
    """Exposures of open stores.

    Parameters
    ----------
    psf_store : path, optional
        PSF store with a group per band, or per band/exposure id where there is one.
    keys : sequence of (band, exposure id), optional
        Which; default all of the meta store.
    tweak_background : header card with a level to subtract; 0 where it is missing.

    Raises
    ------
    InputError
        For exposures without pixels, and bands without a PSF.
    """
    keys = meta.keys if keys is None else list(keys)
    groups = set(list_psf_groups(psf_store)) if psf_store is not None else set()
    psfs: dict[str, PSFModel] = {}
    ids = [name for _, name in meta.keys]
    repeated = len(set(ids)) < len(ids)
    out = []
    for band, name in keys:
        model = None
        if psf_store is not None:
            group = f"{band}/{name}" if f"{band}/{name}" in groups else band
            if group not in psfs:
                psfs[group] = read_psf_store(psf_store, group)
            model = psfs[group]
        level = 0.0
        if tweak_background:
            header = meta.header(band, name)
            level = header_number(header, tweak_background, meta.where(band, name))
        attrs = pixels.attrs(band, name)
        unit = attrs.get("flux_units", "nJy")
        unit = unit.decode() if isinstance(unit, bytes) else str(unit)
        unit = UNCALIBRATED.get(unit, unit)
        label = f"{band}/{name}" if repeated else name
        notes = {"path": str(pixels.path), "unit_from": "the pixel store", "sky_from": "the store"}
        made = StoredExposure(label, band, name, meta, pixels, model, unit, level, notes=notes)
        made.info = read_info(attrs)  # at hand, and asked for in every fit
        out.append(made)
    return out


def pack_stores(
    meta,
    pixels,
    psf_store,
    peaks: Sequence,
    *,
    bands: Sequence[str] | None = None,
    region: Region | None = None,
    radii: Sequence[float] | None = None,
    tweak_background: str | None = None,
    **options,
) -> PackedPatch:
    """Pack a patch from stores; only its super-pixels are read.

    Exposures are found by their footprints: any overlap with the region counts.

    Parameters
    ----------
    meta, pixels : paths, or an open `MetaStore` and `PixelStore`.
    psf_store : path
    peaks : sequence of Peak
        Sources to model.
    bands : sequence of str, optional
        Bands in order; default those of the meta store.
    region : Circle, Box or Polygon, optional
        Pixels to use.
    radii : sequence of float, optional
        [S] arcsec, instead of a region: pixels this near to a source.
    tweak_background : str, optional
        Header card with a level to subtract.
    **options
        Those of `jaxpho.data.pack.pack_patch`.

    Raises
    ------
    InputError
        For stores that cannot be used, and regions without a usable pixel.
    """
    if region is None and radii is None:
        raise InputError("a patch from stores needs a region, or radii about its sources")
    check_sources(peaks, radii)
    meta = meta if isinstance(meta, MetaStore) else open_meta_store(meta)
    bands = meta.bands if bands is None else list(bands)
    with contextlib.ExitStack() as stack:
        if not isinstance(pixels, PixelStore):
            pixels = stack.enter_context(PixelStore(pixels))
        keys = []
        for circle in _circles(region, peaks, radii):
            keys += meta.near(circle.ra, circle.dec, circle.radius, bands)
        order = {key: i for i, key in enumerate(meta.keys)}
        keys = sorted(set(keys), key=lambda key: (bands.index(key[0]), order[key]))
        if not keys:
            raise InputError(f"no exposure of {', '.join(bands)} in {meta.path} is near the patch")
        exposures = stored_exposures(
            meta, pixels, psf_store, keys=keys, tweak_background=tweak_background
        )
        return pack_patch(exposures, peaks, bands=bands, region=region, radii=radii, **options)


def _circles(region, peaks, radii):
    if region is not None:
        return [Circle(region.ra, region.dec, region.reach)]
    return [Circle(p.ra, p.dec, r) for p, r in zip(peaks, radii, strict=True) if r > 0]


def read_stores(
    meta, pixels, psf_store=None, bands: Sequence[str] | None = None, tweak_background=None
) -> list[StoredExposure]:
    """All exposures of a pair of stores, in the order of the bands; nothing but ids is read yet.

    Raises
    ------
    InputError
        For stores that cannot be used and bands without an exposure.
    """
    meta = open_meta_store(meta)
    bands = meta.bands if bands is None else list(bands)
    keys = [key for band in bands for key in meta.keys if key[0] == band]
    for band in bands:
        if not any(key[0] == band for key in keys):
            raise InputError(
                f"meta store {meta.path} has no exposure of band {band} (bands: "
                f"{', '.join(meta.bands)})"
            )
    store = PixelStore(Path(pixels))
    check_pair(meta, store, bands)
    return stored_exposures(meta, store, psf_store, keys=keys, tweak_background=tweak_background)
