"""Are the errors right? Simulation-based calibration of the sampler.

Truths are drawn from the priors of the fit, rendered with noise, and fitted. If the sampler draws
from the posterior, the rank of the truth among independent draws is uniform for every parameter
(Cook, Gelman & Rubin 2006; Talts et al. 2018, arXiv:1804.06788). Nothing is redrawn: data sets
whose chains missed the targets are counted, and kept.

    python benchmarks/calibration.py --number 200 --method nuts --figure ranks.png
"""

import time
from typing import NamedTuple

import common
import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import binom, chi2

from jaxpho.data.arrays import exposure_from_arrays
from jaxpho.data.catalog import Peak
from jaxpho.data.pack import pack_patch
from jaxpho.data.psfmodel import PSFModel
from jaxpho.fit.evaluate import problem_of
from jaxpho.fit.optimize import optimize
from jaxpho.fit.options import FitOptions, PriorOptions, SampleOptions
from jaxpho.fit.posterior import Static, model_of, to_unconstrained
from jaxpho.fit.priors import draw_prior
from jaxpho.fit.sample import sample
from psfmix.fit import from_array

SCALE, SIZE, NOISE = 0.2, 32, 1.0
"""arcsec per pixel, pixels a side, error of a pixel."""
# Two positive Gaussians of FWHM 3 pixels: the model is the truth here, so any PSF serves.
PSF = [[0.7, 0.0, 0.0, 1.4, 1.6, 0.1], [0.3, 0.0, 0.0, 5.0, 4.5, 0.0]]
PRIORS = {
    "flux": PriorOptions("normal", mean=400.0, sigma=120.0),
    "position": PriorOptions("uniform", low=-0.3, high=0.3),
    "rhalf": PriorOptions("log_uniform", low=0.2, high=1.0),
    "sersic": PriorOptions("uniform", low=0.6, high=4.0),
    "ellipticity": PriorOptions("uniform", high=0.6),
}
SCENES = {
    "galaxy": [("sersic", 0.0, 0.0)],
    "pair": [("sersic", -0.5, 0.0), ("sersic", 0.5, 0.2)],
    "galaxy_star": [("sersic", -0.4, 0.0), ("point", 0.4, 0.1)],
}
BINS = 10


class Calibration(NamedTuple):
    """Ranks of the truths, [number, parameters] in 0 ... levels, and how the chains fared."""

    names: list[str]
    ranks: np.ndarray
    levels: int
    missed: int
    divergences: int
    gradients: int


def make_scene(name, bands=("r",)):
    """Problem, table and padded number of a scene without data."""
    psf = PSFModel(from_array(np.array(PSF))[None])
    empty = np.zeros((SIZE, SIZE), np.float32)
    exposures = [
        exposure_from_arrays(empty, NOISE, psf, band=band, pixel_scale=SCALE) for band in bands
    ]
    peaks = [
        Peak(str(i), kind, x / 3600.0, y / 3600.0) for i, (kind, x, y) in enumerate(SCENES[name])
    ]
    packed = pack_patch(exposures, peaks, bands=list(bands))
    return problem_of(packed, peaks, FitOptions(priors=PRIORS))


def run(scene="galaxy", number=200, method="nuts", seed=1, levels=50, **options):
    """Calibrate; see the module. ``options`` are those of `SampleOptions`.

    Returns
    -------
    Calibration
    """
    problem, table, n = make_scene(scene)
    patch = problem.patch
    used = len(table.parameters)
    linear = np.zeros(n, bool)
    linear[:used] = table.linear
    sampling = SampleOptions(method=method, **options)
    static = Static("fourth", 1)
    rng = np.random.default_rng(seed)
    sigma = np.where(np.asarray(patch.ierr) > 0, NOISE, 0.0)
    ranks, missed, divergences, gradients = [], 0, 0, 0
    for i in range(number):
        truth = draw_prior(rng, table, n)
        image = np.asarray(model_of(jnp.asarray(truth, jnp.float32), problem, static))
        data = image + sigma * rng.standard_normal(sigma.shape)
        own = problem._replace(patch=patch._replace(data=jnp.asarray(data, jnp.float32)))
        # the truth as the start: the mode is found from it more surely than from a guess
        start = to_unconstrained(jnp.asarray(truth, jnp.float32), own.transform)
        mode = optimize(np.asarray(start, float), own, linear, static=static, with_volume=True)
        draws = sample(jax.random.PRNGKey(seed * 100_003 + i), mode, own, sampling, static, linear)
        theta = draws.theta[..., :used].reshape(-1, used).astype(float)
        fewest = int(np.nanmin(draws.ess[:used]))
        missed += fewest < levels or not np.nanmax(draws.rhat[:used]) < sampling.max_rhat
        # draws about as far apart as they are independent, in random order
        chosen = rng.permutation(len(theta))[:levels]
        ranks.append((theta[chosen] < truth[:used]).sum(0))
        divergences += draws.divergences
        gradients += draws.gradients + draws.warmup_gradients
    names = [" ".join(str(part) for part in label if part != "") for label in table.labels]
    return Calibration(names, np.array(ranks), levels, missed, divergences, gradients)


