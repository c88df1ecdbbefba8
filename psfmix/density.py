"""Posterior density of a Gaussian mixture given one PSF image: rows, priors, numpyro model.

Inside, the stamp's usable pixels sum to 1 and lengths are native pixels. The free parameters z are
those of `psfmix.model.to_raw`, component by component (without the amplitude when it is fixed),
then the background in units of the peak's surface brightness when it is fitted.
"""

from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

from jaxpho.core.gaussians import Gaussians, evaluate
from psfmix.model import AMP, chain, columns, pieces_of
from psfmix.target import build_target

# Images of at most this many usable pixels are compared pixel by pixel, larger ones by blocks.
EXACT_PIXELS = 10_000
# Side of the smallest block of a larger image: the FWHM stays this many blocks wide.
_FINE = 5.5
# Scales of the priors, see `Prior`.
_POSITIVE, _SIGNED = 3.0, 10.0
_CENTRE_FWHM, _WIDTH_HALFSIZE = 2.0, 0.5
# The logarithm of a half-normal variable has the variance pi^2 / 8.
_LOG_PRECISION = 8 / np.pi**2
# Fourth cumulant of a square pixel of side 1 over 4!.
_K4 = -1 / 2880


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


class Rows(NamedTuple):
    """The image as the likelihood sees it, and a mixture that densities are relative to.

    Attributes
    ----------
    x, y : Array
        [row] centres of pixels or blocks.
    variance : Array
        [row] variance of the square that a row is averaged over.
    weight : Array
        [row] one over the error of a row's mean surface brightness.
    residual : Array
        [row] (reference - data) times weight.
    pixel : Array
        [] side of the image pixel that is integrated over, 0 when it is part of the mixture.
    floor : Array
        [] smallest sigma.
    peak : Array
        [] unit of the background.
    amplitude : Array
        [ngauss] amplitudes where they are fixed.
    reference : Array
        [row] model of the reference mixture.
    """

    x: jax.Array
    y: jax.Array
    variance: jax.Array
    weight: jax.Array
    residual: jax.Array
    pixel: jax.Array
    floor: jax.Array
    peak: jax.Array
    amplitude: jax.Array
    reference: jax.Array


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


def model_rows(z, rows, layout):
    """Mean surface brightness [row] of the mixture and the background."""
    raw, background = to_components(z, rows.amplitude, rows.floor, layout)
    return mixture_rows(raw, rows) + background * rows.peak


@jax.custom_vjp
def mixture_rows(raw, rows):
    """Mean surface brightness [row] of a mixture (ngauss, 6)."""
    g, *_, pixel = _images(raw, rows)
    return jnp.sum(evaluate(g, rows.x, rows.y) * pixel, 0)


def _images(raw, rows):
    """Gaussians, F = inverse covariance, F d and the term of the pixel; all [ngauss, row]."""
    amp, x, y, cxx, cyy, cxy = (raw[:, k, None] for k in range(6))
    g = Gaussians(amp, x, y, cxx + rows.variance, cyy + rows.variance, cxy)
    det = g.cxx * g.cyy - cxy * cxy
    fxx, fyy, fxy = g.cyy / det, g.cxx / det, -cxy / det
    dx, dy = rows.x - x, rows.y - y
    vx, vy = fxx * dx + fxy * dy, fxy * dx + fyy * dy
    # fourth cumulant of the square pixel, as in jaxpho.core.pixel
    pixel = 1 + _K4 * rows.pixel**4 * (_hermite4(vx, fxx) + _hermite4(vy, fyy))
    return g, (fxx, fyy, fxy), (vx, vy), pixel


def _hermite4(v, f):
    v2 = v * v
    return v2 * (v2 - 6 * f) + 3 * f * f


def _mixture_forward(raw, rows):
    return mixture_rows(raw, rows), (raw, rows)


def _mixture_backward(saved, cotangent):
    """Derivatives written out: reverse mode spends ten times the time of the model on sums."""
    raw, rows = saved
    g, (fxx, fyy, fxy), (vx, vy), pixel = _images(raw, rows)
    density = evaluate(g._replace(flux=jnp.ones_like(g.flux)), rows.x, rows.y)
    k = _K4 * rows.pixel**4
    # derivatives of the pixel's term with respect to vx, vy, fxx, fyy
    tx, ty = k * 4 * vx * (vx * vx - 3 * fxx), k * 4 * vy * (vy * vy - 3 * fyy)
    qx, qy = k * 6 * (fxx - vx * vx), k * 6 * (fyy - vy * vy)
    px, py = tx * fxx + ty * fxy, tx * fxy + ty * fyy
    slopes = (
        pixel * vx - px,
        pixel * vy - py,
        0.5 * pixel * (vx * vx - fxx) - vx * px - qx * fxx * fxx - qy * fxy * fxy,
        0.5 * pixel * (vy * vy - fyy) - vy * py - qx * fxy * fxy - qy * fyy * fyy,
        pixel * (vx * vy - fxy) - vx * py - vy * px - 2 * fxy * (qx * fxx + qy * fyy),
    )
    # the barrier keeps every image from being computed again for each of the sums
    images = jax.lax.optimization_barrier(tuple(density * s for s in (pixel, *slopes)))
    sums = [jnp.sum(image * cotangent, 1) for image in images]
    return jnp.stack([sums[0], *(g.flux[:, 0] * total for total in sums[1:])], -1), None


mixture_rows.defvjp(_mixture_forward, _mixture_backward)


def log_likelihood(z, rows, layout):
    """Log likelihood relative to the reference, from differences: exact in float32."""
    difference = (model_rows(z, rows, layout) - rows.reference) * rows.weight
    return -0.5 * jnp.sum(difference * (difference + 2 * rows.residual))


def log_prior(z, prior, layout):
    """Log prior of z, up to a constant; volume of the logarithms included."""
    mean, deviation = prior.moments(layout)
    logarithmic = layout.logarithmic()
    value = jnp.where(logarithmic, jnp.exp(jnp.where(logarithmic, z, 0.0)), z)
    pull = ((value - mean) / deviation) ** 2
    return jnp.sum(jnp.where(logarithmic, z, 0.0) - 0.5 * pull)


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
    """

    def __init__(self, target, sigma, layout, floor, amplitude):
        self.target, self.layout, self.floor = target, layout, floor
        self.amplitude = np.asarray(amplitude, float)
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
        curvature = jacobian @ jacobian.T + np.diag(slope**2 * (1 + log) + _LOG_PRECISION * log)
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
        """Background, in units of the peak, that fits best with a mixture."""
        if not self.layout.fit_bg:
            return 0.0
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
