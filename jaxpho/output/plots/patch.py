"""Data, model and residual of a fitted patch, with its sources."""

from __future__ import annotations

import numpy as np

from jaxpho.files import ascii_text
from jaxpho.fit.result import PatchResult
from jaxpho.output.derived import SourceView, ellipse_from_e, sky_position
from jaxpho.output.plots.seam import (
    COLORS,
    MASKED,
    Figure,
    asinh_norm,
    halo,
    new_figure,
    write_figure,
)

SOFTENING = 3.0  # the asinh stretch is linear below this many sigma
CHI_LIMIT = 5.0  # the residual panel shows -5 to 5 sigma
_PANEL = 2.9  # inches


def chosen_exposures(result: PatchResult, per_band: int = 2) -> list[int]:
    """Indices of the exposures to show: per band those with most signal-carrying pixels."""
    chosen = []
    for band in result.bands:
        members = [e for e, b in enumerate(result.exposure_bands) if b == band]
        members = [e for e in members if result.exposures[e] in result.pixels]
        weight = {e: float(np.sum(result.pixels[result.exposures[e]]["ierr"] > 0)) for e in members}
        best = sorted(members, key=lambda e: -weight[e])[:per_band]
        chosen += sorted(best)
    return chosen


def stamp(pixels: dict) -> tuple[dict[str, np.ndarray], tuple[int, int]]:
    """Images data, model, chi [ny, nx] of a list of pixels, NaN where masked; and (x0, y0)."""
    x, y = np.asarray(pixels["x"], int), np.asarray(pixels["y"], int)
    x0, y0 = int(x.min()), int(y.min())
    shape = (int(y.max()) - y0 + 1, int(x.max()) - x0 + 1)
    good = np.asarray(pixels["ierr"]) > 0
    data, model = (np.asarray(pixels[k], float) for k in ("data", "model"))
    out = {}
    for key, values in (
        ("data", np.where(good, data, np.nan)),
        ("model", model),
        ("chi", np.where(good, (data - model) * np.asarray(pixels["ierr"], float), np.nan)),
        ("sigma", np.where(good, 1 / np.where(good, pixels["ierr"], 1), np.nan)),
    ):
        out[key] = np.full(shape, np.nan)
        out[key][y - y0, x - x0] = values
    return out, (x0, y0)


def stretch(image: dict[str, np.ndarray]):
    """The asinh stretch shared by data and model: linear in the noise, logarithmic above."""
    sigma = float(np.nanmedian(image["sigma"])) if np.isfinite(image["sigma"]).any() else 1.0
    peak = max(
        (float(np.nanmax(image[k])) for k in ("data", "model") if np.isfinite(image[k]).any()),
        default=sigma,
    )
    return asinh_norm(SOFTENING * sigma, -3.0 * sigma, max(peak, 5.0 * sigma))


def plot_patch(result: PatchResult, wcs: dict | None = None, per_band: int = 2) -> Figure:
    """Data, model and residual/sigma of a patch, one row per exposure.

    Data and model of a row share one asinh stretch. Sources are marked with their half-light
    ellipse and id when the WCS is known.

    Parameters
    ----------
    result : PatchResult
    wcs : exposure name -> WCS (`world_to_pixel_values`), or None: no marks.
    per_band : exposures shown per band.
    """
    chosen = chosen_exposures(result, per_band)
    rows = [(e, *stamp(result.pixels[result.exposures[e]])) for e in chosen]
    if not rows:
        figure = new_figure(4, 1.5)
        figure.text(0.5, 0.5, f"patch {result.patch_id}: no pixels", ha="center", va="center")
        return figure
    aspects = [image["data"].shape[0] / image["data"].shape[1] for _, image, _ in rows]
    heights = [_PANEL * min(max(a, 0.45), 1.6) + 0.1 for a in aspects]
    figure = new_figure(3 * _PANEL + 2.6, sum(heights) + 0.9)
    axes = figure.subplots(len(rows), 3, squeeze=False, height_ratios=heights)
    for row, (e, image, corner) in zip(axes, rows, strict=True):
        _draw_row(figure, row, result, e, image, corner, (wcs or {}).get(result.exposures[e]))
    titles = ("data", "model", "(data - model) / sigma")
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=11)
    figure.suptitle(_headline(result), fontsize=11)
    return figure


