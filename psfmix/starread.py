"""Stars as users have them: a science image with a catalogue, or a FITS file of stamps."""

from __future__ import annotations

import logging
import re
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.units import UnitsWarning
from astropy.wcs import WCS

from jaxpho.data.tables import read_table
from jaxpho.errors import InputError
from psfmix.stamps import cut_stamps, make_stamps

log = logging.getLogger("psfmix.stars")

_WEIGHTS, _ERRORS, _MASKS = ("WEIGHT", "WHT", "IVAR", "INVVAR"), ("ERR", "ERROR"), ("MASK", "DQ")
_MAD = 1.4826


class Planes(NamedTuple):
    """Where weights, errors and masks are: each a file, FILE[EXT], or an extension of the image.

    Weights are inverse variances, errors standard deviations; in a mask everything but 0 is bad.
    """

    weight: str | None = None
    error: str | None = None
    mask: str | None = None


def read_stars(stars, image=None, ext=None, planes=None, size=51, saturation=None, gain=None):
    """Star stamps from files.

    Parameters
    ----------
    stars : path
        With `image` a table (FITS, ECSV, CSV) with columns ``x``, ``y`` (pixel, 0-indexed) or
        ``ra``, ``dec`` (degrees). Without it a FITS file with a cube of stamps (nstar, ny, nx)
        and a table with columns ``x``, ``y`` and, when the stamps are not cut around the nearest
        pixel, ``x0``, ``y0``: the detector pixel of each stamp's pixel (0, 0).
    image : path, optional
        Science image, sky subtracted or not (every star has a background of its own).
    ext : int or str, optional
        Extension of the image or of the cube; by default the first with data.
    planes : Planes, optional
        Extensions named WEIGHT, WHT, IVAR, INVVAR, ERR, ERROR, MASK or DQ beside the image or cube
        are found by themselves.
    size : int
        Side of the stamps that are cut from an image, pixels.
    saturation, gain : float, optional
        See `psfmix.stamps.make_stamps`.

    Returns
    -------
    Stamps

    Raises
    ------
    InputError
        Files, extensions or columns that are missing, shapes and numbers that do not match.
    """
    planes = planes or Planes()
    name = "star stamps" if image is None else "image"
    path = Path(stars if image is None else image)
    with _opened(path, name) as hdus:
        index, data = _data(hdus, path, ext, 3 if image is None else 2, name)
        header = hdus[index].header
        ivar = _inverse_variance(hdus, path, index, data, planes)
        if image is None:
            table = _table_of(hdus, path)
            positions, corners = _columns(table, path, "xy"), None
            if {"x0", "y0"} <= set(table.colnames):
                corners = _columns(table, path, ("x0", "y0"))
                if not np.all(np.isfinite(corners)):
                    raise InputError(f"{path}: columns x0 and y0 hold values that are not finite")
                corners = np.rint(corners).astype(int)
            if len(table) != len(data):
                raise InputError(f"{path} holds {len(data)} star stamps and {len(table)} positions")
        else:
            positions = _positions(read_table(stars), stars, header, hdus, path)
    try:
        if image is None:
            return make_stamps(
                data, ivar, positions, corners=corners, saturation=saturation, gain=gain
            )
        return cut_stamps(data, ivar, positions, size, saturation=saturation, gain=gain)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _opened(path, name):
    if not path.is_file():
        raise InputError(f"{name} {path} does not exist")
    try:
        return fits.open(path, memmap=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{name} {path} is not a readable FITS file ({error})") from error


def _data(hdus, path, ext, ndim, name):
    """Index and values of the image or cube."""
    images = [i for i, h in enumerate(hdus) if h.is_image and h.header.get("NAXIS", 0) > 0]
    if ext is None:
        if not images:
            raise InputError(f"{name} {path} holds no image")
        index = images[0]
    else:
        index = _index(hdus, path, ext)
    values = _values(hdus, index, path)
    if values.ndim != ndim:
        expected = "(ny, nx)" if ndim == 2 else "(nstar, ny, nx)"
        raise InputError(f"{name} {path}[{index}] has shape {values.shape}; expected {expected}")
    return index, values


def _index(hdus, path, ext):
    try:
        index = hdus.index_of(int(ext) if str(ext).isdigit() else ext)
        if not 0 <= index < len(hdus):
            raise KeyError(ext)
    except KeyError:
        names = ", ".join(f"{i} {h.name}".strip() for i, h in enumerate(hdus))
        raise InputError(f"{path} has no extension {ext!r}; it has: {names}") from None
    return index


def _values(hdus, index, path):
    try:
        data = np.asarray(hdus[index].data)
        if not hdus[index].is_image or data.dtype.kind not in "fiub" or data.ndim == 0:
            raise TypeError("it holds no image of numbers")
        return data.astype(float)
    except (OSError, TypeError, ValueError) as error:
        raise InputError(f"{path}[{index}] cannot be read ({error})") from error


def _inverse_variance(hdus, path, index, data, planes):
    """Array like the data; 0 where masked."""
    if planes.weight is not None and planes.error is not None:
        raise InputError("--weight and --error are both given; expected one of them")
    weight = _plane(hdus, path, index, data, planes.weight, "weight")
    error = _plane(hdus, path, index, data, planes.error, "error")
    if weight is None and error is None:
        weight = _named(hdus, path, index, data, _WEIGHTS)
        error = _named(hdus, path, index, data, _ERRORS) if weight is None else None
    if weight is None and error is not None:
        with np.errstate(divide="ignore", invalid="ignore"):
            weight = np.where(error > 0, error**-2.0, 0.0)
    if weight is None:
        finite = data[np.isfinite(data)]
        sigma = _MAD * np.median(np.abs(finite - np.median(finite))) if finite.size else 0.0
        if not sigma > 0:
            raise InputError(f"{path}: no weights or errors, and the pixels do not scatter")
        log.warning(
            "%s: no weights or errors: a constant noise of %.4g, the scatter of the pixels, is "
            "assumed", path, sigma,
        )  # fmt: skip
        weight = np.full(data.shape, sigma**-2)
    mask = _plane(hdus, path, index, data, planes.mask, "mask")
    if mask is None:
        mask = _named(hdus, path, index, data, _MASKS)
    return weight if mask is None else np.where(mask == 0, weight, 0.0)


def _named(hdus, path, index, data, names):
    """The first extension with one of these names and the data's shape."""
    for k, hdu in enumerate(hdus):
        if k != index and hdu.is_image and hdu.name.upper() in names:
            values = _values(hdus, k, path)
            if values.shape == data.shape:
                log.info("%s: takes %s from extension %d", path, hdu.name, k)
                return values
    return None


def _plane(hdus, path, index, data, text, name):
    """Values of --weight, --error or --mask."""
    if text is None:
        return None
    match = re.fullmatch(r"(.+)\[(\w+)\]", str(text))
    file, ext = (match[1], match[2]) if match else (str(text), None)
    if Path(file).is_file():
        other = Path(file)
        with _opened(other, name) as found:
            values = _data(found, other, ext, data.ndim, name)[1]
        where = str(text)
    elif match or Path(file).suffix or "/" in file:
        raise InputError(f"{name} {file} does not exist")
    else:
        values, where = _values(hdus, _index(hdus, path, file), path), f"{path}[{file}]"
    if values.shape != data.shape:
        raise InputError(
            f"{name} {where} has shape {values.shape}; {path}[{index}] has {data.shape}"
        )
    return values


def _table_of(hdus, path):
    """The table of positions beside a cube of stamps."""
    for hdu in hdus:
        if isinstance(hdu, fits.BinTableHDU) and not isinstance(hdu, fits.CompImageHDU):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UnitsWarning)
                return Table.read(hdu)
    raise InputError(
        f"star stamps {path} have no table of positions; expected a table extension with columns "
        "x, y (or is it an image? then --psf_image names it and --stars the catalogue)"
    )


