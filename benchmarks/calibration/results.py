"""Results as lines of JSON, one a data set: a run can be stopped, continued and split.

The first line of a file holds the settings that its data sets share. A line that was cut off by a
kill is dropped and its data set done again.
"""

import json
import os
from pathlib import Path

from jaxpho.errors import InputError

SHARED = ("scene", "psf", "renderer", "method", "seed", "sn", "min_ess", "max_rhat")
"""Settings of a run; those that name its folder come first."""


def folder_of(root, settings):
    """Where the results of a run lie."""
    low, high = settings["sn"]
    parts = [str(settings[k]) for k in ("scene", "psf", "renderer", "method")]
    return Path(root) / "-".join([*parts, f"sn{low:g}-{high:g}", f"seed{settings['seed']}"])


def read_lines(path):
    """Settings and records of a file; a last line that is not whole is left out."""
    settings, records = None, []
    for line in Path(path).read_text().splitlines(keepends=True):
        if not line.endswith("\n"):
            break
        try:
            found = json.loads(line)
        except ValueError as error:
            raise InputError(f"{path}: expected a line of JSON, found {line[:40]!r}") from error
        if settings is None:
            settings = found
        else:
            records.append(found)
    return settings or {}, records


def read_folder(folder):
    """Settings of a run and its records in order, each data set once.

    Raises
    ------
    InputError
        When files were made with different settings.
    """
    settings, records = None, {}
    for path in sorted(Path(folder).glob("*.jsonl")):
        found, lines = read_lines(path)
        shared = {k: found.get(k) for k in SHARED}
        if found and settings is not None and shared != settings:
            raise InputError(f"{path}: made with other settings than its folder: {shared}")
        settings = shared if found else settings
        for record in lines:
            records.setdefault(record["number"], record)
    return settings or {}, [records[k] for k in sorted(records)]


class Writer:
    """Appends records to a file of one run, whole lines only."""

    def __init__(self, path, settings):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            self._drop_torn_line()
        self.stream = self.path.open("a")
        if self.stream.tell() == 0:
            self.add(settings)

    def _drop_torn_line(self):
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(self.path, whole)

    def add(self, record):
        """Append one record."""
        self.stream.write(json.dumps(_rounded(record)) + "\n")
        self.stream.flush()

    def close(self):
        """Close the file."""
        self.stream.close()


def _rounded(value):
    """The same with seven significant digits of every float."""
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(v) for v in value]
    if isinstance(value, float):
        return float(f"{value:.7g}")
    return value
