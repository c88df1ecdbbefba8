"""From records of fits to tables: coverage, uniformity and bias, whole and by what was measured."""

from dataclasses import dataclass, replace

import numpy as np

from calibration.fits import names_of
from calibration.ranks import (
    SHARES,
    bias,
    corrected,
    coverage,
    coverage_error,
    uniformity,
)
from jaxpho.errors import InputError

MISSED_RHAT = 1.1
"""R-hat above which a fit counts as one that did not mix."""
LEAST = 40
"""Sources of which the smallest bin of a table consists."""
EDGES = {
    "S/N": (0.0, 10.0, 15.0, 20.0, 30.0, 50.0, 100.0, 200.0, np.inf),
    "size / FWHM": (0.0, 0.5, 0.65, 0.8, 1.0, np.inf),
    "n": (0.0, 1.5, 2.0, 2.5, 3.0, 4.0, np.inf),
    "distance / FWHM": (1.0, 1.5, 2.0, 2.5, 3.0),
    "flux ratio": (0.0, 0.2, 0.5, 1.0, 2.0, 5.0, np.inf),
}


@dataclass
class Sample:
    """All sources of many fits: one row a source.

    Attributes
    ----------
    names : list of str
        Parameters.
    rank, pull : ndarray
        [rows, parameters] share of draws below the truth, (mean - truth) / sd.
    by : dict
        Name -> [rows] what was measured of each source (posterior means), or known to the fit.
    fits, failed, unmixed, unconverged, divergences : int
    divergent : int
        Fits with a divergence.
    gradients, seconds : float
        Of a fit, mean.
    """

    names: list[str]
    rank: np.ndarray
    pull: np.ndarray
    by: dict
    fits: int = 0
    failed: int = 0
    unmixed: int = 0
    unconverged: int = 0
    divergences: int = 0
    divergent: int = 0
    gradients: float = 0.0
    seconds: float = 0.0

    def select(self, keep):
        """The rows of a mask."""
        by = {k: v[keep] for k, v in self.by.items()}
        return replace(self, rank=self.rank[keep], pull=self.pull[keep], by=by)


COUNTS = ("fits", "failed", "unmixed", "unconverged", "divergences", "divergent")


def collect(records, labels, fwhm):
    """A `Sample` of records.

    Parameters
    ----------
    records : list of dict
    labels : list of tuple
        (owner, name, band) of the parameters.
    fwhm : float
        Of the PSF, in the unit of rhalf.
    """
    good = [r for r in records if "error" not in r]
    owners = sorted({owner for owner, _, _ in labels})
    names = list(dict.fromkeys(names_of([(0, name, band) for _, name, band in labels])))
    shape = (len(owners), len(good), len(names))
    rank, pull, mean, sd = np.full((4, *shape), np.nan)
    wide = len(good), len(labels)
    fields = [
        np.reshape([r[k] for r in good], wide).astype(float)
        for k in ("rank", "mean", "sd", "truth")
    ]
    for i, (owner, name, band) in enumerate(labels):
        at = owners.index(owner), slice(None), names.index(names_of([(0, name, band)])[0])
        rank[at], mean[at], sd[at], truth = (f[:, i] for f in fields)
        pull[at] = (mean[at] - truth) / sd[at]
    by = _measured(good, names, mean, sd, fwhm)
    sample = Sample(
        names, rank.reshape(-1, len(names)), pull.reshape(-1, len(names)),
        {k: np.ravel(v) for k, v in by.items()},
        fits=len(records), failed=len(records) - len(good),
        unmixed=sum(not r["rhat"] < MISSED_RHAT for r in good),
        unconverged=sum(not r["converged"] for r in good),
        divergences=sum(r["divergences"] for r in good),
        divergent=sum(r["divergences"] > 0 for r in good),
    )  # fmt: skip
    if good:
        sample.gradients = float(np.mean([r["gradients"] for r in good]))
        sample.seconds = float(np.mean([r["seconds"] for r in good]))
    return sample


