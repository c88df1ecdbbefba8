"""Where the light of a PSF is, and in which direction it lies: weighted first and second moments.

A galaxy of Gaussian profile and width s is fitted through a PSF of width p; an error d of the PSF
then moves its centre by the first moment of d under a Gaussian weight of variance 2 s^2 + p^2
(least squares, uniform noise), over the moment's response to a shift. Widths from the PSF's core
upwards therefore stand for galaxies of all sizes, from stars on. Second moments under the same
weights are to ellipticities what first ones are to places.
"""

import numpy as np

# Sigmas of the weights in units of the PSF's FWHM (the first is about the core's sigma); at most
# this part of the stamp's half width, beyond which the edge decides.
_WIDTHS, _LARGEST = (0.5, 1.0, 2.0, 4.0), 0.5
# Least response to a shift, of the weighted flux: a ring has none to weights narrower than itself.
_LEAST_RESPONSE = 0.1
# Least moment x^2 + y^2 per flux and width^2: all light of an image may be in its middle pixel.
_LEAST_SIZE = 1e-3


def weight_widths(fwhm, halfsize):
    """Sigmas of the weights, native pixels: those that the stamp has room for, one at least."""
    widths = np.array(_WIDTHS) * fwhm
    return widths[(widths <= _LARGEST * halfsize) | (widths == widths[0])]


def moment_rows(x, y, area, density, widths):
    """What turns a difference of images into shifts.

    Parameters
    ----------
    x, y : arrays (n,)
        Positions from the centre of the weights, native pixels.
    area : array (n,) or float
        Of the pixels, native pixels^2.
    density : array (n,)
        Surface brightness of the PSF.
    widths : array (nwidth,)
        Sigmas of the weights, native pixels.

    Returns
    -------
    array (2, nwidth, n)
        ``rows @ difference`` are shifts in x and in y, native pixels: the first moments of the
        difference under each weight W, over sum W (1 - r^2 / (2 width^2)) density area, which is
        how much such a moment of the PSF changes per pixel of shift (mean of x and y).
    """
    half = (x**2 + y**2) / (2 * widths[:, None] ** 2)
    weights = np.exp(-np.minimum(half, 100.0)) * area
    response = (weights * (1 - half)) @ density
    least = _LEAST_RESPONSE * (weights @ np.abs(density))
    weights /= np.maximum(response, least)[:, None]
    return np.stack([weights * x, weights * y])


def shape_rows(x, y, area, density, widths):
    """What turns a difference of images into ellipticities; arguments as in `moment_rows`.

    Returns
    -------
    array (2, nwidth, n)
        ``rows @ difference`` are the moments x^2 - y^2 and 2 x y of the difference under each
        weight, over the moment x^2 + y^2 of the PSF's absolute value: the ellipticities that the
        difference adds to those of a nearly round PSF.
    """
    radius2 = x**2 + y**2
    weights = np.exp(-np.minimum(radius2 / (2 * widths[:, None] ** 2), 100.0)) * area
    least = _LEAST_SIZE * widths**2 * (weights @ np.abs(density))
    weights /= np.maximum(weights @ (radius2 * np.abs(density)), least)[:, None]
    return np.stack([weights * (x**2 - y**2), weights * (2 * x * y)])
