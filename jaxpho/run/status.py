"""`jaxpho status`: how far a run is, read from its directory, on any host."""

from __future__ import annotations

import sys
import time

from jaxpho.superscene.snapshot import read_snapshot, table

DESCRIPTION = """\
Show how far a run is: sources and patches done, running, waiting and failed, sources per hour and
the time left. Reads status.json of the run directory, which the run replaces every few seconds;
works while it runs, after it, and from another host."""

CLEAR = "\033[H\033[J"


def add_arguments(parser) -> None:
    """The arguments of the command."""
    parser.add_argument("--watch", action="store_true", help="show it again and again, until the "
                        "run ends")  # fmt: skip
    parser.add_argument("--every", type=float, default=2.0, metavar="SECONDS",
                        help="seconds between looks with --watch (default 2)")  # fmt: skip


def run(args) -> int:
    """Print the status; 0 whatever the run does."""
    try:
        return _show(args)
    except KeyboardInterrupt:
        if args.watch:  # the way to end it
            return 0
        raise


def _show(args) -> int:
    while True:
        found = read_snapshot(args.run)
        if args.watch and sys.stdout.isatty():
            print(CLEAR, end="")
        print(table(found), flush=True)
        if not args.watch or found.state != "running":
            return 0
        time.sleep(max(args.every, 0.1))
