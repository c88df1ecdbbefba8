"""From a packed patch and starting values to the `Problem` that compiled functions see."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxpho.core.sersic import load_mixture
from jaxpho.fit.options import FitOptions
from jaxpho.fit.parameters import ParameterTable, SourceStart, build_parameters, parameter_bucket
from jaxpho.fit.posterior import Problem


def _components(n: int) -> int:
    """Padded component count: each costs as much as a real one, so steps are fine."""
    step = 1 if n <= 6 else 2 if n <= 16 else 4
    return -(-n // step) * step


def make_problem(
    packed,
    starts: Sequence[SourceStart],
    options: FitOptions,
    mixture: str = "k12",
    nuisances: Sequence | None = None,
) -> tuple[Problem, ParameterTable, int]:
    """Problem, parameter table and padded number of parameters of a packed patch."""
    dtype = np.asarray(packed.patch.data).dtype
    n_e = len(packed.exposures)
    scales = np.abs(np.linalg.det(np.asarray(packed.patch.d)[:n_e, : packed.n_sources])) ** -0.5
    flux_scale = {}
    for band in packed.bands:
        ierr = [packed.pixels(e)["ierr"] for e, b in enumerate(packed.exposure_bands) if b == band]
        ierr = np.concatenate(ierr) if ierr else np.ones(1)
        good = ierr[ierr > 0]
        flux_scale[band] = 7.0 / float(np.median(good)) if len(good) else 1.0
    table, n = build_parameters(
        starts,
        packed.bands,
        options,
        pixel_scale=float(scales.max()),
        cos_dec=float(np.cos(np.radians(packed.reference[1]))),
        flux_scale=flux_scale,
        nuisances=packed.nuisances if nuisances is None else nuisances,
        exposures=packed.exposures,
        exposure_bands=packed.exposure_bands,
        n_exposures=packed.patch.n_exposures,
        size=parameter_bucket,
        component_size=_components,
        dtype=dtype,
    )
    problem = Problem(
        packed.patch, table.scene, table.transform(n, dtype), load_mixture(mixture, dtype)
    )
    return problem, table, n
