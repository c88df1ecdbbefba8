#!/usr/bin/env python
"""Gaussian mixtures of PSF images, for jaxpho and forcepho: the command `make-psf`.

    python make_psf.py --band f090w --psf_image psf_f090w.fits --oversample 4 --ngauss 4 \\
        --snr 20 --outname mixtures/psf.h5 --savefig --fitsout 1
"""

import argparse
import json
import logging
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

if __package__ in (None, ""):  # run as a script, from any directory
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np

from jaxpho.data.psfstore import PSF_DTYPE, PSFModel, check_psf_store, write_psf_store
from jaxpho.errors import InputError
from jaxpho.files import replacing, safe_name
from psfmix.fit import fit_mixture, from_array
from psfmix.inputs import read_psf_image
from psfmix.ladder import choose, columns, fit_ladder, format_table
from psfmix.products import write_fits
from psfmix.target import check_image

log = logging.getLogger("psfmix.make_psf")

WRONG_INPUT, INTERRUPTED = 2, 130
LARGEST = 16
"""Gaussians that a mixture may have."""
_PACKAGES = ("jaxpho", "jax", "numpyro", "numpy", "scipy", "astropy", "h5py")

DESCRIPTION = """\
Fit a mixture of Gaussians to the image of a PSF and store it, under the name of its band, in an
HDF5 file that jaxpho-fit and forcepho read.
"""
EPILOG = """\
The mixture of least squares is found by Levenberg-Marquardt from many starts (--method map stops
there). From it NUTS draws from the posterior of a mixture given the image, with the same error in
every pixel, sigma = max(image) / snr. The stored mixture is the one of highest likelihood, the
optimum included: it is never worse than --method map.

Stored centres are in native detector pixels from the geometric centre ((nx - 1) / 2, (ny - 1) / 2)
of the trimmed image; covariances in native pixels^2, without the 1 / (12 oversample^2) of the
image's own pixels (unless --psf_includes_pixel).

exit codes: 0 done, 2 wrong input (nothing is changed then).
"""


def convert_psf_data(mixture, *, shape, oversample=1.0, nradii=9, includes_pixel=False):
    """Mixture measured in pixels of an oversampled image, in the form of a PSF store.

    Parameters
    ----------
    mixture : mapping or structured array
        ``amp``, ``x``, ``y``, ``Cxx``, ``Cyy``, ``Cxy``, each [ngauss] or [nloc, ngauss]: flux,
        centre (0-indexed pixel of the image) and covariance (pixels^2 of the image, as the image
        shows it) of every Gaussian.
    shape : (ny, nx)
        Of the image, whose geometric centre ((nx - 1) / 2, (ny - 1) / 2) is the reference point.
    oversample : float
        Image pixels per native pixel.
    nradii : int
        Components of the Sersic mixtures; the PSF is repeated for each.
    includes_pixel : bool
        Keep the image's own pixel, variance 1/12, in the covariances.

    Returns
    -------
    structured array of `jaxpho.data.psfstore.PSF_DTYPE`, shape (nloc, nradii, ngauss)
        ``amp``; ``xcr``, ``ycr`` in native pixels from the reference point; ``Cxx``, ``Cyy``,
        ``Cxy`` in native pixels^2; ``sersic_bin`` 0 to nradii - 1.

    Raises
    ------
    InputError
        A covariance is not positive definite once the pixel is removed.
    """
    ny, nx = shape
    get = {k: np.atleast_2d(np.asarray(mixture[k], float)) for k in
           ("amp", "x", "y", "Cxx", "Cyy", "Cxy")}  # fmt: skip
    pixel = 0.0 if includes_pixel else 1 / 12
    x, y = ((get[k] - 0.5 * (n - 1)) / oversample for k, n in (("x", nx), ("y", ny)))
    cxx, cyy, cxy = (
        (get[k] - p) / oversample**2 for k, p in (("Cxx", pixel), ("Cyy", pixel), ("Cxy", 0.0))
    )
    if not np.all((cxx > 0) & (cyy > 0) & (cxx * cyy > cxy**2)):
        raise InputError(
            "a Gaussian is narrower than the image's pixel: its covariance is not positive "
            "definite without the pixel's 1/12"
        )
    raw = np.stack([get["amp"], x, y, cxx, cyy, cxy], -1)
    out = np.zeros((*raw.shape[:1], nradii, raw.shape[1]), PSF_DTYPE)
    for location, components in enumerate(raw):
        out[location] = from_array(components)
    out["sersic_bin"] = np.arange(nradii)[:, None]
    return out


