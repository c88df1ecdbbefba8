"""The state of a sampler in a folder: what a killed run goes on from.

Every chunk of draws is a file of its own, written once; the state, rewritten each time, is a small
file that names how many of them count. All are numpy's .npz without pickles, written under another
name and renamed: whenever the process is killed, the folder holds one state in full.
"""

from __future__ import annotations

import logging
import shutil
import time
import zipfile
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
            number = int(state.pop("chunks"))
            if known != fingerprint:
                log.info(
                    "%s: the saved chains are of other data, options or versions and are discarded",
                    self.folder,
                )
                self.discard()
                return None
            chunks = [_read(self._chunk(i)) for i in range(number)]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            log.warning(
                "%s: the saved chains cannot be read and are discarded (%s)", self.folder, error
            )
            self.discard()
            return None
        self.written = number
        return Saved(state, chunks)

    def save(self, fingerprint: str, state: Arrays, chunks: list[Arrays], force: bool) -> None:
        """Keep a state, when it is time or with `force`; chunks on disk are not written again."""
        if self.broken or not (force or time.monotonic() - self.saved >= self.every):
            return
        try:
            for i in range(self.written, len(chunks)):
                _write(self._chunk(i), chunks[i])
            marks = {"fingerprint": np.array(fingerprint), "chunks": np.array(len(chunks))}
            _write(self.folder / STATE, state | marks)
        except OSError as error:
            # a full disk costs the means to go on, not the draws
            log.warning("%s: the chains' state is not saved (%s)", self.folder, error)
            self.broken = True
        self.written, self.saved = len(chunks), time.monotonic()

    def discard(self) -> None:
        """Delete what is saved, its stages included."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.written = 0

    def _chunk(self, number: int) -> Path:
        return self.folder / f"chunk{number:06d}.npz"


def _read(path: Path) -> Arrays:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _write(path: Path, arrays: Arrays) -> None:
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)
