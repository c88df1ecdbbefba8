"""Data, model, residual and chi of whole exposures, put together from the pixels of the patches."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from jaxpho.data.hdf5 import open_hdf5
from jaxpho.errors import InputError
from jaxpho.files import ascii_text
from jaxpho.output.patchmap import PatchPart
from jaxpho.output.runfiles import RunFiles

KEYS = ("xpix", "ypix", "data", "ierr", "residual")


@dataclass
class KeptExposure:
    """An exposure whose input is gone: its place as an image of the run tells it, no pixels."""

    name: str
    band: str
    unit: str
    shape: tuple[int, int]
    wcs: object
    header: object

    @property
    def data(self) -> np.ndarray:
        """NaN [ny, nx]."""
        return np.full(self.shape, np.nan, np.float32)

    @property
    def ierr(self) -> np.ndarray:
        """0 [ny, nx]: everything is masked but what the patches have."""
        return np.zeros(self.shape, np.float32)


def kept_exposures(folder, known: Sequence[tuple[str, str]]) -> list[KeptExposure]:
    """What the images of a run tell of its exposures.

    Parameters
    ----------
    folder : with one FITS file for each exposure.
    known : (band, name) of the exposures wanted.
    """
    named = {(band, ascii_text(name)[:68]): name for band, name in known}
    out = []
    for path in sorted(Path(folder).glob("*.fits")):
        with fits.open(path) as hdus:
            if "MODEL" not in hdus:
                continue
            key = str(hdus[0].header.get("BAND")), str(hdus[0].header.get("EXPOSURE"))
            header = hdus["MODEL"].header
            if key in named:
                shape = int(header["NAXIS2"]), int(header["NAXIS1"])
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of cards that astropy puts right
                    wcs = WCS(header)
                unit = str(header.get("BUNIT", ""))
                out.append(KeptExposure(named[key], key[0], unit, shape, wcs, header.copy()))
    return out


def assemble(exposure, parts: Sequence[PatchPart], run: RunFiles, positions) -> dict | None:
    """DATA, MODEL, RESIDUAL, CHI, PATCH [ny, nx] of an exposure.

    Patches are entered in order; where they overlap, a pixel shows the one with the nearest source
    of its own, the earlier one of two as near. Outside all patches MODEL is 0 and PATCH is -1; a
    masked pixel is NaN in RESIDUAL and CHI. Errors are those of the fit within patches, those of
    the image elsewhere.

    Parameters
    ----------
    exposure : Exposure or KeptExposure
    parts : its pixels in the patches.
    run : keeps what cannot be read.
    positions : number of a patch -> (ra, dec) [deg] of its own sources.

    Returns
    -------
    dict or None
        None when no patch has a pixel that can be read.
    """
    shape = exposure.shape
    model, patch = np.zeros(shape, np.float32), np.full(shape, -1, np.int32)
    nearest = np.full(shape, np.inf, np.float32)
    data = np.array(exposure.data, np.float32)
    ierr = np.array(exposure.ierr, np.float32) / np.float32(getattr(exposure, "inflation", 1.0))
    kept = isinstance(exposure, KeptExposure)
    for part in parts:
        pixels = run.attempt(part.path, lambda path, at=part.where: _pixels(path, at, shape))
        if pixels is None or not len(pixels["xpix"]):
            continue
        x, y = pixels["xpix"], pixels["ypix"]
        distance = np.full(len(x), np.inf, np.float32)
        if part.patch in positions:
            at = exposure.wcs.world_to_pixel_values(*positions[part.patch])
            for x0, y0 in zip(*map(np.atleast_1d, at), strict=True):
                distance = np.fmin(distance, np.hypot(x - x0, y - y0))
        wins = (patch[y, x] < 0) | (distance < nearest[y, x])
        to = y[wins], x[wins]
        patch[to], nearest[to] = part.patch, distance[wins]
        model[to] = (pixels["data"] - pixels["residual"])[wins]
        ierr[to] = pixels["ierr"][wins]
        if kept:
            data[to] = pixels["data"][wins]
    if not (patch >= 0).any():
        return None
    residual = np.where(ierr > 0, data - model, np.float32(np.nan))
    chi = np.where(ierr > 0, residual * ierr, np.float32(np.nan))
    return {"DATA": data, "MODEL": model, "RESIDUAL": residual, "CHI": chi, "PATCH": patch}


def _pixels(path, where: str, shape) -> dict[str, np.ndarray]:
    with open_hdf5(path, "residual file") as f:
        out = {key: f[where][key][()] for key in KEYS}
    x, y = out["xpix"], out["ypix"]
    if len(x) and not (0 <= min(x.min(), y.min()) and x.max() < shape[1] and y.max() < shape[0]):
        raise InputError(
            f"residual file {path}, {where}: pixels up to ({x.max()}, {y.max()}), the image has "
            f"{shape[1]} x {shape[0]}: it is not the one that was fitted"
        )
    return out
