"""Tables beside the images: one row per image, and the text templates filled from it."""

from __future__ import annotations

import glob
import logging
import os
import string
import warnings
from pathlib import Path

import numpy as np
from astropy.table import MaskedColumn, Table
from astropy.units import UnitsWarning

from jaxpho.errors import InputError

log = logging.getLogger("jaxpho.ingest")

_SUFFIXES = (".gz", ".fz", ".bz2", ".xz")


def read_table(path) -> Table:
    """A FITS, ECSV or CSV table.

    Raises
    ------
    InputError
        When the file is missing or is not a table.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: the table does not exist")
    name = path.name.lower()
    if any(name.endswith(s) for s in (".csv", ".ecsv", ".txt", ".dat")):
        kind = {"csv": "ascii.csv", "ecsv": "ascii.ecsv"}.get(name.rsplit(".", 1)[1], "ascii")
    else:
        kind = "fits"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnitsWarning)
            return Table.read(path, format=kind)
    except (OSError, ValueError, TypeError, KeyError, IndexError, EOFError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "unknown reason"
        raise InputError(f"{path}: not a readable {kind} table ({reason})") from None


def row_dict(table: Table, index: int) -> dict:
    """A row as plain values; texts stripped, masked entries left out."""
    out = {}
    for name in table.colnames:
        column = table[name]
        if column.ndim != 1:
            continue
        if isinstance(column, MaskedColumn) and np.ma.getmaskarray(column)[index]:
            continue
        value = column[index]
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        out[name] = value.strip() if isinstance(value, str) else getattr(value, "item", str)()
    return out


def select_rows(table: Table, where: dict[str, list[str]] | None, label: str) -> list[int]:
    """Rows whose columns hold one of the accepted values; "?column" is passed over when absent."""
    keep = np.ones(len(table), bool)
    for name, accepted in (where or {}).items():
        column = name.lstrip("?")
        if column not in table.colnames:
            if name.startswith("?"):
                continue
            raise InputError(f"{label}: no column '{column}' (found: {', '.join(table.colnames)})")
        texts = np.array([_text(v) for v in table[column]])
        keep &= np.isin(texts, [str(a).strip() for a in accepted])
    return list(np.flatnonzero(keep))


def _text(value) -> str:
    return value.decode().strip() if isinstance(value, bytes) else str(value).strip()


def bare(path: str) -> str:
    """A path without compression suffixes, for comparisons."""
    for suffix in _SUFFIXES:
        path = path.removesuffix(suffix)
    return path


def same_file(image: str, listed: str) -> bool:
    """Whether an image's path ends with the path that a table lists, compression apart."""
    image, listed = bare(os.path.normpath(image)), bare(os.path.normpath(listed))
    return image == listed or image.endswith(os.sep + listed)


class _Fields(string.Formatter):
    """`{name}` filled from a mapping; an unknown name is an error that lists the known ones."""

    def get_value(self, key, args, kwargs):
        if key not in kwargs:
            known = ", ".join(sorted(k for k in kwargs if k != "header"))
            raise InputError(f"no field '{{{key}}}'; known: {known}, header[CARD]")
        return kwargs[key]


def fill_template(text: str, fields: dict, where: str) -> str:
    """A template with its `{name}` fields filled.

    Raises
    ------
    InputError
        For an unknown field or card, naming the template.
    """
    try:
        return _Fields().vformat(text, (), fields)
    except InputError as error:
        raise InputError(f"{where}: template '{text}': {error}") from None
    except (KeyError, ValueError, IndexError, AttributeError, TypeError) as error:
        raise InputError(f"{where}: template '{text}' cannot be filled ({error})") from None


def find_file(templates, fields: dict, base: Path, where: str) -> Path:
    """The first existing file among templates (each may be a glob pattern).

    Raises
    ------
    InputError
        When none exists, naming all that were tried.
    """
    tried = []
    for template in [templates] if isinstance(templates, str) else templates:
        path = str(base / os.path.expandvars(fill_template(template, fields, where)))
        if os.path.isfile(path):
            return Path(path)
        matches = sorted(p for p in glob.glob(path) if os.path.isfile(p))
        if len(matches) == 1:
            return Path(matches[0])
        if len(matches) > 1:
            raise InputError(f"{where}: {path} matches {len(matches)} files, expected one")
        tried.append(path)
    raise InputError(f"{where}: no such file: {' nor '.join(tried)}")
