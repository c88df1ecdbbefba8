#!/usr/bin/env python
"""Gaussian mixtures of PSF images, for jaxpho and forcepho: the command `make-psf`.

    python make_psf.py --band f090w --psf_image psf_f090w.fits --oversample 4 --ngauss 4 \\
        --snr 20 --outname mixtures/psf.h5 --savefig --fitsout 1
"""

import json
import logging
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

if __package__ in (None, ""):  # run as a script, from any directory
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

# Small dense algebra: threads of BLAS slow it up to tenfold. numpy reads this when it is imported.
os.environ["OPENBLAS_NUM_THREADS"] = os.environ.get("OPENBLAS_NUM_THREADS", "1")
os.environ["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", "1")

import numpy as np

from jaxpho.data.psfmodel import PSF_DTYPE, PSFModel
from jaxpho.data.psfstore import check_psf_store, write_psf_store
from jaxpho.errors import InputError
from jaxpho.files import replacing, safe_name
from jaxpho.inference_data import check_arviz
from psfmix.fit import fit_mixture, from_array
from psfmix.inputs import read_psf_image
from psfmix.ladder import choose, columns, fit_ladder, format_table
from psfmix.options import fraction, grid_of, make_parser, sizes_of
from psfmix.products import write_draws, write_fits, write_star_fits
from psfmix.reduced_store import check_reduced_options, with_reduced
from psfmix.target import check_image

log = logging.getLogger("psfmix.make_psf")

WRONG_INPUT, INTERRUPTED = 2, 130
_PACKAGES = ("jaxpho", "jax", "numpyro", "numpy", "scipy", "astropy", "h5py")


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
    structured array of `jaxpho.data.psfmodel.PSF_DTYPE`, shape (nloc, nradii, ngauss)
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


def main(argv=None):
    """Run `make-psf`; returns the exit code."""
    args = make_parser().parse_args(argv)
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
    sizes = sizes_of(args)
    if not args.band.strip("/ "):
        raise InputError(f"--band is {args.band!r}; expected a name")
    check_psf_store(args.outname, args.band, bool(args.overwrite))
    if args.arviz:
        _check_draws(args)
    check_reduced_options(args)
    if args.psf_image is None and args.stars is None:
        raise InputError("neither --psf_image nor --stars is given; expected one of them, or both")
    work = _stars if args.stars else _varying if args.locations or args.grid else _single
    written = work(args, sizes)
    log.info("wrote %s", ", ".join(map(str, written)))
    if args.show:
        _show([path for path in written if path.suffix == ".png"])


def _single(args, sizes):
    """One image; returns the files written."""
    tolerance = None if args.tolerance is None else fraction(args.tolerance)
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
        rungs = posterior = None
        if len(sizes) > 1:
            rungs = list(_climb(source.image, sizes, layout, args.quiet))
            fit = _chosen(rungs, args.ngauss, tolerance)
        else:
            fit = fit_mixture(source.image, ngauss=sizes[0], **layout)
        if args.method == "nuts":
            posterior = _sample(args, source.image, fit, layout)
            fit = posterior.fit
    except InputError as error:
        raise InputError(f"{args.psf_image}: {error}") from error
    provenance = provenance_of(args) | provenance_of_image(source, fit, posterior)
    model = PSFModel(
        fit.parameters, includes_pixel=fit.includes_pixel, amplitude_sum=args.normalize
    )
    written = _store(args, model, provenance)
    image = trimmed / total if args.normalize == "unit" else trimmed
    if args.fitsout:
        written.append(_beside(args, ".fits"))
        write_fits(written[-1], fit, image, provenance, columns(rungs) if rungs else None)
    if args.arviz:
        written.append(_beside(args, "_posterior.nc"))
        write_draws(written[-1], posterior, provenance)
    if args.savefig or args.show:
        written += _save(args, _figures(args, fit, image, posterior, rungs, tolerance))
    return written


def _check_draws(args):
    """Raise InputError when there will be no draws to write, or nothing to write them with."""
    if args.method == "map" or args.locations or args.grid or args.stars:
        found = "--method map" if args.method == "map" else "a PSF that is not sampled"
        raise InputError(f"--arviz: expected the draws of --method nuts for one image, not {found}")
    check_arviz("--arviz")


def _chosen(rungs, ngauss, tolerance):
    """The mixture of a ladder to keep; the log says what each costs."""
    rung, met = choose(rungs, ngauss, tolerance)
    log.info("%s", format_table(rungs, rung.ngauss))
    if not met:
        log.warning(
            "no mixture of the ladder reaches %.3g %%; the best has %.3g %%",
            100 * tolerance, 100 * rung.fit.residual,
        )  # fmt: skip
    return rung.fit


