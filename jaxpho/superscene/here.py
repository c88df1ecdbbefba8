"""The engine without processes: patches are worked on in this one, one after the other.

Nothing has to start, and nothing protects the run from a patch that hangs or kills its process.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable

from jaxpho.superscene.worker import Report, attempt, encode


class HereEngine:
    """Works on patches in this process.

    Parameters
    ----------
    work : called with (prepared, message).
    prepared : what it needs.
    """

    slots, workers = 1, 1

    def __init__(self, work: Callable, prepared):
        self.work, self.prepared = work, prepared
        self.queue: deque[tuple[str, dict]] = deque()

    def submit(self, name: str, message: dict) -> None:
        """Hand over a patch."""
        # as it would travel, so that numbers are the same as with processes
        self.queue.append((name, json.loads(encode(message))))

    def collect(self, timeout: float = 0.0) -> list[Report]:
        """The report of the next patch, which is worked on now."""
        if not self.queue:
            return []
        name, message = self.queue.popleft()
        begin = time.monotonic()
        report = attempt(self.work, self.prepared, name, message)
        report.seconds = time.monotonic() - begin
        return [report]

    def withdraw(self) -> list[str]:
        """Give back the patches that have not begun; their names."""
        names = [name for name, _ in self.queue]
        self.queue.clear()
        return names

    def cancel(self) -> None:
        """Forget what has not begun."""
        self.queue.clear()

    close = cancel
