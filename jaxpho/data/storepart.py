"""One exposure of the stores, finished: read, calibrated, and kept as a file of its own.

A part appears under its name in one step, named by the checksum of its job: whoever finds it can
use it, whatever happened to the process that made it.
"""

from __future__ import annotations

import json
import logging
import math
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from jaxpho.data import sky as skymod
from jaxpho.data.gwcsfile import GWCSAdaptor, write_gwcs
from jaxpho.data.hdf5 import open_hdf5, writing
from jaxpho.data.ingest import read_one, wcs_offsets
from jaxpho.data.noise import measure_exposure
from jaxpho.data.pixelstore import write_exposure
from jaxpho.data.storeinfo import INFO, read_info
from jaxpho.data.storejob import StoreJob
from jaxpho.data.units import AB_ZERO_POINT_NJY
from jaxpho.data.wcs import pixel_area
from jaxpho.data.wcsheader import stored_header
from jaxpho.errors import InputError
from jaxpho.files import ascii_text, replacing

log = logging.getLogger("jaxpho.preprocess")

LONGEST_INFO = 60_000
"""Bytes; an HDF5 attribute holds 64 kB."""

DEPTH_SIGMA = 5.0


@dataclass
class Part:
    """A finished exposure.

    Attributes
    ----------
    path : HDF5 file with the group ``pixels`` (as a pixel store) and the header's text.
    """

    path: Path

    @property
    def gwcs(self) -> Path:
        """The ASDF file of its gwcs; most have none."""
        return self.path.with_suffix(".asdf")

    def header(self) -> str:
        """Text of the header."""
        with open_hdf5(self.path, "part") as file:
            return file["header"][()].tobytes().decode("ascii")

    def info(self, key: tuple[str, str]) -> dict:
        """What `read_info` tells of the exposure."""
        with open_hdf5(self.path, "part") as file:
            return read_info(file[f"pixels/{key[0]}/{key[1]}/data"].attrs)


def part_of(job: StoreJob, folder: Path) -> Part:
    """Where the finished exposure of a job is kept, whether it is there or not."""
    return Part(folder / f"{job.digest}.h5")


def make_part(job: StoreJob, folder: Path) -> Part:
    """Read an exposure and write its part.

    Raises
    ------
    InputError
        As `jaxpho.data.ingest.read_one`; also for an exposure that cannot be calibrated where
        nJy is asked for, and a WCS that no header describes.
    """
    plan = job.plan
    exposure = read_one(plan, keep_unit=job.unit == "image")
    if job.unit == "nJy" and exposure.unit != "nJy":
        raise InputError(
            f"{plan.where}: cannot be calibrated to nJy ({exposure.notes['unit_from']}); give "
            "zero_point or unit, or set unit: auto"
        )
    header, error = stored_header(exposure, plan, job.band, wcs_offsets(plan), job.cards)
    good = exposure.ierr > 0
    attrs = {
        "counts_to_flux": exposure.notes["factor"],
        "flux_units": ascii_text(exposure.unit),
        "image_name": str(plan.path.name),
        INFO: _info(job, exposure, error),
    }
    bits = plan.options.mask_bits
    if bits and all(isinstance(bit, int) for bit in bits):
        attrs["bitmask_applied"] = sum({1 << bit for bit in bits})
    part = part_of(job, folder)
    if isinstance(exposure.wcs, GWCSAdaptor):
        with replacing(part.gwcs) as temporary:
            write_gwcs(temporary, {job.band: {job.id: exposure.wcs}})
    with writing(part.path) as temporary, h5py.File(temporary, "w") as file:
        file["header"] = np.frombuffer(header.tostring().encode("ascii"), np.uint8)
        data = np.where(good, exposure.data, np.float32(0.0))
        pixels = file.create_group("pixels")
        write_exposure(pixels, job.band, job.id, data, exposure.ierr, attrs)
    return part


def _info(job: StoreJob, exposure, wcs_error: float) -> str:
    """JSON of what the stores keep of an exposure beside pixels and header."""
    fields = {k: v for k, v in job.plan.fields.items() if k not in ("header", "band", "band_upper")}
    fields.pop("file", None), fields.pop("dir", None)  # where the image was is no matter later
    info = {
        "digest": job.digest,
        "summary": summary(job, exposure, wcs_error),
        "fields": {k: v for k, v in fields.items() if k not in (job.plan.row or {})},
        "row": job.plan.row,
    }
    if job.sky_statistics:
        info["blank"] = list(skymod.blank_statistics(exposure.data, exposure.ierr > 0))
        noise = measure_exposure(exposure)
        if noise is not None:
            info["noise"] = noise.to_plain()
            info["summary"] |= {
                "noise": noise.ratio, "noise_error": noise.ratio_error,
                "noise_factor": noise.factor,
            }  # fmt: skip
    text = json.dumps(info, default=str)
    if len(text) > LONGEST_INFO:
        log.info("%s: its table row is too long to be stored", job.label)
        text = json.dumps(info | {"row": None}, default=str)
    return text


def summary(job: StoreJob, exposure, wcs_error: float) -> dict:
    """The row of the table of exposures; see `jaxpho.data.exposuretable.COLUMNS`."""
    ny, nx = exposure.shape
    good = exposure.ierr > 0
    area = pixel_area(exposure.wcs, exposure.shape) * math.degrees(1.0) ** 2 * 3600.0**2
    ra, dec = exposure.wcs.pixel_to_world_values((nx - 1) / 2, (ny - 1) / 2)
    error = 1.0 / float(np.median(exposure.ierr[good]))
    depth = math.nan
    if exposure.unit == "nJy":
        depth = AB_ZERO_POINT_NJY - 2.5 * math.log10(DEPTH_SIGMA * error / math.sqrt(area))
    notes = exposure.notes
    return {
        "band": job.band,
        "exposure": job.id,
        "file": job.plan.path.name,
        "nx": nx,
        "ny": ny,
        "ra": float(ra) % 360.0,
        "dec": float(dec),
        "scale": math.sqrt(area),
        "masked": float(1.0 - good.mean()),
        "error": error,
        "depth": depth,
        "unit": exposure.unit,
        "factor": notes["factor"],
        "sky": notes["sky_level"],
        "wcs_error": wcs_error,
        "unit_from": notes["unit_from"],
        "error_from": notes["error_from"],
        "sky_from": notes["sky_from"],
        "mask_from": notes["mask_from"],
        "wcs_from": notes["wcs_from"],
    }
