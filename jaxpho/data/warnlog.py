"""Warnings of libraries: into the log, each once, instead of raw lines on the terminal."""

from __future__ import annotations

import contextlib
import logging
import warnings

import astropy  # noqa: F401  (installs a hook of its own, which must come first)

log = logging.getLogger("jaxpho.warnings")


@contextlib.contextmanager
def warnings_in_log():
    """Within: what `warnings.warn` would print is a message of level DEBUG, with its place."""
    seen: set[tuple[str, str]] = set()
    before = warnings.showwarning

    def show(message, category, filename, lineno, file=None, line=None):
        text = " ".join(str(message).split())
        if (category.__name__, text) not in seen:
            seen.add((category.__name__, text))
            log.debug("%s: %s (%s:%d)", category.__name__, text, filename, lineno)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = before
