"""Are the errors right? Simulation-based calibration.

    python benchmarks/calibration run --scene galaxy --psf moffat --render galsim --number 500
    python benchmarks/calibration report calibration-results/galaxy-*

Truths are drawn from the priors of the fit, rendered by our model (is the sampler right?) or by
GalSim through the true PSF (is the whole right?), given noise, and fitted by the code of jaxpho-fit
from a rough catalogue. Nothing is redrawn. Data set i of a seed is the same in any run: runs can be
stopped, continued, and split by --first and --number.
"""

import argparse
import multiprocessing
import os
from pathlib import Path

KINDS = ("gaussians", "moffat", "kolmogorov", "f200w")
SCENES = ("galaxy", "bands", "pair", "galaxy_star")
RENDERERS = ("model", "mixture", "galsim")
METHODS = ("nuts", "marginal", "nuts_dense", "nuts_diagonal", "laplace", "svi")


def parser():
    """The command line."""
    p = argparse.ArgumentParser(prog="calibration", description=__doc__.splitlines()[0])
    sub = p.add_subparsers(dest="command", required=True)
    r = sub.add_parser("run", help="simulate and fit data sets")
    r.add_argument("--scene", choices=SCENES, default="galaxy")
    r.add_argument("--psf", choices=KINDS, default="moffat")
    r.add_argument("--render", choices=RENDERERS, default="galsim", dest="renderer",
                   help="the truth: by our model, by GalSim through the mixture that the fit uses, "
                   "or by GalSim through the true PSF (default)")  # fmt: skip
    r.add_argument(
        "--method", default="nuts", help=f"sample.method: {', '.join(METHODS)} (default nuts)"
    )
    r.add_argument("--sn", type=float, nargs=2, default=(10.0, 100.0), metavar=("LOW", "HIGH"),
                   help="nominal S/N (default 10 100)")  # fmt: skip
    r.add_argument("--seed", type=int, default=1)
    r.add_argument("--first", type=int, default=0, help="number of the first data set (default 0)")
    r.add_argument("--number", type=int, default=500, help="data sets (default 500)")
    r.add_argument("--processes", type=int, default=1)
    r.add_argument("--min-ess", type=float, default=100.0,
                   help="effective samples of the worst parameter (default 100)")  # fmt: skip
    r.add_argument("--max-rhat", type=float, default=1.05, help="(default 1.05)")
    r.add_argument("--out", type=Path, default=Path("calibration-results"))
    s = sub.add_parser("report", help="tables and figures of one or more runs, pooled")
    s.add_argument("folders", type=Path, nargs="+")
    s.add_argument("--sn", type=float, nargs=2, metavar=("LOW", "HIGH"),
                   help="only sources whose measured S/N lies in a range")  # fmt: skip
    s.add_argument("--ranks", type=Path, help="write rank histograms to this PNG")
    s.add_argument(
        "--trends", type=Path, help="write coverage and bias by S/N, size, n to this PNG"
    )
    s.add_argument("--title", default="", help="of the figures")
    return p


def run(args):
    """Simulate and fit what has not been done yet."""
    from calibration.results import SHARED, folder_of, read_folder

    settings = {k: getattr(args, k) for k in SHARED}
    settings["sn"] = list(settings["sn"])
    folder = folder_of(args.out, settings)
    known, records = read_folder(folder)
    if known and known != settings:
        raise SystemExit(f"{folder}: made with other settings: {known}; expected {settings}")
    done = {r["number"] for r in records}
    numbers = [i for i in range(args.first, args.first + args.number) if i not in done]
    print(f"{folder}: {len(numbers)} of {args.number} data sets to do", flush=True)
    parts = [numbers[k :: args.processes] for k in range(args.processes)]
    if args.processes == 1:
        work(settings, parts[0], args.out, 0)
    else:
        from calibration import psfs

        psfs.mixture(args.psf, args.out)  # made once, for all
        context = multiprocessing.get_context("spawn")
        jobs = [
            context.Process(target=work, args=(settings, part, args.out, k))
            for k, part in enumerate(parts)
        ]
        for job in jobs:
            job.start()
        for job in jobs:
            job.join()
        if any(job.exitcode for job in jobs):
            raise SystemExit("a process failed; what was done is kept, the same command goes on")
    report(argparse.Namespace(folders=[folder], sn=None, ranks=None, trends=None, title=""))


def work(settings, numbers, out, part):
    """Data sets of one process."""
    from tqdm import tqdm

    from calibration.fits import fit_one, sampling_of
    from calibration.results import Writer, folder_of
    from calibration.simulate import Simulator

    if not numbers:
        return
    simulator = Simulator(
        settings["scene"], settings["psf"], settings["renderer"], settings["sn"], out
    )
    sampling = sampling_of(settings["method"], settings["min_ess"], settings["max_rhat"])
    options = simulator.scene.options
    path = folder_of(out, settings) / f"{numbers[0]:06d}-{part}-{os.getpid()}.jsonl"
    writer = Writer(path, settings)
    for number in tqdm(numbers, disable=part > 0, mininterval=5.0):
        data = simulator.draw(settings["seed"], number)
        writer.add(fit_one(data, settings["seed"], number, options, sampling))
    writer.close()


def load(folder):
    """Settings and `Sample` of a run."""
    from calibration import psfs
    from calibration.results import read_folder
    from calibration.scenes import SCALE, SCENES
    from calibration.tables import collect

    settings, records = read_folder(folder)
    if not records:
        raise SystemExit(f"{folder}: no results")
    labels = SCENES[settings["scene"]].labels
    return settings, collect(records, labels, psfs.FWHM[settings["psf"]] * SCALE)


def report(args):
    """Print tables and write figures."""
    from common import table

    from calibration import figures, tables

    loaded = [load(folder) for folder in args.folders]
    sample = tables.pooled([s for _, s in loaded])
    if args.sn:
        value = sample.by["S/N"]
        sample = sample.select((value >= args.sn[0]) & (value < args.sn[1]))
    print(
        ", ".join(str(f) for f in args.folders) + (f"; measured S/N {args.sn}" if args.sn else "")
    )
    print(
        f"{sample.fits} fits: {sample.failed} failed, {sample.unconverged} optima not converged, "
        f"{sample.unmixed} with R-hat > {tables.MISSED_RHAT}, {sample.divergences} divergences in "
        f"{sample.divergent}; {sample.gradients:.0f} gradients and {sample.seconds:.2f} s of "
        f"processor time each. Smallest p after correction: {tables.least_p(sample):.3g}\n"
    )
    print(table(tables.PARAMETER_HEADER, tables.parameter_rows(sample)))
    for name in sample.by:
        rows = tables.bin_rows(sample, name)
        if rows:
            print(
                f"\n68 % coverage / bias [sigma]\n\n{table(tables.bin_header(sample, name), rows)}"
            )
    if args.ranks:
        figures.rank_figure(sample, args.ranks, args.title)
    if args.trends:
        figures.trend_figure(sample, args.trends, args.title)


def main():
    """Command line."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    # before jax is imported: the fused kernel gains nothing from XLA's own threads
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
    from jaxpho.errors import InputError

    p = parser()
    args = p.parse_args()
    if args.command == "run":
        if not 0 < args.sn[0] < args.sn[1]:
            p.error(f"--sn {args.sn[0]:g} {args.sn[1]:g}: expected 0 < LOW < HIGH")
        if args.method not in METHODS:
            p.error(f"--method {args.method}: expected one of {', '.join(METHODS)}")
    try:
        {"run": run, "report": report}[args.command](args)
    except InputError as error:
        raise SystemExit(f"calibration: {error}") from None
