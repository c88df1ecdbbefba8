"""What PSF mixtures do to galaxies, and what reduced mixtures save.

    JAXPHO_DATA=/data python benchmarks/psf_mixtures.py [--psf FITS] [--parts psfs galaxies reduced]

The PSF is that of JWST's F200W filter, four times oversampled, from the folder JAXPHO_DATA (or any
image given by --psf).

*psfs*: residual / encircled energy (per cent) / centroid (native pixels) / ellipticity (errors
under Gaussian weights) of mixtures of PSF images of several telescopes in JAXPHO_DATA, as
``make-psf`` finds them, and the processor time of the ladder to 4 positive Gaussians and of that
to the largest signed mixture.

*galaxies*: Sersic profiles through mixtures and, by GalSim, through the image itself, integrated
over native pixels: largest difference of the galaxy's peak / of the flux within 5 pixels, per cent.

*reduced*: galaxies of held shape through the largest signed mixture, full and reduced: Gaussians
of a galaxy, largest difference of its peak, and times of chi2 + gradient and of the Fisher matrix
of four such galaxies of random orientation in an exposure of 96 x 96 pixels.
"""

import os
import sys
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from common import environment, finish, measure, parser, table  # noqa: E402
from reduced_case import SCALE, Pair, make_exposure, make_peak  # noqa: E402

from jaxpho.core.fisher import normal_equations  # noqa: E402
from jaxpho.core.sersic import load_mixture  # noqa: E402
from jaxpho.data.psfmodel import PSFModel  # noqa: E402
from jaxpho.fit.posterior import DEFAULT_STATIC, delta_of  # noqa: E402
from psfmix.inputs import read_psf_image  # noqa: E402
from psfmix.ladder import fit_ladder  # noqa: E402
from psfmix.model import brightness  # noqa: E402
from psfmix.reduced import reduce_model  # noqa: E402
from psfmix.reduced_store import format_rungs  # noqa: E402
from psfmix.smoothing import smoothed  # noqa: E402

PSF = "psf_images/jwst_nircam_webbpsf/psf_jwst_oct21_ng4m0_f200w.fits"
ROMAN, DRIZZLED = "psf_images/roman_galsim/roman_", "psf_images/jwst_hst_grizli_mosaic/psf-ceers-"
TELESCOPES = {  # file, and whether the image includes the native pixel
    "JWST F200W (webbpsf x4)": (PSF, False),
    "Roman Y106": (ROMAN + "Y106_sca01_x4_pixconv.fits", True),
    "Roman H158": (ROMAN + "H158_sca10_x4_pixconv.fits", True),
    "Roman F184": (ROMAN + "F184_sca18_x4_pixconv.fits", True),
    "HST F606W drizzled": (DRIZZLED + "f606w.fits", True),
    "HST F160W drizzled": (DRIZZLED + "f160w.fits", True),
    "JWST F090W drizzled": (DRIZZLED + "nrca3-f090w.fits", True),
    "JWST F200W drizzled": (DRIZZLED + "nrca3-f200w.fits", True),
    "JWST F444W drizzled": (DRIZZLED + "nrca5-f444w.fits", True),
}
GALAXIES = [(n, rhalf) for n in (1.0, 4.0) for rhalf in (1.0, 2.0, 4.0)]  # native pixels
SIGNED = (4, 6, 8)
SIZE, APERTURE = 101, 5.0
REDUCED = [(n, r, q) for n in (1.0, 4.0) for q in (1.0, 0.3) for r in (4.0, 8.0, 16.0, 32.0)]


def mixtures_of(source, includes=False, kinds=("positive", "signed")):
    """Mixtures {name: MixtureFit} of an image, and processor time of each kind's ladder, s."""
    fits, seconds = {}, []
    for kind in kinds:
        wanted = SIGNED if kind == "signed" else (4,)
        rungs = fit_ladder(
            source.image, range(1, wanted[-1] + 1), signed=kind == "signed",
            oversample=source.oversample, includes_pixel=includes, normalize="stamp",
        )  # fmt: skip
        seconds.append(0.0)
        for rung in rungs:
            seconds[-1] += rung.seconds
            if rung.ngauss in wanted:
                fits[f"{rung.ngauss} {kind}"] = rung.fit
    return fits, seconds


def psfs_table(folder):
    """Print how good mixtures of many telescopes' PSFs are."""
    rows = []
    for name, (path, includes) in TELESCOPES.items():
        source = read_psf_image(folder / path)
        row = [name]
        fits, seconds = mixtures_of(source, includes)
        for fit in fits.values():
            errors = f"{100 * fit.residual:.2f} / {100 * fit.ee_error:.2f}"
            row.append(f"{errors} / {fit.centroid_error:.4f} / {fit.shape_error:.3f}")
        row.append(" / ".join(f"{s:.0f}" for s in seconds))
        print("|", " | ".join(row), "|", flush=True)
        rows.append(row)
    print(table(["PSF", "4 positive", *(f"{n} signed" for n in SIGNED), "s"], rows))
    return rows


def true_images(source):
    """Galaxies through the PSF image, [ny, nx] each, by GalSim."""
    import galsim

    step = 1.0 / source.oversample
    ny, nx = source.image.shape
    image = galsim.Image(np.ascontiguousarray(source.image), scale=step)
    psf = galsim.InterpolatedImage(
        image, x_interpolant="lanczos15", flux=float(source.image.sum()),
        offset=(0.0, 0.0), use_true_center=True,
    )  # fmt: skip
    # the image is integrated over its own pixels, the mixture is what it is without
    psf = galsim.Convolve(psf, galsim.Deconvolve(galsim.Pixel(step)))
    params = galsim.GSParams(maximum_fft_size=16384, folding_threshold=1e-4)
    for n, rhalf in GALAXIES:
        galaxy = galsim.Sersic(n, half_light_radius=rhalf)
        drawn = galsim.Convolve(galaxy, psf, gsparams=params)
        yield drawn.drawImage(nx=SIZE, ny=SIZE, scale=1.0).array.astype(float)


