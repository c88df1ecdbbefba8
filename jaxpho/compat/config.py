"""forcepho's configuration files, accepted as they are."""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from jaxpho.compat.bounds import BoundsOptions
from jaxpho.errors import InputError
from jaxpho.schema import Context, build, option

log = logging.getLogger("jaxpho.compat")

MARKS = ("bandlist", "pixelstorefile", "metastorefile", "psfstorefile", "splinedatafile",
         "fitsfiles")  # fmt: skip
"""A configuration with one of these keys is forcepho's."""

_STORES = ("pixelstorefile", "metastorefile", "psfstorefile")
_BOUNDS = ("sqrtq_range", "pa_range", "rhalf_range", "sersic_range", "dpos", "n_sig_flux",
           "n_pix", "pixscale")  # fmt: skip
NOT_USED = {
    "pix_dtype": "pixels are float32",
    "meta_dtype": "astrometry is float32",
    "super_pixel_size": "read from the pixel store",
    "nside_full": "read from the pixel store",
    "store_name": "a label",
    "big_catalog": "deprecated in forcepho, too",
    "use_gradients": "gradients are always used",
    "linear_optimize": "fluxes are always solved for linearly",
    "add_barriers": "bounds are part of the transform",
    "gtol": "the optimiser stops by the change of chi2",
    "full_cov": "sampling starts from the full covariance",
    "progressbar": "--quiet",
    "strict": "patches are cut before the run",
    "max_active_fraction": "patches are cut before the run",
    "ntry_checkout": "patches are cut before the run",
    "buffer_size": "memory is allocated by size",
    "target_niter": "a source is fitted in one patch",
    "do_fluxcal": "for preprocess",
    "bitmask": "for preprocess",
    "frames_directory": "for preprocess",
}
"""Keys that are read and not used, and why."""


@dataclass
class RegionOptions:
    """A circle on the sky."""

    ra: float = option(help="centre", unit="deg")
    dec: float = option(help="centre", unit="deg", ge=-90, le=90)
    radius_arcsec: float = option(help="radius", unit="arcsec", gt=0)


@dataclass
class ForcephoConfig:
    """The keys of forcepho's configuration that jaxpho uses."""

    bandlist: list[str] = option(help="bands, in the order of fluxes")
    psfstorefile: str = option(help="PSF store", path=True)
    splinedatafile: str | None = option(None, "table of Sersic splines", path=True)
    pixelstorefile: str | None = option(None, "pixel store", path=True)
    metastorefile: str | None = option(None, "meta store", path=True)
    fitsfiles: list[str] | None = option(None, "FITS images instead of stores", path=True)
    raw_catalog: str | None = option(None, "starting values", path=True)
    scene_catalog: str | None = option(None, "file name of the catalogue of fitted values")
    peak_catalog: str | None = option(None, "another name of raw_catalog", path=True)
    outbase: str | None = option(None, "folder of the results", path=True)
    write_residuals: bool = option(True, "write the residuals of each patch")
    region: RegionOptions | None = option(None, "region of the patch")
    tweak_background: str | None = option(None, "header card with a level to subtract")
    background: dict[str, float] = option(
        dict,
        "band -> level to subtract: the mapping that tweak_background names",
        unit="flux/pixel",
    )
    max_snr: float = option(0.0, "signal-to-noise of a pixel is capped at this; 0: not", ge=0)
    bounds_kwargs: BoundsOptions = option(BoundsOptions, "ranges of the parameters")
    minflux: float | None = option(None, "lower bounds of fluxes are at most this")
    maxfluxfactor: float = option(0.0, "upper bounds of fluxes are at least this times the flux")
    sampling_draws: int = option(256, "posterior draws", ge=1)
    warmup: list[int] = option(lambda: [256], "iterations of each warm-up window")
    max_treedepth: int = option(9, "largest depth of a trajectory", ge=1)
    maxactive_per_patch: int = option(15, "sources fitted jointly", ge=1)
    patch_maxradius: float = option(15.0, "largest radius of a patch", unit="arcsec", gt=0)
    patch_minradius: float = option(1.0, "smallest radius of a patch", unit="arcsec", gt=0)
    seed: int = option(0, "seed of random numbers", ge=0)

    def __post_init__(self):
        if not self.bandlist:
            raise InputError("bandlist: expected at least one band")
        if self.raw_catalog is None:
            self.raw_catalog = self.peak_catalog
        stores = [self.pixelstorefile, self.metastorefile]
        if self.fitsfiles is None and None in stores:
            raise InputError(
                "expected pixelstorefile and metastorefile, or fitsfiles; found "
                f"{'only one of the stores' if any(stores) else 'none of them'}"
            )


def is_forcepho(values: Mapping) -> bool:
    """Whether plain values are a configuration of forcepho."""
    return any(key in values for key in MARKS)


def parse_config(values: Mapping, name: str, base) -> ForcephoConfig:
    """The configuration in plain values.

    Parameters
    ----------
    values : what a YAML reader returned.
    name : of the file, for errors.
    base : folder that relative paths start from.

    Raises
    ------
    InputError
        For keys that are missing or hold the wrong thing. Unknown keys are only warned of.
    """
    known = {f.name for f in fields(ForcephoConfig)}
    values = _levels(values, name)
    store_directory = values.get("store_directory") or ""
    kept: dict = {}
    bounds = {}
    for key, value in values.items():
        if isinstance(value, str):
            value = os.path.expandvars(value)
        if key == "write_residuals" and value in (0, 1):
            value = bool(value)
        if key in _STORES and value and store_directory:
            value = os.path.join(os.path.expandvars(str(store_directory)), str(value))
        if key in _BOUNDS:
            bounds[key] = value
        elif key in known and value is not None and value != "":
            kept[key] = value
        elif key in NOT_USED:
            log.debug("%s: %s is not used (%s)", name, key, NOT_USED[key])
        elif key not in known and key not in ("store_directory", "bounds_kwargs", "background"):
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            log.warning("%s: key '%s' is not used%s", name, key, hint)
    given = kept.get("bounds_kwargs") or {}
    if bounds or given:
        if not isinstance(given, Mapping):
            raise InputError(f"{name}: 'bounds_kwargs': expected a mapping of keys to values")
        kept["bounds_kwargs"] = bounds | dict(given)
    return build(ForcephoConfig, kept, Context(name, Path(base)))


def _levels(values: Mapping, name: str) -> dict:
    """The values with `tweak_background`, where it names a mapping of the file, as `background`.

    forcepho's scripts read a header card of that name, its documentation has levels by band.
    """
    values = dict(values)
    key = values.get("tweak_background")
    if isinstance(key, str) and key in values:
        levels = values.pop(key)
        levels = {} if levels is None else levels
        if not isinstance(levels, Mapping):
            raise InputError(
                f"{name}: '{key}', which tweak_background names: expected a mapping of bands to "
                f"levels, found {levels!r}"
            )
        values["tweak_background"] = None
        values["background"] = dict(levels)
    return values
