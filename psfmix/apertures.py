"""Light of an image within circles, with the exact part of every pixel that a circle cuts."""

import numpy as np

# Half the diagonal of a pixel: no farther from its middle does a circle cut it.
_REACH = np.sqrt(0.5)


def light_within(image, center, radii):
    """Sum of an image inside circles; the light of a pixel is even over its area.

    Parameters
    ----------
    image : array (ny, nx)
        Pixels that are not finite count as 0.
    center : (x, y)
        Pixel.
    radii : array (nradius,)
        Pixels.

    Returns
    -------
    array (nradius,)
    """
    y, x = np.indices(np.shape(image), dtype=float)
    x, y = (x - center[0]).ravel(), (y - center[1]).ravel()
    order = np.argsort(np.hypot(x, y))
    x, y = x[order], y[order]
    distance = np.hypot(x, y)
    value = np.where(np.isfinite(image), image, 0.0).ravel()[order]
    total = np.concatenate([[0.0], np.cumsum(value)])
    out = []
    for radius in radii:
        first, last = np.searchsorted(distance, [radius - _REACH, radius + _REACH])
        cut = slice(first, last)
        out.append(total[first] + value[cut] @ overlap(x[cut], y[cut], radius))
    return np.array(out)


def overlap(x, y, radius):
    """Part of unit squares around (x, y) that lies within a circle around 0."""
    corners = [(x + sx / 2, y + sy / 2, sx * sy) for sx in (-1, 1) for sy in (-1, 1)]
    return sum(sign * _quadrant(cx, cy, radius) for cx, cy, sign in corners)


def _quadrant(x, y, r):
    """Area of the circle within the rectangle from 0 to (x, y), with the sign of x y."""
    sign = np.sign(x) * np.sign(y)
    x, y = np.minimum(np.abs(x), r), np.minimum(np.abs(y), r)
    # from here on the circle, not the rectangle, is the upper edge
    start = np.minimum(np.sqrt(r * r - y * y), x)
    return sign * (start * y + _under(x, r) - _under(start, r))


def _under(x, r):
    """Area under the circle from 0 to x."""
    return 0.5 * (x * np.sqrt(r * r - x * x) + r * r * np.arcsin(x / r))