def write_patch_plot(path, result: PatchResult, wcs: dict | None = None, per_band: int = 2) -> None:
    """Draw `plot_patch` and write it as PNG, atomically."""
    write_figure(path, plot_patch(result, wcs, per_band))


def _headline(result: PatchResult) -> str:
    count = len(result.source_ids)
    chi2, npix = float(np.sum(result.chi2)), int(np.sum(result.npix))
    text = f"patch {result.patch_id}: {count} source{'s' * (count != 1)}"
    if npix:
        text += f", chi2 = {chi2:.0f} for {npix} pixels"
    hidden = len(result.exposures) - len(chosen_exposures(result, 10**9))
    return text + (f", {hidden} exposures without pixels" if hidden else "")


def _draw_row(figure, row, result, e, image, corner, wcs):
    ny, nx = image["data"].shape
    x0, y0 = corner
    extent = (x0 - 0.5, x0 + nx - 0.5, y0 - 0.5, y0 + ny - 0.5)
    norm = stretch(image)
    common = {"origin": "lower", "extent": extent, "interpolation": "nearest"}
    shown = None
    for axis, key in zip(row[:2], ("data", "model"), strict=True):
        axis.set_facecolor(MASKED)
        shown = axis.imshow(image[key], cmap="magma", norm=norm, **common)
    bar = figure.colorbar(shown, ax=row[1], fraction=0.05, pad=0.02)
    bar.set_ticks(_ticks(norm))
    bar.ax.tick_params(labelsize=8)
    bar.ax.minorticks_off()
    bar.set_label(f"{result.unit} / pixel", fontsize=8, parse_math=False)
    row[2].set_facecolor(MASKED)
    shown = row[2].imshow(image["chi"], cmap="RdBu_r", vmin=-CHI_LIMIT, vmax=CHI_LIMIT, **common)
    figure.colorbar(shown, ax=row[2], fraction=0.05, pad=0.02).ax.tick_params(labelsize=8)
    spread = float(np.nanstd(image["chi"])) if np.isfinite(image["chi"]).any() else np.nan
    row[2].text(
        0.03, 0.97, f"std {spread:.2f}", transform=row[2].transAxes, fontsize=8, va="top",
        bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1.5},
    )  # fmt: skip
    name = result.exposures[e]
    band = result.exposure_bands[e]
    label = band if name == band else f"{band}   {_short(name)}"
    row[0].set_ylabel(label, fontsize=9, parse_math=False)
    for axis in row:
        axis.tick_params(labelsize=8)
        axis.locator_params(nbins=5)
        axis.set_xlim(extent[:2])
        axis.set_ylim(extent[2:])
    if wcs is not None:
        _mark_sources(row, result, wcs, extent)
        _mark_compass(row[0], wcs, extent)


def _short(name: str) -> str:
    """A name that fits into a picture, on one line."""
    name = ascii_text(name)
    return name if len(name) <= 34 else name[:16] + "..." + name[-15:]


def _ticks(norm) -> list[float]:
    """Round values at about equal steps of the stretch, from 0 to the maximum."""
    low, high = np.arcsinh(0.0), float(norm._trf.transform([norm.vmax])[0])
    ticks = [0.0]
    for t in np.linspace(low, high, 6)[1:]:
        value = float(norm._trf.inverted().transform([t])[0])
        power = 10 ** np.floor(np.log10(value))
        value = float(np.round(value / power) * power)
        if value <= norm.vmax and value > ticks[-1]:
            ticks.append(value)
    return ticks


