"""The status of a run, from outside."""

import pytest

from jaxpho.errors import InputError
from jaxpho.superscene import snapshot
from jaxpho.superscene.snapshot import (
    Rate,
    Snapshot,
    duration,
    read_snapshot,
    table,
    write_snapshot,
)


def test_round_trip_and_table(tmp_path):
    one = Snapshot(
        "running", 3, {"done": 7, "running": 2, "cut": 1}, {"done": 30, "failed": 2, "waiting": 8},
        0.75, 7200.0, 15.0, 2400.0, 2, "patch 4: died", False,
    )  # fmt: skip
    write_snapshot(tmp_path, one)
    assert read_snapshot(tmp_path) == one
    assert [p.name for p in tmp_path.iterdir()] == ["status.json"]
    lines = table(one).splitlines()
    assert lines[0] == "running: 75.0 % of the work, round 3, 2 workers"
    assert lines[1].split() == ["done", "running", "waiting", "failed"]
    assert lines[2].split() == ["patches", "7", "2", "0", "0"]
    assert lines[3].split() == ["sources", "30", "8", "2"]
    assert "15 sources per hour, of 40; 2 h 00 min so far, 40 min 00 s left" in lines
    assert "patch 4: died" in lines and "1 patch was cut in two" in lines


def test_rates_come_from_a_clock_that_nobody_sets(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(snapshot.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(snapshot.time, "time", lambda: 0.0)
    rate = Rate(0.5, 40)
    assert rate(0.5) == {"share": 0.5, "seconds": 0.0}
    now[0] += 3600
    assert rate(0.75) == {"share": 0.75, "seconds": 3600, "sources_per_hour": 10.0, "eta": 3600.0}


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"format": "other"}', '{"format": "jaxpho-status-1"}']
)
def test_what_is_no_status(tmp_path, text):
    with pytest.raises(InputError, match="it has no status.json"):
        read_snapshot(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        read_snapshot(tmp_path / "none")
    (tmp_path / "status.json").write_text(text)
    with pytest.raises(InputError, match="expected a status of format"):
        read_snapshot(tmp_path)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.6, "1 min 00 s"), (3725, "1 h 02 min"), (90000, "1 d 01 h"),
     (float("nan"), "-")],
)  # fmt: skip
def test_durations(seconds, text):
    assert duration(seconds) == text
