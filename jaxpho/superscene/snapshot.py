"""How far a run is, as a small JSON file that any host can read at any time."""

from __future__ import annotations

import json
import math
import os
import socket
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from jaxpho.errors import InputError
from jaxpho.files import replacing

SNAPSHOT = "status.json"
FORMAT = "jaxpho-status-1"


@dataclass
class Snapshot:
    """State of a run.

    Attributes
    ----------
    state : "running", "stopped" (resumable), or "finished".
    round : number of the present round.
    patches : number of patches by state: done, running, waiting, failed, cut (fitted in parts).
    sources : number of sources by state: done, failed, waiting.
    share : of the iterations that are wanted, 0 to 1.
    seconds : since this process began the run.
    sources_per_hour, eta : of this process; eta in seconds. None before the first patch.
    workers : processes that fit.
    message : what happened last that is not as usual.
    identical : whether the catalogue is still what any other run on such machines would give; a
        limit of wall time that stopped a patch ends that.
    updated : time of day (UTC) of the writing host.
    """

    state: str
    round: int
    patches: dict[str, int]
    sources: dict[str, int]
    share: float = 0.0
    seconds: float = 0.0
    sources_per_hour: float | None = None
    eta: float | None = None
    workers: int = 1
    message: str = ""
    identical: bool = True
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    updated: str = field(default_factory=lambda: time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime()))


class Rate:
    """Sources per hour and the time left, from what this process has done."""

    def __init__(self, share: float, total: int):
        self.begin, self.share, self.total = time.monotonic(), share, total

    def __call__(self, share: float) -> dict:
        """Keywords of a Snapshot at a share of the work."""
        seconds, gained = time.monotonic() - self.begin, share - self.share
        out = {"share": share, "seconds": seconds}
        if gained > 0 and seconds > 0:
            out["sources_per_hour"] = gained * self.total / seconds * 3600
            out["eta"] = (1 - share) * seconds / gained
        return out


def write_snapshot(folder, snapshot: Snapshot) -> None:
    """Write it into a run directory, atomically."""
    values = {"format": FORMAT} | asdict(snapshot)
    with replacing(Path(folder) / SNAPSHOT) as temporary:
        temporary.write_text(json.dumps(values, allow_nan=False))


def read_snapshot(folder) -> Snapshot:
    """Read the snapshot of a run directory.

    Raises
    ------
    InputError
        When there is none, or it is not one.
    """
    path = Path(folder) / SNAPSHOT
    if not path.is_file():
        what = "no such folder" if not path.parent.is_dir() else f"it has no {SNAPSHOT}"
        raise InputError(f"{folder}: not the directory of a run ({what})")
    try:
        values = json.loads(path.read_text())
        if values.pop("format") != FORMAT:
            raise ValueError("of another format")
        return Snapshot(**values)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{path}: expected a status of format {FORMAT} ({error})") from None


def table(snapshot: Snapshot) -> str:
    """The snapshot as text for a terminal."""
    s = snapshot
    sources = sum(s.sources.values())
    lines = [
        f"{s.state}: {100 * s.share:.1f} % of the work, round {s.round}, "
        f"{s.workers} worker{'s' * (s.workers != 1)}",
        _row("", ["done", "running", "waiting", "failed"]),
        _row("patches", [s.patches.get(k, 0) for k in ("done", "running", "waiting", "failed")]),
        _row("sources", [s.sources.get("done", 0), "", s.sources.get("waiting", 0),
                         s.sources.get("failed", 0)]),
    ]  # fmt: skip
    if cut := s.patches.get("cut", 0):
        lines.append(f"{cut} patch{'es were' if cut > 1 else ' was'} cut in two")
    rate = "-" if s.sources_per_hour is None else f"{s.sources_per_hour:.0f}"
    left = "-" if s.eta is None or s.state != "running" else duration(s.eta)
    lines.append(
        f"{rate} sources per hour, of {sources}; {duration(s.seconds)} so far, {left} left"
    )
    if s.message:
        lines.append(s.message)
    if not s.identical:
        lines.append("a limit of wall time has stopped a patch: another run may differ")
    lines.append(f"written by process {s.pid} on {s.host}, {s.updated} UTC")
    return "\n".join(lines)


def _row(name: str, cells: list) -> str:
    return f"{name:8s}" + "".join(f"{cell!s:>10s}" for cell in cells)


def duration(seconds: float) -> str:
    """Seconds as d h min s, the two largest units: 3 h 05 min."""
    if not math.isfinite(seconds):
        return "-"
    s = int(round(seconds))
    if s < 60:
        return f"{s} s"
    if s < 3600:
        return f"{s // 60} min {s % 60:02d} s"
    if s < 86400:
        return f"{s // 3600} h {s % 3600 // 60:02d} min"
    return f"{s // 86400} d {s % 86400 // 3600:02d} h"
