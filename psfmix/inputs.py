"""PSF images as users have them: FITS files of simulators and of image makers."""

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits

from jaxpho.errors import InputError

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
        FITS file: plain, with several extensions (webbpsf/stpsf, TinyTim), compressed or a cube.
    ext : int or str, optional
        Extension; default 0, or the first one with an image where that is empty.
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
    path = Path(path)
    if not path.is_file():
        raise InputError(f"PSF image {path} does not exist")
    try:
        with fits.open(path, memmap=False) as hdus:
            index = _extension(hdus, path, ext)
            image = np.asarray(hdus[index].data)
            headers = [hdus[index].header, hdus[0].header]
            name = f"{index} {hdus[index].name}".strip()
    except (OSError, ValueError, TypeError, IndexError) as error:
        raise InputError(f"PSF image {path} is not a readable FITS file ({error})") from error
    where = f"PSF image {path}[{name}]"
    if image.dtype.kind not in "fiu":
        raise InputError(f"{where} holds {image.dtype} values; expected a 2-D image")
    image = _plane(image, where, plane)
    factor, source = _oversampling(headers, where, oversample, sci_pix_scale)
    return PSFImage(
        image=image.astype(float),
        oversample=factor,
        oversample_from=source,
        path=path,
        ext=name,
        checksum=hashlib.sha256(path.read_bytes()).hexdigest(),
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
    image = image.reshape([n for n in shape if n > 1]) if image.ndim > 2 else image
    if image.ndim == 3 and plane is not None:
        if not 0 <= plane < len(image):
            raise InputError(f"{where} has {len(image)} planes; plane {plane} was asked for")
        return image[plane]
    if image.ndim != 2:
        hint = f"; --plane chooses one of its {len(image)} planes" if image.ndim == 3 else ""
        raise InputError(f"{where} has shape {shape}; expected a 2-D image{hint}")
    return image


def _oversampling(headers, where, given, sci_pix_scale):
    """Oversampling and its source."""
    if given is not None:
        if not (np.isfinite(given) and given > 0):
            raise InputError(f"oversampling is {given}; expected a positive number")
        return float(given), "given"
    for header in headers:
        for card in OVERSAMPLE_CARDS:
            if card in header:
                return _positive(header[card], f"{where}: header card {card}"), f"card {card}"
    if sci_pix_scale is not None:
        for header in headers:
            for card in _SCALE_CARDS:
                if card in header:
                    own = _positive(header[card], f"{where}: header card {card}")
                    return sci_pix_scale / own, f"science pixel over card {card}"
    log.warning(
        "%s: no oversampling given and none in the header (%s): 1 is assumed",
        where,
        ", ".join(OVERSAMPLE_CARDS),
    )
    return 1.0, "assumed"


def _positive(value, where):
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise InputError(f"{where} is {value!r}; expected a positive number")
    return float(value)
