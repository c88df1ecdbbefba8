"""Functions for worker processes to run in tests."""

import os
import signal


def some_die(number, dies):
    """Kills its own process when told to."""
    if dies:
        os.kill(os.getpid(), signal.SIGKILL)
