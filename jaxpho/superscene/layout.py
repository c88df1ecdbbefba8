"""The parameters of a source as a row of numbers, and back to a source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np

from jaxpho.core.sources import SHAPE, SOURCE_TYPES, base_name
from jaxpho.data.catalog import Peak
from jaxpho.fit.links import differences, is_difference
from jaxpho.fit.options import FitOptions


def parameter_names(
    kind: str, bands: Sequence[str], options: FitOptions | None = None
) -> tuple[tuple[str, str], ...]:
    """(parameter, band) of each number of a source of a type.

    The band is "" for all but fluxes, and differences of shapes between bands: the latter are there
    when the options have links.
    """
    names = _names(kind, tuple(bands))
    if options is None or not options.links:
        return names
    more: list[tuple[str, str]] = []
    for name in SOURCE_TYPES[kind].parameters:
        found = differences(name, options, bands) if base_name(name) in SHAPE else None
        more += [] if found is None else [(found.name, band) for band in found.bands]
    return (*names, *more)


@cache
def _names(kind: str, bands: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    out = []
    for name in SOURCE_TYPES[kind].parameters:
        out += [(name, band) for band in (bands if base_name(name) == "flux" else [""])]
    return tuple(out)


def _key(name: str, band: str):
    """Under which a `Peak` keeps a value: that of a flux, or of anything else."""
    if is_difference(name):
        return f"{name}:{band}" if band else name
    return (name, band) if band else name


def row_of(peak: Peak, bands: Sequence[str], options: FitOptions | None = None) -> np.ndarray:
    """[npar] values of a source in the order of `parameter_names`, nan where unknown.

    Positions are in degrees.
    """
    known = {"ra": peak.ra, "dec": peak.dec, **peak.values, **peak.flux}
    names = parameter_names(peak.type, bands, options)
    return np.array([known.get(_key(n, b), np.nan) for n, b in names], float)


def peak_of(peak: Peak, bands: Sequence[str], row, options: FitOptions | None = None) -> Peak:
    """The source with the values of a row; what is nan there stays as it is."""
    values, flux = dict(peak.values), dict(peak.flux)
    at = {"ra": peak.ra, "dec": peak.dec}
    for (name, band), value in zip(parameter_names(peak.type, bands, options), row, strict=True):
        if not np.isfinite(value):
            continue
        key = _key(name, band)
        where = at if name in at else flux if isinstance(key, tuple) else values
        where[key] = float(value)
    return replace(peak, ra=at["ra"], dec=at["dec"], values=values, flux=flux)


def to_plain(peak: Peak) -> dict:
    """A source as JSON can hold it; see `from_plain`."""
    return {
        "id": peak.id,
        "type": peak.type,
        "ra": float(peak.ra),
        "dec": float(peak.dec),
        "values": {name: float(value) for name, value in peak.values.items()},
        "flux": [[name, band, float(value)] for (name, band), value in peak.flux.items()],
        "held": sorted(peak.fixed),
        "flags": int(peak.flags),
        "auto": bool(peak.auto),
    }


def from_plain(values: dict) -> Peak:
    """The source of `to_plain`."""
    flux = {(name, band): value for name, band, value in values["flux"]}
    return Peak(values["id"], values["type"], values["ra"], values["dec"], dict(values["values"]),
                flux, frozenset(values["held"]), values["flags"], values["auto"])  # fmt: skip
