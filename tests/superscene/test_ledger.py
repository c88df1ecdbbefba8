"""The ledger, and what is decided about failures."""

import errno
import resource
import signal

import numpy as np
import pytest
from scene_case import row_of_stars

from jaxpho.errors import InputError
from jaxpho.fit import flags
from jaxpho.superscene import faults, ledger
from jaxpho.superscene.ledger import Ledger, Outcome
from jaxpho.superscene.policy import halves


def open_ledger(folder, state=None, **kwargs):
    return Ledger(folder, state or row_of_stars(), seed=1, **kwargs)


def test_what_was_checked_in_is_there_after_reopening(tmp_path):
    state = row_of_stars()
    book = open_ledger(tmp_path, state)
    assert not book.resumed and book.next_round() == (0, 0)
    patches = state.plan(0, 0)
    book.add(patches)
    first = patches[0]
    latest = np.arange(3 * len(first.active), dtype=float).reshape(-1, 3) + 0.1
    blocks = [np.eye(3) * (k + 1) for k in range(len(first.active))]
    state.check_in(first, latest, blocks, [8] * len(first.active))
    book.end(first, ledger.DONE, Outcome(2, 77, 1.5, 900, 12.5, "fine"))
    book.decision(patches[-1], "died", faults.AGAIN, "killed")
    book.close()
    fresh = row_of_stars()
    again = open_ledger(tmp_path, fresh)
    assert again.resumed and again.next_round() == (1, len(patches))
    for name in ("parameters", "covariance", "iterations", "patches", "flags", "failed"):
        np.testing.assert_array_equal(getattr(fresh, name), getattr(state, name), err_msg=name)
    left = again.open_patches()
    assert [o.patch for o in left] == patches[1:]
    assert [o.failures for o in left] == [[]] * (len(left) - 1) + [["died"]]
    assert again.counts() == {"done": 1, "open": len(patches) - 1}
    assert again.patches_of(first.active[0]) == ["0"]
    # the plan of the next round is that of the uninterrupted run
    assert fresh.plan(1, 9) == state.plan(1, 9)
    again.close()


def test_a_transaction_is_all_or_nothing(tmp_path):
    state = row_of_stars()
    book = open_ledger(tmp_path, state)
    patches = state.plan(0, 0)
    book.add(patches)
    with pytest.raises(KeyboardInterrupt), book.transaction():
        book.end(patches[0], ledger.DONE, Outcome())
        raise KeyboardInterrupt
    assert book.counts() == {"open": len(patches)}
    book.close()


@pytest.mark.parametrize(("local", "mode"), [(True, "wal"), (False, "delete")])
def test_the_journal_suits_the_disk(tmp_path, local, mode):
    book = open_ledger(tmp_path, local=local)
    assert book.db.execute("PRAGMA journal_mode").fetchall() == [(mode,)]
    book.close()
    assert [p.name for p in tmp_path.iterdir()] == ["ledger.db"]


def test_another_run_is_not_resumed(tmp_path):
    open_ledger(tmp_path).close()
    with pytest.raises(InputError, match="begun with another catalogue"):
        open_ledger(tmp_path, row_of_stars(5))
    with pytest.raises(InputError, match="begun with another catalogue"):
        open_ledger(tmp_path, row_of_stars(max_active=2))
    wider = row_of_stars()
    wider.radius = wider.radius * 1.01
    with pytest.raises(InputError, match=r"another mean radius of influence \(1.0, expected 1.01"):
        open_ledger(tmp_path, wider)
    wider.radius = wider.radius / 1.01 * (1 + 1e-6)  # measured on another machine
    open_ledger(tmp_path, wider).close()
    with pytest.raises(InputError, match=r"another seed \(1, expected 2\)"):
        Ledger(tmp_path, row_of_stars(), seed=2)
    (tmp_path / "ledger.db").write_text("no database" * 200)
    with pytest.raises(InputError, match="expected a ledger"):
        open_ledger(tmp_path)


