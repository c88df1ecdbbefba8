"""Compare a run with the truth: `compare.py RUNDIR TRUTH`, or `compare.py pool RUNDIR...`.

The first form prints truth, fit, error and pull = (fit - truth) / error of every parameter, the
statistics of the pulls and of residual / sigma in every exposure, writes pulls.ecsv and pulls.png
into RUNDIR and names the pictures. The second pools the pulls.ecsv of several runs. Either exits
with 1 when a limit is violated.

A pull is counted when the parameter is well constrained. The rule looks neither at the fit nor at
the pull: the Cramer-Rao error at the truth (truth.ecsv, from GalSim images) must be small (WELL),
and the truth at least two such errors inside the range that the fit allows (RANGES).
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table

# largest Cramer-Rao error of a counted parameter; fluxes, radii and indices: relative to the truth
WELL = {"ra": 100.0, "dec": 100.0, "flux": 0.2, "rhalf": 0.2, "sersic": 0.25, "e1": 0.1, "e2": 0.1}
RELATIVE = ("flux", "rhalf", "sersic")
RANGES = {"sersic": (0.5, 8.0), "e1": (-0.8, 0.8), "e2": (-0.8, 0.8)}
UNITS = {"ra": "mas", "dec": "mas", "flux": "nJy", "rhalf": "arcsec"}


@dataclass(frozen=True)
class Limits:
    """What the pulls must fulfil. `count` is the number that must be exceeded."""

    count: int
    mean: float
    low: float
    high: float
    largest: float = 5.0
    chi: tuple[float, float] = (0.95, 1.05)


POOLED = Limits(300, 0.2, 0.8, 1.25)
# One field has a third of the values, correlated within each source: over 8 fields the linearised
# optimum alone has mean pulls of 0 +- .06 and standard deviations of 1.0 +- .07.
SINGLE = Limits(90, 0.3, 0.75, 1.3)


def find_catalogue(run):
    """The run's catalogue: the one FITS table that has our columns."""
    for path in sorted(Path(run).glob("*.fits")):
        table = Table.read(path)
        if {"id", "ra", "dec", "flags"} <= set(table.colnames):
            return path, table
    sys.exit(f"{run}: no catalogue (a FITS table with columns id, ra, dec, flags)")


def error_of(table, row, name):
    """The quoted error in the unit that is compared: mas for positions, else the column's."""
    error = float(row[f"{name}_err"])
    if name in ("ra", "dec"):
        error *= table[f"{name}_err"].unit.to("mas")
    return error


def compare(catalogue, truth):
    """One row per parameter: truth, fit, error, Cramer-Rao error, pull, whether it counts."""
    fits_by_id = {str(row["id"]).strip(): row for row in catalogue}
    bands = [c.removeprefix("flux_") for c in truth.colnames if c.startswith("flux_")]
    bands = [b for b in bands if not b.endswith(("_forecast", "_shift"))]
    rows = []
    for true in truth:
        fit = fits_by_id.get(str(true["id"]))
        names = ["ra", "dec", *(f"flux_{b}" for b in bands)]
        names += ["rhalf", "sersic", "e1", "e2"] if true["type"] == "sersic" else []
        for name in names:
            kind = name.split("_")[0]
            expected, shift = float(true[f"{name}_forecast"]), float(true[f"{name}_shift"])
            value, wanted = (np.nan if fit is None else float(fit[name])), float(true[name])
            if name in ("ra", "dec"):
                # offsets from the true position, RA times cos dec
                cos = np.cos(np.radians(true["dec"])) if name == "ra" else 1.0
                value, wanted = (value - wanted) * cos * 3.6e6, 0.0
                expected, shift = 1e3 * expected, 1e3 * shift
            error = np.nan if fit is None else error_of(catalogue, fit, name)
            size = abs(wanted) if kind in RELATIVE else 1.0
            low, high = RANGES.get(kind, (-np.inf, np.inf))
            counts = expected / size < WELL[kind]
            counts &= low + 2 * expected < wanted < high - 2 * expected
            pull = (value - wanted) / error
            row = (int(true["id"]), str(true["type"]), float(true["sn"]), int(true["pair"]))
            values = (wanted, value, error, expected, shift, pull)
            rows.append((*row, name, *values, bool(counts)))
    names = ("id", "type", "sn", "pair", "parameter", "truth", "fit", "error")
    return Table(rows=rows, names=(*names, "cramer_rao", "linear_shift", "pull", "counts"))


