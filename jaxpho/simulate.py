"""Exposures of given sources, as the model sees them: for tests of a fit and for notebooks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from jaxpho.core.sources import SOURCE_TYPES
from jaxpho.data.catalog import Peak
from jaxpho.data.exposure import Exposure, Nuisance
from jaxpho.data.pack import N_RADII, pack_patch
from jaxpho.errors import InputError
from jaxpho.fit.evaluate import model_pixels, problem_of
from jaxpho.fit.options import FitOptions


def simulate_images(
    exposures: Sequence[Exposure],
    sources: Sequence[Peak],
    *,
    seed: int | None = None,
    mixture: str = "k16",
    pixel_mode: str = "fourth",
) -> list[Exposure]:
    """Draw sources into exposures, with noise of their errors.

    Parameters
    ----------
    exposures : sequence of Exposure
        Their WCS, PSF, errors and masks are used; their data and nuisances are not.
    sources : sequence of Peak
        With the flux in every band and all shapes (q and pa left out: round).
    seed : int, optional
        Of the noise, independent Gaussians in every pixel; None draws none.
    mixture : str
        Sersic mixture.
    pixel_mode : str
        Integration over pixels, see `jaxpho.FitOptions`.

    Returns
    -------
    list of Exposure
        The same exposures with other data, 0 where masked.

    Raises
    ------
    InputError
        For a source without a flux, a half-light radius or a Sersic index.
    """
    bands = list(dict.fromkeys(e.band for e in exposures))
    for source in sources:
        _check(source, bands)
    held = [replace(source, fixed=frozenset({"all"})) for source in sources]
    options = FitOptions(pixel_mode=pixel_mode)
    rng = None if seed is None else np.random.default_rng(seed)
    out = []
    for e in exposures:
        ones = np.ones(e.shape, np.float32)
        blank = replace(e, data=0 * ones, ierr=ones, nuisance=Nuisance())
        packed = pack_patch([blank], held, bands=[e.band], n_radii=N_RADII[mixture])
        problem, table, n = problem_of(packed, held, options, mixture)
        (model,) = model_pixels(packed, problem, table.start(n), pixel_mode)
        pixels = packed.pixels(0)
        ny, nx = e.shape
        inside = (pixels["x"] < nx) & (pixels["y"] < ny)
        data = np.zeros(e.shape, np.float32)
        data[pixels["y"][inside], pixels["x"][inside]] = model[inside]
        good = e.ierr > 0
        if rng is not None:
            data = data + rng.standard_normal(e.shape) / np.where(good, e.ierr, 1.0)
        out.append(replace(e, data=np.where(good, data, 0.0).astype(np.float32)))
    return out


def _check(source: Peak, bands: Sequence[str]) -> None:
    """Raise InputError for a source that lacks a value a default would stand in for."""
    kind = SOURCE_TYPES[source.type]
    for name in kind.shapes:
        if name.startswith(("rhalf", "sersic")) and name not in source.values:
            raise InputError(f"source {source.id} ({source.type}) has no {name} in its values")
    for name in kind.fluxes:
        for band in bands:
            if not {(name, band), ("flux", band)} & set(source.flux):
                raise InputError(f"source {source.id} has no {name} in band {band}")
