"""Errors where pixels are fitted as if independent although their noise is correlated.

With J the derivatives of the model over sigma, the information that independent pixels would have
is F = J^T J. Its score has the variance B = K^T R K, K = J S / sigma, when the noise has the
correlation R and the smooth errors S (`jaxpho.core.noise`), so what
the fit really knows is Godambe's information G = F B^-1 F. With the curvature P of the priors the
posterior has the covariance V = (G + P)^-1 instead of (F + P)^-1 (White 1982; Varin, Reid & Firth
2011). Draws of the likelihood of independent pixels are moved by the linear map about the mode, in
the unconstrained parameters, that makes the one covariance of the other (the open-faced sandwich
of Shaby 2014, with the priors kept out of the correction).
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxpho.core.fisher import flat_rows, row_images
from jaxpho.core.noise import error_texture, student_curvature
from jaxpho.core.scene import scene_rows
from jaxpho.fit.posterior import Problem, Static
from jaxpho.fit.transforms import inverse, physical
from jaxpho.fit.widen_positive import widen_positive

_LEAST = 1e-9
"""Information, relative to that of the posterior, below which a direction is the prior's alone."""
_MARGIN = 1e-12
"""Of double precision: draws keep their distance from bounds."""


@partial(jax.jit, static_argnames="static")
def _row_jacobian(z, problem: Problem, static: Static):
    """Derivatives of pixels over sigma by rows [M, L, N], and of rows by z [E, L, n]."""
    patch, scene, tr, mixture = problem
    theta = physical(z, tr)
    rows = scene_rows(theta, scene, patch)
    model, images = row_images(rows, scene, patch, mixture, static.mode)
    ierr = patch.ierr
    if patch.noise is not None and patch.noise.student is not None:
        # what outliers take away from the information is left out: it is next to nothing
        u = (patch.data - model) * ierr
        curvature = student_curvature(u, patch.noise.student)
        ierr = ierr * jnp.sqrt(jnp.maximum(curvature, 0.0))
    by_z = jax.jacfwd(lambda z: flat_rows(scene_rows(physical(z, tr), scene, patch)))(z)
    return images * ierr[:, None], by_z


def informations(
    z: np.ndarray, problem: Problem, packed, correlations, static: Static
) -> tuple[np.ndarray, np.ndarray]:
    """F = J^T J and B = K^T R K in z, [n, n] each; for Student's t with its curvature as weight.

    Parameters
    ----------
    z : ndarray
        [n]
    problem : Problem
    packed : PackedPatch
        Says which blocks are whose.
    correlations : list
        Of each exposure, [2 L + 1, 2 L + 1] by lag, or None.
    static : Static
    """
    dtype = problem.patch.data.dtype
    images, by_z = _row_jacobian(jnp.asarray(z, dtype), problem, static)
    images, by_z = np.asarray(images), np.asarray(by_z, np.float64)
    patch = problem.patch
    x, y = np.rint(patch.xpix()).astype(int), np.rint(patch.ypix()).astype(int)
    n = len(z)
    plain, spread = np.zeros((n, n)), np.zeros((n, n))
    for e, at in enumerate(packed.blocks):
        rows = np.swapaxes(images[at], 0, 1).reshape(images.shape[1], -1)
        used = (np.asarray(patch.ierr)[at] > 0).reshape(-1)
        rows = rows[:, used].astype(np.float64)
        if not rows.shape[1]:
            continue
        jacobian = by_z[e]
        own = jacobian.T @ (rows @ rows.T) @ jacobian
        plain += own
        rho = correlations[e]
        if rho is None:
            spread += own
            continue
        px, py = x[at].reshape(-1)[used], y[at].reshape(-1)[used]
        rows = rows / _texture(px, py, np.asarray(patch.ierr)[at].reshape(-1)[used])
        moved = correlate_pixels(rows, px, py, rho)
        spread += jacobian.T @ (moved @ rows.T) @ jacobian
    return plain, (spread + spread.T) / 2


def _texture(x, y, ierr):
    """sigma / S of pixels, see `jaxpho.core.noise.error_texture`."""
    x, y = x - x.min(), y - y.min()
    image = np.zeros((y.max() + 1, x.max() + 1))
    image[y, x] = ierr
    return error_texture(image)[y, x]


