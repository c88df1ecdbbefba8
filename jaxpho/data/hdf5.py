"""Opening HDF5 files, with errors that say in one sentence what is wrong and where."""

from __future__ import annotations

import contextlib
from pathlib import Path

import h5py
import numpy as np

from jaxpho.errors import InputError
from jaxpho.files import replacing


def open_hdf5(path, what: str) -> h5py.File:
    """Open a file for reading.

    Parameters
    ----------
    path : file.
    what : kind of file, named in errors ("pixel store").

    Raises
    ------
    InputError
        When it is missing, truncated, or not HDF5.
    """
    path = Path(path)
    if not path.is_file():
        kind = "is a folder" if path.is_dir() else "does not exist"
        raise InputError(f"{what} {path} {kind}")
    try:
        # no file locks: stores are read from file systems that have none, by many processes
        return _open(path, locking=False)
    except OSError as error:
        reason = str(error).split("(", 1)[-1].rstrip(")") or "unknown reason"
        raise InputError(f"{what} {path} is not a readable HDF5 file ({reason})") from None


def _open(path: Path, **locking) -> h5py.File:
    try:
        return h5py.File(path, "r", **locking)
    except OSError as error:
        # open in this process already, with locks: HDF5 wants all of them alike
        if locking and "locking flag" in str(error):
            return _open(path)
        raise


def read_array(node, name: str, where: str, kinds: str = "iuf") -> np.ndarray:
    """A numeric data set of a group.

    Parameters
    ----------
    node : h5py group.
    name : of the data set.
    where : names the file, in errors.
    kinds : accepted kinds of dtype.

    Raises
    ------
    InputError
        When it is missing, not a data set, of another type, or damaged.
    """
    if name not in node or not isinstance(node[name], h5py.Dataset):
        found = ", ".join(sorted(node)) or "nothing"
        raise InputError(f"{where} has no data set '{name}'; it holds {found}")
    data = node[name]
    if data.dtype.kind not in kinds:
        raise InputError(f"{where}: '{name}' has dtype {data.dtype}, expected numbers")
    try:
        return data[()]
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{where}: '{name}' cannot be read ({reason})") from None


@contextlib.contextmanager
def writing(path):
    """As `jaxpho.files.replacing`; a failure to write is the user's to mend.

    Raises
    ------
    InputError
        When the folder or the file cannot be written.
    """
    try:
        with replacing(path) as temporary:
            yield temporary
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror or error})") from None
