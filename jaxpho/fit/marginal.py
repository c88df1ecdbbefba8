"""The posterior with fluxes and sky integrated out.

Given everything else the model is linear in these, and under normal priors their posterior is
normal: with A the matrix and g the gradient of the normal equations (priors included) at any fixed
values l0,

    -ln p(others) = [chi2(l0) / 2 + priors] - g^T A^-1 g / 2 + ln det A / 2,

and l = l0 - A^-1 g + A^-1/2 eta is a draw of them, eta unit normal (e.g. Bishop 2006, section 2.3).
What is left to sample has fewer dimensions and lacks the strongest correlations of a blend, those
between the fluxes of neighbours and between flux, size and index.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.linalg import solve_triangular

from jaxpho.core.linear import linear_normal
from jaxpho.core.scene import row_gaussians, scene_rows
from jaxpho.fit.posterior import HIGHEST, Problem, Static
from jaxpho.fit.transforms import log_volume, physical, prior_energy


class Layout(NamedTuple):
    """Which entries of z are sampled and which are integrated out.

    Attributes
    ----------
    nonlinear, linear : Array
        [k], [l] int32 indices into z; padding has the index n.
    base : Array
        [n] z at the mode: where the linear ones are expanded about.
    """

    nonlinear: Array
    linear: Array
    base: Array


class Conditional(NamedTuple):
    """What one pass over the pixels says at given nonlinear parameters.

    Attributes
    ----------
    energy : Array
        [] minus the log density with the linear parameters integrated out, up to a constant.
    mean : Array
        [l] mean of the linear z.
    root : Array
        [l, l] lower Cholesky factor of their precision, for z in units of ``scale``.
    scale : Array
        [l]
    """

    energy: Array
    mean: Array
    root: Array
    scale: Array


def make_layout(z: np.ndarray, linear: np.ndarray, size=lambda n: n) -> Layout:
    """Layout of a problem.

    Parameters
    ----------
    z : ndarray
        [n] mode, padding included.
    linear : ndarray
        [n] bool, what to integrate over.
    size : callable
        Padded numbers of sampled and integrated parameters.
    """
    n = len(z)

    def padded(index):
        out = np.full(size(max(len(index), 1)), n, np.int32)
        out[: len(index)] = index
        return jnp.asarray(out)

    return Layout(padded(np.flatnonzero(~linear)), padded(np.flatnonzero(linear)), jnp.asarray(z))


def place(z: Array, nonlinear: Array, layout: Layout) -> Array:
    """The whole of z with the sampled entries set; padding falls away."""
    return z.at[layout.nonlinear].set(nonlinear, mode="drop")


def conditional(
    nonlinear: Array, problem: Problem, layout: Layout, reference: Array | None, static: Static
) -> Conditional:
    """Normal posterior of the linear parameters, and the density of the others.

    Parameters
    ----------
    nonlinear : Array
        [k] sampled entries of z; those of padding are unit normal.
    problem : Problem
    layout : Layout
    reference : Array or None
        [M, N] model that chi2 is relative to.
    static : Static
    """
    patch, scene, tr, mixture = problem
    z = place(layout.base, nonlinear, layout)
    n = len(z)
    theta = physical(z, tr)

    # with reduced PSF mixtures a component has several rows of Gaussians, each with its flux
    terms = patch.terms
    own = slice(None) if terms is None else terms.component
    sersic = terms.bin.shape[1:] if terms is not None else (
        scene.sersic_index.shape[1], patch.psf_bin.shape[-1]
    )  # fmt: skip
    groups = (sersic, (scene.point_index.shape[1], patch.psf_point.flux.shape[-1]))

    def coefficients(theta):
        rows = scene_rows(theta, scene, patch)
        return jnp.concatenate([rows.sersic[:, own, 0], rows.point[..., 0], rows.sky], -1)

    rows = scene_rows(theta, scene, patch)
    unit = rows._replace(
        sersic=rows.sersic.at[..., 0].set(1.0), point=rows.point.at[..., 0].set(1.0)
    )
    chi2, slope, matrix = linear_normal(
        row_gaussians(unit, scene, patch, mixture), coefficients(theta), patch, reference,
        static.mode, groups, static.width,
    )  # fmt: skip
    pad = layout.linear >= n
    at = jnp.minimum(layout.linear, n - 1)
    step = jnp.where(pad, 0.0, tr.scale[at])
    jacobian = jax.jacfwd(coefficients)(theta)[..., at] * step
    pull = tr.precision[at] * step
    gradient = jnp.einsum("eln,el->n", jacobian, slope, precision=HIGHEST)
    gradient += pull * tr.precision[at] * (theta[at] - tr.mean[at])
    half = jnp.einsum("elk,ekn->eln", matrix, jacobian, precision=HIGHEST)
    precision = jnp.einsum("elm,eln->mn", jacobian, half, precision=HIGHEST)
    precision += jnp.diag(pull**2 + pad)
    # scaled to a unit diagonal: fluxes and skies differ by orders of magnitude
    scale = 1.0 / jnp.sqrt(jnp.diag(precision))
    root = jnp.linalg.cholesky(precision * scale[:, None] * scale)
    white = solve_triangular(root, gradient * scale, lower=True)
    mean = z[at] - scale * solve_triangular(root.T, white, lower=False)
    log_det = jnp.sum(jnp.log(jnp.diag(root)) - jnp.log(scale))
    energy = 0.5 * (chi2.high.sum() + chi2.low.sum()) + prior_energy(z, tr) - log_volume(z, tr)
    energy += log_det - 0.5 * white @ white
    energy += 0.5 * jnp.sum(jnp.where(layout.nonlinear >= n, nonlinear, 0.0) ** 2)
    return Conditional(energy, mean, root, scale)


def draw_linear(
    key: Array,
    nonlinear: Array,
    problem: Problem,
    layout: Layout,
    reference: Array | None,
    static: Static,
) -> Array:
    """The whole of theta [n], the linear parameters drawn given the others."""
    found = conditional(nonlinear, problem, layout, reference, static)
    eta = jax.random.normal(key, found.mean.shape, found.mean.dtype)
    linear = found.mean + found.scale * solve_triangular(found.root.T, eta, lower=False)
    z = place(layout.base, nonlinear, layout).at[layout.linear].set(linear, mode="drop")
    return physical(z, problem.transform)


def schur(curvature: np.ndarray, nonlinear: np.ndarray, linear: np.ndarray) -> np.ndarray:
    """Curvature [k, k] of the sampled parameters, the linear ones at their best."""
    if not len(linear):
        return curvature[np.ix_(nonlinear, nonlinear)]
    cross = curvature[np.ix_(linear, nonlinear)]
    block = curvature[np.ix_(linear, linear)]
    unit = 1.0 / np.sqrt(np.diag(block))
    solved = np.linalg.solve(block * np.outer(unit, unit), cross * unit[:, None])
    return curvature[np.ix_(nonlinear, nonlinear)] - (cross * unit[:, None]).T @ solved


def profile(energy, gradient, curvature, layout: Layout):
    """Energy [] and gradient [k] at the best linear parameters, from normal equations in z."""
    n = len(gradient)
    sampled, linear = (np.asarray(i) for i in (layout.nonlinear, layout.linear))
    sampled, linear = sampled[sampled < n], linear[linear < n]
    gradient, curvature = (np.asarray(a, np.float64) for a in (gradient, curvature))
    out = np.zeros(len(layout.nonlinear))
    out[: len(sampled)] = gradient[sampled]
    energy = float(energy)
    if len(linear):
        block = curvature[np.ix_(linear, linear)]
        unit = 1.0 / np.sqrt(np.diag(block))
        scaled = block * np.outer(unit, unit)
        step = -unit * np.linalg.solve(scaled, unit * gradient[linear])
        out[: len(sampled)] += curvature[np.ix_(sampled, linear)] @ step
        energy += 0.5 * gradient[linear] @ step
        energy += 0.5 * np.linalg.slogdet(scaled)[1] - np.log(unit).sum()
    dtype = layout.base.dtype
    return jnp.asarray(energy, dtype), jnp.asarray(out, dtype)
