"""Patches that samplers are compared on: what `make_patch` returns for each name of `PATCHES`.

`case2` is the second reference case of forcepho's format (folder forcepho_format/case2 of
JAXPHO_DATA), with its own splines and pixel integration: four blended galaxies, two bands, eight
exposures, 32 parameters. The others are simulated with the model itself: `single20` and
`single200`, one galaxy at signal-to-noise ratios of 20 and 200; `blend3`, three galaxies 1.2 to 1.5
FWHM apart, two bands; `exposures16`, one galaxy in sixteen exposures of two bands.
"""

import os
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxpho.compat.catalog import read_catalog
from jaxpho.data.arrays import exposure_from_arrays
from jaxpho.data.catalog import Peak
from jaxpho.data.pack import pack_patch
from jaxpho.data.psfmodel import PSFModel
from jaxpho.data.splinestore import read_spline_table
from jaxpho.data.unpack import patch_from_arrays
from jaxpho.fit.evaluate import problem_of
from jaxpho.fit.optimize import Optimum, optimize
from jaxpho.fit.options import FitOptions
from jaxpho.fit.parameters import build_parameters, parameter_bucket
from jaxpho.fit.posterior import Problem, Static, model_of, to_unconstrained
from jaxpho.fit.start import source_starts
from psfmix.fit import from_array

PATCHES = ("case2", "single20", "single200", "blend3", "exposures16")
SCALE, SIZE = 0.2, 32  # arcsec per pixel, pixels a side
PSF = [[0.7, 0.0, 0.0, 1.4, 1.6, 0.1], [0.3, 0.0, 0.0, 5.0, 4.5, 0.0]]
GALAXY = {"rhalf": 0.5, "sersic": 1.8, "e1": 0.15, "e2": -0.1}
BLEND = ((-0.5, 0.1, 1.0), (0.3, -0.4, 0.7), (0.35, 0.55, 0.4))  # arcsec, arcsec, relative flux


class Case(NamedTuple):
    """A problem, what is linear in it, its mode, the number of parameters, and its programs'."""

    problem: Problem
    linear: np.ndarray
    mode: Optimum
    used: int
    static: Static


def make_patch(name: str) -> Case:
    """One of `PATCHES`."""
    if name == "case2":
        data = Path(os.environ.get("JAXPHO_DATA", "../shared/data"))
        return _reference_case(data / "forcepho_format" / "case2")
    single = ((0.02, -0.03, 1.0),)
    return {
        "single20": lambda: _simulated(single, ["r"], 20.0),
        "single200": lambda: _simulated(single, ["r"], 200.0),
        "blend3": lambda: _simulated(BLEND, ["g", "r"], 80.0),
        "exposures16": lambda: _simulated(single, ["g", "r"] * 8, 40.0),
    }[name]()


def _simulated(sources, bands, signal_to_noise: float) -> Case:
    """Galaxies with noise of one a pixel; ``signal_to_noise`` is that of the first, optimally
    weighted, over all exposures."""
    psf = PSFModel(from_array(np.array(PSF))[None])
    empty = np.zeros((SIZE, SIZE), np.float32)
    exposures = [
        exposure_from_arrays(empty, 1.0, psf, band=band, pixel_scale=SCALE, name=f"e{i}")
        for i, band in enumerate(bands)
    ]
    wanted = list(dict.fromkeys(bands))
    peaks = [
        Peak(str(i), "sersic", x / 3600.0, y / 3600.0, dict(GALAXY),
             {("flux", band): 100.0 * flux for band in wanted})
        for i, (x, y, flux) in enumerate(sources)
    ]  # fmt: skip
    packed = pack_patch(exposures, peaks, bands=wanted)
    problem, table, n = problem_of(packed, peaks, FitOptions())
    static = Static("fourth", 1)
    patch = problem.patch
    good = np.asarray(patch.ierr) > 0
    truth = np.asarray(table.start(n), np.float64)
    flux = np.array(
        [p.name == "flux" for p in table.parameters] + [False] * (n - len(table.labels))
    )
    own = np.array([p.owner == 0 for p in table.parameters] + [False] * (n - len(table.labels)))
    first = np.where(flux & ~own, 0.0, truth)
    image = np.asarray(model_of(jnp.asarray(first, jnp.float32), problem, static))
    truth[flux] *= signal_to_noise / np.sqrt((image[good] ** 2).sum())
    image = np.asarray(model_of(jnp.asarray(truth, jnp.float32), problem, static))
    noise = np.random.default_rng(1).standard_normal(image.shape) * good
    problem = problem._replace(
        patch=patch._replace(data=jnp.asarray(image + noise, patch.data.dtype))
    )
    return _finish(problem, table, truth, static)


def _finish(problem, table, start, static) -> Case:
    used = len(table.parameters)
    linear = np.zeros(len(start), bool)
    linear[:used] = table.linear
    z = to_unconstrained(jnp.asarray(start, jnp.float32), problem.transform)
    mode = optimize(np.asarray(z, float), problem, linear, static=static, with_volume=True)
    return Case(problem, linear, mode, used, static)


def _reference_case(folder: Path) -> Case:
    packed = patch_from_arrays(dict(np.load(folder / "expected.npz")), first_psf=True,
                               dtype=np.float32)  # fmt: skip
    splines = read_spline_table(folder / "sersic_splines.h5").splines(np.float32)
    catalog = read_catalog(folder / "peak_catalog.fits")
    peaks = []
    for i, (ra, dec, q, pa, sersic, rhalf) in enumerate(catalog.shapes):
        # forcepho: q = sqrt(b/a), pa in radians from East to North
        values = {"rhalf": rhalf, "sersic": sersic, "q": q**2, "pa": 90 - np.degrees(pa)}
        flux = {("flux", band): catalog.flux[band][i] for band in packed.bands}
        peaks.append(Peak(str(i), "sersic", ra, dec, values, flux))
    starts = source_starts(peaks, packed.bands, packed.reference, pixel_scale=0.06)
    table, n = build_parameters(
        starts, packed.bands, FitOptions(), pixel_scale=0.06,
        cos_dec=float(np.cos(np.radians(packed.reference[1]))),
        flux_scale=dict.fromkeys(packed.bands, 1.0), n_exposures=packed.patch.n_exposures,
        size=parameter_bucket,
    )  # fmt: skip
    problem = Problem(packed.patch, table.scene, table.transform(n), splines)
    return _finish(problem, table, table.start(n), Static("second_order", 1))
