"""PSF images as users have them: FITS files of simulators and of image makers, HDF5."""

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from astropy.io import fits

from jaxpho.errors import InputError
from psfmix.hdf5image import is_hdf5, read_hdf5

log = logging.getLogger("psfmix.inputs")

OVERSAMPLE_CARDS = ("OVERSAMP", "DET_SAMP", "OVERSAMPL")
"""Header cards that may hold the oversampling, first come first served."""
_SCALE_CARDS = ("PIXELSCL", "PIXSCALE")


@dataclass(frozen=True)
class PSFImage:
    """A PSF image and what is known about it.

    Attributes
    ----------
    image : array (ny, nx)
    oversample : float
        Image pixels per native detector pixel.
    oversample_from : str
        Where that came from.
    path : Path
    ext : str
        Number and name of the extension.
    checksum : str
        SHA-256 of the file.
    """

    image: np.ndarray
    oversample: float
    oversample_from: str
    path: Path
    ext: str
    checksum: str


def read_psf_image(path, ext=None, oversample=None, sci_pix_scale=None, plane=None):
    """Read a PSF image and find out how finely it is sampled.

    Parameters
    ----------
    path : path
        FITS file: plain, with several extensions (webbpsf/stpsf, TinyTim), compressed or a cube;
        or HDF5 file, with the FITS keywords as attributes of the data set, its groups or the file.
    ext : int or str, optional
        Extension; default 0, or the first one with an image where that is empty. Of an HDF5 file,
        path of the data set; default the first image.
    oversample : float, optional
        Image pixels per native pixel. Default: from the header (`OVERSAMPLE_CARDS`, the
        extension's before the primary one's), else from `sci_pix_scale`, else 1 with a warning.
    sci_pix_scale : float, optional
        Native pixel, arcsec: with the image's own scale in the header this gives the oversampling.
    plane : int, optional
        Plane of a cube.

    Returns
    -------
    PSFImage

    Raises
    ------
    InputError
        Missing or foreign file, no such extension, not a 2-D image, impossible oversampling.
    """
    found = _read(path, ext, plane is not None)
    image = _plane(found.array, found.where, plane)
    factor = _oversampling(found, oversample, sci_pix_scale)
    return _psf_image(found, image, *factor, checksum_of(found.path))


def read_psf_cube(path, ext=None, oversample=None, sci_pix_scale=None):
    """Read every plane of a cube (nloc, ny, nx); arguments and errors as for `read_psf_image`.

    Returns
    -------
    list of PSFImage
    """
    found = _read(path, ext, True)
    if found.array.ndim != 3:
        raise InputError(
            f"{found.where} has shape {found.array.shape}; expected a cube (nloc, ny, nx)"
        )
    factor = _oversampling(found, oversample, sci_pix_scale)
    checksum = checksum_of(found.path)
    return [_psf_image(found, plane, *factor, checksum) for plane in found.array]


def checksum_of(path):
    """SHA-256 of a file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Found(NamedTuple):
    """An array of a file and what the file says about it."""

    path: Path
    array: np.ndarray
    headers: list  # mappings from keyword to value, the nearest first
    name: str
    keyword: str  # what the file's format calls one

    @property
    def where(self):
        return f"PSF image {self.path}[{self.name}]"


def _read(path, ext, cube):
    """The array to use; a cube is preferred where the file has images as well."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"PSF image {path} does not exist")
    if is_hdf5(path):
        found = _Found(path, *read_hdf5(path, ext, cube), "attribute")
    else:
        found = _Found(path, *_read_fits(path, ext), "card")
    if found.array.dtype.kind not in "fiu":
        raise InputError(f"{found.where} holds {found.array.dtype} values; expected a 2-D image")
    return found


def _read_fits(path, ext):
    """Array, headers and name of an extension."""
    try:
        with fits.open(path, memmap=False) as hdus:
            index = _extension(hdus, path, ext)
            headers = [hdus[index].header, hdus[0].header]
            return np.asarray(hdus[index].data), headers, f"{index} {hdus[index].name}".strip()
    except InputError:
        raise
    except (OSError, ValueError, TypeError, IndexError) as error:
        raise InputError(f"PSF image {path} is not a readable FITS file ({error})") from error


def _psf_image(found, image, factor, source, checksum):
    return PSFImage(
        image=image.astype(float),
        oversample=factor,
        oversample_from=source,
        path=found.path,
        ext=found.name,
        checksum=checksum,
    )


def _extension(hdus, path, ext):
    """Index of the extension to read."""
    names = ", ".join(f"{i} {h.name}".strip() for i, h in enumerate(hdus))
    images = [i for i, h in enumerate(hdus) if h.is_image and h.header.get("NAXIS", 0) > 0]
    if ext is None:
        if not images:
            raise InputError(f"PSF image {path} holds no image; its extensions are: {names}")
        if images[0]:
            log.info("%s: extension 0 is empty, taking extension %d", path, images[0])
        return images[0]
    try:
        index = hdus.index_of(int(ext) if str(ext).lstrip("-").isdigit() else ext)
    except KeyError:
        index = -1
    if not 0 <= index < len(hdus):
        raise InputError(f"PSF image {path} has no extension {ext!r}; it has: {names}")
    if index not in images:
        raise InputError(
            f"PSF image {path}: extension {ext!r} holds no image; expected one of "
            + (", ".join(map(str, images)) or "none")
        )
    return index


def _plane(image, where, plane):
    """The 2-D image, or a plane of a cube."""
    shape = image.shape
    if image.ndim > 3 or (image.ndim == 3 and plane is None):
        image = image.reshape([n for n in shape if n > 1])
    if image.ndim == 2 and plane is not None:
        raise InputError(f"{where} has shape {shape}: --plane is for cubes, leave it out")
    if image.ndim == 3 and plane is not None:
        if not 0 <= plane < len(image):
            raise InputError(f"{where} has {len(image)} planes; plane {plane} was asked for")
        return image[plane]
    if image.ndim != 2:
        hint = f"; --plane chooses one of its {len(image)} planes" if image.ndim == 3 else ""
        raise InputError(f"{where} has shape {shape}; expected a 2-D image{hint}")
    return image


def _oversampling(found, given, sci_pix_scale):
    """Oversampling and its source."""
    headers, where, keyword = found.headers, found.where, found.keyword
    if given is not None:
        return check_oversample(given), "given"
    for header in headers:
        for card in OVERSAMPLE_CARDS:
            if card in header:
                place = f"{where}: header {keyword} {card}"
                return _positive(header[card], place), f"{keyword} {card}"
    if sci_pix_scale is not None:
        for header in headers:
            for card in _SCALE_CARDS:
                if card in header:
                    own = _positive(header[card], f"{where}: header {keyword} {card}")
                    return sci_pix_scale / own, f"science pixel over {keyword} {card}"
    log.warning(
        "%s: no oversampling given and none in the header (%s): 1 is assumed",
        where,
        ", ".join(OVERSAMPLE_CARDS),
    )
    return 1.0, "assumed"


def check_oversample(value):
    """The oversampling that was asked for, as a number; raises InputError."""
    try:
        factor = float(value)
    except (TypeError, ValueError):
        factor = np.nan
    if not (np.isfinite(factor) and factor > 0):
        raise InputError(
            f"--oversample is {value}; expected a positive number of image pixels per native pixel"
        )
    return factor


def _positive(value, where):
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise InputError(f"{where} is {value!r}; expected a positive number")
    return float(value)
