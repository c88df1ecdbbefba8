"""Runs of a field: the same catalogue for any workers and order, and after any trouble."""

import errno
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing

import numpy as np
import pytest
import superscene_jobs
import superscene_run
from scene_case import lonely_stars, row_of_stars
from superscene_run import Here, decisions, run, same

from jaxpho.fit import flags
from jaxpho.superscene import master
from jaxpho.superscene.child import ChildEngine
from jaxpho.superscene.interrupt import NO, NOW, SOON, Interrupts
from jaxpho.superscene.ledger import Ledger
from jaxpho.superscene.snapshot import read_snapshot
from jaxpho.superscene.worker import Work

STARS, KILLS = 14, 4


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The catalogue of a run by one worker, and that run."""
    state = row_of_stars(STARS)
    engine = Here()
    done = run(tmp_path_factory.mktemp("run"), state, engine)
    assert done.end == "finished" and (state.iterations >= state.options.target).all()
    return state, engine, done


@pytest.mark.parametrize(("slots", "seed"), [(2, 1), (4, 2), (100, 3)])
def test_workers_and_their_order_do_not_change_the_catalogue(tmp_path, undisturbed, slots, seed):
    state, engine = row_of_stars(STARS), Here(slots=slots, seed=seed)
    run(tmp_path, state, engine)
    same(state, undisturbed[0])
    assert 1 < engine.most <= slots
    assert sorted(engine.calls, key=lambda c: int(c[0])) == undisturbed[1].calls


def test_processes_give_the_same_catalogue(tmp_path, undisturbed):
    state = row_of_stars(STARS)
    run(tmp_path, state, ChildEngine(Work("superscene_jobs"), workers=2))
    same(state, undisturbed[0])
    shown = read_snapshot(tmp_path)
    assert shown.state == "finished" and shown.share == 1.0 and shown.workers == 2
    assert shown.sources == {"done": STARS, "failed": 0, "waiting": 0}
    assert shown.sources_per_hour > 0 and shown.eta == 0


def test_the_last_draw_is_handed_on(undisturbed):
    """What a patch is given of a neighbour is what the neighbour's patch ended with."""
    latest = {}
    for _, message in undisturbed[1].calls:
        for source in [*message["active"], *message["fixed"]]:
            if source["number"] in latest:
                assert source["parameters"] == latest[source["number"]]
        answer = superscene_jobs.work({}, message)
        latest |= {s["number"]: row for s, row in zip(message["active"], answer["latest"],
                                                      strict=True)}  # fmt: skip
    assert latest and {s["number"] for _, m in undisturbed[1].calls for s in m["fixed"]}


def test_a_region_holds_its_sources(undisturbed):
    state, engine, _ = undisturbed
    _, message = engine.calls[0]
    region = message["region"]
    ra = [state.peaks[s["number"]].ra for s in message["active"]]
    assert min(ra) < region["ra"] < max(ra) and abs(region["dec"]) < 1e-9
    assert region["radius"] == pytest.approx((max(ra) - min(ra)) / 2 * 3600 + 1.0, rel=1e-6)


@pytest.mark.parametrize("kind", ["died", "lost", "disk"])
def test_what_comes_from_outside_leaves_the_catalogue_as_it_is(
    tmp_path, undisturbed, kind, monkeypatch
):
    monkeypatch.setattr(master, "PAUSE", 0.0)
    state = row_of_stars(STARS)
    run(tmp_path, state, Here(slots=3, seed=5, breaks={"1": [kind], "3": [kind]}))
    same(state, undisturbed[0])
    assert sorted(decisions(tmp_path)) == [("1", kind, "again"), ("3", kind, "again")]


