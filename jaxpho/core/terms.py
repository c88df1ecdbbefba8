"""Rows of Gaussians that belong to one component each: no component pays for another's padding.

A component whose wide Gaussians see reduced PSF mixtures has fewer Gaussians than the number of
its radii times that of the full mixture, and each component another number of them. Its list is cut
into rows of equal length; all rows of all components are one array.
"""

from typing import NamedTuple

import numpy as np
from jax import Array

from jaxpho.core.gaussians import Gaussians


class Terms(NamedTuple):
    """PSF Gaussians of all Sersic components of a scene, N rows of Q.

    Attributes
    ----------
    psf : Gaussians
        [E, N, Q] flux (amplitude), centre and covariance, pixels; padding has no flux.
    bin : Array
        [E, N, Q] int32, Sersic radius that each one multiplies.
    component : Array
        [N] int32, Sersic component of the scene that a row belongs to.
    """

    psf: Gaussians
    bin: Array
    component: Array


class ShapeRange(NamedTuple):
    """The Gaussians that a Sersic component may be made of, over the shapes that it may have.

    Attributes
    ----------
    source : int
    sigma, amplitude : ndarray
        [G, K] widths (circularised, arcsec) and fractions of the flux, for G shapes.
    minor : float
        Square root of the least axis ratio: a Gaussian is narrower by this along its minor axis.
    """

    source: int
    sigma: np.ndarray
    amplitude: np.ndarray
    minor: float
