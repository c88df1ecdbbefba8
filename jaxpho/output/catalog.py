"""The catalogue: one row per source, units and meanings in every column, written as FITS."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.io import fits
from astropy.table import Column as TableColumn
from astropy.table import Table

from jaxpho.core.sources import AUTO, SOURCE_TYPES
from jaxpho.data.catalog import Peak
from jaxpho.errors import InputError
from jaxpho.files import ascii_text, replacing
from jaxpho.fit import flags as flag_registry
from jaxpho.fit.draws import APPROXIMATE
from jaxpho.fit.links import is_difference
from jaxpho.fit.result import PatchResult
from jaxpho.output import columns as registry
from jaxpho.output.derived import (
    Estimate,
    SourceView,
    ellipse_from_e,
    parameter,
    shape,
    sky_position,
    summarise,
    total_fluxes,
)

ARCSEC_TO_MAS = 1000.0


def rows_of_patch(result: PatchResult) -> list[dict]:
    """One row per source of a patch: column name -> value, in the units of the registry."""
    return [_row(result, s) for s in range(len(result.source_ids))]


def _row(result: PatchResult, s: int) -> dict:
    view = SourceView(result, s)
    ra, dec = sky_position(result.reference, view.value("ra"), view.value("dec"))
    row = {"id": str(result.source_ids[s]), "ra": float(ra), "dec": float(dec)}
    row["type"] = view.type
    if choice := result.choices[s]:
        row |= {f"dchi2_{kind}": value for kind, value in choice["chi2"].items()}
        row["type_margin"] = min(v for k, v in choice["score"].items() if k != choice["type"])
    for name in ("ra", "dec"):
        row[f"{name}_err"] = parameter(view, name).error * ARCSEC_TO_MAS
    if view.draws is None:
        row["radec_cov"] = view.block("ra", "dec") * ARCSEC_TO_MAS**2
    else:
        pair = np.cov(view.drawn("ra"), view.drawn("dec"), ddof=0)
        row["radec_cov"] = float(pair[0, 1]) * ARCSEC_TO_MAS**2
    fluxes = total_fluxes(view)
    row["flux_cov"] = fluxes.covariance
    names = view.flux_names()
    for b, band in enumerate(result.bands):
        variance = fluxes.covariance[b, b]
        error = float(np.sqrt(variance)) if variance >= 0 else np.nan
        draws = None
        if view.draws is not None and names:
            draws = sum(view.drawn(name, band) for name in names)
        _put(row, f"flux_{band}", summarise(float(fluxes.value[b]), error, draws))
        for name in names if len(names) > 1 else ():
            _put(row, f"flux_{part_of(name)}_{band}", parameter(view, name, band))
    _blank_unmeasured(row, result, view, s)
    for suffix in view.suffixes():
        for key, estimate in shape(view, suffix).items():
            _put(row, key, estimate)
    for name in filter(is_difference, view.names):
        for _, band in view.labels(name):
            _put(row, f"{name}_{band}" if band else name, parameter(view, name, band))
    row.update(_quality(result, view, s))
    return row


def _blank_unmeasured(row: dict, result: PatchResult, view: SourceView, s: int) -> None:
    """Free fluxes in bands where the source has no pixels are not known: NaN, in place."""
    unknown = Estimate(*[np.nan] * len(Estimate._fields))
    names = [name for name in view.flux_names() if name not in view.held]
    for b, band in enumerate(result.bands):
        if result.measured(s, band) or not names:
            continue
        _put(row, f"flux_{band}", unknown)
        for name in names if len(view.flux_names()) > 1 else ():
            _put(row, f"flux_{part_of(name)}_{band}", unknown)
        row["flux_cov"][b, :] = row["flux_cov"][:, b] = np.nan


def part_of(name: str) -> str:
    """Component named by a flux parameter: "flux_bulge" -> "bulge", "flux" -> "sersic"."""
    return name.removeprefix("flux").lstrip("_") or "sersic"


def _put(row: dict, key: str, estimate: Estimate):
    row[key] = estimate.value
    for (end, _), value in zip(registry.SPREAD, estimate[1:], strict=True):
        row[key + end] = value


_WORST = {
    "rhat_max": ("rhat", np.nanmax),
    "ess_min": ("ess", np.nanmin),
    "ess_bulk_min": ("ess_bulk", np.nanmin),
    "ess_tail_min": ("ess_tail", np.nanmin),
}
"""Columns that hold the worst of a source's parameters."""


