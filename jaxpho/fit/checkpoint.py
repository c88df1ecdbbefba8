"""What a sampler needs to go on where it was stopped, as plain arrays.

`sample` hands its state to a `Checkpoint` after every chunk of iterations and asks for it when it
begins. Nothing is pickled: a state is a dictionary of arrays, draws are chunks of arrays that are
added one after the other. `jaxpho.output.checkpoint` keeps them in a folder.
"""

from __future__ import annotations

import hashlib
from importlib import metadata
from typing import NamedTuple, Protocol

import jax
import numpy as np

FORMAT = 1
"""Of the saved state; another one is not read."""

Arrays = dict[str, np.ndarray]


class Saved(NamedTuple):
    """The state of a sampler, and its chunks of draws in the order they were made."""

    state: Arrays
    chunks: list[Arrays]


class Checkpoint(Protocol):
    """Where a sampler keeps what it needs to go on."""

    def load(self, fingerprint: str) -> Saved | None:
        """What was saved last under this fingerprint; anything else is discarded."""

    def save(self, fingerprint: str, state: Arrays, chunks: list[Arrays], force: bool) -> None:
        """Keep a state; ``chunks`` are all so far. Without `force` it may be left out."""

    def stage(self, name: str) -> Checkpoint:
        """A place of its own for one of several samplings of a problem."""


class MemoryCheckpoint:
    """Keeps the last state in memory: to go on in the same process, after an interruption."""

    def __init__(self):
        self.saved: dict[str, tuple[str, Saved]] = {}
        self.name = ""

    def load(self, fingerprint: str) -> Saved | None:
        known, saved = self.saved.get(self.name, ("", None))
        return saved if known == fingerprint else None

    def save(self, fingerprint: str, state: Arrays, chunks: list[Arrays], force: bool) -> None:
        self.saved[self.name] = fingerprint, Saved(dict(state), list(chunks))

    def stage(self, name: str) -> MemoryCheckpoint:
        other = MemoryCheckpoint()
        other.saved, other.name = self.saved, f"{self.name}/{name}"
        return other


def fingerprint(*parts) -> str:
    """A checksum of everything that a chain depends on.

    Parameters
    ----------
    parts : arrays, pytrees of arrays, and anything with a `repr` that says all.

    Notes
    -----
    Versions of the packages that compute and the device are added: other programs round otherwise,
    and a chain from two of them would be none that one of them draws.
    """
    digest = hashlib.sha256()

    def add(text: str) -> None:
        digest.update(text.encode() + b"\0")

    add(f"format {FORMAT}")
    for package in ("jaxpho", "jax", "jaxlib", "numpyro", "numpy"):
        try:
            add(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            add(f"{package} unknown")
    device = jax.devices()[0]
    add(f"{device.platform} {device.device_kind} {jax.config.jax_enable_x64}")
    for part in parts:
        leaves, structure = jax.tree.flatten(part)
        add(str(structure))
        for leaf in leaves:
            if hasattr(leaf, "dtype") and hasattr(leaf, "shape"):
                array = np.ascontiguousarray(leaf)
                add(f"{array.dtype} {array.shape}")
                digest.update(array.tobytes())
            else:
                add(repr(leaf))
    return digest.hexdigest()
