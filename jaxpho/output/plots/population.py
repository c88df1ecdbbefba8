"""All sources of a catalogue: sizes and magnitudes, pulls of fluxes, flags."""

from __future__ import annotations

import numpy as np

from jaxpho.errors import InputError
from jaxpho.fit import flags as flag_registry
from jaxpho.output.photometry import magnitude_factor
from jaxpho.output.plots.seam import INK, Figure, new_figure


def plot_size_magnitude(table, band: str | None = None) -> Figure:
    """Half-light radius against magnitude, or flux where the unit has no magnitude.

    Parameters
    ----------
    table : catalogue of a run or an export.
    band : default the first.
    """
    band = _bands(table)[0] if band is None else band
    _check(table, f"flux_{band}")
    flux = np.asarray(table[f"flux_{band}"], float)
    radius = _radius(table)
    factor = magnitude_factor(str(table.meta.get("FLUXUNIT", "")))
    figure = new_figure(6.2, 4.4)
    axis = figure.subplots()
    with np.errstate(all="ignore"):
        x = (
            flux
            if factor is None
            else 31.4 - 2.5 * np.log10(np.where(flux > 0, flux * factor, np.nan))
        )
    bad = np.asarray(table["flags"]) != 0
    extended = np.isfinite(radius)
    for chosen, color, label in ((~bad, INK[0], "no flags"), (bad, INK[1], "flagged")):
        use = chosen & extended
        if use.any():
            axis.plot(x[use], radius[use], "o", ms=4, color=color, alpha=0.7, mec="none",
                      label=f"{label} ({use.sum()})")  # fmt: skip
    points = ~extended & np.isfinite(x)
    if points.any():
        axis.plot(x[points], np.full(points.sum(), 0.02), "|", ms=9, color=INK[4],
                  transform=axis.get_xaxis_transform(),
                  label=f"points ({points.sum()})")  # fmt: skip
    if extended.any():
        axis.set_yscale("log")
    if factor is None:
        axis.set_xscale("log")
        axis.set_xlabel(f"flux in {band} [{table.meta.get('FLUXUNIT', '')}]", parse_math=False)
    else:
        axis.invert_xaxis()
        axis.set_xlabel(f"AB magnitude in {band}", parse_math=False)
    axis.set_ylabel("half-light radius [arcsec]")
    axis.legend(frameon=False, fontsize=9)
    return figure


def plot_flux_pulls(table, truth, flagged: bool = False) -> Figure:
    """(flux - truth) / error of every band: against the normal distribution and against S/N.

    Parameters
    ----------
    table, truth : with columns id and flux_{band}; sources are matched by id.
    flagged : count flagged sources, too.
    """
    pulls = flux_pulls(table, truth, flagged)
    figure = new_figure(10, 4)
    left, right = figure.subplots(1, 2)
    reach = 4.0
    grid = np.linspace(-reach, reach, 201)
    left.plot(grid, np.exp(-0.5 * grid**2) / np.sqrt(2 * np.pi), color="0.2", lw=1,
              label="normal distribution")  # fmt: skip
    for k, (band, (pull, ratio)) in enumerate(pulls.items()):
        color = INK[k % len(INK)]
        text = f"{band}: {len(pull)}, mean {pull.mean():+.2f}, sd {pull.std():.2f}"
        left.hist(np.clip(pull, -reach, reach), np.linspace(-reach, reach, 21), density=True,
                  histtype="step", color=color, lw=1.6, label=text)  # fmt: skip
        right.plot(ratio, np.clip(pull, -reach, reach), "o", ms=4, alpha=0.7, mec="none",
                   color=color)  # fmt: skip
    left.set(xlabel="(flux - truth) / error", ylabel="density")
    left.legend(frameon=False, fontsize=8)
    right.axhspan(-1, 1, color="0.93", zorder=0)
    right.set(xscale="log", xlabel="flux / error", ylabel="(flux - truth) / error",
              ylim=(-1.05 * reach, 1.05 * reach))  # fmt: skip
    return figure


def flux_pulls(table, truth, flagged: bool = False) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Band -> (pulls [n], flux / error [n]) of the sources that both tables have.

    Raises
    ------
    InputError
        When the tables share no source or no band.
    """
    rows = {str(name): i for i, name in enumerate(truth["id"])}
    pairs = [(i, rows[str(name)]) for i, name in enumerate(table["id"]) if str(name) in rows]
    if not flagged:
        pairs = [(i, k) for i, k in pairs if int(table["flags"][i]) == 0]
    bands = [b for b in _bands(table) if f"flux_{b}" in truth.colnames]
    if not pairs or not bands:
        raise InputError(
            "the table of true values shares no source (id) and no flux_BAND with the catalogue"
        )
    here, there = (np.array(index) for index in zip(*pairs, strict=True))
    out = {}
    for band in bands:
        flux, error = (np.asarray(table[f"flux_{band}{e}"], float)[here] for e in ("", "_err"))
        true = np.asarray(truth[f"flux_{band}"], float)[there]
        with np.errstate(all="ignore"):
            pull, ratio = (flux - true) / error, flux / error
        good = np.isfinite(pull)
        out[band] = pull[good], ratio[good]
    return out


def plot_flags(table) -> Figure:
    """How many sources have each quality flag."""
    count = flag_counts(table["flags"])
    figure = new_figure(7, 0.32 * max(len(count), 2) + 1.0)
    axis = figure.subplots()
    names = list(count)[::-1]
    bars = axis.barh(names, [count[name] for name in names], color=INK[0])
    axis.bar_label(bars, padding=3, fontsize=9)
    clean = int(np.sum(np.asarray(table["flags"]) == 0))
    axis.set(xlabel="sources", title=f"{clean} of {len(table)} sources without flags")
    axis.margins(x=0.1)
    return figure


def flag_counts(flags) -> dict[str, int]:
    """Flag -> number of sources that have it, those with none left out."""
    flags = np.asarray(flags, np.int64)
    bits = range(int(flags.max(initial=0)).bit_length())
    out = {}
    for bit in bits:
        number = int(np.sum(flags >> bit & 1))
        if number:
            out[flag_registry.decode(1 << bit)[0]] = number
    return out


def _bands(table) -> list[str]:
    bands = [b for b in str(table.meta.get("BANDS", "")).split(",") if b]
    if not bands:
        raise InputError("the catalogue does not say its bands (header BANDS): not one of jaxpho")
    return bands


def _check(table, name: str) -> None:
    if name not in table.colnames:
        raise InputError(f"the catalogue has no column '{name}'")


def _radius(table) -> np.ndarray:
    """Of the whole, or of the larger component; NaN for points."""
    names = [f"rhalf{end}" for end in ("", "_disk", "_bulge")]
    found = [np.asarray(table[name], float) for name in names if name in table.colnames]
    return np.fmax.reduce(found) if found else np.full(len(table), np.nan)
