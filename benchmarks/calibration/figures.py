"""Rank histograms, and coverage and bias against what was measured."""

import numpy as np

from calibration.ranks import BINS, band, bias, coverage, coverage_error
from calibration.tables import bins_of


def _pyplot():
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    return plt


def rank_figure(sample, path, title=""):
    """Rank histograms with the range in which 99 % of the bins of uniform ranks lie."""
    plt = _pyplot()
    across = 4
    down = -(-len(sample.names) // across)
    fig, axes = plt.subplots(down, across, figsize=(9.5, 1.9 * down + 0.5), squeeze=False)
    for axis, name, column in zip(axes.flat, sample.names, sample.rank.T, strict=False):
        column = column[np.isfinite(column)]
        axis.axhspan(*band(len(column)), color="0.88")
        axis.axhline(len(column) / BINS, color="0.6", lw=0.8)
        axis.hist(column, BINS, range=(0.0, 1.0), color="C0", alpha=0.8)
        axis.set_title(name, fontsize=9)
        axis.set_xlim(0, 1)
        axis.set_ylim(0, max(1.9 * len(column) / BINS, 1.05 * np.histogram(column, BINS)[0].max()))
        axis.tick_params(labelsize=7)
    for axis in axes.flat[len(sample.names) :]:
        axis.set_visible(False)
    fig.supxlabel("share of the draws below the truth", fontsize=9)
    fig.supylabel("sources", fontsize=9)
    fig.suptitle(title, fontsize=9)
    fig.tight_layout()
    fig.savefig(path, dpi=100)
    plt.close(fig)


def trend_figure(sample, path, title=""):
    """68 % coverage (top) and bias (bottom) in bins of what was measured, for all parameters."""
    plt = _pyplot()
    shown = [name for name in sample.by if len(bins_of(sample, name)) > 1]
    if not shown:
        return
    fig, axes = plt.subplots(
        2, len(shown), figsize=(3.3 * len(shown) + 1.6, 5.2), sharey="row", squeeze=False
    )
    for (top, low), name in zip(axes.T, shown, strict=True):
        found = bins_of(sample, name)
        number = np.array([keep.sum() for *_, keep in found])
        at = np.arange(len(found))
        error = np.array([coverage_error(0.68, n) for n in number])
        edge = np.repeat(at, 2) + np.tile([-0.5, 0.5], len(at))
        top.fill_between(
            edge, *(np.repeat(100 * (0.68 + s * 2.6 * error), 2) for s in (-1, 1)), color="0.9"
        )
        low.fill_between(
            edge, *(np.repeat(s * 2.6 * number**-0.5, 2) for s in (-1, 1)), color="0.9"
        )
        top.axhline(68, color="0.6", lw=0.8)
        low.axhline(0, color="0.6", lw=0.8)
        for k, parameter in enumerate(sample.names):
            shift = 0.7 * ((k + 0.5) / len(sample.names) - 0.5)
            rank = [sample.rank[keep, k] for *_, keep in found]
            pull = [sample.pull[keep, k] for *_, keep in found]
            rank, pull = ([c[np.isfinite(c)][:, None] for c in a] for a in (rank, pull))
            style = {"marker": "o", "ms": 4, "ls": "", "color": f"C{k}", "label": parameter}
            top.plot(at + shift, [100 * coverage(c, 0.68)[0] for c in rank], **style)
            low.plot(at + shift, [bias(c)[0][0] for c in pull], **style)
        labels = [
            f"< {b:g}" if a == 0 else f"> {a:g}" if np.isinf(b) else f"{a:g}-{b:g}"
            for a, b, _ in found
        ]
        low.set_xticks(at, labels, fontsize=7, rotation=30)
        top.set_xticks(at, [])
        low.set_xlabel(f"measured {name}" if "distance" not in name else name, fontsize=9)
    axes[0, 0].set_ylabel("68 % interval covers [%]", fontsize=9)
    axes[1, 0].set_ylabel("bias [sigma]", fontsize=9)
    axes[0, -1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.0), frameon=False)
    fig.suptitle(title + "; grey: 99 % of the points of exact errors", fontsize=9)
    fig.tight_layout()
    fig.savefig(path, dpi=100)
    plt.close(fig)
