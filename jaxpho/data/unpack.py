"""From the packed arrays of the specification back to a patch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from jaxpho.data.hdf5 import writing
from jaxpho.data.packing import Astrometry, PackedPatch, build_patch
from jaxpho.data.psfmodel import PSF_DTYPE
from jaxpho.data.tiles import tiles_from_pixels
from jaxpho.errors import InputError

_PSF_FIELDS = ("amp", "xcen", "ycen", "Cxx", "Cyy", "Cxy", "sersic_bin")
_NEEDED = (
    "xpix", "ypix", "data", "ierr", "exposure_start", "exposure_N", "band_N", "D", "CW", "G",
    "n_psf_per_source", "psfgauss_start", *(f"psfgauss_{f}" for f in _PSF_FIELDS),
)  # fmt: skip


def patch_from_arrays(
    arrays: Mapping[str, np.ndarray],
    *,
    n_radii: int | None = None,
    first_psf: bool = False,
    relative: bool = True,
    dtype=np.float32,
    pad: bool = True,
    tiles_per_block: int = 4,
    where: str = "packed arrays",
) -> PackedPatch:
    """Build a patch from arrays under the names of the specification.

    Parameters
    ----------
    arrays : mapping
        The arrays of `PackedPatch.to_numpy`, or forcepho's (crpix and crval in small letters).
        CRPIX and CRVAL are [E, S, 2], or [E, 2] for one linearisation point per exposure.
        Optional: pixel_term [E], bandlist, bands, epaths, reference_coordinates, unit, rad2 [K].
    n_radii : int, optional
        Gaussians of the Sersic mixture, default ``arrays["n_radii"]``.
    first_psf : bool
        Give all sources of an exposure the PSF of the first, as forcepho's kernels do.
    relative : bool
        Count pixels from an integer origin of each exposure; False keeps the origin at 0.
    dtype, pad, tiles_per_block
        See `build_patch`.
    where : names the source of the arrays, in errors.

    Raises
    ------
    InputError
        For arrays that are missing or whose shapes disagree.
    """
    arrays = _named(arrays, where)
    n_e, n_s = arrays["D"].shape[:2]
    _check(arrays, n_e, n_s, where)
    band = np.repeat(np.arange(len(arrays["band_N"])), arrays["band_N"])
    tiles, psf = [], []
    for e in range(n_e):
        at = slice(int(arrays["exposure_start"][e]), None)
        at = slice(at.start, at.start + int(arrays["exposure_N"][e]))
        tiles.append(tiles_from_pixels(*(arrays[k][at] for k in ("xpix", "ypix", "data", "ierr"))))
        n, start = int(arrays["n_psf_per_source"][band[e]]), int(arrays["psfgauss_start"][e])
        row = []
        for s in range(n_s):
            at = slice(start + n * (0 if first_psf else s), None)
            parameters = np.zeros(n, PSF_DTYPE)
            for field, theirs in zip(PSF_DTYPE.names, _PSF_FIELDS, strict=True):
                parameters[field] = arrays[f"psfgauss_{theirs}"][at][:n]
            row.append(parameters)
        psf.append(row)
    shape = (n_e, n_s, 2)
    point = [
        np.broadcast_to(a if a.ndim == 3 else a[:, None, :], shape)
        for a in (np.asarray(arrays[k], float) for k in ("CRPIX", "CRVAL"))
    ]
    patch, blocks = build_patch(
        tiles,
        band,
        Astrometry(np.asarray(arrays["D"], float), np.asarray(arrays["CW"], float), *point),
        psf,
        n_radii=int(np.max(arrays["n_radii"] if n_radii is None else n_radii)),
        gain=arrays["G"],
        pixel_term=arrays.get("pixel_term"),
        tiles_per_block=tiles_per_block,
        relative=relative,
        pad=pad,
        dtype=dtype,
    )
    names = [str(b) for b in arrays.get("bandlist", [f"band{i}" for i in range(band.max() + 1)])]
    return PackedPatch(
        patch=patch,
        reference=tuple(float(x) for x in arrays.get("reference_coordinates", (0.0, 0.0))),
        exposures=[str(p) for p in arrays.get("epaths", [f"exposure{e}" for e in range(n_e)])],
        bands=names,
        exposure_bands=[names[b] for b in band],
        blocks=blocks,
        n_tiles=[len(t.x0) for t in tiles],
        n_sources=n_s,
        unit=str(arrays.get("unit", "nJy")),
        rad2=arrays.get("rad2"),
    )


def save_patch(path, packed: PackedPatch) -> None:
    """Write a patch as an .npz file with the arrays of `PackedPatch.to_numpy` under their names.

    Beside them: pixel_term [E], PIX0 [E, 2], bands and bandlist, epaths, unit,
    reference_coordinates. Nuisances of exposures and reduced PSF mixtures are left out.
    """
    n_e = len(packed.exposures)
    extra = {
        "pixel_term": np.asarray(packed.patch.pixel_term)[:n_e],
        "PIX0": np.asarray(packed.patch.pix0)[:n_e],
        "bands": np.array(packed.exposure_bands),
        "bandlist": np.array(packed.bands),
        "epaths": np.array(packed.exposures),
        "unit": np.array(packed.unit),
        "reference_coordinates": np.array(packed.reference, float),
    }
    with writing(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **packed.to_numpy(), **extra)


def load_patch(path, **options) -> PackedPatch:
    """Read a file of `save_patch`; options are those of `patch_from_arrays`.

    Raises
    ------
    InputError
        When the file is missing, not such a file, or lacks an array.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: the file of packed arrays does not exist")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except (ValueError, OSError, EOFError, BadZipFile, AttributeError, TypeError) as error:
        raise InputError(f"{path}: not a readable .npz file ({error})") from None
    return patch_from_arrays(arrays, **{"where": str(path), **options})


