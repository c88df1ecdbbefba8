"""Chains that were stopped go on to the very draws of those that were not."""

import dataclasses
import logging

import jax
import numpy as np
import pytest
from sample_case import case_of, mode_of

import jaxpho.fit.chains as module
from jaxpho.fit.checkpoint import MemoryCheckpoint, fingerprint
from jaxpho.fit.draws import STATISTICS
from jaxpho.fit.kernels import CHUNK
from jaxpho.fit.options import SampleOptions
from jaxpho.fit.posterior import DEFAULT_STATIC
from jaxpho.fit.sample import sample
from jaxpho.output.checkpoint import STATE, FolderCheckpoint

OPTIONS = SampleOptions(num_warmup=2 * CHUNK, num_samples=CHUNK, max_rounds=3, min_ess=1e9)


@pytest.fixture
def eventful(monkeypatch):
    """Every phase, in few iterations: the warm-up, two trials, a round done again, three rounds."""
    monkeypatch.setattr(module, "TRIALS", 2)
    monkeypatch.setattr(module, "SHRINK_BELOW", 2.0)
    monkeypatch.setattr(module, "DIVERGENT", -1.0)
    monkeypatch.setattr(module, "REDOS", 1)
    monkeypatch.setattr(module, "SHORT_ENOUGH", 10.0)


CHUNKS = 2 + 2 + 1 + 3


class Stopping:
    """A checkpoint during whose n-th save the process is stopped; nothing of it is kept."""

    def __init__(self, inner, at):
        self.inner, self.at, self.phases, self.chunks = inner, at, [], 0

    def load(self, mark):
        return self.inner.load(mark)

    def save(self, mark, state, chunks, force):
        self.phases.append(module.json.loads(str(state["progress"]))["phase"])
        self.chunks = len(chunks)
        if len(self.phases) == self.at:
            raise KeyboardInterrupt
        self.inner.save(mark, state, chunks, force)


def draw(checkpoint=None, options=OPTIONS, seed=0, problem=None, kind="galaxy", mode=None, **more):
    case = case_of(kind)
    mode, problem = mode or mode_of(kind), problem or case.problem
    key = jax.random.PRNGKey(seed)
    return sample(key, mode, problem, options, DEFAULT_STATIC, checkpoint=checkpoint, **more)


def assert_same(found, expected):
    for field in dataclasses.fields(expected):
        a, b = getattr(found, field.name), getattr(expected, field.name)
        pairs = [(a[k], b[k]) for k in STATISTICS] if isinstance(b, dict) else [(a, b)]
        for x, y in pairs:
            np.testing.assert_array_equal(x, y, err_msg=field.name)


def test_stopped_anywhere(eventful, tmp_path):
    """Once in every chunk of every phase, with a place of its own for each interruption."""
    watched = Stopping(MemoryCheckpoint(), None)
    expected = draw(watched)
    assert watched.phases == ["warm-up", *["trial"] * 3, *["draw"] * 3, "done"]
    assert (expected.rounds, expected.redone) == (3, 1)
    assert expected.warmup.shape[1] == 5 * CHUNK and expected.theta.shape[1] == 3 * CHUNK
    assert_same(draw(), expected)
    for at in range(1, CHUNKS + 1):
        folder = tmp_path / str(at)
        stopped = Stopping(FolderCheckpoint(folder, every=0.0), at)
        with pytest.raises(KeyboardInterrupt):
            draw(stopped)
        resumed = Stopping(FolderCheckpoint(folder, every=0.0), None)
        assert_same(draw(resumed), expected)
        # nothing but the chunk in which it was stopped is computed again
        assert len(resumed.phases) == CHUNKS + 1 - at and resumed.chunks == CHUNKS
    # what is finished is read, not drawn
    again = Stopping(FolderCheckpoint(folder), None)
    assert_same(draw(again), expected)
    assert again.phases == []


def test_stopped_again_and_again(eventful, tmp_path):
    expected = draw()
    for _ in range(CHUNKS - 1):
        with pytest.raises(KeyboardInterrupt):
            draw(Stopping(FolderCheckpoint(tmp_path, every=0.0), 2))
    assert_same(draw(FolderCheckpoint(tmp_path)), expected)


def test_stopped_while_files_are_written(tmp_path, monkeypatch):
    """Between a chunk and the state that counts it, and where states are rarely saved."""
    import jaxpho.output.checkpoint as files

    expected, write = draw(), files._write

    def stop(path, arrays):
        if path.name == STATE and (tmp_path / "draws000002.npz").exists():
            raise KeyboardInterrupt
        write(path, arrays)

    monkeypatch.setattr(files, "_write", stop)
    with pytest.raises(KeyboardInterrupt):
        draw(FolderCheckpoint(tmp_path, every=0.0))
    monkeypatch.setattr(files, "_write", write)
    assert_same(draw(FolderCheckpoint(tmp_path)), expected)
    seldom = FolderCheckpoint(tmp_path / "other", every=1e9)
    with pytest.raises(KeyboardInterrupt):
        draw(Stopping(seldom, 3))
    assert not seldom.folder.exists()
    assert_same(draw(seldom), expected)
    assert [p.name for p in seldom.folder.glob("draws*.npz")] == ["draws000000.npz"]


