"""Ctrl-C once: stop after the running patches; twice: at once. Both can be resumed."""

from __future__ import annotations

import contextlib
import logging
import signal

log = logging.getLogger("jaxpho.master")

NO, SOON, NOW = 0, 1, 2


class Interrupts:
    """Counts the requests to stop (SIGINT, SIGTERM, SIGHUP) within its block.

    Parameters
    ----------
    raising : the second one raises KeyboardInterrupt, because the work is done in this process.

    Attributes
    ----------
    level : NO, SOON (after the running patches) or NOW.
    """

    def __init__(self, raising: bool = False):
        self.raising = raising
        self.level, self._before = NO, {}

    def __enter__(self) -> Interrupts:
        with contextlib.suppress(ValueError):  # not the main thread: someone else's process
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._asked)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _asked(self, number, frame) -> None:
        self.level = min(self.level + 1, NOW)
        if self.level == SOON:
            log.warning("stopping after the running patches; once more: at once")
        elif self.raising:
            raise KeyboardInterrupt