def read_chi(run):
    """{exposure: residual / sigma of the unmasked pixels that a patch covers}."""
    result = {}
    for path in sorted(Path(run).rglob("*.fits")):
        with fits.open(path) as hdus:
            if "CHI" not in hdus:
                continue
            chi = hdus["CHI"].data[hdus["PATCH"].data >= 0]
            result[hdus[0].header["EXPOSURE"]] = chi[np.isfinite(chi)]
    return result


def judge(pulls, chi_sd, limits):
    """Statistics in words, and the list of what is violated."""
    counted = np.asarray(pulls["pull"][pulls["counts"]], float)
    bad = int(np.sum(~np.isfinite(counted)))
    good = counted[np.isfinite(counted)]
    wrong = [f"{bad} well-constrained values have no finite pull"] if bad else []
    if not good.size:
        return "no pulls", wrong or ["no well-constrained value"]
    mean, sd, largest = good.mean(), good.std(), np.abs(good).max()
    text = (
        f"{good.size} pulls: mean {mean:+.3f}, standard deviation {sd:.3f}, largest {largest:.2f}"
    )
    if good.size <= limits.count:
        wrong.append(f"{good.size} pulls, wanted more than {limits.count}")
    if abs(mean) >= limits.mean:
        wrong.append(f"mean pull {mean:+.3f}, limit +-{limits.mean}")
    if not limits.low <= sd <= limits.high:
        wrong.append(f"standard deviation {sd:.3f}, limits {limits.low} to {limits.high}")
    if largest > limits.largest:
        wrong.append(f"largest pull {largest:.2f}, limit {limits.largest}")
    low, high = limits.chi
    for name, value in chi_sd.items():
        if not low <= value <= high:
            wrong.append(f"residual / sigma in {name} has {value:.3f}, limits {low} to {high}")
    if not chi_sd:
        wrong.append("no residual images: residual / sigma cannot be judged")
    return text, wrong


def print_table(pulls):
    """All parameters, at most 100 characters wide."""
    head = f"{'id':>3} {'type':6} {'S/N':>5} {'blend':5} {'parameter':9} {'unit':6}"
    print(f"{head} {'truth':>11} {'fit':>11} {'error':>9} {'expected':>9} {'pull':>6}")
    last = None
    for row in pulls:
        name, kind = row["parameter"], row["parameter"].split("_")[0]
        start = f"{'':3} {'':6} {'':5} {'':5}"
        if row["id"] != last:
            blend = "" if row["pair"] < 0 else "yes"
            start = f"{row['id']:3d} {row['type']:6} {row['sn']:5.0f} {blend:5}"
        last = row["id"]
        digits = 1 if UNITS.get(kind) in ("mas", "nJy") else 4
        numbers = f"{row['truth']:11.{digits}f} {row['fit']:11.{digits}f} "
        numbers += f"{row['error']:9.{digits}f} {row['cramer_rao']:9.{digits}f}"
        pull = f"{row['pull']:+6.2f}" + ("" if row["counts"] else "  -")
        print(f"{start} {name:9} {UNITS.get(kind, ''):6} {numbers} {pull}")
    print("ra, dec: offset from the truth. expected: Cramer-Rao error at the truth, from GalSim.")
    print("-: not counted, the data do not constrain it well (see compare.py for the rule).\n")


def print_kinds(pulls):
    """Statistics of the counted pulls by kind of parameter, and error / Cramer-Rao error."""
    print(f"{'parameter':9} {'number':>6} {'mean':>7} {'sd':>6} {'largest':>8}  error / expected")
    counted = pulls[pulls["counts"]]
    for name in dict.fromkeys(counted["parameter"]):
        rows = counted[counted["parameter"] == name]
        pull, ratio = rows["pull"], np.median(rows["error"] / rows["cramer_rao"])
        text = f"{np.mean(pull):+7.2f} {np.std(pull):6.2f} {np.max(np.abs(pull)):8.2f}"
        print(f"{name:9} {len(rows):6d} {text}  {ratio:16.2f}")
    best = counted["linear_shift"] / counted["cramer_rao"]
    print("\nlinearised optimum of this noise, Cramer-Rao errors (the scatter of a perfect fit):")
    print(f"mean {np.mean(best):+.3f}, standard deviation {np.std(best):.3f}")
    away = (counted["fit"] - counted["truth"] - counted["linear_shift"]) / counted["cramer_rao"]
    median = np.nanmedian(np.abs(away))
    print(f"distance of the fit from that optimum: median {median:.2f} Cramer-Rao errors")


