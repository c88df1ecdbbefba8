"""What `make-psf --reduced` adds to a PSF model before it is stored."""

import logging
from pathlib import Path

import numpy as np

from jaxpho.data.psfstore import read_sersic_radii
from jaxpho.errors import InputError
from psfmix.reduced import TOLERANCE, per_radius_model, reduce_model

log = logging.getLogger("psfmix.reduced")


def check_reduced_options(args):
    """Radii, native pixels along the minor axis, or None; raises InputError for bad options."""
    if args.radii is None:
        return None
    if not args.reduced:
        raise InputError("--radii is for reduced mixtures: give --reduced as well")
    if not 0 < args.q_min <= 1:
        raise InputError(f"--q_min is {args.q_min}; expected an axis ratio above 0 and at most 1")
    return np.sqrt(args.q_min) * radii_of(args.radii, args.sci_pix_scale)


def radii_of(text, pixel_scale=None):
    """Radii in native pixels, from a list of numbers or from forcepho's table.

    Parameters
    ----------
    text : str
        Numbers (native pixels) with commas between them, or the name of a file (arcsec).
    pixel_scale : float
        Native pixel, arcsec; needed for a file.
    """
    try:
        radii = np.array([float(part) for part in text.split(",")])
    except ValueError:
        if not Path(text).is_file():
            raise InputError(
                f"--radii is {text!r}; expected numbers with commas between them, or a Sersic table"
            ) from None
        if pixel_scale is None or not pixel_scale > 0:
            raise InputError(
                f"--radii {text}: its radii are in arcsec; give --sci_pix_scale, arcsec per pixel"
            ) from None
        radii = read_sersic_radii(text) / pixel_scale
    if not np.all(np.isfinite(radii) & (radii >= 0)):
        raise InputError(f"--radii is {text!r}; expected radii from 0 on")
    return radii


def with_reduced(model, radii=None, progress=None):
    """The model with reduced mixtures; the log says what they are.

    Parameters
    ----------
    model : PSFModel
    radii : array, optional
        As from `check_reduced_options`: one mixture for each instead of a ladder.
    progress : callable, optional
        Called with (steps done, steps to do).

    Returns
    -------
    PSFModel
    """
    if radii is not None:
        out = per_radius_model(model, radii)
        counts = np.bincount(out.parameters["sersic_bin"][0])
        log.info(
            "Gaussians by radius: %s; %d instead of %d in all, each within %g of its peak",
            " ".join(map(str, counts)), out.ngauss, len(radii) * model.ngauss, TOLERANCE,
        )  # fmt: skip
        return out
    out = reduce_model(model, progress=progress)
    log.info("%s", format_rungs(out))
    return out


def format_rungs(model):
    """The reduced mixtures as a table."""
    lines = ["reduced mixtures", "from width  Gaussians  error", "        px          of peak"]
    lines += [
        f"{rung.width:10.2f} {rung.parameters.shape[1]:10d}  {rung.error:.1e}"
        for rung in model.reduced
    ]
    return "\n".join(lines)
