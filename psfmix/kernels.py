"""The rows of a PSF image under a Gaussian mixture, in JAX, with derivatives written out."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxpho.core.gaussians import Gaussians, evaluate

# Fourth cumulant of a square pixel of side 1 over 4!.
_K4 = -1 / 2880


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
