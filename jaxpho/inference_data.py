"""Posteriors as ArviZ InferenceData: the only module that imports arviz.

Works with arviz 0.23, whose `InferenceData` is a class of its own, and with arviz 1, where it is
xarray's `DataTree`. Callers hand over plain arrays.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from jaxpho.errors import InputError
from jaxpho.files import replacing

GROUPS = (
    "posterior", "sample_stats", "warmup_posterior", "warmup_sample_stats", "observed_data",
    "constant_data",
)  # fmt: skip
SUFFIXES = (".nc", ".zarr")


@dataclass
class Groups:
    """What an InferenceData is made of.

    Attributes
    ----------
    arrays : dict
        Group (one of `GROUPS`) -> name -> array. Draws and statistics lead with [chain, draw].
    dims : dict
        Name -> names of the dimensions after chain and draw (all of them, for observed and
        constant data).
    coords : dict
        Dimension -> labels.
    attrs : dict
        Texts and numbers that describe the whole.
    units : dict
        Name -> unit, an attribute of the variable.
    """

    arrays: dict[str, dict[str, np.ndarray]]
    dims: dict[str, list[str]] = field(default_factory=dict)
    coords: dict[str, list] = field(default_factory=dict)
    attrs: dict = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)


def check_arviz(what: str) -> None:
    """Raise InputError when arviz is not installed; `what` asks for it."""
    if find_spec("arviz") is None:
        raise InputError(
            f"{what}: arviz is not installed; 'pip install \"jaxpho[arviz]\"' installs it"
        )


def make_inference_data(groups: Groups, what: str = "InferenceData"):
    """An `arviz.InferenceData`, or with arviz 1 an `xarray.DataTree`.

    Parameters
    ----------
    groups : Groups
    what : asks for it, named when arviz is not installed.

    Raises
    ------
    InputError
        When arviz is not installed.
    """
    check_arviz(what)
    import arviz

    arrays = {name: groups.arrays[name] for name in GROUPS if groups.arrays.get(name)}
    options = {
        "coords": groups.coords,
        "dims": groups.dims,
        "save_warmup": any(name.startswith("warmup_") for name in arrays),
    }
    if _is_tree(arviz):
        data = arviz.from_dict(arrays, attrs={"/": groups.attrs}, **options)
    else:
        data = arviz.from_dict(**arrays, attrs=groups.attrs, **options)
    for name in arrays:
        for variable, array in data[name].data_vars.items():
            if variable in groups.units:
                array.attrs["units"] = groups.units[variable]
    return data


def _is_tree(arviz) -> bool:
    """Whether this arviz has no InferenceData class of its own."""
    return int(arviz.__version__.split(".")[0]) >= 1


def write_groups(path, groups: Groups, what: str = "InferenceData") -> None:
    """Write an InferenceData file, in one step.

    Parameters
    ----------
    path : name ending in .nc (NetCDF) or .zarr (a folder; needs the package zarr).
    groups, what
        As for `make_inference_data`.

    Raises
    ------
    InputError
        When arviz or what it needs for the format is not installed, for other endings, and when
        the file cannot be written.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path}: expected a file name that ends in {' or '.join(SUFFIXES)}")
    data = make_inference_data(groups, what)
    try:
        if path.suffix == ".nc":
            with replacing(path) as temporary:
                data.to_netcdf(temporary)
        else:
            _write_zarr(path, data)
    except (ImportError, ValueError) as error:
        # xarray says which packages it would take, in several lines
        reason = str(error).strip().splitlines()
        raise InputError(f"{path} cannot be written: {reason[0] if reason else error}") from None
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror or error})") from None


def _write_zarr(path: Path, data) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.part{path.suffix}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        # of arviz 0.23 a method of its own, which refuses zarr 3; a tree of xarray takes any
        tree = data.to_datatree() if hasattr(data, "to_datatree") else data
        tree.to_zarr(temporary)
        shutil.rmtree(path, ignore_errors=True)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def scalars(attrs: Mapping) -> dict:
    """Attributes as NetCDF knows them: numbers and texts."""
    out = {}
    for name, value in attrs.items():
        if isinstance(value, bool | np.bool_):
            value = int(value)
        out[name] = value if isinstance(value, str | int | float | np.number) else str(value)
    return out