def uniformity(ranks, levels):
    """p value [parameters] that ranks are uniform, by chi2 over `BINS` bins."""
    number = len(ranks)
    edges = np.linspace(0, levels + 1, BINS + 1)
    expected = np.diff(np.ceil(edges)) / (levels + 1) * number
    out = []
    for column in ranks.T:
        found = np.histogram(column, np.ceil(edges))[0]
        out.append(chi2.sf(((found - expected) ** 2 / expected).sum(), BINS - 1))
    return np.array(out)


def coverage(ranks, levels, share):
    """Fraction [parameters] of truths within the central interval of a share."""
    low = (1 - share) / 2 * (levels + 1)
    return ((ranks + 0.5 > low) & (ranks + 0.5 < levels + 1 - low)).mean(0)


def rows(found):
    """Per parameter: p of uniform ranks, coverage of 50, 68 and 95 %, mean rank."""
    p = uniformity(found.ranks, found.levels)
    shares = [coverage(found.ranks, found.levels, s) for s in (0.5, 0.68, 0.95)]
    mean = (found.ranks + 0.5).mean(0) / (found.levels + 1)
    return [
        [name, float(p[i]), *(f"{100 * s[i]:.1f}" for s in shares), f"{mean[i]:.3f}"]
        for i, name in enumerate(found.names)
    ]


def figure(found, path):
    """Rank histograms with the range in which 99 % of the bins of uniform ranks lie."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    across = 4
    down = -(-len(found.names) // across)
    fig, axes = plt.subplots(down, across, figsize=(10, 1.9 * down), sharey=True, squeeze=False)
    number = len(found.ranks)
    low, high = binom.ppf([0.005, 0.995], number, 1 / BINS)
    for axis, name, column in zip(axes.flat, found.names, found.ranks.T, strict=False):
        axis.axhspan(low, high, color="0.88")
        axis.axhline(number / BINS, color="0.6", lw=0.8)
        axis.hist(column, np.linspace(0, found.levels + 1, BINS + 1), color="C0", alpha=0.8)
        axis.set_title(name, fontsize=9)
        axis.set_xticks([])
    for axis in axes.flat[len(found.names) :]:
        axis.set_visible(False)
    fig.supxlabel("rank of the truth among draws", fontsize=9)
    fig.supylabel("data sets", fontsize=9)
    fig.tight_layout()
    fig.savefig(path, dpi=110)
    plt.close(fig)


def main():
    """Command line."""
    p = common.parser(__doc__.splitlines()[0])
    p.add_argument("--scene", choices=sorted(SCENES), default="galaxy")
    p.add_argument("--number", type=int, default=200, help="data sets (default 200)")
    p.add_argument("--method", choices=("nuts", "marginal"), default="nuts")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--figure", help="write rank histograms to this PNG")
    args = p.parse_args()
    start = time.process_time()
    found = run(args.scene, args.number, args.method, args.seed)
    seconds = time.process_time() - start
    header = ("parameter", "p (uniform)", "50 %", "68 %", "95 %", "mean rank")
    print(common.table(header, rows(found)))
    least = uniformity(found.ranks, found.levels).min() * len(found.names)
    print(
        f"\n{args.scene}, {args.method}, seed {args.seed}: {args.number} data sets, smallest p "
        f"{min(least, 1.0):.3f} after correction for {len(found.names)} parameters; "
        f"{found.missed} missed the targets, {found.divergences} divergences; "
        f"{seconds / args.number:.2f} s of processor time each"
    )
    if args.figure:
        figure(found, args.figure)
    common.finish(args, {"ranks": found.ranks.tolist(), "names": found.names})


if __name__ == "__main__":
    main()
