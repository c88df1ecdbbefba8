"""What an effective sample costs: gradients and processor time of the samplers, on several patches.

Gradients are leapfrog steps of all chains, warm-up apart; effective samples are bulk ESS
(rank-normalised; Vehtari et al. 2021) of the least and of the median parameter. Every seed is
shown; figures are medians over seeds. `--reference SIGMAS` also runs numpyro's dense NUTS until the
Monte-Carlo error of every mean is that share of its standard deviation, and compares means and
standard deviations with it. Patches: see sampling_patches.py.

    JAXPHO_DATA=DIR python benchmarks/sampling.py --patches case2 --reference 0.03 --keep FOLDER

The whole takes hours; with `--keep`, the draws of every seed and the moments of the reference are
kept in a folder, and the same command goes on with what is there.
"""

import hashlib
import time
from pathlib import Path

import common
import jax
import numpy as np
from sampling_patches import PATCHES, make_patch

from jaxpho.files import replacing
from jaxpho.fit.diagnostics import diagnose, mean_ess
from jaxpho.fit.options import METHODS, SampleOptions
from jaxpho.fit.sample import sample

MCSE, SIGMA_RTOL = 4.0, 0.05
"""How far means may lie apart, in their combined Monte-Carlo errors; standard deviations relative,
beyond three of theirs."""
HEADER = (
    "patch", "sampler", "seed", "gradients / least ESS", "/ median ESS", "ms / least ESS",
    "warm-up gradients a chain", "least ESS", "max R-hat", "divergences",
)  # fmt: skip


def draw(case, seed, **options):
    """Draws, and the processor time in seconds."""
    start = time.process_time()
    asked = SampleOptions(**options)
    draws = sample(
        jax.random.PRNGKey(seed), case.mode, case.problem, asked, case.static, case.linear
    )
    return draws, time.process_time() - start


def kept(folder, name, make, versions=""):
    """Arrays by name from a file of ``folder``, or made and written there; of this code alone."""
    if folder is None:
        return make()
    root = Path(__file__).resolve().parent.parent
    code = hashlib.sha256(versions.encode())
    for path in sorted([*root.glob("jaxpho/core/*.py"), *root.glob("jaxpho/fit/*.py"),
                        *root.glob("benchmarks/sampling*.py")]):  # fmt: skip
        code.update(path.read_bytes())
    path = folder / f"{name}-{code.hexdigest()[:12]}.npz"
    if path.exists():
        with np.load(path) as found:
            return dict(found)
    arrays = make()
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)
    return arrays


def moments(theta):
    """Means and standard deviations of draws [chains, draws, n], and the Monte-Carlo errors."""
    x = theta.astype(float)
    mean, sigma = x.mean((0, 1)), x.std((0, 1))
    number = x.shape[0] * x.shape[1]
    error = sigma / np.sqrt(np.minimum(mean_ess(x), number))
    square = (x - mean) ** 2
    own = square.std((0, 1)) / np.sqrt(np.minimum(mean_ess(square), number))
    return mean, sigma, error, own / (2.0 * sigma)


def reference_of(case, precision: float, most: int):
    """Moments by dense NUTS, 1000 draws a chain at a time until the means are known well."""
    draws, _ = draw(
        case, 1000, method="nuts_dense", num_samples=1000, max_rounds=most, max_tree_depth=10,
        min_ess=1.1 / precision**2,
    )  # fmt: skip
    names = "mean", "sigma", "error", "wide"
    spent = draws.gradients + draws.warmup_gradients
    found = moments(draws.theta[..., : case.used])
    return dict(zip(names, found, strict=True)) | {"rounds": draws.rounds, "gradients": spent}


def sampled(case, seed, **options):
    """What is kept of a seed: draws [chain, draw, n] in single precision, and their cost."""
    draws, seconds = draw(case, seed, **options)
    return {
        "theta": draws.theta[..., : case.used].astype(np.float32), "seconds": seconds,
        "gradients": draws.gradients, "warmup": draws.warmup_gradients,
        "divergences": draws.divergences,
    }  # fmt: skip


