"""The fit of a patch on disk: parameters, covariance, chains, diagnostics, bookkeeping."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np

from jaxpho.data.hdf5 import open_hdf5
from jaxpho.errors import InputError
from jaxpho.files import replacing
from jaxpho.fit.result import PatchResult

FORMAT = "jaxpho-samples-1"
_ARRAYS = (
    "at_bound", "flags", "chi2", "npix", "source_chi2", "source_npix", "source_nexp",
    "source_band_npix",
)  # fmt: skip
_OPTIONAL = ("start", "bounds", "mass_matrix_initial", "mass_matrix_final", "source_p_value",
             "source_residual_peak")  # fmt: skip
_LISTS = ("types", "bands", "exposures", "exposure_bands", "messages")


def write_samples(path, result: PatchResult, warmup: bool = True) -> None:
    """Write everything of a fit but its pixels, atomically.

    Layout: datasets `theta` [npar], `covariance` [npar, npar], `samples` [nchain, ndraw, npar],
    `statistics/<name>` [nchain, ndraw], `warmup/chain` [nchain, nwarmup, npar],
    `warmup/statistics/<name>`, `mass_matrix_initial` and `mass_matrix_final` [npar, npar] (in the
    unconstrained parameters of `jaxpho.fit.transforms`), `start` [npar], `bounds` [npar, 2], one
    dataset per diagnostic array; the rest in attributes, lists as JSON.

    Parameters
    ----------
    path : HDF5 file.
    result : PatchResult
    warmup : write the draws of the warm-up, too.
    """
    with replacing(path) as temporary, h5py.File(temporary, "w") as f:
        f.attrs["format"] = FORMAT
        f.attrs["patch_id"] = result.patch_id
        f.attrs["unit"] = result.unit
        if result.n_active is not None:
            f.attrs["n_active"] = int(result.n_active)
        f.attrs["reference"] = np.asarray(result.reference, float)
        f.attrs["conventions"] = (
            "ra, dec: offsets in arcsec (RA times cos dec, dec) from `reference` (deg); "
            f"fluxes in {result.unit}; rhalf in arcsec, circularised"
        )
        # datasets, because attributes are limited to 64 KiB
        for name in _LISTS:
            _write_json(f, name, getattr(result, name))
        _write_json(f, "source_ids", [_plain(item) for item in result.source_ids])
        _write_json(f, "labels", [_plain(label) for label in result.labels])
        _write_json(f, "fixed", [[_plain(k), float(v)] for k, v in result.fixed.items()])
        _write_json(f, "choices", result.choices)
        _write_json(f, "seconds", {k: float(v) for k, v in result.seconds.items()})
        f["theta"] = np.asarray(result.theta, float)
        f["covariance"] = np.asarray(result.covariance, float)
        for name in _ARRAYS:
            f[name] = np.asarray(getattr(result, name))
        for name in _OPTIONAL:
            if getattr(result, name) is not None:
                f[name] = np.asarray(getattr(result, name), float)
        if result.samples is not None:
            samples = np.asarray(result.samples)
            f.create_dataset("samples", data=samples, compression="gzip", shuffle=True)
            _write_statistics(f, result.statistics)
        if warmup and result.warmup is not None:
            group = f.create_group("warmup")
            chain = np.asarray(result.warmup)
            group.create_dataset("chain", data=chain, compression="gzip", shuffle=True)
            _write_statistics(group, result.warmup_statistics)
        group = f.create_group("diagnostics")
        scalars = {}
        for name, value in result.diagnostics.items():
            if isinstance(value, str | int | float | bool | None | np.generic):
                scalars[name] = _plain(value)
            else:
                group[name] = np.asarray(value)
        _write_json(group, "scalars", scalars)


def read_samples(path, warmup: bool = True) -> PatchResult:
    """Read a file of `write_samples`; `pixels` is empty (see `jaxpho.output.residuals`).

    What a file of an earlier version does not hold is None or empty; without `warmup`, its draws
    are not read.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such samples file")
    with open_hdf5(path, "samples file") as f:
        if f.attrs.get("format") != FORMAT:
            found = f.attrs.get("format", "none")
            raise InputError(f"{path}: expected a file of format {FORMAT}, found {found}")
        group = f["diagnostics"]
        diagnostics = dict(_read_json(group, "scalars"))
        diagnostics.update({k: group[k][()] for k in group if k != "scalars"})
        return PatchResult(
            patch_id=int(f.attrs["patch_id"]),
            source_ids=_read_json(f, "source_ids"),
            unit=str(f.attrs["unit"]),
            reference=tuple(float(x) for x in f.attrs["reference"]),
            labels=[_label(item) for item in _read_json(f, "labels")],
            theta=f["theta"][()],
            covariance=f["covariance"][()],
            fixed={_label(key): value for key, value in _read_json(f, "fixed")},
            samples=f["samples"][()] if "samples" in f else None,
            statistics=_read_statistics(f),
            warmup=f["warmup/chain"][()] if warmup and "warmup/chain" in f else None,
            warmup_statistics=_read_statistics(f["warmup"]) if warmup and "warmup" in f else {},
            diagnostics=diagnostics,
            seconds=_read_json(f, "seconds"),
            choices=_read_json(f, "choices") if "choices" in f else [],
            n_active=int(f.attrs["n_active"]) if "n_active" in f.attrs else None,
            **{name: f[name][()] for name in _ARRAYS},
            **{name: f[name][()] for name in _OPTIONAL if name in f},
            **{name: _read_json(f, name) for name in _LISTS},
        )


def read_active(path) -> list[str]:
    """Names of the sources that a patch has fitted; none where the file does not tell."""
    with open_hdf5(path, "samples file") as f:
        if "n_active" not in f.attrs:
            return []
        return [str(name) for name in _read_json(f, "source_ids")[: int(f.attrs["n_active"])]]


def _write_statistics(group, statistics: dict) -> None:
    for name, values in statistics.items():
        group.create_dataset(f"statistics/{name}", data=np.asarray(values), compression="gzip",
                             shuffle=True)  # fmt: skip


def _read_statistics(group) -> dict:
    return {name: node[()] for name, node in group.get("statistics", {}).items()}


def _plain(value):
    """Tuples and numpy scalars as JSON knows them."""
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def _label(item) -> tuple:
    owner, name, band = item
    return (tuple(owner) if isinstance(owner, list) else owner, name, band)


def _write_json(group, name: str, value) -> None:
    group.create_dataset(name, data=json.dumps(value), dtype=h5py.string_dtype("utf-8"))


def _read_json(group, name: str):
    return json.loads(group[name].asstr()[()])
