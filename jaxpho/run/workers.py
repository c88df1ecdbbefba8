"""The same function for many jobs, in processes: a job that fails, or kills its process, is told.

Log messages of the workers are passed on, so that one log has them all.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field

from jaxpho.errors import InputError
from jaxpho.superscene.records import kept, pass_on

log = logging.getLogger("jaxpho.workers")

IN_FLIGHT = 2
"""Jobs handed out per worker: when a process dies, these are the ones to blame."""


@dataclass
class Outcome:
    """How a job ended.

    Attributes
    ----------
    number : position of the job.
    error : one line, or "" when it went well.
    records : log messages of the worker (logger, level, text).
    """

    number: int
    error: str = ""
    records: list[list] = field(default_factory=list)


def run_jobs(function: Callable, jobs: Sequence[tuple], workers: int = 1) -> Iterator[Outcome]:
    """Call `function(*job)` for every job; outcomes come as they are ready.

    Parameters
    ----------
    function : a function of a module, not a closure.
    jobs : its arguments.
    workers : processes; 1 works in this one.
    """
    if workers <= 1 or len(jobs) <= 1:
        for number, job in enumerate(jobs):
            yield _call(function, number, job)
        return
    left = list(range(len(jobs)))
    while left:
        suspects: list[int] = []
        for outcome in _in_pool(function, jobs, left, workers, suspects):
            left.remove(outcome.number)
            yield outcome
        # a process died: its jobs are tried alone, and the one that does it again is told
        for number in suspects:
            left.remove(number)
            yield _alone(function, jobs[number], number)


def _in_pool(function, jobs, numbers, workers, suspects) -> Iterator[Outcome]:
    """Outcomes of jobs; ends early, with `suspects` filled, when a process dies."""
    waiting = list(reversed(numbers))
    pool = _pool(min(workers, len(numbers)))
    running: dict = {}
    try:
        while waiting or running:
            while waiting and len(running) < IN_FLIGHT * workers:
                number = waiting.pop()
                running[pool.submit(_work, function, number, jobs[number])] = number
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                outcome = future.result()
                del running[future]
                yield _told(outcome)
    except BrokenProcessPool:
        suspects += sorted(running.values())
        log.warning("a worker process died; its exposures are tried again one by one")
    finally:
        _stop(pool)


def _alone(function, job, number: int) -> Outcome:
    pool = _pool(1)
    try:
        return _told(pool.submit(_work, function, number, job).result())
    except BrokenProcessPool:
        return Outcome(number, "the process was killed; perhaps the memory was too small")
    finally:
        _stop(pool)


def _pool(workers: int) -> ProcessPoolExecutor:
    # a forked process would inherit the threads of JAX in an undefined state
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_start)


def _stop(pool: ProcessPoolExecutor) -> None:
    processes = list((getattr(pool, "_processes", None) or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        with contextlib.suppress(OSError, ValueError):
            process.terminate()


def _start() -> None:
    """Leave Ctrl-C to the master, and end with it, however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def watch():
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _work(function, number: int, job) -> Outcome:
    """In the worker: the call, its messages kept."""
    with kept() as records:
        outcome = _call(function, number, job)
    outcome.records = records
    return outcome


def _call(function, number: int, job) -> Outcome:
    try:
        function(*job)
        return Outcome(number)
    except InputError as error:
        return Outcome(number, str(error))
    except Exception as error:
        # one exposure must not end a run of thousands; the traceback goes to the log file
        logging.getLogger("jaxpho.workers").debug("traceback", exc_info=True)
        text = str(error).strip().splitlines()
        return Outcome(number, f"{type(error).__name__}: {text[0] if text else ''}")


def _told(outcome: Outcome) -> Outcome:
    """Pass the worker's messages on to the log of this process."""
    pass_on(outcome.records)
    outcome.records = []
    return outcome
