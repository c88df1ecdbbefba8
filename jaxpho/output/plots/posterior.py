"""The posterior of a source: corner plot, traces and ranks of its draws."""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata

from jaxpho.errors import InputError
from jaxpho.fit.result import PatchResult
from jaxpho.output.derived import SourceView, sky_position
from jaxpho.output.plots.seam import INK, TRUTH, Figure, new_figure
from jaxpho.output.shown import Quantity, shown_quantities, truth_of

MOST_POINTS = 4000
LEVELS = (0.68, 0.95)
"""Of the contours: the part of the draws within."""


def plot_corner(result: PatchResult, source: int = 0, truth=None, names=None) -> Figure:
    """Histograms and pairs of the quantities of a source, with contours of 68 % and 95 %.

    Parameters
    ----------
    result : PatchResult
        With draws.
    source : index in the patch.
    truth : mapping of names of columns of the catalogue (ra, dec in deg) to true values, optional.
    names : columns to show; default fluxes, position, size, Sersic index and ellipticity.

    Raises
    ------
    InputError
        Without draws.
    """
    shown, true = _shown(result, source, names, truth)
    n = len(shown)
    figure = new_figure(1.55 * n + 0.9, 1.55 * n + 0.7)
    axes = figure.subplots(n, n, squeeze=False)
    for i, below in enumerate(shown):
        for j, left in enumerate(shown):
            axis = axes[i, j]
            if j > i:
                axis.set_axis_off()
                continue
            if i == j:
                axis.hist(left.draws.ravel(), 30, color=INK[0], alpha=0.75)
                axis.set_yticks([])
                axis.set_title(_interval(left), fontsize=8, parse_math=False)
            else:
                _pair(axis, left.draws.ravel(), below.draws.ravel())
                axis.axhline(below.value, color="0.45", lw=0.7)
                if below.name in true:
                    axis.axhline(true[below.name], color=TRUTH, lw=1)
            axis.axvline(left.value, color="0.45", lw=0.7)
            if left.name in true:
                axis.axvline(true[left.name], color=TRUTH, lw=1)
            axis.locator_params(nbins=3)
            axis.tick_params(labelsize=7, labelbottom=i == n - 1, labelleft=j == 0 < i)
            if i == n - 1:
                axis.set_xlabel(left.label, fontsize=8, parse_math=False)
            if j == 0 < i:
                axis.set_ylabel(below.label, fontsize=8, parse_math=False)
    text = f"source {result.source_ids[source]}; grey: optimum" + ("; red: truth" if true else "")
    figure.suptitle(text, fontsize=10, parse_math=False)
    return figure


def plot_traces(result: PatchResult, source: int = 0, names=None) -> Figure:
    """Draws of the quantities of a source in their order, one line per chain."""
    shown, _ = _shown(result, source, names)
    figure = new_figure(9, 1.1 * len(shown) + 0.7)
    axes = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    for axis, quantity in zip(axes, shown, strict=True):
        for k, chain in enumerate(quantity.draws):
            axis.plot(chain, lw=0.6, color=INK[k % len(INK)])
        axis.set_ylabel(quantity.label, rotation=0, ha="right", va="center", fontsize=8,
                        parse_math=False)  # fmt: skip
        axis.tick_params(labelsize=7)
        axis.locator_params(axis="y", nbins=3)
        axis.margins(x=0)
    diverging = result.statistics.get("diverging")
    if diverging is not None and np.any(diverging):
        for at in np.flatnonzero(np.any(diverging, axis=0)):
            axes[-1].axvline(at, ymax=0.12, color=TRUTH, lw=0.8)
    axes[-1].set_xlabel("draw" + ("; red: divergent" if np.any(diverging) else ""))
    figure.suptitle(f"source {result.source_ids[source]}", fontsize=10, parse_math=False)
    return figure