def test_another_problem_discards_what_was_saved(tmp_path, caplog):
    quick = dataclasses.replace(OPTIONS, max_rounds=1)
    expected = draw(None, quick)
    problem = case_of("galaxy").problem
    patch = problem.patch._replace(data=problem.patch.data + 0.01)
    others = (
        {"seed": 1},
        {"options": dataclasses.replace(quick, target_accept=0.7)},
        {"problem": problem._replace(patch=patch)},
        {"covariance": np.eye(case_of("galaxy").n)},
    )
    for other in others:
        place = FolderCheckpoint(tmp_path, every=0.0)
        with pytest.raises(KeyboardInterrupt):
            draw(Stopping(place, 3), **{"options": quick} | other)
        caplog.clear()
        with caplog.at_level(logging.INFO, "jaxpho"):
            assert_same(draw(FolderCheckpoint(tmp_path), quick), expected)
        assert "other data, options or versions and are discarded" in caplog.text
    # how often states are saved says nothing about the chain
    rarely = dataclasses.replace(quick, save_every=1e3)
    again = Stopping(FolderCheckpoint(tmp_path), None)
    assert_same(draw(again, rarely), expected)
    assert again.phases == []


@pytest.mark.parametrize("damage", ["state", "chunk", "missing"])
def test_damaged_files_are_discarded(tmp_path, caplog, damage):
    quick = dataclasses.replace(OPTIONS, max_rounds=1)
    with pytest.raises(KeyboardInterrupt):
        draw(Stopping(FolderCheckpoint(tmp_path, every=0.0), 3), quick)
    victim = tmp_path / (STATE if damage == "state" else "draws000001.npz")
    if damage == "missing":
        victim.unlink()
    else:
        victim.write_bytes(victim.read_bytes()[:200])
    with caplog.at_level(logging.WARNING, "jaxpho"):
        assert_same(draw(FolderCheckpoint(tmp_path), quick), draw(None, quick))
    assert "cannot be read and are discarded" in caplog.text


def test_a_mode_found_otherwise_does_not_matter(tmp_path):
    """The whitening is that of the chains that were saved, however the mode comes out now."""
    expected, mode = draw(), mode_of("galaxy")
    with pytest.raises(KeyboardInterrupt):
        draw(Stopping(FolderCheckpoint(tmp_path, every=0.0), 4))
    other = dataclasses.replace(mode, z=mode.z + 1e-6, curvature=mode.curvature * 1.001)
    found = draw(FolderCheckpoint(tmp_path), mode=other)
    np.testing.assert_array_equal(found.theta, expected.theta)


def test_fingerprints():
    x = np.arange(6.0)
    known = fingerprint(x, "a")
    assert known == fingerprint(x.copy(), "a")
    others = (x.astype(np.float32), "a"), (x.reshape(2, 3), "a"), (x, "b"), (x + 1e-9, "a")
    found = {fingerprint(*other) for other in (*others, (x, None), ((x, "a"),), ([x], "a"))}
    assert len(found) == 7 and known not in found


def test_a_full_disk_costs_no_draws(tmp_path, caplog):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with caplog.at_level(logging.WARNING, "jaxpho"):
        found = draw(FolderCheckpoint(blocked / "folder", every=0.0))
    assert_same(found, draw())
    assert caplog.text.count("state is not saved") == 1


def test_gradients_end_with_the_budget():
    """After the chunk that passes it, wherever that is, and with draws in any case."""
    whole = draw()
    spent = [0]
    for part in (whole.warmup_statistics, whole.statistics):
        spent += list(part["n_steps"].sum(0).reshape(-1, CHUNK).sum(1))
    for limit in (1, sum(spent[:4]) + 1):
        some = draw(options=dataclasses.replace(OPTIONS, max_gradients=int(limit)))
        assert some.over_budget and not whole.over_budget
        assert some.theta.shape[1] == CHUNK if limit == 1 else 2 * CHUNK
        if limit > 1:
            np.testing.assert_array_equal(some.theta, whole.theta[:, : some.theta.shape[1]])
    total = whole.gradients + whole.warmup_gradients
    ample = dataclasses.replace(OPTIONS, max_gradients=total)
    assert_same(draw(options=ample), whole)


def test_a_round_with_divergences_is_done_again(monkeypatch, caplog):
    """With a smaller step, a few times; its draws join the warm-up, and nothing else changes."""
    monkeypatch.setattr(module, "DIVERGENT", -1.0)
    monkeypatch.setattr(module, "TRIALS", 0)
    monkeypatch.setattr(logging.getLogger("jaxpho"), "propagate", True)
    with caplog.at_level(logging.INFO, "jaxpho"):
        found = draw(options=dataclasses.replace(OPTIONS, max_rounds=2))
    said = {m for m in caplog.messages if "the round is done again with a smaller step" in m}
    assert len(said) == module.REDOS
    monkeypatch.setattr(module, "DIVERGENT", 1.0)
    plain = draw(options=dataclasses.replace(OPTIONS, max_rounds=2))
    assert (found.redone, plain.redone, found.rounds, plain.rounds) == (module.REDOS, 0, 2, 2)
    assert found.step_size == pytest.approx(plain.step_size * module.SHRINK**module.REDOS)
    # the first of the rounds that were thrown away is the one that stands without them
    extra = found.warmup[:, plain.warmup.shape[1] :]
    assert extra.shape[1] == module.REDOS * CHUNK
    np.testing.assert_array_equal(extra[:, :CHUNK], plain.theta[:, :CHUNK])
    used = found.gradients + found.warmup_gradients
    steps = [part["n_steps"].sum() for part in (found.statistics, found.warmup_statistics)]
    assert used == sum(steps)