def source_outlines(result: PatchResult, s: int, wcs) -> tuple[tuple, list[np.ndarray]]:
    """Pixel position of a source, and the half-light ellipse [n, 2] of each of its components."""
    view = SourceView(result, s)
    dra, ddec = (0.0 if not view.has(k) else view.value(k) for k in ("ra", "dec"))
    ra, dec = sky_position(result.reference, dra, ddec)
    center = tuple(float(v) for v in wcs.world_to_pixel_values(ra, dec))
    outlines = []
    t = np.linspace(0, 2 * np.pi, 73)
    for suffix in view.suffixes():
        names = ("rhalf", "e1", "e2")
        rhalf, e1, e2 = (view.value(key + suffix) for key in names)
        q, pa = ellipse_from_e(np.nan_to_num(e1), np.nan_to_num(e2))
        major, minor, angle = rhalf / np.sqrt(q), rhalf * np.sqrt(q), np.deg2rad(pa)
        # East of North: the major axis points along (East, North) = (sin pa, cos pa)
        east = major * np.cos(t) * np.sin(angle) + minor * np.sin(t) * np.cos(angle)
        north = major * np.cos(t) * np.cos(angle) - minor * np.sin(t) * np.sin(angle)
        edge = sky_position(result.reference, dra + east, ddec + north)
        outlines.append(np.column_stack(wcs.world_to_pixel_values(*edge)))
    return center, outlines


def _mark_sources(row, result, wcs, extent):
    edge = halo()
    for s, name in enumerate(result.source_ids):
        color = COLORS[s % len(COLORS)]
        center, outlines = source_outlines(result, s, wcs)
        for axis, plain in zip(row, (False, True, True), strict=True):
            for outline in outlines:
                dark = "black" if axis is row[2] else color
                axis.plot(*outline.T, color=dark, lw=1.0, path_effects=edge[plain:])
            if not outlines:
                dark = "black" if axis is row[2] else color
                axis.plot(*center, marker="+", ms=7, mew=1.1, color=dark, path_effects=edge[plain:])
        inside = extent[0] < center[0] < extent[1] and extent[2] < center[1] < extent[3]
        if inside:
            top = max((float(o[:, 1].max()) for o in outlines), default=center[1])
            bottom = min((float(o[:, 1].min()) for o in outlines), default=center[1])
            above = top < extent[3] - 0.08 * (extent[3] - extent[2])
            gap = 3 if outlines else 6
            row[0].annotate(
                _short(str(name)), (center[0], top if above else max(bottom, extent[2])),
                xytext=(0, gap if above else -gap), textcoords="offset points", color=color,
                fontsize=8, weight="bold", ha="center", va="bottom" if above else "top",
                path_effects=edge, clip_on=True, parse_math=False,
            )  # fmt: skip


def _mark_compass(axis, wcs, extent):
    """Arrows to North and East and a bar of a round number of arcsec, in a corner."""
    width, height = extent[1] - extent[0], extent[3] - extent[2]
    ra, dec = wcs.pixel_to_world_values(extent[0] + width / 2, extent[2] + height / 2)
    base = np.array(wcs.world_to_pixel_values(ra, dec), float)
    step = 1 / 3600.0
    north = np.array(wcs.world_to_pixel_values(ra, dec + step), float) - base
    east = np.array(wcs.world_to_pixel_values(ra + step / np.cos(np.deg2rad(dec)), dec)) - base
    scale = float(np.hypot(*north))  # pixels per arcsec
    arm = 0.11 * min(width, height)
    origin = np.array([extent[0] + 0.80 * width, extent[2] + 0.20 * height])
    edge = halo()
    for vector, letter in ((north, "N"), (east, "E")):
        tip = origin + arm * vector / np.hypot(*vector)
        axis.annotate("", tip, origin, arrowprops={"arrowstyle": "->", "color": "white", "lw": 1})
        beyond = origin + 1.45 * (tip - origin)
        axis.text(*beyond, letter, color="white", fontsize=8, ha="center", va="center",
                  path_effects=edge)  # fmt: skip
    rounds = [k * 10.0**p for p in range(-2, 4) for k in (1, 2, 5)]
    length = max((r for r in rounds if r * scale <= 0.3 * width), default=rounds[0])
    x0, y0 = extent[0] + 0.06 * width, extent[2] + 0.06 * height
    axis.plot([x0, x0 + length * scale], [y0, y0], color="white", lw=2, path_effects=edge)
    axis.text(x0, y0 + 0.02 * height, f'{length:g}"', color="white", fontsize=8, va="bottom",
              path_effects=edge)  # fmt: skip
