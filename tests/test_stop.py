"""Interruption: never lost, never taken for a failed fit, without a crash at the end."""

import signal
import subprocess
import sys

import pytest
from small_field import write_field
from test_run import StandInFit

from jaxpho import cli
from jaxpho.output.catalog import read_catalog
from jaxpho.superscene import fitting


@pytest.fixture(autouse=True)
def handlers():
    """The signal handlers as they were."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def swallow(number):
    """A signal whose exception is dropped, as in a callback from C++ or the garbage collector."""
    try:
        signal.raise_signal(number)
    except KeyboardInterrupt:
        pass


@pytest.mark.parametrize("turned", [False, True], ids=["dropped", "turned into another error"])
def test_a_run_stops_before_its_next_patch(monkeypatch, tmp_path, capsys, turned):
    fit = StandInFit()

    def interrupted(*args, **kwargs):
        result = fit(*args, **kwargs)
        swallow(signal.SIGINT)
        if turned:
            raise RuntimeError("INTERNAL: a callback failed")
        return result

    monkeypatch.setattr(fitting, "fit_patch", interrupted)
    assert cli.fit_main([str(write_field(tmp_path)), "-q"]) == 130
    assert len(fit.calls) == 1
    if turned:
        assert not (tmp_path / "run" / "catalog.fits").exists()
    else:
        names = list(read_catalog(tmp_path / "run" / "catalog.fits")["flag_names"])
        assert "" in names and "unfinished" in names and "failed" not in names
    assert "interrupted; " in capsys.readouterr().err


@pytest.mark.parametrize("call", ["fit_main()", "main()"])
def test_an_interrupted_process_ends_at_once(call):
    """JAX's threads crash an orderly end of the interpreter; here something else does."""
    code = (
        "import atexit, os, signal, sys\n"
        "from jaxpho import cli\n"
        "def work(args): signal.raise_signal(signal.SIGTERM)\n"
        "cli._fit = work\n"
        "atexit.register(os.kill, os.getpid(), signal.SIGSEGV)\n"
        f"sys.exit(cli.{call})"
    )
    words = ["fit"] if call == "main()" else []
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.returncode == 130, done.stderr
    assert "interrupted; nothing was finished yet" in done.stderr