def mixture_images(parameters):
    """The same through a mixture."""
    profile = load_mixture("k16")
    axis = np.arange(SIZE) - (SIZE - 1) / 2
    x, y = np.meshgrid(axis, axis)
    for n, rhalf in GALAXIES:
        found = profile.evaluate(jnp.asarray(n), jnp.asarray(rhalf))
        image = 0.0
        for a, v in zip(*(np.asarray(f, float) for f in found), strict=True):
            image = image + a * brightness(smoothed(parameters, np.sqrt(v)), x, y, 1 / 12, 1 / 12)
        yield image


def galaxy_table(source, mixtures):
    """Print errors of galaxies for mixtures {name: parameters}."""
    axis = np.arange(SIZE) - (SIZE - 1) / 2
    inside = np.hypot(*np.meshgrid(axis, axis)) <= APERTURE
    truths, rows = list(true_images(source)), []
    for name, parameters in mixtures.items():
        row = [name]
        for truth, image in zip(truths, mixture_images(parameters), strict=True):
            worst = 100 * np.abs(image - truth).max() / truth.max()
            flux = 100 * (image - truth)[inside].sum() / truth[inside].sum()
            row.append(f"{worst:.2f} / {flux:+.2f}")
        rows.append(row)
    print(table(["mixture", *(f"n {n:g}, {r:g} px" for n, r in GALAXIES)], rows))
    return rows


def reduced_table(model, repeats, dtype=np.float32):
    """Print cost and error of galaxies through full and reduced mixtures."""
    exposure = make_exposure(model)
    rng = np.random.default_rng(0)
    rows, figures = [], []
    for n, rhalf, q in REDUCED:
        peaks = []
        for k in range(4):
            e, angle = (1 - q) / (1 + q), rng.uniform(0, 2 * np.pi)
            shape = {"e1": e * np.cos(angle), "e2": e * np.sin(angle)}
            peaks.append(make_peak(rhalf=rhalf * SCALE, sersic=n, dra=k - 1.5, **shape))
        pair = Pair([exposure], peaks, dtype=dtype)
        one = Pair([exposure], peaks[:1], dtype=dtype)
        calls, theta = {}, jnp.asarray(pair.theta())
        for name, problem in (("full", pair.full), ("reduced", pair.reduced)):
            for kind, function in (("gradient", gradient_of), ("fisher", fisher_of)):
                calls[name, kind] = partial(function, theta, problem)
        took = {key: 1e3 * t["cpu"][1] for key, t in measure(calls, repeats).items()}
        full = one.full.patch.psf_bin.shape[-1]
        row = [n, rhalf, q, f"{one.gaussians} / {full}", f"{1e5 * one.error():.1f}e-5"]
        for kind in ("gradient", "fisher"):
            row.append(f"{took['reduced', kind]:.1f} / {took['full', kind]:.1f}")
        rows.append(row)
        figures.append({"n": n, "rhalf": rhalf, "q": q, "ms": {str(k): v for k, v in took.items()}})
    print(table(["n", "rhalf [px]", "q", "Gaussians", "error", "chi2 + gradient [ms]",
                 "Fisher [ms]"], rows))  # fmt: skip
    return figures


@jax.jit
def gradient_of(theta, problem):
    """chi2 and gradient."""

    def chi2(theta):
        return delta_of(theta, problem, None, DEFAULT_STATIC).high.sum()

    return jax.value_and_grad(chi2)(theta)


@jax.jit
def fisher_of(theta, problem):
    """Gradient and Fisher matrix."""
    return normal_equations(theta, problem.scene, problem.patch, problem.mixture)[1:]


def main():
    """Measure and print."""
    p = parser(__doc__.splitlines()[0])
    p.add_argument("--psf", type=Path, help="image (default: F200W in JAXPHO_DATA)")
    p.add_argument("--parts", nargs="+", choices=("psfs", "galaxies", "reduced"),
                   default=["galaxies", "reduced"])  # fmt: skip
    args = p.parse_args()
    path = args.psf or Path(os.environ.get("JAXPHO_DATA", ".")) / PSF
    if not path.is_file():
        p.error(f"{path} does not exist: set JAXPHO_DATA or give --psf")
    print(environment())
    source = read_psf_image(path)
    mixtures = {}
    if {"galaxies", "reduced"} & set(args.parts):
        kinds = ("positive", "signed") if "galaxies" in args.parts else ("signed",)
        fits, _ = mixtures_of(source, kinds=kinds)
        mixtures = {name: fit.parameters for name, fit in fits.items()}
    figures = {}
    if "psfs" in args.parts:
        figures["psfs"] = psfs_table(Path(os.environ.get("JAXPHO_DATA", ".")))
    if "galaxies" in args.parts:
        figures["galaxies"] = galaxy_table(source, mixtures)
    if "reduced" in args.parts:
        begin = time.process_time()
        model = reduce_model(PSFModel(mixtures[f"{SIGNED[-1]} signed"][None]))
        print(f"ladder of {SIGNED[-1]} Gaussians: {time.process_time() - begin:.1f} s")
        print(format_rungs(model))
        figures["reduced"] = reduced_table(model, args.repeats)
    finish(args, figures)


if __name__ == "__main__":
    main()
