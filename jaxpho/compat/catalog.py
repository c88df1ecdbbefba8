"""Catalogues in forcepho's units: q = sqrt(b/a), pa in radians from East to North."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits

from jaxpho.data.tables import read_table
from jaxpho.errors import InputError

SHAPE_COLUMNS = ("ra", "dec", "q", "pa", "sersic", "rhalf")


@dataclass
class Catalog:
    """Sources with forcepho's parameters.

    Attributes
    ----------
    path : file, for errors.
    shapes : ndarray [S, 6]
        ra, dec [deg], q, pa [rad], sersic, rhalf [arcsec].
    flux : dict
        band -> [S] flux.
    """

    path: Path
    shapes: np.ndarray
    flux: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.shapes)

    @property
    def ra(self) -> np.ndarray:
        """Right ascension, deg."""
        return self.shapes[:, 0]

    @property
    def dec(self) -> np.ndarray:
        """Declination, deg."""
        return self.shapes[:, 1]

    def vector(self, bands, reference) -> np.ndarray:
        """Parameters [S (B + 6)]: fluxes, then shapes, source by source.

        Parameters
        ----------
        bands : order of the fluxes.
        reference : (ra, dec) deg, subtracted from the positions.
        """
        shapes = self.shapes.copy()
        shapes[:, :2] -= reference
        flux = np.stack([self.fluxes(band) for band in bands], -1)
        return np.concatenate([flux, shapes], -1).reshape(-1)

    def fluxes(self, band: str) -> np.ndarray:
        """Fluxes [S] in a band; InputError when the catalogue has none."""
        if band not in self.flux:
            found = ", ".join(self.flux) or "none"
            raise InputError(f"{self.path}: no fluxes of band {band} (bands: {found})")
        return self.flux[band]


def parameter_names(bands, n_sources: int) -> list[str]:
    """Names in the order of `Catalog.vector`: F200W_0, ra_0, dec_0, q_0, ..."""
    return [f"{name}_{s}" for s in range(n_sources) for name in (*bands, *SHAPE_COLUMNS)]


def read_catalog(path) -> Catalog:
    """Read a catalogue with a header card FILTERS, or with a column per band.

    Raises
    ------
    InputError
        Naming the file and the column: missing, not numeric, not finite, or rh, q out of range.
    """
    path = Path(path)
    table = read_table(path)
    if len(table) == 0:
        raise InputError(f"{path}: the catalogue has no rows")
    bands = _bands(path, table)
    columns = {name: _column(table, name, path) for name in (*SHAPE_COLUMNS, *bands)}
    for row, q in enumerate(columns["q"]):
        if not q > 0:
            raise InputError(f"{path}: row {row}: q is {q}, expected sqrt(b/a) above 0")
    for row, dec in enumerate(columns["dec"]):
        if abs(dec) > 90:
            raise InputError(f"{path}: row {row}: dec is {dec} deg, expected within -90 to 90")
    shapes = np.stack([columns[name] for name in SHAPE_COLUMNS], -1)
    return Catalog(path, shapes, {band: columns[band] for band in bands})


def _bands(path: Path, table) -> list[str]:
    text = table.meta.get("FILTERS")
    if text is None and path.suffix.lower() in (".fits", ".fit", ".fz", ".gz"):
        with fits.open(path) as hdus:  # the card may be in the primary header
            text = hdus[0].header.get("FILTERS")
    if text is None:
        raise InputError(f"{path}: no header card FILTERS, expected the names of the flux columns")
    bands = [band.strip() for band in str(text).split(",") if band.strip()]
    for band in bands:
        if band not in table.colnames:
            raise InputError(
                f"{path}: no column '{band}', which FILTERS names (found: "
                f"{', '.join(table.colnames)})"
            )
    return bands


def _column(table, name: str, path: Path) -> np.ndarray:
    if name not in table.colnames:
        raise InputError(f"{path}: no column '{name}' (found: {', '.join(table.colnames)})")
    column = table[name]
    if column.dtype.kind not in "iuf" or column.ndim != 1:
        raise InputError(f"{path}: column '{name}' has dtype {column.dtype}, expected numbers")
    values = np.ma.filled(np.ma.asarray(column, float), np.nan)
    if not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values))[0])
        raise InputError(f"{path}: row {row}: column '{name}' holds no finite number")
    return np.asarray(values, float)
