"""The fit of a patch on disk: parameters, covariance, chains, diagnostics, bookkeeping."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np

from jaxpho.errors import InputError
from jaxpho.files import replacing
from jaxpho.fit.result import PatchResult

FORMAT = "jaxpho-samples-1"
_ARRAYS = (
    "at_bound", "flags", "chi2", "npix", "source_chi2", "source_npix", "source_nexp",
    "source_band_npix",
)  # fmt: skip
_LISTS = ("types", "bands", "exposures", "exposure_bands", "messages")


def write_samples(path, result: PatchResult) -> None:
    """Write everything of a fit but its pixels, atomically.

    Layout: datasets `theta` [npar], `covariance` [npar, npar], `samples` [nchain, ndraw, npar],
    one dataset per diagnostic array; the rest in attributes, lists as JSON.
    """
    with replacing(path) as temporary, h5py.File(temporary, "w") as f:
        f.attrs["format"] = FORMAT
        f.attrs["patch_id"] = result.patch_id
        f.attrs["unit"] = result.unit
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
        _write_json(f, "seconds", {k: float(v) for k, v in result.seconds.items()})
        f["theta"] = np.asarray(result.theta, float)
        f["covariance"] = np.asarray(result.covariance, float)
        for name in _ARRAYS:
            f[name] = np.asarray(getattr(result, name))
        if result.samples is not None:
            samples = np.asarray(result.samples)
            f.create_dataset("samples", data=samples, compression="gzip", shuffle=True)
        group = f.create_group("diagnostics")
        scalars = {}
        for name, value in result.diagnostics.items():
            if isinstance(value, str | int | float | bool | None | np.generic):
                scalars[name] = _plain(value)
            else:
                group[name] = np.asarray(value)
        _write_json(group, "scalars", scalars)


def read_samples(path) -> PatchResult:
    """Read a file of `write_samples`; `pixels` is empty (see `jaxpho.output.residuals`)."""
    if not Path(path).is_file():
        raise InputError(f"{path}: no such samples file")
    with h5py.File(path, "r") as f:
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
            diagnostics=diagnostics,
            seconds=_read_json(f, "seconds"),
            **{name: f[name][()] for name in _ARRAYS},
            **{name: _read_json(f, name) for name in _LISTS},
        )


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
