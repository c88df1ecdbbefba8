"""PSFEx models: a PSF image that is a polynomial of the position on the detector."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from astropy.io import fits

from jaxpho.errors import InputError

log = logging.getLogger("jaxpho.psfex")


@dataclass(frozen=True)
class PSFExModel:
    """A PSFEx model of one detector.

    Attributes
    ----------
    basis : array (ncoef, ny, nx), float64
        Images multiplied by 1, x, x^2 .. y, x y .. y^2 ... of the scaled position.
    zero, scale : tuple of float
        POLZERO, POLSCAL of x and y: FITS pixels, 1-indexed, of the frame PSFEx was run on.
    degree : int
        Degree of the polynomial; 0 is a constant PSF.
    sampling : float
        PSF_SAMP: native pixels per sample of the images.
    label : str
        File (and row) it came from.
    """

    basis: np.ndarray
    zero: tuple[float, float]
    scale: tuple[float, float]
    degree: int
    sampling: float
    label: str = ""

    # The images are PSF convolved with the native pixel, at any sampling (Bertin 2011).
    includes_pixel = True

    @property
    def oversample(self):
        """Samples per native pixel, 1 / PSF_SAMP."""
        return 1.0 / self.sampling

    def image(self, x, y, normalize=True):
        """The PSF at a detector position.

        Parameters
        ----------
        x, y : float
            Pixel position, 0-indexed, in the frame of the image.
        normalize : bool
            Scale the image to sum 1; PSFEx's own sums are off by a few percent.

        Returns
        -------
        array (ny, nx), float64
            Centred on ((nx-1)/2, (ny-1)/2), sampled every `sampling` native pixels.
        """
        u = (x + 1 - self.zero[0]) / self.scale[0]
        v = (y + 1 - self.zero[1]) / self.scale[1]
        terms = [u**i * v**j for j in range(self.degree + 1) for i in range(self.degree + 1 - j)]
        image = np.tensordot(np.array(terms), self.basis, axes=1)
        if not normalize:
            return image
        total = image.sum()
        if not total > 0:
            raise InputError(
                f"PSFEx model {self.label} sums to {total:.3g} at pixel ({x:.0f}, {y:.0f}): "
                "is the position in the frame the model was made for?"
            )
        return image / total

    def shifted(self, x0, y0):
        """The model for a cutout whose pixel (0, 0) is pixel (x0, y0), 0-indexed, of this frame."""
        return replace(self, zero=(self.zero[0] - x0, self.zero[1] - y0))


def read_psfex(path, ext=None, expnum=None, ccdname=None):
    """Read a PSFEx file, or one row of a table of them (legacypipe's merged files).

    Parameters
    ----------
    path : path
        FITS file. PSFEx's own keep POLNAME, POLZERO ... in the header; merged files keep them in
        columns, one row per detector.
    ext : int or str, optional
        Extension; the first table with a ``psf_mask`` column by default.
    expnum, ccdname : int, str, optional
        Which row of a merged file.

    Returns
    -------
    PSFExModel

    Raises
    ------
    InputError
        Missing or damaged file, no ``psf_mask``, no or several matching rows, or a model that
        depends on more than the position.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"PSFEx file {path} does not exist")
    try:
        with fits.open(path, memmap=False) as hdus:
            header, table = _find_table(hdus, ext, path)
            names = {name.lower(): name for name in table.names}
            row, label = _find_row(table, names, expnum, ccdname, path)
            entry = table[row]
            fields = {key.lower(): value for key, value in header.items() if key}
            fields |= {low: entry[name] for low, name in names.items() if low != "psf_mask"}
            mask = np.array(entry[names["psf_mask"]], dtype=float)
    except (OSError, TypeError, KeyError) as error:
        raise InputError(f"PSFEx file {path} cannot be read as FITS ({error})") from error
    return _build(mask, fields, label)


