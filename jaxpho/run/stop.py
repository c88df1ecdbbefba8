"""Interruption: Ctrl-C, SIGTERM (a batch system) and SIGHUP (a closed terminal) end a run in order.

While patches are fitted, `jaxpho.superscene.interrupt` answers them instead.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys


def on_signals() -> None:
    """Let SIGINT, SIGTERM and SIGHUP raise KeyboardInterrupt; SIGHUP stays ignored under nohup."""
    with contextlib.suppress(ValueError):  # not the main thread: someone else's process
        if signal.getsignal(signal.SIGINT) not in (signal.SIG_IGN, None):
            signal.signal(signal.SIGINT, _stop)
        signal.signal(signal.SIGTERM, _stop)
        if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
            signal.signal(signal.SIGHUP, _stop)


def _stop(number, frame) -> None:
    raise KeyboardInterrupt


def leave(code: int) -> None:
    """End the process at once, everything written.

    The orderly end of the interpreter would take down what JAX's threads still compile with.
    """
    logging.shutdown()
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)
