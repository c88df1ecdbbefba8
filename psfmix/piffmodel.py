"""PIFF models as a varying PSF. The only module that imports piff, an optional package."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from astropy.io import fits

from jaxpho.errors import InputError
from psfmix.provenance import model_provenance
from psfmix.varying import PSFGrid, grid_places

log = logging.getLogger("psfmix.piff")

# Samples per native pixel, and the stamp's side (native px): twice what holds 99.5 % of the light,
# between these.
_OVERSAMPLE, _SMALLEST, _LARGEST = 3, 25, 101


def is_piff(path):
    """Whether a file is a PIFF model: a FITS file with a table ``psf`` that has a type."""
    try:
        with fits.open(path, memmap=False) as hdus:
            return any(
                isinstance(hdu, fits.BinTableHDU)
                and hdu.name.lower() == "psf"
                and "type" in map(str.lower, hdu.columns.names)
                for hdu in hdus
            )
    except (OSError, ValueError):
        return False


def piff_grid(path, shape, number, chip=None):
    """A PIFF model evaluated on a regular grid of a detector.

    A profile that PIFF convolves with the pixel when it draws is taken without it; one that holds
    the pixel already (PixelGrid) keeps it. Files of PIFF contain pickled objects, which it
    unpickles: read only files that you trust.

    Parameters
    ----------
    path : path
    shape : (nx, ny)
        Size of the detector, pixels.
    number : int
        Positions along each side, edges included.
    chip : int or str, optional
        Chip number of a model of several chips.

    Returns
    -------
    PSFGrid
        PIFF counts pixels from 1, the positions returned from 0.

    Raises
    ------
    InputError
        No piff, unreadable file, unknown chip, a model that depends on more than the position.
    """
    try:
        import piff
    except ImportError:
        raise InputError(
            f"{path} is a PIFF model, which needs the package piff: pip install 'jaxpho[piff]'"
        ) from None
    places = grid_places(shape, number)
    try:
        model = piff.read(str(path))
        known = {str(key): key for key in model.wcs}
        extra = set(model.interp_property_names) - {"x", "y", "u", "v"}
    except Exception as error:  # piff and its readers raise many kinds
        raise InputError(f"PIFF model {path} cannot be read ({error})") from error
    if extra:
        raise InputError(
            f"PIFF model {path} depends on {', '.join(sorted(extra))}; only positions are supported"
        )
    if chip is None and len(known) == 1:
        chip = next(iter(known))
    if str(chip) not in known:
        raise InputError(
            f"PIFF model {path} has the chips {', '.join(known)}; --ext is {chip}, expected one of "
            "them"
        )
    chip = known[str(chip)]
    try:
        profiles = [_profile(model, *place, chip) for place in places]
        middle = len(profiles) // 2
        side = 2 * profiles[middle][0].getGoodImageSize(1.0)
        side = _OVERSAMPLE * (int(np.clip(side, _SMALLEST, _LARGEST)) | 1)  # odd
        images = [
            profile.drawImage(nx=side, ny=side, scale=1 / _OVERSAMPLE, method=method).array
            for profile, method in profiles
        ]
    except Exception as error:
        raise InputError(f"PIFF model {path} cannot be drawn ({error})") from error
    methods = {method for _, method in profiles}
    log.info(
        "PIFF %s, chip %s: %d x %d samples, %d a native pixel; the pixel is %s",
        Path(path).name, chip, side, side, _OVERSAMPLE,
        "inside" if methods == {"no_pixel"} else "left out",
    )  # fmt: skip
    images = [np.asarray(image, float) for image in images]
    provenance = model_provenance(path, chip, "PIFF model")
    return PSFGrid(images, places, float(_OVERSAMPLE), methods == {"no_pixel"}, provenance)


def _profile(model, x, y, chip):
    """Profile in native pixels at a place (0-indexed), and how it is to be drawn."""
    profile, method = model.get_profile(x + 1, y + 1, chipnum=chip)
    place = type(profile.centroid)(x + 1, y + 1)
    return model.wcs[chip].local(place).profileToImage(profile), method