def plot_ranks(result: PatchResult, source: int = 0, names=None, bins: int = 12) -> Figure:
    """Histograms of the ranks of each chain's draws among all: flat where the chains agree.

    Source: Vehtari, Gelman, Simpson, Carpenter & Buerkner (2021, Bayesian Analysis 16, 667).
    """
    shown, _ = _shown(result, source, names)
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    figure = new_figure(3.3 * columns, 1.9 * rows + 0.5)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, quantity in zip(axes, shown, strict=False):
        nchain, ndraw = quantity.draws.shape
        edges = np.linspace(0, nchain * ndraw, bins + 1)
        expected, low = ndraw / bins, np.sqrt(ndraw / bins * (1 - 1 / bins))
        axis.axhspan(expected - 2 * low, expected + 2 * low, color="0.93")
        axis.axhline(expected, color="0.6", lw=0.8)
        for k, ranks in enumerate(ranks_of(quantity.draws)):
            count, _ = np.histogram(ranks - 0.5, edges)
            axis.stairs(count, edges, color=INK[k % len(INK)], lw=1.2)
        axis.set_title(quantity.label, fontsize=9, parse_math=False)
        axis.tick_params(labelsize=7)
    for axis in axes[len(shown) :]:
        axis.set_axis_off()
    figure.suptitle(f"source {result.source_ids[source]}: ranks of each chain among all draws; "
                    "grey: 2 sigma of independent draws", fontsize=9, parse_math=False)  # fmt: skip
    return figure


def ranks_of(draws: np.ndarray) -> np.ndarray:
    """Ranks [chain, draw] among all draws of all chains, 1 for the lowest."""
    return rankdata(draws, axis=None).reshape(draws.shape)


def contour_levels(density: np.ndarray, parts=LEVELS) -> list[float]:
    """Heights of a histogram above which lie these parts of it, ascending."""
    order = np.sort(density.ravel())[::-1]
    inside = np.cumsum(order) / order.sum()
    return sorted(float(order[min(np.searchsorted(inside, p), len(order) - 1)]) for p in parts)


def _shown(result, source, names, truth=None) -> tuple[list[Quantity], dict]:
    view = SourceView(result, source)
    if view.draws is None:
        raise InputError(f"patch {result.patch_id} has no draws (sample.method: none): no picture")
    found = shown_quantities(view, names)
    if not found:
        raise InputError(
            f"source {result.source_ids[source]}: none of the quantities has draws that differ"
        )
    if truth is None:
        return found, {}
    place = sky_position(result.reference, view.value("ra"), view.value("dec"))
    return found, truth_of(truth, found, *map(float, place))


def _interval(quantity: Quantity) -> str:
    low, middle, high = np.percentile(quantity.draws, [15.865525, 50.0, 84.134475])
    digits = max(0, 1 - int(np.floor(np.log10(max(high - low, 1e-300) / 2))))
    if digits > 6:
        return f"{middle:.4g}"
    return f"{middle:.{digits}f} (+{high - middle:.{digits}f} -{middle - low:.{digits}f})"


def _pair(axis, x, y) -> None:
    some = slice(None, None, max(1, len(x) // MOST_POINTS))
    axis.plot(x[some], y[some], ".", ms=1.2, color=INK[0], alpha=0.25, rasterized=True)
    density, ex, ey = np.histogram2d(x, y, 22)
    smooth = _smoothed(density)
    levels = contour_levels(smooth)
    if levels[0] < levels[-1]:
        axis.contour(0.5 * (ex[1:] + ex[:-1]), 0.5 * (ey[1:] + ey[:-1]), smooth.T, levels[::-1]
                     if levels[0] > levels[-1] else levels, colors="#12345c",
                     linewidths=0.8)  # fmt: skip


def _smoothed(image: np.ndarray) -> np.ndarray:
    """By a kernel of 1, 2, 1 in both directions, twice; the outermost cells are taken as empty."""
    for _ in range(2):
        for axis in (0, 1):
            wide = np.pad(image, [(1, 1) if k == axis else (0, 0) for k in (0, 1)])
            parts = [np.take(wide, range(k, k + image.shape[axis]), axis) for k in range(3)]
            image = 0.25 * parts[0] + 0.5 * parts[1] + 0.25 * parts[2]
    return image
