"""Weights that interpolate between scattered detector positions."""

import numpy as np
from scipy.spatial import Delaunay, QhullError

from jaxpho.errors import InputError

# Barycentric coordinates down to this count as inside a triangle.
_EDGE = 1e-9


def location_weights(locations, x, y, method="linear"):
    """Non-negative weights, summing to 1, of each location at one position.

    Parameters
    ----------
    locations : array (nloc, 2)
        Detector positions, pixels.
    x, y : float
        Where to interpolate, pixels.
    method : {"linear", "nearest"}
        "linear": barycentric in the Delaunay triangle, on the nearest point of the convex hull
        outside it; inverse squared distance when there are fewer than three locations or all lie
        on one line. "nearest": all weight on the nearest location.

    Returns
    -------
    array (nloc,)

    Raises
    ------
    InputError
        Unknown method or a position that is not finite.
    """
    locations = np.asarray(locations, dtype=float)
    point = np.array([x, y], dtype=float)
    if not np.all(np.isfinite(point)):
        raise InputError(f"PSF asked for at position ({x}, {y}), which is not finite")
    distance2 = np.sum((locations - point) ** 2, axis=1)
    nearest = int(np.argmin(distance2))
    weights = np.zeros(len(locations))
    if method == "nearest" or distance2[nearest] == 0:
        weights[nearest] = 1.0
        return weights
    if method != "linear":
        raise InputError(f"PSF interpolation is {method!r}; expected 'linear' or 'nearest'")
    triangulation = _triangulate(locations)
    if triangulation is None:
        weights = 1 / distance2
        return weights / weights.sum()
    simplex = int(triangulation.find_simplex(point[None])[0])
    if simplex >= 0:
        transform = triangulation.transform[simplex]
        two = transform[:2] @ (point - transform[2])
        three = np.append(two, 1 - two.sum())
        if np.all(np.isfinite(three)) and np.all(three > -_EDGE):
            three = np.clip(three, 0, None)
            weights[triangulation.simplices[simplex]] = three / three.sum()
            return weights
    return _on_hull(locations, triangulation.convex_hull, point)


def _triangulate(locations):
    """Delaunay triangulation, or None when the locations do not span a plane."""
    if len(locations) < 3:
        return None
    try:
        return Delaunay(locations)
    except QhullError:
        return None


def _on_hull(locations, edges, point):
    """Weights at the point of the convex hull nearest to `point`."""
    start, stop = locations[edges[:, 0]], locations[edges[:, 1]]
    along = stop - start
    t = np.clip(np.sum((point - start) * along, axis=1) / np.sum(along**2, axis=1), 0, 1)
    foot = start + t[:, None] * along
    best = int(np.argmin(np.sum((foot - point) ** 2, axis=1)))
    weights = np.zeros(len(locations))
    weights[edges[best, 0]] = 1 - t[best]
    weights[edges[best, 1]] += t[best]
    return weights
