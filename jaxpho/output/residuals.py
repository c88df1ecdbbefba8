"""Data and residual of every pixel of a patch: BAND/exposure/{xpix, ypix, data, ierr, residual}."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from jaxpho.errors import InputError
from jaxpho.files import replacing
from jaxpho.fit.result import PatchResult

FORMAT = "jaxpho-residuals-1"


def write_residuals(path, result: PatchResult) -> None:
    """Write the pixels of a patch, atomically.

    Residual is data - model, unweighted, in the unit of the exposure; ierr is 1/sigma, 0 for a
    masked pixel; xpix and ypix are 0-indexed. An exposure id may contain "/".
    """
    with replacing(path) as temporary, h5py.File(temporary, "w") as f:
        f.attrs["format"] = FORMAT
        f.attrs["patch_id"] = result.patch_id
        f.attrs["reference"] = np.asarray(result.reference, float)
        for e, (name, band) in enumerate(zip(result.exposures, result.exposure_bands, strict=True)):
            pixels = result.pixels.get(name)
            if pixels is None:
                continue
            group = f.create_group(f"{band}/{name}")
            group.attrs.update(exposure=name, band=band, chi2=float(result.chi2[e]))
            columns = {
                "xpix": np.asarray(pixels["x"], np.int32),
                "ypix": np.asarray(pixels["y"], np.int32),
                "data": np.asarray(pixels["data"], np.float32),
                "ierr": np.asarray(pixels["ierr"], np.float32),
            }
            model = np.asarray(pixels["model"], np.float32)
            columns["residual"] = columns["data"] - model
            for key, values in columns.items():
                group.create_dataset(key, data=values, compression="gzip", shuffle=True)


def read_residuals(path) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """band -> exposure -> {"xpix", "ypix", "data", "ierr", "residual"} of a residual file."""
    if not Path(path).is_file():
        raise InputError(f"{path}: no such residual file")
    out: dict = {}

    def visit(_, item):
        if isinstance(item, h5py.Group) and "xpix" in item:
            # "a" and "a/b" may both be exposures
            values = {k: v[()] for k, v in item.items() if isinstance(v, h5py.Dataset)}
            out.setdefault(item.attrs["band"], {})[item.attrs["exposure"]] = values

    with h5py.File(path, "r") as f:
        f.visititems(visit)
    return out
