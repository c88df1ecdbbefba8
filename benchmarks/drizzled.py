"""Are errors right where a drizzled mosaic is fitted instead of its exposures?

A galaxy by GalSim in four dithered exposures of white noise, combined by the library `drizzle`
(STScI) onto smaller pixels. Each realisation of the noise is fitted four times: the mosaic with its
pixels taken as independent (`noise.correlation: none`), with errors widened (`inflate`), with the
likelihood of correlated noise (`covariance`), and the four exposures jointly. Quoted errors are
compared with the scatter of the values over the realisations; the correlation is measured in every
mosaic anew, as a run does. The random numbers are those of --seed, and nothing is redrawn.
"""

import time
from typing import NamedTuple

import common
import galsim
import numpy as np
from drizzle.resample import Drizzle

from jaxpho.data.arrays import exposure_from_arrays, simple_wcs
from jaxpho.data.catalog import Peak
from jaxpho.data.noise import measure_exposure
from jaxpho.data.pack import pack_patch
from jaxpho.data.psfmodel import PSFModel
from jaxpho.fit.driver import fit_patch
from jaxpho.fit.options import FitOptions, NoiseOptions
from psfmix.fit import fit_mixture, from_array

SCALE, SIZE = 0.2, 64
"""arcsec per pixel of an exposure, and pixels a side."""
RATIO, PIXFRAC, MARGIN = 0.6, 0.8, 3
"""Pixel of the mosaic and of the drops, of an exposure's; pixels cut from the edges."""
DITHERS = ((0.0, 0.0), (1.5, 0.5), (0.5, 1.5), (-1.0, -1.0))
PSF_SIGMA = 0.255
"""arcsec: a Gaussian of FWHM .6, so that its mixture is exact."""
FLUX, RHALF, SERSIC, Q, PA = 600.0, 0.45, 1.5, 0.6, 30.0
NOISE = 1.0
METHODS = ("none", "inflate", "covariance", "joint")
NAMES = ("flux", "ra", "dec", "rhalf", "sersic", "e1", "e2")


class Setup(NamedTuple):
    """Images without noise [4, SIZE, SIZE], and the PSF of exposures and mosaic."""

    images: np.ndarray
    psf: PSFModel
    mosaic_psf: PSFModel
    psf_error: float


def draw(profile):
    """Images [4, SIZE, SIZE] of a profile at the field's origin."""
    out = []
    for dx, dy in DITHERS:
        image = galsim.ImageD(SIZE, SIZE, scale=SCALE)
        profile.drawImage(image, offset=(dx, dy))
        out.append(image.array)
    return np.array(out)


def drizzle(images):
    """Mosaic of four exposures: flux per pixel, and its error by propagation of NOISE."""
    n = int(np.floor((SIZE - 2 * MARGIN) / RATIO))
    n -= n % 2
    run = Drizzle(kernel="square", out_shape=(n, n), disable_ctx=True)
    y, x = np.indices((SIZE, SIZE), float)
    middle = (SIZE - 1) / 2
    for image, (dx, dy) in zip(images, DITHERS, strict=True):
        where = [(v - middle - d) / RATIO + (n - 1) / 2 for v, d in ((x, dx), (y, dy))]
        variance = np.full((SIZE, SIZE), NOISE**2, np.float32)
        run.add_image(
            image.astype(np.float32), 1.0, np.stack(where, -1), data2=variance, pixfrac=PIXFRAC,
            iscale=RATIO**2, pixel_scale_ratio=RATIO,
        )  # fmt: skip
    variance = run.out_img2[0] if isinstance(run.out_img2, list) else run.out_img2
    return run.out_img.astype(float), np.sqrt(variance.astype(float))


def setup(ngauss=6):
    """Clean images, and the mixture of a drizzled star as the PSF of the mosaic."""
    psf = galsim.Gaussian(sigma=PSF_SIGMA)
    profile = galsim.Sersic(SERSIC, half_light_radius=RHALF, flux=FLUX)
    profile = profile.shear(q=Q, beta=(90.0 + PA) * galsim.degrees)
    star = drizzle(draw(psf))[0]
    cut = len(star) // 2 - 18
    fitted = fit_mixture(
        star[cut:-cut, cut:-cut], ngauss=ngauss, signed=True, includes_pixel=True, normalize="stamp"
    )
    width = (PSF_SIGMA / SCALE) ** 2
    own = PSFModel(from_array(np.array([[1.0, 0, 0, width, width, 0.0]]))[None])
    mosaic = PSFModel(np.atleast_2d(fitted.parameters), None, True)
    return Setup(draw(galsim.Convolve(profile, psf)), own, mosaic, fitted.residual)


def exposures_of(images, psf):
    """The four exposures."""
    out = []
    for k, (image, (dx, dy)) in enumerate(zip(images, DITHERS, strict=True)):
        wcs = simple_wcs((SIZE, SIZE), SCALE)
        wcs.wcs.crpix = wcs.wcs.crpix + [dx, dy]
        out.append(exposure_from_arrays(image, NOISE, psf, band="r", name=f"e{k}", wcs=wcs))
    return out


