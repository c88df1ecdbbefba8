"""Unusable pixels of a PSF image: a few are left out, a hole in the core is refused."""

import logging

import numpy as np

from jaxpho.errors import InputError

log = logging.getLogger("psfmix.badpixels")

# Part of the core (a disk with the area of the pixels above half of the peak) that may be bad.
_CORE_BAD = 0.1


def check_bad_pixels(image, where):
    """Warn of pixels that are not finite; raise InputError where the core lacks too many.

    Parameters
    ----------
    image : array (ny, nx)
        Trimmed.
    where : str
        The image in messages.
    """
    bad = ~np.isfinite(image)
    count = int(bad.sum())
    if not count or bad.all():  # the fit has a message of its own for the second
        return
    y, x = np.nonzero(~bad & (image > 0.5 * np.max(image[~bad])))
    gy, gx = np.indices(image.shape)
    core = (gx - x.mean()) ** 2 + (gy - y.mean()) ** 2 <= max(len(x) / np.pi, 1.0)
    missing = int((core & bad).sum())
    if missing > _CORE_BAD * core.sum():
        raise InputError(
            f"{where}: {missing} of the {core.sum()} pixels of the core (above half of the peak) "
            "are not finite, so that the peak is unknown; expected an image without a hole there"
        )
    log.warning(
        "%s: %d pixels are not finite and left out, %d of them in the core", where, count, missing
    )
