"""Catalogues under other names: a map from a survey's columns to ours."""

from __future__ import annotations

from dataclasses import dataclass

import astropy.units as u
import numpy as np
from astropy.table import Column, Table

from jaxpho.data.units import flux_unit_to_njy
from jaxpho.errors import InputError

KEYS = ("column", "unit", "power", "description")


@dataclass
class Mapped:
    """One column of a map: ours, its new unit (None: as it is), the power it is raised to."""

    column: str
    unit: str | None = None
    power: float = 1.0
    description: str | None = None


def parse_map(values, where: str) -> dict[str, Mapped]:
    """New name -> Mapped, from the mapping `columns` of a YAML file.

    Raises
    ------
    InputError
        For anything but names, or mappings of the keys `KEYS`; `where` names the file.
    """
    entries = values.get("columns") if isinstance(values, dict) else None
    if not isinstance(entries, dict) or not entries:
        raise InputError(f"{where}: expected a mapping `columns` from new names to columns")
    out = {}
    for name, entry in entries.items():
        at = f"{where}: columns.{name}"
        entry = {"column": entry} if isinstance(entry, str) else entry
        if not isinstance(entry, dict) or not isinstance(entry.get("column"), str):
            raise InputError(f"{at}: expected the name of a column, or a mapping with `column`")
        unknown = [key for key in entry if key not in KEYS]
        if unknown:
            raise InputError(f"{at}: unknown key '{unknown[0]}', expected {', '.join(KEYS)}")
        power = entry.get("power", 1)
        if isinstance(power, bool) or not isinstance(power, int | float) or not power:
            raise InputError(f"{at}.power: expected a number other than 0, found {power!r}")
        texts = {key: entry[key] for key in ("unit", "description") if entry.get(key) is not None}
        for key, value in texts.items():
            if not isinstance(value, str):
                raise InputError(f"{at}.{key}: expected a text, found {value!r}")
        out[str(name)] = Mapped(entry["column"], power=float(power), **texts)
    return out


def apply_map(table: Table, columns: dict[str, Mapped], where: str = "--columns") -> Table:
    """The columns of a map, in its order.

    Units are converted before the power is taken: `{column: flux_g_err, unit: nanomaggy, power:
    -2}` is the inverse variance in nanomaggy^-2.

    Raises
    ------
    InputError
        Naming the column that the table lacks, or whose unit cannot be converted.
    """
    out = Table(meta=dict(table.meta))
    for name, entry in columns.items():
        at = f"{where}: columns.{name}"
        if entry.column not in table.colnames:
            raise InputError(f"{at}: the catalogue has no column '{entry.column}'")
        column = table[entry.column]
        values, unit = np.asarray(column), column.unit
        if entry.unit is not None or entry.power != 1:
            if values.dtype.kind not in "fiu":
                raise InputError(f"{at}: {entry.column} is text, it has no unit and no power")
        if entry.unit is not None:
            values, unit = values * _factor(unit, entry.unit, at), _parsed(entry.unit)
        meaning = entry.description or column.description
        ucd = column.meta.get("ucd")
        if entry.power != 1:
            with np.errstate(divide="ignore", invalid="ignore"):
                values = np.asarray(values, float) ** entry.power
            unit = None if unit is None else _parsed(f"({unit.to_string()})**({entry.power:g})")
            if entry.description is None:
                meaning = f"({column.description}) to the power of {entry.power:g}"
            ucd = None
        out[name] = Column(values, unit=unit, description=meaning, meta={"ucd": ucd} if ucd else {})
    return out


def _parsed(text: str):
    return u.Unit(text, parse_strict="silent")


def _factor(old, new: str, where: str) -> float:
    found = "" if old is None else old.to_string()
    try:
        return flux_unit_to_njy(found) / flux_unit_to_njy(new)
    except InputError:
        pass
    try:
        return float(u.Unit(found).to(u.Unit(new)))
    except (ValueError, TypeError, u.UnitConversionError):
        raise InputError(
            f"{where}.unit: '{found or 'no unit'}' cannot be converted to '{new}'"
        ) from None
