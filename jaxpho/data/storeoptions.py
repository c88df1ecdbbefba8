"""What the configuration of `jaxpho preprocess` may say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jaxpho.data.options import ImageOptions
from jaxpho.errors import InputError
from jaxpho.schema import option

FIT_ONLY = ("psf", "astrometry", "flux_scale_sigma")
"""Keys of an entry of `images` that are for the fit: stores do without."""


@dataclass
class PreprocessConfig:
    """Which exposures go into which stores."""

    bands: list[str] = option(help="bands, in the order of the stores", example=["g"])
    images: list[ImageOptions] = option(
        help="exposures; one entry may match many files. As for jaxpho-fit; psf, astrometry, "
        "flux_scale_sigma and sky.nuisance are for the fit and not used here",
        show={"science": "SCI", "error": "ERR"},
    )
    stores: str = option(
        "stores",
        "folder of what is written: meta.json, pixels.h5, exposures.ecsv, preprocess.log",
        path=True,
        example="stores",
    )
    meta: str | None = option(None, "meta store (default: meta.json in `stores`)", path=True)
    pixels: str | None = option(None, "pixel store (default: pixels.h5 in `stores`)", path=True)
    band_name: str | dict[str, str] = option(
        "{band}",
        "name of the band in the stores (template), or a mapping of bands to such names; "
        "'{band}_{header[DETECTOR]}' splits each band by detector",
    )
    unit: Literal["auto", "nJy", "image"] = option(
        "auto",
        "unit of fluxes: nJy (an exposure that cannot be calibrated fails), the images' own, or "
        "auto: nJy where the exposure can be calibrated",
    )
    cards: Literal["all", "wcs"] = option(
        "all", "header cards that are kept: all, or the WCS and a few that identify the exposure"
    )
    sky_statistics: bool = option(
        True,
        "keep level and scatter of the blank pixels of each exposure, so that a fit with a free "
        "sky (sky.nuisance) need not read it whole; most of the processor time of a large image",
    )
    workers: int = option(
        0,
        "processes; 0: one for each core, at most 4 (each takes 90 bytes a pixel, 1.5 GB for an "
        "image of 4096 x 4096)",
        ge=0,
    )
    root: str | None = option(
        None, "folder that relative paths of images start from (default: the folder of this file)",
        path=True,
    )  # fmt: skip

    def __post_init__(self):
        if not self.bands:
            raise InputError("'bands': expected at least one band, found an empty list")
        repeated = {band for band in self.bands if self.bands.count(band) > 1}
        if repeated:
            raise InputError(f"'bands': band {sorted(repeated)[0]!r} is listed twice")
        if not self.images:
            raise InputError("'images': expected at least one entry, found an empty list")
        for k, entry in enumerate(self.images):
            if entry.meta is not None or entry.pixels is not None:
                raise InputError(f"'images.{k}': these exposures are in stores already")
        if isinstance(self.band_name, dict):
            for band in sorted(set(self.band_name) - set(self.bands)):
                raise InputError(f"'band_name': band {band!r} is not in 'bands'")

    @property
    def meta_path(self) -> Path:
        """The meta store."""
        return Path(self.meta or Path(self.stores) / "meta.json")

    @property
    def pixel_path(self) -> Path:
        """The pixel store."""
        return Path(self.pixels or Path(self.stores) / "pixels.h5")

    @property
    def table_path(self) -> Path:
        """The table of exposures."""
        return Path(self.stores) / "exposures.ecsv"

    @property
    def parts(self) -> Path:
        """Folder of exposures that are finished and not in the stores yet."""
        return self.pixel_path.with_name(f".{self.pixel_path.stem}.parts")
