"""How good the tables are: ``python -m jaxpho.core.tables.accuracy`` prints the figures.

Images of galaxies blurred by a Gaussian PSF and integrated over pixels, from a table and from the
exact mixture. Axes are aligned with the pixels, so that every Gaussian is a product of two error
functions and the images are exact; nothing of the renderer of the package is used.
"""

import argparse
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr

from jaxpho.core.sersic import DESIGN_BLUR, load_mixture
from jaxpho.core.tables.exact import exact_mixture

PSF_SIGMA = 1.5
"""Pixels. The grid is in units of it; the pixel only adds a little blur."""
SIZES = (0.5, 1.0, 2.0, 4.0, 8.0)
"""rhalf in units of the PSF sigma."""
AXIS_RATIOS = (1.0, 0.5, 0.2)
FLAT_N = (0.3, 0.305, 0.32, 0.335, 0.35, 0.37, 0.39, 0.41, 0.43, 0.45, 0.47, 0.485, 0.495)
LOW_N = (0.5, 0.51, 0.55, 0.62, 0.72, 0.85, 1.0, 1.25, 1.6, 2.0, 2.5, 3.1, 3.8, 4.5, 5.2, 6.0)
HIGH_N = (6.3, 6.6, 7.0, 7.4, 7.7, 8.0)
CENTRE = (0.3, -0.2)
"""Sub-pixel position of the galaxy."""


class Errors(NamedTuple):
    """Largest absolute errors of a table over a grid.

    `residual` relative to the peak of the image; `aperture` of the flux inside 2 rhalf (of the
    total, blurred, round); the biases of a least-squares fit of flux, index, size and axis ratio
    to a noiseless exact image with the same noise in every pixel.
    """

    residual: float
    aperture: float
    ln_flux: float
    sersic: float
    ln_rhalf: float
    q: float


def pixel_axis(extent):
    """Pixel centres along one axis: all the inner ones, then fewer and fewer, weights in area."""
    inner = np.arange(-30, 31)
    outer = np.unique(np.geomspace(31, max(extent, 40), 24).astype(int))
    return np.concatenate([-outer[::-1], inner, outer]).astype(float)


def pixel_image(amp, var, q, x, psf_sigma=PSF_SIGMA, centre=CENTRE):
    """Exact pixel integrals of an elliptical mixture convolved with a round Gaussian PSF.

    Parameters
    ----------
    amp, var : array [K]
        Flux and circular variance (pixel^2); the long axis, of variance var/q, is along x.
    q : float
    x : array [N]
        Pixel centres along both axes.

    Returns
    -------
    image : array [N, N]
    """

    def integral(variance, c):
        sigma = np.sqrt(variance + psf_sigma**2)
        edge = (x[:, None] - c) / sigma
        half = 0.5 / sigma
        # Differences of the small tail keep their relative accuracy far from the centre.
        edge = np.abs(edge)
        return ndtr(half - edge) - ndtr(-half - edge)

    return (integral(var * q, centre[1]) * amp) @ integral(var / q, centre[0]).T


def _table(mixture):
    """Amplitudes and unit variances at n, in numpy float64, from the coefficients."""
    above, below = mixture[:2], mixture[2:]

    def at(n):
        low, high, pair = (0.3, 0.5, below) if n < 0.5 else (0.5, 8.0, above)
        log_sigma, amplitude = (np.asarray(c, dtype=float) for c in pair)
        u = 2 * np.log(n / low) / np.log(high / low) - 1
        cheb = np.polynomial.chebyshev.chebval
        return cheb(u, amplitude), np.exp(2 * cheb(u, log_sigma))

    return at


def _biases(table, n, size, q, x, exact, area):
    """One Gauss-Newton step from the truth towards the least-squares fit of the exact image."""

    def model(ln_flux, n, ln_size, q):
        amp, var = table(n)
        return np.exp(ln_flux) * pixel_image(amp, var * np.exp(2 * ln_size), q, x)

    truth, step = np.array([0.0, n, np.log(size), q]), 1e-4
    free = np.array([True, True, True, q < 1])
    side = np.where(truth[1] + step > 8, -1.0, 1.0)
    centre = model(*truth)
    slopes = []
    for i in np.flatnonzero(free):
        shift = np.zeros(4)
        shift[i] = step * (side if i == 1 else 1.0)
        slopes.append(((model(*(truth + shift)) - centre) / shift[i]).ravel())
    slopes = np.array(slopes)
    weighted = slopes * area.ravel()
    bias = np.zeros(4)
    bias[free] = np.linalg.solve(weighted @ slopes.T, weighted @ (exact - centre).ravel())
    return bias


def measure(mixture, indices=LOW_N, sizes=SIZES, axis_ratios=AXIS_RATIOS, biases=True):
    """Largest errors of a table over a grid of galaxies.

    Parameters
    ----------
    mixture : jaxpho.core.sersic.SersicMixture
    indices, sizes, axis_ratios : sequences of float
        Sersic indices, rhalf in PSF sigmas, and b/a.
    biases : bool
        Also the biases of fitted parameters; zeros otherwise.

    Returns
    -------
    errors : Errors
    """
    table = _table(mixture)
    worst = np.zeros(6)
    for n in indices:
        amp, var = table(n)
        exact_amp, exact_var = exact_mixture(n)
        for size in np.asarray(sizes) * PSF_SIGMA:
            total, exact_total = (v * size**2 + PSF_SIGMA**2 for v in (var, exact_var))
            radius2 = (2 * size) ** 2
            flux = amp @ -np.expm1(-radius2 / (2 * total))
            aperture = flux - exact_amp @ -np.expm1(-radius2 / (2 * exact_total))
            for q in axis_ratios:
                x = pixel_axis(8 * size / np.sqrt(q))
                exact = pixel_image(exact_amp, exact_var * size**2, q, x)
                image = pixel_image(amp, var * size**2, q, x)
                residual = np.abs(image - exact).max() / exact.max()
                bias = np.zeros(4)
                if biases:
                    width = np.gradient(x)
                    bias = _biases(table, n, size, q, x, exact, width[:, None] * width)
                worst = np.maximum(worst, np.abs([residual, aperture, *bias]))
    return Errors(*(float(w) for w in worst))


def main(arguments=None):
    """Print the largest errors of the tables named (all by default)."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="tables to measure (default: all)")
    options = parser.parse_args(arguments)
    print("| table | n | residual/peak | flux in 2 rhalf | ln flux | n | ln rhalf | q |")
    print("|---|---|---|---|---|---|---|---|")
    for name in options.names or DESIGN_BLUR:
        for label, grid in ((".3-.5", FLAT_N), (".5-6", LOW_N), ("6-8", HIGH_N)):
            errors = measure(load_mixture(name), grid)
            print(f"| {name} | {label} | " + " | ".join(f"{e:.1e}" for e in errors) + " |")


if __name__ == "__main__":
    main()
