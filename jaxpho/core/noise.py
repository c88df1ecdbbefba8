"""Noise that is not independent and normal: correlated between pixels, or with heavy tails.

**Correlated.** The covariance is C = S R S, R a correlation by lag and S the quoted errors smoothed
over a few pixels: in a mosaic errors alternate from pixel to pixel with the pattern of the dithers,
while the noise of smooth sources does not. The density of u = (d - m) / S is the product of those
of each pixel given some of the pixels before it, in the order of rows (Vecchia 1988; an
autoregression on the plane, Whittle 1954):

    chi2 = sum_p e_p^2,   e_p = (u_p - sum_k b_pk u_{p-k}) / s_p.

The coefficients b and s follow from R for the neighbours that are not masked; they are constants,
so that whitening costs a few multiplications a pixel. It is a proper density whatever is left out.

**Heavy tails.** Student's t with nu degrees of freedom and a scale of s quoted errors,

    -2 ln p = (nu + 1) ln(1 + u^2 / (nu s^2)),

of which iterated weights (nu + 1) / (nu s^2 + u^2) make least squares (Lange, Little & Taylor
1989, JASA 84, 881).
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from scipy.ndimage import uniform_filter


class Whitening(NamedTuple):
    """Constants of e = W u for the P = M N pixels of a patch, u = (d - m) / sigma.

    The step from sigma to S is part of them.

    Attributes
    ----------
    index : Array
        [K, P] int32, pixels before each; the pixel itself where there is none.
    weight : Array
        [K, P] minus the coefficients b over s, times sigma / S; 0 where there is none.
    own : Array
        [P] 1/s, times sigma / S.
    """

    index: Array
    weight: Array
    own: Array


class Noise(NamedTuple):
    """What is known of the noise beyond 1/sigma: one of the two, or both None.

    Attributes
    ----------
    whitening : Whitening, optional
    student : Array, optional
        [2] degrees of freedom nu and scale s of Student's t.
    """

    whitening: Whitening | None = None
    student: Array | None = None


TEXTURE_BOX = 5
"""Pixels a side over which errors are smoothed where noise is correlated."""


def error_texture(ierr: np.ndarray) -> np.ndarray:
    """sigma / S of an image of 1/sigma [ny, nx]; 1 where it is masked.

    S^2 is the mean of sigma^2 over the unmasked pixels of a box.
    """
    good = ierr > 0
    variance = np.where(good, 1.0 / np.where(good, ierr.astype(float), 1.0) ** 2, 0.0)
    weight = uniform_filter(good.astype(float), TEXTURE_BOX, mode="constant")
    mean = uniform_filter(variance, TEXTURE_BOX, mode="constant") / np.maximum(weight, 1e-12)
    return np.where(good, np.sqrt(variance / np.where(good, mean, 1.0)), 1.0)


def whiten(values: Array, w: Whitening) -> Array:
    """W times values [P, ...]."""
    shape = (-1, *[1] * (values.ndim - 1))

    def add(total, one):
        index, weight = one
        return total + weight.reshape(shape) * values[index], None

    # a loop: dozens of gathers written out would take long to compile
    return lax.scan(add, w.own.reshape(shape) * values, (w.index, w.weight), unroll=4)[0]


def deviance(model: Array, reference: Array, data: Array, ierr: Array, noise: Noise) -> Array:
    """-2 ln p of each pixel [M, N] relative to a reference model, in a form that keeps digits.

    Parameters
    ----------
    model, reference, data, ierr : Array
        [M, N]
    noise : Noise
    """
    change = (reference - model) * ierr
    both = (2.0 * data - reference - model) * ierr
    if noise.student is not None:
        nu, scale = noise.student
        floor = nu * scale * scale
        before = (data - reference) * ierr
        ratio = change * both / (floor + before * before)
        return (nu + 1.0) * jnp.log1p(ratio)
    if noise.whitening is None:
        return change * both
    shape = model.shape
    white = whiten(change.reshape(-1), noise.whitening) * whiten(both.reshape(-1), noise.whitening)
    return white.reshape(shape)


def student_weight(u: Array, student: Array) -> Array:
    """Weights of least squares that stand for Student's t at residuals u over sigma."""
    nu, scale = student
    return (nu + 1.0) / (nu * scale * scale + u * u)


def student_curvature(u: Array, student: Array) -> Array:
    """Second derivative of -ln p by u; negative for outliers."""
    nu, scale = student
    floor = nu * scale * scale
    return (nu + 1.0) * (floor - u * u) / (floor + u * u) ** 2
