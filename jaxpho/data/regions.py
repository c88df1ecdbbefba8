"""Cutting a field into patches: groups of sources whose areas of influence overlap.

Friends-of-friends on the radii of influence. A group above the size limit is split, and the
sources across the cut are handed to the other side as fixed neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree


@dataclass
class Region:
    """The sources of one patch, as indices into the list of peaks.

    Attributes
    ----------
    patch_id : number of the patch.
    active : fitted here; every source is active in exactly one region.
    fixed : active elsewhere, overlapping a source that is active here.
    """

    patch_id: int
    active: list[int]
    fixed: list[int]


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


def cut_field(ra, dec, radius, max_active: int = 12, priority=None) -> list[Region]:
    """Cut a field into regions of jointly fitted sources.

    Parameters
    ----------
    ra, dec : [n] degrees.
    radius : [n] radius of influence, arcsec.
    max_active : largest number of active sources of a region.
    priority : [n], for example fluxes; regions come in descending order of their largest
        value, so that bright sources are known when their neighbours are fitted. Default: in
        the order of the sources.

    Returns
    -------
    list of Region
        `active` and `fixed` are sorted.
    """
    n = len(ra)
    if n == 0:
        return []
    pairs = overlapping_pairs(ra, dec, radius)
    links = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    _, group = connected_components(links, directed=False)
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    points = unit_vectors(ra, dec)
    parts: list[np.ndarray] = []
    for members in np.split(order, starts[1:]):
        parts += _split(members, points, max_active)
    home = np.empty(n, int)
    for number, part in enumerate(parts):
        home[part] = number
    across: list[set] = [set() for _ in parts]
    for i, j in pairs[home[pairs[:, 0]] != home[pairs[:, 1]]]:
        across[home[i]].add(int(j))
        across[home[j]].add(int(i))
    if priority is None:
        rank = [-float(part.min()) for part in parts]
    else:
        value = np.nan_to_num(np.asarray(priority, float), nan=-np.inf)
        rank = [float(value[part].max()) for part in parts]
    sequence = sorted(range(len(parts)), key=lambda k: (-rank[k], int(parts[k].min())))
    return [
        Region(number, sorted(int(i) for i in parts[k]), sorted(across[k]))
        for number, k in enumerate(sequence)
    ]


def _split(members: np.ndarray, points: np.ndarray, limit: int) -> list[np.ndarray]:
    """Halve a group along its longest direction, at the widest gap near the middle."""
    if len(members) <= limit:
        return [np.sort(members)]
    local = points[members] - points[members].mean(axis=0)
    _, _, axes = np.linalg.svd(local, full_matrices=False)
    along = local @ axes[0]
    order = np.argsort(along, kind="stable")
    n = len(members)
    low = max(n // 3, 1)
    high = max(n - n // 3, low + 1)
    gaps = np.diff(along[order])[low - 1 : high - 1]
    cut = low + int(np.argmax(gaps))
    return _split(members[order[:cut]], points, limit) + _split(members[order[cut:]], points, limit)
