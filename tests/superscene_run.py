"""A whole run of stand-in patches, in a process that tests may kill."""

import json
import random
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import superscene_jobs
from scene_case import row_of_stars

from jaxpho.superscene.child import ChildEngine
from jaxpho.superscene.interrupt import Interrupts
from jaxpho.superscene.ledger import Ledger
from jaxpho.superscene.lock import RunLock
from jaxpho.superscene.master import Master
from jaxpho.superscene.worker import Report, Work, first_line, kind_of


def run(folder, state, engine, seed=1, **kwargs):
    """Run, or go on with, a field; the master."""
    Path(folder).mkdir(exist_ok=True)
    ledger = Ledger(folder, state, seed)
    master = Master(folder, state, ledger, engine, seed, **kwargs)
    try:
        master.end = master.run()
    finally:
        engine.close()
        ledger.close()
    return master


class Here:
    """An engine in this process, which ends patches in an order of its own."""

    def __init__(self, context=None, slots=1, seed=0, breaks=None):
        self.context, self.slots, self.workers = context or {}, slots, slots
        self.random, self.queue, self.calls = random.Random(seed), [], []
        self.most, self.breaks = 0, breaks or {}

    def submit(self, name, message):
        self.queue.append((name, json.loads(json.dumps(message))))
        self.most = max(self.most, len(self.queue))

    def collect(self, timeout):
        if not self.queue:
            return []
        name, message = self.queue.pop(self.random.randrange(len(self.queue)))
        self.calls.append((name, message))
        if kinds := self.breaks.get(name):
            if kind := kinds.pop(0):
                return [Report(name, kind, message="as told")]
        try:
            return [Report(name, answer=superscene_jobs.work(self.context, message))]
        except Exception as error:
            return [Report(name, kind_of(error), message=first_line(error))]

    def withdraw(self):
        return []

    def cancel(self):
        self.queue.clear()

    close = cancel


def values(state):
    return {k: getattr(state, k) for k in ("parameters", "covariance", "iterations", "flags",
                                           "patches", "failed")}  # fmt: skip


def same(one, other):
    for name, value in values(one).items():
        np.testing.assert_array_equal(value, values(other)[name], err_msg=name)


def decisions(folder):
    with closing(sqlite3.connect(Path(folder) / "ledger.db")) as db:
        return db.execute("SELECT patch, kind, decision FROM decisions ORDER BY number").fetchall()


def main(folder, stars, context):
    """The same with processes; `context` is that of `superscene_jobs`."""
    state = row_of_stars(int(stars))
    engine = ChildEngine(Work("superscene_jobs", json.loads(context)))
    with RunLock(folder), Interrupts() as asked:
        run(folder, state, engine, stopping=lambda: asked.level)


if __name__ == "__main__":
    main(*sys.argv[1:])