def _source_of_errors(result: PatchResult) -> str:
    if result.samples is None:
        return "laplace"
    method = result.diagnostics.get("method", "")
    return f"{method} draws" if method in APPROXIMATE else "samples"


def _quality(result: PatchResult, view: SourceView, s: int) -> dict:
    own = [
        i
        for i, (owner, _, band) in enumerate(result.labels)
        if owner == s and result.measured(s, band)
    ]
    bounded = [_label(result.labels[i]) for i in own if result.at_bound[i]]
    mask = int(result.flags[s])
    out = {
        "flags": mask,
        "flag_names": ",".join(flag_registry.decode(mask)),
        "at_bound": ",".join(bounded),
        "fixed": ",".join(view.held),
        "chi2": float(result.source_chi2[s]),
        "p_value": float(result.source_p_value[s]),
        "residual_peak": float(result.source_residual_peak[s]),
        "npix": int(result.source_npix[s]),
        "nexp": int(result.source_nexp[s]),
        "patch": int(result.patch_id),
        "errors_from": _source_of_errors(result),
        **dict.fromkeys(_WORST, np.nan),
        "divergences": int(result.diagnostics.get("divergences", -1)),
        "ebfmi_min": float(np.min(result.diagnostics.get("ebfmi", np.nan))),
    }
    for column in ("prior_dominated", "piled_up"):
        marked = result.diagnostics.get(column)
        names = [] if marked is None else [_label(result.labels[i]) for i in own if marked[i]]
        out[column] = ",".join(names)
    for column, (key, worst) in _WORST.items():
        values = result.diagnostics.get(key)
        if values is not None and own and np.isfinite(np.asarray(values)[own]).any():
            out[column] = float(worst(np.asarray(values)[own]))
    return out


def _label(label: tuple) -> str:
    return f"{label[1]}_{label[2]}" if label[2] else label[1]


def row_of_peak(peak: Peak, bands, patch: int = -1) -> dict:
    """Row of a source that was not fitted: its catalogue values, no errors, its flags."""
    row = {"id": str(peak.id), "ra": peak.ra, "dec": peak.dec, "type": peak.type}
    if peak.auto:
        row["type"] = AUTO
    row.update({name: float(value) for name, value in peak.values.items()})
    for suffix in ("", "_disk", "_bulge"):
        if {f"e1{suffix}", f"e2{suffix}"} <= set(peak.values):
            e1, e2 = peak.values[f"e1{suffix}"], peak.values[f"e2{suffix}"]
            row[f"q{suffix}"], row[f"pa{suffix}"] = (float(x) for x in ellipse_from_e(e1, e2))
    for band in bands:
        names = SOURCE_TYPES[peak.type].fluxes
        parts = [peak.flux.get((name, band)) for name in names]
        # ("flux", band) is the total of a source whose components have no values of their own
        total = peak.flux.get(("flux", band)) if None in parts else sum(parts)
        row[f"flux_{band}"] = np.nan if total is None else float(total)
    row["flux_cov"] = np.full((len(bands), len(bands)), np.nan)
    row.update({"flags": int(peak.flags), "npix": 0, "nexp": 0, "patch": patch})
    row["flag_names"] = ",".join(flag_registry.decode(peak.flags))
    row["fixed"] = ",".join(sorted(peak.fixed))
    return row


def components_of(rows: Iterable[dict], bands) -> tuple[list[str], list[str], set[str]]:
    """Flux components, shape suffixes and names of some row, as `columns.expand` takes them."""
    keys = {key for row in rows for key in row}
    parts = [p for p in ("sersic", "disk", "bulge", "point") if f"flux_{p}_{bands[0]}" in keys]
    shapes = [suffix for suffix in ("", "_disk", "_bulge") if f"rhalf{suffix}" in keys]
    return parts, shapes, keys


