"""Options of `make-psf` that contradict each other or would be ignored, refused before any work."""

import argparse
import logging
import operator

import numpy as np

from jaxpho.errors import InputError
from psfmix.inputs import check_oversample
from psfmix.options import make_parser

log = logging.getLogger("psfmix.make_psf")

_STARS = (
    "weight", "error", "mask", "gain", "saturation", "stamp_size", "order", "clip", "min_snr",
    "background_sigma",
)  # fmt: skip
_SAMPLING = ("fix_amplitude", "num_warmup", "num_samples", "num_chains", "seed")


def parse(argv=None):
    """The arguments; ``given`` is the set of those that the command line names.

    Raises
    ------
    InputError
        Unknown options and values of the wrong kind.
    """
    parser = make_parser()
    args = parser.parse_args(argv)
    # once more, over values that only what the command line names replaces
    untouched = object()
    again = parser.parse_args(argv, argparse.Namespace(**dict.fromkeys(vars(args), untouched)))
    args.given = frozenset(k for k, value in vars(again).items() if value is not untouched)
    return args


def check_options(args):
    """Raise InputError for values out of range and options without effect.

    Parameters
    ----------
    args : argparse.Namespace
        From `parse`.
    """
    if not args.band.strip("/ "):
        raise InputError(f"--band is {args.band!r}; expected a name")
    if args.psf_image is None and args.stars is None:
        raise InputError("neither --psf_image nor --stars is given; expected one of them, or both")
    if args.oversample is not None:
        check_oversample(args.oversample)
    if args.sci_pix_scale is not None and not 0 < args.sci_pix_scale < np.inf:
        raise InputError(
            f"--sci_pix_scale is {args.sci_pix_scale}; expected a positive number of arcsec"
        )
    if args.trim < 0:
        raise InputError(f"--trim is {args.trim}; expected 0 or more image pixels")
    for name, reason in _idle(args):
        if name in args.given:
            raise InputError(f"--{name} {reason}: leave it out")
    counts = {name: getattr(args, name) for name in ("num_warmup", "num_samples", "num_chains")}
    check_sampling(counts, args.seed, args.snr, prefix="--")
    if "snr" in args.given and not _sampled(args):
        log.warning("--snr has no effect without sampling: the optimum does not depend on it")


def _sampled(args):
    return args.method == "nuts" and not (args.stars or args.locations or args.grid)


def _idle(args):
    """(option, why it has no effect) of everything that these arguments make useless."""
    table = args.radii is not None
    if args.locations and args.grid:
        yield "locations", "and --grid both say where the PSF is taken"
    if not args.stars:
        yield from ((name, "is for PSFs from --stars") for name in _STARS)
    if args.stars:
        where, what = "--stars", "PSFs of --stars are optimised, not sampled"
        yield "fit_bg", "has no effect with --stars, which have a background each"
        if args.normalize == "stamp":
            yield "normalize", "stamp has no effect with --stars, whose mixtures sum to 1"
        if args.psf_image is None:
            yield "stamp_size", "has no effect without --psf_image: the stamps have been cut"
    elif args.locations or args.grid:
        where = "--locations" if args.locations else "--grid"
        what = f"PSFs of {where} are optimised, not sampled"
        yield "fit_bg", f"is for one image, not for {where}"
        yield "plane", f"has no effect with {where}, which takes all of them"
        if args.grid:
            model = "has no effect with --grid: the PSF model has its own"
            yield "oversample", f"{model} sampling"
            yield "psf_includes_pixel", f"{model} pixel"
    else:
        where, what = "--method map", "nothing is sampled then"
    if where != "--method map" and args.method == "nuts":
        yield "method", f"nuts is for one image: {what}"
    if where != "--method map" or args.method == "map":
        yield from ((name, f"has no effect with {where}: {what}") for name in _SAMPLING)
    if (args.grid or args.stars) and not table:
        yield "sci_pix_scale", f"has no effect with {'--stars' if args.stars else '--grid'}"
    if not table:
        yield "q_min", "is for mixtures by --radii"
    else:
        yield "nradii", "has no effect with --radii, which says how many there are"
    if args.tolerance is not None:
        yield "ngauss", "has no effect with --tolerance, which chooses it"


def check_sampling(counts, seed, snr, prefix=""):
    """Raise InputError for numbers that NUTS cannot use; names in messages get the prefix."""
    for name, value in counts.items():
        if not _is_integer(value) or value < 1:
            raise InputError(f"{prefix}{name} is {value!r}; expected a positive integer")
    if not (_is_integer(seed) and 0 <= seed < 2**32):
        raise InputError(f"{prefix}seed is {seed!r}; expected an integer from 0 to 2^32 - 1")
    if not (np.isfinite(snr) and snr > 0):
        raise InputError(f"{prefix}snr is {snr}; expected a positive number")


def _is_integer(value):
    try:
        return not isinstance(value, bool) and operator.index(value) == value
    except TypeError:
        return False
