"""Data and residual of every pixel of a patch: BAND/exposure/{xpix, ypix, data, ierr, residual}.

This is forcepho's layout: beside the pixels lie the astrometry of each exposure, the paths of the
exposures and the reference of positions, under its names.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from jaxpho.data.hdf5 import open_hdf5
from jaxpho.errors import InputError
from jaxpho.files import replacing
from jaxpho.fit.result import PatchResult

FORMAT = "jaxpho-residuals-1"
PIXELS = ("xpix", "ypix", "data", "ierr", "residual")
ASTROMETRY = ("D", "CW", "crpix", "crval")


def write_residuals(path, result: PatchResult) -> None:
    """Write the pixels of a patch, atomically.

    Residual is data - model, unweighted, in the unit of the exposure; ierr is 1/sigma, 0 for a
    masked pixel; xpix and ypix are 0-indexed. An exposure id may contain "/". The model is that of
    the maximum a posteriori fit. D, CW [S, 2, 2], crpix and crval [S, 2] of the S sources are those
    of the packed patch: pixel/arcsec, pixel/deg, pixels, degrees from `reference_coordinates`.
    """
    with replacing(path) as temporary, h5py.File(temporary, "w") as f:
        f.attrs["format"] = FORMAT
        f.attrs["patch_id"] = result.patch_id
        f.attrs["reference"] = np.asarray(result.reference, float)
        f["reference_coordinates"] = np.asarray(result.reference, float)
        paths = []
        for e, (name, band) in enumerate(zip(result.exposures, result.exposure_bands, strict=True)):
            pixels = result.pixels.get(name)
            if pixels is None:
                continue
            paths.append(f"{band}/{name}".encode())
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
            for key, values in result.astrometry.get(name, {}).items():
                group[key] = np.asarray(values, float)
        f["epaths"] = np.array(paths, "S")


def read_exposures(path, names) -> dict[str, dict[str, np.ndarray]]:
    """The arrays of some exposures of a residual file of ours.

    Parameters
    ----------
    path : file.
    names : (band, exposure), those that the file lacks are left out.

    Returns
    -------
    dict
        Exposure -> as of `read_residuals`.
    """
    out = {}
    with open_hdf5(path, "residual file") as f:
        for band, name in names:
            where = f"{band}/{name}"
            node = f.get(where)
            if not isinstance(node, h5py.Group) or "xpix" not in node:
                continue
            try:
                kept = [key for key in ASTROMETRY if key in node]
                out[name] = {key: _whole(node, key) for key in (*PIXELS, *kept)}
            except (OSError, KeyError, RuntimeError) as error:
                reason = str(error).splitlines()[0]
                raise InputError(f"residual file {path}, {where}: {reason}") from None
    return out


def _whole(node: h5py.Group, key: str) -> np.ndarray:
    """A dataset, past the layer of h5py that costs more than small arrays themselves."""
    dataset = h5py.h5d.open(node.id, key.encode())
    out = np.empty(dataset.shape, dataset.dtype)
    dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, out)
    return out


def read_residuals(path) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """The arrays of a residual file, ours or forcepho's, as band -> exposure -> name -> array.

    Names are xpix, ypix, data, ierr, residual, and D, CW, crpix, crval where the file has them.

    Raises
    ------
    InputError
        When the file is missing, damaged, or lacks an array of an exposure.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such residual file")
    out: dict = {}

    def visit(where, item):
        if isinstance(item, h5py.Group) and "xpix" in item:
            missing = [name for name in PIXELS if name not in item]
            if missing:
                raise InputError(f"residual file {path}, {where}: no data set '{missing[0]}'")
            # "a" and "a/b" may both be exposures
            values = {k: v[()] for k, v in item.items() if isinstance(v, h5py.Dataset)}
            band, _, name = where.partition("/")
            band, name = item.attrs.get("band", band), item.attrs.get("exposure", name)
            out.setdefault(band, {})[name] = values

    with open_hdf5(path, "residual file") as f:
        try:
            f.visititems(visit)
        except (OSError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"residual file {path} cannot be read ({reason})") from None
    return out
