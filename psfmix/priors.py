"""Priors of a Gaussian mixture's posterior, and the free parameters that they are of.

Inside, the stamp's usable pixels sum to 1 and lengths are native pixels. The free parameters z are
those of `psfmix.model.to_raw`, component by component (without the amplitude when it is fixed),
then the background in units of the peak's surface brightness when it is fitted.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# Scales of the priors, see `Prior`.
_POSITIVE, _SIGNED = 3.0, 10.0
_CENTRE_FWHM, _WIDTH_HALFSIZE = 2.0, 0.5
# The logarithm of a half-normal variable has the variance pi^2 / 8.
LOG_PRECISION = 8 / np.pi**2


class Layout(NamedTuple):
    """What a program is compiled for."""

    ngauss: int
    signed: bool
    fix_amplitude: bool
    fit_bg: bool

    @property
    def size(self):
        """Number of free parameters."""
        return self.ngauss * (6 - self.fix_amplitude) + self.fit_bg

    def logarithmic(self):
        """Mask of the free parameters that are logarithms."""
        block = [False, False, True, False, True]
        if not self.fix_amplitude:
            block = [not self.signed, *block]
        return np.array(block * self.ngauss + [False] * self.fit_bg)


class Prior(NamedTuple):
    """Weak, proper priors; all normal with mean zero unless said otherwise.

    Attributes
    ----------
    amplitude : Array
        Standard deviation of an amplitude, in units of the stamp's sum: 3 (half-normal) for
        positive ones, 10 for signed ones, which cancel.
    x, y : Array
        Mean of the centres: centroid of the core.
    centre : Array
        Standard deviation of the centres, twice the FWHM.
    width : Array
        Standard deviation of the elements of L (the covariance is floor^2 I + L L^T): half of the
        stamp's half width. Half-normal for the diagonal.

    The background is in units of the peak and has a standard deviation of 1.
    """

    amplitude: jax.Array
    x: jax.Array
    y: jax.Array
    centre: jax.Array
    width: jax.Array

    def moments(self, layout, xp=jnp):
        """Mean and standard deviation [layout.size], of exp(z) where z is a logarithm."""
        zero = xp.zeros_like(self.width)
        mean = [self.x, self.y, zero, zero, zero]
        deviation = [self.centre, self.centre, self.width, self.width, self.width]
        if not layout.fix_amplitude:
            mean, deviation = [zero, *mean], [self.amplitude, *deviation]
        mean = mean * layout.ngauss + [zero] * layout.fit_bg
        deviation = deviation * layout.ngauss + [zero + 1] * layout.fit_bg
        return xp.stack(mean), xp.stack(deviation)


def prior_of(target, signed):
    """The priors for an image, as Python floats."""
    return Prior(
        _SIGNED if signed else _POSITIVE,
        *target.ee_center,
        _CENTRE_FWHM * max(target.fwhm, 1.0),
        _WIDTH_HALFSIZE * target.halfsize,
    )


def to_components(z, amplitude, floor, layout, xp=jnp):
    """Free parameters to mixtures.

    Parameters
    ----------
    z : array (..., layout.size)
    amplitude : array (ngauss,)
        Used when amplitudes are fixed.
    floor : float
        Smallest sigma, native pixels.
    layout : Layout
    xp : module
        numpy or jax.numpy.

    Returns
    -------
    array (..., ngauss, 6)
        amp, x, y, Cxx, Cyy, Cxy.
    background : array (...,)
        In units of the peak.
    """
    n = layout.ngauss
    background = z[..., -1] if layout.fit_bg else xp.zeros_like(z[..., 0])
    parts = z[..., : n * (6 - layout.fix_amplitude)].reshape(*z.shape[:-1], n, -1)
    if layout.fix_amplitude:
        amp = xp.broadcast_to(amplitude, parts.shape[:-1])
    else:
        amp = parts[..., 0] if layout.signed else xp.exp(parts[..., 0])
        parts = parts[..., 1:]
    x, y = parts[..., 0], parts[..., 1]
    l11, l21, l22 = xp.exp(parts[..., 2]), parts[..., 3], xp.exp(parts[..., 4])
    cxx, cyy = floor**2 + l11 * l11, floor**2 + l21 * l21 + l22 * l22
    return xp.stack([amp, x, y, cxx, cyy, l11 * l21], -1), background


def log_prior(z, prior, layout):
    """Log prior of z, up to a constant; volume of the logarithms included."""
    mean, deviation = prior.moments(layout)
    logarithmic = layout.logarithmic()
    value = jnp.where(logarithmic, jnp.exp(jnp.where(logarithmic, z, 0.0)), z)
    pull = ((value - mean) / deviation) ** 2
    return jnp.sum(jnp.where(logarithmic, z, 0.0) - 0.5 * pull)
