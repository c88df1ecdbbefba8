"""Which type does `auto` choose? Confusion matrices on GalSim images of known truth.

Isolated stars, exponential and de Vaucouleurs galaxies and Sersic profiles of n = 2, through a
Moffat PSF of .7 arcsec in pixels of .2 arcsec; half-light radii log-uniform in .2-.8 arcsec
(.3-1.1 FWHM), axis ratios uniform in .3-1, positions uniform in a pixel. The PSF of the fit is a
mixture fitted to the PSF's image. The signal-to-noise ratio is that of a matched filter; nothing is
redrawn.

    python benchmarks/source_types.py --number 60 --figure types.png
"""

import time

import common
import numpy as np

from jaxpho.core.sources import AUTO_TYPES
from jaxpho.data.arrays import exposure_from_arrays
from jaxpho.data.catalog import Peak
from jaxpho.data.moments import fill_starts
from jaxpho.data.pack import pack_patch
from jaxpho.fit import flags
from jaxpho.fit.driver import fit_patch
from jaxpho.fit.options import FitOptions
from psfmix.fit import fit_mixture

SCALE, SIZE, FWHM, FLUX = 0.2, 40, 0.7, 1000.0
INDEX = {"exp": 1.0, "dev": 4.0, "sersic": 2.0}


def make_psf():
    """GalSim's PSF and its mixture."""
    import galsim

    psf = galsim.Moffat(beta=3.5, fwhm=FWHM)
    image = psf.drawImage(nx=161, ny=161, scale=SCALE / 4).array.astype(float)
    return psf, fit_mixture(image, oversample=4.0, ngauss=5)


def truth_image(rng, kind, psf):
    """Noiseless image of a source."""
    import galsim

    if kind == "point":
        drawn = psf
    else:
        size = np.exp(rng.uniform(np.log(0.2), np.log(0.8)))
        galaxy = galsim.Sersic(INDEX[kind], half_light_radius=size)
        angle = rng.uniform(0, 180) * galsim.degrees
        drawn = galsim.Convolve(galaxy.shear(q=rng.uniform(0.3, 1.0), beta=angle), psf)
    shift = rng.uniform(-0.5, 0.5, 2) * SCALE
    image = drawn.withFlux(FLUX).shift(*shift).drawImage(nx=SIZE, ny=SIZE, scale=SCALE)
    return image.array.astype(float)


def run(ratio, number, seed, psf, mixture):
    """Chosen types and whether they were flagged: [(truth, chosen, flagged)]."""
    rng = np.random.default_rng([seed, ratio])
    uncertain, out = flags.bit("type_uncertain"), []
    for kind in AUTO_TYPES:
        for _ in range(number):
            image = truth_image(rng, kind, psf)
            sigma = np.sqrt((image**2).sum()) / ratio
            data = image + sigma * rng.standard_normal(image.shape)
            exposure = exposure_from_arrays(data, sigma, mixture, band="r", pixel_scale=SCALE)
            peaks = fill_starts([exposure], [Peak("0", "sersic", 0.0, 0.0, auto=True)], ["r"])
            packed = pack_patch([exposure], peaks, bands=["r"])
            result = fit_patch(packed, peaks, FitOptions())
            out.append((kind, result.types[0], bool(result.flags[0] & uncertain)))
    return out


def matrix(found):
    """Counts [truth, chosen]."""
    counts = np.zeros((len(AUTO_TYPES), len(AUTO_TYPES)), int)
    for truth, chosen, _ in found:
        counts[AUTO_TYPES.index(truth), AUTO_TYPES.index(chosen)] += 1
    return counts


def rows(ratio, found):
    """Lines of the table: one for each true type."""
    counts = matrix(found)
    out = []
    for kind, line in zip(AUTO_TYPES, counts, strict=True):
        flagged = [f for truth, _, f in found if truth == kind]
        share = 100.0 * line / line.sum()
        out.append([ratio, kind, *(f"{s:.0f}" for s in share), f"{100 * np.mean(flagged):.0f}"])
    return out


def figure(results, path):
    """The matrices side by side."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    size = (3.1 * len(results), 3.4)
    fig, axes = plt.subplots(1, len(results), figsize=size, sharey=True, layout="constrained")
    for axis, (ratio, found) in zip(np.atleast_1d(axes), results.items(), strict=True):
        counts = matrix(found)
        share = 100.0 * counts / counts.sum(1, keepdims=True)
        axis.imshow(share, cmap="Blues", vmin=0, vmax=100)
        for (i, j), value in np.ndenumerate(share):
            colour = "white" if value > 60 else "black"
            axis.text(j, i, f"{value:.0f}", ha="center", va="center", color=colour, fontsize=9)
        axis.set_xticks(range(len(AUTO_TYPES)), AUTO_TYPES)
        axis.set_yticks(range(len(AUTO_TYPES)), AUTO_TYPES)
        axis.set_title(f"S/N {ratio}", fontsize=10)
    fig.supxlabel("chosen (per cent of each truth)", fontsize=9)
    np.atleast_1d(axes)[0].set_ylabel("truth", fontsize=9)
    fig.savefig(path, dpi=110)
    plt.close(fig)


def main():
    """Command line."""
    p = common.parser(__doc__.splitlines()[0])
    p.add_argument("--number", type=int, default=60, help="sources of each type and S/N")
    p.add_argument("--ratios", type=int, nargs="+", default=[10, 30, 100], help="S/N")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--figure", help="write the matrices to this PNG")
    args = p.parse_args()
    psf, mixture = make_psf()
    start, results, lines = time.process_time(), {}, []
    for ratio in args.ratios:
        results[ratio] = run(ratio, args.number, args.seed, psf, mixture)
        lines += rows(ratio, results[ratio])
        print(f"S/N {ratio} done", flush=True)
    header = ("S/N", "truth", *(f"{k} %" for k in AUTO_TYPES), "flagged %")
    print(common.table(header, lines))
    total = len(args.ratios) * len(AUTO_TYPES) * args.number
    print(f"\nseed {args.seed}: {total} sources, "
          f"{(time.process_time() - start) / total:.2f} s of processor time each")  # fmt: skip
    if args.figure:
        figure(results, args.figure)
    common.finish(args, {str(k): v for k, v in results.items()})


if __name__ == "__main__":
    main()