def test_a_full_disk_is_an_error_of_the_disk_and_loses_nothing(tmp_path):
    """The largest size of a file stands for the end of the disk."""
    state = row_of_stars()
    book = open_ledger(tmp_path, state, local=False)
    patches = state.plan(0, 0)
    book.add(patches)
    pages = book.db.execute("PRAGMA page_count").fetchone()[0]
    book.db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(OSError, match="ledger not written") as caught:
        book.decision(patches[0], "raised", "again", "x" * 100_000)
    assert caught.value.errno == errno.ENOSPC
    assert book.counts() == {"open": len(patches)}
    book.db.execute(f"PRAGMA max_page_count = {pages + 1000}")
    book.decision(patches[0], "raised", "again", "x")
    # and a limit of the system, which SQLite knows as another error
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, before[1]))
    try:
        with pytest.raises(OSError, match="ledger not written"):
            book.decision(patches[0], "raised", "again", "y" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert book.open_patches()[0].failures == ["raised"]
    book.close()


def test_failed_sources_can_be_tried_again(tmp_path):
    state = row_of_stars()
    book = open_ledger(tmp_path, state)
    patches = state.plan(0, 0)
    book.add(patches)
    bad, fine = patches[0], patches[1]
    state.give_up(bad.active, flags.bit("failed"))
    book.end(bad, ledger.FAILED, Outcome(message="singular"))
    state.check_in(fine, np.zeros((len(fine.active), 3)))
    book.end(fine, ledger.DONE, Outcome())
    assert state.counts["failed"] == len(bad.active)
    assert book.retry_failed() == sorted(bad.active)
    book.close()
    fresh = row_of_stars()
    again = open_ledger(tmp_path, fresh)
    assert not fresh.failed.any() and (fresh.flags == 0).all()
    assert again.retry_failed() == []
    again.close()


def test_parts_come_after_each_other_in_the_ledger(tmp_path):
    state = row_of_stars()
    book = open_ledger(tmp_path, state)
    patches = state.plan(0, 0)
    book.add(patches)
    book.end(patches[0], ledger.CUT, Outcome())
    book.add(halves(patches[0], state.graph))
    assert [o.patch.name for o in book.open_patches()][:2] == ["0a", "0b"]
    assert book.next_round() == (1, len(patches))  # parts take no numbers
    book.close()


@pytest.mark.parametrize(
    ("kind", "before", "active", "decision"),
    [
        ("raised", [], 3, "other seed"),
        ("raised", ["raised"], 3, "cut in two"),
        ("nonfinite", ["raised"], 3, "cut in two"),
        ("nonfinite", ["died"], 1, "other seed"),
        ("raised", ["raised"], 1, "flagged"),
        ("died", [], 3, "again"),
        ("died", ["died"], 3, "cut in two"),
        ("died", ["died"], 1, "flagged"),
        ("memory", [], 3, "cut in two"),
        ("memory", [], 1, "flagged"),
        ("timeout", [], 3, "flagged"),
        ("disk", [], 3, "again"),
        ("disk", ["disk", "disk"], 3, "stop the run"),
        ("lost", [], 1, "again"),
        ("lost", ["lost", "lost"], 1, "stop the run"),
    ],
)
def test_decisions(kind, before, active, decision):
    assert faults.decide(kind, before, active) == decision


def test_flags_of_what_is_given_up():
    assert flags.decode(faults.flags_of("raised", fitted=False)) == ["failed"]
    assert flags.decode(faults.flags_of("timeout", fitted=True)) == ["no_convergence", "timeout"]


def test_seeds_depend_on_run_patch_and_attempt():
    seeds = [faults.seed_of(*a) for a in ((0, "1", 0), (1, "1", 0), (0, "2", 0), (0, "1", 1))]
    assert len(set(seeds)) == 4 and all(0 <= s < 2**31 for s in seeds)
    assert faults.seed_of(0, "1", 0) == seeds[0] == 1241064329
