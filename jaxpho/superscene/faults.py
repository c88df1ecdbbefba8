"""What is done about a patch that went wrong."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from jaxpho.fit import flags

KINDS = {
    "raised": "the fit raised an error",
    "nonfinite": "the fit gave values that are not finite",
    "died": "the process that worked on it was killed",
    "memory": "it needed more memory than there was",
    "timeout": "it took longer than allowed",
    "disk": "its files could not be written",
    "lost": "the connection to the workers was lost",
}
"""The ways in which a patch can fail."""

AGAIN, RESEED, HALVE, FLAG, STOP = "again", "other seed", "cut in two", "flagged", "stop the run"
WRITES = 3
"""Attempts at writing before a run stops: other files would not fit either."""
CONNECTIONS = 3


def decide(kind: str, before: Sequence[str], active: int) -> str:
    """What to do about a failure.

    Parameters
    ----------
    kind : one of `KINDS`.
    before : kinds of the earlier failures of the same patch.
    active : number of its active sources.

    Returns
    -------
    "again" with the same seed, where the cause may lie outside the patch, so that a kill does not
    change the outcome; with "other seed"; "cut in two"; "flagged"; or "stop the run".
    """
    count = list(before).count(kind)
    smaller = HALVE if active > 1 else FLAG
    if kind == "disk":
        return AGAIN if count + 1 < WRITES else STOP
    if kind == "lost":
        return AGAIN if count + 1 < CONNECTIONS else STOP
    if kind == "timeout":
        return FLAG
    if kind == "memory":
        return smaller
    if kind == "died":
        return AGAIN if count == 0 else smaller
    # an error of the numbers: another start of the chains may do, one such attempt
    return RESEED if not {"raised", "nonfinite"} & set(before) else smaller


def flags_of(kind: str, fitted: bool) -> int:
    """Flags of the sources of a patch that is given up.

    Parameters
    ----------
    kind : one of `KINDS`.
    fitted : whether the source keeps the values of an earlier patch.
    """
    names = ["no_convergence" if fitted else "failed"]
    return flags.encode(names + (["timeout"] if kind == "timeout" else []))


def seed_of(run_seed: int, name: str, reseeds: int) -> int:
    """Seed [0, 2^31) of a patch: of the run, the patch, and how often another was taken."""
    digest = hashlib.blake2b(f"{run_seed}/{name}/{reseeds}".encode(), digest_size=4).digest()
    return int.from_bytes(digest) >> 1
