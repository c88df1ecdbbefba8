"""The likelihood and the posterior of a patch at given values, once, without a fit."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxpho.errors import InputError
from jaxpho.fit.options import FitOptions
from jaxpho.fit.parameters import ParameterTable
from jaxpho.fit.posterior import (
    Problem,
    Static,
    log_density,
    log_likelihood,
    model_of,
    to_unconstrained,
)
from jaxpho.fit.problem import make_problem
from jaxpho.fit.start import source_starts

_gradients = jax.jit(jax.value_and_grad(log_likelihood), static_argnames="static")
_densities = jax.jit(jax.value_and_grad(log_density), static_argnames="static")


def pixel_scale_of(packed) -> float:
    """Largest pixel of a patch, arcsec."""
    d = np.asarray(packed.patch.d)[: len(packed.exposures), :1]
    return float((np.abs(np.linalg.det(d)) ** -0.5).max())


def problem_of(packed, peaks: Sequence, options: FitOptions, mixture: str = "k12"):
    """Problem, parameter table and padded number of parameters of a patch and its sources."""
    starts = source_starts(
        peaks, packed.bands, packed.reference, pixel_scale=pixel_scale_of(packed),
        q_min=options.q_min,
    )  # fmt: skip
    return make_problem(packed, starts, options, mixture)


def parameter_names(table: ParameterTable) -> list[str]:
    """Names of the free parameters: r_0 (flux), ra_0, flux_disk_r_1, sky_exposure ..."""
    out = []
    for owner, name, band in table.labels:
        parts = [band] if name == "flux" else [name, band] if band else [name]
        out.append("_".join([*parts, str(owner if isinstance(owner, int) else owner[1])]))
    return out


def model_pixels(packed, problem: Problem, theta, mode: str) -> list[np.ndarray]:
    """Model of the pixels of each exposure, padding left out."""
    dtype = np.asarray(packed.patch.data).dtype
    model = np.asarray(model_of(jnp.asarray(theta, dtype), problem, Static(mode)))
    return [packed.pixels(e, model=model)["model"] for e in range(len(packed.exposures))]


def evaluate_patch(
    packed,
    peaks: Sequence,
    options: FitOptions | None = None,
    mixture: str = "k12",
    params=None,
) -> dict[str, np.ndarray]:
    """chi2, its gradient, the posterior and residuals of a patch.

    Parameters
    ----------
    packed : PackedPatch
    peaks : sequence of Peak
        The values, and what is held.
    options : FitOptions, optional
        Priors and pixel integration.
    mixture : str
        Sersic mixture.
    params : ndarray, optional
        Free parameters in the order of ``param_names``, instead of the peaks' values.

    Returns
    -------
    dict
        ``chi2`` [B] sum of ((d - m)/sigma)^2, ``lnlike`` -chi2/2 of all bands, ``lnlike_grad``
        [npar], ``params``, ``param_names``, ``bounded_lnp`` (with priors and the volume of the
        map to the sampler's variables, constants left out), ``bounded_lnp_grad`` [npar] in these
        variables ``z``, ``residual`` [pixel].

    Raises
    ------
    InputError
        When ``params`` has another length.
    """
    options = options or FitOptions()
    problem, table, n = problem_of(packed, peaks, options, mixture)
    free, static = len(table.parameters), Static(options.pixel_mode)
    theta = table.start(n, np.float64)
    if params is not None:
        if np.shape(params) != (free,):
            raise InputError(
                f"the parameters have shape {np.shape(params)}, expected ({free},): "
                + ", ".join(parameter_names(table))
            )
        theta[:free] = params
    dtype = np.asarray(packed.patch.data).dtype
    values = jnp.asarray(theta, dtype)
    relative, gradient = _gradients(values, problem, None, static=static)
    z = to_unconstrained(values, problem.transform)
    density, density_gradient = _densities(z, problem, None, static=static)
    band_of = [packed.bands.index(band) for band in packed.exposure_bands]
    chi2, residuals = np.zeros(len(packed.bands)), []
    for e, model in enumerate(model_pixels(packed, problem, theta, options.pixel_mode)):
        pixels = packed.pixels(e)
        data, ierr = pixels["data"].astype(np.float64), pixels["ierr"].astype(np.float64)
        residuals.append(pixels["data"] - model)
        chi2[band_of[e]] += (((data - model) * ierr) ** 2).sum()
    return {
        "chi2": chi2,
        "lnlike": np.float64(-0.5 * chi2.sum()),
        "lnlike_grad": np.asarray(gradient, np.float64)[:free],
        "params": theta[:free],
        "param_names": np.array(parameter_names(table)),
        "z": np.asarray(z, np.float64)[:free],
        # the kernel counts from the empty model; the exact sum puts it back
        "bounded_lnp": np.float64(float(density) - float(relative) - 0.5 * chi2.sum()),
        "bounded_lnp_grad": np.asarray(density_gradient, np.float64)[:free],
        "residual": np.concatenate(residuals).astype(np.float32),
    }


def models_of_draws(
    packed,
    peaks: Sequence,
    draws,
    options: FitOptions | None = None,
    mixture: str = "k12",
) -> dict[str, np.ndarray]:
    """Models of the pixels of a patch at draws of its posterior.

    Parameters
    ----------
    packed : PackedPatch
    peaks : sequence of Peak
        As fitted.
    draws : array
        [n, npar] free parameters, in the order of the fit's labels.
    options : FitOptions, optional
    mixture : str
        Sersic mixture.

    Returns
    -------
    dict
        Exposure name -> [n, pixel], in the unit of the data.

    Raises
    ------
    InputError
        When the draws have another number of parameters.
    """
    options = options or FitOptions()
    problem, table, n = problem_of(packed, peaks, options, mixture)
    free = len(table.parameters)
    draws = np.atleast_2d(np.asarray(draws, float))
    if draws.shape[1] != free:
        raise InputError(
            f"the draws have {draws.shape[1]} parameters, those of the patch are {free}"
        )
    theta = table.start(n, np.float64)
    out: dict[str, list] = {name: [] for name in packed.exposures}
    for draw in draws:
        theta[:free] = draw
        models = model_pixels(packed, problem, theta, options.pixel_mode)
        for name, model in zip(packed.exposures, models, strict=True):
            out[name].append(model)
    return {name: np.array(models) for name, models in out.items()}
