"""Starting values of a patch's sources, from what the peak catalogue knows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from jaxpho.core.sersic import N_MAX, N_MIN
from jaxpho.core.sources import SOURCE_TYPES, base_name
from jaxpho.fit.links import is_difference
from jaxpho.fit.table import SourceStart

DEFAULT_SERSIC = {"": 1.5, "_disk": 1.0, "_bulge": 2.5}
DEFAULT_SIZE = {"_bulge": 0.35}
FLATTEST = 0.998  # largest ellipticity of a held shape: q = 1e-3, the least a catalogue may give
FLUX_SHARE = {"flux_disk": 0.6, "flux_bulge": 0.4, "flux_point": 0.2}


def tangent_offsets(ra, dec, reference: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Offsets in arcsec (RA times cos of the reference's dec, dec) from a reference, float64."""
    dra = (np.asarray(ra, float) - reference[0] + 180.0) % 360.0 - 180.0
    return (
        dra * np.cos(np.radians(reference[1])) * 3600.0,
        (np.asarray(dec, float) - reference[1]) * 3600.0,
    )


def ellipticity(q: float, pa: float) -> tuple[float, float]:
    """(e1, e2) of an axis ratio and a position angle in degrees East of North."""
    e = (1.0 - q) / (1.0 + q)
    return e * math.cos(2 * math.radians(pa)), e * math.sin(2 * math.radians(pa))


def _known(values: dict, name: str):
    """A value by its full name, or the whole source's where a component has none of its own."""
    value = values.get(name, values.get(base_name(name)))
    return None if value is None or not np.isfinite(value) else float(value)


def _shape(values: dict, suffix: str, default_size: float, limits) -> dict[str, float]:
    size = _known(values, "rhalf" + suffix)
    if size is None or size <= 0:
        size = default_size
    elif "rhalf" + suffix not in values:
        size *= DEFAULT_SIZE.get(suffix, 1.0)
    sersic = _known(values, "sersic" + suffix)
    if sersic is None:
        sersic = DEFAULT_SERSIC.get(suffix, 1.5)
    e1, e2 = _known(values, "e1" + suffix), _known(values, "e2" + suffix)
    if e1 is None or e2 is None:
        q, pa = _known(values, "q" + suffix), _known(values, "pa" + suffix)
        e1, e2 = ellipticity(1.0 if q is None else q, 0.0 if pa is None else pa)
    e = math.hypot(e1, e2)
    if e > limits:
        e1, e2 = e1 * limits / e, e2 * limits / e
    return {
        "rhalf": size,
        "sersic": min(max(sersic, N_MIN), N_MAX),
        "e1": e1,
        "e2": e2,
    }


def source_starts(
    peaks: Sequence,
    bands: Sequence[str],
    reference: tuple[float, float],
    *,
    pixel_scale: float,
    q_min: float = 0.1,
) -> list[SourceStart]:
    """Starting values of every source.

    Parameters
    ----------
    peaks : sequence of Peak
        ``jaxpho.data.catalog.Peak`` or anything with its attributes.
    bands : sequence of str
    reference : tuple
        (ra, dec) of the patch, deg.
    pixel_scale : float
        arcsec; a source of unknown size starts at two pixels.
    q_min : float
        Smallest axis ratio allowed to start from.

    Returns
    -------
    list of SourceStart
    """
    limit = 0.98 * (1.0 - q_min) / (1.0 + q_min)
    out = []
    for peak in peaks:
        kind = SOURCE_TYPES[peak.type]
        x, y = tangent_offsets(peak.ra, peak.dec, reference)
        values: dict[tuple[str, str], float] = {("ra", ""): float(x), ("dec", ""): float(y)}
        held = set(peak.fixed)
        size = 0.0
        for component in kind.components:
            if component.profile != "sersic":
                continue
            edge = FLATTEST if "all" in held or "shape" in held else limit
            shape = _shape(peak.values, component.suffix, 2.0 * pixel_scale, edge)
            size = max(size, shape["rhalf"])
            for name, value in shape.items():
                values[name + component.suffix, ""] = value
        for name, value in peak.values.items():
            if is_difference(name):  # of an earlier fit: "drhalf", or "drhalf:band"
                plain, _, band = name.partition(":")
                values[plain, band] = float(value)
        for name in kind.fluxes:
            share = FLUX_SHARE.get(name, 1.0) if len(kind.fluxes) > 1 else 1.0
            for band in bands:
                known = peak.flux.get((name, band))
                if known is None:
                    whole = peak.flux.get(("flux", band), 0.0)
                    known = share * whole
                values[name, band] = float(known) if np.isfinite(known) else 0.0
        out.append(SourceStart(peak.type, values, frozenset(held), size))
    return out
