"""Model and residual images of whole exposures, put together from the patches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from jaxpho.data.fitsread import CREATOR
from jaxpho.files import ascii_text, file_names, replacing
from jaxpho.fit.result import PatchResult
from jaxpho.output.derived import sky_position

_STRUCTURAL = ("SIMPLE", "XTENSION", "BITPIX", "NAXIS", "NAXIS1", "NAXIS2", "EXTEND", "PCOUNT")
_DROPPED = (*_STRUCTURAL, "GCOUNT", "BZERO", "BSCALE", "BLANK", "CHECKSUM", "DATASUM", "EXTNAME")


class ImageAssembler:
    """Collects the model of each exposure, patch by patch.

    Where the pixels of two patches overlap, a pixel shows the model of the patch that has the
    nearest source; a later fit of the same patch replaces the earlier one.
    """

    def __init__(self, exposures):
        self.exposures = {exposure.name: exposure for exposure in exposures}
        self._model: dict[str, np.ndarray] = {}
        self._patch: dict[str, np.ndarray] = {}
        self._distance: dict[str, np.ndarray] = {}

    def add(self, result: PatchResult) -> None:
        """Enter the model of one patch."""
        ra, dec = source_positions(result)
        for name, pixels in result.pixels.items():
            exposure = self.exposures.get(name)
            if exposure is None:
                continue
            shape = exposure.shape
            model = self._model.setdefault(name, np.full(shape, np.nan, np.float32))
            patch = self._patch.setdefault(name, np.full(shape, -1, np.int32))
            nearest = self._distance.setdefault(name, np.full(shape, np.inf, np.float32))
            x, y = np.asarray(pixels["x"], int), np.asarray(pixels["y"], int)
            sx, sy = exposure.wcs.world_to_pixel_values(ra, dec)
            distance = np.full(len(x), np.inf)
            for x0, y0 in zip(np.atleast_1d(sx), np.atleast_1d(sy), strict=True):
                distance = np.fmin(distance, np.hypot(x - x0, y - y0))
            own = patch[y, x] == result.patch_id
            wins = own | (distance < nearest[y, x]) | (patch[y, x] < 0)
            at = y[wins], x[wins]
            model[at] = np.asarray(pixels["model"], np.float32)[wins]
            patch[at], nearest[at] = result.patch_id, distance[wins]

    def images(self, name: str) -> dict[str, np.ndarray]:
        """MODEL, RESIDUAL, CHI and PATCH [ny, nx] of an exposure.

        Outside every patch MODEL is 0 and PATCH is -1; masked pixels are NaN in RESIDUAL and CHI.
        """
        exposure, patch = self.exposures[name], self._patch[name]
        model = np.where(patch < 0, np.float32(0.0), self._model[name])
        good = exposure.ierr > 0
        residual = np.where(good, exposure.data - model, np.float32(np.nan))
        ierr = exposure.ierr / np.float32(getattr(exposure, "inflation", 1.0))
        chi = np.where(good, residual * ierr, np.float32(np.nan))
        return {"MODEL": model, "RESIDUAL": residual, "CHI": chi, "PATCH": patch}

    def write(self, folder) -> list[Path]:
        """Write one FITS file per exposure that a patch touched; returns their paths."""
        paths = []
        # of all exposures, so that a name does not depend on what was fitted
        names = file_names(f"{e.band}_{name}" for name, e in self.exposures.items())
        for name in self._model:
            exposure = self.exposures[name]
            path = Path(folder) / f"{names[f'{exposure.band}_{name}']}.fits"
            write_images(path, exposure, self.images(name))
            paths.append(path)
        return paths


def write_images(path, exposure, images: dict[str, np.ndarray]) -> None:
    """Write images [ny, nx] of one exposure as a FITS file with its WCS, in one step.

    Parameters
    ----------
    path : file, replaced.
    exposure : name, band, unit, wcs and header.
    images : extension name -> image; DATA, MODEL and RESIDUAL get the exposure's
        unit.
    """
    header = image_header(exposure)
    hdus = [fits.PrimaryHDU()]
    hdus[0].header["CREATOR"] = (CREATOR, "a model, not data")
    hdus[0].header["EXPOSURE"] = (ascii_text(exposure.name)[:68], "exposure id")
    hdus[0].header["BAND"] = (exposure.band, "band")
    for key, image in images.items():
        hdu = fits.ImageHDU(image, header=header, name=key)
        if key in ("DATA", "MODEL", "RESIDUAL"):
            hdu.header["BUNIT"] = (exposure.unit, "per pixel")
        elif "BUNIT" in hdu.header:
            del hdu.header["BUNIT"]
        hdus.append(hdu)
    with replacing(path) as temporary:
        fits.HDUList(hdus).writeto(temporary, overwrite=True, output_verify="silentfix")


def source_positions(result: PatchResult) -> tuple[np.ndarray, np.ndarray]:
    """(ra, dec) [S] in degrees of the sources of a patch."""
    offsets = np.zeros((len(result.source_ids), 2))
    for s in range(len(offsets)):
        for k, name in enumerate(("ra", "dec")):
            column = result.index(s, name)
            fixed = result.fixed.get((s, name, ""), 0.0)
            offsets[s, k] = fixed if column is None else result.theta[column]
    return sky_position(result.reference, offsets[:, 0], offsets[:, 1])


def image_header(exposure) -> fits.Header:
    """Header with the WCS that was used, corrections of the configuration included."""
    if isinstance(exposure.wcs, WCS):
        return exposure.wcs.to_header(relax=True)
    header = fits.Header()
    for card in getattr(exposure.header, "cards", ()):
        if card.keyword and card.keyword not in _DROPPED:
            header.append(card)
    return header
