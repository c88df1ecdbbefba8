"""The meta store: FITS headers of all exposures, JSON {band: {exposure id: header}}.

This is forcepho's format: a header is the text of its 80-character cards, with FILTER equal to
the band, NAXIS1, NAXIS2 and a celestial WCS. Beside a large store lies an index
(`jaxpho.data.metaindex`), so that it opens at once and only the headers that are needed are
parsed.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from astropy.io import fits

from jaxpho.data.footprint import Footprints, footprint
from jaxpho.data.gwcsfile import open_gwcs
from jaxpho.data.metaindex import Index, index_path, read_index, stamp_of, write_index
from jaxpho.data.options import WCSOptions
from jaxpho.data.wcs import build_wcs
from jaxpho.errors import InputError
from jaxpho.files import replacing

log = logging.getLogger("jaxpho.metastore")

INDEX_FROM = 200
"""Exposures from which an index is written beside a store that has none."""


class MetaStore:
    """Headers, WCS and footprints of exposures; made by `open_meta_store`.

    Attributes
    ----------
    path : Path
    keys : list of (band, exposure id), in the order of the file.
    footprints : Footprints, in the same order.
    """

    def __init__(self, path: Path, index: Index):
        self.path, self._index = path, index
        self.keys = index.keys
        self.footprints = index.footprints
        self._number = {key: i for i, key in enumerate(index.keys)}
        self._wcs: dict = {}
        self._gwcs = None

    def __contains__(self, key) -> bool:
        return tuple(key) in self._number

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def bands(self) -> list[str]:
        """Bands in the order of the file."""
        return list(dict.fromkeys(band for band, _ in self.keys))

    def where(self, band: str, name: str) -> str:
        """Names an exposure's header in errors."""
        return f"meta store {self.path}, {band}/{name}"

    def number(self, band: str, name: str) -> int:
        """Position of an exposure in `keys`."""
        try:
            return self._number[band, name]
        except KeyError:
            raise InputError(f"{self.where(band, name)}: no such exposure") from None

    def text(self, band: str, name: str) -> str:
        """The header's text, as stored."""
        return self._index.text(self.number(band, name))

    def header(self, band: str, name: str) -> fits.Header:
        """The parsed header."""
        return parse_header(self.text(band, name), self.where(band, name))

    def nside(self, band: str, name: str) -> tuple[int, int]:
        """(nx, ny) of an exposure."""
        nx, ny = self.footprints.nside[self.number(band, name)]
        return int(nx), int(ny)

    def wcs(self, band: str, name: str):
        """The WCS, made when first asked for; a gwcs where the store has one and it can be read."""
        key = (band, name)
        if key not in self._wcs:
            nx, ny = self.nside(band, name)
            self._wcs[key] = (
                self._gwcs_of(key, (ny, nx))
                or build_wcs(
                    self.header(band, name), WCSOptions(), (ny, nx), where=self.where(band, name)
                )[0]
            )
        return self._wcs[key]

    def _gwcs_of(self, key, shape):
        if self._gwcs is None:
            path = self.path.with_suffix(".asdf")
            self._gwcs = open_gwcs(path) if path.is_file() else {}
        band, name = key
        found = self._gwcs.get(band, {}).get(name)
        if found is not None:
            found.centre = ((shape[1] - 1) / 2, (shape[0] - 1) / 2)
        return found

    def near(self, ra: float, dec: float, radius: float, bands=None) -> list[tuple[str, str]]:
        """Exposures that a circle (deg, arcsec) may touch: by band, then in the file's order."""
        found = [self.keys[i] for i in self.footprints.near(ra, dec, radius)]
        bands = self.bands if bands is None else bands
        return [key for band in bands for key in found if key[0] == band]


def open_meta_store(path, index: bool = True) -> MetaStore:
    """Open a meta store.

    Parameters
    ----------
    path : JSON file.
    index : use the index beside it, and write one when there is none or the JSON has changed.

    Raises
    ------
    InputError
        One sentence naming the file and the entry: unreadable JSON, another structure, duplicate
        ids, ids that are the path to another, headers that are damaged, without FILTER, of
        another band, without size or without a WCS.
    """
    path = Path(path)
    if not path.is_file():
        kind = "is a folder" if path.is_dir() else "does not exist"
        raise InputError(f"meta store {path} {kind}")
    found = read_index(path) if index else None
    if found is None:
        stamp = stamp_of(path)
        found = make_index(path, _read_json(path))
        if index and len(found.keys) >= INDEX_FROM:
            _try_write(path, found, stamp)
    return MetaStore(path, found)


def _try_write(path: Path, index: Index, stamp: list[int]) -> None:
    try:
        write_index(path, index, stamp)
    except OSError as error:
        log.info("%s not written (%s): opening this store stays slow", index_path(path), error)


