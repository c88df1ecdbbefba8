"""From exposures and peaks to a packed patch: which pixels, which astrometry, which PSF."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from jaxpho.data.exposure import LARGEST, Exposure
from jaxpho.data.packing import Astrometry, PackedPatch, build_patch
from jaxpho.data.psfmodel import PSFModel
from jaxpho.data.skyregion import Circle, Region, mark, select_region
from jaxpho.data.terms import Mixtures
from jaxpho.data.wcs import local_affine
from jaxpho.errors import InputError

log = logging.getLogger("jaxpho.data.pack")

N_RADII = {"k8": 8, "k10": 10, "k12": 12, "k16": 16}


def select_pixels(
    exposure: Exposure, crpix: np.ndarray, d: np.ndarray, radii: np.ndarray
) -> np.ndarray:
    """Pixels [ny, nx] within a radius [arcsec] of any of the sources."""
    select = np.zeros(exposure.shape, bool)
    for centre, matrix, radius in zip(crpix, d, radii, strict=True):
        if radius > 0:
            mark(select, Circle(0.0, 0.0, radius), centre, matrix)
    return select


def check_sources(peaks: Sequence, radii: Sequence[float] | None = None) -> None:
    """Raise InputError when there is no source, or not one sound radius for each."""
    if len(peaks) == 0:
        raise InputError("a patch needs at least one source, peaks is empty")
    if radii is None:
        return
    values = np.asarray(radii, float)
    if values.shape != (len(peaks),):
        raise InputError(f"radii has shape {values.shape}, expected one for each of the "
                         f"{len(peaks)} peaks")  # fmt: skip
    bad = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
    if len(bad):
        raise InputError(f"radii[{bad[0]}] is {values[bad[0]]} arcsec, expected 0 or more")


def affine_maps(exposure: Exposure, ra: np.ndarray, dec: np.ndarray):
    """Local affine maps, and which sources the WCS can place at all.

    A source on the other side of a distortion polynomial's or a projection's reach has no finite
    pixel; it gets the map of the image's middle and no flux there.
    """
    crpix, cw, d = local_affine(exposure.wcs, ra, dec)
    visible = np.isfinite(crpix).all(-1) & np.isfinite(d).all((-1, -2))
    if not visible.all():
        ny, nx = exposure.shape
        middle = exposure.wcs.pixel_to_world_values((nx - 1) / 2, (ny - 1) / 2)
        crpix0, cw0, d0 = local_affine(exposure.wcs, *(np.atleast_1d(v) for v in middle))
        crpix[~visible], cw[~visible], d[~visible] = crpix0[0], cw0[0], d0[0]
    return crpix, cw, d, visible


def mixtures_at(model, x: float, y: float, method: str, seen: bool) -> Mixtures:
    """PSF mixtures at one source; without light where the exposure cannot see it."""
    full = model.at(x, y, method)
    reduced = model.ladder_at(x, y, method) if hasattr(model, "ladder_at") else ()
    for parameters in (full, *(rung.parameters for rung in reduced)):
        parameters["amp"] *= seen
    return Mixtures(full, reduced)


def _check_range(exposure: Exposure, ierr: np.ndarray, dtype) -> None:
    """Raise when squares of 1/sigma would overflow in float32."""
    typical = float(np.median(ierr[ierr > 0]))
    if np.dtype(dtype).itemsize == 4 and typical > LARGEST:
        raise InputError(
            f"{exposure.name}: pixel errors of {1.0 / typical:.2g} {exposure.unit} are too small "
            "for single precision: set `precision: float64`, or a zero point, which gives nJy"
        )


def pack_patch(
    exposures: Sequence[Exposure],
    peaks: Sequence,
    *,
    bands: Sequence[str],
    reference: tuple[float, float] | None = None,
    radii: Sequence[float] | None = None,
    region: Region | None = None,
    linearisation: str = "source",
    n_radii: int = 12,
    psf_method: str = "linear",
    tiles_per_block: int = 4,
    pad: bool = True,
    dtype=np.float32,
) -> PackedPatch:
    """Pack the pixels around sources in all exposures.

    Parameters
    ----------
    exposures : sequence of Exposure
        Their ``psf`` must be a `PSFModel`.
    peaks : sequence of Peak
        All sources of the patch, held ones included.
    bands : sequence of str
        Band order.
    reference : tuple, optional
        (ra, dec) deg the offsets start from; default the median of the peaks.
    radii : sequence of float, optional
        [S] arcsec: pixels within this distance of a source are used, 0 for none of its own.
        Default: all pixels of all exposures.
    region : Circle, Box or Polygon, optional
        Pixels in this region are used, whatever the radii (`jaxpho.data.skyregion`).
    linearisation : str
        "source": each source's CRPIX and CRVAL are those of its starting position; "exposure":
        all sources of an exposure share those of the reference, as in the specification, which
        is exact as far as the WCS is linear over the patch.
    n_radii : int
        Gaussians of the Sersic mixture.
    psf_method : str
        "linear" or "nearest" detector location.
    tiles_per_block, pad, dtype
        See `jaxpho.data.packing.build_patch`.

    Returns
    -------
    PackedPatch

    Raises
    ------
    InputError
        When there is no source, radii are not lengths, no exposure has a usable pixel, units
        differ, or errors are beyond float32.
    """
    check_sources(peaks, radii)
    ra = np.array([p.ra for p in peaks], float)
    dec = np.array([p.dec for p in peaks], float)
    if reference is None:
        # about one of them, as right ascensions may lie on both sides of zero
        near = (ra - ra[0] + 180.0) % 360.0 - 180.0
        reference = (float((ra[0] + np.median(near)) % 360.0), float(np.median(dec)))
    crval = np.stack([(ra - reference[0] + 180.0) % 360.0 - 180.0, dec - reference[1]], -1)
    region_centre = None if region is None else (region.ra, region.dec)
    if linearisation == "exposure":
        crval = np.zeros_like(crval)
    elif linearisation != "source":
        raise InputError(f"linearisation is '{linearisation}', expected 'source' or 'exposure'")
    kept, tiles, affine, mixtures = [], [], [], []
    ordered = sorted(exposures, key=lambda e: list(bands).index(e.band))
    for exposure in ordered:
        crpix, cw, d, visible = affine_maps(exposure, ra, dec)
        select = None
        if region is not None:
            point, _, matrix, seen = affine_maps(exposure, *np.atleast_2d(region_centre).T)
            if not seen[0]:
                continue
            select = select_region(exposure.shape, region, point[0], matrix[0])
        elif radii is not None:
            reach = np.where(visible, np.asarray(radii, float), 0.0)
            select = select_pixels(exposure, crpix, d, reach)
        cut = exposure.tiles(select)
        if len(cut.x0) == 0:
            log.debug("%s: no usable pixel in this patch", exposure.name)
            continue
        inflation = float(getattr(exposure, "inflation", 1.0))
        if inflation != 1.0:
            cut = cut._replace(ierr=cut.ierr / inflation)
        _check_range(exposure, cut.ierr, dtype)
        kept.append(exposure)
        tiles.append(cut)
        if linearisation == "exposure":
            point = affine_maps(exposure, *(np.atleast_1d(v) for v in reference))[0]
            affine.append((np.broadcast_to(point, crpix.shape), cw, d))
        else:
            affine.append((crpix, cw, d))
        model = exposure.psf.single() if isinstance(exposure.psf, PSFModel) else exposure.psf
        mixtures.append(
            [
                mixtures_at(model, x, y, psf_method, seen)
                for (x, y), seen in zip(crpix, visible, strict=True)
            ]
        )
    if not kept:
        raise InputError(
            f"no exposure has an unmasked pixel near ra = {reference[0]:.6f}, "
            f"dec = {reference[1]:.6f} deg: expected at least one"
        )
    units = sorted({e.unit for e in kept})
    if len(units) > 1:
        raise InputError(f"exposures of one patch have different units: {', '.join(units)}")
    crpix, cw, d = (np.stack(a) for a in zip(*affine, strict=True))
    astrometry = Astrometry(d, cw, crpix, np.broadcast_to(crval, crpix.shape))
    patch, blocks = build_patch(
        tiles,
        [list(bands).index(e.band) for e in kept],
        astrometry,
        [[mixture.full for mixture in row] for row in mixtures],
        n_radii=n_radii,
        pixel_term=[0.0 if e.psf.includes_pixel else 1.0 for e in kept],
        tiles_per_block=tiles_per_block,
        pad=pad,
        dtype=dtype,
    )
    return PackedPatch(
        patch=patch,
        reference=reference,
        exposures=[e.name for e in kept],
        bands=list(bands),
        exposure_bands=[e.band for e in kept],
        blocks=blocks,
        n_tiles=[len(t.x0) for t in tiles],
        n_sources=len(peaks),
        unit=units[0],
        nuisances=[e.nuisance for e in kept],
        mixtures=mixtures,
        noise=[getattr(e, "noise", None) for e in kept],
        inflation=[float(getattr(e, "inflation", 1.0)) for e in kept],
    )
