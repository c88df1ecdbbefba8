"""Whether a folder lies on a disk of this machine: shared memory does not work elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

LOCAL = {
    "apfs", "bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "jfs", "ntfs3", "overlay", "ramfs",
    "reiserfs", "tmpfs", "ufs", "xfs", "zfs",
}  # fmt: skip
"""Types of file systems whose files can be mapped into shared memory by several processes."""


def filesystem(folder, mounts: str | None = None) -> str:
    """Type of the file system of a folder; "" where it is not known.

    Parameters
    ----------
    folder : existing or not.
    mounts : text of the mount table; by default that of the system.
    """
    if mounts is None:
        try:
            mounts = Path("/proc/self/mounts").read_text()
        except OSError:
            return ""
    path = Path(folder).resolve()
    found, depth = "", -1
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        # blanks of names are written as octal numbers
        point = Path(re.sub(r"\\(\d{3})", lambda m: chr(int(m[1], 8)), fields[1]))
        inside = path == point or point in path.parents
        # of several on one point the last is the one that is seen
        if inside and len(point.parts) >= depth:
            found, depth = fields[2], len(point.parts)
    return found


def is_local(folder) -> bool:
    """Whether a folder is on a local disk; one of unknown kind is not taken for local."""
    return filesystem(folder) in LOCAL
