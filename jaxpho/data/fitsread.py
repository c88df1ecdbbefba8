"""Arrays and headers out of FITS (or .npy) files, with errors that name file and extension."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from astropy.io import fits

from jaxpho.errors import InputError

# Cards that describe one HDU's array and must not come from the primary header.
_STRUCTURE = ("SIMPLE", "XTENSION", "BITPIX", "NAXIS", "EXTEND", "PCOUNT", "GCOUNT", "EXTNAME",
              "EXTVER", "BZERO", "BSCALE", "CHECKSUM", "DATASUM", "INHERIT", "COMMENT",
              "HISTORY", "")  # fmt: skip
_ASTROMETRY = ("CTYPE", "CRVAL", "CRPIX", "CDELT", "CUNIT", "CD1_", "CD2_", "PC1_", "PC2_",
               "PV1_", "PV2_", "CROTA", "WCSAXES", "A_", "B_", "AP_", "BP_")  # fmt: skip


CREATOR = "jaxpho"
"""What the card CREATOR of a run's images and catalogues begins with."""


class BadExposure(InputError):
    """One exposure cannot be used (no good pixel, damaged data); the others may go on."""


class FitsFile:
    """An image file, open: FITS, or .npy with one bare array."""

    def __init__(self, path):
        self.path = Path(path)
        if not self.path.is_file():
            kind = "is a folder" if self.path.is_dir() else "does not exist"
            raise InputError(f"{self.path}: the file {kind}")
        self.hdus = None
        if self.path.suffix == ".npy":
            try:
                array = np.load(self.path, allow_pickle=False)
            except (ValueError, OSError, EOFError) as error:
                raise BadExposure(f"{self.path}: not a readable .npy array ({error})") from None
            self.hdus = fits.HDUList([fits.PrimaryHDU(array)])
            return
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                self.hdus = fits.open(self.path, memmap=False)
                len(self.hdus)  # reads all headers
        except (OSError, EOFError, ValueError, TypeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise BadExposure(f"{self.path}: not a readable FITS file ({reason})") from None
        # astropy only warns of a file that ends too early, and then lacks its last extensions
        if any("truncated" in str(w.message) for w in caught):
            self.hdus.close()
            raise BadExposure(f"{self.path}: the file is truncated")

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.hdus.close()

    def _names(self) -> str:
        return ", ".join(f"{i} {h.name or 'unnamed'}" for i, h in enumerate(self.hdus))

    def index(self, ext: str | int | None, optional: bool = False) -> int | None:
        """Number of an extension by name, number, "NAME,2", or None: the first with an image.

        Raises
        ------
        InputError
            When it is missing (unless optional), or holds no 2-D image.
        """
        if ext is None:
            for i, hdu in enumerate(self.hdus):
                if _is_image(hdu) and hdu.header.get("NAXIS", 0) >= 2:
                    return i
            raise InputError(f"{self.path}: no extension holds an image (found: {self._names()})")
        key = ext
        if isinstance(ext, str):
            name, _, version = ext.partition(",")
            if ext.lstrip("-").isdigit():
                key = int(ext)
            elif version.strip().isdigit():
                key = (name, int(version))
        try:
            found = key if isinstance(key, int) else self.hdus.index_of(key)
            hdu = self.hdus[found]
        except (KeyError, IndexError):
            if optional:
                return None
            raise InputError(
                f"{self.path}: no extension {ext!r} (found: {self._names()})"
            ) from None
        if not _is_image(hdu):
            raise InputError(f"{self.path}: extension {ext!r} is a table, expected an image")
        if hdu.header.get("NAXIS", 0) < 2:
            raise InputError(f"{self.path}: extension {ext!r} holds no image")
        return found

    def image(self, index: int) -> np.ndarray:
        """The 2-D array of an extension, native byte order; axes of length 1 are dropped."""
        try:
            data = np.asarray(self.hdus[index].data)
        except (OSError, ValueError, TypeError, EOFError) as error:
            raise BadExposure(
                f"{self.path}: data of extension {index} cannot be read ({error})"
            ) from None
        while data.ndim > 2 and data.shape[0] == 1:
            data = data[0]
        if data.ndim != 2:
            raise InputError(
                f"{self.path}: extension {index} has {data.ndim} axes {data.shape}, expected 2: "
                "write the plane to be used into an image of its own"
            )
        return data.astype(data.dtype.newbyteorder("="), copy=False)

    def header(self, index: int):
        """Header of an extension, with the primary header's cards where it has none itself."""
        own = self.hdus[index].header.copy()
        if index == 0:
            return own
        skip = _STRUCTURE + (_ASTROMETRY if "CTYPE1" in own else ())
        for card in self.hdus[0].header.cards:
            prefix = card.keyword.startswith(_ASTROMETRY) and "CTYPE1" in own
            if card.keyword not in own and card.keyword not in skip and not prefix:
                if not card.keyword.startswith("NAXIS"):
                    own.append(card, end=True)
        return own


def _is_image(hdu) -> bool:
    return isinstance(hdu, fits.PrimaryHDU | fits.ImageHDU | fits.CompImageHDU)


def is_product(path) -> bool:
    """Whether a FITS file is an image or a catalogue that a run of jaxpho wrote."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with fits.open(path, memmap=False) as hdus:
                return any(
                    str(hdu.header.get("CREATOR", "")).split(" ")[0] == CREATOR for hdu in hdus[:2]
                )
    except (OSError, EOFError, ValueError, TypeError, IndexError):
        return False  # whoever reads it will say what is wrong with it
