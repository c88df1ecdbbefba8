"""forcepho's configuration in the words of `jaxpho preprocess`.

forcepho leaves it to a script which files are images, errors, masks and backgrounds. What its
configuration itself says is used; the rest follows the layout of its single-file images: science
in the first HDU, errors in the second, a mask in the third where there is a bitmask.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from jaxpho.errors import InputError
from jaxpho.schema import Context, build, option

log = logging.getLogger("jaxpho.compat")


@dataclass
class ForcephoImages:
    """The keys of forcepho's configuration that concern preprocessing."""

    bandlist: list[str] = option(help="bands: the values of FILTER")
    fitsfiles: list[str] = option(help="FITS images")
    pixelstorefile: str = option(help="pixel store to write")
    metastorefile: str = option(help="meta store to write")
    store_directory: str = option("", "folder of the stores")
    frames_directory: str = option("", "folder of the images")
    do_fluxcal: bool = option(False, "calibrate to nJy with the card ABMAG")
    bitmask: int | None = option(None, "bits of the mask that mean bad, as one number", ge=0)


def preprocess_values(values: Mapping, name: str, base) -> dict:
    """The values of a `jaxpho.data.storeoptions.PreprocessConfig` that make forcepho's stores.

    Parameters
    ----------
    values : what a YAML reader returned.
    name : of the file, for errors.
    base : folder that relative paths start from.

    Raises
    ------
    InputError
        For keys that are missing or hold the wrong thing.
    """
    known = {f.name for f in fields(ForcephoImages)}
    given = {k: v for k, v in values.items() if k in known and v is not None and v != ""}
    if "fitsfiles" not in given:
        raise InputError(
            f"{name}: missing key 'fitsfiles' (the images; forcepho's scripts look for them, "
            "jaxpho preprocess needs their names or patterns)"
        )
    config = build(ForcephoImages, given, Context(name, Path(base)))
    frames = os.path.expandvars(config.frames_directory)
    stores = os.path.expandvars(config.store_directory)
    images: dict = {
        "files": [os.path.join(frames, path) for path in config.fitsfiles],
        "science": 0,
        "error": 1,
    }
    if config.bitmask:
        images["mask"] = {"ext": 2}
        images["mask_bits"] = [k for k in range(64) if config.bitmask >> k & 1]
    if config.do_fluxcal:
        images["zero_point"] = {"key": "ABMAG", "optional": True}
    pixels = os.path.join(stores, os.path.expandvars(config.pixelstorefile))
    log.info("%s: a configuration of forcepho", name)
    return {
        "bands": config.bandlist,
        "images": [images],
        "stores": os.path.dirname(pixels) or ".",
        "pixels": pixels,
        "meta": os.path.join(stores, os.path.expandvars(config.metastorefile)),
        "unit": "auto" if config.do_fluxcal else "image",
    }
