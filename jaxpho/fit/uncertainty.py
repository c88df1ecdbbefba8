"""From an optimum to its covariance and to draws of the posterior."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from jaxpho.core.sources import base_name
from jaxpho.fit.checkpoint import Checkpoint
from jaxpho.fit.draws import Draws
from jaxpho.fit.optimize import Z_LIMIT, Optimum
from jaxpho.fit.options import SampleOptions
from jaxpho.fit.posterior import Problem, physical_jacobian, to_physical
from jaxpho.fit.reduce import WORTH_SAMPLING, near, outside, reduce_problem, worth_of
from jaxpho.fit.sample import sample
from jaxpho.fit.target import whitening


def laplace(optimum: Optimum, problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """Covariance of theta and of z at an optimum, [n, n] float64."""
    root = whitening(optimum.curvature)
    covariance = root @ root.T
    z = jnp.asarray(optimum.z, problem.patch.data.dtype)
    jacobian = np.asarray(physical_jacobian(z, problem.transform), np.float64)
    return jacobian @ covariance @ jacobian.T, covariance


def draw(
    fitter,
    optimum: Optimum,
    sampling: SampleOptions,
    key,
    label: str = "",
    checkpoint: Checkpoint | None = None,
) -> tuple[Draws, list[str]]:
    """Mode of the density in z (which exists even where the optimum is at a bound), then draws.

    Parameters
    ----------
    fitter : `jaxpho.fit.driver._Fitter`
    optimum : Optimum
    sampling : SampleOptions
    key : PRNG key, or None
    label : begins the lines of the log.
    checkpoint : where the sampler keeps its state.

    Returns
    -------
    Draws
    messages : list of str
        Which PSF mixtures served the sampler, and whether they were enough.
    """
    start = np.clip(optimum.z, -Z_LIMIT / 2, Z_LIMIT / 2)
    z = np.where(fitter.linear, optimum.z, start)
    theta = to_physical(jnp.asarray(z, fitter.dtype), fitter.problem.transform)
    mode = fitter.optimize(np.asarray(theta), with_volume=True)
    key = jax.random.PRNGKey(0) if key is None else key
    problem, limits, text = _near_mode(fitter, mode)
    messages = [f"sampling: {text}"] if text else []
    if sampling.method == "marginal" and problem.patch.noise is not None:
        sampling = replace(sampling, method="nuts")
        messages.append("fluxes are sampled, not integrated out: the noise is not independent "
                        "and normal")  # fmt: skip
    common = {"fluxes": _fluxes(fitter), "checkpoint": checkpoint}
    rest = sampling, fitter.static, fitter.normal, label
    draws = sample(key, mode, problem, *rest, **common)
    left = outside(limits, fitter.table, fitter.starts, draws.theta) if text else 0
    if left:
        messages.append(f"{left} draws left the shapes that these serve: sampled again without")
        if checkpoint is not None:
            common["checkpoint"] = checkpoint.stage("full")
        draws = sample(key, mode, fitter.problem, *rest, **common)
    positive = common["fluxes"] if sampling.positive else None
    return fitter.noise.widen(draws, mode, fitter.problem, fitter.static, positive), messages


def _fluxes(fitter) -> np.ndarray:
    """[n] bool: fluxes without bounds."""
    out = np.zeros(fitter.n, bool)
    for i, p in enumerate(fitter.table.parameters):
        out[i] = fitter.linear[i] and isinstance(p.owner, int) and base_name(p.name) == "flux"
    return out


def _near_mode(fitter, mode: Optimum):
    """The problem with the PSF mixtures that serve shapes near a mode, these limits, and a text."""
    covariance, _ = laplace(mode, fitter.problem)
    sigma = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    limits = near(fitter.limits, fitter.table, fitter.starts, mode.theta, sigma)
    worth = worth_of(fitter.options, WORTH_SAMPLING)
    problem, text = reduce_problem(fitter.packed, fitter.problem, limits, worth)
    return problem, limits, text
