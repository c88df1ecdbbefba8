"""What `make-psf --stars` does between its options and its files."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxpho.data.psfmodel import PSFModel
from jaxpho.errors import InputError
from psfmix.inputs import checksum_of
from psfmix.options import grid_of
from psfmix.starread import Planes, read_stars
from psfmix.stars import StarFit, fit_stars

log = logging.getLogger("psfmix.stars")

_NODES = 5


class StarPSF(NamedTuple):
    """Everything that is written."""

    fit: StarFit
    model: PSFModel
    provenance: dict


def check_options(args, sizes):
    """Options that stars have no use for.

    Raises
    ------
    InputError
    """
    idle = {
        "--locations": args.locations is not None,
        "--plane": args.plane is not None,
        "--oversample (stars have native pixels)": args.oversample not in (None, 1),
        "--trim": args.trim != 0,
        "--ladder and --tolerance": len(sizes) > 1,
        "--grid (it needs --order 1 or 2)": bool(args.grid) and args.order == 0,
    }
    for name, given in idle.items():
        if given:
            raise InputError(f"--stars does not go with {name}")
    if args.stamp_size % 2 == 0:
        raise InputError(f"--stamp_size is {args.stamp_size}; expected an odd number of pixels")


def star_psf(args, sizes):
    """Read the stars and fit them; see `psfmix.options` for the arguments."""
    check_options(args, sizes)
    stamps = read_stars(
        args.stars, args.psf_image, args.ext, Planes(args.weight, args.error, args.mask),
        args.stamp_size, args.saturation, args.gain,
    )  # fmt: skip
    log.info(
        "%d stars of %d x %d pixels; PSFs of stars are optimised, not sampled, and sum to 1",
        len(stamps), *stamps.shape[::-1],
    )  # fmt: skip
    grid = grid_of(args.grid) if args.grid else None
    if grid and stamps.detector not in (None, grid[:2]):
        raise InputError(
            f"--grid says a detector of {grid[0]} x {grid[1]} pixels; {args.psf_image} has "
            f"{stamps.detector[0]} x {stamps.detector[1]}"
        )
    if grid:
        stamps = stamps.on(grid[:2])
    try:
        fit = fit_stars(
            stamps, ngauss=sizes[0], signed=args.signed, order=args.order,
            includes_pixel=args.psf_includes_pixel, clip=args.clip, min_snr=args.min_snr,
            background_sigma=args.background_sigma, progress=not args.quiet,
        )  # fmt: skip
    except InputError as error:
        raise InputError(f"{args.stars}: {error}") from error
    model = fit.model(_nodes(fit, grid[2] if grid else _NODES))
    return StarPSF(fit, model, _provenance(args, fit))


def _nodes(fit, number):
    """Positions of the store, array (number^2, 2)."""
    (x, y), (hx, hy) = fit.field.middle, fit.field.half
    step = np.linspace(-1, 1, number)
    return np.stack([a.ravel() for a in np.meshgrid(x + hx * step, y + hy * step)], axis=-1)


def _provenance(args, fit):
    table, good = fit.table, fit.accepted
    return {
        "image": Path(args.psf_image or args.stars).name,
        "stars": Path(args.stars).name,
        "stars_sha256": checksum_of(args.stars),
        "method": "map",
        "oversample": 1.0,
        "order": fit.field.order,
        "star_count": len(table),
        "star_used": int(good.sum()),
        "star_chi2": float(np.median(table["chi2"][good] / table["npix"][good])),
        **_images_of(args),
        "residual": fit.residual,
        "ee_error": fit.ee_error,
        "fwhm": fit.fwhm,
    }


def _images_of(args):
    """Attributes of the stored group: what the stars were cut from, planes beside it included."""
    out = {"image_ext": "" if args.ext is None else args.ext, "oversample_from": "native pixels"}
    out["image_sha256"] = checksum_of(args.psf_image or args.stars)
    for name in ("weight", "error", "mask"):
        text = getattr(args, name)
        path = Path((text or "").partition("[")[0])
        if text and path.is_file():
            out |= {f"{name}_image": path.name, f"{name}_sha256": checksum_of(path)}
    return out
