"""Compiled programs that are kept on disk, so that later runs and other processes need not compile.

JAX's own store of programs writes its files in place: a process that is killed meanwhile leaves
half a file, which others would try to read. Here they are written under another name and renamed.
"""

from __future__ import annotations

import hashlib
import os
import platform
from importlib import metadata
from pathlib import Path

AUTO, NONE = "auto", "none"
LEAST_SECONDS = 0.5
"""Programs that compile sooner than this are not kept."""


def keep_programs(where: str) -> Path | None:
    """Keep the programs that this process compiles, and use those that others have.

    Parameters
    ----------
    where : a folder; "auto" for one of the user's cache, "none" for none.

    Returns
    -------
    Path or None
        The folder. What the environment says of JAX's cache (JAX_COMPILATION_CACHE_DIR) stays.
    """
    if where == NONE or os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return None
    import jax

    folder = default_folder() if where == AUTO else Path(where).expanduser().absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            return None
    except OSError:
        return None  # a home that cannot be written: programs are compiled every time
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", LEAST_SECONDS)
    _write_whole_files()
    return folder


def default_folder() -> Path:
    """In the user's cache, one for each kind of processor and version: others' may crash."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    words = [platform.machine(), _processor(), *(metadata.version(k) for k in ("jax", "jaxlib"))]
    kind = hashlib.sha256("/".join(words).encode()).hexdigest()[:12]
    return Path(base) / "jaxpho" / f"programs-{kind}"


def _processor() -> str:
    """What the processor is and can do."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "".join(sorted({x for x in lines if x.startswith(("model name", "flags", "Features"))}))


def _write_whole_files() -> None:
    """Have JAX's store write under another name and rename, where this version lets us."""
    try:
        from jax._src import lru_cache
    except ImportError:
        return
    original = getattr(lru_cache, "LRUCache", None)
    suffix = getattr(lru_cache, "_CACHE_SUFFIX", None)
    if original is None or suffix is None or getattr(original.put, "whole", False):
        return
    put = original.put

    def whole(self, key: str, value: bytes) -> None:
        path = Path(str(self.path)) / f"{key}{suffix}"
        if getattr(self, "eviction_enabled", True) or path.exists():
            put(self, key, value)
            return
        part = path.with_name(f".{hashlib.sha256(key.encode()).hexdigest()[:16]}.{os.getpid()}")
        try:
            part.write_bytes(value)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)

    whole.whole = True
    original.put = whole
