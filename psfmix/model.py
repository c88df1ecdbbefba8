"""Surface brightness of a Gaussian mixture and its derivatives, in float64 numpy.

The conventions are those of `jaxpho.core.gaussians`: a component is (amp, x, y, Cxx, Cyy, Cxy),
its density amp sqrt(det F) / (2 pi) exp(-d F d / 2) with F the inverse covariance. Fitting needs
float64 whatever the caller's JAX precision, hence numpy.
"""

from typing import NamedTuple

import numpy as np

# Columns of a component in the raw parametrisation.
AMP, X, Y, CXX, CYY, CXY = range(6)
# exp(-100) = 4e-44 stands for zero.
_EXPONENT_FLOOR = -100.0


def brightness(raw, x, y, variance=0.0, pixel_variance=0.0):
    """Sum of the components' densities.

    Parameters
    ----------
    raw : array (ngauss, 6)
        amp, x, y, Cxx, Cyy, Cxy in native pixels.
    x, y : arrays
        Positions, native pixels.
    variance : float
        Added to Cxx and Cyy: variance of the square each sample is averaged over.
    pixel_variance : float
        Variance of the image pixel (part of `variance`); its fourth cumulant is applied too.

    Returns
    -------
    array, shape of x
    """
    out = np.zeros(np.shape(x))
    for component in raw:
        value, *_ = _density(component[None], np.ravel(x), np.ravel(y), variance, pixel_variance)
        out += component[AMP] * value.reshape(out.shape)
    return out


def _density(raw, x, y, variance, pixel_variance):
    """Unit-amplitude densities [ngauss, npoint] and v = F d, F for the derivatives."""
    cxx, cyy, cxy = raw[:, CXX] + variance, raw[:, CYY] + variance, raw[:, CXY]
    det = cxx * cyy - cxy**2
    fxx, fyy, fxy = cyy / det, cxx / det, -cxy / det
    dx, dy = x - raw[:, X, None], y - raw[:, Y, None]
    vx = fxx[:, None] * dx + fxy[:, None] * dy
    vy = fxy[:, None] * dx + fyy[:, None] * dy
    # Without a floor the squares become denormal numbers, which are a hundred times slower.
    exponent = np.maximum(-0.5 * (dx * vx + dy * vy), _EXPONENT_FLOOR)
    value = np.exp(exponent) / (2 * np.pi * np.sqrt(det))[:, None]
    if pixel_variance > 0:
        # Fourth cumulant of a square pixel of side sqrt(12 pixel_variance): -side^4/120, over 4!.
        side4 = (12 * pixel_variance) ** 2
        value *= 1 - side4 / 2880 * (_hermite4(vx, fxx) + _hermite4(vy, fyy))
    return value, vx, vy, fxx, fyy, fxy


def _hermite4(v, f):
    """v^4 - 6 v^2 f + 3 f^2, by products: numpy's powers are slow."""
    v2, f = v * v, f[:, None]
    return v2 * (v2 - 6 * f) + 3 * f * f


class Pieces(NamedTuple):
    """Unit-amplitude densities on a target's rows [ngauss, nrow] and what their derivatives need.

    vx, vy are the inverse covariance times the offsets; fxx, fyy, fxy are that inverse for each
    group of rows [ngroup, ngauss].
    """

    value: np.ndarray
    vx: np.ndarray
    vy: np.ndarray
    inverse: list


def pieces_of(raw, target):
    """`Pieces` of components (ngauss, 6) on a target's rows."""
    value, vx, vy = (np.empty((len(raw), len(target.x))) for _ in range(3))
    inverse = []
    for rows, variance in target.groups:
        value[:, rows], vx[:, rows], vy[:, rows], *rest = _density(
            raw, target.x[rows], target.y[rows], variance, target.pixel_variance
        )
        inverse.append(rest)
    return Pieces(value, vx, vy, inverse)


def densities(raw, target):
    """Unit-amplitude densities of the components on a target's rows, array (ngauss, nrow)."""
    return pieces_of(raw, target).value


def columns(raw, target, pieces=None):
    """Derivatives of the mixture on a target's rows with respect to the raw parameters.

    The fourth cumulant multiplies the density but is not differentiated: it is a small correction.

    Returns
    -------
    array (6, ngauss, nrow)
        ``raw[:, AMP] @ out[AMP]`` is the mixture itself.
    """
    value, vx, vy, inverse = pieces_of(raw, target) if pieces is None else pieces
    out = np.empty((6, *value.shape))
    out[AMP] = value
    scaled = value * raw[:, AMP, None]
    np.multiply(scaled, vx, out=out[X])
    np.multiply(scaled, vy, out=out[Y])
    np.multiply(out[X], vx, out=out[CXX])
    np.multiply(out[Y], vy, out=out[CYY])
    np.multiply(out[X], vy, out=out[CXY])
    for (rows, _), (fxx, fyy, fxy) in zip(target.groups, inverse, strict=True):
        out[CXX, :, rows] -= scaled[:, rows] * fxx[:, None]
        out[CYY, :, rows] -= scaled[:, rows] * fyy[:, None]
        out[CXY, :, rows] -= scaled[:, rows] * fxy[:, None]
    out[CXX:CXY] *= 0.5
    return out


def to_raw(free, floor, signed):
    """Unconstrained parameters to raw ones.

    Parameters
    ----------
    free : array (ngauss, 6)
        amp (its logarithm unless `signed`), x, y, ln l11, l21, ln l22 of the Cholesky factor of
        the covariance less the floor.
    floor : float
        Smallest sigma, native pixels: covariance = floor^2 I + L L^T.
    signed : bool

    Returns
    -------
    array (ngauss, 6)
    """
    raw = np.empty_like(free)
    raw[:, AMP] = free[:, 0] if signed else np.exp(free[:, 0])
    raw[:, X], raw[:, Y] = free[:, 1], free[:, 2]
    l11, l21, l22 = np.exp(free[:, 3]), free[:, 4], np.exp(free[:, 5])
    raw[:, CXX] = floor**2 + l11**2
    raw[:, CXY] = l11 * l21
    raw[:, CYY] = floor**2 + l21**2 + l22**2
    return raw


def to_free(raw, floor, signed, tiny=0.05):
    """Raw parameters to unconstrained ones; covariances at or below the floor move just above."""
    free = np.empty_like(raw)
    free[:, 0] = raw[:, AMP] if signed else np.log(np.maximum(raw[:, AMP], 1e-6))
    free[:, 1], free[:, 2] = raw[:, X], raw[:, Y]
    l11 = np.sqrt(np.maximum(raw[:, CXX] - floor**2, tiny**2))
    l21 = raw[:, CXY] / l11
    l22 = np.sqrt(np.maximum(raw[:, CYY] - floor**2 - l21**2, tiny**2))
    free[:, 3], free[:, 4], free[:, 5] = np.log(l11), l21, np.log(l22)
    return free


def chain(free, signed):
    """d raw / d free for each component, array (ngauss, 6, 6)."""
    out = np.zeros((len(free), 6, 6))
    out[:, AMP, 0] = 1.0 if signed else np.exp(free[:, 0])
    out[:, X, 1] = out[:, Y, 2] = 1.0
    l11, l21, l22 = np.exp(free[:, 3]), free[:, 4], np.exp(free[:, 5])
    out[:, CXX, 3] = 2 * l11**2
    out[:, CXY, 3] = l11 * l21
    out[:, CXY, 4] = l11
    out[:, CYY, 4] = 2 * l21
    out[:, CYY, 5] = 2 * l22**2
    return out
