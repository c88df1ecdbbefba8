"""A whole run of stand-in patches, in a process that tests may kill."""

import json
import sys
from pathlib import Path

from scene_case import row_of_stars

from jaxpho.superscene.child import ChildEngine
from jaxpho.superscene.interrupt import Interrupts
from jaxpho.superscene.ledger import Ledger
from jaxpho.superscene.lock import RunLock
from jaxpho.superscene.master import Master
from jaxpho.superscene.worker import Work


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


def main(folder, stars, context):
    """The same with processes; `context` is that of `superscene_jobs`."""
    state = row_of_stars(int(stars))
    engine = ChildEngine(Work("superscene_jobs", json.loads(context)))
    with RunLock(folder), Interrupts() as asked:
        run(folder, state, engine, stopping=lambda: asked.level)


if __name__ == "__main__":
    main(*sys.argv[1:])
