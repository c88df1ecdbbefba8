"""Which sources overlap, on the sphere."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree


def unit_vectors(ra, dec) -> np.ndarray:
    """Points [n, 3] on the unit sphere of positions in degrees."""
    ra, dec = np.deg2rad(np.asarray(ra, float)), np.deg2rad(np.asarray(dec, float))
    return np.column_stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)])


def overlapping_pairs(ra, dec, radius) -> np.ndarray:
    """Pairs [m, 2] (i < j) of sources nearer to each other than the sum of their radii.

    Parameters
    ----------
    ra, dec : [n] degrees.
    radius : [n] radius of influence, arcsec.
    """
    points, radius = unit_vectors(ra, dec), np.asarray(radius, float)
    if len(points) < 2:
        return np.zeros((0, 2), int)
    # Radii may differ by a factor of 15. Every pair is looked for from its larger member, with
    # a reach of twice that radius, so that one large galaxy does not pair up the whole field.
    # Classes of similar radius, one tree query each.
    found = []
    level = np.floor(np.log2(np.maximum(radius, 1e-6))).astype(int)
    for value in np.unique(level):
        large = np.flatnonzero(level == value)
        small = np.flatnonzero(level <= value)
        reach = 2 * radius[large].max()
        lists = cKDTree(points[large]).query_ball_tree(cKDTree(points[small]), _chord(reach))
        count = np.array([len(members) for members in lists])
        if count.sum():
            first = np.repeat(large, count)
            second = small[np.concatenate([np.asarray(m, int) for m in lists if m])]
            found.append(np.column_stack([first, second]))
    if not found:
        return np.zeros((0, 2), int)
    pairs = np.sort(np.concatenate(found), axis=1)
    pairs = np.unique(pairs[pairs[:, 0] < pairs[:, 1]], axis=0)
    chord = np.linalg.norm(points[pairs[:, 0]] - points[pairs[:, 1]], axis=1)
    return pairs[chord < _chord(radius[pairs].sum(axis=1))]


def _chord(arcsec):
    return 2 * np.sin(np.deg2rad(np.asarray(arcsec) / 3600.0) / 2)
