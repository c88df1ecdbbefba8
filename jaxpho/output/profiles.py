"""Where the sources of a patch lie on its exposures, and their radial profiles."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxpho.fit.result import PatchResult
from jaxpho.output.derived import SourceView, ellipse_from_e
from jaxpho.output.psfshape import density
from jaxpho.output.residuals import ASTROMETRY, read_exposures

RINGS = 16
PIXEL_VARIANCE = 1.0 / 12.0
"""Of a square pixel of side 1: what a PSF free of the pixel lacks, per axis."""


class Place(NamedTuple):
    """A source on an exposure.

    Attributes
    ----------
    x, y : position, pixels of the exposure.
    d : [2, 2] d(x, y)/d(East, North), pixel/arcsec.
    """

    x: float
    y: float
    d: np.ndarray


class Profile(NamedTuple):
    """Means over elliptical rings; arrays [n], NaN where a ring has no good pixel.

    Attributes
    ----------
    radius : arcsec, circularised: sqrt of the product of the semi-axes.
    data, model, psf : flux per pixel; `psf` is that of a point with the model's centre, or NaN.
    error : 1 sigma of `data`, of independent pixels.
    npix : good pixels.
    """

    radius: np.ndarray
    data: np.ndarray
    error: np.ndarray
    model: np.ndarray
    psf: np.ndarray
    npix: np.ndarray


def attach_pixels(result: PatchResult, path, names=None) -> PatchResult:
    """Put pixels and astrometry of a residual file into the fit of its patch, in place.

    Parameters
    ----------
    result : PatchResult
    path : file of `jaxpho.output.residuals.write_residuals`.
    names : of exposures; default all.
    """
    pairs = zip(result.exposure_bands, result.exposures, strict=True)
    wanted = [(band, name) for band, name in pairs if names is None or name in names]
    for name, found in read_exposures(path, wanted).items():
        result.pixels[name] = {
            "x": found["xpix"], "y": found["ypix"], "data": found["data"],
            "ierr": found["ierr"], "model": found["data"] - found["residual"],
        }  # fmt: skip
        if all(key in found for key in ASTROMETRY):
            result.astrometry[name] = {key: found[key] for key in ASTROMETRY}
    return result


def place_of(result: PatchResult, s: int, exposure: str) -> Place | None:
    """Where a source lies on an exposure; None where the astrometry was not kept."""
    found = result.astrometry.get(exposure)
    if found is None or len(found["D"]) <= s:
        return None
    ra, dec = (_offset(result, s, name) / 3600.0 for name in ("ra", "dec"))
    ra /= np.cos(np.deg2rad(result.reference[1]))
    shift = found["CW"][s] @ (np.array([ra, dec]) - found["crval"][s])
    x, y = found["crpix"][s] + shift
    return Place(float(x), float(y), np.asarray(found["D"][s], float))


def _offset(result: PatchResult, s: int, name: str) -> float:
    """Offset [arcsec] of a source from the reference; 0 where it has none."""
    column = result.index(s, name)
    value = result.fixed.get((s, name, ""), 0.0) if column is None else result.theta[column]
    return float(value)


def shapes_of(result: PatchResult, s: int) -> list[tuple[float, float, float]]:
    """(rhalf [arcsec], q, pa [deg]) of each component; none for a point."""
    view, out = SourceView(result, s), []
    for suffix in view.suffixes():
        rhalf, e1, e2 = (view.value(key + suffix) for key in ("rhalf", "e1", "e2"))
        q, pa = ellipse_from_e(np.nan_to_num(e1), np.nan_to_num(e2))
        out.append((rhalf, float(q), float(pa)))
    return out


def ellipse_matrix(rhalf: float, q: float, pa: float, d) -> np.ndarray:
    """[2, 2] what maps the unit circle to the half-light ellipse, in pixels."""
    angle = np.deg2rad(pa)
    axes = np.array([[np.sin(angle), np.cos(angle)], [np.cos(angle), -np.sin(angle)]])
    return np.asarray(d) @ (axes * [rhalf / np.sqrt(q), rhalf * np.sqrt(q)])


def radial_profile(result: PatchResult, s: int, exposure: str, psf=None) -> Profile | None:
    """Profile of a source on an exposure, in rings of the shape of its (largest) component.

    Pixels that are nearer to another source of the patch are left out; what light of others is on
    the rest is in data and model alike.

    Parameters
    ----------
    result : PatchResult
        With pixels and astrometry.
    s, exposure : index of the source, name of the exposure.
    psf : PSFModel, optional
        Of the exposure.

    Returns
    -------
    Profile or None
        None where the exposure has no pixels or no astrometry.
    """
    pixels, place = result.pixels.get(exposure), place_of(result, s, exposure)
    if pixels is None or place is None:
        return None
    dx, dy = np.asarray(pixels["x"]) - place.x, np.asarray(pixels["y"]) - place.y
    own = np.hypot(dx, dy)
    mine = np.asarray(pixels["ierr"]) > 0
    for other in range(len(result.source_ids)):
        there = place_of(result, other, exposure)
        if other != s and there is not None:
            mine &= own <= np.hypot(pixels["x"] - there.x, pixels["y"] - there.y)
    shapes = shapes_of(result, s)
    rhalf, q, pa = max(shapes) if shapes else (0.0, 1.0, 0.0)
    radius = _elliptical(dx, dy, place.d, q, pa)
    scale = np.sqrt(abs(np.linalg.det(place.d)))  # pixel/arcsec
    reach = radius[mine].max() if mine.any() else 1.0
    edges = ring_edges(1.0 / scale, min(reach, max(6.0 * rhalf, 12.0 / scale)))
    ring = np.digitize(radius, edges) - 1
    use = mine & (ring >= 0) & (ring < len(edges) - 1)
    count = np.bincount(ring[use], minlength=len(edges) - 1)

    def mean(values):
        total = np.bincount(ring[use], np.asarray(values, float)[use], len(edges) - 1)
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)

    variance = np.zeros(len(radius))
    variance[use] = np.asarray(pixels["ierr"], float)[use] ** -2.0
    found = np.full(len(count), np.nan)
    model = mean(pixels["model"])
    if psf is not None:
        variance_of_pixel = 0.0 if psf.includes_pixel else PIXEL_VARIANCE
        found = mean(density(psf.at(place.x, place.y), dx, dy, variance_of_pixel))
        first = np.flatnonzero((count > 0) & (found > 0))
        if len(first):
            found = found * model[first[0]] / found[first[0]]
    error = np.sqrt(mean(variance) / np.maximum(count, 1))
    return Profile(mean(radius), mean(pixels["data"]), error, model, found, count)


def ring_edges(pixel: float, outer: float, rings: int = RINGS) -> np.ndarray:
    """Edges [arcsec] of rings: a pixel wide at first, then of growing width."""
    outer = max(outer, 3.0 * pixel)
    steps = np.arange(1, rings + 1) / rings
    # the quadratic term makes the last ring end at `outer`
    linear = min(pixel * rings, outer)
    return np.concatenate([[0.0], linear * steps + (outer - linear) * steps**2])


def _elliptical(dx, dy, d, q: float, pa: float) -> np.ndarray:
    """Circularised radius [arcsec] of pixel offsets."""
    east, north = np.linalg.inv(d) @ np.stack([dx, dy])
    angle = np.deg2rad(pa)
    major = east * np.sin(angle) + north * np.cos(angle)
    minor = east * np.cos(angle) - north * np.sin(angle)
    return np.sqrt(q * major**2 + minor**2 / q)