def test_another_seed_then_a_smaller_patch_then_a_flag(tmp_path):
    """Source 4 cannot be fitted; its neighbours can."""
    state = row_of_stars(STARS)
    engine = Here({"trouble": {"source 4": "raise"}})
    run(tmp_path, state, engine)
    assert np.flatnonzero(state.failed).tolist() == [4]
    assert flags.decode(state.flags[4]) == ["failed"]
    assert (np.delete(state.iterations, 4) >= state.options.target).all()
    found = decisions(tmp_path)
    name = found[0][0]
    assert found[:2] == [(name, "raised", "other seed"), (name, "raised", "cut in two")]
    assert found[-1][1:] == ("raised", "flagged")
    assert all(p.startswith(name) for p, _, _ in found)
    seeds = [m["seed"] for n, m in engine.calls if n == name]
    assert len(seeds) == 2 and seeds[0] != seeds[1]
    shown = read_snapshot(tmp_path)
    assert shown.sources == {"done": STARS - 1, "failed": 1, "waiting": 0}
    assert shown.patches["failed"] == 1 and shown.patches["cut"] >= 1
    # the source that fails is held by its neighbours' patches
    assert any(s["number"] == 4 for _, m in engine.calls for s in m["fixed"])
    # and with the cause gone it is fitted after all
    fresh = row_of_stars(STARS)
    ledger = Ledger(tmp_path, fresh, 1)
    assert ledger.retry_failed() == [4]
    ledger.close()
    again = row_of_stars(STARS)
    assert run(tmp_path, again, Here()).end == "finished"
    assert not again.failed.any() and again.counts["done"] == STARS and again.flags[4] == 0


def test_a_patch_too_large_for_the_memory_is_cut_until_it_fits(tmp_path):
    state = row_of_stars(STARS)
    run(tmp_path, state, Here({"trouble": {f"source {i}": "crowd" for i in range(5)}}))
    assert not state.failed.any() and (state.iterations >= state.options.target).all()
    assert {d[1:] for d in decisions(tmp_path)} == {("memory", "cut in two")}
    # the second part is given what the first has found
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as db:
        after = db.execute("SELECT name, after FROM patches WHERE after != ''").fetchall()
    assert after and all(name[:-1] + "a" == first for name, first in after)


def test_values_that_are_not_finite_are_not_taken_over(tmp_path):
    state = row_of_stars(STARS)
    run(tmp_path, state, Here({"trouble": {"source 0": "nan"}}))
    assert np.isfinite(state.parameters).all() and np.flatnonzero(state.failed).tolist() == [0]
    assert {d[1] for d in decisions(tmp_path)} == {"nonfinite"}


def test_a_hang_is_flagged_and_ends_the_claim_of_identity(tmp_path, caplog):
    state = row_of_stars(4)
    engine = ChildEngine(Work("superscene_jobs", {"trouble": {"0": "hang"}}), limit=2.0)
    run(tmp_path, state, engine)
    names = {tuple(flags.decode(state.flags[i])) for i in np.flatnonzero(state.failed)}
    assert names == {("failed", "timeout")}
    assert not read_snapshot(tmp_path).identical
    assert "another run may give another catalogue" in caplog.text
    assert decisions(tmp_path) == [("0", "timeout", "flagged")]


def test_processes_that_die_and_run_out_of_memory(tmp_path, undisturbed):
    """Once each: from outside, as far as one can know."""
    work = Work("superscene_jobs", {"folder": str(tmp_path),
                                    "trouble": {"1": "once die", "2": "once exit"}})  # fmt: skip
    state = row_of_stars(STARS)
    run(tmp_path / "run", state, ChildEngine(work, workers=2))
    same(state, undisturbed[0])
    assert {d[1:] for d in decisions(tmp_path / "run")} == {("died", "again")}


def test_a_disk_that_stays_full_stops_the_run_which_goes_on_later(
    tmp_path, undisturbed, monkeypatch
):
    monkeypatch.setattr(master, "PAUSE", 0.0)
    state = row_of_stars(STARS)
    done = run(tmp_path, state, Here({"trouble": {"2": "full"}}))
    assert done.end == "stopped" and "No space left" in done.halt
    shown = read_snapshot(tmp_path)
    assert shown.state == "stopped" and "could not be written" in shown.message
    assert shown.sources["failed"] == 0
    state = row_of_stars(STARS)
    assert run(tmp_path, state, Here()).end == "finished"
    same(state, undisturbed[0])


