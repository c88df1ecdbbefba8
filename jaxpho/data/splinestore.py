"""Sersic spline tables on disk, forcepho's format: radii, nsersic, rh, amplitudes."""

from __future__ import annotations

from dataclasses import dataclass

import h5py
import numpy as np

from jaxpho.core.sersic import SersicSplines, load_splines
from jaxpho.data.hdf5 import open_hdf5, read_array, writing
from jaxpho.errors import InputError

NAMES = ("radii", "nsersic", "rh", "amplitudes")


@dataclass(frozen=True)
class SplineTable:
    """Amplitudes of Gaussians of fixed radii that add up to a Sersic profile.

    Attributes
    ----------
    radii : ndarray [K]
        Standard deviations, arcsec.
    nsersic, rh : ndarray [N]
        Sersic index and half-light radius (arcsec) of each row.
    amplitudes : ndarray [N, K]
        Fractions of the total flux.
    attrs : dict
        Attributes of the file.
    """

    radii: np.ndarray
    nsersic: np.ndarray
    rh: np.ndarray
    amplitudes: np.ndarray
    attrs: dict

    def splines(self, dtype=np.float32, kind: str = "rectangular") -> SersicSplines:
        """The bicubic splines of the table; see `jaxpho.core.sersic.load_splines`."""
        return load_splines(
            self.radii, self.nsersic, self.rh, self.amplitudes, dtype=dtype, kind=kind
        )


def read_spline_table(path) -> SplineTable:
    """Read a table.

    Raises
    ------
    InputError
        Naming the file and the data set: missing, foreign or damaged file, wrong type or shape,
        values that are not finite, rows that are not a full grid of nsersic and rh.
    """
    where = f"Sersic spline table {path}"
    with open_hdf5(path, "Sersic spline table") as file:
        arrays = [read_array(file, name, where) for name in NAMES]
        attrs = dict(file.attrs)
    radii, nsersic, rh, amplitudes = arrays
    expected = {
        "radii": (radii.size,),
        "nsersic": (nsersic.size,),
        "rh": (nsersic.size,),
        "amplitudes": (nsersic.size, radii.size),
    }
    for name, array in zip(NAMES, arrays, strict=True):
        if array.shape != expected[name] or array.size == 0:
            raise InputError(
                f"{where}: '{name}' has shape {array.shape}, expected {expected[name]} from "
                "radii and nsersic"
            )
        if not np.isfinite(array).all():
            raise InputError(f"{where}: '{name}' holds values that are not finite")
    _check_grid(nsersic, rh, where)
    return SplineTable(*arrays, attrs)


def _check_grid(nsersic: np.ndarray, rh: np.ndarray, where: str) -> None:
    """Raise InputError unless every nsersic comes once with every rh; rows in any order."""
    grids = {name: np.unique(a, return_counts=True) for name, a in
             (("nsersic", nsersic), ("rh", rh))}  # fmt: skip
    sizes = [values.size for values, _ in grids.values()]
    different = np.unique(np.stack([nsersic, rh]), axis=1).shape[1]
    if sizes[0] * sizes[1] == different == nsersic.size:
        return
    rarest = [f"{n} = {v[c.argmin()]:g} in {c.min()}" for n, (v, c) in grids.items()]
    raise InputError(
        f"{where}: {nsersic.size} rows with {sizes[0]} different nsersic and {sizes[1]} different "
        f"rh ({', '.join(rarest)} of them) are not a full regular grid"
    )


def write_spline_table(path, table: SplineTable) -> None:
    """Write a table in one step; data sets keep their types."""
    with writing(path) as temporary, h5py.File(temporary, "w") as file:
        for name in NAMES:
            file.create_dataset(name, data=getattr(table, name))
        file.attrs.update(table.attrs)
