"""How far the run loop is, for `jaxpho status`."""

from __future__ import annotations

import logging
import time

from jaxpho.fit import flags
from jaxpho.superscene.snapshot import Rate, Snapshot, write_snapshot

log = logging.getLogger("jaxpho.run")

EVERY = 2.0
"""Seconds between snapshots."""
LOST = flags.encode(["failed", "no_data"])


class Progress:
    """Writes the snapshot of a run, now and then.

    Parameters
    ----------
    state : RunState
    total : number of fits in the schedule.
    """

    def __init__(self, state, total: int):
        self.state, self.total, self.done = state, total, 0
        self.rate = Rate(0.0, len(state.field.peaks))
        self.written = -EVERY
        self._write("running")

    def update(self) -> None:
        """Another patch is done."""
        self.done += 1
        if time.monotonic() - self.written >= EVERY:
            self._write("running")

    def end(self) -> None:
        """The run ends, with all its patches or before."""
        self._write("finished" if self.done == self.total else "stopped")

    def _write(self, what: str) -> None:
        self.written, rows = time.monotonic(), self.state.rows
        lost = len(self.state.field.lost)
        failed = sum(bool(row["flags"] & LOST) for row in rows.values())
        sources = {
            "done": len(rows) - failed,
            "failed": failed + lost,
            "waiting": len(self.state.field.peaks) - len(rows) - lost,
        }
        left = self.total - self.done
        running = int(what == "running" and left > 0)
        patches = {"done": self.done, "running": running, "waiting": left - running}
        share = self.done / self.total if self.total else 1.0
        try:
            write_snapshot(
                self.state.folder, Snapshot(what, 0, patches, sources, **self.rate(share))
            )
        except OSError as error:
            # a full disk may have room again
            log.warning("status not written (%s)", error)


def told_by(bar):
    """A function of (done, total) that moves a progress bar."""

    def progress(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    return progress
