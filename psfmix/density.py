"""Posterior density of a Gaussian mixture given one PSF image: likelihood, numpyro model, mode.

Inside, the stamp's usable pixels sum to 1 and lengths are native pixels. The free parameters z are
those of `psfmix.priors`.
"""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

from psfmix.kernels import Rows, mixture_rows
from psfmix.model import AMP, chain, columns, pieces_of
from psfmix.priors import LOG_PRECISION, Prior, log_prior, prior_of, to_components
from psfmix.target import build_target

# Images of at most this many usable pixels are compared pixel by pixel, larger ones by blocks.
EXACT_PIXELS = 10_000
# Side of the smallest block of a larger image: the FWHM stays this many blocks wide.
_FINE = 5.5


def likelihood_target(image, **layout):
    """Target of `psfmix.target` with the rows of the likelihood, in units of the stamp's sum.

    Up to `EXACT_PIXELS` usable pixels every pixel is a row and the likelihood is that of the image.
    Of larger images, blocks far from the core (or, for very finely sampled ones, in the core too)
    are averaged and their errors go down with the root of their area. This leaves out only what
    the pixels of a block say about differences between them.
    """
    target = build_target(image, **layout)
    valid = np.isfinite(target.image)
    if np.count_nonzero(valid) > EXACT_PIXELS:
        pixels = target.fwhm * target.oversample
        if pixels >= 2 * _FINE:
            target = build_target(image, **layout, smallest=pixels / _FINE)
        return target
    gx, gy = target.grid()
    weight = np.ones(valid.shape)
    if layout.get("weight") is not None:
        trim = layout.get("trim", 0)
        ny, nx = np.shape(image)
        weight = np.asarray(layout["weight"], float)[trim : ny - trim, trim : nx - trim]
    return replace(
        target,
        x=gx[valid],
        y=gy[valid],
        value=target.image[valid] * target.oversample**2,
        weight=np.sqrt(weight[valid] / weight[valid].max()),
        groups=[(slice(0, int(valid.sum())), target.pixel_variance)],
    )


def model_rows(z, rows, layout):
    """Mean surface brightness [row] of the mixture and the background."""
    raw, background = to_components(z, rows.amplitude, rows.floor, layout)
    return mixture_rows(raw, rows) + background * rows.peak


def log_likelihood(z, rows, layout):
    """Log likelihood relative to the reference, from differences: exact in float32."""
    difference = (model_rows(z, rows, layout) - rows.reference) * rows.weight
    return -0.5 * jnp.sum(difference * (difference + 2 * rows.residual))


def whitened_mixture(rows, prior, centre, factor, layout):
    """numpyro model: one site ``xi`` [n] with ``z = centre + factor xi``, near a unit normal."""
    size = (layout.size,)
    xi = numpyro.sample("xi", dist.ImproperUniform(dist.constraints.real_vector, (), size))
    z = centre + jnp.sum(factor * xi, -1)
    numpyro.factor("likelihood", log_likelihood(z, rows, layout))
    numpyro.factor("prior", log_prior(z, prior, layout))


