"""Region files for DS9 and CARTA: sources as ellipses, patches as circles.

The only module that imports the package `regions`.
"""

from __future__ import annotations

from importlib.util import find_spec

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord

from jaxpho.errors import InputError
from jaxpho.files import replacing

FORMATS = {".reg": "ds9", ".crtf": "crtf"}
_DIGITS = {".reg": {"precision": 9}, ".crtf": {"fmt": ".9f"}}
"""Of degrees: small sources are 1e-5 deg."""
POINT_RADIUS = 0.2
"""Radius [arcsec] of the circle that marks a source without a size."""
UNFIT = "red"
"""Colour of sources with flags in DS9 and CARTA."""


def check_regions(what: str) -> None:
    """Raise InputError when `regions` is not installed; `what` asks for it."""
    if find_spec("regions") is None:
        raise InputError(
            f"{what}: the package regions is not installed; 'pip install \"jaxpho[export]\"' "
            "installs it"
        )


def source_regions(table):
    """The sources of a catalogue as a `regions.Regions` of sky ellipses.

    Parameters
    ----------
    table : Table
        id, ra, dec [deg], flags; and rhalf_major [arcsec], q, pa [deg East of North] of one or
        several components.

    Returns
    -------
    Regions
        An ellipse at one half-light radius (the disk's where there are two components), a small
        circle for points; labelled with ids, red where flags are set.

    Raises
    ------
    InputError
        When the package regions is not installed.
    """
    check_regions("regions")
    from regions import CircleSkyRegion, EllipseSkyRegion, Regions, RegionVisual

    out = []
    for row in table:
        center = SkyCoord(float(row["ra"]), float(row["dec"]), unit="deg", frame="icrs")
        color = UNFIT if "flags" in table.colnames and row["flags"] else "lime"
        look = {"meta": _label(row["id"]), "visual": RegionVisual({"color": color})}
        found = _ellipse(row, table.colnames)
        if found is None:
            out.append(CircleSkyRegion(center, POINT_RADIUS * u.arcsec, **look))
            continue
        major, q, pa = found
        # `regions` puts the first axis at 90 deg along North, and counts like position angles
        out.append(
            EllipseSkyRegion(
                center, 2 * major * u.arcsec, 2 * major * q * u.arcsec, (pa + 90.0) * u.deg, **look
            )
        )
    return Regions(out)


def patch_regions(circles: dict[str, tuple[float, float, float]]):
    """Patches as a `regions.Regions` of circles, labelled with their names.

    Parameters
    ----------
    circles : name -> (ra [deg], dec [deg], radius [arcsec]).
    """
    check_regions("regions")
    from regions import CircleSkyRegion, Regions, RegionVisual

    out = []
    for name, (ra, dec, radius) in circles.items():
        center = SkyCoord(ra, dec, unit="deg", frame="icrs")
        look = {"meta": _label(f"patch {name}"), "visual": RegionVisual({"color": "cyan"})}
        out.append(CircleSkyRegion(center, radius * u.arcsec, **look))
    return Regions(out)


def write_regions(path, found) -> None:
    """Write regions for DS9 (.reg) or CARTA (.crtf), by the ending, in one step."""
    with replacing(path) as temporary:
        end = temporary.suffix
        found.write(temporary, format=FORMATS[end], overwrite=True, **_DIGITS[end])


def _label(name) -> dict:
    """Text of a region without the characters that end it in one of the formats."""
    from regions import RegionMeta

    text = "".join(c if c.isprintable() and c not in "{}[]\"'#;," else "_" for c in str(name))
    return RegionMeta({"text": text, "label": text})


def _ellipse(row, names) -> tuple[float, float, float] | None:
    """(rhalf_major, q, pa) of the first component that has a size."""
    for suffix in ("", "_disk", "_bulge"):
        keys = [f"{key}{suffix}" for key in ("rhalf_major", "q", "pa")]
        if set(keys) <= set(names):
            values = [float(row[key]) for key in keys]
            if np.isfinite(values).all() and values[0] > 0:
                return tuple(values)
    return None