def _named(arrays: Mapping[str, np.ndarray], where: str) -> dict[str, np.ndarray]:
    """The arrays with CRPIX and CRVAL in capitals; InputError when one is missing."""
    out = {key: np.asarray(arrays[key]) for key in arrays}
    for name in ("CRPIX", "CRVAL"):
        if name not in out and name.lower() in out:
            out[name] = out[name.lower()]
    for name in (*_NEEDED, "CRPIX", "CRVAL"):
        if name not in out:
            raise InputError(f"{where}: array '{name}' is missing")
    return out


def _check(arrays: dict[str, np.ndarray], n_e: int, n_s: int, where: str) -> None:
    expected = {
        "D": [(n_e, n_s, 2, 2)],
        "CW": [(n_e, n_s, 2, 2)],
        "CRPIX": [(n_e, n_s, 2), (n_e, 2)],
        "CRVAL": [(n_e, n_s, 2), (n_e, 2)],
        "G": [(n_e,)],
        "exposure_start": [(n_e,)],
        "exposure_N": [(n_e,)],
        "psfgauss_start": [(n_e,)],
        **{name: [arrays["xpix"].shape] for name in ("ypix", "data", "ierr")},
        **{f"psfgauss_{f}": [arrays["psfgauss_amp"].shape] for f in _PSF_FIELDS},
    }
    for name, shapes in expected.items():
        if arrays[name].shape not in shapes:
            text = " or ".join(map(str, shapes))
            raise InputError(f"{where}: '{name}' has shape {arrays[name].shape}, expected {text}")
    for total, name in ((n_e, "band_N"), (len(arrays["xpix"]), "exposure_N")):
        if arrays[name].sum() != total:
            raise InputError(f"{where}: '{name}' sums to {arrays[name].sum()}, expected {total}")
    band = np.repeat(np.arange(len(arrays["band_N"])), arrays["band_N"])
    needed = n_s * int(np.sum(arrays["n_psf_per_source"][band]))
    if len(arrays["psfgauss_amp"]) != needed:
        raise InputError(
            f"{where}: {len(arrays['psfgauss_amp'])} PSF Gaussians, expected {needed} from "
            "n_psf_per_source"
        )
