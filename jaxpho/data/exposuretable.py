"""The table of stored exposures: one row each, with units."""

from __future__ import annotations

import numpy as np
from astropy.table import Table

from jaxpho.data.hdf5 import writing

COLUMNS = {
    "band": ("", "band of the stores"),
    "exposure": ("", "exposure id"),
    "state": ("", "stored (by this run), kept (from an earlier one), failed"),
    "file": ("", "image"),
    "nx": ("pix", "size along x"),
    "ny": ("pix", "size along y"),
    "ra": ("deg", "middle of the image, ICRS"),
    "dec": ("deg", "middle of the image, ICRS"),
    "scale": ("arcsec", "side of the central pixel"),
    "masked": ("", "fraction of pixels with inverse error 0"),
    "error": ("unit", "median 1-sigma error of a pixel, in `unit`"),
    "noise": ("", "scatter of blank pixels over the quoted errors; NaN: too few are blank"),
    "noise_error": ("", "standard error of it"),
    "noise_factor": ("", "by what correlated noise widens errors of smooth sources"),
    "depth": ("mag", "AB magnitude of 5 such errors in 1 arcsec^2, pixels taken as independent"),
    "unit": ("", "of fluxes and errors, per pixel"),
    "factor": ("", "`unit` per unit of the image"),
    "sky": ("unit", "median level subtracted, in `unit` per pixel"),
    "wcs_error": ("pix", "largest distance of the header's WCS from that of the image"),
    "unit_from": ("", "where the calibration came from"),
    "error_from": ("", "where the errors came from"),
    "sky_from": ("", "what was subtracted"),
    "mask_from": ("", "what was masked"),
    "wcs_from": ("", "where the WCS came from"),
    "reason": ("", "why it failed"),
}
"""Column -> (unit, meaning). Errors and levels are in the unit that the row names."""

_TEXT = ("band", "exposure", "state", "file", "unit", "unit_from", "error_from", "sky_from",
         "mask_from", "wcs_from", "reason")  # fmt: skip


def exposure_table(rows: list[dict]) -> Table:
    """The table of summaries (`jaxpho.data.storepart.summary`) and failures."""
    table = Table()
    units = {row.get("unit") for row in rows if row.get("unit")}
    for name, (unit, text) in COLUMNS.items():
        if name in _TEXT:
            values = np.array([str(row.get(name) or "") for row in rows], dtype=str)
        elif name in ("nx", "ny"):
            values = np.array([int(row.get(name) or 0) for row in rows])
        else:
            values = np.array([float(row.get(name, np.nan)) for row in rows])
        table[name] = values
        table[name].description = text
        if unit == "unit":
            table[name].unit = "nJy" if units == {"nJy"} else None
        elif unit:
            table[name].unit = unit
    return table


def write_table(path, rows: list[dict]) -> None:
    """Write the table as ECSV, in one step."""
    table = exposure_table(rows)
    with writing(path) as temporary:
        table.write(temporary, format="ascii.ecsv", overwrite=True)


def print_table(rows: list[dict]) -> str:
    """The table's main columns as text."""
    lines = [
        f"{'band':12s} {'exposure':28s} {'state':7s} {'size':>11s} {'ra':>10s} {'dec':>10s} "
        f"{'scale':>7s} {'masked':>7s} {'depth':>6s} {'sky':>9s} unit"
    ]
    for row in rows:
        if row["state"] == "failed":
            lines.append(f"{row['band']:12s} {row['exposure']:28s} failed: {row['reason']}")
            continue
        depth = f"{row['depth']:6.2f}" if np.isfinite(row["depth"]) else f"{'-':>6s}"
        size = f"{row['nx']} x {row['ny']}"
        lines.append(
            f"{row['band']:12s} {row['exposure']:28s} {row['state']:7s} {size:>11s} "
            f'{row["ra"]:10.5f} {row["dec"]:+10.5f} {row["scale"]:6.4f}" '
            f"{100 * row['masked']:5.1f} % {depth} {row['sky']:9.4g} {row['unit']} "
            f"({row['unit_from']})"
        )
    return "\n".join(lines)
