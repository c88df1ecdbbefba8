"""Small synthetic FITS images for the tests of the readers."""

import numpy as np
from astropy.io import fits

from jaxpho.config import CatalogOptions, ImageOptions
from jaxpho.schema import build

SHAPE = (24, 32)
SCALE = 0.2  # arcsec
RA, DEC = 150.0, 2.0


def tan_header(**cards):
    """A north-up tangent WCS; keyword arguments are further cards (None removes one)."""
    header = fits.Header()
    header.update(
        CTYPE1="RA---TAN", CTYPE2="DEC--TAN", CUNIT1="deg", CUNIT2="deg", CRVAL1=RA, CRVAL2=DEC,
        CRPIX1=16.5, CRPIX2=12.5, CD1_1=-SCALE / 3600, CD1_2=0.0, CD2_1=0.0, CD2_2=SCALE / 3600,
    )  # fmt: skip
    for key, value in cards.items():
        if value is None:
            del header[key]
        else:
            header[key] = value
    return header


def image_data(seed=0, level=0.0, shape=SHAPE):
    """Unit Gaussian noise around a level."""
    return np.random.default_rng(seed).normal(level, 1.0, shape).astype(np.float32)


def write_mef(path, science, header=None, **extensions):
    """Primary without data, SCI, then one extension per keyword (arrays or (array, header))."""
    header = tan_header() if header is None else header
    hdus = [fits.PrimaryHDU(), fits.ImageHDU(science, header, name="SCI")]
    for name, array in extensions.items():
        array, extra = array if isinstance(array, tuple) else (array, None)
        hdus.append(fits.ImageHDU(array, extra, name=name))
    fits.HDUList(hdus).writeto(path, overwrite=True)
    return path


def image_options(**values):
    """Options from plain values, as the configuration builds them."""
    return build(ImageOptions, values)


def catalog_options(**values):
    """Options of the peaks section from plain values."""
    return build(CatalogOptions, values)
