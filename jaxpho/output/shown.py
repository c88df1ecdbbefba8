"""The draws of a source under the names, and in the units, in which pictures show them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxpho.output.derived import SourceView
from jaxpho.output.finalrows import source_draws

_UNITS = {"rhalf": "arcsec", "rhalf_major": "arcsec", "pa": "deg"}
_FEW = ("rhalf", "sersic", "e1", "e2")


class Quantity(NamedTuple):
    """Draws of one quantity.

    Attributes
    ----------
    name : of the column of the catalogue; of positions "ra" and "dec", as offsets.
    unit : of the numbers here.
    draws : [chain, draw]
    value : at the optimum.
    """

    name: str
    unit: str
    draws: np.ndarray
    value: float

    @property
    def label(self) -> str:
        """Name and unit on one line."""
        name = f"{self.name} offset" if self.name in ("ra", "dec") else self.name
        return f"{name} [{self.unit}]" if self.unit else name


def shown_quantities(view: SourceView, names=None) -> list[Quantity]:
    """The quantities of a source that move: fluxes, position, size, index, ellipticity.

    Parameters
    ----------
    view : SourceView
        With draws.
    names : names of columns, instead.

    Returns
    -------
    list of Quantity
        ra, dec are offsets from the optimum in mas, East and North. Without draws none.
    """
    if view.draws is None:
        return []
    drawn, value = _direct(view), _values(view)
    if names is None:
        suffixes = view.suffixes()
        names = [f"flux_{band}" for band in view.result.bands]
        names += ["ra", "dec", *(key + end for end in suffixes for key in _FEW)]
        names = [name for name in names if name in drawn]
    if not set(names) <= set(drawn):
        drawn = source_draws(view) | drawn
    out = []
    for name in names:
        draws = drawn.get(name)
        if draws is None or not np.isfinite(draws).all() or not np.ptp(draws) > 0:
            continue
        unit = _UNITS.get(name.split("_")[0] if name not in _UNITS else name, "")
        unit = view.result.unit if name.startswith("flux_") else unit
        at = value.get(name, np.nan)
        if name in ("ra", "dec"):
            draws, unit, at = 1e3 * (draws - view.value(name)), "mas", 0.0
        out.append(Quantity(name, unit, draws, float(at)))
    return out


def _direct(view: SourceView) -> dict[str, np.ndarray]:
    """Draws [chain, draw] of the parameters of a source, and of its total fluxes."""
    shape, fluxes = view.result.samples.shape[:2], view.flux_names()
    plain = [name for name in view.names if name not in fluxes]
    out = {n: view.drawn(n) for n in plain if view.result.index(view.s, n) is not None}
    for band in view.result.bands:
        if view.result.measured(view.s, band):
            out[f"flux_{band}"] = sum(view.drawn(name, band) for name in fluxes)
    return {name: np.reshape(draws, shape) for name, draws in out.items()}


def _values(view: SourceView) -> dict[str, float]:
    """Optimum of the quantities, by the name of their column."""
    names = [n for n in view.names if n not in ("ra", "dec") and not n.startswith("flux")]
    out = {name: view.value(name) for name in names}
    for band in view.result.bands:
        out[f"flux_{band}"] = sum(view.value(name, band) for name in view.flux_names())
    return out


def truth_of(row, quantities, ra: float, dec: float) -> dict[str, float]:
    """What a row of true values says, in the units of `shown_quantities`.

    Parameters
    ----------
    row : mapping of names of columns to values; those it lacks are left out.
    quantities : of the source.
    ra, dec : where offsets are from, deg.
    """
    out = {}
    for q in quantities:
        try:
            true = float(row[q.name])
        except (KeyError, TypeError, ValueError):
            continue
        if q.name == "ra":
            true = ((true - ra + 180.0) % 360.0 - 180.0) * 3.6e6 * np.cos(np.deg2rad(dec))
        elif q.name == "dec":
            true = (true - dec) * 3.6e6
        if np.isfinite(true):
            out[q.name] = true
    return out
