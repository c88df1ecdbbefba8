"""Which sources overlap: the graph that patches are cut from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jaxpho.data.regions import overlapping_pairs, unit_vectors
from jaxpho.errors import InputError

ARCSEC = np.degrees(1.0) * 3600.0
"""Arcseconds of a radian."""


@dataclass
class OverlapGraph:
    """Sources of a field, linked where their radii of influence overlap.

    Attributes
    ----------
    points : [n, 3] unit vectors.
    start : [n + 1] where the neighbours of each source begin in `other`.
    other : [m] neighbours, ascending for each source.
    """

    points: np.ndarray
    start: np.ndarray
    other: np.ndarray

    def __len__(self) -> int:
        return len(self.points)

    def neighbours(self, i: int) -> np.ndarray:
        """The sources that overlap source `i`, ascending."""
        return self.other[self.start[i] : self.start[i + 1]]

    @property
    def links(self) -> np.ndarray:
        """[n] number of neighbours."""
        return np.diff(self.start)

    def border(self, sources) -> list[int]:
        """The neighbours of a group of sources that are not in it, ascending."""
        inside = set(sources)
        return sorted({int(j) for i in inside for j in self.neighbours(i)} - inside)

    def distance(self, i: int, others) -> np.ndarray:
        """Angle [arcsec] from source `i` to others."""
        chord = np.linalg.norm(self.points[others] - self.points[i], axis=-1)
        return 2 * np.arcsin(np.clip(chord / 2, 0, 1)) * ARCSEC


def overlap_graph(ra, dec, radius) -> OverlapGraph:
    """The graph of sources nearer to each other than the sum of their radii.

    Parameters
    ----------
    ra, dec : [n] degrees.
    radius : [n] radius of influence, arcsec.

    Raises
    ------
    InputError
        When the lengths differ, or a value is not finite or a radius negative.
    """
    ra, dec, radius = (np.asarray(a, float) for a in (ra, dec, radius))
    if not ra.shape == dec.shape == radius.shape or ra.ndim != 1:
        raise InputError(
            f"superscene: expected ra, dec and radius of one length, found {ra.shape}, "
            f"{dec.shape} and {radius.shape}"
        )
    bad = ~(np.isfinite(ra) & np.isfinite(dec) & (radius >= 0) & np.isfinite(radius))
    if bad.any():
        i = int(np.flatnonzero(bad)[0])
        raise InputError(
            f"superscene: source {i} has ra = {ra[i]:g}, dec = {dec[i]:g} deg and radius "
            f"{radius[i]:g} arcsec, expected finite values and a radius >= 0"
        )
    n = len(ra)
    pairs = overlapping_pairs(ra, dec, radius)
    both = np.concatenate([pairs, pairs[:, ::-1]])
    both = both[np.lexsort((both[:, 1], both[:, 0]))]
    start = np.searchsorted(both[:, 0], np.arange(n + 1))
    return OverlapGraph(unit_vectors(ra, dec), start, both[:, 1].copy())
