"""The draws of a patch as ArviZ InferenceData: named parameters with coordinates."""

from __future__ import annotations

import numpy as np

from jaxpho.core.sources import base_name
from jaxpho.errors import InputError
from jaxpho.fit.result import PatchResult
from jaxpho.inference_data import Groups, make_inference_data, scalars, write_groups

STATISTICS = {"step_size": "step_size", "diverging": "diverging", "n_steps": "n_steps",
              "accept": "acceptance_rate", "energy": "energy"}  # fmt: skip
"""Ours -> ArviZ's names; `lp` is minus our potential."""
_UNITS = {"ra": "arcsec", "dec": "arcsec", "rhalf": "arcsec", "offset_ra": "arcsec",
          "offset_dec": "arcsec"}  # fmt: skip
CONVENTIONS = (
    "ra, dec: offsets in arcsec (RA times cos dec, dec) from reference_ra, reference_dec (deg); "
    "e1, e2: (1-q)/(1+q) times cos, sin of twice the position angle, East of North; NaN: no free "
    "parameter of this source"
)


def to_inference_data(result: PatchResult, warmup: bool = True, pixels: bool = False):
    """The posterior of a patch as an `arviz.InferenceData` (arviz 1: `xarray.DataTree`).

    Parameters
    ----------
    result : PatchResult
        With draws.
    warmup : bool
        With the groups of the warm-up.
    pixels : bool
        With the data in `observed_data` and errors, positions and exposure in `constant_data`.

    Returns
    -------
    InferenceData
        `posterior` has the free parameters by name with the coordinates `source` (and `band`),
        those of exposures with `exposure`; `sample_stats` has step_size, diverging, n_steps,
        acceptance_rate, energy and lp (up to a constant).

    Raises
    ------
    InputError
        Without draws, or when arviz is not installed.
    """
    return make_inference_data(groups_of(result, warmup, pixels), "to_inference_data")


def write_inference_data(
    path, result: PatchResult, warmup: bool = True, pixels: bool = False
) -> None:
    """Write `to_inference_data` as a file .nc or .zarr, in one step."""
    write_groups(path, groups_of(result, warmup, pixels))


def groups_of(result: PatchResult, warmup: bool = True, pixels: bool = False) -> Groups:
    """The plain arrays of `to_inference_data`."""
    _check_draws(result, "InferenceData")
    coords = _coordinates(result)
    posterior, dims = _named(result, result.samples, coords)
    arrays = {"posterior": posterior, "sample_stats": _statistics(result.statistics)}
    if warmup and result.warmup is not None:
        arrays["warmup_posterior"] = _named(result, result.warmup, coords)[0]
        arrays["warmup_sample_stats"] = _statistics(result.warmup_statistics)
    if pixels:
        _add_pixels(result, arrays, dims)
    used = {name for names in dims.values() for name in names}
    attrs = {
        "creation_library": "jaxpho",
        "patch_id": result.patch_id,
        "reference_ra": float(result.reference[0]),
        "reference_dec": float(result.reference[1]),
        "flux_unit": result.unit,
        "conventions": CONVENTIONS,
        "sampling_method": result.diagnostics.get("method", "nuts"),
    }
    units = {name: _unit(name, result.unit) for name in posterior}
    return Groups(
        arrays,
        dims,
        {name: labels for name, labels in coords.items() if name in used},
        scalars(attrs),
        {name: unit for name, unit in units.items() if unit},
    )


def named_draws(result: PatchResult) -> dict[str, np.ndarray]:
    """Name -> draws [chain, draw, source(, band)], of nuisances [chain, draw, exposure]."""
    _check_draws(result, "draws")
    return _named(result, result.samples, _coordinates(result))[0]


def _check_draws(result: PatchResult, what: str) -> None:
    if result.samples is None:
        raise InputError(f"patch {result.patch_id} has no draws (sample.method: none): no {what}")


def _coordinates(result: PatchResult) -> dict[str, list]:
    owners = [owner[1] for owner, _, _ in result.labels if not isinstance(owner, int)]
    return {
        "source": [str(name) for name in result.source_ids],
        "band": list(result.bands),
        "exposure": list(dict.fromkeys(owners)),
    }


def _unit(name: str, flux: str) -> str:
    base = base_name(name)
    return flux if base in ("flux", "sky") else _UNITS.get(name, _UNITS.get(base, ""))


def _named(result: PatchResult, draws, coords):
    """Name -> draws [chain, draw, source(, band)] or [chain, draw, exposure], and dimensions."""
    draws = np.asarray(draws, float)
    out: dict[str, np.ndarray] = {}
    dims: dict[str, list[str]] = {}
    for column, (owner, name, band) in enumerate(result.labels):
        own = isinstance(owner, int)
        dims[name] = (["source", "band"] if band else ["source"]) if own else ["exposure"]
        shape = [len(coords[d]) for d in dims[name]]
        values = out.setdefault(name, np.full((*draws.shape[:2], *shape), np.nan))
        at = owner if own else coords["exposure"].index(owner[1])
        at = (at, coords["band"].index(band)) if band else (at,)
        values[(..., *at)] = draws[..., column]
    return out, dims


def _statistics(statistics: dict) -> dict[str, np.ndarray]:
    out = {STATISTICS[k]: np.asarray(v) for k, v in statistics.items() if k in STATISTICS}
    if "potential" in statistics:
        out["lp"] = -np.asarray(statistics["potential"])
    return out


def _add_pixels(result: PatchResult, arrays: dict, dims: dict) -> None:
    known = [e for e in result.exposures if e in result.pixels]
    if not known:
        raise InputError(f"patch {result.patch_id} has no pixels: they are not in its samples file")
    joined = {
        name: np.concatenate([np.asarray(result.pixels[e][name]) for e in known])
        for name in ("data", "ierr", "x", "y")
    }
    arrays["observed_data"] = {"data": joined.pop("data")}
    count = [len(result.pixels[e]["data"]) for e in known]
    joined["exposure_of_pixel"] = np.repeat(np.array(known), count)
    arrays["constant_data"] = joined
    dims |= {name: ["pixel"] for name in ("data", *joined)}
