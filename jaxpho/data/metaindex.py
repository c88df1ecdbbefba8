"""The index beside a meta store: ids, footprints and headers in a form that opens at once."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from jaxpho.data.footprint import Footprints
from jaxpho.files import replacing

log = logging.getLogger("jaxpho.metastore")

FORMAT = "jaxpho-meta-index-1"
_PRINTS = ("centre", "matrix", "nside", "margin")


@dataclass
class Index:
    """What is known of every exposure of a meta store.

    Attributes
    ----------
    keys : list of (band, exposure id).
    footprints : Footprints
    texts : headers, or None when they are still in the file.
    file, starts : where the headers are: bytes starts[i] to starts[i + 1] of `headers`.
    """

    keys: list[tuple[str, str]]
    footprints: Footprints
    texts: Sequence[str] | None = None
    file: Path | None = None
    starts: np.ndarray | None = None

    def text(self, number: int) -> str:
        """The text of a header."""
        if self.texts is not None:
            return self.texts[number]
        with h5py.File(self.file, "r", locking=False) as f:
            block = f["headers"][self.starts[number] : self.starts[number + 1]]
        return block.tobytes().decode("ascii")


def index_path(path: Path) -> Path:
    """The index of a meta store: meta.json -> meta.index.h5."""
    return path.with_name(f"{path.stem}.index.h5")


def stamp_of(path: Path) -> list[int]:
    """What tells one version of a file from another: time of change, size."""
    status = path.stat()
    return [status.st_mtime_ns, status.st_size]


def read_index(path: Path) -> Index | None:
    """The index of a meta store; None when there is none or it is not that of this file."""
    file = index_path(path)
    if not file.is_file():
        return None
    try:
        with h5py.File(file, "r", locking=False) as f:
            if f.attrs.get("format") != FORMAT or list(f.attrs["stamp"]) != stamp_of(path):
                log.info("%s has changed since %s: index rebuilt", path, file.name)
                return None
            bands = f["bands"].asstr()[()]
            names = f["names"][()].tobytes().decode("utf-8").split("\0")
            keys = list(zip(bands[f["band"][()]].tolist(), names, strict=True))
            prints = Footprints(*(f[name][()] for name in _PRINTS))
            return Index(keys, prints, None, file, f["starts"][()])
    except (OSError, KeyError, ValueError) as error:
        log.info("%s is not usable (%s): index rebuilt", file, error)
        return None


def write_index(path: Path, index: Index, stamp: list[int]) -> None:
    """Write the index of a meta store, in one step.

    Parameters
    ----------
    path : the meta store.
    index : Index
    stamp : of the file that the index was made from (`stamp_of`, before it was read): another
        process may have replaced it since, and then no reader takes this index for the new one's.
    """
    bands = list(dict.fromkeys(band for band, _ in index.keys))
    number = {band: i for i, band in enumerate(bands)}
    blocks = [text.encode("ascii") for text in index.texts]
    with replacing(index_path(path)) as temporary, h5py.File(temporary, "w") as f:
        f.attrs["format"], f.attrs["stamp"] = FORMAT, stamp
        f.create_dataset("bands", data=bands, dtype=h5py.string_dtype())
        f["band"] = np.array([number[band] for band, _ in index.keys], np.int32)
        names = "\0".join(name for _, name in index.keys).encode("utf-8")
        f["names"] = np.frombuffer(names, np.uint8)
        f["starts"] = np.concatenate([[0], np.cumsum([len(b) for b in blocks])]).astype(np.int64)
        f["headers"] = np.frombuffer(b"".join(blocks), np.uint8)
        for name in _PRINTS:
            f[name] = getattr(index.footprints, name)
