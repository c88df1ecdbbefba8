"""The process that works on patches: one after the other, told and answering in JSON.

It is a process of its own, begun fresh and not forked, so that threads and compiled programs are
its own, and that whatever happens to it does not happen to the run.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import sys
import threading
from dataclasses import asdict, dataclass, field
from importlib import import_module
from multiprocessing.connection import Connection

import numpy as np

from jaxpho.data.warnlog import warnings_in_log
from jaxpho.superscene.records import kept

log = logging.getLogger("jaxpho.worker")

DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO}
NO_MEMORY = ("RESOURCE_EXHAUSTED", "out of memory", "Unable to allocate", "bad_alloc")


@dataclass
class Work:
    """What workers do: a module's functions, named so that nothing but text travels.

    Attributes
    ----------
    module : has `prepare(context)`, called once in every process, and `work(prepared, message)`,
        which returns what JSON can hold (and arrays).
    context : plain values.
    """

    module: str
    context: dict = field(default_factory=dict)


@dataclass
class Report:
    """How the work on one patch ended.

    Attributes
    ----------
    name : of the patch.
    kind : "" when it went well, otherwise one of `faults.KINDS`.
    answer : what the work returned.
    message : one line about a failure.
    records : log messages (logger, level, text).
    seconds : of wall time.
    """

    name: str
    kind: str = ""
    answer: dict = field(default_factory=dict)
    message: str = ""
    records: list = field(default_factory=list)
    seconds: float = 0.0


def encode(value) -> bytes:
    """JSON of plain values and arrays; numbers come back bit by bit."""
    return json.dumps(value, default=_plain).encode()


def _plain(value):
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"expected plain values or arrays, found {type(value).__name__}")


def kind_of(error: BaseException) -> str:
    """Which kind of failure (`faults.KINDS`) an exception is."""
    if isinstance(error, MemoryError) or any(word in str(error) for word in NO_MEMORY):
        return "memory"
    if isinstance(error, OSError) and error.errno in DISK:
        return "disk"
    return "raised"


def first_line(error: BaseException) -> str:
    """The first line of an exception's text, its type before it."""
    text = str(error).strip().splitlines()
    return type(error).__name__ + (f": {text[0]}" if text else "")


def attempt(work, prepared, name: str, message: dict) -> Report:
    """Work on one message, whatever comes of it."""
    report = Report(name)
    try:
        report.answer = json.loads(encode(work(prepared, message)))
    except Exception as error:
        # one bad patch must not end a run of thousands; the traceback goes to the log file
        log.debug("patch %s", name, exc_info=True)
        report.kind, report.message = kind_of(error), first_line(error)
    return report


def do(module, prepared, name: str, message: dict) -> bytes:
    """Work on one message; the encoded Report with what it had to say."""
    with kept() as records:
        report = attempt(module.work, prepared, name, message)
    report.records = records
    return encode(asdict(report))


def serve(handle: int, lifeline: int) -> None:
    """Answer messages until the other side is gone.

    Parameters
    ----------
    handle : descriptor of a socket: first the work, then messages.
    lifeline : descriptor of a pipe that closes when the master ends, however it ends.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the master's to answer

    def watch():
        os.read(lifeline, 1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    connection = Connection(handle)
    with warnings_in_log():
        _serve(connection)


def _serve(connection: Connection) -> None:
    work = Work(**json.loads(connection.recv_bytes()))
    answer: dict = {}
    with kept() as records:
        try:
            module = import_module(work.module)
            prepared = module.prepare(work.context)
        except Exception as error:
            log.debug("no start", exc_info=True)
            answer = {"error": str(error), "type": type(error).__name__}
    connection.send_bytes(encode(answer | {"records": records}))
    if answer:
        return
    while True:
        try:
            name, message = json.loads(connection.recv_bytes())
        except EOFError:
            return
        connection.send_bytes(do(module, prepared, name, message))


def command() -> list[str]:
    """The command of a worker process; two descriptors are to follow."""
    code = "import sys; from jaxpho.superscene.worker import serve; serve(*map(int, sys.argv[1:]))"
    return [sys.executable, "-c", code]
