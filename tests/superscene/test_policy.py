"""Rounds of patches: properties that hold for any field."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxpho.data.catalog import Peak
from jaxpho.errors import InputError
from jaxpho.superscene.graph import overlap_graph
from jaxpho.superscene.policy import Patch, SceneOptions, halves
from jaxpho.superscene.state import new_state

DEC = -30.0
FEW = settings(max_examples=40, deadline=None)
options = st.builds(
    SceneOptions,
    target=st.integers(1, 60),
    per_patch=st.integers(1, 30),
    max_active=st.integers(1, 6),
    patch_radius=st.floats(0.5, 30),
    big_links=st.integers(1, 20),
)


def scene(seed, n, options, crowding=1.0, excluded=()):
    """A state of n random sources within an area that makes crowding neighbours each."""
    rng = np.random.default_rng(seed)
    side = np.sqrt(n / max(crowding, 0.01)) * 4.0
    x, y = rng.uniform(0, side, (2, n)) / 3600
    # sizes as they are: most small, some large
    radius = 2.0 * rng.pareto(2.5, n) + 1.0
    peaks = [
        Peak(f"s{i}", "point", 10 + x[i] / np.cos(np.radians(DEC)), DEC + y[i],
             flux={("flux", "g"): float(rng.integers(1, 5))})
        for i in range(n)
    ]  # fmt: skip
    return new_state(peaks, ["g"], radius, options, excluded=excluded)


fields = st.builds(
    scene, st.integers(0, 2**32), st.integers(1, 60), options, st.floats(0.05, 4.0)
)  # fmt: skip


def play(state, order=None, most=10_000):
    """Sample everything; patches of a round end in an order of `order`'s choosing."""
    rounds, first = [], 0
    while patches := state.plan(len(rounds), first):
        rounds.append(patches)
        first += len(patches)
        for patch in patches:
            state.check_out(patch)
        for patch in order(patches) if order else patches:
            # a draw depends on the neighbours' values: the sum stands for any function of them
            held = np.nansum(state.parameters[patch.fixed])
            latest = [
                state.parameters[i] + np.sin(held + i + len(patch.active)) for i in patch.active
            ]
            state.check_in(patch, latest)
            state.release(patch)
        assert len(rounds) < most
    return rounds


@FEW
@given(fields)
def test_every_source_reaches_its_target(state):
    play(state)
    assert (state.iterations >= state.options.target).all()
    assert state.counts == {"done": len(state), "failed": 0, "waiting": 0}


@FEW
@given(fields)
def test_patches_of_a_round_neither_share_nor_border_sources(state):
    for patches in play(state):
        used = set()
        for patch in patches:
            mine = set(patch.active) | {i for i in patch.fixed if not state.big[i]}
            assert not mine & used
            used |= mine
        # a big source that is held may be so in several patches, but then nobody fits it
        fitted = {i for patch in patches for i in patch.active}
        assert not fitted & {i for patch in patches for i in patch.fixed}


@FEW
@given(fields)
def test_limits_and_borders(state):
    for patch in [p for patches in play(state) for p in patches]:
        assert 1 <= len(patch.active) <= state.options.max_active
        assert len(set(patch.active)) == len(patch.active)
        far = state.graph.distance(patch.active[0], patch.active)
        assert far.max() <= state.options.patch_radius or len(patch.active) == 1
        touched = {int(j) for i in patch.active for j in state.graph.neighbours(i)}
        assert set(patch.fixed) == touched - set(patch.active)
        assert len(patch.active) == 1 or not state.big[patch.active].any()
        assert 1 <= patch.iterations <= state.options.target


@FEW
@given(fields, st.randoms(use_true_random=False))
def test_the_order_of_completion_does_not_matter(state, random):
    other = replace(state, **{k: getattr(state, k).copy() for k in
                              ("parameters", "iterations", "patches", "flags", "failed")},
                    active=set())  # fmt: skip
    first = play(state)
    second = play(other, lambda patches: random.sample(patches, len(patches)))
    assert first == second
    np.testing.assert_array_equal(state.parameters, other.parameters)


@FEW
@given(fields)
def test_the_plan_depends_on_iterations_alone(state):
    """So that a state that comes from disk gives the same schedule."""
    first = play(state)
    again = replace(state, iterations=state.iterations * 0, active=set())
    assert play(again) == first


def test_sources_without_neighbours_take_the_target_at_once():
    lonely = new_state(
        [Peak(i, "point", 10 + i, 0.0) for i in range(3)], ["g"], [1.0] * 3,
        SceneOptions(target=100, per_patch=10),
    )  # fmt: skip
    assert [(p.active, p.iterations) for p in lonely.plan(0, 0)] == [
        ([0], 100), ([1], 100), ([2], 100),
    ]  # fmt: skip


def test_seeds_come_by_iterations_then_brightness_then_index():
    flux = [1.0, 3.0, np.nan, 3.0]
    peaks = [Peak(i, "point", 10 + i, 0.0, flux={("flux", "g"): f}) for i, f in enumerate(flux)]
    state = new_state(peaks, ["g"], [1.0] * 4, SceneOptions(target=5))
    assert [p.active for p in state.plan(0, 0)] == [[1], [3], [0], [2]]
    state.iterations[:] = [1, 2, 1, 0]
    assert [(p.name, p.active, p.iterations) for p in state.plan(3, 7)] == [
        ("7", [3], 5), ("8", [0], 4), ("9", [2], 4), ("10", [1], 3),
    ]  # fmt: skip


