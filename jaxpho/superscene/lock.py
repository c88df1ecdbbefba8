"""One run per directory: a lock that a dead run cannot hold.

The lock file names host, process and a heartbeat. On the same host the process is looked for; on
another the heartbeat is watched, by a count and not by the time of day, because clocks differ and
are set.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import socket
import threading
import time
import uuid
from pathlib import Path

from jaxpho.errors import InputError
from jaxpho.files import replacing

log = logging.getLogger("jaxpho.lock")

LOCK = "run.lock"
BEAT, STALE = 5.0, 20.0
"""Seconds between heartbeats, and without one after which another host's run counts as dead."""


class RunLock:
    """The lock of a run directory; a context that takes and returns it.

    Attributes
    ----------
    lost : set when another run has taken over, for example after this process was asleep.
    """

    def __init__(self, folder, beat: float | None = None, stale: float | None = None):
        self.path = Path(folder) / LOCK
        self.beat, self.stale = beat or BEAT, stale or STALE
        self.token, self.count = uuid.uuid4().hex, 0
        self.lost, self._end = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> RunLock:
        """Take the lock.

        Raises
        ------
        InputError
            When another run has it; or the directory cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if watched := self._try():
                # another host: only its heartbeat tells whether it lives
                self._watch(watched)
                if other := self._try(dead=watched):
                    raise self._refusal(other)
        except OSError as error:
            raise InputError(
                f"output: {self.path.parent} cannot be written ({error.strerror or error})"
            ) from None
        for pattern in (".run.part*", ".status.part*"):  # half written by a run that was killed
            for path in self.path.parent.glob(pattern):
                path.unlink(missing_ok=True)
        self._thread = threading.Thread(target=self._beats, daemon=True, name="heartbeat")
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._end.set()
        if self._thread is not None:
            self._thread.join()
        with contextlib.suppress(OSError), _alone(self.path.parent):
            if not self.lost.is_set() and _read(self.path).get("token") == self.token:
                self.path.unlink()

    def _try(self, dead: dict | None = None) -> dict | None:
        """Take the lock, unless it is held: then that lock is returned, or refused at once."""
        with _alone(self.path.parent):
            found = _read(self.path)
            if found and found != dead:
                if dead is not None or not _here(found):
                    return found
                if _alive(found):
                    raise self._refusal(found)
            if found:
                log.warning(
                    "%s: process %s on %s ended without returning it; taken over",
                    self.path, found.get("pid"), found.get("host"),
                )  # fmt: skip
            self._write()
        return None

    def _watch(self, found: dict) -> None:
        """Raise as soon as the heartbeat of a lock goes on; return when it does not."""
        log.warning(
            "%s is held by process %s on %s: waiting %.0f s for a sign of life",
            self.path, found.get("pid"), found.get("host"), self.stale,
        )  # fmt: skip
        until = time.monotonic() + self.stale
        while time.monotonic() < until:
            time.sleep(min(self.beat / 5, 0.5))
            now = _read(self.path)
            if not now:
                return
            if now != found:
                raise self._refusal(now)

    def _refusal(self, found: dict) -> InputError:
        return InputError(
            f"output: {self.path.parent} is in use by process {found.get('pid')} on "
            f"{found.get('host')}; wait for it, stop it, or give another --output"
        )

    def _write(self) -> None:
        values = {"host": socket.gethostname(), "pid": os.getpid(), "boot": _boot(),
                  "started": _started(os.getpid()), "token": self.token,
                  "beat": self.count}  # fmt: skip
        with replacing(self.path) as temporary:
            temporary.write_text(json.dumps(values))

    def _beats(self) -> None:
        while not self._end.wait(self.beat):
            try:
                with _alone(self.path.parent):
                    found = _read(self.path)
                    if found and found.get("token") != self.token:
                        self.lost.set()
                        log.error("%s was taken over by process %s on %s", self.path,
                                  found.get("pid"), found.get("host"))  # fmt: skip
                        return
                    self.count += 1
                    self._write()
            except OSError as error:
                # a full disk may have room again; the process itself still answers for the lock
                log.debug("no heartbeat: %s", error)


@contextlib.contextmanager
def _alone(folder: Path):
    """Between processes, one at a time; without effect where the file system knows no locks."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _read(path: Path) -> dict:
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _here(found: dict) -> bool:
    """Whether a lock is of this machine, started as it is now or before."""
    return found.get("host") == socket.gethostname()


def _alive(found: dict) -> bool:
    """Whether the process of a lock of this machine still runs."""
    pid = found.get("pid")
    if not isinstance(pid, int) or pid <= 0 or found.get("boot") != _boot():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    # numbers are used again: another process with it has started at another time
    return found.get("started") == _started(pid)


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _started(pid: int) -> str:
    """When a process started, in clock ticks since the machine did; "" where unknown."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    state, *rest = text.rpartition(")")[2].split()
    return "" if state == "Z" else rest[18]
