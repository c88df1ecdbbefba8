"""The parameters of a source as a row of numbers, and back to a source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np

from jaxpho.core.sources import SOURCE_TYPES, base_name
from jaxpho.data.catalog import Peak


def parameter_names(kind: str, bands: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """(parameter, band) of each number of a source of a type; band is "" for all but fluxes."""
    return _names(kind, tuple(bands))


@cache
def _names(kind: str, bands: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    out = []
    for name in SOURCE_TYPES[kind].parameters:
        out += [(name, band) for band in (bands if base_name(name) == "flux" else [""])]
    return tuple(out)


def row_of(peak: Peak, bands: Sequence[str]) -> np.ndarray:
    """[npar] values of a source in the order of `parameter_names`, nan where unknown.

    Positions are in degrees.
    """
    known = {"ra": peak.ra, "dec": peak.dec, **peak.values}
    names = parameter_names(peak.type, bands)
    return np.array([peak.flux.get((n, b), np.nan) if b else known.get(n, np.nan)
                     for n, b in names])  # fmt: skip


def peak_of(peak: Peak, bands: Sequence[str], row) -> Peak:
    """The source with the values of a row; what is nan there stays as it is."""
    values, flux = dict(peak.values), dict(peak.flux)
    at = {"ra": peak.ra, "dec": peak.dec}
    for (name, band), value in zip(parameter_names(peak.type, bands), row, strict=True):
        if not np.isfinite(value):
            continue
        where = at if name in at else flux if band else values
        where[(name, band) if band else name] = float(value)
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
    }


def from_plain(values: dict) -> Peak:
    """The source of `to_plain`."""
    flux = {(name, band): value for name, band, value in values["flux"]}
    return Peak(values["id"], values["type"], values["ra"], values["dec"], dict(values["values"]),
                flux, frozenset(values["held"]), values["flags"])  # fmt: skip
