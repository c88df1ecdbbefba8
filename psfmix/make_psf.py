#!/usr/bin/env python
"""Gaussian mixtures of PSF images, for jaxpho and forcepho: the command `make-psf`.

    python make_psf.py --band f090w --psf_image psf_f090w.fits --oversample 4 --ngauss 4 \\
        --snr 20 --outname mixtures/psf.h5 --savefig --fitsout 1
"""

import logging
import os
import sys
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
from psfmix.background import edge_level, fit_background
from psfmix.badpixels import check_bad_pixels
from psfmix.fit import fit_mixture, from_array
from psfmix.inputs import read_psf_image
from psfmix.ladder import choose, columns, fit_ladder, format_table
from psfmix.optioncheck import check_options, parse
from psfmix.options import fraction, grid_of, sizes_of
from psfmix.products import write_draws, write_fits, write_star_fits
from psfmix.provenance import provenance_of, provenance_of_image
from psfmix.reduced_store import check_reduced_options, with_reduced
from psfmix.target import check_image

log = logging.getLogger("psfmix.make_psf")

WRONG_INPUT, INTERRUPTED = 2, 130


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
    logger, handler = logging.getLogger("psfmix"), logging.StreamHandler()
    logger.addHandler(handler)
    level = logger.level
    try:
        args = parse(argv)
        logger.setLevel(logging.WARNING if args.quiet else logging.INFO)
        run(args)
    except InputError as error:
        print(f"make-psf: {error}", file=sys.stderr)
        return WRONG_INPUT
    except KeyboardInterrupt:
        print("make-psf: interrupted; nothing was written", file=sys.stderr)
        return INTERRUPTED
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    return 0


def run(args):
    """Read, fit, sample, store, draw; raises InputError before anything is changed."""
    sizes = sizes_of(args)
    check_options(args)
    check_psf_store(args.outname, args.band, bool(args.overwrite))
    if args.arviz:
        _check_draws(args)
    check_reduced_options(args)
    _check_outputs(args)
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
    offset = edge_level(source.image, args.trim)[0] if args.fit_bg else 0.0
    try:
        trimmed, *_, total = check_image(source.image - offset, ngauss=max(sizes), **layout)
        trimmed = trimmed + offset
        log.info(
            "%s[%s]: %d x %d pixels, %g a native pixel (%s), sum %.4f",
            source.path.name, source.ext, *trimmed.shape[::-1], source.oversample,
            source.oversample_from, total,
        )  # fmt: skip
        check_bad_pixels(trimmed, f"{source.path.name}[{source.ext}]")
        trimmed = np.where(np.isfinite(trimmed), trimmed, np.nan)
        layout |= {"includes_pixel": args.psf_includes_pixel, "signed": args.signed}
        rungs = posterior = start = None
        background, image = 0.0, source.image
        if args.fit_bg:
            background, start = fit_background(image, ngauss=sizes[-1], **layout)
            image = image - background
        if len(sizes) > 1:
            rungs = list(_climb(image, sizes, layout, args.quiet))
            fit = _chosen(rungs, args.ngauss, tolerance)
        else:
            fit = fit_mixture(image, ngauss=sizes[0], start=start, **layout)
        if args.method == "nuts":
            posterior = _sample(args, image, fit, layout, background)
            fit, background = posterior.fit, posterior.background
    except InputError as error:
        raise InputError(f"{args.psf_image}: {error}") from error
    provenance = provenance_of(args) | provenance_of_image(source, fit, background, posterior)
    model = PSFModel(
        fit.parameters, includes_pixel=fit.includes_pixel, amplitude_sum=args.normalize
    )
    written = _store(args, model, provenance)
    if args.normalize == "unit":  # of the light without the background
        total = total - (background - offset) * trimmed.size
        trimmed, background = trimmed / total, background / total
    if args.fitsout:
        table = columns(rungs) if rungs else None
        written += _put(args, ".fits", write_fits, fit, trimmed, provenance, table, background)
    if args.arviz:
        written += _put(args, "_posterior.nc", write_draws, posterior, provenance)
    if args.savefig or args.show:
        image = trimmed - background
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
    from psfmix.products import write_grid_fits
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
        found = read_grid(
            args.psf_image, args.locations, args.ext, args.oversample, args.sci_pix_scale
        )
    options = {"signed": args.signed, "normalize": args.normalize, "trim": args.trim}
    if found.includes_pixel is None:
        options["includes_pixel"] = args.psf_includes_pixel
    log.info("%d positions; varying PSFs are optimised, not sampled", len(found.images))
    stamp = {
        "oversample": found.oversample, "normalize": args.normalize, "trim": args.trim,
    }  # fmt: skip
    try:
        for k, image in enumerate(found.images):
            check_bad_pixels(check_image(image, **stamp)[0], f"position {k}")
        model, errors = fit_varying(found, ngauss=sizes[0], progress=not args.quiet, **options)
    except InputError as error:
        raise InputError(f"{args.psf_image}: {error}") from error
    provenance = provenance_of(args) | {
        "image": Path(args.psf_image).name, "oversample": found.oversample, "method": "map",
        **found.provenance,
    }  # fmt: skip
    written = _store(args, model, provenance)
    if args.fitsout:
        images = [check_image(image, **stamp)[0::4] for image in found.images]
        written += _put(args, ".fits", write_grid_fits, model, images, found.oversample, provenance)
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
        written += _put(args, ".fits", write_star_fits, found.fit, found.model, provenance)
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


