"""What an effective sample costs: gradients and processor time of the samplers on a blend.

Four galaxies in two bands and eight exposures, 32 parameters: the second reference case of
forcepho's format (folder forcepho_format/case2 of JAXPHO_DATA), with its own splines and pixel
integration. Gradients are leapfrog steps of all chains, warm-up apart; effective samples are bulk
ESS (rank-normalised; Vehtari et al. 2021) of the least and of the median parameter.
"""

import os
import time
from pathlib import Path

import common
import jax
import jax.numpy as jnp
import numpy as np

from jaxpho.compat.catalog import read_catalog
from jaxpho.data.catalog import Peak
from jaxpho.data.splinestore import read_spline_table
from jaxpho.data.unpack import patch_from_arrays
from jaxpho.fit.optimize import optimize
from jaxpho.fit.options import FitOptions, SampleOptions
from jaxpho.fit.parameters import build_parameters, parameter_bucket
from jaxpho.fit.posterior import Problem, Static, to_unconstrained
from jaxpho.fit.sample import sample
from jaxpho.fit.start import source_starts

STATIC = Static("second_order", 1)


def make_case(folder):
    """Problem, linear mask and mode of the case."""
    arrays = dict(np.load(folder / "expected.npz"))
    packed = patch_from_arrays(arrays, first_psf=True, dtype=np.float32)
    splines = read_spline_table(folder / "sersic_splines.h5").splines(np.float32)
    catalog = read_catalog(folder / "peak_catalog.fits")
    peaks = []
    for i, (ra, dec, q, pa, sersic, rhalf) in enumerate(catalog.shapes):
        # forcepho: q = sqrt(b/a), pa in radians from East to North
        values = {"rhalf": rhalf, "sersic": sersic, "q": q**2, "pa": 90 - np.degrees(pa)}
        flux = {("flux", band): catalog.flux[band][i] for band in packed.bands}
        peaks.append(Peak(str(i), "sersic", ra, dec, values, flux))
    starts = source_starts(peaks, packed.bands, packed.reference, pixel_scale=0.06)
    table, n = build_parameters(
        starts, packed.bands, FitOptions(), pixel_scale=0.06,
        cos_dec=float(np.cos(np.radians(packed.reference[1]))),
        flux_scale=dict.fromkeys(packed.bands, 1.0), n_exposures=packed.patch.n_exposures,
        size=parameter_bucket,
    )  # fmt: skip
    problem = Problem(packed.patch, table.scene, table.transform(n), splines)
    linear = np.zeros(n, bool)
    used = len(table.parameters)
    linear[:used] = table.linear
    start = to_unconstrained(jnp.asarray(table.start(n)), problem.transform)
    mode = optimize(np.asarray(start, float), problem, linear, static=STATIC, with_volume=True)
    return problem, linear, mode, used


def bulk_ess(theta):
    """Rank-normalised bulk ESS [n] of draws [chains, draws, n]."""
    from numpyro.diagnostics import effective_sample_size
    from scipy.stats import norm, rankdata

    chains, draws, n = theta.shape
    halves = theta[:, : draws // 2 * 2].reshape(2 * chains, draws // 2, n)
    rank = rankdata(halves.reshape(-1, n), axis=0)
    score = norm.ppf((rank - 0.375) / (rank.shape[0] + 0.25)).reshape(halves.shape)
    size = effective_sample_size(score)
    return np.where(size < 0, theta[..., 0].size, size)


def main():
    """Command line."""
    p = common.parser(__doc__.splitlines()[0])
    p.add_argument("--seeds", type=int, default=5)
    p.add_argument("--draws", type=int, default=2000, help="draws per chain (default 2000)")
    p.add_argument("--methods", default="nuts,marginal")
    args = p.parse_args()
    data = Path(os.environ.get("JAXPHO_DATA", "../shared/data"))
    problem, linear, mode, used = make_case(data / "forcepho_format" / "case2")
    figures, rows = {}, []
    for method in args.methods.split(","):
        # the program is compiled before anything is timed
        options = SampleOptions(method=method, num_samples=25, max_rounds=1)
        sample(jax.random.PRNGKey(99), mode, problem, options, STATIC, linear)
        options = SampleOptions(method=method, num_samples=args.draws, max_rounds=1)
        found = []
        for seed in range(args.seeds):
            start = time.process_time()
            draws = sample(jax.random.PRNGKey(seed), mode, problem, options, STATIC, linear)
            seconds = time.process_time() - start
            ess = bulk_ess(draws.theta[..., :used].astype(float))
            least, middle = ess.min(), np.median(ess)
            found.append(
                [draws.gradients / least, draws.gradients / middle, 1e3 * seconds / least,
                 draws.warmup_gradients / options.num_chains]
            )  # fmt: skip
            row = [method, seed, *(float(x) for x in found[-1]), float(least), draws.divergences]
            rows.append(row)
            print(" ".join(f"{x:.4g}" if isinstance(x, float) else str(x) for x in row), flush=True)
        figures[method] = np.median(found, axis=0).tolist()
        rows.append([method, "median", *figures[method], "", ""])
    header = (
        "sampler", "seed", "gradients / least ESS", "/ median ESS", "ms / least ESS",
        "warm-up gradients a chain", "least ESS", "divergences",
    )  # fmt: skip
    print(common.table(header, rows))
    common.finish(args, figures)


if __name__ == "__main__":
    main()
