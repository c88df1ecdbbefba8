"""Interruption: Ctrl-C, SIGTERM (a batch system) and SIGHUP (a closed terminal) end a run in order.

An exception that a signal raises can get lost: where JAX calls Python from C++, or the garbage
collector does, it is dropped, or comes out as another. A request to stop is therefore remembered.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys

AGAIN = 2.0
"""Seconds after which a lost interrupt is raised once more."""


class _State:
    requested = False
    insists = False


def on_signals() -> None:
    """Let SIGINT, SIGTERM and SIGHUP raise KeyboardInterrupt; SIGHUP stays ignored under nohup."""
    _State.requested = False
    with contextlib.suppress(ValueError):  # not the main thread: someone else's process
        if signal.getsignal(signal.SIGINT) not in (signal.SIG_IGN, None):
            signal.signal(signal.SIGINT, _stop)
        signal.signal(signal.SIGTERM, _stop)
        if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
            signal.signal(signal.SIGHUP, _stop)


def _stop(number, frame) -> None:
    _State.requested = True
    if _State.insists:
        signal.signal(signal.SIGALRM, _stop)
        signal.setitimer(signal.ITIMER_REAL, AGAIN)
    raise KeyboardInterrupt


def check() -> None:
    """Raise KeyboardInterrupt when a signal has asked for it."""
    if _State.requested:
        raise KeyboardInterrupt


@contextlib.contextmanager
def insisting():
    """Long work within which a lost interrupt comes again, until it has got through."""
    _State.insists = True
    try:
        yield
    finally:
        _State.insists = False
        if _State.requested:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
    check()


def leave(code: int) -> None:
    """End the process at once, everything written.

    The orderly end of the interpreter would take down what JAX's threads still compile with.
    """
    logging.shutdown()
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)
