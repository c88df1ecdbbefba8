"""The arguments of `make-psf`."""

import argparse
import re

import numpy as np

from jaxpho.errors import InputError

LARGEST = 16
"""Gaussians that a mixture may have."""

DESCRIPTION = """\
Fit a mixture of Gaussians to the image of a PSF and store it, under the name of its band, in an
HDF5 file that jaxpho-fit and forcepho read.
"""
EPILOG = """\
The mixture of least squares is found by Levenberg-Marquardt from many starts (--method map stops
there). From it NUTS draws from the posterior of a mixture given the image, with the same error in
every pixel, sigma = max(image) / snr. The stored mixture is the one of highest likelihood among the
optimum and the draws that are no worse than it in residual and encircled energy.

Stored centres are in native detector pixels from the geometric centre ((nx - 1) / 2, (ny - 1) / 2)
of the trimmed image; covariances in native pixels^2, without the 1 / (12 oversample^2) of the
image's own pixels (unless --psf_includes_pixel).

exit codes: 0 done, 2 wrong input (nothing is changed then).
"""


class _Parser(argparse.ArgumentParser):
    """Complains in one sentence, as everything else does."""

    _KINDS = {"float": "a number", "int": "a whole number"}

    def error(self, message):
        """Raise InputError instead of printing the usage."""
        found = re.fullmatch(r"argument ([^/\s]+)\S*: invalid (\w+) value: (.*)", message)
        if found and found[2] in self._KINDS:
            raise InputError(f"{found[1]} is {found[3]}; expected {self._KINDS[found[2]]}")
        raise InputError(f"{message.removeprefix('argument ')} (make-psf --help lists all options)")


