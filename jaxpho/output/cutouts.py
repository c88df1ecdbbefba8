"""Cutouts around sources: data, model, residual and chi of every exposure, with its WCS."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from jaxpho.data.fitsread import CREATOR
from jaxpho.data.wcs import contains, pixel_area, world_to_pixel
from jaxpho.files import ascii_text, file_names, replacing

LAYERS = ("DATA", "MODEL", "RESIDUAL", "CHI")


class ImageFiles:
    """The exported images of exposures; their WCS are read once.

    Parameters
    ----------
    paths : FITS files with the extensions `LAYERS`.
    """

    def __init__(self, paths):
        self.paths, self.wcs, self.names, self.shapes = list(paths), [], [], []
        self.units: list[str] = []
        for path in self.paths:
            with fits.open(path) as hdus, warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of cards that astropy puts right
                header = hdus["MODEL"].header
                self.wcs.append(WCS(header))
                self.shapes.append((int(header["NAXIS2"]), int(header["NAXIS1"])))
                primary = hdus[0].header
                self.units.append(str(header.get("BUNIT", "")))
                self.names.append((str(primary["BAND"]), str(primary["EXPOSURE"])))


def write_cutout(path, images: ImageFiles, name: str, ra: float, dec: float, size: float) -> int:
    """Write one FITS file with four extensions for each exposure that covers a place.

    Parameters
    ----------
    path : file, replaced in one step.
    images : ImageFiles
    name : of the source, for the header.
    ra, dec : centre, deg.
    size : side of the square, arcsec. Edges cut it.

    Returns
    -------
    int
        Exposures in the file; where there are none, nothing is written.
    """
    hdus = [fits.PrimaryHDU()]
    cards = hdus[0].header
    cards["CREATOR"] = (CREATOR, "cutouts of a fit")
    cards["SOURCE"] = (ascii_text(name)[:68], "id of the source")
    cards["RA"], cards["DEC"] = (ra, "[deg] ICRS"), (dec, "[deg] ICRS")
    cards["SIZE"] = (size, "[arcsec] side")
    count = 0
    for file, wcs, shape, (band, exposure) in zip(
        images.paths, images.wcs, images.shapes, images.names, strict=True
    ):
        box = _box(wcs, shape, ra, dec, size)
        if box is None:
            continue
        count += 1
        (y0, y1), (x0, x1) = box
        with fits.open(file) as found:
            for layer in LAYERS:
                hdu, source = fits.ImageHDU(), found[layer]
                hdu.header = source.header.copy()
                hdu.data = source.section[y0:y1, x0:x1]
                hdu.name, hdu.ver = layer, count
                for key, shift in (("CRPIX1", x0), ("CRPIX2", y0)):
                    hdu.header[key] = hdu.header.get(key, 0.0) - shift
                hdu.header["EXPOSURE"] = (exposure, "exposure id")
                hdu.header["BAND"] = (band, "band")
                hdu.header["LTV1"], hdu.header["LTV2"] = -float(x0), -float(y0)
                hdus.append(hdu)
    if count:
        with replacing(path) as temporary:
            fits.HDUList(hdus).writeto(temporary, overwrite=True, output_verify="silentfix")
    return count


def _box(wcs, shape, ra: float, dec: float, size: float):
    """((y0, y1), (x0, x1)) of the pixels of a square; None where it misses the image."""
    ((x, y),) = world_to_pixel(wcs, np.array([ra]), np.array([dec]))
    if not np.isfinite(x + y):
        return None
    half = 0.5 * size / (3600.0 * np.degrees(np.sqrt(pixel_area(wcs, shape))))
    if not contains(wcs, shape, ra, dec, half):
        return None
    out = []
    for at, n in ((y, shape[0]), (x, shape[1])):
        low, high = max(int(np.ceil(at - half)), 0), min(int(np.floor(at + half)) + 1, n)
        if low >= high:
            return None
        out.append((low, high))
    return tuple(out)


def cutout_sizes(table, least: float = 3.0, most: float = 30.0, factor: float = 8.0) -> np.ndarray:
    """Side [arcsec] of the cutout of each source: `factor` half-light radii, within limits."""
    out = np.full(len(table), least)
    for suffix in ("", "_disk", "_bulge"):
        name = f"rhalf_major{suffix}"
        if name in table.colnames:
            out = np.fmax(out, factor * np.asarray(table[name], float))
    return np.minimum(out, most)


def cutout_paths(folder, ids) -> list[Path]:
    """A file for each source."""
    ids = [str(i) for i in ids]
    names = file_names(ids)
    return [Path(folder) / f"{names[i]}.fits" for i in ids]
