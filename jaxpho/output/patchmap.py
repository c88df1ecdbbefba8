"""Where the patches of a run lie, and whose sources they have."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from jaxpho.data.hdf5 import open_hdf5
from jaxpho.output.derived import sky_position
from jaxpho.output.images import source_positions
from jaxpho.output.runfiles import RunFiles, number_of
from jaxpho.output.samples import read_samples

ALONE = 1.0
"""Radius [arcsec] of a patch of which only the sources are known, beyond them."""


class PatchPart(NamedTuple):
    """The pixels of one exposure in the residual file of a patch."""

    patch: int
    path: Path
    where: str


class Contents(NamedTuple):
    """What a residual file has: (band, exposure) -> place, and the circle of its pixels."""

    parts: dict[tuple[str, str], str]
    circle: tuple[float, float, float] | None


def contents_of(path) -> Contents:
    """Exposures of a residual file, and (ra, dec [deg], radius [arcsec]) around their pixels.

    Raises
    ------
    InputError
        When the file is damaged.
    """
    parts, radius = {}, 0.0
    with open_hdf5(path, "residual file") as f:
        reference = np.asarray(f["reference_coordinates"][()], float)

        def visit(where, item):
            nonlocal radius
            if not (isinstance(item, h5py.Group) and "xpix" in item):
                return
            band, _, name = where.partition("/")
            parts[str(item.attrs.get("band", band)), str(item.attrs.get("exposure", name))] = where
            radius = max(radius, _reach(item, reference[1]))

        f.visititems(visit)
    circle = (float(reference[0]), float(reference[1]), radius) if radius > 0 else None
    return Contents(parts, circle)


def _reach(item, dec: float) -> float:
    """Largest distance [arcsec] of a pixel of an exposure from the reference of the patch."""
    if not {"D", "crpix", "crval"} <= set(item):
        return 0.0
    x, y = item["xpix"][()], item["ypix"][()]
    if not len(x):
        return 0.0
    # the affine map of the first source, good enough for a circle
    inverse = np.linalg.inv(np.asarray(item["D"][0], float))
    offset = np.asarray(item["crval"][0], float) * 3600.0 * [np.cos(np.radians(dec)), 1.0]
    pixels = np.stack([x, y], -1) - np.asarray(item["crpix"][0], float)
    return float(np.hypot(*(pixels @ inverse.T + offset).T).max())


def patch_circles(run: RunFiles, progress=iter) -> dict[str, tuple[float, float, float]]:
    """Name of a patch -> circle around its pixels, or its sources where those are not kept."""
    out = {}
    names = set(run.residuals) | set(run.samples)
    for name in progress(sorted(names, key=lambda name: (number_of(name), name))):
        if name in run.residuals:
            found = run.attempt(run.residuals[name], contents_of)
            if found is not None and found.circle is not None:
                out[name] = found.circle
                continue
        if name in run.samples:
            found = run.attempt(run.samples[name], _circle_of_sources)
            if found is not None:
                out[name] = found
    return out


def _circle_of_sources(path) -> tuple[float, float, float]:
    result = read_samples(path)
    ra0, dec0 = result.reference
    ra, dec = source_positions(result)
    dx = ((ra - ra0 + 180.0) % 360.0 - 180.0) * np.cos(np.radians(dec0))
    return ra0, dec0, float(3600 * np.hypot(dx, dec - dec0).max()) + ALONE


def own_positions(run: RunFiles) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Number of a patch -> (ra, dec) [deg] of the sources that it has fitted."""
    out = {}
    for _, result in run.results():
        ra, dec = source_positions(result)
        own = run.owned(result)
        place = (ra[own], dec[own]) if own else sky_position(result.reference, 0, 0)
        known = out.get(result.patch_id, ([], []))  # of the other part of a patch that was cut
        out[result.patch_id] = tuple(np.append(a, b) for a, b in zip(known, place, strict=True))
    return out


def index_exposures(run: RunFiles, progress=iter) -> dict[tuple[str, str], list[PatchPart]]:
    """(band, exposure) -> its pixels in the patches, in the order of the patches."""
    out: dict = {}
    for name, path in progress(run.residuals.items()):
        found = run.attempt(path, contents_of)
        for key, where in () if found is None else found.parts.items():
            out.setdefault(key, []).append(PatchPart(number_of(name), path, where))
    return out