def _measured(good, names, mean, sd, fwhm):
    """What tables are made by, [sources, fits] each."""
    by = {}
    column = {name: mean[..., names.index(name)] for name in names}
    if len(mean) == 1:
        by["S/N"] = np.array([[r["sn"] for r in good]])
    else:
        flux = names.index("flux r")
        by["S/N"] = mean[..., flux] / sd[..., flux]
        by["distance / FWHM"] = np.tile([r["separation"] for r in good], (len(mean), 1))
        with np.errstate(divide="ignore", invalid="ignore"):
            by["flux ratio"] = column["flux r"] / column["flux r"][::-1]
    if "rhalf" in column:
        by["size / FWHM"] = column["rhalf"] / fwhm
    if "sersic" in column:
        by["n"] = column["sersic"]
    return by


def pooled(samples):
    """Several samples of the same parameters as one."""
    first = samples[0]
    if any(s.names != first.names or set(s.by) != set(first.by) for s in samples):
        raise InputError("runs of different parameters cannot be pooled")
    total = {k: sum(getattr(s, k) for s in samples) for k in COUNTS}
    weight = {k: sum(getattr(s, k) * s.fits for s in samples) for k in ("gradients", "seconds")}
    return Sample(
        first.names,
        np.concatenate([s.rank for s in samples]),
        np.concatenate([s.pull for s in samples]),
        {k: np.concatenate([s.by[k] for s in samples]) for k in first.by},
        **total,
        **{k: v / max(total["fits"], 1) for k, v in weight.items()},
    )


def parameter_rows(sample):
    """Per parameter: number, p, coverages in per cent, bias and its error, rms of the pulls."""
    rows = []
    for k, name in enumerate(sample.names):
        sound = np.isfinite(sample.rank[:, k])
        rank, pull = sample.rank[sound, k : k + 1], sample.pull[sound, k : k + 1]
        mean, error = bias(pull)
        rows.append(
            [name, len(rank), float(uniformity(rank)[0]),
             *(f"{100 * coverage(rank, s)[0]:.1f}" for s in SHARES),
             f"{mean[0]:+.3f} +- {error[0]:.3f}", f"{np.sqrt((pull**2).mean()):.3f}"]
        )  # fmt: skip
    return rows


PARAMETER_HEADER = ("parameter", "number", "p (uniform)", "50 %", "68 %", "95 %", "bias [sigma]",
                    "rms [sigma]")  # fmt: skip


def least_p(sample):
    """Smallest p value after correction."""
    p = [uniformity(c[np.isfinite(c)][:, None])[0] for c in sample.rank.T]
    return corrected(p)


def bins_of(sample, name):
    """(low, high, rows) of the bins of a measured quantity that have enough sources."""
    values, edges = sample.by[name], EDGES[name]
    out = []
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        keep = (values >= low) & (values < high)
        if keep.sum() >= LEAST:
            out.append((low, high, keep))
    return out


def bin_rows(sample, name):
    """Per bin: range, number, then 68 % coverage and bias of every parameter."""
    rows = []
    for low, high, keep in bins_of(sample, name):
        rank, pull = sample.rank[keep], sample.pull[keep]
        cells = [
            f"{100 * coverage(r[np.isfinite(r)][:, None], 0.68)[0]:.0f} / "
            f"{p[np.isfinite(p)].mean():+.2f}"
            for r, p in zip(rank.T, pull.T, strict=True)
        ]  # fmt: skip
        text = (
            f"< {high:g}" if low == 0 else f"> {low:g}" if np.isinf(high) else f"{low:g}-{high:g}"
        )
        error = 100 * coverage_error(0.68, keep.sum())
        rows.append([text, int(keep.sum()), f"{error:.1f} / {keep.sum() ** -0.5:.2f}", *cells])
    return rows


def bin_header(sample, name):
    """Header of `bin_rows`."""
    return (name, "number", "expected error", *sample.names)
