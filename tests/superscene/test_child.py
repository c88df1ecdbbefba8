"""Supervised processes: every patch is reported, whatever happens to the process."""

import logging
import os
import signal
import subprocess
import sys
import time

import pytest

from jaxpho.errors import InputError
from jaxpho.superscene import child
from jaxpho.superscene.child import ChildEngine
from jaxpho.superscene.records import kept, pass_on
from jaxpho.superscene.worker import Work

JOBS = "superscene_jobs"


def message(name, **extra):
    return {"patch": name, "seed": 1, "fixed": [],
            "active": [{"number": 0, "parameters": [1.0, 2.0, 3.0]}], **extra}  # fmt: skip


def all_reports(engine, number, seconds=60):
    out, until = {}, time.monotonic() + seconds
    while len(out) < number and time.monotonic() < until:
        out |= {r.name: r for r in engine.collect(0.2)}
    return out


@pytest.fixture
def engine_of():
    made = []

    def make(trouble=None, **kwargs):
        folder = kwargs.pop("folder", None)
        context = {"trouble": trouble or {}} | ({"folder": str(folder)} if folder else {})
        made.append(ChildEngine(Work(JOBS, context), **kwargs))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


def test_every_trouble_is_reported_and_the_next_patch_is_done(engine_of, tmp_path):
    trouble = {"1": "die", "2": "raise", "3": "exit", "4": "memory", "5": "full", "6": "hang",
               "7": "crowd"}  # fmt: skip
    engine = engine_of(trouble, limit=3.0)
    for k in range(8):
        engine.submit(str(k), message(str(k)))
    engine.submit("8", message("8", active=message("8")["active"] * 2))
    found = all_reports(engine, 9)
    assert {name: r.kind for name, r in found.items()} == {
        "0": "", "1": "died", "2": "raised", "3": "died", "4": "memory", "5": "disk",
        "6": "timeout", "7": "", "8": "",
    }  # fmt: skip
    assert found["1"].message == "signal SIGKILL" and found["3"].message == "exit code 3"
    assert found["2"].message == "FloatingPointError: singular matrix"
    assert any("Traceback" in text for _, _, text in found["2"].records)
    assert "the limit is 3 s" in found["6"].message and found["6"].seconds > 3
    assert len(found["0"].answer["latest"]) == 1 and len(found["8"].answer["latest"]) == 2


def test_a_process_that_takes_too_much_memory_is_replaced(engine_of):
    engine = engine_of({"0": "eat"}, memory=120 * 2**20)
    engine.submit("0", message("0"))
    engine.submit("1", message("1"))
    found = all_reports(engine, 2)
    assert (found["0"].kind, found["1"].kind) == ("memory", "")
    assert "MiB, the limit is 120 MiB" in found["0"].message


def test_numbers_travel_bit_by_bit(engine_of):
    engine = engine_of()
    values = [1 / 3, 5e-324, -1.7976931348623157e308]
    engine.submit("0", message("0", active=[{"number": 0, "parameters": values}]))
    first = all_reports(engine, 1)["0"].answer["latest"]
    engine.submit("0", message("0", active=[{"number": 0, "parameters": values}]))
    assert all_reports(engine, 1)["0"].answer["latest"] == first
    assert first[0][2] == values[2]


def test_a_process_is_kept_and_several_share_the_work(engine_of, tmp_path, caplog):
    engine = engine_of(workers=2, folder=tmp_path)
    for k in range(6):
        engine.submit(str(k), message(str(k)))
    assert len(all_reports(engine, 6)) == 6
    assert caplog.text.count("prepared") == 1  # not by each of them
    pids = {c.process.pid for c in engine.children}
    assert 1 <= len(pids) <= 2
    engine.submit("6", message("6"))
    all_reports(engine, 1)
    assert pids >= {c.process.pid for c in engine.children} or len(engine.children) == 2
    engine.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_what_cannot_start_ends_the_run():
    for context, error, words in (
        ({"refuse": True}, InputError, "no such exposure"),
        ({"die": True}, RuntimeError, "before their first patch"),
    ):
        engine = ChildEngine(Work(JOBS, context))
        engine.submit("0", message("0"))
        with pytest.raises(error, match=words):
            all_reports(engine, 1)
        assert engine.children == []
    engine = ChildEngine(Work("no_such_module"))
    engine.submit("0", message("0"))
    with pytest.raises(RuntimeError, match="ModuleNotFoundError"):
        all_reports(engine, 1)


def test_cancelling_is_at_once(engine_of):
    engine = engine_of({"0": "hang"})
    engine.submit("0", message("0"))
    while not any(c.name for c in engine.children):
        engine.collect(0.05)
    (busy,) = engine.children
    begun = time.monotonic()
    engine.cancel()
    assert time.monotonic() - begun < 5 and busy.process.returncode == -signal.SIGKILL
    assert engine.collect(0.01) == []


def test_workers_end_with_the_master():
    """Killed, the master can do nothing about its workers any more."""
    code = (
        "import sys, time\n"
        "from jaxpho.superscene.child import ChildEngine\n"
        "from jaxpho.superscene.worker import Work\n"
        f"engine = ChildEngine(Work({JOBS!r}, {{'trouble': {{'0': 'hang'}}}}))\n"
        f"engine.submit('0', {message('0')!r})\n"
        "while not any(c.name for c in engine.children): engine.collect(.05)\n"
        "print(engine.children[0].process.pid, flush=True)\n"
        "time.sleep(100)\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment
    ) as master:
        worker = int(master.stdout.readline())
        os.kill(worker, 0)
        master.kill()
    until = time.monotonic() + 20
    while time.monotonic() < until:
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        time.sleep(0.02)
    raise AssertionError("the worker outlived its master")


def test_limits_do_not_look_at_the_time_of_day(engine_of, monkeypatch):
    engine = engine_of({"1": "hang"}, limit=2.0)
    monkeypatch.setattr(child.time, "time", lambda: 4e9)
    engine.submit("0", message("0"))
    engine.submit("1", message("1"))
    found = all_reports(engine, 2)
    assert (found["0"].kind, found["1"].kind) == ("", "timeout")


def test_messages_of_workers_come_to_the_log(caplog):
    with kept() as records:
        logging.getLogger("jaxpho.fit").warning("patch %d", 3)
    assert records == [["jaxpho.fit", logging.WARNING, "patch 3"]]
    caplog.clear()  # pytest 9 listens to loggers that do not propagate, as a command leaves them
    pass_on(records)
    assert caplog.record_tuples == [("jaxpho.fit", logging.WARNING, "patch 3")]
