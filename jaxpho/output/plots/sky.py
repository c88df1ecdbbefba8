"""The field of a run: its sources and patches on the sky."""

from __future__ import annotations

import numpy as np

from jaxpho.output.plots.seam import INK, Circle, Figure, PatchCollection, new_figure

MOST_NUMBERS = 60
"""Patches that are numbered on the map."""


def plot_patches(table, circles: dict[int, tuple[float, float, float]]) -> Figure:
    """Sources, flagged ones in another colour, and the circles of patches; North up, East left.

    Parameters
    ----------
    table : catalogue with ra, dec [deg] and flags.
    circles : number of a patch -> (ra, dec [deg], radius [arcsec]), of
        `jaxpho.output.patchmap.patch_circles`.
    """
    ra, dec = (np.asarray(table[name], float) for name in ("ra", "dec"))
    at = np.array([[c[0], c[1]] for c in circles.values()]).reshape(-1, 2)
    every = np.concatenate([np.column_stack([ra, dec]), at])
    every = every[np.isfinite(every).all(1)]
    ra0, dec0 = every[0] if len(every) else (0.0, 0.0)
    dec0 = float(np.median(every[:, 1])) if len(every) else dec0

    def place(a, d):
        """East and North of the middle, arcmin."""
        east = ((np.asarray(a) - ra0 + 180.0) % 360.0 - 180.0) * np.cos(np.deg2rad(dec0))
        return 60.0 * east, 60.0 * (np.asarray(d) - dec0)

    figure = new_figure(6.8, 6.2)
    axis = figure.subplots()
    shapes = [
        Circle([float(v) for v in place(a, d)], radius / 60.0) for a, d, radius in circles.values()
    ]
    axis.add_collection(
        PatchCollection(shapes, facecolor=(0.12, 0.37, 0.66, 0.07), edgecolor=INK[0], lw=0.7)
    )
    if len(circles) <= MOST_NUMBERS:
        for number, (a, d, radius) in circles.items():
            x, y = place(a, d)
            axis.annotate(str(number), (float(x), float(y) + radius / 60.0), fontsize=7,
                          color=INK[0], ha="center", va="bottom")  # fmt: skip
    bad = np.asarray(table["flags"]) != 0
    x, y = place(ra, dec)
    size = 5 if len(table) < 500 else 2
    for chosen, color, label in ((~bad, "#222222", "no flags"), (bad, INK[1], "flagged")):
        if chosen.any():
            axis.plot(x[chosen], y[chosen], "o", ms=size, mec="none", color=color,
                      label=f"{label} ({chosen.sum()})")  # fmt: skip
    axis.autoscale_view()
    axis.set_aspect("equal")
    axis.invert_xaxis()
    axis.set(xlabel=f"East of {ra0:.5f} deg [arcmin]", ylabel=f"North of {dec0:.5f} deg [arcmin]")
    axis.set_title(f"{len(table)} sources in {len(circles)} patches", fontsize=11)
    axis.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
    return figure
