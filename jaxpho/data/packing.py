"""Pack exposures, astrometry and PSFs into the `Patch` the compiled functions see.

Shapes are padded to a few sizes ("buckets"), so that the patches of a mosaic share a handful of
compiled programs. Padding never changes a result beyond rounding.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from jaxpho.core.gaussians import Gaussians
from jaxpho.core.patch import Patch, bucket
from jaxpho.core.pixel import TILE, TILE_PIXELS
from jaxpho.data.terms import pack_terms
from jaxpho.data.tiles import TileSet
from jaxpho.errors import InputError

PSF_FIELDS = ("amp", "xcr", "ycr", "Cxx", "Cyy", "Cxy")


@dataclass
class Astrometry:
    """Local affine maps of every source in every exposure, float64.

    Attributes
    ----------
    d, cw : ndarray
        [E, S, 2, 2] d(x, y)/d(RA cos dec, dec) [pixel/arcsec] and d(x, y)/d(RA, dec) [pixel/deg].
    crpix : ndarray
        [E, S, 2] pixel of the source's starting position, in the exposure's own coordinates.
    crval : ndarray
        [E, S, 2] starting position, degrees from the reference (RA not times cos dec).
    """

    d: np.ndarray
    cw: np.ndarray
    crpix: np.ndarray
    crval: np.ndarray


@dataclass
class PackedPatch:
    """A patch and what is needed to read its results back.

    Attributes
    ----------
    patch : Patch
    reference : tuple
        (ra, dec) in degrees.
    exposures, bands, exposure_bands : list of str
        Names of the exposures in use, of the bands, in order, and the band of each exposure.
    blocks, n_tiles : list of slice, list of int
        Blocks and tiles of each exposure (a block's last tiles may be padding).
    n_sources : int
        Sources without padding.
    unit : str
        Unit of flux.
    nuisances : list
        Of each exposure, free or not.
    mixtures : list of list of Mixtures
        [E][S] PSF mixtures with their reduced ones; empty where these are not known.
    noise, inflation : list
        Per exposure `NoiseStatistics` or None, and what quoted errors were multiplied by; or empty.
    rad2 : ndarray, optional
        [K] squared radii of a Sersic table, arcsec^2, where the patch is for one.
    """

    patch: Patch
    reference: tuple[float, float]
    exposures: list[str]
    bands: list[str]
    exposure_bands: list[str]
    blocks: list[slice]
    n_tiles: list[int]
    n_sources: int
    unit: str = "nJy"
    nuisances: list = field(default_factory=list)
    mixtures: list = field(default_factory=list)
    noise: list = field(default_factory=list)
    inflation: list = field(default_factory=list)
    rad2: np.ndarray | None = None

    @property
    def reducible(self) -> bool:
        """Whether there are reduced PSF mixtures for wide Gaussians."""
        return any(mixture.reduced for row in self.mixtures for mixture in row)

    def terms(self, components, n_full: int):
        """PSF Gaussians of the Sersic components of a scene, reduced where they may be.

        See `jaxpho.data.terms.pack_terms` for ``components``, ``n_full`` and what is returned.
        """
        n = len(self.exposures)
        terms, counts = pack_terms(
            self.mixtures,
            np.asarray(self.patch.d)[:n],
            np.asarray(self.patch.pixel_term)[:n],
            components,
            n_full,
            self.patch.n_exposures,
            np.asarray(self.patch.data).dtype,
        )
        return jax.tree.map(jnp.asarray, terms), counts

    @classmethod
    def from_arrays(cls, exposures, peaks, **options) -> "PackedPatch":
        """Pack exposures made of arrays (`jaxpho.data.arrays.exposure_from_arrays`).

        Parameters
        ----------
        exposures : sequence of Exposure
        peaks : sequence of Peak, the sources to model.
        **options
            Those of `jaxpho.data.pack.pack_patch`; ``bands`` defaults to the exposures' order.
        """
        from jaxpho.data.pack import pack_patch  # which imports this module

        bands = options.pop("bands", None) or list(dict.fromkeys(e.band for e in exposures))
        return pack_patch(exposures, peaks, bands=bands, **options)

    @classmethod
    def from_stores(cls, meta, pixels, psf_store, peaks, *, compat=None, **options):
        """Pack a patch from a meta, a pixel and a PSF store.

        Parameters
        ----------
        meta, pixels, psf_store, peaks : paths, and a sequence of Peak
        compat : None or "forcepho"
            "forcepho": its pixels, exposures, astrometry, PSFs and pixel origin. ``region`` is a
            Circle, ``radii`` the file of its Sersic table (`jaxpho.data.forcepho.pack_stores`).
        **options
            Those of `jaxpho.data.storepack.pack_stores`.
        """
        from jaxpho.data import forcepho, storepack  # which import this module

        if compat not in (None, "forcepho"):
            raise InputError(f"compat is {compat!r}, expected None or 'forcepho'")
        pack = storepack.pack_stores if compat is None else forcepho.pack_stores
        return pack(meta, pixels, psf_store, peaks, **options)

    @classmethod
    def from_fits(cls, images, peaks, *, base_dir=".", bands=None, **options):
        """Pack a patch directly from FITS images.

        Parameters
        ----------
        images : sequence of ImageOptions, a configuration's ``images``; PSFs from mixture stores.
        peaks : sequence of Peak
        base_dir : folder of relative paths.
        bands : sequence of str, optional
            Default: the bands that the images name, in order.
        **options
            Those of `jaxpho.data.pack.pack_patch`.
        """
        from jaxpho.data.ingest import read_exposures
        from jaxpho.data.pack import pack_patch
        from jaxpho.data.psfinput import read_psf_input

        bands = bands or list(dict.fromkeys(i.band for i in images if i.band))
        if not bands:
            raise InputError("no entry of the images names its band: give bands")
        exposures = read_exposures(images, base_dir, bands, require_psf=True)
        for exposure in exposures:
            exposure.psf = read_psf_input(exposure.psf)
        return pack_patch(exposures, peaks, bands=bands, **options)

    def save(self, path) -> None:
        """Write the arrays of `to_numpy` and what `load` needs as one .npz file."""
        from jaxpho.data.unpack import save_patch

        save_patch(path, self)

    @classmethod
    def load(cls, path, **options) -> "PackedPatch":
        """Read a file of `save`; options are those of `jaxpho.data.unpack.patch_from_arrays`."""
        from jaxpho.data.unpack import load_patch

        return load_patch(path, **options)

    def pixels(self, index: int, **values) -> dict[str, np.ndarray]:
        """Unpadded pixels of an exposure: x, y (int), data, ierr and any [M, N] arrays given."""
        at, n = self.blocks[index], self.n_tiles[index] * TILE_PIXELS
        out = {}
        arrays = {"data": self.patch.data, "ierr": self.patch.ierr, **values}
        for name, a in (("x", self.patch.xpix()), ("y", self.patch.ypix())):
            out[name] = np.rint(a[at].reshape(-1)[:n]).astype(np.int32)
        for name, a in arrays.items():
            out[name] = np.asarray(a)[at].reshape(-1)[:n]
        return out

    def to_numpy(self) -> dict[str, np.ndarray]:
        """The packed arrays under their names in the specification, padding stripped.

        Positions are absolute pixels in float64. ``psfgauss_*`` are flat in (exposure, source,
        component) order; components that are padding are left out.
        """
        p, n, s = self.patch, len(self.exposures), self.n_sources
        per = [self.pixels(e) for e in range(n)]
        count = np.array([len(q["x"]) for q in per])
        band = np.array([self.bands.index(b) for b in self.exposure_bands])
        band_n = np.bincount(band, minlength=len(self.bands))
        pix0 = np.asarray(p.pix0, np.float64)[:n, None, :]
        bins = np.broadcast_to(np.asarray(p.psf_bin)[:n, None], p.psf.flux[:n, :s].shape)
        # constant in a band; a source that an exposure cannot see has no amplitude
        used = (np.asarray(p.psf.flux[:n, :s]) != 0.0).any(1) * np.arange(1, bins.shape[-1] + 1)
        n_psf = np.zeros(len(self.bands), np.int32)
        np.maximum.at(n_psf, band, used.max(-1))
        keep = np.broadcast_to(np.arange(bins.shape[-1]) < n_psf[band][:, None, None], bins.shape)
        names = ("amp", "xcen", "ycen", "Cxx", "Cyy", "Cxy")
        psf = {
            f"psfgauss_{k}": np.asarray(v[:n, :s])[keep] for k, v in zip(names, p.psf, strict=True)
        }
        per_exposure = keep.sum((1, 2))
        table = {} if self.rad2 is None else {"rad2": self.rad2}
        n_radii = len(self.rad2) if table else int(np.asarray(p.psf_bin).max()) + 1
        return table | {
            "D": np.asarray(p.d)[:n, :s],
            "CW": np.asarray(p.cw)[:n, :s],
            "CRPIX": np.asarray(p.crpix, np.float64)[:n, :s] + pix0,
            "CRVAL": np.asarray(p.crval)[:n, :s],
            "G": np.asarray(p.g)[:n],
            "xpix": np.concatenate([q["x"] for q in per]).astype(np.float64),
            "ypix": np.concatenate([q["y"] for q in per]).astype(np.float64),
            "data": np.concatenate([q["data"] for q in per]),
            "ierr": np.concatenate([q["ierr"] for q in per]),
            "band_start": np.concatenate([[0], np.cumsum(band_n)[:-1]]).astype(np.int32),
            "band_N": band_n.astype(np.int32),
            "exposure_start": np.concatenate([[0], np.cumsum(count)[:-1]]).astype(np.int32),
            "exposure_N": count.astype(np.int32),
            "n_sources": np.array([s]),
            "n_radii": np.array([n_radii]),
            "n_psf_per_source": n_psf,
            **psf,
            "psfgauss_sersic_bin": bins[keep],
            "psfgauss_start": np.concatenate([[0], np.cumsum(per_exposure)[:-1]]).astype(np.int32),
        }


def expand_psf(parameters: np.ndarray, n_radii: int) -> np.ndarray:
    """One PSF mixture per Sersic radius: repeats a mixture whose ``sersic_bin`` is -1."""
    if (parameters["sersic_bin"] >= 0).all():
        return parameters
    out = np.tile(parameters, n_radii)
    out["sersic_bin"] = np.repeat(np.arange(n_radii), len(parameters))
    return out


def point_psf(parameters: np.ndarray) -> np.ndarray:
    """The PSF a point source has: the whole mixture, or that of the smallest Sersic radius."""
    return parameters[parameters["sersic_bin"] == parameters["sersic_bin"].min()]


def _pack_psf(psf: list[list[np.ndarray]], shape: tuple[int, int, int], dtype) -> Gaussians:
    out = [np.zeros(shape) for _ in PSF_FIELDS]
    out[3][:], out[4][:] = 1.0, 1.0  # padding: no flux, a round covariance
    for e, row in enumerate(psf):
        for s, parameters in enumerate(row):
            for a, name in zip(out, PSF_FIELDS, strict=True):
                a[e, s, : len(parameters)] = parameters[name]
    return Gaussians(*(a.astype(dtype) for a in out))


def _pack_bins(psf: list[list[np.ndarray]], shape: tuple[int, int]) -> np.ndarray:
    bins = np.zeros(shape, np.int32)
    for e, row in enumerate(psf):
        for parameters in row[:1]:
            bins[e, : len(parameters)] = parameters["sersic_bin"]
        for parameters in row[1:]:
            if not np.array_equal(parameters["sersic_bin"], row[0]["sersic_bin"]):
                raise ValueError(f"exposure {e}: sources with different PSF layouts")
    return bins


def build_patch(
    tiles: Sequence[TileSet],
    bands: Sequence[int],
    astrometry: Astrometry,
    psf: list[list[np.ndarray]],
    *,
    n_radii: int,
    gain: Sequence[float] | None = None,
    pixel_term: Sequence[float] | None = None,
    tiles_per_block: int = 4,
    relative: bool = True,
    pad: bool = True,
    dtype=np.float32,
) -> tuple[Patch, list[slice]]:
    """Build the device arrays from tiles, affine maps and PSF mixtures.

    Parameters
    ----------
    tiles : sequence of TileSet
        One per exposure.
    bands : sequence of int
        Band index of each exposure.
    astrometry : Astrometry
    psf : list of list of structured arrays
        [E][S] mixtures (`jaxpho.data.psfmodel.PSF_DTYPE`).
    n_radii : int
        Number of Gaussians of the Sersic mixture.
    gain : sequence of float, optional
        [E] flux unit -> image unit (G); 1 by default.
    pixel_term : sequence of float, optional
        [E] 0 where the PSF includes the pixel; 1 by default.
    tiles_per_block : int
        Tiles a kernel step treats together.
    relative : bool
        Count pixels from an integer origin of each exposure; False keeps the origin at 0.
    pad : bool
        Pad shapes to buckets.
    dtype : dtype
        float32 or float64.

    Returns
    -------
    patch : Patch
    blocks : list of slice
        Blocks of each exposure.
    """
    n_e, n_s = astrometry.crpix.shape[:2]
    size = bucket if pad else (lambda n, minimum=1: max(n, minimum))
    e_pad, s_pad = size(n_e), size(n_s)
    wide = [[expand_psf(p, n_radii) for p in row] for row in psf]
    point = [[point_psf(p) for p in row] for row in psf]
    # fine steps: every padded PSF Gaussian of a galaxy costs time in every pixel
    p_pad = max(len(p) for row in wide for p in row)
    p_pad = -(-p_pad // 4) * 4 if pad else p_pad
    j_pad = size(max(len(p) for row in point for p in row))

    counts = [-(-len(t.x0) // tiles_per_block) for t in tiles]
    starts = np.concatenate([[0], np.cumsum(counts)])
    # loops stop at the last block in use, so that padding blocks costs memory only
    m_pad = max(256, 1 << (int(starts[-1]) - 1).bit_length()) if pad else int(starts[-1])
    flat = (m_pad, tiles_per_block, TILE_PIXELS)
    data, ierr = np.zeros(flat), np.zeros(flat)
    tile_x, tile_y = np.zeros(flat[:2]), np.zeros(flat[:2])
    block_exposure = np.zeros(m_pad, np.int32)
    pix0 = np.zeros((e_pad, 2), np.int32)
    center, scale = np.zeros((e_pad, 2)), np.ones(e_pad)
    half = (TILE - 1) / 2
    for e, t in enumerate(tiles):
        at = slice(starts[e], starts[e + 1])
        block_exposure[at] = e
        if relative:
            pix0[e] = t.x0.min(), t.y0.min()
        n = len(t.x0)
        good = (t.ierr > 0) & np.isfinite(t.ierr) & np.isfinite(t.data)
        for target, value in (
            (data, np.where(good, t.data, 0.0)),
            (ierr, np.where(good, t.ierr, 0.0)),
            (tile_x, t.x0 - pix0[e, 0] + half),
            (tile_y, t.y0 - pix0[e, 1] + half),
        ):
            view = target[at].reshape(-1, *target.shape[2:])
            view[:n] = value
            view[n:] = value[-1] if target.ndim == 2 else 0.0
        extent = np.array([np.ptp(t.x0), np.ptp(t.y0)]) + TILE
        center[e] = (extent - 1) / 2 + [t.x0.min(), t.y0.min()] - pix0[e]
        scale[e] = extent.max() / 2

    def padded(a, fill=0.0):
        out = np.full((e_pad, s_pad, *a.shape[2:]), fill)
        out[:n_e, :n_s] = a
        return out.astype(dtype)

    def per_exposure(values):
        out = np.ones(e_pad)
        if values is not None:
            out[:n_e] = values
        return out.astype(dtype)

    eye = np.broadcast_to(np.eye(2), (e_pad, s_pad, 2, 2))
    d = np.where(padded(np.ones((n_e, n_s, 1, 1))) > 0, padded(astrometry.d), eye)
    crpix = astrometry.crpix - pix0[:n_e, None, :]
    patch = Patch(
        data=data.reshape(m_pad, -1).astype(dtype),
        ierr=ierr.reshape(m_pad, -1).astype(dtype),
        tile_x=tile_x.astype(dtype),
        tile_y=tile_y.astype(dtype),
        block_exposure=block_exposure,
        n_blocks=np.int32(starts[-1]),
        exposure_band=np.array([*bands] + [0] * (e_pad - n_e), np.int32),
        pix0=pix0,
        d=d.astype(dtype),
        cw=padded(astrometry.cw),
        crpix=padded(crpix),
        crval=padded(astrometry.crval),
        g=per_exposure(gain),
        pixel_term=per_exposure(pixel_term),
        psf=_pack_psf(wide, (e_pad, s_pad, p_pad), dtype),
        psf_bin=_pack_bins(wide, (e_pad, p_pad)),
        psf_point=_pack_psf(point, (e_pad, s_pad, j_pad), dtype),
        sky_center=center.astype(dtype),
        sky_scale=scale.astype(dtype),
    )
    blocks = [slice(int(a), int(b)) for a, b in zip(starts[:-1], starts[1:], strict=True)]
    return jax.tree.map(jnp.asarray, patch), blocks
