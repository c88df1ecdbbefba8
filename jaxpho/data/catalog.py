"""The peak catalogue: what is known of every source before the fit."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from astropy import units as u
from astropy.table import MaskedColumn

from jaxpho.core.sources import AUTO, SOURCE_TYPES
from jaxpho.data.columns import FORMATS, SHAPE_COLUMNS, column_of, find_columns
from jaxpho.data.options import CatalogOptions
from jaxpho.data.peaktable import is_own, open_table
from jaxpho.data.units import flux_unit_to_njy, magnitude_to_njy
from jaxpho.errors import InputError

log = logging.getLogger("jaxpho.catalog")

# The bit of "nonfinite" in jaxpho.fit.flags, which this package does not import (tested).
NONFINITE_FLAG = 1 << 9
RMS_TO_HALF_LIGHT = math.sqrt(2 * math.log(2))  # of a circular Gaussian
TYPES = (*SOURCE_TYPES, AUTO)
AUTO_START = "sersic"
HELD_NAMES = ("all", "shape", "position")


@dataclass
class Peak:
    """One source to fit.

    Attributes
    ----------
    id : unique.
    type : name in `jaxpho.core.sources.SOURCE_TYPES`.
    ra, dec : deg.
    values : what is known of rhalf [arcsec, circularised], sersic, q, pa [deg, E of N]; with
        suffix _disk, _bulge where the type has them.
    flux : (parameter name, band) -> flux; ("flux", band) is the total where components have
        their own names.
    fixed : parameter names held at these values; "shape" and "all" are short for several.
    flags : bit mask of `jaxpho.fit.flags`.
    auto : the fit chooses the type (among `jaxpho.core.sources.AUTO_TYPES`), beginning with `type`.
    """

    id: str | int
    type: str
    ra: float
    dec: float
    values: dict[str, float] = field(default_factory=dict)
    flux: dict[tuple[str, str], float] = field(default_factory=dict)
    fixed: frozenset[str] = frozenset()
    flags: int = 0
    auto: bool = False


def read_catalog(
    options: CatalogOptions,
    bands: Sequence[str],
    unit: str = "nJy",
    default_type: str = "sersic",
) -> list[Peak]:
    """The peaks of a catalogue file, or the positions written in the configuration.

    Parameters
    ----------
    options : the `peaks` section.
    bands : bands of the run; other fluxes are not read.
    unit : flux unit of the run. In other units than nJy, fluxes are taken as they are.
    default_type : type of sources whose entry names none.

    Returns
    -------
    peaks : in the order of the file.

    Raises
    ------
    InputError
        Missing file or column, positions that are not finite (naming the row), duplicate ids,
        unknown types, parameters held that have no value.
    """
    default_type = options.type or default_type
    if default_type not in TYPES:
        raise InputError(f"peaks.type: {_unknown_type(default_type)}")
    table, label, options = open_table(options)
    if len(table) == 0:
        raise InputError(f"{label}: the catalogue has no rows")
    columns = find_columns(table.colnames, options, bands, label)
    reader = _Reader(table, columns, options, bands, unit, default_type, label)
    _check_ids(reader.ids(), options, label)
    peaks = reader.peaks()
    log.info("%s: %d sources", label, len(peaks))
    by_id = options.types or {}
    other = sum(
        options.type not in (None, AUTO if p.auto else p.type) and str(p.id) not in by_id
        for p in peaks
    )
    if other:
        log.warning(
            "%s: %d sources have types of their own, which peaks.type: %s leaves as they are",
            label, other, options.type,
        )  # fmt: skip
    return peaks


def _check_ids(ids: list[str], options: CatalogOptions, label: str):
    seen: set[str] = set()
    for identity in ids:
        if identity in seen:
            raise InputError(f"{label}: id {identity} occurs twice; ids must be unique")
        seen.add(identity)
    missing = {str(i) for i in options.ids or []} - seen
    if missing:
        raise InputError(f"{label}: no source with id {', '.join(sorted(missing))} (peaks.ids)")
    for name in ("types", "fixed_by_id"):
        for key in getattr(options, name) or {}:
            if str(key) not in seen:
                raise InputError(f"peaks.{name}: no source with id {key} in {label}")


def _unknown_type(name) -> str:
    return f"unknown source type '{name}'; expected one of {', '.join(TYPES)}"


class _Reader:
    """Turns rows of a table into peaks."""

    def __init__(self, table, columns, options, bands, unit, default_type, label):
        self.table, self.columns, self.options = table, columns, options
        self.bands, self.unit, self.default_type, self.label = bands, unit, default_type, label
        self.format = FORMATS[options.format or "plain"]
        self.scale = {
            key: self._flux_scale(key, name)
            for key, name in columns.items()
            if key[0].startswith("flux")
        }
        self.missing: dict[str, int] = {}

    def ids(self) -> list[str]:
        """Ids of all rows but those that the format marks as duplicates of others."""
        rows = range(len(self.table))
        return [str(self._id(row)) for row in rows if not self._is_duplicate(row)]

    def _is_duplicate(self, row: int) -> bool:
        text = str(self._raw(("type", ""), row))
        by_id = self.options.types or {}
        marked = text in self.format.types and self.format.types[text] is None
        return marked and str(self._id(row)) not in by_id

    def peaks(self) -> list[Peak]:
        """The wanted sources; entries that the format marks as duplicates are left out.

        Rows that are not wanted are not looked at: what is wrong with them does not matter.
        """
        wanted = None if self.options.ids is None else {str(i) for i in self.options.ids}
        out = []
        for row in range(len(self.table)):
            if wanted is not None and str(self._id(row)) not in wanted:
                continue
            kind = self._type(row)
            if kind is not None:
                out.append(self._peak(row, kind))
        for name, count in self.missing.items():
            log.warning("%s: %s is not usable in %d rows: it is treated as unknown there",
                        self.label, name, count)  # fmt: skip
        return out

    def _raw(self, key, row):
        """The entry as plain value, None when there is no such column or it is masked."""
        name = self.columns.get(key)
        if name is None:
            return None
        column = self.table[name]
        if isinstance(column, MaskedColumn) and np.ma.getmaskarray(column)[row]:
            return None
        value = column[row]
        if isinstance(value, bytes):
            return value.decode("utf-8", "replace").strip()
        return value.strip() if isinstance(value, str) else value

    def _number(self, key, row, target: u.UnitBase | None = None):
        """A number in `target` units where the column has a unit; None when not known."""
        value = self._raw(key, row)
        if value is None or (isinstance(value, str) and value == ""):
            return None
        try:
            value = float(value)
        except (TypeError, ValueError):
            raise InputError(
                f"{self.label}: row {row}: column '{self.columns[key]}' holds {value!r}, expected "
                "a number"
            ) from None
        unit = self.table[self.columns[key]].unit
        if target is not None and unit is not None:
            try:
                value *= float(u.Unit(unit).to(target))
            except (u.UnitConversionError, TypeError, ValueError):
                raise InputError(
                    f"{self.label}: column '{self.columns[key]}' is in {unit}, expected {target}"
                ) from None
        return value

    def _type(self, row: int) -> str | None:
        text = self._raw(("type", ""), row)
        text = "" if text is None else str(text)
        identity = str(self._id(row))
        by_id = self.options.types or {}
        if identity in by_id:
            text = by_id[identity]
        elif text in self.format.types:
            text = self.format.types[text]
            if text is None:
                log.info("%s: row %d is a duplicate entry, left out", self.label, row)
                return None
        if text.lower() in ("", "none"):
            return self.default_type
        if text.lower() not in TYPES:
            raise InputError(f"{self.label}: row {row}: {_unknown_type(text)}")
        return text.lower()

    def _id(self, row: int):
        value = self._raw(("id", ""), row)
        if value is None:
            return row
        return int(value) if isinstance(value, int | np.integer) else str(value)

    def _peak(self, row: int, kind: str) -> Peak:
        position = {}
        for name, limit in (("ra", 360.0), ("dec", 90.0)):
            value = self._number((name, ""), row, u.deg)
            if value is None or not math.isfinite(value):
                raise InputError(
                    f"{self.label}: row {row} (id {self._id(row)}): {name} is {value}, expected a "
                    "number"
                )
            if abs(value) > limit:
                raise InputError(
                    f"{self.label}: row {row} (id {self._id(row)}): {name} is {value} deg, "
                    "expected within "
                    f"{-limit:g} to {limit:g}"
                )
            position[name] = value
        auto, kind = kind == AUTO, AUTO_START if kind == AUTO else kind
        peak = Peak(self._id(row), kind, position["ra"] % 360.0, position["dec"], auto=auto)
        self._bad = 0
        suffixes = ["", *(c.suffix for c in SOURCE_TYPES[kind].components if c.suffix)]
        if any(c.profile == "sersic" for c in SOURCE_TYPES[kind].components):
            for suffix in suffixes:
                peak.values |= self._shape(row, suffix)
            for name, value in (self.options.defaults or {}).items():
                peak.values.setdefault(name, float(value))
        if kind in ("exp", "dev"):
            peak.values.pop("sersic", None)
        peak.flux = self._fluxes(row)
        if is_own(self.table):
            self._take_apart(peak)
        for name, value in (self.options.defaults or {}).items():
            if name.startswith("flux"):
                peak.values.pop(name, None)
                for band in self.bands:
                    peak.flux.setdefault((name, band), float(value))
        peak.flags = NONFINITE_FLAG if self._bad else 0
        peak.fixed = self._held(row, peak)
        return peak

    def _drop(self, name: str):
        self.missing[name] = self.missing.get(name, 0) + 1
        self._bad += 1

    def _value(self, name, suffix, row, low, high, target=None, zero_is_missing=False):
        """A number within [low, high]; None when unknown; counted when unusable."""
        value = self._number((name + suffix, ""), row, target)
        if value is None or (zero_is_missing and value == 0):
            return None
        if math.isfinite(value) and low <= value <= high:
            return value
        self._drop(self.columns[name + suffix, ""])
        return None

    def _shape(self, row: int, suffix: str) -> dict[str, float]:
        """Rhalf, sersic, q, pa of one component, as far as the row tells."""
        q = self._value("q", suffix, row, 1e-3, 1.0)
        if self.format.forcepho:
            q = None if q is None else q**2
            angle = self._value("pa", suffix, row, -1e3, 1e3, u.rad)  # from East to North
            pa = None if angle is None else 90.0 - math.degrees(angle)
        else:
            pa = self._value("pa", suffix, row, -1e3, 1e3, u.deg)
        e1 = self._value("e1", suffix, row, -1.0, 1.0)
        e2 = self._value("e2", suffix, row, -1.0, 1.0)
        if q is None and e1 is not None and e2 is not None and math.hypot(e1, e2) < 1:
            e = math.hypot(e1, e2)
            q, pa = (1 - e) / (1 + e), math.degrees(math.atan2(e2, e1)) / 2
        a = self._value("a", suffix, row, 0.0, 1e5, u.arcsec, True)
        b = self._value("b", suffix, row, 0.0, 1e5, u.arcsec, True)
        if q is None and a is not None and b is not None:
            q = min(a, b) / max(a, b)
        rhalf = self._value("rhalf", suffix, row, 1e-6, 1e5, u.arcsec, True)
        if rhalf is None:
            major = self._value("rhalf_major", suffix, row, 1e-6, 1e5, u.arcsec, True)
            if major is not None:
                rhalf = major * math.sqrt(1.0 if q is None else q)
            elif a is not None and b is not None:
                rhalf = RMS_TO_HALF_LIGHT * math.sqrt(a * b)
        sersic = self._value("sersic", suffix, row, 1e-3, 20.0, None, True)
        found = {"rhalf": rhalf, "sersic": sersic, "q": q}
        found["pa"] = None if pa is None else pa % 180.0
        return {name + suffix: v for name, v in found.items() if v is not None}

    def _flux_scale(self, key, name: str) -> float | str:
        """Factor to the run's unit, or "mag"."""
        given = self.options.flux_unit
        unit = self.table[name].unit
        if given == "mag" or key[0].startswith("flux:mag"):
            if self.unit != "nJy":
                raise InputError(
                    f"{self.label}: magnitudes need calibrated images; the run is in {self.unit}"
                )
            return "mag"
        if given == "image" or self.unit != "nJy":
            return 1.0
        usual = self.format.flux_unit
        if given is None and unit is not None and str(unit).strip():
            try:
                return flux_unit_to_njy(str(unit))
            except InputError:
                if usual is None:
                    raise
        return flux_unit_to_njy(given or usual or "nJy")

    def _fluxes(self, row: int) -> dict[tuple[str, str], float]:
        out = {}
        for key, scale in self.scale.items():
            value = self._number(key, row)
            if value is None:
                continue
            if scale == "mag":
                # 99, -99 and the like mean "not detected" in many catalogues
                value = magnitude_to_njy(value) if -20 < value < 60 else math.nan
            else:
                value *= scale
            if math.isfinite(value):
                out[key[0].replace("flux:mag", "flux"), key[1]] = value
            else:
                self._drop(self.columns[key])
        return out

    def _take_apart(self, peak: Peak):
        """The total flux in a fit's catalogue, less the other components where one is "flux"."""
        first, *others = SOURCE_TYPES[peak.type].fluxes
        for band in self.bands if first == "flux" and others else ():
            parts = [peak.flux.get((name, band)) for name in others]
            if ("flux", band) in peak.flux and None not in parts:
                peak.flux["flux", band] -= sum(parts)

    def _held(self, row: int, peak: Peak) -> frozenset[str]:
        names = list(self.options.fixed or []) + list(
            (self.options.fixed_by_id or {}).get(str(peak.id), [])
        )
        entry = self._raw(("fixed", ""), row)
        if isinstance(entry, bool | np.bool_):
            names += ["shape", "position"] if entry else []
        elif isinstance(entry, str):
            if entry.lower() in ("true", "false"):
                names += ["shape", "position"] if entry.lower() == "true" else []
            else:
                names += [n for n in re.split(r"[\s,;]+", entry) if n]
        elif entry is not None:
            names += ["shape", "position"] if entry else []
        kind = SOURCE_TYPES[peak.type]
        held: set[str] = set()
        for name in names:
            every = [n for t in SOURCE_TYPES.values() for n in t.parameters]
            if name not in every and name not in HELD_NAMES and name not in ("q", "pa"):
                raise InputError(
                    f"{self.label}: source {peak.id}: '{name}' cannot be held; expected "
                    f"{', '.join([*HELD_NAMES, *kind.parameters])}"
                )
            if name == "position":
                held |= {"ra", "dec"}
            elif name in ("q", "pa"):
                held |= {"e1", "e2"}
            elif name in ("all", "shape") or name in kind.parameters:
                held.add(name)
        self._check_held(peak, held)
        return frozenset(held)

    def _check_held(self, peak: Peak, held: set[str]):
        """A parameter that is held needs a value of its own (or the whole source's)."""
        shapes = SOURCE_TYPES[peak.type].shapes
        if peak.auto and held & {"shape", *shapes}:
            raise InputError(
                f"{self.label}: source {peak.id}: its type is {AUTO}, so no shape can be held; "
                f"expected one of {', '.join(SOURCE_TYPES)}"
            )
        needed = shapes if held & {"all", "shape"} else [n for n in shapes if n in held]
        for name in needed:
            base, _, suffix = name.partition("_")
            options = SHAPE_COLUMNS.get(base, (base,))
            tail = f"_{suffix}" if suffix else ""
            for known in options:
                if known + tail not in peak.values and known not in peak.values:
                    raise InputError(
                        f"{self.label}: source {peak.id}: {name} is held but its {known + tail} "
                        f"is not known (column {column_of(self.columns, known + tail)})"
                    )
