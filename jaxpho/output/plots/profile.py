"""Radial profiles: data, model, and the PSF beside them."""

from __future__ import annotations

import numpy as np

from jaxpho.fit.result import PatchResult
from jaxpho.output.plots.patch import chosen_exposures
from jaxpho.output.plots.seam import INK, TRUTH, Figure, new_figure
from jaxpho.output.profiles import radial_profile, shapes_of


def plot_profile(
    result: PatchResult, source: int = 0, psf: dict | None = None, per_band: int = 1
) -> Figure:
    """Mean brightness of a source over elliptical rings, one panel per exposure.

    Points are data with their errors, lines the model, dashes the PSF with the same centre, the
    vertical line the half-light radius; residuals over their errors stand below.

    Parameters
    ----------
    result : PatchResult
        With pixels and astrometry (`jaxpho.output.profiles.attach_pixels`).
    source : index in the patch.
    psf : exposure name -> PSFModel, optional.
    per_band : exposures shown per band.
    """
    chosen = [result.exposures[e] for e in chosen_exposures(result, per_band)]
    found = {n: radial_profile(result, source, n, (psf or {}).get(n)) for n in chosen}
    found = {n: p for n, p in found.items() if p is not None and np.isfinite(p.data).any()}
    title = f"source {result.source_ids[source]}"
    if not found:
        figure = new_figure(4, 1.5)
        figure.text(0.5, 0.5, f"{title}: no pixels", ha="center", va="center", parse_math=False)
        return figure
    figure = new_figure(3.6 * len(found) + 0.8, 4.6)
    axes = figure.subplots(2, len(found), squeeze=False, height_ratios=(3, 1), sharex="col")
    sizes = [rhalf for rhalf, _, _ in shapes_of(result, source)]
    for column, (name, profile) in enumerate(found.items()):
        _draw(axes[:, column], profile, sizes)
        axes[0, column].set_title(_title(result, name), fontsize=10, parse_math=False)
    axes[0, 0].set_ylabel(f"mean brightness [{result.unit} / pixel]", parse_math=False)
    axes[1, 0].set_ylabel("residual / error")
    axes[0, -1].legend(frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=11, parse_math=False)
    return figure


def _title(result: PatchResult, name: str) -> str:
    band = result.exposure_bands[result.exposures.index(name)]
    return band if band == name else f"{band}   {name}"


def _draw(pair, profile, sizes) -> None:
    top, below = pair
    top.errorbar(profile.radius, profile.data, profile.error, fmt="o", ms=4, lw=1, color="#222222",
                 label="data", zorder=3)  # fmt: skip
    top.plot(profile.radius, profile.model, color=INK[0], lw=2, label="model")
    if np.isfinite(profile.psf).any():
        top.plot(profile.radius, profile.psf, color=INK[4], ls="--", lw=1.4, label="PSF")
    soft = float(np.nanmedian(profile.error)) * 2 or 1.0
    highest = float(np.nanmax([np.nanmax(profile.data), np.nanmax(profile.model)]))
    if highest > 0:
        top.set_yscale("symlog", linthresh=max(soft, highest * 1e-6))
    top.set_ylim(bottom=min(-soft, 1.3 * float(np.nanmin(profile.data))))
    top.axhline(0, color="0.8", lw=0.8, zorder=0)
    below.axhspan(-1, 1, color="0.92", zorder=0)
    below.axhline(0, color="0.6", lw=0.8)
    with np.errstate(all="ignore"):
        ratio = (profile.data - profile.model) / profile.error
    below.plot(profile.radius, ratio, "o", ms=4, color="#222222")
    reach = max(3.5, 1.15 * float(np.nanmax(np.abs(ratio), initial=0.0)))
    below.set(ylim=(-reach, reach), xlabel="radius [arcsec]")
    for axis in pair:
        for k, size in enumerate(sizes):
            label = "half-light radius" if axis is top and k == 0 else None
            axis.axvline(size, color=TRUTH, lw=1, ls=":", label=label)
        axis.tick_params(labelsize=8)