def compare(found, expected):
    """Largest difference of means in combined errors; excess of that of sigmas (<= 0: alike)."""
    mean, sigma, error, wide = found
    mean2, sigma2, error2, wide2 = expected
    apart = np.abs(mean - mean2) / np.hypot(error, error2)
    ratio = np.abs(sigma / sigma2 - 1.0) - 3.0 * np.hypot(wide / sigma, wide2 / sigma2)
    return float(apart.max()), float((ratio - SIGMA_RTOL).max())


def run(name, methods, seeds, draws_per_chain, expected=None, case=None, folder=None):
    """Rows of the table and medians over seeds by method."""
    case = case or make_patch(name)
    rows, figures = [], {}
    for method in methods:
        options = {"method": method, "num_samples": draws_per_chain, "max_rounds": 1}
        found, pooled, compiled = [], [], []

        def timed(seed, options=options, compiled=compiled):
            if not compiled:  # before anything is timed
                compiled.append(draw(case, 99, method=options["method"], num_samples=25,
                                     max_rounds=1))  # fmt: skip
            return sampled(case, seed, **options)

        for seed in range(seeds):
            draws = kept(
                folder, f"{name}-{method}-{draws_per_chain}-{seed}",
                lambda seed=seed, timed=timed: timed(seed), repr(common.environment()["jax"]),
            )  # fmt: skip
            theta = draws["theta"]
            worth = diagnose(theta)
            least, middle = float(worth.bulk.min()), float(np.median(worth.bulk))
            gradients, seconds = float(draws["gradients"]), float(draws["seconds"])
            found.append(
                [gradients / least, gradients / middle, 1e3 * seconds / least,
                 float(draws["warmup"]) / theta.shape[0]]
            )  # fmt: skip
            rest = least, float(worth.rhat.max()), int(draws["divergences"])
            rows.append([name, method, seed, *map(float, found[-1]), *rest])
            print(common.table(HEADER, rows[-1:]).splitlines()[-1], flush=True)
            pooled.append(theta)
        figures[method] = np.median(found, axis=0).tolist()
        rows.append([name, method, "median", *figures[method], "", "", ""])
        if expected is not None:
            apart, excess = compare(moments(np.concatenate(pooled)), expected)
            alike = apart <= MCSE and excess <= 0
            print(
                f"{name} {method}: means within {apart:.1f} combined errors of the reference, "
                f"sigmas {'' if excess <= 0 else 'NOT '}within {SIGMA_RTOL:.0%} and 3 errors: "
                f"{'alike' if alike else 'DIFFERENT'}", flush=True,
            )  # fmt: skip
            figures[method] += [apart, excess]
    return rows, figures


def main():
    """Command line."""
    p = common.parser(__doc__.splitlines()[0])
    p.add_argument("--seeds", type=int, default=5)
    p.add_argument("--draws", type=int, default=2000, help="draws per chain (default 2000)")
    p.add_argument("--methods", default="nuts,marginal", help=f"of {', '.join(METHODS[:-1])}")
    p.add_argument("--patches", default="case2", help=f"of {', '.join(PATCHES)}")
    p.add_argument("--reference", type=float, help="Monte-Carlo error of the reference, sigma")
    p.add_argument("--most", type=int, default=20, help="rounds of the reference (default 20)")
    p.add_argument("--keep", type=Path, metavar="FOLDER", help="keep draws here, and go on")
    args = p.parse_args()
    rows, figures = [], {}
    for name in args.patches.split(","):
        case, expected = make_patch(name), None
        if args.reference:
            found = kept(
                args.keep, f"{name}-reference-{args.reference}",
                lambda case=case: reference_of(case, args.reference, args.most),
                repr(common.environment()["jax"]),
            )  # fmt: skip
            expected = [found[k] for k in ("mean", "sigma", "error", "wide")]
            reached = float((found["error"] / found["sigma"]).max())
            figures[f"{name} reference"] = reached
            print(f"reference: {int(found['rounds'])} rounds, {int(found['gradients'])} gradients, "
                  f"error {reached:.3f} sigma", flush=True)  # fmt: skip
        more, figures[name] = run(
            name, args.methods.split(","), args.seeds, args.draws, expected, case, args.keep
        )
        rows += more
    print(common.table(HEADER, rows))
    common.finish(args, figures)


if __name__ == "__main__":
    main()
