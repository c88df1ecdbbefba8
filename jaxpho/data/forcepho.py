"""Packing a patch from stores as forcepho does: its pixels, exposures, astrometry and PSFs.

Where its rules are odd they are followed, because this is what agreement is measured with: an
exposure counts when a corner of the region's bounding box falls on it, a super-pixel when a corner
pixel is inside the circle, whose radius in pixels is that towards North.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from astropy.wcs import WCS, FITSFixedWarning, NoConvergence

from jaxpho.core.pixel import TILE, TILE_PIXELS
from jaxpho.data.metastore import MetaStore, header_number, open_meta_store
from jaxpho.data.pack import check_sources
from jaxpho.data.packing import PackedPatch
from jaxpho.data.pixelstore import PixelStore
from jaxpho.data.psfmodel import PSFModel
from jaxpho.data.psfstore import read_psf_store
from jaxpho.data.skyregion import Circle
from jaxpho.data.splinestore import read_spline_table
from jaxpho.data.unpack import patch_from_arrays
from jaxpho.errors import InputError

log = logging.getLogger("jaxpho.forcepho")

CORNERS = (TILE - 1) * np.array([(0, 0), (1, 0), (1, 1), (0, 1)])
PSF_NAMES = {
    "psfgauss_amp": "amp",
    "psfgauss_xcen": "xcr",
    "psfgauss_ycen": "ycr",
    "psfgauss_Cxx": "Cxx",
    "psfgauss_Cyy": "Cyy",
    "psfgauss_Cxy": "Cxy",
    "psfgauss_sersic_bin": "sersic_bin",
}
"""Packed array -> field of a PSF mixture."""


class Selected(NamedTuple):
    """One exposure of a patch, with the super-pixels that are in the region."""

    band: str
    name: str
    header: object
    wcs: WCS
    column: np.ndarray
    row: np.ndarray


def plain_wcs(meta: MetaStore, band: str, name: str) -> tuple[object, WCS]:
    """Header and astropy WCS of an exposure, the header taken at its word."""
    header = meta.header(band, name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FITSFixedWarning)
            return header, WCS(header).celestial
    except (ValueError, KeyError, TypeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise InputError(f"{meta.where(band, name)}: WCS cannot be used ({reason})") from None


def _to_pixel(wcs: WCS, ra, dec):
    """0-indexed pixels, or None where the distortion cannot be inverted."""
    try:
        return wcs.all_world2pix(ra, dec, 0)
    except NoConvergence:
        return None


def touches(wcs: WCS, nside: tuple[int, int], region: Circle) -> bool:
    """Whether a corner of the region's box in RA and Dec falls strictly inside the image."""
    degrees = region.radius / 3600.0
    dra = degrees / np.cos(np.deg2rad(region.dec))
    ra = region.ra + dra * np.array([-1.0, 1.0, 1.0, -1.0])
    dec = region.dec + degrees * np.array([-1.0, -1.0, 1.0, 1.0])
    corners = _to_pixel(wcs, ra, dec)
    if corners is None:
        return False
    x, y = corners
    return bool(np.any((x > 0) & (x < nside[0]) & (y > 0) & (y < nside[1])))


