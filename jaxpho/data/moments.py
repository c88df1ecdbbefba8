"""Rough starting sizes, shapes and fluxes of sources from the pixels around them."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from jaxpho.core.sources import SOURCE_TYPES
from jaxpho.data.catalog import Peak
from jaxpho.data.exposure import Exposure
from jaxpho.data.wcs import contains, local_affine

log = logging.getLogger("jaxpho.moments")

MAX_RADIUS = 10.0  # arcsec, of the pixels that are looked at, unless the size is known
MIN_SN = 5.0  # below, shapes from moments are noise
SIGMA_TO_RHALF = 1.4  # of the adaptive Gaussian, for exponential disks (a Gaussian has 1.18)
APERTURE = 3.0  # sigma of the adaptive Gaussian
MIN_Q = 0.2


class _Stamp(NamedTuple):
    """Pixels of one exposure around a source, offsets from it in arcsec."""

    band: str
    east: np.ndarray
    north: np.ndarray
    data: np.ndarray  # flux per arcsec^2
    weight: float  # inverse variance of the surface brightness per unit area
    area: float  # arcsec^2 per pixel
    psf: np.ndarray | None  # [2, 2] arcsec^2


def _psf_covariance(exposure: Exposure, crpix, inverse) -> np.ndarray | None:
    """Core of the PSF mixture on the sky [arcsec^2]; None when there is no mixture."""
    at = getattr(exposure.psf, "at", None)
    if at is None:
        return None
    c = at(float(crpix[0]), float(crpix[1]))
    c = c[c["sersic_bin"] <= 0]
    cov = np.array([[c["Cxx"], c["Cxy"]], [c["Cxy"], c["Cyy"]]], float).transpose(2, 0, 1)
    if not exposure.psf.includes_pixel:
        cov += np.eye(2) / 12
    # components count by their central height: the adaptive moments see the core, not the wings
    height = np.abs(c["amp"]) / np.sqrt(np.maximum(np.linalg.det(cov), 1e-12))
    mean = (height[:, None, None] * cov).sum(0) / height.sum()
    return inverse @ mean @ inverse.T


def _stamps(exposures, peak: Peak, others: np.ndarray, radius: float) -> list[_Stamp]:
    out = []
    for e in exposures:
        if not e.near(peak.ra, peak.dec, 0.0):
            continue
        if not contains(e.wcs, e.shape, peak.ra, peak.dec, margin=0):
            continue
        crpix, _, d = local_affine(e.wcs, peak.ra, peak.dec)
        if not np.isfinite(d).all():
            continue
        inverse = np.linalg.inv(d)
        area = abs(np.linalg.det(inverse))
        reach = int(math.ceil(radius / math.sqrt(area)))
        x0, x1 = max(0, int(crpix[0]) - reach), min(e.shape[1], int(crpix[0]) + reach + 2)
        y0, y1 = max(0, int(crpix[1]) - reach), min(e.shape[0], int(crpix[1]) + reach + 2)
        y, x = np.mgrid[y0:y1, x0:x1]
        offset = inverse @ np.stack([x.ravel() - crpix[0], y.ravel() - crpix[1]])
        image, ierr = (a.ravel() for a in e.cutout(x0, x1, y0, y1))
        use = (ierr > 0) & (np.hypot(*offset) <= radius)
        for dx, dy in others:
            # pixels nearer to a neighbour are its own
            use &= np.hypot(*offset) <= np.hypot(offset[0] - dx, offset[1] - dy)
        if use.sum() < 5:
            continue
        data = image[use] / area
        weight = float(np.median(ierr[use].astype(float) ** 2)) * area
        psf = _psf_covariance(e, crpix, inverse)
        out.append(_Stamp(e.band, offset[0][use], offset[1][use], data, weight, area, psf))
    return out


def _adaptive(stamps: list[_Stamp], start: float) -> tuple[np.ndarray, float] | None:
    """Covariance [arcsec^2] of the elliptical Gaussian that fits best in its own weight, and S/N.

    Bernstein & Jarvis (2002), section 3: weighted covariance = half the weight's at the solution.
    """
    m = np.eye(2) * start**2
    for _ in range(50):
        if not np.isfinite(m).all() or np.linalg.det(m) <= 0:
            return None  # an absurd pixel: the source starts from defaults
        inverse = np.linalg.inv(m)
        total, moment, noise = 0.0, np.zeros((2, 2)), 0.0
        for s in stamps:
            q = (
                inverse[0, 0] * s.east**2
                + 2 * inverse[0, 1] * s.east * s.north
                + inverse[1, 1] * s.north**2
            )
            w = np.exp(-0.5 * q) * s.weight * s.area
            f = w * s.data
            total += f.sum()
            noise += (w**2).sum() / (s.weight * s.area)
            moment += np.array(
                [
                    [(f * s.east**2).sum(), (f * s.east * s.north).sum()],
                    [(f * s.east * s.north).sum(), (f * s.north**2).sum()],
                ]
            )
        if not total > 0:
            return None
        new = 2 * moment / total
        eigen = np.linalg.eigvalsh(new)
        if not (np.isfinite(eigen).all() and eigen[0] > 0):
            return None
        limit = max(s.east.max(initial=0.0) for s in stamps) ** 2
        if eigen[1] > limit:
            return None
        change = np.abs(new - m).max() / m.max()
        m = new
        if change < 1e-3:
            break
    # noise of `total` with variance 1 / (weight x area) per pixel of surface brightness
    return m, total / math.sqrt(noise) if noise > 0 else 0.0


def _fluxes(stamps: list[_Stamp], m: np.ndarray) -> dict[str, float]:
    """Flux per band in an elliptical aperture, pixels without data made up for."""
    inverse, norm = np.linalg.inv(m), 2 * math.pi * math.sqrt(np.linalg.det(m))
    sums: dict[str, list[float]] = {}
    for s in stamps:
        q = (
            inverse[0, 0] * s.east**2
            + 2 * inverse[0, 1] * s.east * s.north
            + inverse[1, 1] * s.north**2
        )
        inside = q < APERTURE**2
        fraction = np.exp(-0.5 * q[inside]).sum() * s.area / norm
        if fraction > 0.2:
            flux = s.data[inside].sum() * s.area / fraction
            entry = sums.setdefault(s.band, [0.0, 0.0])
            entry[0] += flux * s.weight
            entry[1] += s.weight
    return {band: float(a / b) for band, (a, b) in sums.items()}


def moments_start(
    exposures: Sequence[Exposure], peak: Peak, neighbours: Sequence[Peak] = ()
) -> Peak:
    """A peak with unknown size, shape and fluxes filled from the pixels.

    Parameters
    ----------
    exposures : with `PSFModel`s the size is deconvolved, roughly; else it is as observed.
    peak : what it already knows is kept.
    neighbours : pixels nearer to one of them than to the peak are not used.

    Returns
    -------
    peak : a new object. Sizes stay unknown where the source is too faint; fluxes stay unknown
        in bands without pixels.
    """
    kind = SOURCE_TYPES[peak.type]
    known = peak.values.get("rhalf") or max(
        (v for k, v in peak.values.items() if k.startswith("rhalf_")), default=None
    )
    radius = max(MAX_RADIUS, 4 * known) if known else MAX_RADIUS
    cosd = math.cos(math.radians(peak.dec))
    others = [
        (((p.ra - peak.ra + 180) % 360 - 180) * cosd * 3600, (p.dec - peak.dec) * 3600)
        for p in neighbours
        if p is not peak
    ]
    others = [o for o in others if 1e-3 < math.hypot(*o) < 2 * radius]
    stamps = _stamps(exposures, peak, np.array(others).reshape(-1, 2), radius)
    out = Peak(peak.id, peak.type, peak.ra, peak.dec, dict(peak.values), dict(peak.flux),
               peak.fixed, peak.flags, peak.auto)  # fmt: skip
    if not stamps:
        return out
    pixel = math.sqrt(min(s.area for s in stamps))
    found = _adaptive(stamps, 2 * pixel)
    m, sn = found if found else (np.eye(2) * (2 * pixel) ** 2, 0.0)
    for band, flux in _fluxes(stamps, m).items():
        if not any(key in out.flux for key in [("flux", band), *((n, band) for n in kind.fluxes)]):
            out.flux["flux", band] = flux
    if sn >= MIN_SN and any(c.profile == "sersic" for c in kind.components):
        for name, value in _shape(stamps, m, pixel).items():
            own = any(k == name or k.startswith(name + "_") for k in out.values)
            if not own and not (name == "pa" and "q" in peak.values):
                out.values[name] = value
    return out


def _shape(stamps: list[_Stamp], m: np.ndarray, pixel: float) -> dict[str, float]:
    psfs = [(s.weight, s.psf) for s in stamps if s.psf is not None]
    floor = (0.3 * pixel) ** 2
    if len(psfs) == len(stamps):
        psf = sum(w * p for w, p in psfs) / sum(w for w, _ in psfs)
        floor = max(floor, 0.04 * np.trace(psf) / 2)
        m = m - psf
    values, vectors = np.linalg.eigh(m)
    small, large = np.maximum(values, floor)
    q = float(np.clip(math.sqrt(small / large), MIN_Q, 1.0))
    east, north = vectors[:, 1]
    return {
        "rhalf": float(SIGMA_TO_RHALF * (small * large) ** 0.25),
        "q": q,
        "pa": float(math.degrees(math.atan2(east, north)) % 180.0),
    }


def significance(exposures: Sequence[Exposure], peak: Peak, covariance: np.ndarray) -> float:
    """S/N of a source in a Gaussian of this covariance [2, 2, arcsec^2], all exposures together.

    In the exposures' own pixels, so that a resampled stack's correlated noise does not count.
    """
    radius = 4 * math.sqrt(np.linalg.eigvalsh(covariance)[1])
    inverse = np.linalg.inv(covariance)
    signal = noise = 0.0
    for s in _stamps(exposures, peak, np.zeros((0, 2)), radius):
        q = (
            inverse[0, 0] * s.east**2
            + 2 * inverse[0, 1] * s.east * s.north
            + inverse[1, 1] * s.north**2
        )
        w = np.exp(-0.5 * q)
        signal += s.weight * s.area * (w * s.data).sum()
        noise += s.weight * s.area * (w**2).sum()
    return signal / math.sqrt(noise) if noise > 0 else 0.0


def _without_absurd_sizes(exposures, peaks: Sequence[Peak]) -> list[Peak]:
    """Peaks whose size is larger than any image forget it, unless it is held."""
    limit = max(math.hypot(*e.shape) / 2 * e.pixel_scale for e in exposures)
    out = []
    for peak in peaks:
        wrong = {
            name: value
            for name, value in peak.values.items()
            if name.startswith("rhalf")
            and value > limit
            and not peak.fixed & {name, "shape", "all"}
        }
        for name, value in wrong.items():
            log.warning(
                'source %s: %s is %.4g", larger than the images: it is treated as unknown',
                peak.id, name, value,
            )  # fmt: skip
        kept = {name: value for name, value in peak.values.items() if name not in wrong}
        out.append(replace(peak, values=kept) if wrong else peak)
    return out


def fill_starts(
    exposures: Sequence[Exposure], peaks: Sequence[Peak], bands: Sequence[str]
) -> list[Peak]:
    """`moments_start` for every peak that lacks a size or a flux; the others as they are."""
    out, filled = [], 0
    peaks = _without_absurd_sizes(exposures, peaks)
    for peak in peaks:
        kind = SOURCE_TYPES[peak.type]
        extended = any(c.profile == "sersic" for c in kind.components)
        sized = not extended or any(k.startswith("rhalf") for k in peak.values)
        lit = all(any(b == band for _, b in peak.flux) for band in bands)
        if sized and lit:
            out.append(peak)
            continue
        out.append(moments_start(exposures, peak, peaks))
        filled += 1
    if filled:
        log.info("starting sizes or fluxes of %d sources come from image moments", filled)
    return out