def mosaic_of(images, psf):
    """The mosaic, its noise measured."""
    data, error = drizzle(images)
    exposure = exposure_from_arrays(data, error, psf, band="r", pixel_scale=SCALE * RATIO)
    exposure.noise = measure_exposure(exposure)
    return exposure


def fit(exposures, correlation, sampling=None, **kwargs):
    """The fit of one galaxy, from starting values a little off the truth."""
    angle = np.radians(2 * PA)
    e = (1 - Q) / (1 + Q)
    values = {"rhalf": 1.1 * RHALF, "sersic": 1.3, "e1": e * np.cos(angle), "e2": e * np.sin(angle)}
    peak = Peak("1", "sersic", 0.0, 0.0, values, {("flux", "r"): FLUX})
    packed = pack_patch(exposures, [peak], bands=["r"])
    return fit_patch(
        packed, [peak], FitOptions(restarts=0), sampling,
        noise=NoiseOptions(correlation=correlation), **kwargs,
    )  # fmt: skip


def run(number=400, seed=1, methods=METHODS):
    """Values and errors [number, methods, parameters] and the mosaics' noise [number, 3]."""
    made = setup()
    rng = np.random.default_rng(seed)
    values = np.zeros((number, len(methods), len(NAMES)))
    errors, noise = np.zeros_like(values), np.zeros((number, 3))
    seconds = np.zeros(len(methods))
    for i in range(number):
        images = made.images + NOISE * rng.standard_normal(made.images.shape)
        mosaic = mosaic_of(images, made.mosaic_psf)
        noise[i] = mosaic.noise.ratio, mosaic.noise.next_pixel, mosaic.noise.factor
        for k, method in enumerate(methods):
            start = time.process_time()
            joint = method == "joint"
            found = fit(
                exposures_of(images, made.psf) if joint else [mosaic],
                "none" if joint else method,
            )  # fmt: skip
            order = [next(j for j, p in enumerate(found.labels) if p[1] == n) for n in NAMES]
            values[i, k] = found.theta[order]
            errors[i, k] = np.sqrt(np.diag(found.covariance))[order]
            # the first fit of each kind compiles
            seconds[k] += (time.process_time() - start) if i else 0.0
    return values, errors, noise, seconds / max(number - 1, 1)


def ratios(values, errors):
    """Mean quoted error over the scatter of the values, [methods, parameters]."""
    return np.sqrt((errors**2).mean(0)) / values.std(0, ddof=1)


def rows(values, errors, methods):
    """Of each parameter: scatter by method, and quoted errors over it."""
    scatter, ratio = values.std(0, ddof=1), ratios(values, errors)
    return [
        [name, *(float(scatter[k, j]) for k in range(len(methods))),
         *(f"{ratio[k, j]:.2f}" for k in range(len(methods)))]
        for j, name in enumerate(NAMES)
    ]  # fmt: skip


def figure(values, errors, methods, path):
    """Quoted error over scatter, by parameter, for every treatment."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    fig, axis = plt.subplots(figsize=(7.0, 3.4))
    ratio, n = ratios(values, errors), len(values)
    at = np.arange(len(NAMES))
    labels = {
        "none": "mosaic, pixels taken as independent", "inflate": "mosaic, errors widened",
        "covariance": "mosaic, likelihood of correlated noise", "joint": "exposures, jointly",
    }  # fmt: skip
    axis.axhspan(0.9, 1.1, color="0.92")
    axis.axhline(1.0, color="0.6", lw=0.8)
    for k, method in enumerate(methods):
        axis.errorbar(
            at + 0.12 * (k - 1.5), ratio[k], ratio[k] / np.sqrt(2 * (n - 1)), fmt="o^sD"[k], ms=5,
            label=labels[method],
        )  # fmt: skip
    axis.set_xticks(at, NAMES)
    axis.set_ylabel("quoted error / scatter")
    axis.set_ylim(0.4, 1.25)
    axis.legend(fontsize=8, ncol=2, loc="lower right")
    fig.tight_layout()
    fig.savefig(path, dpi=110)
    plt.close(fig)


def main():
    """Command line."""
    p = common.parser(__doc__.splitlines()[0])
    p.add_argument("--number", type=int, default=400, help="realisations (default 400)")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--figure", help="write quoted errors over scatter to this PNG")
    args = p.parse_args()
    values, errors, noise, seconds = run(args.number, args.seed)
    header = ("parameter", *(f"scatter, {m}" for m in METHODS), *(f"error/{m}" for m in METHODS))
    print(common.table(header, rows(values, errors, METHODS)))
    print(
        f"\nseed {args.seed}, {args.number} realisations; mosaics: scatter of blank pixels "
        f"{noise[:, 0].mean():.3f} of the propagated errors, correlation with the next pixel "
        f"{noise[:, 1].mean():.2f}, factor {noise[:, 2].mean():.2f} +- {noise[:, 2].std():.2f}; "
        "processor seconds a fit: "
        + ", ".join(f"{m} {s:.2f}" for m, s in zip(METHODS, seconds, strict=True))
    )
    if args.figure:
        figure(values, errors, METHODS, args.figure)
    common.finish(args, {"values": values.tolist(), "errors": errors.tolist()})


if __name__ == "__main__":
    main()
