"""Smaller mixtures for what is already smooth: a PSF convolved with a wide Gaussian needs few.

A Gaussian of a galaxy of width s sees the PSF smoothed by s. A mixture with fewer components that
describes the smoothed PSF, with s^2 taken off its covariances, serves that Gaussian as well as the
full one does.
"""

from typing import NamedTuple

import numpy as np

from jaxpho.errors import InputError
from psfmix.fit import fit_mixture, to_array
from psfmix.model import AMP, CXX, CYY, brightness

TOLERANCE = 2.5e-4
"""Largest difference between reduced and full smoothed PSF, of the latter's peak.

Of a galaxy's peak, to which the Gaussians wide enough for a reduction add less than half, it is
below 1e-4.
"""
# Samples per smoothing width, half width of the grid in the widest sigma, most pixels a side.
_SAMPLES, _REACH, _LARGEST = 2.0, 4.0, 301
# Widths are not taken to zero: a Gaussian must have a positive definite covariance.
_LEAST = 1e-3


class Reduced(NamedTuple):
    """A smaller mixture.

    Attributes
    ----------
    width : float
        Smoothing (sigma, native pixels) from which on it may be used.
    parameters : structured array of `PSF_DTYPE`, shape (ngauss,)
    error : float
        max |reduced - full| / max full, both smoothed by `width`, anywhere.
    """

    width: float
    parameters: np.ndarray
    error: float

    @property
    def ngauss(self):
        """Number of Gaussians."""
        return len(self.parameters)


def smoothed(parameters, width):
    """Float [ngauss, 6] of a mixture convolved with a round Gaussian of sigma `width`."""
    raw = to_array(parameters)
    raw[:, [CXX, CYY]] += width**2
    return raw


def difference(reduced, full, width):
    """max |reduced - full| / max full of two mixtures smoothed by `width`."""
    grids = _grids(full, width)
    a, b = (brightness(smoothed(p, width), *grids, 0.0, 0.0) for p in (reduced, full))
    return float(np.max(np.abs(a - b)) / np.max(b))


def reduce_mixture(parameters, width, tolerance=TOLERANCE):
    """The smallest mixture that serves for Gaussians of sigma `width` and wider.

    Parameters
    ----------
    parameters : structured array of `PSF_DTYPE`, shape (ngauss,)
    width : float
        Native pixels.
    tolerance : float
        See `TOLERANCE`.

    Returns
    -------
    Reduced
        The mixture itself, with error 0, where no smaller one is good enough.

    Raises
    ------
    InputError
        The width or the tolerance is not a positive number.
    """
    for name, value in (("smoothing width", width), ("tolerance", tolerance)):
        if not (np.isfinite(value) and value > 0):
            raise InputError(f"{name} is {value}; expected a positive number")
    full = np.asarray(parameters)
    grids = _grids(full, width)
    image = brightness(smoothed(full, width), *grids, 0.0, 0.0)
    step = grids[0][0, 1] - grids[0][0, 0]
    total = full["amp"].sum(dtype=float)
    centre = (-grids[0][0, 0] / step, -grids[1][0, 0] / step)
    signed = bool(np.any(full["amp"] < 0))
    for ngauss in range(1, len(full)):
        fit = fit_mixture(
            image * step**2,
            oversample=1.0,
            ngauss=ngauss,
            signed=signed and ngauss > 2,
            includes_pixel=True,
            center=centre,
            floor=float(np.hypot(width, _LEAST) / step),
        )
        found = fit.parameters.copy()
        found["amp"] *= total / found["amp"].sum(dtype=float)
        for name in ("xcr", "ycr"):
            found[name] *= step
        for name in ("Cxx", "Cyy", "Cxy"):
            found[name] *= step**2
        for name in ("Cxx", "Cyy"):
            found[name] = np.maximum(found[name] - width**2, _LEAST**2)
        limit = np.sqrt(found["Cxx"] * found["Cyy"]) * (1 - 1e-5)
        found["Cxy"] = np.clip(found["Cxy"], -limit, limit)
        error = difference(found, full, width)
        if error <= tolerance:
            return Reduced(float(width), found, error)
    return Reduced(float(width), full.copy(), 0.0)


def reduced_ladder(parameters, widths, tolerance=TOLERANCE):
    """Reduced mixtures for ascending widths: each size once, at the least width that it serves.

    Parameters
    ----------
    parameters : structured array of `PSF_DTYPE`, shape (ngauss,)
    widths : floats
        Native pixels.
    tolerance : float

    Returns
    -------
    list of Reduced
        Sizes fall with the width; the first is the mixture itself, at width 0.
    """
    rungs = [Reduced(0.0, np.asarray(parameters).copy(), 0.0)]
    for width in sorted(set(map(float, widths))):
        found = reduce_mixture(parameters, width, tolerance)
        if found.ngauss < rungs[-1].ngauss:
            rungs.append(found)
    return rungs


def rung_for(rungs, width):
    """The smallest mixture of a ladder that serves Gaussians of sigma `width`, native pixels."""
    return [rung for rung in rungs if rung.width <= width][-1]


def per_radius(parameters, radii, tolerance=TOLERANCE):
    """A mixture for each radius of a fixed-radii Sersic table, in one ragged list.

    Parameters
    ----------
    parameters : structured array of `PSF_DTYPE`, shape (ngauss,)
    radii : array (nradii,)
        Sigmas of the table's Gaussians in native pixels; a radius of 0 keeps the full mixture.
    tolerance : float

    Returns
    -------
    structured array of `PSF_DTYPE`, shape (n_psf_per_source,)
        ``sersic_bin`` says which radius each Gaussian belongs to. An elongated galaxy is narrower
        than its radius along one axis: give the radii times the least axis ratio, or the square
        root of it where positions angles are free.
    """
    parts = []
    for k, radius in enumerate(radii):
        part = np.asarray(parameters).copy()
        if radius > 0:
            part = reduce_mixture(parameters, radius, tolerance).parameters.copy()
        part["sersic_bin"] = k
        parts.append(part)
    return np.concatenate(parts)


def cost(parameters, radii):
    """Gaussians per source of a ragged list relative to the full mixture for every radius."""
    return len(parameters) / (np.count_nonzero(parameters["sersic_bin"] == 0) * len(radii))


def _grids(parameters, width):
    """x and y (native pixels from the reference point) that resolve the smoothed mixture."""
    raw = smoothed(parameters, width)
    used = np.abs(raw[:, AMP]) > 0
    top = np.sqrt(np.max(raw[used][:, [CXX, CYY]]))
    reach = _REACH * top + np.max(np.abs(raw[used][:, 1:3]))
    n = 2 * int(np.ceil(reach * _SAMPLES / width)) + 1
    half = min(n, _LARGEST) // 2
    # Beyond the largest grid only the faint wings are left out; the core is always resolved.
    step = width / _SAMPLES
    axis = step * np.arange(-half, half + 1)
    return np.meshgrid(axis, axis)