def make_table(
    rows: Iterable[dict], bands, unit: str, meta: dict | None = None, columns=None
) -> Table:
    """Catalogue table of rows, in the column order of the registry.

    A value that a row lacks is NaN (numbers), -1 (whole numbers) or empty (text).

    Parameters
    ----------
    rows : from `rows_of_patch` and `row_of_peak`.
    bands, unit : band order and flux unit.
    meta : extra header cards, name -> value.
    columns : of the registry; default: those of a run's catalogue.
    """
    rows = list(rows)
    if columns is None:
        samples = any(row.get("errors_from", "laplace") != "laplace" for row in rows)
        columns = registry.expand(bands, *components_of(rows, bands), samples)
    table = Table(meta=dict(meta or {}))
    for column in columns:
        table[column.name] = _table_column(column, rows, len(bands), unit)
    table.meta["BANDS"] = ",".join(bands)
    table.meta["FLUXUNIT"] = unit
    for flag in flag_registry.FLAGS:
        table.meta[f"FLAG{flag.bit}"] = flag.name
    return table


def _table_column(column: registry.Column, rows: list[dict], nband: int, unit: str) -> TableColumn:
    units = {"flux": _unit(unit), "flux2": _unit(unit, squared=True)}
    found = units.get(column.unit) or (u.Unit(column.unit) if column.unit else None)
    if column.name == "flux_cov":
        empty = np.full((nband, nband), np.nan)
        values = np.array([row.get("flux_cov", empty) for row in rows], dtype=float)
        values = values.reshape(len(rows), nband, nband)
    elif column.kind == "str":
        values = np.array([str(row.get(column.name, "")) for row in rows], dtype=np.str_)
    elif column.kind == "i8":
        values = np.array([row.get(column.name, -1) for row in rows], dtype=np.int64)
    else:
        values = np.array([row.get(column.name, np.nan) for row in rows], dtype=float)
    meta = {"ucd": column.ucd} if column.ucd else None
    return TableColumn(values, unit=found, description=column.meaning, meta=meta)


def _unit(text: str, squared: bool = False):
    unit = u.Unit(text, parse_strict="silent") if text else u.dimensionless_unscaled
    if squared and isinstance(unit, u.UnrecognizedUnit):
        return u.Unit(f"({text})**2", parse_strict="silent")
    return unit**2 if squared else unit


def _ascii(values: np.ndarray) -> np.ndarray:
    """Text as FITS can hold it: other characters are written as escapes."""
    if values.dtype.kind != "U":
        return values
    return np.array([ascii_text(text) for text in values.flat], np.str_).reshape(values.shape)


def write_catalog(path, table: Table) -> None:
    """Write the table as FITS with units (TUNIT), meanings (TCOMM), UCDs (TUCD), atomically.

    Units are written as text, because astropy drops those outside the FITS standard, such as
    electron/s.
    """
    bare = Table({name: _ascii(np.asarray(table[name])) for name in table.colnames})
    hdu = fits.table_to_hdu(bare)
    hdu.name = "CATALOG"
    for i, name in enumerate(table.colnames, start=1):
        if table[name].unit is not None:
            hdu.header[f"TUNIT{i}"] = table[name].unit.to_string()
        hdu.header[f"TCOMM{i}"] = table[name].description
        if table[name].meta.get("ucd"):
            hdu.header[f"TUCD{i}"] = table[name].meta["ucd"]
    hdu.header.update(table.meta)
    with replacing(path) as temporary:
        fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(temporary, overwrite=True)


def read_catalog(path) -> Table:
    """Read a catalogue written by `write_catalog`."""
    if not Path(path).is_file():
        raise InputError(f"{path}: no such catalogue")
    table = Table.read(path, format="fits", unit_parse_strict="silent", mask_invalid=False)
    header = fits.getheader(path, 1)
    for i, name in enumerate(table.colnames, start=1):
        table[name].description = header.get(f"TCOMM{i}")
        table.meta.pop(f"TCOMM{i}", None)
        ucd = table.meta.pop(f"TUCD{i}", None)
        if ucd:
            table[name].meta["ucd"] = ucd
    return table
