"""Which positions on a detector lie between others, so that they can be left out as a test."""

import numpy as np
from scipy.spatial import ConvexHull, QhullError

# A position this much (of the field) inside the hull of the others is interpolated.
_INSIDE = 1e-9


def interior_positions(places):
    """Numbers of the positions (nloc, 2) that are strictly inside the hull of all others."""
    numbers = np.arange(len(places))
    return [k for k in numbers if _inside(places[k], places[numbers != k])]


def _inside(place, others):
    """Whether a position lies strictly inside the hull of others."""
    if len(others) < 3:
        return False
    try:
        hull = ConvexHull(others)
    except QhullError:  # all on a line
        return False
    span = np.ptp(others, axis=0).max()
    return bool(np.all(hull.equations[:, :2] @ place + hull.equations[:, 2] < -_INSIDE * span))