def parser():
    """The arguments."""
    p = argparse.ArgumentParser(
        "make-psf", description=DESCRIPTION, epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    g = p.add_argument_group("image")
    g.add_argument("--band", required=True, help="name of the group in the store; wins over FILTER")
    g.add_argument(
        "--psf_image", "--psf_image_name", required=True, metavar="FITS", help="image of the PSF"
    )
    g.add_argument(
        "--ext", help="extension, number or name (default: 0, or the first with an image)"
    )
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
    g.add_argument("--method", choices=("nuts", "map"), default="nuts", help="map: optimum only")
    g = p.add_argument_group("sampling")
    g.add_argument(
        "--snr", type=float, default=20.0, help="max(image) / error of every pixel (default 20)"
    )
    g.add_argument(
        "--fix_amplitude", action="store_true", help="hold the amplitudes at the optimum's"
    )
    g.add_argument("--fit_bg", action="store_true", help="add a constant background to the model")
    g.add_argument("--num_warmup", type=int, default=300, help="iterations a chain (default 300)")
    g.add_argument("--num_samples", type=int, default=500, help="draws a chain (default 500)")
    g.add_argument("--num_chains", type=int, default=2, help="chains (default 2)")
    g.add_argument("--seed", type=int, default=0, help="of the random numbers (default 0)")
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
    g.add_argument("--show", action="store_true", help="open the figures in a window at the end")
    g.add_argument("-q", "--quiet", action="store_true", help="warnings and errors only")
    return p


def main(argv=None):
    """Run `make-psf`; returns the exit code."""
    args = parser().parse_args(argv)
    logger, handler = logging.getLogger("psfmix"), logging.StreamHandler()
    logger.setLevel(logging.WARNING if args.quiet else logging.INFO)
    logger.addHandler(handler)
    try:
        run(args)
    except InputError as error:
        print(f"make-psf: {error}", file=sys.stderr)
        return WRONG_INPUT
    except KeyboardInterrupt:
        print("make-psf: interrupted; nothing was written", file=sys.stderr)
        return INTERRUPTED
    finally:
        logger.removeHandler(handler)
    return 0


def run(args):
    """Read, fit, sample, store, draw; raises InputError before anything is changed."""
    sizes = _sizes(args)
    tolerance = None if args.tolerance is None else _fraction(args.tolerance)
    if not args.band.strip("/ "):
        raise InputError(f"--band is {args.band!r}; expected a name")
    check_psf_store(args.outname, args.band, bool(args.overwrite))
    source = read_psf_image(
        args.psf_image, args.ext, args.oversample, args.sci_pix_scale, args.plane
    )
    layout = {
        "oversample": source.oversample, "normalize": args.normalize, "trim": args.trim,
    }  # fmt: skip
    try:
        trimmed, *_, total = check_image(source.image, ngauss=max(sizes), **layout)
        log.info(
            "%s[%s]: %d x %d pixels, %g a native pixel (%s), sum %.4f",
            source.path.name, source.ext, *trimmed.shape[::-1], source.oversample,
            source.oversample_from, total,
        )  # fmt: skip
        layout |= {"includes_pixel": args.psf_includes_pixel, "signed": args.signed}
        rungs, fit = None, None
        if len(sizes) > 1:
            rungs = list(_climb(source.image, sizes, layout, args.quiet))
            rung, met = choose(rungs, args.ngauss, tolerance)
            fit = rung.fit
            log.info("%s", format_table(rungs, rung.ngauss))
            if not met:
                log.warning(
                    "no mixture of the ladder reaches %.3g %%; the best has %.3g %%",
                    100 * tolerance, 100 * fit.residual,
                )  # fmt: skip
        else:
            fit = fit_mixture(source.image, ngauss=sizes[0], **layout)
        posterior = None
        if args.method == "nuts":
            posterior = _sample(args, source.image, fit, layout)
            fit = posterior.fit
    except InputError as error:
        raise InputError(f"{args.psf_image}: {error}") from error
    provenance = provenance_of(args, source, fit, posterior)
    model = PSFModel(
        fit.parameters, includes_pixel=fit.includes_pixel, amplitude_sum=args.normalize
    )
    write_psf_store(
        args.outname, args.band, model, provenance, bool(args.overwrite), args.nradii, args.forcepho
    )
    written = [Path(args.outname)]
    stem = written[0].with_suffix("")
    stem = stem.with_name(f"{stem.name}_{safe_name(args.band)}")
    image = trimmed / total if args.normalize == "unit" else trimmed
    if args.fitsout:
        written.append(Path(f"{stem}.fits"))
        write_fits(written[-1], fit, image, provenance, columns(rungs) if rungs else None)
    figures = {}
    if args.savefig or args.show:
        figures = _figures(args, fit, image, posterior, rungs, tolerance)
    if args.savefig:
        for name, figure in figures.items():
            written.append(Path(f"{stem}{name}.png"))
            with replacing(written[-1]) as temporary:
                figure.savefig(temporary, dpi=110)
    log.info("wrote %s", ", ".join(map(str, written)))
    if args.show:
        _show([path for path in written if path.suffix == ".png"])


def _sizes(args):
    """Numbers of Gaussians to fit."""
    if not 1 <= args.ngauss <= LARGEST:
        raise InputError(f"--ngauss is {args.ngauss}; expected 1 to {LARGEST}")
    if args.nradii < 1:
        raise InputError(f"--nradii is {args.nradii}; expected at least 1")
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


def _fraction(text):
    """A fraction such as 1% or .01."""
    try:
        value = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        value = np.nan
    if not 0 < value < 1:
        raise InputError(f"--tolerance is {text!r}; expected a part of the peak such as 1% or .01")
    return value


def _climb(image, sizes, layout, quiet):
    """The rungs of the ladder, with a progress bar."""
    from tqdm import tqdm

    rungs = fit_ladder(image, sizes, **layout)
    yield from tqdm(rungs, total=len(sizes), desc="ladder", disable=quiet)


def _sample(args, image, fit, layout):
    """The posterior around the optimum."""
    from psfmix.nuts import sample_mixture  # JAX takes seconds to load; --method map needs none

    return sample_mixture(
        image, fit, snr=args.snr, fix_amplitude=args.fix_amplitude, fit_bg=args.fit_bg,
        num_warmup=args.num_warmup, num_samples=args.num_samples, num_chains=args.num_chains,
        seed=args.seed, progress=not args.quiet, **layout,
    )  # fmt: skip


def provenance_of(args, source, fit, posterior=None):
    """Attributes of the stored group: where the mixture comes from and how good it is."""
    out = {
        "image": source.path.name,
        "image_ext": source.ext,
        "image_sha256": source.checksum,
        "oversample": source.oversample,
        "oversample_from": source.oversample_from,
        "trim": args.trim,
        "snr": args.snr,
        "method": args.method,
        "signed": bool(args.signed),
        "residual": fit.residual,
        "ee_error": fit.ee_error,
        "options": json.dumps({k: v for k, v in vars(args).items() if k != "psf_image"}),
        "python": platform.python_version(),
    }
    if args.sci_pix_scale is not None:
        out["sci_pix_scale"] = args.sci_pix_scale
    if posterior is not None:
        out |= {
            "log_likelihood": posterior.best_log_likelihood,
            "log_likelihood_optimum": posterior.optimum_log_likelihood,
            "divergences": posterior.divergences,
            "background": posterior.background,
            "seed": posterior.seed,
        }
    for name in _PACKAGES:
        try:
            out[f"version_{name}"] = version(name)
        except PackageNotFoundError:
            out[f"version_{name}"] = "unknown"
    return out


def _figures(args, fit, image, posterior, rungs, tolerance):
    """{ending of the file name: figure}."""
    from psfmix.figures import corner_figure, fit_figure, ladder_figure, trace_figure

    kind = "signed " if fit.signed else ""
    title = f"{args.band}: {len(fit.parameters)} {kind}Gaussians, {Path(args.psf_image).name}"
    figures = {"": fit_figure(fit, image, title)}
    if rungs:
        figures["_ladder"] = ladder_figure(rungs, len(fit.parameters), tolerance)
    if posterior is not None:
        figures |= {"_trace": trace_figure(posterior), "_corner": corner_figure(posterior)}
    return figures


def _show(paths):
    """Open pictures with the system's viewer."""
    import webbrowser

    for path in paths:
        webbrowser.open(path.resolve().as_uri())


if __name__ == "__main__":
    sys.exit(main())
