"""Which patches are fitted next: rounds of patches that neither share nor border sources.

A round is planned from the state of the catalogue at its beginning, and by nothing else, so that
its patches are the same however many workers there are and in whichever order they finish.
docs/superscene.md has the pictures.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np

from jaxpho.schema import option
from jaxpho.superscene.graph import OverlapGraph


@dataclass
class SceneOptions:
    """How patches are chosen, and how often a source is sampled."""

    target: int = option(100, "iterations wanted of every source, over all its patches", ge=1)
    per_patch: int = option(
        25,
        "iterations of a patch that has neighbours outside; one without takes the target at once",
        ge=1,
    )
    max_active: int = option(12, "largest number of sources fitted jointly", ge=1)
    patch_radius: float = option(
        15.0, "largest distance of a patch's active sources from its first", unit="arcsec", gt=0
    )
    big_links: int | None = option(
        None,
        "a source that overlaps more others than this is big: fixed in the patches of the others, "
        "and fitted in patches of its own (default: twice max_active)",
        ge=1,
    )
    optimize: bool = option(
        False, "sources with neighbours outside their patch are optimised once before any is "
        "sampled, so that draws begin next to neighbours that are known",
    )  # fmt: skip
    neighbours: bool = option(True, "overlapping sources outside a patch are modelled with it")
    draws: bool = option(True, "patches are sampled; otherwise an iteration is an optimisation")


OPTIMUM = 0
"""Iterations of a patch that is only optimised, before the sampling begins."""


@dataclass
class Patch:
    """Sources that are fitted together, and those that are held.

    Attributes
    ----------
    name : unique in the run; parts of a patch that was cut have a letter more.
    round, position : number of its round, and its place there.
    active : sources that are fitted; the first is the one that the patch has grown from.
    fixed : sources that overlap an active one: modelled at their latest values.
    iterations : that the active sources are sampled; `OPTIMUM` for none.
    after : name of the patch that must have ended before, or "".
    """

    name: str
    round: int
    position: int
    active: list[int]
    fixed: list[int]
    iterations: int
    after: str = ""


class Locks:
    """Which sources are in use by the patches of a round.

    A patch locks its active sources and those that border on them. Big sources that are fixed are
    not locked: nobody changes them in that round, because their neighbour is locked.
    """

    def __init__(self, graph: OverlapGraph, big: np.ndarray):
        self.graph, self.big = graph, big
        self.locked = np.zeros(len(graph), bool)
        self.near = np.zeros(len(graph), np.int64)

    def free(self, i: int) -> bool:
        """Whether a source may become active: neither it nor a neighbour is in use."""
        return not self.locked[i] and self.near[i] == 0

    def take(self, active, fixed) -> None:
        """Lock the sources of a patch."""
        self._change(active, fixed, True)

    def release(self, active, fixed) -> None:
        """The opposite of `take`."""
        self._change(active, fixed, False)

    def _change(self, active, fixed, value: bool) -> None:
        for i in [*active, *(j for j in fixed if not self.big[j])]:
            if self.locked[i] == value:
                raise RuntimeError(f"source {i} is {'' if value else 'not '}in use already")
            self.locked[i] = value
            self.near[self.graph.neighbours(i)] += 1 if value else -1


def big_sources(graph: OverlapGraph, options: SceneOptions) -> np.ndarray:
    """[n] bool: sources that overlap so many others that they cannot be in patches with them."""
    limit = 2 * options.max_active if options.big_links is None else options.big_links
    return graph.links > limit


def plan_round(
    number: int,
    first: int,
    graph: OverlapGraph,
    iterations: np.ndarray,
    brightness: np.ndarray,
    excluded: np.ndarray,
    big: np.ndarray,
    options: SceneOptions,
    unseen: np.ndarray | None = None,
) -> list[Patch]:
    """The patches of a round, as many as fit beside each other.

    Patches begin at the sources below the target that have the fewest iterations, of these the
    brightest, of these the first in the catalogue.

    Parameters
    ----------
    number : of the round.
    first : number that the names of the patches begin with.
    graph : OverlapGraph
    iterations : [n] so far.
    brightness : [n] for example the largest flux; not finite is faintest.
    excluded : [n] bool, sources that are not fitted (any more).
    big : [n] bool, see `big_sources`.
    options : SceneOptions
    unseen : [n] bool, sources that were in no patch so far. With `options.optimize` they come
        first, to be optimised.

    Returns
    -------
    list of Patch
        Empty when every source that is not excluded has its iterations.
    """
    locks = Locks(graph, big)
    below = (iterations < options.target) & ~excluded
    optimum = options.optimize and unseen is not None and bool((below & unseen).any())
    if optimum:
        below &= unseen
    due = np.flatnonzero(below)
    bright = np.nan_to_num(np.asarray(brightness, float), nan=-np.inf, posinf=np.inf)
    out: list[Patch] = []
    for seed in due[np.lexsort((due, -bright[due], iterations[due]))]:
        if not locks.free(seed):
            continue
        active = _grow(int(seed), graph, locks, below, excluded, options)
        fixed = graph.border(active) if options.neighbours else []
        locks.take(active, fixed)
        count = options.target - int(iterations[active].min())
        if fixed:
            count = OPTIMUM if optimum else min(count, options.per_patch)
        out.append(Patch(str(first + len(out)), number, len(out), active, fixed, count))
    return out


def _grow(seed, graph, locks, below, excluded, options) -> list[int]:
    """The sources that are fitted together with the seed, nearest first.

    Every neighbour of the seed joins, so that its blends are explored jointly; farther ones only
    where they are below the target themselves.
    """
    if locks.big[seed]:
        return [seed]
    direct = set(graph.neighbours(seed).tolist() if options.neighbours else [])
    active, seen, heap = [], {seed}, [(0.0, seed)]
    while heap and len(active) < options.max_active:
        _, i = heapq.heappop(heap)
        active.append(i)
        others = [j for j in graph.neighbours(i).tolist() if j not in seen]
        if not others:
            continue
        seen.update(others)
        for distance, j in zip(graph.distance(seed, others), others, strict=True):
            near = distance <= options.patch_radius and (below[j] or j in direct)
            if near and locks.free(j) and not excluded[j] and not locks.big[j]:
                heapq.heappush(heap, (float(distance), j))
    return active


def halves(patch: Patch, graph: OverlapGraph, neighbours: bool = True) -> list[Patch]:
    """A patch cut in two along its longest direction; the second part comes after the first.

    Each part holds the active sources of the other that overlap it, and with `neighbours` all
    that do.
    """
    members = sorted(patch.active)
    local = graph.points[members] - graph.points[members].mean(axis=0)
    _, _, axes = np.linalg.svd(local, full_matrices=False)
    # the sign of an axis is the library's choice
    axis = axes[0] * np.sign(axes[0][np.argmax(np.abs(axes[0]))])
    order = np.argsort(local @ axis, kind="stable")
    half = (len(members) + 1) // 2
    parts = [sorted(members[k] for k in part) for part in (order[:half], order[half:])]
    names = [patch.name + letter for letter in "ab"]
    whole = set(patch.active)
    borders = [[i for i in graph.border(p) if neighbours or i in whole] for p in parts]
    return [
        Patch(name, patch.round, patch.position, part, border, patch.iterations, after)
        for name, part, border, after in zip(names, parts, borders, ["", names[0]], strict=True)
    ]
