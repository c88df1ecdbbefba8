"""The table of exposures of a run: what their blank pixels say of the noise."""

from __future__ import annotations

import numpy as np
from astropy.table import Table

from jaxpho.files import replacing

COLUMNS = {
    "exposure": "name",
    "band": "band",
    "error": "median 1-sigma error of a pixel as quoted, in the exposure's unit",
    "blank_pixels": "pixels without detectable light that were looked at; 0: not measured",
    "noise": "scatter of the blank pixels over the quoted errors",
    "noise_error": "standard error of it",
    "inflation": "what the fit multiplied the quoted errors by, residuals of a fit apart",
    "next_pixel": "correlation with the next pixel",
    "noise_factor": "by what correlated noise widens errors of smooth sources",
}
"""Column -> meaning."""


def noise_table(exposures) -> Table:
    """One row for each exposure; values that were not measured are NaN."""
    rows = []
    for e in exposures:
        n = e.noise
        measured = (np.nan,) * 4 if n is None else (
            n.ratio, n.ratio_error, n.next_pixel, n.factor
        )  # fmt: skip
        error = e.typical_error
        rows.append(
            (e.name, e.band, np.nan if error is None else error, 0 if n is None else n.npix,
             *measured[:2], e.inflation, *measured[2:])
        )  # fmt: skip
    table = Table(rows=rows, names=list(COLUMNS))
    for name, text in COLUMNS.items():
        table[name].description = text
    return table


def write_noise(path, exposures) -> None:
    """Write the table as ECSV, atomically."""
    table = noise_table(exposures)
    for name in ("noise", "noise_error", "inflation", "next_pixel", "noise_factor"):
        table[name].info.format = ".4f"
    with replacing(path) as temporary:
        table.write(temporary, format="ascii.ecsv", overwrite=True)


def read_inflation(path) -> dict[str, float]:
    """Exposure -> what the fit multiplied its errors by, from a file of `write_noise`."""
    table = Table.read(path, format="ascii.ecsv")
    return {str(row["exposure"]): float(row["inflation"]) for row in table}


def noise_summary(exposures) -> list[str]:
    """One line on all exposures, or none when the noise of none was measured."""
    noise = [e.noise for e in exposures if e.noise is not None]
    if not noise:
        return []
    ratio, factor = (np.array([getattr(n, k) for n in noise]) for k in ("ratio", "factor"))
    return [
        f"noise of the blank pixels of {len(noise)} of {len(exposures)} exposures: "
        f"{ratio.min():.2f} to {ratio.max():.2f} times the errors, errors of smooth sources times "
        f"{factor.min():.2f} to {factor.max():.2f} by correlation"
    ]