def find_superpixels(wcs: WCS, nside: tuple[int, int], region: Circle):
    """Super-pixels (I, J) with a corner pixel inside the circle, in C order."""
    ends = _to_pixel(wcs, [region.ra] * 2, [region.dec, region.dec + region.radius / 3600.0])
    if ends is None:
        return np.zeros(0, int), np.zeros(0, int)
    x, y = ends
    limit = (x[0] - x[1]) ** 2 + (y[0] - y[1]) ** 2
    column, row = (TILE * np.arange(-(-n // TILE)) for n in nside)
    dx = (x[0] - column[:, None] - CORNERS[:, 0]) ** 2
    dy = (y[0] - row[:, None] - CORNERS[:, 1]) ** 2
    return np.nonzero((dx[:, None] + dy[None, :] < limit).any(-1))


def find_exposures(
    meta: MetaStore, pixels: PixelStore, region: Circle, bands: Sequence[str]
) -> list[Selected]:
    """Exposures of a patch: by band, then in the order of the store.

    Raises
    ------
    InputError
        When there is none.
    """
    found = []
    for band in bands:
        for key in meta.near(region.ra, region.dec, 1.5 * region.radius, [band]):
            header, wcs = plain_wcs(meta, *key)
            nside = pixels.size(*key)
            if nside != meta.nside(*key):
                raise InputError(
                    f"{pixels.where(*key)}: the image is {nside} pixels, its header says "
                    f"{meta.nside(*key)} ({meta.path})"
                )
            if not touches(wcs, nside, region):
                continue
            column, row = find_superpixels(wcs, nside, region)
            if len(column):
                found.append(Selected(*key, header, wcs, column, row))
    if not found:
        raise InputError(
            f"no exposure of {', '.join(bands)} in {meta.path} has a corner of the region ra = "
            f"{region.ra}, dec = {region.dec}, radius {region.radius} arcsec on it"
        )
    return found


def scale_at_sky(wcs: WCS, ra: float, dec: float) -> tuple[np.ndarray, np.ndarray]:
    """Local matrices CW [pixel/deg of (RA, Dec)] and D [pixel/arcsec of (RA cos dec, Dec)].

    Without distortion the WCS's own matrix; with distortion differences over one pixel forward.
    """
    cosine = np.diag([np.cos(np.deg2rad(dec)), 1.0])
    if not wcs.has_distortion:
        d = np.linalg.inv(wcs.pixel_scale_matrix * 3600.0)
        return d * 3600.0 @ cosine, d
    pixel = wcs.all_world2pix([[ra, dec]], 0)[0]
    steps = wcs.all_pix2world(pixel + np.eye(2), 0) - [ra, dec]
    cw = np.linalg.inv(steps).T
    return cw, cw @ np.linalg.inv(cosine) / 3600.0


def pack_sources(exposures: Sequence[Selected], ra, dec) -> dict[str, np.ndarray]:
    """Astrometry of sources at their starting positions: D, CW, crpix, crval, float64.

    Also ``reference_coordinates``, the median position.
    """
    ra, dec = np.asarray(ra, float), np.asarray(dec, float)
    reference = np.array([np.median(ra), np.median(dec)])
    n_e, n_s = len(exposures), len(ra)
    d, cw, crpix = np.zeros((n_e, n_s, 2, 2)), np.zeros((n_e, n_s, 2, 2)), np.zeros((n_e, n_s, 2))
    for e, exposure in enumerate(exposures):
        for s in range(n_s):
            try:
                crpix[e, s] = exposure.wcs.all_world2pix(ra[s], dec[s], 0)
                cw[e, s], d[e, s] = scale_at_sky(exposure.wcs, ra[s], dec[s])
            except NoConvergence:
                raise InputError(
                    f"exposure {exposure.band}/{exposure.name}: the distortion cannot be inverted "
                    f"at source {s} (ra = {ra[s]:.6f}, dec = {dec[s]:.6f} deg)"
                ) from None
    crval = np.broadcast_to(np.stack([ra, dec], -1) - reference, crpix.shape)
    return {"D": d, "CW": cw, "crpix": crpix, "crval": crval, "reference_coordinates": reference}


def pack_psf(path, exposures: Sequence[Selected], crpix: np.ndarray) -> dict[str, np.ndarray]:
    """PSF Gaussians per exposure and source, flat; each from the nearest detector location."""
    bands = list(dict.fromkeys(e.band for e in exposures))
    models: dict[str, PSFModel] = {band: read_psf_store(path, band) for band in bands}
    parts, counts = [], []
    for exposure, row in zip(exposures, crpix, strict=True):
        model = models[exposure.band]
        parts += [model.at(x, y, "nearest") for x, y in row]
        counts.append(len(row) * model.ngauss)
    flat = np.concatenate(parts)
    out = {key: flat[field] for key, field in PSF_NAMES.items()}
    out["psfgauss_start"] = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int32)
    out["n_psf_per_source"] = np.array([models[band].ngauss for band in bands], np.int32)
    return out


def pack_pixels(
    pixels: PixelStore,
    exposures: Sequence[Selected],
    tweak_background: str | None = None,
    max_snr: float | None = None,
    background: Mapping[str, float] | None = None,
) -> dict[str, np.ndarray]:
    """Pixels of all exposures, and the indices of exposures and bands.

    Parameters
    ----------
    tweak_background : header card with a level to subtract; 0 where it is missing.
    max_snr : pixels of higher signal-to-noise get larger errors.
    background : band -> level to subtract.
    """
    columns = {"xpix": [], "ypix": [], "data": [], "ierr": []}
    k = np.arange(TILE_PIXELS)
    for e in exposures:
        flux, ierr = pixels.superpixels(e.band, e.name, e.column, e.row)
        if tweak_background:
            flux = flux - np.float32(
                header_number(e.header, tweak_background, f"{e.band}/{e.name}")
            )
        flux = flux - np.float32((background or {}).get(e.band, 0.0))
        columns["xpix"].append((TILE * e.column[:, None] + k // TILE).reshape(-1))
        columns["ypix"].append((TILE * e.row[:, None] + k % TILE).reshape(-1))
        columns["data"].append(flux.reshape(-1))
        columns["ierr"].append(ierr.reshape(-1))
    count = np.array([len(x) for x in columns["xpix"]], np.int32)
    bands = [e.band for e in exposures]
    bandlist = list(dict.fromkeys(bands))
    out = {key: np.concatenate(values).astype(np.float32) for key, values in columns.items()}
    if max_snr:
        high = (out["ierr"] > 0) & (out["data"] * out["ierr"] > max_snr)
        out["ierr"][high] = max_snr / out["data"][high]
    return out | {
        "exposure_start": np.concatenate([[0], np.cumsum(count)[:-1]]).astype(np.int32),
        "exposure_N": count,
        "band_start": np.array([bands.index(b) for b in bandlist], np.int16),
        "band_N": np.array([bands.count(b) for b in bandlist], np.int16),
        "bands": np.array(bands),
        "bandlist": np.array(bandlist),
        "epaths": np.array([f"{e.band}/{e.name}" for e in exposures]),
    }


def pack_scene(exposures: Sequence[Selected], psf_store, radii, ra, dec) -> dict[str, np.ndarray]:
    """Everything of a patch that depends on its sources, in single precision.

    Parameters
    ----------
    psf_store : path.
    radii : [K] of the Sersic table, arcsec.
    ra, dec : [S] starting positions, deg.
    """
    scene = pack_sources(exposures, ra, dec)
    psf = pack_psf(psf_store, exposures, scene["crpix"])
    single = {key: scene[key].astype(np.float32) for key in ("D", "CW", "crpix", "crval")}
    bins = psf["psfgauss_sersic_bin"]
    if bins.size and (bins.max() >= len(radii) or bins.min() < 0):
        raise InputError(
            f"PSF store {psf_store}: sersic_bin runs from {bins.min()} to {bins.max()}, expected "
            f"0 to {len(radii) - 1}, the radii of the Sersic table"
        )
    return (
        single
        | psf
        | {
            "reference_coordinates": scene["reference_coordinates"],
            "G": np.ones(len(exposures), np.float32),
            "rad2": (np.asarray(radii, float) ** 2).astype(np.float32),
            "n_sources": np.int64(len(np.atleast_1d(ra))),
            "n_radii": np.int64(len(radii)),
        }
    )


def _table_radii(radii) -> np.ndarray:
    """[K] radii of a Sersic table, from themselves or from its file."""
    what = "radii of the Sersic table [arcsec] or the path of its file"
    if radii is None:
        raise InputError(f"compat='forcepho': radii is missing, expected the {what}")
    if isinstance(radii, str | os.PathLike):
        radii = read_spline_table(radii).radii
    try:
        values = np.asarray(radii, float)
    except (TypeError, ValueError):
        raise InputError(f"compat='forcepho': radii is {radii!r}, expected the {what}") from None
    if values.ndim != 1 or not values.size or not (np.isfinite(values) & (values >= 0)).all():
        raise InputError(f"compat='forcepho': radii is {radii!r}, expected the {what}, 0 or more")
    return values


def pack_stores(
    meta,
    pixels,
    psf_store,
    peaks: Sequence,
    *,
    region: Circle | None = None,
    radii=None,
    bands: Sequence[str] | None = None,
    tweak_background: str | None = None,
    max_snr: float | None = None,
    dtype=np.float32,
) -> PackedPatch:
    """Pack a patch from stores by forcepho's rules, its kernel's included.

    Parameters
    ----------
    meta, pixels, psf_store : paths
    peaks : sequence of Peak
        Their positions are where the astrometry is linearised.
    region : Circle
        Which pixels; needed, as forcepho has no other.
    radii : path or [K] floats
        Widths [arcsec] of the Gaussians of its Sersic table, or the file of that table (its
        `splinedatafile`); not distances from the sources, as without compat.
    bands, tweak_background, max_snr
        See `find_exposures` and `pack_pixels`; bands default to those of the meta store.

    Returns
    -------
    PackedPatch
        All sources have the first one's PSF; pixels are counted from the image's corner.

    Raises
    ------
    InputError
        Without a source, a circle or the radii, and for stores that cannot be used.
    """
    check_sources(peaks)
    if not isinstance(region, Circle):
        found = "none" if region is None else type(region).__name__
        raise InputError(f"compat='forcepho': region is {found}, expected a Circle")
    radii = _table_radii(radii)
    meta = open_meta_store(meta)
    with PixelStore(pixels) as store:
        exposures = find_exposures(meta, store, region, bands or meta.bands)
        arrays = pack_pixels(store, exposures, tweak_background, max_snr)
    ra, dec = ([getattr(p, name) for p in peaks] for name in ("ra", "dec"))
    arrays |= pack_scene(exposures, psf_store, radii, ra, dec)
    return patch_from_arrays(arrays, first_psf=True, relative=False, pad=False, dtype=dtype)
