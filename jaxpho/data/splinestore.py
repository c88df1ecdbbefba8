"""Sersic spline tables on disk, forcepho's format: radii, nsersic, rh, amplitudes."""

from __future__ import annotations

from dataclasses import dataclass, field

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
    where : str
        Names the table, in errors.
    """

    radii: np.ndarray
    nsersic: np.ndarray
    rh: np.ndarray
    amplitudes: np.ndarray
    attrs: dict
    where: str = field(default="Sersic spline table", compare=False)

    def splines(self, dtype=np.float32, kind: str = "rectangular") -> SersicSplines:
        """The bicubic splines of the table; see `jaxpho.core.sersic.load_splines`.

        Raises
        ------
        InputError
            When the rows are not a full grid of nsersic and rh, which "rectangular" needs.
        """
        try:
            return load_splines(
                self.radii, self.nsersic, self.rh, self.amplitudes, dtype=dtype, kind=kind
            )
        except InputError as error:
            raise InputError(f"{self.where}: {error}") from None


def read_spline_table(path) -> SplineTable:
    """Read a table.

    Raises
    ------
    InputError
        Naming the file and the data set: missing, foreign or damaged file, wrong type or shape,
        values that are not finite.
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
    return SplineTable(*arrays, attrs, where)


def write_spline_table(path, table: SplineTable) -> None:
    """Write a table in one step; data sets keep their types."""
    with writing(path) as temporary, h5py.File(temporary, "w") as file:
        for name in NAMES:
            file.create_dataset(name, data=getattr(table, name))
        file.attrs.update(table.attrs)