def _check_outputs(args):
    """Raise InputError where a folder is in the way of a file beside the store."""
    for ending in (".fits", ".png", "_ladder.png", "_trace.png", "_corner.png", "_stars.png"):
        path = _beside(args, ending)
        wanted = args.fitsout if ending == ".fits" else args.savefig or args.show
        if wanted and path.is_dir():
            raise InputError(f"{path} is a folder; expected to write a file of that name")


def _put(args, ending, write, *content):
    """Call ``write(path, *content)`` for a file beside the store; returns the path in a list."""
    path = _beside(args, ending)
    try:
        write(path, *content)
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror or error}); the mixture itself is in "
            f"{args.outname}"
        ) from error
    return [path]


def _save(args, figures):
    """Write figures {ending: figure}; returns their paths."""

    def write(path, figure):
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=110)

    return [
        path
        for name, figure in figures.items()
        for path in _put(args, f"{name}.png", write, figure)
    ]


def _climb(image, sizes, layout, quiet):
    """The rungs of the ladder, with a progress bar."""
    from tqdm import tqdm

    rungs = fit_ladder(image, sizes, **layout)
    yield from tqdm(rungs, total=len(sizes), desc="ladder", disable=quiet)


def _sample(args, image, fit, layout, background):
    """The posterior around the optimum of an image less its background."""
    from psfmix.nuts import sample_mixture  # JAX takes seconds to load; --method map needs none

    found = sample_mixture(
        image, fit, snr=args.snr, fix_amplitude=args.fix_amplitude, fit_bg=args.fit_bg,
        num_warmup=args.num_warmup, num_samples=args.num_samples, num_chains=args.num_chains,
        seed=args.seed, progress=not args.quiet, start_background=0.0, **layout,
    )  # fmt: skip
    if not args.fit_bg:
        return found
    plain = {name: layout[name] for name in ("oversample", "normalize", "trim")}
    *_, total = check_image(image, **plain)
    return found.with_background(background, total if args.normalize == "unit" else 1.0)


def _figures(args, fit, image, posterior, rungs, tolerance):
    """{ending of the file name: figure}."""
    from psfmix.figures import corner_figure, fit_figure, ladder_figure, trace_figure

    kind = "signed " if fit.signed else ""
    title = f"{args.band}: {len(fit.parameters)} {kind}Gaussians, {Path(args.psf_image).name}"
    title += " less its background" if args.fit_bg else ""
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