def test_a_ledger_that_cannot_be_written_stops_the_run(tmp_path, undisturbed, monkeypatch):
    count, real = [0], Ledger.end

    def full(self, *args):
        count[0] += 1
        if count[0] > 3:
            raise OSError(errno.ENOSPC, "ledger not written (database or disk is full)")
        real(self, *args)

    monkeypatch.setattr(Ledger, "end", full)
    done = run(tmp_path, row_of_stars(STARS), Here(slots=3))
    assert done.end == "stopped" and "disk is full" in done.halt
    monkeypatch.setattr(Ledger, "end", real)
    state = row_of_stars(STARS)
    assert run(tmp_path, state, Here()).end == "finished"
    same(state, undisturbed[0])


@pytest.mark.parametrize("level", [SOON, NOW])
def test_stopping_and_going_on(tmp_path, undisturbed, level):
    asked, sessions = [NO], 0

    def soon(patch, answer, seconds):
        if sessions % 2 == 0:
            asked[0] = level

    while True:
        state, asked[0] = row_of_stars(STARS), NO
        engine = Here(slots=3, seed=sessions)
        done = run(tmp_path, state, engine, stopping=lambda: asked[0], on_done=soon)
        if done.end == "finished":
            break
        shown = read_snapshot(tmp_path)
        assert shown.state == "stopped" and shown.message == "stopped: asked to"
        assert not state.locks.locked.any() and not state.active
        if level == SOON:
            assert len(engine.calls) <= 3  # what was running has ended, nothing more was begun
        sessions += 1
    assert sessions >= 1
    same(state, undisturbed[0])


def test_two_requests(caplog):
    before = signal.getsignal(signal.SIGINT)
    with Interrupts() as asked:
        assert asked.level == NO
        os.kill(os.getpid(), signal.SIGINT)
        assert asked.level == SOON and "once more: at once" in caplog.text
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert asked.level == NOW
    assert signal.getsignal(signal.SIGINT) is before


def start(folder, files, seconds, stars=STARS):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    context = json.dumps({"folder": str(files), "seconds": seconds})
    return subprocess.Popen(
        [sys.executable, superscene_run.__file__, str(folder), str(stars), context],
        env=environment, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_a_master_killed_at_random_moments_and_resumed(tmp_path, undisturbed):
    """The same catalogue, no patch lost, and none whose end was noted is worked on again."""
    rng, kills = random.Random(4), 0
    folder, files = tmp_path / "run", tmp_path / "files"
    files.mkdir()

    def worked():
        return sum(len(p.read_text().split()) for p in files.glob("patch*.txt"))

    while True:
        process = start(folder, files, 0.02)
        # some die while they start, the others within or after some patches
        wanted = worked() + rng.randint(0, 3)
        while process.poll() is None and kills < KILLS and worked() < wanted:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.04))
        if kills < KILLS and process.poll() is None:
            process.kill()
            kills += 1
        process.wait()
        text = process.stderr.read().decode()
        process.stderr.close()
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, text
    assert kills >= KILLS // 2
    state = row_of_stars(STARS)
    ledger = Ledger(folder, state, 1)
    assert set(ledger.counts()) == {"done"}
    ledger.close()
    same(state, undisturbed[0])
    patches = {p.stem: p.read_text().split() for p in files.glob("patch*.txt")}
    assert len(patches) == len(undisturbed[1].calls)
    # a patch that was running when the master died is worked on again, with the same seed
    assert all(len(set(seeds)) == 1 for seeds in patches.values())
    assert sum(len(seeds) - 1 for seeds in patches.values()) <= 3 * kills
    assert sorted(p.name for p in folder.iterdir()) == ["ledger.db", "status.json"]


def test_ctrl_c_in_another_process(tmp_path):
    process = start(tmp_path / "run", tmp_path, 0.1)
    until = time.monotonic() + 30
    while not list(tmp_path.glob("patch*.txt")) and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    process.stderr.close()
    assert read_snapshot(tmp_path / "run").message == "stopped: asked to"
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["ledger.db", "status.json"]


def test_many_patches_at_once(tmp_path):
    state = lonely_stars(300, target=5)
    engine = Here(slots=40)
    assert run(tmp_path, state, engine).end == "finished"
    assert len(engine.calls) == 300 and state.counts["done"] == 300