def _columns(table, path, names):
    """Two columns as an array (nstar, 2); masked entries are NaN."""
    missing = [name for name in names if name not in table.colnames]
    if missing:
        raise InputError(
            f"{path}: no column {missing[0]!r}; expected {', '.join(names)}, found "
            + ", ".join(table.colnames)
        )
    try:
        if any(table[name].ndim != 1 for name in names):
            raise ValueError(names)
        return np.stack(
            [np.ma.filled(np.ma.asarray(table[name], float), np.nan) for name in names], axis=-1
        )
    except (TypeError, ValueError):
        raise InputError(f"{path}: columns {', '.join(names)} must be numbers") from None


def _positions(table, stars, header, hdus, path):
    """Pixels of a catalogue of a science image."""
    if not len(table):
        raise InputError(f"{stars}: the catalogue of stars is empty")
    names = set(table.colnames)
    if {"x", "y"} <= names:
        return _columns(table, stars, ("x", "y"))
    if not {"ra", "dec"} <= names:
        raise InputError(
            f"{stars}: no columns x, y (pixel, 0-indexed) or ra, dec (degrees); found "
            + ", ".join(table.colnames)
        )
    sky = _columns(table, stars, ("ra", "dec"))
    try:
        wcs = WCS(header, hdus)
    except (ValueError, KeyError, MemoryError) as error:
        raise InputError(f"{path}: its WCS cannot be read ({error})") from error
    if not wcs.has_celestial:
        raise InputError(f"{path}: no celestial WCS in the header, but {stars} has ra, dec only")
    out = np.full(sky.shape, np.nan)
    good = np.isfinite(sky).all(axis=1)
    out[good] = np.stack(wcs.celestial.all_world2pix(*sky[good].T, 0, quiet=True), axis=-1)
    return out
