"""Would a nuisance that is not free improve the fit? A score test at the optimum."""

from __future__ import annotations

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np

from jaxpho.fit.optimize import solve_scaled
from jaxpho.fit.posterior import evaluate, to_unconstrained
from jaxpho.fit.problem import make_problem
from jaxpho.fit.quality import SourceArea

EXCESS_SIGMA = 5.0
"""chi2 must exceed the number of pixels by this many standard deviations before we look."""
GAIN_PER_EXPOSURE = 9.0
"""Predicted fall of chi2 per exposure (two parameters) that is worth telling."""


def _excess(chi2, npix) -> np.ndarray:
    """Whether chi2 is beyond what noise makes of so many pixels."""
    npix = np.asarray(npix, float)
    return np.asarray(chi2) > npix + EXCESS_SIGMA * np.sqrt(2.0 * npix)


def _fall(gradient: np.ndarray, curvature: np.ndarray) -> float:
    """Fall of chi2 to the minimum of a quadratic model of chi2 / 2."""
    return float(gradient @ solve_scaled(curvature, gradient))


def astrometry_gain(
    fitter, optimum, chi2: np.ndarray, npix: np.ndarray, areas: SourceArea
) -> list[str]:
    """Message when free astrometric offsets per exposure would lower chi2 a lot.

    Asked only when chi2 of all pixels or within the area of one source is too large: where errors
    are overestimated the whole says nothing about a star that is off.

    The fall of chi2 is predicted from gradient and Fisher matrix with the offsets added at zero,
    all other parameters following: one evaluation, no fit.
    """
    packed = fitter.packed
    n_e = len(packed.exposures)
    offsets_free = any(n is not None and n.offset_sigma > 0 for n in packed.nuisances)
    poor = _excess(chi2.sum(), npix.sum()) or _excess(areas.chi2, areas.npix).any()
    if offsets_free or n_e < 2 or not poor:
        return []
    neutral = SimpleNamespace(scale_sigma=0.0, sky="none")
    free = [
        SimpleNamespace(
            **vars(neutral if n is None else n)
            | {"offset_sigma": fitter.pixel, "offset_group": "exposure"}
        )
        for n in packed.nuisances
    ]
    problem, table, n = make_problem(
        packed, fitter.starts, fitter.options, fitter.mixture, nuisances=free
    )
    known = dict(zip(fitter.table.labels, optimum.theta, strict=False))
    theta = np.zeros(n)
    theta[: len(table.parameters)] = [known.get(label, 0.0) for label in table.labels]
    z = to_unconstrained(jnp.asarray(theta, fitter.dtype), problem.transform)
    found = evaluate(z, problem, problem.patch.data, static=fitter.static)
    gradient = np.asarray(found.gradient, np.float64)
    curvature = np.asarray(found.curvature, np.float64)
    # what the other parameters would gain by themselves, pressing against a bound, is not ours
    others = np.ones(n, bool)
    others[[i for i, label in enumerate(table.labels) if label[1] in ("dra", "ddec")]] = False
    gain = _fall(gradient, curvature) - _fall(gradient[others], curvature[np.ix_(others, others)])
    if gain < GAIN_PER_EXPOSURE * n_e:
        return []
    return [
        f"an astrometric offset per exposure would lower chi2 by about {gain:.0f}: "
        "consider images.astrometry.offset_sigma"
    ]
