"""Mixtures under smoothing by Gaussians, and how far two of them differ then."""

import numpy as np

from psfmix.fit import to_array
from psfmix.model import AMP, CXX, CXY, CYY, X, Y, brightness

# Ratio of successive smoothings that a difference is the largest of, up to this many sigmas of the
# widest component; beyond, differences fall like a dipole's.
_RATIO, _LAST = np.sqrt(2), 4.0
# Axis ratios sigma_major / sigma_minor of the elongated smoothings, and how many directions.
_ELONGATED, _DIRECTIONS = (3.0, 10.0), 4
# The points of a comparison: circles about every component, in its own (smoothed) sigma.
_CIRCLES, _ANGLES = np.arange(0.0, 5.01, 0.25), 16
# Around the worst of them, squares of 5 x 5 points: the first step in that component's sigma, the
# ratio of successive ones, how many. Without them the largest difference is missed by up to 4 %.
_STEP, _SHRINK, _SQUARES = 0.25, 0.4, 4


def smoothed(parameters, width, major=None, angle=0.0):
    """Float [ngauss, 6] of a mixture convolved with a Gaussian.

    Parameters
    ----------
    parameters : structured array of `PSF_DTYPE`, or float array (ngauss, 6)
    width : float
        Sigma of the Gaussian, of its minor axis where `major` is given, native pixels.
    major, angle : float
        Sigma of its major axis, and the direction of that, radians from x to y.
    """
    raw = np.array(parameters) if np.ndim(parameters) == 2 else to_array(parameters)
    more = 0.0 if major is None else major**2 - width**2
    c, s = np.cos(angle), np.sin(angle)
    raw[:, CXX] += width**2 + more * c * c
    raw[:, CYY] += width**2 + more * s * s
    raw[:, CXY] += more * c * s
    return raw


def difference(reduced, full, width, major=None, angle=0.0):
    """max |reduced - full| / max full of two mixtures smoothed as in `smoothed`."""
    a, b = (smoothed(p, width, major, angle) for p in (reduced, full))
    x, y = points(np.concatenate([a, b]), _CIRCLES, _ANGLES)
    full_image = brightness(b, x, y)
    peak = np.max(full_image)
    missed = np.abs(brightness(a, x, y) - full_image)
    k = int(np.argmax(missed))
    worst, x, y = missed[k], x[k], y[k]
    both = np.concatenate([a, b])
    both = both[both[:, AMP] != 0][k // (len(_CIRCLES) * _ANGLES)]
    step = _STEP * np.sqrt(0.5 * (both[CXX] + both[CYY]))
    dy, dx = (np.indices((5, 5)).reshape(2, -1) - 2) / 2
    for size in step * _SHRINK ** np.arange(_SQUARES):
        near = x + size * dx, y + size * dy
        missed = np.abs(brightness(a, *near) - brightness(b, *near))
        k = int(np.argmax(missed))
        if missed[k] > worst:
            worst, x, y = missed[k], near[0][k], near[1][k]
    return float(worst / peak)


def largest_difference(reduced, full, width, enough=np.inf):
    """`difference`, the largest over smoothings of `width` and more, round and elongated.

    It stops, with a value above `enough`, as soon as that is exceeded.
    """
    worst = 0.0
    angles = np.pi * np.arange(_DIRECTIONS) / _DIRECTIONS
    for w in smoothings(full, width):
        cases = [(w, None, 0.0)]
        cases += [(w, ratio * w, angle) for ratio in _ELONGATED for angle in angles]
        for case in cases:
            worst = max(worst, difference(reduced, full, *case))
            if worst > enough:
                return worst
    return worst


def smoothings(full, width, ratio=_RATIO):
    """Widths from `width` on, at which a reduced mixture is compared with the full one."""
    last = max(_LAST * sigmas(full)[1], 2 * width)
    return width * ratio ** np.arange(np.ceil(np.log(last / width) / np.log(ratio)) + 1)


def points(raw, circles, angles):
    """x, y [n] on ellipses about every component with an amplitude."""
    raw = raw[raw[:, AMP] != 0]
    step = 2 * np.pi / angles
    # every other circle is turned by half a step
    turn = 0.5 * step * (np.arange(len(circles)) % 2)
    phase = (step * np.arange(angles) + turn[:, None]).ravel()
    radius = np.repeat(circles, angles)
    u, v = radius * np.cos(phase), radius * np.sin(phase)
    l11 = np.sqrt(raw[:, CXX, None])
    l21 = raw[:, CXY, None] / l11
    l22 = np.sqrt(np.maximum(raw[:, CYY, None] - l21**2, 0.0))
    return (raw[:, X, None] + l11 * u).ravel(), (raw[:, Y, None] + l21 * u + l22 * v).ravel()


def sigmas(parameters):
    """Smallest and largest sigma of the components with an amplitude, native pixels."""
    raw = parameters if np.ndim(parameters) == 2 else to_array(parameters)
    raw = raw[raw[:, AMP] != 0]
    half = (raw[:, CXX] + raw[:, CYY]) / 2
    spread = np.hypot((raw[:, CXX] - raw[:, CYY]) / 2, raw[:, CXY])
    return float(np.sqrt(np.min(half - spread))), float(np.sqrt(np.max(half + spread)))
