"""The catalogue of a run as columns for the pages."""

from __future__ import annotations

import re

import numpy as np
from astropy.table import Table

from jaxpho.output.photometry import magnitude_factor
from jaxpho.report.jsdata import rounded_all

_HIDDEN = re.compile(r"_(mean|p16|p50|p84)$|^flux_cov$|^radec_cov$")
_FIRST = ("id", "type", "ra", "dec")
_POSITIONS = {"ra": 11, "dec": 11}
ERROR_IN_MAG = 2.5 / np.log(10.0)


def catalog_data(table: Table) -> dict:
    """Columns with name, unit, meaning, kind and values, and which of them are shown at first.

    Quantiles are left out (the pages compute them from draws); AB magnitudes are added.
    """
    bands = [b for b in str(table.meta.get("BANDS", "")).split(",") if b]
    columns = [_column(table, name) for name in table.colnames
               if not _HIDDEN.search(name) and np.ndim(table[name]) == 1]  # fmt: skip
    columns += _magnitudes(table, bands)
    names = [c["name"] for c in columns]
    shown = [*_FIRST, *(f"mag_{b}" for b in bands), *(f"flux_{b}" for b in bands)]
    shown = shown[: 4 + (2 if len(bands) < 3 else 1) * len(bands)]
    shown += ["rhalf", "sersic", "q", "pa", "rhalf_disk", "chi2", "npix", "flag_names", "patch"]
    return {
        "bands": bands, "unit": str(table.meta.get("FLUXUNIT", "")), "rows": len(table),
        "columns": columns, "shown": [name for name in shown if name in names],
    }  # fmt: skip


def _column(table: Table, name: str) -> dict:
    column = table[name]
    out = {"name": name, "unit": "" if column.unit is None else str(column.unit)}
    out["meaning"] = str(column.description or "")
    kind = column.dtype.kind
    if kind in "US":
        values = [v.decode() if isinstance(v, bytes) else str(v) for v in column.tolist()]
        return out | {"kind": "text", "values": values}
    if kind in "iub":
        return out | {"kind": "whole", "values": [int(v) for v in column.tolist()]}
    values = np.ma.filled(np.ma.asarray(column), np.nan)
    return out | {"kind": "number", "values": rounded_all(values, _POSITIONS.get(name, 6))}


def _magnitudes(table: Table, bands) -> list[dict]:
    factor = magnitude_factor(str(table.meta.get("FLUXUNIT", "")))
    out = []
    for band in bands if factor is not None else ():
        if f"mag_{band}" in table.colnames or f"flux_{band}" not in table.colnames:
            continue
        flux = np.asarray(table[f"flux_{band}"], float)
        with np.errstate(all="ignore"):
            mag = 31.4 - 2.5 * np.log10(np.where(flux > 0, factor * flux, np.nan))
        meaning = f"AB magnitude of flux_{band}"
        entry = {"unit": "mag", "kind": "number"}
        out.append(entry | {"name": f"mag_{band}", "meaning": meaning,
                            "values": rounded_all(mag)})  # fmt: skip
        if f"flux_{band}_err" in table.colnames:
            with np.errstate(all="ignore"):
                error = ERROR_IN_MAG * np.asarray(table[f"flux_{band}_err"], float) / flux
            error = np.where(np.isfinite(mag), error, np.nan)
            out.append(entry | {"name": f"mag_{band}_err", "values": rounded_all(error, 4),
                                "meaning": f"1 sigma of mag_{band}"})  # fmt: skip
    return out


def truth_data(table: Table, truth: Table | None) -> dict | None:
    """Row of the catalogue -> true values by column, of the sources that a table of truth has."""
    if truth is None or "id" not in truth.colnames:
        return None
    rows = {str(name): i for i, name in enumerate(truth["id"])}
    names = [
        n
        for n in truth.colnames
        if n in table.colnames and n not in ("id", "type") and truth[n].dtype.kind in "fiu"
    ]
    out = {}
    for i, name in enumerate(table["id"]):
        k = rows.get(str(name))
        if k is not None:
            digits = [_POSITIONS.get(n, 7) for n in names]
            values = [rounded_all(truth[n][k], d)[0] for n, d in zip(names, digits, strict=True)]
            out[str(i)] = values
    return {"names": names, "rows": out}