def write_meta_store(path, headers: Mapping[str, Mapping]) -> None:
    """Write a meta store and its index.

    Parameters
    ----------
    path : JSON file, replaced in one step.
    headers : band -> exposure id -> astropy Header or text of its cards.

    Raises
    ------
    InputError
        For headers that `open_meta_store` would refuse.
    """
    path = Path(path)
    texts = {
        band: {name: h if isinstance(h, str) else h.tostring() for name, h in exposures.items()}
        for band, exposures in headers.items()
    }
    index = make_index(path, texts)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(texts), encoding="utf-8")
        stamp = stamp_of(temporary)  # a rename keeps it
    if len(index.keys) >= INDEX_FROM:
        _try_write(path, index, stamp)
    else:
        index_path(path).unlink(missing_ok=True)


def _read_json(path: Path) -> dict[str, dict[str, str]]:
    where = f"meta store {path}"

    def unique(pairs):
        out = dict(pairs)
        if len(out) < len(pairs):
            seen: set = set()
            twice = next(k for k, _ in pairs if k in seen or seen.add(k))
            raise InputError(f"{where}: '{twice}' occurs twice; ids must be unique")
        return out

    try:
        found = json.loads(path.read_bytes(), object_pairs_hook=unique)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        line = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise InputError(f"{where}{line}: not readable as JSON ({error})") from None
    except (OSError, RecursionError) as error:
        raise InputError(f"{where} cannot be read ({error})") from None
    if not isinstance(found, dict):
        raise InputError(f"{where}: found a {type(found).__name__}, expected bands")
    for band, exposures in found.items():
        if not isinstance(exposures, dict):
            raise InputError(f"{where}, {band}: expected a mapping of exposure ids to headers")
        for name, text in exposures.items():
            if not isinstance(text, str):
                raise InputError(f"{where}, {band}/{name}: expected the text of a FITS header")
    return found


def parse_header(text: str, where: str) -> fits.Header:
    """A header from the text of its cards.

    Raises
    ------
    InputError
        When it is not made of 80-character cards.
    """
    try:
        text.encode("ascii")
        if len(text) % 80:
            raise ValueError(f"{len(text)} characters, expected a multiple of 80")
        header = fits.Header.fromstring(text)
        list(header.items())  # values are parsed only now
        return header
    except (ValueError, fits.VerifyError, UnicodeEncodeError) as error:
        raise InputError(f"{where}: not a FITS header ({str(error).splitlines()[0]})") from None


def check_header(header: fits.Header, band: str, where: str) -> tuple[int, int]:
    """(nx, ny) of an exposure's header; InputError when it is not one of this band."""
    if "FILTER" not in header:
        raise InputError(f"{where}: the header has no FILTER card, expected FILTER = '{band}'")
    if str(header["FILTER"]).strip() != band:
        raise InputError(
            f"{where}: FILTER is '{header['FILTER']}', expected '{band}', the name of its band"
        )
    nside = [header.get(f"NAXIS{i}") for i in (1, 2)]
    if not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in nside):
        raise InputError(f"{where}: NAXIS1, NAXIS2 are {nside}, expected the image's size")
    return nside[0], nside[1]


def header_number(header: fits.Header, card: str, where: str) -> float:
    """A number of a header, 0 where the card is missing."""
    value = header.get(card, 0.0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        raise InputError(f"{where}: header card {card} is {value!r}, expected a number")
    return float(value)


def check_ids(names, where: str) -> None:
    """Raise InputError when an id cannot be a group of its own beside the others."""
    known = set(names)
    for name in names:
        parts = name.split("/")
        if "" in parts or "." in parts or ".." in parts:
            raise InputError(f"{where}/{name}: the exposure id has an empty part or a dot for one")
        for k in range(1, len(parts)):
            above = "/".join(parts[:k])
            if above in known:
                raise InputError(
                    f"{where}/{above}: this exposure id is the beginning of the path of '{name}'"
                )


def make_index(path: Path, texts: Mapping[str, Mapping[str, str]]) -> Index:
    """Check every header of a store and work out where its images lie."""
    keys, blocks, prints, sides = [], [], [], []
    for band, exposures in texts.items():
        check_ids(list(exposures), f"meta store {path}, {band}")
        for name, text in exposures.items():
            where = f"meta store {path}, {band}/{name}"
            header = parse_header(text, where)
            nside = check_header(header, band, where)
            wcs, _ = build_wcs(header, WCSOptions(), nside[::-1], where=where)
            keys.append((band, name))
            blocks.append(text)
            sides.append(nside)
            prints.append(footprint(wcs, nside))
    n = len(keys)
    centre, matrix, margin = zip(*prints, strict=True) if n else ((), (), ())
    footprints = Footprints(
        np.array(centre, float).reshape(n, 2),
        np.array(matrix, float).reshape(n, 2, 2),
        np.array(sides, float).reshape(n, 2),
        np.array(margin, float),
    )
    return Index(keys, footprints, blocks)