def _find_table(hdus, ext, path):
    if ext is not None:
        try:
            chosen = [hdus[ext]]
        except (KeyError, IndexError) as error:
            raise InputError(f"PSFEx file {path} has no extension {ext!r}") from error
    else:
        chosen = [hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU)]
    for hdu in chosen:
        if isinstance(hdu, fits.BinTableHDU) and "psf_mask" in map(str.lower, hdu.columns.names):
            return hdu.header, hdu.data
    raise InputError(f"PSFEx file {path} has no table with a 'psf_mask' column")


def _find_row(table, names, expnum, ccdname, path):
    keep = np.ones(len(table), dtype=bool)
    wanted = []
    for key, value in (("expnum", expnum), ("ccdname", ccdname)):
        if value is None or key not in names:
            continue
        wanted.append(f"{key} {value}")
        column = np.char.strip(np.asarray(table[names[key]]).astype(str))
        keep &= column == str(value).strip()
    rows = np.flatnonzero(keep)
    if len(rows) != 1:
        raise InputError(
            f"PSFEx file {path} has {len(rows)} rows of {len(table)} for "
            f"{' and '.join(wanted) or 'no expnum and ccdname'}; expected exactly one"
        )
    label = f"{path.name}" + (f" row {rows[0]}" if len(table) > 1 else "")
    return int(rows[0]), label


def _build(mask, fields, label):
    if mask.ndim == 2:
        mask = mask[None]
    if mask.ndim != 3 or not np.all(np.isfinite(mask)):
        raise InputError(f"PSFEx model {label}: psf_mask has shape {mask.shape} or is not finite")
    # Merged tables pad every detector to the largest; the true size is kept beside it.
    nx, ny, ncoef = (
        int(fields.get(f"psfaxis{axis}", size))
        for axis, size in zip((1, 2, 3), mask.shape[::-1], strict=True)
    )
    mask = _crop(mask[:ncoef], ny, nx)
    axes = int(fields.get("polnaxis", sum(f"polname{k}" in fields for k in (1, 2))))
    degree = int(fields.get("poldeg1", 0)) if axes else 0
    names = [str(fields.get(f"polname{k}", "")).strip().upper() for k in range(1, axes + 1)]
    positional = names == [] or (
        len(names) == 2 and names[0].startswith("X") and names[1].startswith("Y")
    )
    one_group = all(int(fields.get(f"polgrp{k}", 1)) == 1 for k in range(1, axes + 1))
    if not positional or not one_group:
        raise InputError(
            f"PSFEx model {label} depends on {', '.join(names)}; only x and y positions in one "
            "polynomial group are supported"
        )
    expected = (degree + 1) * (degree + 2) // 2
    if len(mask) != expected:
        raise InputError(
            f"PSFEx model {label} has {len(mask)} basis images; degree {degree} needs {expected}"
        )
    try:
        zero = tuple(float(fields[f"polzero{k}"]) if axes else 0.0 for k in (1, 2))
        scale = tuple(float(fields[f"polscal{k}"]) if axes else 1.0 for k in (1, 2))
        sampling = float(fields["psf_samp"])
    except KeyError as error:
        raise InputError(f"PSFEx model {label} lacks {str(error).upper()}") from error
    if not sampling > 0 or 0 in scale:
        raise InputError(f"PSFEx model {label} has PSF_SAMP {sampling} and POLSCAL {scale}")
    log.info(
        "PSFEx %s: %dx%d, degree %d, PSF_SAMP %g px; the images contain the pixel",
        label,
        nx,
        ny,
        degree,
        sampling,
    )
    return PSFExModel(mask, zero, scale, degree, sampling, label)


def _crop(mask, ny, nx):
    """The true (ny, nx) of basis images that a merged table has padded with zeros at their end."""
    if ny > mask.shape[1] or nx > mask.shape[2]:
        raise InputError(f"PSFEx: psf_mask {mask.shape} is smaller than PSFAXIS ({ny}, {nx})")
    return mask[:, :ny, :nx]
