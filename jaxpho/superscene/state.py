"""The catalogue of a field while it is sampled: what is known of every source by now."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from jaxpho.core.sources import AUTO_TYPES
from jaxpho.data.catalog import Peak
from jaxpho.errors import InputError
from jaxpho.fit.options import FitOptions
from jaxpho.superscene.graph import OverlapGraph, overlap_graph
from jaxpho.superscene.layout import parameter_names, row_of
from jaxpho.superscene.policy import (
    OPTIMUM,
    Locks,
    Patch,
    SceneOptions,
    big_sources,
    plan_round,
)

STATUS = ("waiting", "bordering", "active", "done", "failed")


@dataclass
class CatalogState:
    """N sources with at most P parameters each.

    Attributes
    ----------
    peaks : the input catalogue.
    bands : of the run.
    graph : which sources overlap.
    radius : [N] radius of influence, arcsec.
    brightness : [N] decides which of the sources with equally many iterations comes first.
    options : SceneOptions
    parameters : [N, P] latest draws, in the order of `layout.parameter_names`, nan beyond a
        source's own.
    bounds : [N, P, 2] lowest and highest value, infinite where there is none.
    covariance : [N, P, P] float32, latest covariance of each source's parameters (of the
        sampler: the inverse of its mass matrix); nan where unknown.
    iterations, patches : [N] sampled so far, and in how many patches.
    flags : [N] bit masks of `jaxpho.fit.flags`.
    failed : [N] bool, given up.
    big : [N] bool, fitted in patches of their own.
    fit : its links say which parameters sources have; None for none.
    kinds : types of the sources, which the fit chooses where that of a peak is `auto`.
    """

    peaks: Sequence[Peak]
    bands: list[str]
    graph: OverlapGraph
    radius: np.ndarray
    brightness: np.ndarray
    options: SceneOptions
    parameters: np.ndarray
    bounds: np.ndarray
    covariance: np.ndarray
    iterations: np.ndarray
    patches: np.ndarray
    flags: np.ndarray
    failed: np.ndarray
    big: np.ndarray
    fit: FitOptions | None = None
    kinds: list[str] = field(init=False)
    locks: Locks = field(init=False)
    active: set[int] = field(default_factory=set)

    def __post_init__(self):
        self.locks = Locks(self.graph, self.big)
        self.kinds = [peak.type for peak in self.peaks]

    def __len__(self) -> int:
        return len(self.peaks)

    def width(self, i: int) -> int:
        """Number of parameters of a source."""
        return len(parameter_names(self.kinds[i], self.bands, self.fit))

    def chooses(self, i: int) -> bool:
        """Whether the next fit of a source chooses its type: draws are of one type."""
        return self.peaks[i].auto and not (self.options.draws and self.iterations[i] > 0)

    def start(self, i: int) -> Peak:
        """The catalogue's entry of a source, with the type that it has by now."""
        peak = self.peaks[i]
        if not peak.auto or self.chooses(i):
            return peak
        return replace(peak, type=self.kinds[i], auto=False)

    def finishes(self, patch: Patch) -> list[bool]:
        """Of each active source, whether it will have its iterations with this patch."""
        before, target = self.iterations[patch.active], self.options.target
        return ((before < target) & (before + patch.iterations >= target)).tolist()

    def status(self, i: int) -> str:
        """One of `STATUS`."""
        if i in self.active:
            return "active"
        if self.locks.locked[i]:
            return "bordering"
        if self.failed[i]:
            return "failed"
        return "done" if self.iterations[i] >= self.options.target else "waiting"

    @property
    def counts(self) -> dict[str, int]:
        """Number of sources that have their iterations, that failed, and that wait."""
        failed = int(self.failed.sum())
        done = int(((self.iterations >= self.options.target) & ~self.failed).sum())
        return {"done": done, "failed": failed, "waiting": len(self) - done - failed}

    def plan(self, number: int, first: int) -> list[Patch]:
        """The patches of the next round; see `policy.plan_round`."""
        return plan_round(
            number, first, self.graph, self.iterations, self.brightness, self.failed, self.big,
            self.options, self.patches == 0,
        )  # fmt: skip

    def check_out(self, patch: Patch) -> None:
        """Lock the sources of a patch; RuntimeError where one is in use."""
        self.locks.take(patch.active, patch.fixed)
        self.active.update(patch.active)

    def release(self, patch: Patch) -> None:
        """Unlock the sources of a patch."""
        self.locks.release(patch.active, patch.fixed)
        self.active.difference_update(patch.active)

    def check_in(
        self, patch: Patch, latest, covariance=None, flags=None, iterations=None, kinds=None
    ) -> None:
        """Take over the outcome of a patch for its active sources.

        Parameters
        ----------
        patch : Patch
        latest : per active source [npar], the last draw. Never the mean: a mean of draws is no
            draw, and neighbours held at means have errors that are too small.
        covariance : per active source [npar, npar] or None.
        flags : per active source bit masks, or None.
        iterations : that were sampled; by default those of the patch.
        kinds : per active source its type, or None for those that they had.

        Raises
        ------
        ValueError
            For values that are not finite, or not as many as the sources have; nothing is
            changed then.
        """
        rows = [np.asarray(row, float) for row in latest]
        kinds = [self.kinds[i] for i in patch.active] if kinds is None else list(kinds)
        for i, row, kind in zip(patch.active, rows, kinds, strict=True):
            width = len(parameter_names(kind, self.bands, self.fit))
            if row.shape != (width,):
                raise ValueError(f"source {self.peaks[i].id}: expected {width} parameters, "
                                 f"found {row.shape}")  # fmt: skip
            if kind != self.kinds[i] and not self.chooses(i):
                raise ValueError(f"source {self.peaks[i].id}: a {self.kinds[i]} came back as a "
                                 f"{kind}")  # fmt: skip
            if not np.isfinite(row).all():
                raise ValueError(f"source {self.peaks[i].id}: a parameter is not finite")
        blocks = [None] * len(rows) if covariance is None else covariance
        blocks = [None if block is None else np.asarray(block, np.float32) for block in blocks]
        for row, block in zip(rows, blocks, strict=True):
            if block is not None and block.shape != (len(row), len(row)):
                raise ValueError(f"covariance of shape {block.shape} for {len(row)} parameters")
        masks = [0] * len(rows) if flags is None else [int(mask) for mask in flags]
        count = patch.iterations if iterations is None else int(iterations)
        if count < min(patch.iterations, 1):
            raise ValueError(f"expected at least one iteration, found {count}")
        for i, row, block, mask, kind in zip(patch.active, rows, blocks, masks, kinds, strict=True):
            if kind != self.kinds[i]:
                self.kinds[i] = kind
                self.parameters[i], self.covariance[i] = np.nan, np.nan
            self.parameters[i, : len(row)] = row
            if block is not None:
                self.covariance[i, : len(row), : len(row)] = block
            # what a patch says of a source replaces what an earlier one said
            self.flags[i] = self.peaks[i].flags | mask
            self.iterations[i] += OPTIMUM if patch.iterations == OPTIMUM else count
            self.patches[i] += 1

    def give_up(self, sources: Sequence[int], flags: int) -> None:
        """No more patches for these sources: they keep their latest values, with flags."""
        for i in sources:
            self.failed[i] = True
            self.flags[i] |= flags

    @property
    def digest(self) -> str:
        """Fingerprint of catalogue and options: a run goes on only with the same ones.

        Of what is given, not of what is measured: that may differ in the last digit elsewhere.
        """
        sources = [(p.id, p.type, p.auto, float(p.ra), float(p.dec)) for p in self.peaks]
        text = repr((self.bands, self.options, sources))
        return hashlib.sha256(text.encode()).hexdigest()


