"""Log messages of worker processes, on their way to the log of the run."""

from __future__ import annotations

import contextlib
import logging

_PLAIN = logging.Formatter()


class _Keeper(logging.Handler):
    def __init__(self, records: list):
        super().__init__()
        self.records = records

    def emit(self, record):
        # arguments and tracebacks may be anything; text travels
        self.records.append([record.name, record.levelno, _PLAIN.format(record)])


@contextlib.contextmanager
def kept():
    """A list that fills with the messages (logger, level, text) of a worker's block."""
    records: list[list] = []
    logger, keeper = logging.getLogger("jaxpho"), _Keeper(records)
    before = logger.level, logger.propagate
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    logger.addHandler(keeper)
    try:
        yield records
    finally:
        logger.removeHandler(keeper)
        logger.level, logger.propagate = before


def pass_on(records) -> None:
    """Log a worker's messages in this process."""
    for name, level, text in records:
        logging.getLogger(name).log(level, "%s", text)
