"""The log of a command: on the terminal, and in a file with all details."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from pathlib import Path

from jaxpho.errors import InputError

log = logging.getLogger("jaxpho.cli")


class _TerminalHandler(logging.Handler):
    """Messages on stderr that do not tear the progress bar."""

    def emit(self, record):
        from tqdm import tqdm

        # a terminal that is gone does not end a run; the log file has it all
        with contextlib.suppress(OSError):
            tqdm.write(self.format(record), file=sys.stderr)


class _TerminalFormatter(logging.Formatter):
    """Information as it is; anything worse begins with its level. Never a traceback."""

    def format(self, record):
        text = record.getMessage()
        return text if record.levelno <= logging.INFO else f"{record.levelname.lower()}: {text}"


def log_to_terminal(quiet: bool = False, verbose: bool = False) -> logging.Handler:
    """Attach the terminal to the "jaxpho" and "psfmix" loggers; returns the handler."""
    handler = _TerminalHandler()
    handler.setFormatter(_TerminalFormatter())
    handler.setLevel(logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO)
    logger = logging.getLogger("jaxpho")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    logger.addHandler(handler)
    return handler


class LogFile:
    """The log of a run: all levels, with time and module, tracebacks included.

    It continues that of an earlier run in the same folder.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.before = path.stat().st_size if path.exists() else 0
            self.handler = logging.FileHandler(path, mode="a", encoding="utf-8")
        except OSError as error:
            raise InputError(
                f"output: {path.parent} cannot be written ({error.strerror})"
            ) from None
        self.handler.setFormatter(
            logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
        )

    def __enter__(self):
        logging.getLogger("jaxpho").addHandler(self.handler)

    def __exit__(self, kind, error, trace):
        if error is not None:
            log.debug("the run ended early", exc_info=(kind, error, trace))
        logging.getLogger("jaxpho").removeHandler(self.handler)
        self.handler.close()
        if isinstance(error, InputError):  # nothing was done: leave everything as it was
            if self.before:
                os.truncate(self.path, self.before)
                return
            self.path.unlink()
            with contextlib.suppress(OSError):
                self.path.parent.rmdir()