def _varying(args, sizes):
    """A grid of images; returns the files written."""
    from psfmix.figures import varying_figure
    from psfmix.piffmodel import is_piff, piff_grid
    from psfmix.varying import fit_varying, psfex_grid, read_grid

    if len(sizes) > 1:
        raise InputError(
            "--ladder and --tolerance are for one image, not for --locations or --grid"
        )
    if args.grid:
        nx, ny, number = grid_of(args.grid)
        evaluate = piff_grid if is_piff(args.psf_image) else psfex_grid
        found = evaluate(args.psf_image, (nx, ny), number, args.ext)
    else:
        found = read_grid(args.psf_image, args.locations, args.ext, args.oversample)
    options = {"signed": args.signed, "normalize": args.normalize, "trim": args.trim}
    if found.includes_pixel is None:
        options["includes_pixel"] = args.psf_includes_pixel
    log.info("%d positions; varying PSFs are optimised, not sampled", len(found.images))
    try:
        model, errors = fit_varying(found, ngauss=sizes[0], progress=not args.quiet, **options)
    except InputError as error:
        raise InputError(f"{args.psf_image}: {error}") from error
    provenance = provenance_of(args) | {
        "image": Path(args.psf_image).name, "oversample": found.oversample, "method": "map",
    }  # fmt: skip
    written = _store(args, model, provenance)
    if args.savefig or args.show:
        written += _save(args, {"": varying_figure(model, errors, args.band)})
    return written


def _stars(args, sizes):
    """Stars of an image; returns the files written."""
    from psfmix.starrun import star_psf

    found = star_psf(args, sizes)
    provenance = provenance_of(args) | found.provenance
    written = _store(args, found.model, provenance)
    if args.fitsout:
        written.append(_beside(args, ".fits"))
        write_star_fits(written[-1], found.fit, found.model, provenance)
    if args.savefig or args.show:
        from psfmix.starfigures import residual_figure, star_figure

        title = f"{args.band}: {sizes[0]} Gaussians, {found.fit.accepted.sum()} stars"
        figures = {"": star_figure(found.fit, title), "_stars": residual_figure(found.fit, title)}
        written += _save(args, figures)
    return written


def _store(args, model, provenance):
    """Write the group; returns the list of files written."""
    nradii = args.nradii
    if args.reduced:
        radii = check_reduced_options(args)
        model = _reduce(model, radii, args.quiet)
        nradii = nradii if radii is None else None  # each radius has mixtures of its own
    write_psf_store(
        args.outname, args.band, model, provenance, bool(args.overwrite), nradii, args.forcepho
    )
    return [Path(args.outname)]


def _reduce(model, radii, quiet):
    """The model with reduced mixtures, with a progress bar."""
    from tqdm import tqdm

    with tqdm(desc="reduced mixtures", disable=quiet, leave=False) as bar:

        def progress(done, total):
            bar.total = total
            bar.update(done - bar.n)

        return with_reduced(model, radii, progress)


def _beside(args, ending):
    """A file named after store and band."""
    stem = Path(args.outname).with_suffix("")
    return stem.with_name(f"{stem.name}_{safe_name(args.band)}{ending}")


def _save(args, figures):
    """Write figures {ending: figure}; returns their paths."""
    paths = []
    for name, figure in figures.items():
        paths.append(_beside(args, f"{name}.png"))
        with replacing(paths[-1]) as temporary:
            figure.savefig(temporary, dpi=110)
    return paths


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


def provenance_of(args):
    """Attributes of the stored group: options and versions."""
    out = {
        "trim": args.trim,
        "signed": bool(args.signed),
        "options": json.dumps({k: v for k, v in vars(args).items() if k != "psf_image"}),
        "python": platform.python_version(),
    }
    if args.sci_pix_scale is not None:
        out["sci_pix_scale"] = args.sci_pix_scale
    for name in _PACKAGES:
        try:
            out[f"version_{name}"] = version(name)
        except PackageNotFoundError:
            out[f"version_{name}"] = "unknown"
    return out


def provenance_of_image(source, fit, posterior=None):
    """Attributes of the stored group: the image, and how good the mixture is."""
    out = {
        "image": source.path.name,
        "image_ext": source.ext,
        "image_sha256": source.checksum,
        "oversample": source.oversample,
        "oversample_from": source.oversample_from,
        "residual": fit.residual,
        "ee_error": fit.ee_error,
        "centroid_error": fit.centroid_error,
        "method": "map" if posterior is None else "nuts",
    }
    if posterior is not None:
        out |= {
            "sigma": posterior.sigma,
            "log_likelihood": posterior.best_log_likelihood,
            "log_likelihood_optimum": posterior.optimum_log_likelihood,
            "divergences": posterior.divergences,
            "background": posterior.background,
            "seed": posterior.seed,
        }
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
