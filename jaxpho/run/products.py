"""The files of one patch."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np

from jaxpho.compat.archive import FOLDER, Archive
from jaxpho.compat.results import Membership
from jaxpho.config import Config
from jaxpho.data.catalog import Peak
from jaxpho.data.regions import Region
from jaxpho.errors import InputError
from jaxpho.fit.result import PatchResult
from jaxpho.output.inference import write_inference_data
from jaxpho.output.plots import write_patch_plot
from jaxpho.output.residuals import write_residuals
from jaxpho.output.samples import write_samples
from jaxpho.run.field import Field
from jaxpho.schema import to_plain

log = logging.getLogger("jaxpho.run")


def make_archive(config: Config, found: Field) -> Archive | None:
    """The archive in forcepho's layout, where one is asked for."""
    products = config.products
    if not products.forcepho:
        return None
    return Archive(
        Path(config.output) / FOLDER, found.peaks, config.bands, products.forcepho_scene,
        to_plain(config), products.warmup,
    )  # fmt: skip


def held_sources(found: Field, latest: dict[int, Peak], region: Region) -> list[tuple[int, Peak]]:
    """(number, source) of the neighbours that are modelled, held at their latest values."""
    held = [(i, latest.get(i, found.peaks[i])) for i in region.fixed]
    return [(i, replace(p, fixed=frozenset({"all"}))) for i, p in held if _has_flux(p)]


def _has_flux(peak: Peak) -> bool:
    return any(np.isfinite(value) and value != 0 for value in peak.flux.values())


def write_products(state, region: Region, result: PatchResult) -> None:
    """Write the files of one patch that the configuration asks for.

    Parameters
    ----------
    state : RunState
    region, result : the patch.
    """
    products, folder = state.config.products, state.folder / "patches"
    trim_pixels(result, state.field.exposures)
    stem = f"patch{region.patch_id}"
    residuals = folder / f"{stem}_residuals.h5" if products.residuals else None
    if products.samples:
        write_samples(folder / f"{stem}_samples.h5", result, products.warmup)
    if residuals is not None:
        write_residuals(residuals, result)
    if products.arviz and result.samples is not None:
        write_inference_data(folder / f"{stem}_posterior.nc", result, warmup=products.warmup)
    if state.archive is not None:
        _archive(state, region, result, residuals)
    if state.images is not None:
        state.images.add(result)
    if products.plots:
        wcs = {exposure.name: exposure.wcs for exposure in state.field.exposures}
        write_patch_plot(folder / f"{stem}.png", result, wcs, products.plot_exposures)


def _archive(state, region: Region, result: PatchResult, residuals) -> None:
    """Write a patch in forcepho's layout; one that it cannot hold is left out, with a warning."""
    found = state.field
    index = [*region.active, *(i for i, _ in held_sources(found, state.latest, region))]
    roi = [float(found.radius[i]) for i in index]
    membership = Membership(index, roi, len(region.active))
    try:
        state.archive.add(result, membership, patch_radius(result, roi, membership), residuals)
    except InputError as error:
        log.warning("patch %d is not in %s: %s", region.patch_id, state.archive.folder, error)


def patch_radius(result: PatchResult, roi, membership: Membership) -> float:
    """Radius [arcsec] about the reference that holds the active sources with their influence."""
    radius = 0.0
    for s in range(membership.n_active):
        offset = []
        for name in ("ra", "dec"):
            column = result.index(s, name)
            held = result.fixed.get((s, name, ""), 0.0)
            offset.append(held if column is None else float(result.theta[column]))
        radius = max(radius, float(np.hypot(*offset)) + roi[s])
    return radius


def trim_pixels(result: PatchResult, exposures) -> None:
    """Drop the parts of edge tiles that lie outside the images, in place."""
    shapes = {exposure.name: exposure.shape for exposure in exposures}
    for name, pixels in result.pixels.items():
        ny, nx = shapes[name]
        x, y = np.asarray(pixels["x"]), np.asarray(pixels["y"])
        inside = (x >= 0) & (x < nx) & (y >= 0) & (y < ny)
        if not inside.all():
            result.pixels[name] = {k: np.asarray(v)[inside] for k, v in pixels.items()}
