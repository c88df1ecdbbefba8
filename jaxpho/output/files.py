"""Names of the files of a run."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable

from jaxpho.data.files import replacing

__all__ = ["LONGEST_NAME", "ascii_text", "file_names", "replacing", "safe_name"]


LONGEST_NAME = 120
"""Characters of a file name; file systems take 255 bytes, endings included."""


def safe_name(name: str) -> str:
    """A file name for an exposure id, which may contain "/"."""
    safe = "".join(c if c.isalnum() or c in "-_.+" else "_" for c in name)
    return safe if safe.isascii() and len(safe) <= LONGEST_NAME else _with_digest(safe, name)


def file_names(names: Iterable[str]) -> dict[str, str]:
    """Name -> a file name of its own, where upper and lower case are the same, too."""
    names = list(names)
    safe = {name: safe_name(name) for name in names}
    count = Counter(text.lower() for text in safe.values())
    return {n: t if count[t.lower()] == 1 else _with_digest(t, n) for n, t in safe.items()}


def _with_digest(safe: str, name: str) -> str:
    """A readable beginning, and a checksum that tells apart what the beginning does not."""
    digest = hashlib.sha1(name.encode(), usedforsecurity=False).hexdigest()[:8]
    readable = "".join(c if c.isascii() else "_" for c in safe)
    return f"{readable[: LONGEST_NAME - 9]}-{digest}"


def ascii_text(text: str) -> str:
    """Text as a FITS card or table can hold it: other characters are written as escapes."""
    escaped = text.encode("ascii", "backslashreplace").decode()
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in escaped)
