"""Rows of the final catalogues: from the optimum, from the draws, and the draws themselves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from jaxpho.fit.diagnostics import diagnose
from jaxpho.fit.links import is_difference
from jaxpho.fit.result import PatchResult
from jaxpho.output import columns as registry
from jaxpho.output.catalog import part_of, rows_of_patch
from jaxpho.output.derived import SourceView, ellipse_from_e, sky_position, summarise
from jaxpho.output.photometry import derived_at, derived_estimates

ENDINGS = tuple(end for end, _ in registry.SPREAD)
FEWEST_DRAWS = 4
"""Of a chain, for diagnostics."""


def optimum_rows(result: PatchResult, apertures=(), wavelengths=None) -> list[dict]:
    """Rows of a patch from its optimum, with Laplace errors, draws or not.

    Parameters
    ----------
    result : PatchResult
    apertures : radii of circular apertures, arcsec.
    wavelengths : band -> micron, see `photometry.derived_at`.
    """
    kept = {} if result.samples is not None else {
        k: v for k, v in result.diagnostics.items() if k == "prior_dominated"
    }  # fmt: skip
    bare = replace(result, samples=None, diagnostics=kept)
    rows = rows_of_patch(bare)
    for s, row in enumerate(rows):
        view = SourceView(bare, s)
        for name, estimate in derived_estimates(view, apertures, None, wavelengths).items():
            _put(row, name, estimate)
        row["read_from"] = "patch"
    return rows


def sampled_rows(result: PatchResult, apertures=(), wavelengths=None) -> list[dict]:
    """Rows of a patch from its draws: value at the optimum, then mean, error, quantiles, worth.

    Parameters
    ----------
    result, apertures, wavelengths : as of `optimum_rows`; without draws the rows are those.
    """
    if result.samples is None:
        return optimum_rows(result, apertures, wavelengths)
    rows = rows_of_patch(result)
    for s, row in enumerate(rows):
        view = SourceView(result, s)
        draws = source_draws(view, apertures, wavelengths)
        for name, estimate in derived_estimates(view, apertures, draws, wavelengths).items():
            _put(row, name, estimate)
        for name in ("ra", "dec"):
            estimate = summarise(row[name], np.nan, draws[name].ravel())
            for end, value in zip(ENDINGS[1:], estimate[2:], strict=True):
                row[name + end] = value % 360.0 if name == "ra" else value
        row.update(_worth(draws))
        row["read_from"] = "patch"
    return rows


def source_draws(view: SourceView, apertures=(), wavelengths=None) -> dict[str, np.ndarray]:
    """Draws [chain, draw] of every quantity of a source, by the name of its column.

    Angles are within 90 deg of the fitted one, right ascensions within 180, so that averages mean
    something.
    """
    result, shape = view.result, view.result.samples.shape[:2]
    ra, dec = sky_position(result.reference, view.drawn("ra"), view.drawn("dec"))
    ra0, _ = sky_position(result.reference, view.value("ra"), view.value("dec"))
    out = {"ra": ra0 + (ra - ra0 + 180.0) % 360.0 - 180.0, "dec": dec}
    names = view.flux_names()
    for band in result.bands:
        drawn = {name: view.drawn(name, band) for name in names}
        for name in names:
            if view.result.index(view.s, name, band) is not None:
                drawn[name] = drawn[name] if result.measured(view.s, band) else (
                    np.full(len(view.draws), np.nan)
                )  # fmt: skip
        out[f"flux_{band}"] = sum(drawn.values())
        for name in names if len(names) > 1 else ():
            out[f"flux_{part_of(name)}_{band}"] = drawn[name]
    for suffix in view.suffixes():
        for key in ("rhalf", "sersic", "e1", "e2"):
            if view.has(key + suffix):
                out[key + suffix] = view.drawn(key + suffix)
        if view.has("e1" + suffix):
            q, pa = ellipse_from_e(out["e1" + suffix], out["e2" + suffix])
            _, pa0 = ellipse_from_e(view.value("e1" + suffix), view.value("e2" + suffix))
            out["rhalf_major" + suffix] = out["rhalf" + suffix] / np.sqrt(q)
            out["q" + suffix], out["pa" + suffix] = q, pa0 + (pa - pa0 + 90.0) % 180.0 - 90.0
    for name in filter(is_difference, view.names):
        for _, band in view.labels(name):
            out[f"{name}_{band}" if band else name] = view.drawn(name, band)
    out |= derived_at(view, view.draws, apertures, wavelengths)
    return {name: np.reshape(values, shape) for name, values in out.items()}


def chain_row(view: SourceView, apertures=(), thin: int = 1, wavelengths=None) -> dict:
    """A source's id, patch, numbers of chains and draws, and every quantity's draws."""
    draws = {k: v[:, ::thin] for k, v in source_draws(view, apertures, wavelengths).items()}
    nchain, ndraw = draws["ra"].shape
    identity = {
        "id": str(view.result.source_ids[view.s]),
        "type": view.type,
        "patch": int(view.result.patch_id),
        "nchain": nchain,
        "ndraw": ndraw,
    }
    return identity | draws


def _put(row: dict, name: str, estimate) -> None:
    row[name] = estimate.value
    row.update({name + end: value for end, value in zip(ENDINGS, estimate[1:], strict=True)})


def _worth(draws: dict[str, np.ndarray]) -> dict[str, float]:
    """Name and ending of `columns.WORTH` -> value; NaN for what is held or not finite."""
    names = [name for name, values in draws.items() if np.isfinite(values).all()]
    if not names or draws["ra"].shape[1] < FEWEST_DRAWS:
        return {}
    found = diagnose(np.stack([draws[name] for name in names], -1))
    out = {}
    for name, rhat, bulk, tail in zip(names, found.rhat, found.bulk, found.tail, strict=True):
        for (end, _, _), value in zip(registry.WORTH, (bulk, tail, rhat), strict=True):
            out[name + end] = float(value)
    return out
