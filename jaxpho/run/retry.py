"""`jaxpho retry`: another attempt at what has failed in a run."""

from __future__ import annotations

from pathlib import Path

from jaxpho.config import Config, load_config
from jaxpho.errors import InputError
from jaxpho.run.fit import RETRY
from jaxpho.superscene.ledger import LEDGER

MODE = RETRY
DESCRIPTION = """\
Fit the sources of patches that have failed again, with other seeds, and go on with what the run has
not finished. All else stays as it is. With engine.limit or engine.memory set differently where time
or memory was what they lacked. Exit status as of jaxpho-fit."""


def add_arguments(parser) -> None:
    """The arguments of the command."""
    parser.add_argument("run", metavar="RUN", help="run directory")
    parser.add_argument(
        "--failed", action="store_true", required=True, help="the failed patches (no other choice "
        "so far, but a name for what is done)",
    )  # fmt: skip
    parser.add_argument("--set", dest="overrides", action="append", default=[],
                        metavar="KEY=VALUE", help="as of jaxpho-fit, of the section engine "
                        "(engine.limit=7200)")  # fmt: skip
    parser.add_argument("-q", "--quiet", action="store_true", help="warnings and errors only")
    parser.add_argument("-v", "--verbose", action="store_true", help="debugging messages, too")


def load(args) -> Config:
    """The configuration of the run.

    Raises
    ------
    InputError
        When the folder is not one of a run with a ledger.
    """
    folder = Path(args.run)
    for name in ("config.yml", LEDGER):
        if not (folder / name).is_file():
            raise InputError(f"{folder}: not the directory of a run (it has no {name})")
    return load_config(folder / "config.yml", args.overrides, str(folder))
