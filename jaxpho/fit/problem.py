"""From a packed patch and starting values to the `Problem` that compiled functions see."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxpho.core.sersic import load_mixture
from jaxpho.errors import InputError
from jaxpho.fit.links import check_bands
from jaxpho.fit.options import FitOptions
from jaxpho.fit.parameters import ParameterTable, SourceStart, build_parameters, parameter_bucket
from jaxpho.fit.posterior import Problem
from jaxpho.fit.prior_options import check_fluxes


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
    least: dict[str, int] | None = None,
) -> tuple[Problem, ParameterTable, int]:
    """Problem, parameter table and padded number of parameters of a packed patch.

    ``least`` has the smallest numbers of "parameters", "sersic" and "point" components that all is
    padded to, where problems are to share a program.

    Raises
    ------
    InputError
        When the patch was packed for another number of Gaussians than the mixture has: the light
        of those without a PSF would be lost.
    """
    sersic = load_mixture(mixture, np.asarray(packed.patch.data).dtype)
    radii, packed_for = sersic.log_sigma.shape[-1], int(np.max(packed.patch.psf_bin)) + 1
    if radii != packed_for:
        raise InputError(
            f"the patch is packed for {packed_for} Gaussians per galaxy, the Sersic mixture "
            f"{mixture} has {radii}: pack it with n_radii={radii}"
        )
    check_bands(options, packed.bands)
    check_fluxes(options.priors, packed.bands, packed.unit)
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
        # a patch that was read from a file has none
        nuisances=(packed.nuisances or [None] * n_e) if nuisances is None else nuisances,
        exposures=packed.exposures,
        exposure_bands=packed.exposure_bands,
        n_exposures=packed.patch.n_exposures,
        size=lambda k: parameter_bucket(max(k, (least or {}).get("parameters", 0))),
        component_size=_components,
        least=least,
        dtype=dtype,
    )
    problem = Problem(packed.patch, table.scene, table.transform(n, dtype), sersic)
    return problem, table, n


def astrometry_of(packed) -> dict[str, dict[str, np.ndarray]]:
    """Exposure -> {"D", "CW": [S, 2, 2], "crpix", "crval": [S, 2]} of a packed patch.

    As in the specification: pixel/arcsec, pixel/deg, pixels of the image, degrees from the
    reference.
    """
    patch, n_s = packed.patch, packed.n_sources
    out = {}
    for e, name in enumerate(packed.exposures):
        out[name] = {
            "D": np.asarray(patch.d[e, :n_s], np.float64),
            "CW": np.asarray(patch.cw[e, :n_s], np.float64),
            "crpix": np.asarray(patch.crpix[e, :n_s], np.float64) + np.asarray(patch.pix0[e]),
            "crval": np.asarray(patch.crval[e, :n_s], np.float64),
        }
    return out