def make_parser():
    """The arguments."""
    p = _Parser(
        "make-psf", description=DESCRIPTION, epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    g = p.add_argument_group("image")
    g.add_argument("--band", required=True, help="name of the group in the store; wins over FILTER")
    g.add_argument(
        "--psf_image", "--psf_image_name", metavar="FILE",
        help="image of the PSF, FITS or HDF5 (with --stars: science image to cut the stars from)",
    )  # fmt: skip
    g.add_argument(
        "--ext",
        help="FITS extension, number or name (default: 0, or the first with an image); HDF5: path "
        "of the data set (default: the first image)",
    )
    g.add_argument(
        "--locations", metavar="TABLE",
        help="varying PSF: table with columns x, y (detector pixel, 0-indexed) of the planes of a "
        "cube, or x, y, file of the images in the folder --psf_image",
    )  # fmt: skip
    g.add_argument(
        "--grid", metavar="NX,NY,N",
        help="varying PSF: --psf_image is a PSFEx or PIFF model (--ext: its chip), taken at N x N "
        "positions of a detector of NX x NY pixels; with --stars: positions of the store",
    )  # fmt: skip
    g.add_argument("--plane", type=int, help="plane of a cube, from 0")
    g.add_argument(
        "--oversample", type=float,
        help="image pixels per native pixel (default: card OVERSAMP, DET_SAMP or OVERSAMPL; or 1)",
    )  # fmt: skip
    g.add_argument(
        "--sci_pix_scale", type=float,
        help="native pixel in arcsec: gives the oversampling where PIXELSCL says the image's pixel",
    )  # fmt: skip
    g.add_argument(
        "--trim", type=int, default=0, help="image pixels cut off every side (default 0)"
    )
    g.add_argument(
        "--psf_includes_pixel", action="store_true",
        help="the image is integrated over the native pixel (drizzled, PSFEx): keep it",
    )  # fmt: skip
    g.add_argument(
        "--normalize", choices=("stamp", "unit"), default="stamp",
        help="amplitudes sum to the sum of the trimmed image, or to 1 (default stamp)",
    )  # fmt: skip
    star_options(p.add_argument_group("stars"))
    g = p.add_argument_group("mixture")
    g.add_argument("--ngauss", type=int, default=4, help="Gaussians (default 4)")
    g.add_argument(
        "--signed", "--ngauss_neg", action="store_true", dest="signed",
        help="let amplitudes be negative: half the residual with as many Gaussians",
    )  # fmt: skip
    g.add_argument(
        "--ladder", metavar="A:B", help="fit A, A+1, ... B Gaussians; table and figure of errors"
    )
    g.add_argument(
        "--tolerance", metavar="R",
        help="store the smallest mixture of the ladder (default 1:10) whose residual is at most R "
        "of the peak, such as 1%% or .01",
    )  # fmt: skip
    g.add_argument(
        "--fit_bg", action="store_true",
        help="fit a constant background of the image too, in the optimum and in the draws; it is "
        "not part of the stored mixture, whose amplitudes sum to the image less the background",
    )  # fmt: skip
    g.add_argument("--method", choices=("nuts", "map"), default="nuts", help="map: optimum only")
    g = p.add_argument_group("sampling")
    g.add_argument(
        "--snr", type=float, default=20.0, help="max(image) / error of every pixel (default 20)"
    )
    g.add_argument(
        "--fix_amplitude", action="store_true", help="hold the amplitudes at the optimum's"
    )
    g.add_argument("--num_warmup", type=int, default=300, help="iterations a chain (default 300)")
    g.add_argument("--num_samples", type=int, default=500, help="draws a chain (default 500)")
    g.add_argument("--num_chains", type=int, default=2, help="chains (default 2)")
    g.add_argument("--seed", type=int, default=0, help="of the random numbers (default 0)")
    g = p.add_argument_group("reduced mixtures")
    g.add_argument(
        "--reduced", action="store_true",
        help="also store smaller mixtures for the wide Gaussians of galaxies, by width: jaxpho-fit "
        "then pays for fewer Gaussians (a galaxy keeps within 1e-4 of its peak; takes seconds)",
    )  # fmt: skip
    g.add_argument(
        "--radii", metavar="R1,R2,...|TABLE",
        help="with --reduced: store one mixture for each of these radii of a fixed-radii Sersic "
        "table instead, by sersic_bin, as forcepho reads it; native pixels, or forcepho's table "
        "(HDF5, arcsec) with --sci_pix_scale; replaces --nradii",
    )  # fmt: skip
    g.add_argument(
        "--q_min", type=float, default=0.1,
        help="with --radii: least axis ratio b/a of the galaxies, which are narrower by its root "
        "along their minor axis (default .1)",
    )  # fmt: skip
    g = p.add_argument_group("output")
    g.add_argument("--outname", required=True, metavar="H5", help="store; created or added to")
    g.add_argument(
        "--overwrite", type=int, choices=(0, 1), default=1, nargs="?", const=1,
        help="replace the group if it exists (default 1)",
    )  # fmt: skip
    g.add_argument(
        "--nradii", type=int, default=9, help="Sersic radii the PSF is repeated for (default 9)"
    )
    g.add_argument(
        "--forcepho-names", "--forcepho_names", action="store_true", dest="forcepho",
        help="fields xcen, ycen and shape (nloc, nradii * ngauss), as forcepho's code reads",
    )  # fmt: skip
    g.add_argument(
        "--savefig", type=int, choices=(0, 1), default=1, nargs="?", const=1,
        help="figures beside the store (default 1)",
    )  # fmt: skip
    g.add_argument(
        "--fitsout", type=int, choices=(0, 1), default=0, nargs="?", const=1,
        help="FITS file of target, model, residual and parameters beside the store (default 0)",
    )  # fmt: skip
    g.add_argument(
        "--arviz", type=int, choices=(0, 1), default=0, nargs="?", const=1,
        help="draws as ArviZ InferenceData (NetCDF) beside the store; needs the package arviz "
        "(default 0)",
    )  # fmt: skip
    g.add_argument("--show", action="store_true", help="open the figures in a window at the end")
    g.add_argument("-q", "--quiet", action="store_true", help="warnings and errors only")
    return p


def star_options(g):
    """The arguments of PSFs from stars."""
    g.add_argument(
        "--stars", metavar="FILE",
        help="PSF from stars at native sampling: with --psf_image a table with columns x, y "
        "(pixel, 0-indexed) or ra, dec (degrees); without it a FITS file with a cube of stamps "
        "(nstar, ny, nx) and a table with columns x, y (and x0, y0, the detector pixel of each "
        "stamp's first pixel). The native pixel is taken out unless --psf_includes_pixel",
    )  # fmt: skip
    where = "an extension of the image or stamps, a file, or FILE[EXT]"
    g.add_argument(
        "--weight", metavar="EXT",
        help=f"inverse variance: {where} (default: extension WEIGHT, WHT, IVAR or INVVAR)",
    )  # fmt: skip
    g.add_argument(
        "--error", metavar="EXT", help=f"standard deviation: {where} (default: ERR or ERROR)"
    )
    g.add_argument(
        "--mask", metavar="EXT", help=f"unusable pixels, not 0: {where} (default: MASK or DQ)"
    )
    g.add_argument(
        "--gain", type=float,
        help="electrons per unit of the image: adds the stars' shot noise to weights or errors "
        "that lack it (default: they have it)",
    )  # fmt: skip
    g.add_argument(
        "--saturation", type=float, metavar="LEVEL",
        help="image value from which pixels are saturated; such stars are rejected",
    )  # fmt: skip
    g.add_argument(
        "--stamp_size", type=int, default=51,
        help="side of the stamps cut from the image, native pixels, odd (default 51; 12 FWHM or "
        "more: flux beyond the stamp cannot be told from background)",
    )  # fmt: skip
    g.add_argument(
        "--order", type=int, choices=(0, 1, 2), default=0,
        help="degree of the polynomials of the position that the mixture follows; from 1 on they "
        "are stored at 5 x 5 positions, or as --grid says (default 0)",
    )  # fmt: skip
    g.add_argument(
        "--clip", type=float, default=5.0,
        help="standard deviations beyond which pixels are left out (default 5)",
    )  # fmt: skip
    g.add_argument(
        "--min_snr", type=float, default=20.0, help="least flux / error of a star (default 20)"
    )
    g.add_argument(
        "--background_sigma", type=float, metavar="SIGMA",
        help="standard deviation about 0 of the background of stars, image unit; 0 holds it at 0, "
        "for images without sky, whose far wings then count as light of the star (default: free)",
    )  # fmt: skip


def sizes_of(args):
    """Numbers of Gaussians to fit."""
    if not 1 <= args.ngauss <= LARGEST:
        raise InputError(f"--ngauss is {args.ngauss}; expected 1 to {LARGEST}")
    if args.nradii < 1:
        raise InputError(f"--nradii is {args.nradii}; expected at least 1")
    if args.tolerance is not None:
        fraction(args.tolerance)
    if args.ladder is None and args.tolerance is None:
        return [args.ngauss]
    text = args.ladder or "1:10"
    try:
        low, high = (int(part) for part in text.split(":"))
    except ValueError:
        low, high = 0, 0
    if not 1 <= low <= high <= LARGEST:
        raise InputError(f"--ladder is {text!r}; expected A:B with 1 <= A <= B <= {LARGEST}")
    sizes = set(range(low, high + 1))
    return sorted(sizes | {args.ngauss} if args.tolerance is None else sizes)


def fraction(text):
    """A fraction such as 1% or .01."""
    try:
        value = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        value = np.nan
    if not 0 < value < 1:
        raise InputError(f"--tolerance is {text!r}; expected a part of the peak such as 1% or .01")
    return value


def grid_of(text):
    """Size of a detector and positions a side, from NX,NY,N."""
    try:
        nx, ny, number = (int(part) for part in text.split(","))
    except ValueError:
        nx, ny, number = 0, 0, 0
    if min(nx, ny, number) < 2:
        raise InputError(f"--grid is {text!r}; expected NX,NY,N such as 2048,4096,5")
    return nx, ny, number