def test_a_source_at_the_edge_is_the_centre_of_another_patch():
    """Five in a row, two neighbours each: the limit of three leaves the outer ones fixed."""
    peaks = [Peak(i, "point", 10 + i * 1.5 / 3600, 0.0) for i in range(5)]
    state = new_state(
        peaks, ["g"], [1.0] * 5, SceneOptions(target=1, per_patch=1, max_active=3),
        brightness=[0, 0, 1, 0, 0],
    )  # fmt: skip
    (first,) = state.plan(0, 0)
    assert first.active == [2, 1, 3] and first.fixed == [0, 4]
    state.check_in(first, np.zeros((3, 3)))
    second = state.plan(1, 1)
    # their own neighbours join where they may; what is done and farther does not
    assert [(p.active, p.fixed) for p in second] == [([0, 1], [2]), ([4], [3])]


def test_a_big_source_is_held_by_many_and_fitted_alone():
    around = np.array([[-3, 0], [3, 0], [0, 3], [0, -3]]) / 3600
    peaks = [Peak(0, "point", 10.0, 0.0)]
    peaks += [Peak(k + 1, "point", 10 + dx, dy) for k, (dx, dy) in enumerate(around)]
    state = new_state(
        peaks, ["g"], [4.0] + [0.5] * 4, SceneOptions(target=1, per_patch=1, big_links=3),
        brightness=[9, 1, 1, 1, 1],
    )  # fmt: skip
    (alone,) = state.plan(0, 0)
    assert alone.active == [0] and alone.fixed == [1, 2, 3, 4]
    state.check_in(alone, np.zeros((1, 3)))
    small = state.plan(1, 1)
    assert [(p.active, p.fixed) for p in small] == [([i], [0]) for i in range(1, 5)]
    for patch in small:
        state.check_out(patch)
    assert state.status(0) == "done" and state.status(1) == "active"


def test_checkout_refuses_what_is_in_use_and_checkin_what_is_no_draw():
    peaks = [Peak(i, "point", 10 + i * 1.5 / 3600, 0.0) for i in range(3)]
    state = new_state(peaks, ["g"], [1.0] * 3, SceneOptions(target=5, max_active=1))
    patch = Patch("0", 0, 0, [0], [1], 5)
    state.check_out(patch)
    assert [state.status(i) for i in range(3)] == ["active", "bordering", "waiting"]
    with pytest.raises(RuntimeError, match="source 1 is in use"):
        state.check_out(Patch("1", 0, 1, [2], [1], 5))
    before = state.parameters.copy()
    with pytest.raises(ValueError, match="not finite"):
        state.check_in(patch, [[1.0, np.nan, 3.0]])
    with pytest.raises(ValueError, match="expected 3 parameters"):
        state.check_in(patch, [[1.0]])
    np.testing.assert_array_equal(state.parameters, before)
    assert state.iterations[0] == 0
    state.check_in(patch, [[1.0, 2.0, 3.0]], covariance=[np.eye(3)], flags=[4])
    state.release(patch)
    assert state.status(0) == "done" and state.flags[0] == 4
    state.give_up([1], 1)
    assert state.status(1) == "failed" and state.plan(0, 0)[0].active == [2]


def test_failed_sources_are_held_and_not_fitted():
    state = scene(3, 40, SceneOptions(target=3, per_patch=1), 3.0, excluded=[0, 7])
    rounds = play(state)
    active = {i for patches in rounds for p in patches for i in p.active}
    assert not active & {0, 7} and (state.iterations[[0, 7]] == 0).all()
    assert state.counts["failed"] == 2 and state.counts["waiting"] == 0


@FEW
@given(st.integers(0, 2**32), st.integers(2, 9))
def test_halves_share_a_patch_between_them(seed, n):
    state = scene(seed, 12, SceneOptions(), 4.0)
    active = np.random.default_rng(seed).permutation(12)[:n].tolist()
    patch = Patch("5", 0, 0, active, state.graph.border(active), 7)
    one, two = halves(patch, state.graph)
    assert (one.name, two.name, one.after, two.after) == ("5a", "5b", "", "5a")
    assert sorted(one.active + two.active) == sorted(active)
    assert abs(len(one.active) - len(two.active)) <= 1
    for part in (one, two):
        # nobody but the patch's own sources and those that it borders on
        assert set(part.fixed) <= set(patch.active) | set(patch.fixed)


@pytest.mark.parametrize(
    ("ra", "radius", "words"),
    [([1.0, 2.0], [1.0], "of one length"), ([1.0, np.nan], [1.0, 1.0], "source 1 has ra = nan"),
     ([1.0, 2.0], [1.0, -1.0], "radius -1")],
)  # fmt: skip
def test_wrong_input(ra, radius, words):
    with pytest.raises(InputError, match=words):
        overlap_graph(ra, [0.0, 0.0], radius)
