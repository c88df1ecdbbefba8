"""The state of a sampler in a folder: what a killed run goes on from.

The chunks of draws since the last time are a file of their own, written once; the state, rewritten
each time, is a small file that says which of these count. All are numpy's .npz without pickles,
written under another name and renamed: whenever the process is killed, the folder holds one whole
state.
"""

from __future__ import annotations

import logging
import shutil
import time
import zipfile
from itertools import pairwise
from pathlib import Path

import numpy as np

from jaxpho.files import replacing
from jaxpho.fit.checkpoint import Arrays, Saved

log = logging.getLogger("jaxpho.output")

STATE = "state.npz"


class FolderCheckpoint:
    """Keeps the state of one sampling in a folder.

    Parameters
    ----------
    folder : path
        Created when there is something to save.
    every : float
        Seconds between saved states; what was computed since the last one is computed again.
    """

    def __init__(self, folder, every: float = 10.0):
        self.folder, self.every = Path(folder), every
        self.parts: list[int] = []
        self.written = 0
        self.saved = time.monotonic()
        self.broken = False

    def stage(self, name: str) -> FolderCheckpoint:
        """A place of its own for one of several samplings of a problem."""
        return FolderCheckpoint(self.folder / name, self.every)

    def load(self, fingerprint: str) -> Saved | None:
        """What was saved last under this fingerprint; anything else is discarded.

        Returns
        -------
        Saved or None
        """
        path = self.folder / STATE
        if not path.is_file():
            self.discard()
            return None
        try:
            state = _read(path)
            known = str(state.pop("fingerprint"))
            number, parts = int(state.pop("chunks")), state.pop("parts").tolist()
            if known != fingerprint:
                log.info(
                    "%s: the saved chains are of other data, options or versions and are discarded",
                    self.folder,
                )
                self.discard()
                return None
            chunks = [_chunks(self._part(i), i, end) for i, end in pairwise([*parts, number])]
        except (OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile) as error:
            log.warning(
                "%s: the saved chains cannot be read and are discarded (%s)", self.folder, error
            )
            self.discard()
            return None
        self.parts, self.written = parts, number
        return Saved(state, [chunk for part in chunks for chunk in part])

    def save(self, fingerprint: str, state: Arrays, chunks: list[Arrays], force: bool) -> None:
        """Keep a state, when it is time or with `force`; chunks on disk are not written again."""
        if self.broken or not (force or time.monotonic() - self.saved >= self.every):
            return
        try:
            parts = list(self.parts)
            if len(chunks) > self.written:
                parts.append(self.written)
                new = enumerate(chunks[self.written :], self.written)
                arrays = {f"{i}/{name}": a for i, chunk in new for name, a in chunk.items()}
                _write(self._part(self.written), arrays)
            marks = {"fingerprint": np.array(fingerprint), "chunks": np.array(len(chunks))}
            _write(self.folder / STATE, state | marks | {"parts": np.array(parts, np.int64)})
        except OSError as error:
            # a full disk costs the means to go on, not the draws
            log.warning("%s: the chains' state is not saved (%s)", self.folder, error)
            self.broken = True
            return
        self.parts, self.written, self.saved = parts, len(chunks), time.monotonic()

    def discard(self) -> None:
        """Delete what is saved, its stages included."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.parts, self.written = [], 0

    def _part(self, first: int) -> Path:
        return self.folder / f"draws{first:06d}.npz"


def _chunks(path: Path, first: int, end: int) -> list[Arrays]:
    """Chunks of a file, by their numbers."""
    found = [{} for _ in range(first, end)]
    for key, array in _read(path).items():
        number, _, name = key.partition("/")
        found[int(number) - first][name] = array
    return found


def _read(path: Path) -> Arrays:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _write(path: Path, arrays: Arrays) -> None:
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)