class Density:
    """The same density in float64 numpy, with its gradient and Gauss-Newton curvature.

    Parameters
    ----------
    target : Target
        See `likelihood_target`.
    sigma : float
        Error of a pixel's surface brightness, in units of the stamp's sum per native pixel^2.
    layout : Layout
    floor : float
    amplitude : array (ngauss,)
        Held when `layout.fix_amplitude`.
    start_background : float, optional
        Background of the start in units of the peak; default: what fits best with it.
    """

    def __init__(self, target, sigma, layout, floor, amplitude, start_background=None):
        self.target, self.layout, self.floor = target, layout, floor
        self.amplitude = np.asarray(amplitude, float)
        self.start_background = start_background
        self.sigma, self.weight = sigma, target.weight / sigma
        self.prior = prior_of(target, layout.signed)
        self._moments = Prior(*map(np.float64, self.prior)).moments(layout, np)

    def components(self, z):
        """Mixtures (..., ngauss, 6) and backgrounds (...,) in units of the peak."""
        return to_components(np.asarray(z, float), self.amplitude, self.floor, self.layout, np)

    def rows_of(self, raw, background=0.0):
        """Model [row] of a mixture (ngauss, 6)."""
        pieces = pieces_of(raw, self.target)
        return raw[:, AMP] @ pieces.value + background * self.target.peak

    def log_likelihood(self, raw, background=0.0):
        """-chi2 / 2 of a mixture (ngauss, 6)."""
        residual = (self.rows_of(raw, background) - self.target.value) * self.weight
        return -0.5 * float(residual @ residual)

    def light(self, background):
        """The stamp's sum (1) less that of a background in units of the peak."""
        area = self.target.image.size / self.target.oversample**2
        return 1 - background * self.target.peak * area

    def evaluate(self, z):
        """Log posterior, its gradient [n] and its curvature [n, n].

        The gradient leaves out the derivative of the pixel's fourth cumulant, the curvature also
        the model's second derivatives; logarithms get the precision of a half-normal's at least.
        """
        layout, target = self.layout, self.target
        raw, background = self.components(z)
        pieces = pieces_of(raw, target)
        model = raw[:, AMP] @ pieces.value + background * target.peak
        residual = (model - target.value) * self.weight
        n = layout.ngauss
        free = z[: n * (6 - layout.fix_amplitude)].reshape(n, -1)
        if layout.fix_amplitude:
            free = np.concatenate([np.zeros((n, 1)), free], axis=1)
        jacobian = np.einsum(
            "krf,rkp->kfp", chain(free, layout.signed), columns(raw, target, pieces)
        )
        jacobian = jacobian[:, int(layout.fix_amplitude) :].reshape(-1, len(target.x))
        if layout.fit_bg:
            jacobian = np.vstack([jacobian, np.full(len(target.x), target.peak)])
        jacobian = jacobian * self.weight
        mean, deviation = self._moments
        log = layout.logarithmic()
        value = np.where(log, np.exp(np.where(log, z, 0.0)), z)
        pull = (value - mean) / deviation
        total = -0.5 * residual @ residual + np.sum(z[log]) - 0.5 * pull @ pull
        slope = np.where(log, value, 1.0) / deviation
        gradient = -jacobian @ residual + log - pull * slope
        curvature = jacobian @ jacobian.T + np.diag(slope**2 * (1 + log) + LOG_PRECISION * log)
        return total, gradient, curvature

    def mode(self, z, max_steps=200):
        """Climb from z to a mode by damped Gauss-Newton steps; returns z and the curvature."""
        value, gradient, curvature = self.evaluate(z)
        damping = 1e-3
        for _ in range(max_steps):
            scale = np.diag(np.diag(curvature))
            step = np.linalg.solve(curvature + damping * scale, gradient)
            if step @ gradient < 1e-3:
                break
            trial = z + np.clip(step, -1, 1)
            found = self.evaluate(trial)
            if found[0] > value:
                z, (value, gradient, curvature) = trial, found
                damping = max(0.2 * damping, 1e-9)
            elif damping > 1e8:
                break
            else:
                damping *= 5
        return z, curvature

    def best_background(self, raw):
        """Background, in units of the peak, that goes with the start: the best, or as given."""
        if not self.layout.fit_bg:
            return 0.0
        if self.start_background is not None:
            return self.start_background
        left = (self.target.value - self.rows_of(raw)) * self.weight
        sky = self.target.peak * self.weight
        return float(left @ sky / (sky @ sky))

    def rows(self, z, dtype):
        """What the compiled density reads, relative to the mixture at z."""
        target = self.target
        reference = self.rows_of(*self.components(z))
        variance = np.empty(len(target.x))
        for rows, extra in target.groups:
            variance[rows] = extra
        fields = (
            target.x,
            target.y,
            variance,
            self.weight,
            (reference - target.value) * self.weight,
            np.sqrt(12 * target.pixel_variance),
            self.floor,
            target.peak,
            self.amplitude,
            reference,
        )
        return Rows(*(jnp.asarray(field, dtype) for field in fields))
