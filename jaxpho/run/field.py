"""Everything a run knows before it fits: exposures, sources, coverage."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from jaxpho.config import Config, PatchOptions
from jaxpho.core.sources import SOURCE_TYPES
from jaxpho.data.catalog import Peak, read_catalog
from jaxpho.data.detect import detect_peaks
from jaxpho.data.exposure import Exposure
from jaxpho.data.ingest import ImageSet, Skipped, read_images
from jaxpho.data.moments import fill_starts
from jaxpho.data.noise import tell_noise
from jaxpho.data.wcs import world_to_pixel
from jaxpho.errors import InputError
from jaxpho.fit import flags
from jaxpho.fit.links import check_bands
from jaxpho.fit.prior_options import check_fluxes, keys_of

log = logging.getLogger("jaxpho.field")

HALF_COVERED = 0.5
"""Sources of which less than this fraction is seen in the best exposure get a flag."""

COINCIDENT, UNLIKE_SIZES = 0.1, 1.5
"""Pixels between like sources that no data can tell apart, and the ratio of sizes that does."""


@dataclass
class Field:
    """The input of a run.

    Attributes
    ----------
    images : exposures, those left out, flux unit.
    peaks : every source of the catalogue.
    radius : [n] radius of influence, arcsec.
    fraction : [n, E] share of the core of each source on unmasked pixels of each exposure.
    mixture : name of the Sersic mixture.
    """

    images: ImageSet
    peaks: list[Peak]
    radius: np.ndarray
    fraction: np.ndarray
    mixture: str = "k12"

    @property
    def exposures(self) -> list[Exposure]:
        """The usable exposures, sorted by band."""
        return self.images.exposures

    def near(self, sources: Sequence[int]) -> list[Exposure]:
        """Exposures that sources may lie on, their surroundings included."""
        at = list(sources)
        ra, dec = (np.array([getattr(self.peaks[i], k) for i in at]) for k in ("ra", "dec"))
        return [e for e in self.exposures if e.near(ra, dec, self.radius[at]).any()]

    @property
    def fitted(self) -> list[Peak]:
        """Sources with a usable pixel."""
        lost = set(self.lost)
        return [peak for i, peak in enumerate(self.peaks) if i not in lost]

    @property
    def lost(self) -> list[int]:
        """Indices of sources without a usable pixel."""
        return [i for i, row in enumerate(self.fraction) if not (row > 0).any()]


def load_field(config: Config, prepare: Callable[[list, list], None] | None = None) -> Field:
    """Read exposures and peaks, decide who is covered.

    Parameters
    ----------
    config : Config
    prepare : called with (exposures, peaks) once positions are known, to turn PSFs into
        mixtures; starting sizes are then corrected for the PSF. A dry run goes without.

    Raises
    ------
    InputError
        For any input that makes the run impossible; see `read_images` and `read_catalog`. Also
        when every source lies off every image.
    """
    images = read_images(
        config.images,
        config.root,
        config.bands,
        unit=config.unit,
        require_psf=True,
        precision=config.precision,
    )
    tell_noise(images.exposures, config.noise.inflation, config.noise.correlation)
    peaks = read_positions(config, images)
    types = {peak.type for peak in peaks}
    for key in sorted(set(config.fit.priors) - keys_of(types)):
        log.warning("fit.priors.%s: no source has this parameter (types: %s)",
                    key, ", ".join(sorted(types)))  # fmt: skip
    check_bands(config.fit, config.bands)
    check_fluxes(config.fit.priors, config.bands, images.unit)
    _refuse_foreign_catalogue(images.exposures, peaks, config.patches)
    if prepare is not None:
        prepare(images.exposures, peaks)
    peaks = fill_starts(images.exposures, peaks, config.bands)
    warn_of_coincident(images.exposures, peaks)
    radius = np.array([influence_radius(peak, config.patches) for peak in peaks])
    fraction = coverage(images.exposures, peaks, radius)
    found = Field(images, peaks, radius, fraction, mixture=first_mixture(config))
    lost = set(found.lost)
    missed = covered_by(images.skipped, peaks)
    for i, peak in enumerate(peaks):
        peak.flags |= _coverage_flags(fraction[i], missed[i])
        if i in lost:
            log.warning("source %s has no usable pixel in any exposure: not fitted", peak.id)
    return found


def read_positions(config: Config, images: ImageSet) -> list[Peak]:
    """The sources, from the catalogue or detected; sizes and fluxes may still be unknown."""
    options = config.peaks
    if not options.detect:
        return read_catalog(options, config.bands, images.unit, config.sources.type)
    if options.file is not None or options.positions is not None:
        raise InputError("peaks: `detect: true` excludes `file` and `positions`")
    default_type = options.type or config.sources.type
    return detect_peaks(images.exposures, options.detection, default_type)


def warn_of_coincident(exposures, peaks: Sequence[Peak]) -> list[tuple]:
    """Name pairs of like sources at one position (.1 pixel): the data cannot tell them apart.

    A bulge and a disk given as two sources, which differ in type or start with different sizes,
    are left in peace. Returns the pairs of ids.
    """
    scale = np.radians(min(e.pixel_scale for e in exposures) / 3600.0)
    ra, dec = (np.radians([getattr(p, k) for p in peaks]) for k in ("ra", "dec"))
    sky = np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], -1)
    out = []
    for i, j in sorted(cKDTree(sky).query_pairs(COINCIDENT * scale)):
        a, b = peaks[i], peaks[j]
        sizes = sorted((size_of(a), size_of(b)))
        if a.type == b.type and sizes[1] <= UNLIKE_SIZES * sizes[0]:
            out.append((a.id, b.id))
            log.warning(
                "sources %s and %s are both %s at one position: their fluxes cannot be told apart",
                a.id, b.id, a.type,
            )  # fmt: skip
    return out


def _refuse_foreign_catalogue(exposures, peaks, options: PatchOptions) -> None:
    """Raise when no source lies on any image, before any work."""
    radius = np.array([influence_radius(peak, options) for peak in peaks])
    if not (coverage(exposures, peaks, radius) > 0).any():
        first = peaks[0]
        raise InputError(
            f"none of the {len(peaks)} sources lies on an unmasked pixel of any of the "
            f"{len(exposures)} exposures (the first is at ra = {first.ra:.6f}, dec = "
            f"{first.dec:.6f} deg): is the catalogue that of this field, in degrees?"
        )


def covered_by(skipped: Sequence[Skipped], peaks: Sequence[Peak]) -> np.ndarray:
    """Whether an exposure that was left out covers each source, or may: its place is unknown."""
    out = np.zeros(len(peaks), bool)
    ra, dec = (np.array([getattr(p, k) for p in peaks]) for k in ("ra", "dec"))
    for exposure in skipped:
        if exposure.wcs is None:
            return np.ones(len(peaks), bool)
        ny, nx = exposure.shape
        x, y = world_to_pixel(exposure.wcs, ra, dec).T
        out |= (x > -0.5) & (x < nx - 0.5) & (y > -0.5) & (y < ny - 0.5)  # false for nan as well
    return out


def _coverage_flags(fraction: np.ndarray, missed: bool) -> int:
    best = fraction.max(initial=0.0)
    names = ["bad_exposure"] if missed else []
    if best <= 0:
        names.append("no_data")
    elif best < HALF_COVERED:
        names.append("partial_coverage")
    return flags.encode(names)


def size_of(peak: Peak) -> float:
    """Largest half-light radius along the major axis of a source, arcsec; 0 for a point."""
    sizes = [0.0]
    for component in SOURCE_TYPES[peak.type].components:
        if component.profile != "sersic":
            continue
        known = [
            peak.values.get(name + component.suffix, peak.values.get(name, np.nan))
            for name in ("rhalf", "q", "e1", "e2")
        ]
        rhalf, q, e1, e2 = known
        if np.isfinite(e1 + e2):
            e = min(np.hypot(e1, e2), 0.9)
            q = (1 - e) / (1 + e)
        q = q if np.isfinite(q) and q > 0 else 1.0
        sizes.append(rhalf / np.sqrt(q) if np.isfinite(rhalf) else 0.0)
    return float(max(sizes))


def influence_radius(peak: Peak, options: PatchOptions) -> float:
    """Radius [arcsec] within which a source matters."""
    wanted = options.radius_factor * size_of(peak)
    return float(np.clip(wanted, options.min_radius, max(options.max_radius, options.min_radius)))


def coverage(exposures, peaks, radius) -> np.ndarray:
    """Share [n, E] of the core of each source that falls on unmasked pixels.

    The core is the circle of one half-light radius, at least 1.5 pixels, at most the radius of
    influence. A source beside an image whose core touches it has a small share, not none.
    """
    ra, dec = np.array([p.ra for p in peaks]), np.array([p.dec for p in peaks])
    core = np.array([min(size_of(p), r) for p, r in zip(peaks, radius, strict=True)])
    out = np.zeros((len(peaks), len(exposures)))
    for e, exposure in enumerate(exposures):
        ny, nx = exposure.shape
        reach = np.maximum(core / exposure.pixel_scale, 1.5)
        near = np.flatnonzero(exposure.near(ra, dec, reach * exposure.pixel_scale))
        if len(near) == 0:
            continue
        pixels, size = [], []
        for i, (x, y) in zip(near, world_to_pixel(exposure.wcs, ra[near], dec[near]), strict=True):
            r = reach[i]
            if not (-r < x < nx - 1 + r and -r < y < ny - 1 + r):  # false for nan as well
                continue
            x0, y0 = int(np.floor(x - r)), int(np.floor(y - r))
            gx, gy = np.meshgrid(np.arange(x0, x0 + 2 * r + 2), np.arange(y0, y0 + 2 * r + 2))
            inside = np.hypot(gx - x, gy - y) <= r
            on = inside & (gx >= 0) & (gx < nx) & (gy >= 0) & (gy < ny)
            pixels.append(np.stack([np.full(on.sum(), i), gx[on], gy[on]]).astype(int))
            size.append((i, max(inside.sum(), 1)))
        if pixels:
            # all sources at once: each part of a stored image is read once
            which, x, y = np.concatenate(pixels, axis=1)
            seen = np.bincount(which, exposure.good(x, y), len(peaks))
            for i, n in size:
                out[i, e] = seen[i] / n
    return out


def first_mixture(config: Config) -> str:
    """Name of the Sersic mixture that fits start with."""
    name = config.sources.sersic_mixture
    return "k12" if name == "auto" else name


def n_radii(mixture: str) -> int:
    """Gaussians of a Sersic mixture by its name: "k12" -> 12."""
    return int(mixture.removeprefix("k"))


def count_parameters(peak: Peak, bands) -> int:
    """Free parameters of a source."""
    kind = SOURCE_TYPES[peak.type]
    groups = {"rhalf": "shape", "sersic": "shape", "e1": "shape", "e2": "shape"}
    groups |= {"ra": "position", "dec": "position", "flux": "flux"}
    held = set(peak.fixed)
    total = 0
    for name in kind.parameters:
        base = name.split("_", 1)[0]
        if held.isdisjoint({name, groups.get(base, name), "all"}):
            total += len(bands) if base == "flux" else 1
    return total