def new_state(
    peaks: Sequence[Peak],
    bands: Sequence[str],
    radius,
    options: SceneOptions | None = None,
    *,
    brightness=None,
    bounds=None,
    excluded: Sequence[int] = (),
    fit: FitOptions | None = None,
) -> CatalogState:
    """The state of a field before its first round.

    Parameters
    ----------
    peaks : N sources with their starting values.
    bands : of the run.
    radius : [N] radius of influence, arcsec.
    options : SceneOptions
    brightness : [N]; by default the largest flux.
    bounds : [N, P, 2]; by default none.
    excluded : sources that are not fitted, for example without data.
    fit : options of the fit, for its links.

    Raises
    ------
    InputError
        For positions and radii that are not finite.
    """
    options, bands, n = options or SceneOptions(), list(bands), len(peaks)
    if n == 0:
        raise InputError("superscene: expected at least one source, found none")
    graph = overlap_graph([p.ra for p in peaks], [p.dec for p in peaks], radius)
    kinds = {p.type for p in peaks} | {k for p in peaks if p.auto for k in AUTO_TYPES}
    width = max(len(parameter_names(kind, bands, fit)) for kind in kinds)
    parameters = np.full((n, width), np.nan)
    for i, peak in enumerate(peaks):
        row = row_of(peak, bands, fit)
        parameters[i, : len(row)] = row
    if brightness is None:
        brightness = [max((f for f in p.flux.values() if np.isfinite(f)), default=-np.inf)
                      for p in peaks]  # fmt: skip
    if bounds is None:
        bounds = np.broadcast_to([-np.inf, np.inf], (n, width, 2)).copy()
    failed = np.zeros(n, bool)
    failed[list(excluded)] = True
    return CatalogState(
        peaks, bands, graph, np.asarray(radius, float), np.asarray(brightness, float), options,
        parameters, np.asarray(bounds, float), np.full((n, width, width), np.nan, np.float32),
        np.zeros(n, np.int64), np.zeros(n, np.int64), np.array([p.flags for p in peaks], np.int64),
        failed, big_sources(graph, options), fit,
    )  # fmt: skip
