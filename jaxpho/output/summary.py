"""A fit as a short table for reading and as named arrays of draws."""

from __future__ import annotations

import numpy as np
from astropy.table import Table

from jaxpho.core.sources import base_name
from jaxpho.fit.result import PatchResult
from jaxpho.output.derived import (
    Estimate,
    SourceView,
    ellipse_from_e,
    parameter,
    shape,
    total_fluxes,
)
from jaxpho.output.derived import summarise as estimate
from jaxpho.output.inference import named_draws

_OFFSETS = {"ra": "ra offset", "dec": "dec offset"}
_UNITS = {"rhalf": "arcsec", "rhalf_major": "arcsec", "pa": "deg", "offset_ra": "arcsec",
          "offset_dec": "arcsec"}  # fmt: skip
_QUANTILES = ("p16", "p50", "p84")
MEANINGS = {
    "source": "id of the source, or name of the exposure of a nuisance",
    "quantity": "as in the catalogue; ra and dec offset: from the position given, East and North",
    "band": "empty where all bands share the quantity",
    "value": "at the maximum of the posterior",
    "error": "1 sigma: posterior standard deviation with draws, else Laplace",
    "p16": "16 % posterior quantile",
    "p50": "posterior median",
    "p84": "84 % posterior quantile",
    "unit": "unit of value, error and quantiles",
}


def summary_table(result: PatchResult) -> Table:
    """One row per quantity of every source: value, error, quantiles and unit.

    Parameters
    ----------
    result : PatchResult

    Returns
    -------
    Table
        Columns of `MEANINGS`; quantiles only where there are draws. Parameters that are held
        have error 0.
    """
    rows = []
    for s, name in enumerate(result.source_ids):
        rows += [(str(name), *row) for row in _of_source(result, s)]
    rows += _of_exposures(result)
    columns = {
        "source": [row[0] for row in rows],
        "quantity": [row[1] for row in rows],
        "band": [row[2] for row in rows],
        "value": np.array([row[3].value for row in rows], float),
        "error": np.array([row[3].error for row in rows], float),
    }
    if result.samples is not None:
        for key in _QUANTILES:
            columns[key] = np.array([getattr(row[3], key) for row in rows], float)
    columns["unit"] = [row[4] for row in rows]
    table = Table(columns)
    for key in table.colnames:
        table[key].description = MEANINGS[key]
        if table[key].dtype.kind == "f":
            table[key].format = ".3g" if key == "error" else ".5g"
    return table


def _of_source(result: PatchResult, s: int):
    """(quantity, band, Estimate, unit) of one source."""
    view = SourceView(result, s)
    fluxes, names = total_fluxes(view), view.flux_names()
    for b, band in enumerate(result.bands):
        drawn = None if view.draws is None else sum(view.drawn(name, band) for name in names)
        error = float(np.sqrt(max(fluxes.covariance[b, b], 0.0)))
        yield "flux", band, estimate(float(fluxes.value[b]), error, drawn), result.unit
        for name in names if len(names) > 1 else ():
            yield name, band, parameter(view, name, band), result.unit
    for suffix in view.suffixes():
        found = shape(view, suffix)
        for key in ("rhalf", "rhalf_major", "sersic", "q", "pa"):
            if key + suffix in found:
                yield key + suffix, "", found[key + suffix], _UNITS.get(key, "")
    for key, quantity in _OFFSETS.items():
        column = result.index(s, key)
        if column is not None:
            zero = 0.0 if result.start is None else float(result.start[column])
            yield quantity, "", _shifted(parameter(view, key), zero), "arcsec"


def _shifted(found: Estimate, zero: float) -> Estimate:
    moved = {key: getattr(found, key) - zero for key in ("value", "mean", *_QUANTILES)}
    return found._replace(**moved)


def _of_exposures(result: PatchResult):
    """Rows of the nuisances of exposures."""
    out = []
    for column, (owner, name, _) in enumerate(result.labels):
        if not isinstance(owner, int):
            drawn = None if result.samples is None else result.samples[..., column].ravel()
            error = float(np.sqrt(max(result.covariance[column, column], 0.0)))
            found = estimate(float(result.theta[column]), error, drawn)
            unit = result.unit if name.startswith("sky") else _UNITS.get(name, "")
            out.append((str(owner[1]), name, "", found, unit))
    return out


def draws_by_name(result: PatchResult) -> dict[str, np.ndarray]:
    """Draws of all free parameters, and of axis ratios and position angles.

    Parameters
    ----------
    result : PatchResult
        With draws.

    Returns
    -------
    dict
        Name -> [chain, draw, source], fluxes [chain, draw, source, band], nuisances of exposures
        [chain, draw, exposure]; NaN where a source has no such free parameter. `ra` and `dec`
        are offsets in arcsec from ``result.reference``, `pa` is in degrees East of North.

    Raises
    ------
    InputError
        Without draws.
    """
    out = named_draws(result)
    for name in [name for name in out if base_name(name) == "e1"]:
        suffix = name[len("e1") :]
        e1, e2 = out[name], out["e2" + suffix]
        out["q" + suffix], out["pa" + suffix] = ellipse_from_e(e1, e2)
    return out