def correlate_pixels(rows: np.ndarray, x: np.ndarray, y: np.ndarray, rho: np.ndarray) -> np.ndarray:
    """R times rows [L, p] of pixels at x, y [p]; pixels that are not listed count as zero."""
    x, y, reach = x - x.min(), y - y.min(), len(rho) // 2
    size = [int(v.max()) + 2 * reach + 1 for v in (y, x)]
    kernel = np.zeros(size)
    kernel[: 2 * reach + 1, : 2 * reach + 1] = rho
    spectrum = np.fft.rfft2(np.roll(kernel, (-reach, -reach), (0, 1))).real
    out = np.empty_like(rows)
    for k, row in enumerate(rows):
        image = np.zeros(size)
        image[y, x] = row
        out[k] = np.fft.irfft2(np.fft.rfft2(image) * spectrum, size)[y, x]
    return out


def _root(matrix: np.ndarray) -> np.ndarray:
    value, basis = np.linalg.eigh(matrix)
    return (basis * np.sqrt(np.maximum(value, 0.0))) @ basis.T


def correction(curvature: np.ndarray, plain: np.ndarray, spread: np.ndarray):
    """Covariance with correlated noise, and the map of draws, from matrices in z.

    Parameters
    ----------
    curvature : ndarray
        [n, n] of the posterior of independent pixels, F + P.
    plain, spread : ndarray
        F and B.

    Returns
    -------
    covariance : ndarray
        V = (F B^-1 F + P)^-1.
    stretch : ndarray
        S with S (F + P)^-1 S^T = V; the identity where B = F.
    """
    scale = 1.0 / np.sqrt(np.maximum(np.diag(curvature), 1e-30))
    value, basis = np.linalg.eigh(curvature * np.outer(scale, scale))
    value = np.maximum(value, 1e-8 * value.max())
    root = scale[:, None] * ((basis / np.sqrt(value)) @ basis.T)
    back = ((basis * np.sqrt(value)) @ basis.T) / scale
    f, b = (root.T @ m @ root for m in (plain, spread))
    level, axes = np.linalg.eigh((f + f.T) / 2)
    known = level > _LEAST
    level, axes = level[known], axes[:, known]
    # G = F B^-1 F within the directions that the data know
    inner = axes.T @ ((b + b.T) / 2) @ axes
    godambe = level[:, None] * np.linalg.solve(inner, np.diag(level))
    change = axes @ (godambe - np.diag(level)) @ axes.T
    white = np.linalg.inv(np.eye(len(f)) + (change + change.T) / 2)
    white = (white + white.T) / 2
    return root @ white @ root.T, root @ _root(white) @ back


def move_draws(
    theta: np.ndarray,
    centre: np.ndarray,
    stretch: np.ndarray,
    tr,
    positive: np.ndarray | None = None,
    before: np.ndarray | None = None,
) -> np.ndarray:
    """Draws [..., n] of theta moved about a mode.

    Parameters
    ----------
    theta : ndarray
        [..., n] physical parameters.
    centre : ndarray
        [n] mode in z.
    stretch : ndarray
        [n, n] from `correction`.
    tr : Transform
    positive : ndarray, optional
        [n] bool, linear parameters without draws below zero, which are to have none.
    before : ndarray, optional
        [n, n] covariance in z that is stretched; needed with ``positive``.
    """
    flat = theta.reshape(-1, theta.shape[-1])
    with jax.enable_x64(True):
        wide = jax.tree.map(
            lambda a: jnp.asarray(np.asarray(a), jnp.float64)
            if np.asarray(a).dtype.kind == "f" else jnp.asarray(np.asarray(a)), tr
        )  # fmt: skip
        z = np.asarray(_inverse(jnp.asarray(flat, jnp.float64), wide))
        if positive is None or not np.any(positive):
            moved = centre + (z - centre) @ stretch.T
        else:
            shift = np.asarray(wide.centre / wide.scale)
            # from the zero of the flux itself: draws near it keep their digits
            z = np.where(positive, flat / np.asarray(wide.scale), z)
            middle = np.where(positive, centre + shift, centre)
            after = stretch @ before @ stretch.T
            moved = widen_positive(z, middle, before, after, positive)
            fluxes = moved * np.asarray(wide.scale)
            moved = np.where(positive, moved - shift, moved)
        out = np.asarray(_physical(jnp.asarray(moved), wide))
        if positive is not None and np.any(positive):
            out = np.where(positive, fluxes, out)
    return out.reshape(theta.shape).astype(theta.dtype)


_inverse = jax.jit(jax.vmap(partial(inverse, margin=_MARGIN), (0, None)))
_physical = jax.jit(jax.vmap(physical, (0, None)))
