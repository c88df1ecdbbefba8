"""The engine without further packages: supervised child processes of this one."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from contextlib import suppress
from dataclasses import asdict
from multiprocessing.connection import Connection, wait
from pathlib import Path

from jaxpho.errors import InputError
from jaxpho.superscene.records import pass_on
from jaxpho.superscene.worker import Report, Work, command, encode

START_LIMIT = 600.0
"""Seconds within which a process must have imported and prepared what it needs."""
STARTS = 3
"""Times in a row that a process may die before its first patch."""
LOOK = 0.2
"""Seconds between looks at the memory of the processes."""


class Child:
    """One worker process and the patch that it works on."""

    def __init__(self, work: Work):
        ours, theirs = socket.socketpair()
        lifeline, self.lifeline = os.pipe()
        handles = [theirs.fileno(), lifeline]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        try:
            self.process = subprocess.Popen(
                command() + [str(h) for h in handles],
                pass_fds=handles,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=2,
                process_group=0,  # a terminal's Ctrl-C is the master's to answer
            )
        except OSError as error:
            raise RuntimeError(f"a worker cannot be started ({error})") from error
        finally:
            theirs.close()
            os.close(lifeline)
        self.connection = Connection(ours.detach())
        self.ready, self.name = False, ""
        self.begun = time.monotonic()
        with suppress(OSError):  # it has died already
            self.connection.send_bytes(encode(asdict(work)))

    def send(self, name: str, message: dict) -> None:
        """Give it a patch to work on."""
        self.name, self.begun = name, time.monotonic()
        with suppress(OSError):  # it has just died, which its end of the connection tells
            self.connection.send_bytes(encode([name, message]))

    @property
    def age(self) -> float:
        """Seconds since it began what it does."""
        return time.monotonic() - self.begun

    def memory(self) -> int:
        """Resident memory, bytes; 0 where the system does not tell."""
        try:
            pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        except (OSError, IndexError):
            return 0
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def kill(self) -> str:
        """End it at once; what it has ended by."""
        with suppress(OSError):
            self.process.kill()
        self.connection.close()
        os.close(self.lifeline)
        code = self.process.wait()
        if code >= 0:
            return f"exit code {code}"
        with suppress(ValueError):
            return f"signal {signal.Signals(-code).name}"
        return f"signal {-code}"


class ChildEngine:
    """Works on patches in child processes, which it kills and replaces where needed.

    Parameters
    ----------
    work : Work
    workers : number of processes.
    limit : seconds of wall time per patch, or None.
    memory : bytes that a process may use, or None.
    """

    def __init__(
        self,
        work: Work,
        workers: int = 1,
        limit: float | None = None,
        memory: int | None = None,
    ):
        self.work, self.workers, self.limit, self.limit_memory = work, workers, limit, memory
        # one in waiting for every process, so that none is idle while the master writes
        self.slots = 2 * workers
        self.children: list[Child] = []
        self.queue: deque[tuple[str, dict]] = deque()
        self.failed_starts, self.told = 0, False

    def submit(self, name: str, message: dict) -> None:
        """Hand over a patch; it begins at once where a process is idle."""
        self.queue.append((name, message))
        self._assign()

    def collect(self, timeout: float = 0.5) -> list[Report]:
        """Reports of the patches that have ended; waits for the first, at most `timeout` seconds.

        Raises
        ------
        InputError
            When a process cannot prepare itself because of its input.
        RuntimeError
            When processes do not start.
        """
        until = time.monotonic() + timeout
        while True:
            self._assign()
            left = until - time.monotonic()
            # limits are looked at now and then
            pause = max(min(left, LOOK), 0.0)
            ready = set(wait([c.connection for c in self.children], pause))
            reports = []
            for child in list(self.children):
                if child.connection in ready:
                    reports += self._read(child)
                else:
                    reports += self._look(child)
            self._assign()
            if reports or left <= 0 or not (self.children or self.queue):
                return reports

    def withdraw(self) -> list[str]:
        """Give back the patches that have not begun; their names."""
        names = [name for name, _ in self.queue]
        self.queue.clear()
        return names

    def cancel(self) -> None:
        """Stop everything at once; nothing more is reported."""
        self.queue.clear()
        for child in self.children:
            child.kill()
        self.children.clear()

    close = cancel

    def _assign(self) -> None:
        while self.queue and len(self.children) < min(self.workers, len(self.queue) + self._busy()):
            self.children.append(Child(self.work))
        for child in self.children:
            if self.queue and child.ready and not child.name:
                child.send(*self.queue.popleft())

    def _busy(self) -> int:
        return sum(bool(c.name) for c in self.children)

    def _read(self, child: Child) -> list[Report]:
        try:
            values = json.loads(child.connection.recv_bytes())
        except (EOFError, OSError, ValueError):
            return self._dead(child)
        if not child.ready:
            if not self.told:  # the others have the same to say
                pass_on(values["records"])
                self.told = True
            if "error" in values:
                text = values["error"]
                self.cancel()
                if values["type"] == "InputError":
                    raise InputError(text)
                raise RuntimeError(f"a worker did not start: {values['type']}: {text}")
            child.ready, self.failed_starts = True, 0
            return []
        report = Report(**values)
        report.seconds, child.name = child.age, ""
        if report.kind == "memory":
            # what is left of it may be in the way of the next patch
            child.kill()
            self.children.remove(child)
        return [report]

    def _look(self, child: Child) -> list[Report]:
        """Kill a process that is beyond its limits."""
        if not child.ready:
            if child.age > START_LIMIT:
                return self._dead(child)
            return []
        if not child.name:
            return []
        if self.limit is not None and child.age > self.limit:
            text = f"{child.age:.0f} s, the limit is {self.limit:g} s"
            return self._kill(child, "timeout", text)
        if self.limit_memory is not None and (used := child.memory()) > self.limit_memory:
            text = f"{used / 2**20:.0f} MiB, the limit is {self.limit_memory / 2**20:.0f} MiB"
            return self._kill(child, "memory", text)
        return []

    def _kill(self, child: Child, kind: str, text: str) -> list[Report]:
        report = Report(child.name, kind, message=text, seconds=child.age)
        child.kill()
        self.children.remove(child)
        return [report]

    def _dead(self, child: Child) -> list[Report]:
        self.children.remove(child)
        seconds, cause = child.age, child.kill()
        if not child.ready:
            self.failed_starts += 1
            if self.failed_starts >= STARTS:
                self.cancel()
                raise RuntimeError(f"{STARTS} workers in a row ended before their first patch "
                                   f"({cause})")  # fmt: skip
            return []
        if not child.name:
            return []
        return [Report(child.name, "died", message=cause, seconds=seconds)]
