"""The facts of a run for the first page: what went in, what came out, how long it took."""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from astropy.table import Table

from jaxpho.errors import InputError
from jaxpho.fit import flags as flag_registry
from jaxpho.output.plots import flag_counts

PACKAGES = ("numpy", "astropy", "jax", "jaxlib", "numpyro", "scipy")
_LINE = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),\d+ ([A-Z]+) (\S+): (.*)$")
LONGEST_LOG = 400
"""Lines of warnings and errors."""


@dataclass
class LogFacts:
    """What the log of a run tells.

    Attributes
    ----------
    first, last : time of its first and last line, or "".
    seconds : between them, of the last start; NaN where unknown.
    creator : version that ran.
    troubles : (time, level, text) of warnings and errors, the last ones.
    hidden : how many came before those.
    """

    first: str = ""
    last: str = ""
    seconds: float = np.nan
    creator: str = ""
    troubles: list[tuple[str, str, str]] = field(default_factory=list)
    hidden: int = 0


def read_log(path) -> LogFacts:
    """Facts of a `run.log`; empty where there is none or it cannot be read."""
    out = LogFacts()
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return out
    troubles = []
    for line in lines:
        match = _LINE.match(line)
        if match is None:
            continue
        time, level, _, text = match.groups()
        if text.startswith("jaxpho ") and ", configuration " in text:
            out.first, out.creator = time, text.partition(",")[0]
        out.first, out.last = out.first or time, time
        if level in ("WARNING", "ERROR", "CRITICAL"):
            troubles.append((time, level.lower(), text))
    if out.first:
        form = "%Y-%m-%d %H:%M:%S"
        began, ended = (datetime.strptime(t, form) for t in (out.first, out.last))
        out.seconds = (ended - began).total_seconds()
    out.troubles, out.hidden = troubles[-LONGEST_LOG:], max(0, len(troubles) - LONGEST_LOG)
    return out


def read_noise_table(path) -> Table | None:
    """The table of exposures of a run, or None."""
    try:
        return Table.read(path, format="ascii.ecsv")
    except (OSError, ValueError, TypeError, KeyError, InputError):
        return None


def flag_rows(flags) -> list[tuple[str, int, str]]:
    """(name, sources, meaning) of the flags that some source has, the most frequent first."""
    counts = flag_counts(flags)
    meaning = {f.name: f.meaning for f in flag_registry.FLAGS}
    rows = [(name, n, meaning.get(name, "")) for name, n in counts.items()]
    return sorted(rows, key=lambda row: -row[1])


def versions() -> list[tuple[str, str]]:
    """Packages of the machine that writes the report."""
    out = [("Python", platform.python_version())]
    for name in PACKAGES:
        try:
            out.append((name, version(name)))
        except PackageNotFoundError:
            continue
    return out


def duration(seconds: float) -> str:
    """Seconds for people."""
    if not np.isfinite(seconds):
        return "unknown"
    if seconds < 120:
        return f"{seconds:.3g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
