"""Mixtures between scattered detector positions: weights, and the mean with them."""

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


def mean_mixture(parameters, weights):
    """Weighted mean of mixtures whose components correspond.

    Amplitudes, centres and sizes (fourth root of the determinant of the covariance) are averaged,
    and the logarithms of the covariances over their sizes: a PSF whose width or ellipticity changes
    linearly is interpolated exactly, and covariances stay positive definite.

    Parameters
    ----------
    parameters : structured array, shape (nloc, ngauss)
        Fields amp, xcr, ycr, Cxx, Cyy, Cxy, of which the covariances are positive definite but
        where the amplitude is zero, and others, which are taken from the largest weight.
    weights : array (nloc,)
        They sum to 1.

    Returns
    -------
    structured array, shape (ngauss,)
    """
    heaviest = int(np.argmax(weights))
    out = parameters[heaviest].copy()
    used = np.asarray(weights) > 0
    if np.count_nonzero(used) == 1:
        return out
    weights, parameters = np.asarray(weights)[used], parameters[used]
    raw = {name: parameters[name].astype(float) for name in ("amp", "xcr", "ycr")}
    for name, values in raw.items():
        out[name] = weights @ values
    cxx, cyy, cxy = (parameters[name].astype(float) for name in ("Cxx", "Cyy", "Cxy"))
    padding = np.any(~((cxx > 0) & (cxx * cyy > cxy**2)), axis=0)
    cxx, cyy, cxy = (np.where(padding, c, v) for c, v in ((1.0, cxx), (1.0, cyy), (0.0, cxy)))
    size2 = np.sqrt(cxx * cyy - cxy**2)
    size = weights @ np.sqrt(size2)
    # Of unit determinant: cosh(t) I + sinh(t) M, whose logarithm is t M, M symmetric and traceless.
    plus, cross = 0.5 * (cxx - cyy) / size2, cxy / size2
    sinh = np.hypot(plus, cross)
    factor = np.where(sinh > 1e-6, np.arcsinh(sinh) / np.maximum(sinh, 1e-6), 1.0)
    plus, cross = weights @ (factor * plus), weights @ (factor * cross)
    t = np.hypot(plus, cross)
    cosh, part = np.cosh(t), np.where(t > 1e-6, np.sinh(t) / np.maximum(t, 1e-6), 1.0)
    mean = {"Cxx": cosh + part * plus, "Cyy": cosh - part * plus, "Cxy": part * cross}
    for name, value in mean.items():
        out[name] = np.where(padding, out[name], size**2 * value)
    return out