def plot(path, pulls):
    """Histogram of the counted pulls, and pull against S/N by kind of parameter."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    counted = pulls[pulls["counts"]]
    finite = np.abs(counted["pull"][np.isfinite(counted["pull"])])
    reach = 5.0 + 0.4 * np.ceil(max(finite.max(initial=0.0) - 5.0, 0.0) / 0.4)  # whole bins
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    x = np.linspace(-reach, reach, 401)
    left.hist(counted["pull"], np.arange(-reach, reach + 0.2, 0.4), density=True, color="0.75")
    left.plot(x, np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi), "k-", lw=1, label="normal distribution")
    left.set(xlabel="(fit - truth) / error", ylabel="density", title=f"{len(counted)} pulls")
    left.legend(frameon=False)
    for name in dict.fromkeys(counted["parameter"]):
        rows = counted[counted["parameter"] == name]
        right.plot(rows["sn"], rows["pull"], "o", ms=4, alpha=0.8, label=name)
    right.axhspan(-1, 1, color="0.9", zorder=0)
    right.set(
        xscale="log", ylim=(-1.1 * reach, 1.1 * reach), xlabel="S/N of the source", ylabel="pull"
    )
    ticks = [10, 20, 50, 100, 200, 300]
    right.set_xticks(ticks, labels=map(str, ticks))
    right.minorticks_off()
    right.legend(ncols=4, fontsize=8, frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def conclude(text, wrong):
    """Print the verdict; the exit code."""
    print(text)
    for sentence in wrong:
        print(f"VIOLATED: {sentence}")
    print("within the limits" if not wrong else "NOT within the limits")
    return 1 if wrong else 0


def single(run, truth_path):
    """One run against its truth."""
    run = Path(run)
    path, catalogue = find_catalogue(run)
    pulls = compare(catalogue, Table.read(truth_path))
    chi = read_chi(run)
    chi_sd = {name: float(np.std(values)) for name, values in chi.items()}
    pulls.meta["residual_over_sigma"] = chi_sd
    pulls.write(run / "pulls.ecsv", overwrite=True)
    plot(run / "pulls.png", pulls)

    print_table(pulls)
    print_kinds(pulls)
    print("\nstandard deviation of residual / sigma, unmasked pixels of the patches:")
    print("  ".join(f"{name} {value:.3f}" for name, value in chi_sd.items()))
    shown = "flag_names" if "flag_names" in catalogue.colnames else "flags"
    flagged = [f"{row['id']} ({row[shown]})" for row in catalogue if row["flags"] != 0]
    print(f"sources with flags: {', '.join(flagged) or 'none'}\n")
    print(f"catalogue: {path}\npictures:")
    for picture in sorted({*Path(truth_path).parent.glob("*.png"), *run.rglob("*.png")}):
        print(f"  {picture}")
    return conclude(*judge(pulls, chi_sd, SINGLE))


def pool(runs):
    """Pulls of several runs, which `single` has written."""
    from astropy.table import vstack

    files = [Path(run) / "pulls.ecsv" for run in runs]
    for path in files:
        if not path.is_file():
            sys.exit(f"{path}: no such file; run `compare.py RUNDIR TRUTH` first")
    tables = [Table.read(path) for path in files]
    chi_sd = {}
    for run, table in zip(runs, tables, strict=True):
        found = table.meta.pop("residual_over_sigma")
        chi_sd |= {f"{run}: {name}": value for name, value in found.items()}
    pulls = vstack(tables)
    print_kinds(pulls)
    if chi_sd:
        low, high = min(chi_sd.values()), max(chi_sd.values())
        print(f"\nresidual / sigma over {len(chi_sd)} exposures: {low:.3f} to {high:.3f}")
    return conclude(*judge(pulls, chi_sd, POOLED))


def main(argv=None):
    """Command line; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    if argv and argv[0] == "pool":
        parser.add_argument("runs", nargs="+", type=Path, help="run directories")
        return pool(parser.parse_args(argv[1:]).runs)
    parser.add_argument("run", type=Path, help="run directory of jaxpho-fit")
    parser.add_argument("truth", type=Path, help="truth.ecsv of simulate.py")
    options = parser.parse_args(argv)
    return single(options.run, options.truth)


if __name__ == "__main__":
    sys.exit(main())
