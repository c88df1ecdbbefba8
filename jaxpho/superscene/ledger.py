"""What has been done, on disk: a SQLite database that the master alone opens.

A patch's end and its sources' new values are one transaction: after a kill at any moment the
ledger holds both or none.
"""

from __future__ import annotations

import errno
import json
import sqlite3
import time
from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from jaxpho.errors import InputError
from jaxpho.superscene.filesystem import is_local
from jaxpho.superscene.policy import Patch
from jaxpho.superscene.state import CatalogState

LEDGER = "ledger.db"
FORMAT = "jaxpho-ledger-2"
RADIUS_RTOL = 1e-3
OPEN, DONE, CUT, FAILED = "open", "done", "cut", "failed"
_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE sources (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL, type TEXT NOT NULL, iterations INTEGER NOT NULL,
    patches INTEGER NOT NULL, flags INTEGER NOT NULL, failed INTEGER NOT NULL,
    parameters BLOB NOT NULL, covariance BLOB);
CREATE TABLE patches (
    name TEXT PRIMARY KEY, round INTEGER NOT NULL, position INTEGER NOT NULL,
    active TEXT NOT NULL, fixed TEXT NOT NULL, iterations INTEGER NOT NULL, after TEXT NOT NULL,
    state TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, seed INTEGER, seconds REAL,
    gradients INTEGER, chi2 REAL, message TEXT NOT NULL DEFAULT '');
CREATE INDEX patches_by_state ON patches (state);
CREATE TABLE decisions (
    number INTEGER PRIMARY KEY, patch TEXT NOT NULL, kind TEXT NOT NULL, decision TEXT NOT NULL,
    message TEXT NOT NULL, utc TEXT NOT NULL);
