"""One calibrated image with everything the fit needs to know about it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from jaxpho.data.options import PSFOptions
from jaxpho.data.tiles import TileSet, count_tiles, cut_tiles
from jaxpho.data.wcs import pixel_area

LARGEST = 1e15
"""Largest 1/sigma, in the image's unit, that single precision is good for."""


@dataclass
class Nuisance:
    """Which nuisances of an exposure are free. Gaussian priors; a sigma of 0 holds it fixed.

    Means are 0 (flux scale: 1; sky: `sky_mean`).
    """

    offset_sigma: float = 0.0  # arcsec, shift in (RA cos dec, dec)
    offset_group: str = "exposure"  # or "band": who shares one shift
    scale_sigma: float = 0.0  # relative flux scale
    sky: str = "none"  # "none" | "constant" | "plane"
    sky_sigma: float = 0.0  # per pixel, in the exposure's unit
    sky_mean: float = 0.0
    sky_slope_sigma: float = 0.0  # change across half the image width, in the exposure's unit


@dataclass
class PSFInput:
    """A PSF as the configuration gives it: a file found, nothing read yet."""

    kind: str  # "store" | "image" | "psfex"
    path: Path
    group: str | None = None  # store: group name
    ext: str | int | None = None  # image: extension
    rows: dict = field(default_factory=dict)  # psfex: column -> value that picks the table row
    oversample: float = 1.0  # image: samples per image pixel
    oversample_key: str | None = None  # image: header card that gives it instead
    options: PSFOptions = field(default_factory=PSFOptions)


@dataclass
class Exposure:
    """One image: pixels, errors, WCS, unit, nuisances and PSF."""

    name: str  # unique
    band: str
    data: np.ndarray  # [ny, nx] float32, flux per pixel in `unit`, sky model subtracted
    ierr: np.ndarray  # [ny, nx] float32, 1/sigma in 1/unit, 0 = masked
    wcs: object  # world_to_pixel_values(ra, dec), pixel_to_world_values(x, y) [deg, 0-indexed]
    unit: str  # "nJy", or the image's own unit
    header: object  # astropy Header
    nuisance: Nuisance = field(default_factory=Nuisance)
    psf: object | None = None  # PSFInput, later a PSFModel
    notes: dict = field(default_factory=dict)  # unit_from, sky_from, wcs_from, mask_from, path...
    noise: object | None = None  # NoiseStatistics of the blank pixels, None where there are few
    inflation: float = 1.0  # the fit multiplies the errors of the pixels by this

    @property
    def shape(self) -> tuple[int, int]:
        """(ny, nx)."""
        return self.data.shape

    @property
    def pixel_scale(self) -> float:
        """Side of the central pixel, arcsec."""
        return math.degrees(math.sqrt(pixel_area(self.wcs, self.shape))) * 3600.0

    @property
    def masked(self) -> float | None:
        """Fraction of masked pixels; None where only reading them all would tell."""
        return float(1.0 - (self.ierr > 0).mean())

    @property
    def typical_error(self) -> float | None:
        """Median 1-sigma error of the unmasked pixels; None where only reading them would tell."""
        return 1.0 / float(np.median(self.ierr[self.ierr > 0]))

    def near(self, ra, dec, radius) -> np.ndarray:
        """Whether the image may touch circles: [n] bool; ra, dec [deg], radius [arcsec]."""
        return np.ones(np.broadcast(ra, dec, radius).shape, bool)

    def good(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Whether pixels [n] (integers, inside the image) are unmasked."""
        return self.ierr[y, x] > 0

    def cutout(self, x0: int, x1: int, y0: int, y1: int) -> tuple[np.ndarray, np.ndarray]:
        """Flux and 1/sigma [y1 - y0, x1 - x0] of a rectangle inside the image."""
        return self.data[y0:y1, x0:x1], self.ierr[y0:y1, x0:x1]

    def count_tiles(self, select: np.ndarray | None = None) -> tuple[int, int]:
        """How many tiles `tiles` would give, and unmasked pixels in them."""
        return count_tiles(self.ierr, select)

    def tiles(self, select: np.ndarray | None = None) -> TileSet:
        """Super-pixels with a pixel of a selection [ny, nx] in them, and one that is unmasked."""
        return cut_tiles(self.data, self.ierr, select)
