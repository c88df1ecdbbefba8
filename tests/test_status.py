"""One run per directory, and its status from outside."""

import threading
import time

import pytest
from small_field import write_field
from test_run import FAR, SOURCES, StandInFit, run

from jaxpho import cli
from jaxpho.run import status
from jaxpho.superscene.lock import LOCK, RunLock
from jaxpho.superscene.snapshot import Snapshot, read_snapshot, write_snapshot


def test_status_of_a_run(monkeypatch, tmp_path, capsys):
    seen = []

    class Looking(StandInFit):
        def __call__(self, *args, **kwargs):
            seen.append(read_snapshot(tmp_path / "run"))
            return super().__call__(*args, **kwargs)

    assert run(monkeypatch, tmp_path, Looking(), sources=(*SOURCES, FAR)) == 1
    assert seen[0].state == "running" and seen[0].patches["running"] == 1
    assert seen[0].sources == {"done": 0, "failed": 1, "waiting": 3}
    capsys.readouterr()
    assert cli.main(["status", str(tmp_path / "run"), "--watch"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "finished: 100.0 % of the work, round 0, 1 worker"
    assert lines[3].split() == ["sources", "3", "0", "1"]
    assert not (tmp_path / "run" / LOCK).exists()


def test_an_interrupted_run_says_so(monkeypatch, tmp_path):
    assert run(monkeypatch, tmp_path, StandInFit(stops=1)) == 130
    found = read_snapshot(tmp_path / "run")
    assert found.state == "stopped" and found.patches["done"] == 1
    assert not (tmp_path / "run" / LOCK).exists()


def test_a_second_run_on_a_directory_refuses_and_changes_nothing(monkeypatch, tmp_path, capsys):
    fit = StandInFit()
    path = write_field(tmp_path)
    (tmp_path / "run" / "patches").mkdir(parents=True)
    with RunLock(tmp_path / "run"):
        (tmp_path / "run" / "config.yml").write_text("of the other run")
        assert run(monkeypatch, tmp_path, fit, "--overwrite") == 2
        assert "is in use by process" in capsys.readouterr().err
        assert (tmp_path / "run" / "config.yml").read_text() == "of the other run"
    assert fit.calls == [] and path.exists()
    assert run(monkeypatch, tmp_path, fit, "--overwrite") == 0


def test_watching_ends_with_the_run(tmp_path, capsys):
    sources = {"done": 1, "failed": 0, "waiting": 1}
    write_snapshot(tmp_path, Snapshot("running", 0, {}, sources))

    def finish():
        time.sleep(0.3)
        write_snapshot(tmp_path, Snapshot("finished", 0, {}, sources))

    thread = threading.Thread(target=finish)
    thread.start()
    assert cli.main(["status", str(tmp_path), "--watch", "--every", "0.1"]) == 0
    thread.join()
    text = capsys.readouterr().out
    assert text.count("running: ") >= 2 and text.count("finished: ") == 1
    assert status.CLEAR not in text


@pytest.mark.parametrize("name", ["none", ""])
def test_what_is_no_run(tmp_path, capsys, name):
    assert cli.main(["status", str(tmp_path / name)]) == 2
    assert "not the directory of a run" in capsys.readouterr().err