CREATE INDEX decisions_by_patch ON decisions (patch);
"""
_PATCH = "name, round, position, active, fixed, iterations, after"


@dataclass
class Outcome:
    """What is noted of a patch that has ended."""

    attempts: int = 1
    seed: int | None = None
    seconds: float | None = None
    gradients: int | None = None
    chi2: float | None = None
    message: str = ""


@dataclass
class OpenPatch:
    """A patch of the present round that has not ended, and the failures it had."""

    patch: Patch
    failures: list[str] = field(default_factory=list)


class Ledger:
    """The ledger of a run directory.

    Errors of the disk are OSError, as of any file, so that a full disk is known as one.
    """

    def __init__(
        self, folder, state: CatalogState, seed: int, local: bool | None = None, setup: str = ""
    ):
        """Open the ledger, and begin one where there is none.

        Parameters
        ----------
        folder : the run directory.
        state : a new state; it takes over what an existing ledger knows.
        seed : of the run.
        local : whether the folder is on a local disk; by default found out.
        setup : fingerprint of what else the outcome depends on.

        Raises
        ------
        InputError
            When the ledger is that of another catalogue, seed or version, or no ledger.
        """
        self.path, self.state = Path(folder) / LEDGER, state
        local = is_local(folder) if local is None else local
        with self._told():
            self.db = sqlite3.connect(self.path, isolation_level=None)
        try:
            self._open(local, seed, setup)
        except BaseException:
            self.db.close()
            raise

    def _open(self, local: bool, seed: int, setup: str) -> None:
        with self._told():
            # shared memory of WAL is only for processes of one machine
            self.db.execute(f"PRAGMA journal_mode = {'WAL' if local else 'DELETE'}")
            self.db.execute(f"PRAGMA synchronous = {'NORMAL' if local else 'FULL'}")
        self.resumed = bool(self._rows("SELECT 1 FROM sqlite_master WHERE name = 'meta'"))
        expected = {"format": FORMAT, "digest": self.state.digest, "seed": str(seed),
                    "setup": setup, "radius": repr(float(self.state.radius.mean()))}  # fmt: skip
        if self.resumed:
            self._compare(expected)
            self._load()
        else:
            self._begin(expected)

    def close(self) -> None:
        """Close the database."""
        self.db.close()

    @contextmanager
    def transaction(self):
        """All changes within the block, or none. Blocks may be nested."""
        if self.db.in_transaction:
            yield
            return
        with self._told():
            self.db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.db.execute("COMMIT")
            except BaseException:
                if self.db.in_transaction:
                    self.db.execute("ROLLBACK")
                raise

    @contextmanager
    def _told(self):
        try:
            yield
        except sqlite3.DatabaseError as error:
            code = getattr(error, "sqlite_errorcode", None) or 0
            if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
                raise InputError(f"{self.path}: expected a ledger of jaxpho ({error})") from None
            full = code & 0xFF == sqlite3.SQLITE_FULL
            number = errno.ENOSPC if full else errno.EIO
            raise OSError(number, f"ledger not written ({error})", str(self.path)) from error

    def _rows(self, query: str, values: tuple = ()) -> list[tuple]:
        with self._told():
            return self.db.execute(query, values).fetchall()

    def _begin(self, expected: dict) -> None:
        with self.transaction():
            for statement in _TABLES.split(";")[:-1]:
                self.db.execute(statement)
            self.db.executemany("INSERT INTO meta VALUES (?, ?)", expected.items())
            peaks = self.state.peaks
            self.db.executemany(
                "INSERT INTO sources VALUES (?, ?, ?, 0, 0, ?, ?, ?, NULL)",
                ((i, str(p.id), p.type, int(self.state.flags[i]), int(self.state.failed[i]),
                  self._parameters(i)) for i, p in enumerate(peaks)),
            )  # fmt: skip

    def _compare(self, expected: dict) -> None:
        found = dict(self._rows("SELECT key, value FROM meta"))
        words = {"format": "version", "digest": "catalogue or options of patches", "seed": "seed",
                 "setup": "configuration", "radius": "mean radius of influence"}  # fmt: skip
        for key, value in expected.items():
            known = found.get(key)
            same = known == value
            if key == "radius" and known is not None:
                # measured on another machine it may differ in the last digits
                same = bool(np.isclose(float(known), float(value), rtol=RADIUS_RTOL, atol=0))
            if not same:
                bare = key in ("digest", "setup")
                what = "" if bare else f" ({found.get(key)}, expected {value})"
                raise InputError(
                    f"{self.path} was begun with another {words[key]}{what}: it cannot be resumed; "
                    "give --overwrite or another --output"
                )

    def _load(self) -> None:
        s = self.state
        query = "SELECT number, type, iterations, patches, flags, failed, parameters, covariance"
        with self._told():
            for i, kind, n, patches, flags, failed, row, block in self.db.execute(
                query + " FROM sources"
            ):
                s.kinds[i], s.parameters[i] = kind, np.nan
                s.iterations[i], s.patches[i], s.flags[i], s.failed[i] = n, patches, flags, failed
                width = s.width(i)
                s.parameters[i, :width] = np.frombuffer(row)
                if block is not None:
                    s.covariance[i, :width, :width] = np.frombuffer(block, np.float32).reshape(
                        width, width
                    )

    def _parameters(self, i: int) -> bytes:
        return self.state.parameters[i, : self.state.width(i)].tobytes()

    def write_sources(self, numbers: Iterable[int]) -> None:
        """Write the present values of sources."""
        s, rows = self.state, []
        for i in numbers:
            width = s.width(i)
            block = s.covariance[i, :width, :width]
            rows.append((s.kinds[i], int(s.iterations[i]), int(s.patches[i]), int(s.flags[i]),
                         int(s.failed[i]), self._parameters(i),
                         block.tobytes() if np.isfinite(block).all() else None, i))  # fmt: skip
        with self.transaction():
            self.db.executemany(
                "UPDATE sources SET type = ?, iterations = ?, patches = ?, flags = ?, failed = ?, "
                "parameters = ?, covariance = ? WHERE number = ?", rows,
            )  # fmt: skip

    def add(self, patches: Iterable[Patch]) -> None:
        """Note the patches of a round, or the parts of a patch, before any is fitted."""
        rows = [(p.name, p.round, p.position, json.dumps(p.active), json.dumps(p.fixed),
                 p.iterations, p.after, OPEN) for p in patches]  # fmt: skip
        with self.transaction():
            self.db.executemany(
                f"INSERT INTO patches ({_PATCH}, state) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows
            )

    def end(self, patch: Patch, state: str, outcome: Outcome) -> None:
        """Note that a patch has ended: done, cut or failed; and its sources' values."""
        o = outcome
        with self.transaction():
            self.db.execute(
                "UPDATE patches SET state = ?, attempts = ?, seed = ?, seconds = ?, gradients = ?, "
                "chi2 = ?, message = ? WHERE name = ?",
                (state, o.attempts, o.seed, o.seconds, o.gradients, o.chi2, o.message, patch.name),
            )
            self.write_sources(patch.active)

    def decision(self, patch: Patch, kind: str, decision: str, message: str) -> None:
        """Note a failure and what is done about it."""
        now = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
        with self.transaction():
            self.db.execute(
                "INSERT INTO decisions (patch, kind, decision, message, utc) "
                "VALUES (?, ?, ?, ?, ?)",
                (patch.name, kind, decision, message, now),
            )

    def open_patches(self) -> list[OpenPatch]:
        """The patches that are not ended, in the order of their plan."""
        rows = self._rows(f"SELECT {_PATCH} FROM patches WHERE state = ?", (OPEN,))
        failures: dict[str, list[str]] = {}
        for name, kind in self._rows(
            "SELECT patch, kind FROM decisions WHERE patch IN "
            "(SELECT name FROM patches WHERE state = ?) ORDER BY number", (OPEN,),
        ):  # fmt: skip
            failures.setdefault(name, []).append(kind)
        out = [
            OpenPatch(
                Patch(name, round_, position, json.loads(active), json.loads(fixed), n, after),
                failures.get(name, []),
            )
            for name, round_, position, active, fixed, n, after in rows
        ]
        return sorted(out, key=lambda o: (o.patch.position, o.patch.name))

    def done(self) -> list[Patch]:
        """The patches that have been fitted, round by round in the order of their plan."""
        rows = self._rows(f"SELECT {_PATCH} FROM patches WHERE state = ?", (DONE,))
        found = [
            Patch(name, round_, position, json.loads(active), json.loads(fixed), n, after)
            for name, round_, position, active, fixed, n, after in rows
        ]
        return sorted(found, key=lambda p: (p.round, p.position, p.name))

    def note(self, key: str, value: str) -> str | None:
        """Keep a text under a key; what was kept there before."""
        known = self._rows("SELECT value FROM meta WHERE key = ?", (key,))
        with self.transaction():
            self.db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))
        return known[0][0] if known else None

    def counts(self) -> dict[str, int]:
        """Number of patches by state."""
        return dict(self._rows("SELECT state, COUNT(*) FROM patches GROUP BY state"))

    def next_round(self) -> tuple[int, int]:
        """Number of the round to plan, and of its first patch."""
        last, whole = self._rows(
            "SELECT MAX(round), COUNT(*) FROM (SELECT DISTINCT round, position FROM patches)"
        )[0]
        return (0, 0) if last is None else (last + 1, whole)

    def timed_out(self) -> bool:
        """Whether a limit of wall time has stopped a patch."""
        return bool(self._rows("SELECT 1 FROM decisions WHERE kind = 'timeout' LIMIT 1"))

    def patches_of(self, source: int) -> list[str]:
        """Names of the finished patches in which a source was sampled, in their order.

        Without draws: in which it was fitted.
        """
        rows = self._rows(
            "SELECT name FROM patches, json_each(patches.active) WHERE state = ? AND "
            "json_each.value = ? AND iterations > 0 ORDER BY round, name", (DONE, source),
        )  # fmt: skip
        return [name for (name,) in rows]

    def retry_failed(self) -> list[int]:
        """Let the sources of failed patches be fitted again; returns them."""
        rows = self._rows("SELECT active FROM patches WHERE state = ?", (FAILED,))
        listed = {i for (active,) in rows for i in json.loads(active)}
        again = [i for i in sorted(listed) if self.state.failed[i]]
        for i in again:
            self.state.failed[i] = False
            self.state.flags[i] = self.state.peaks[i].flags
        with self.transaction():
            self.write_sources(again)
            self.db.execute("UPDATE patches SET state = ? WHERE state = ?", ("retried", FAILED))
        return again
