"""The free parameters of a patch: names, starting values, bounds, priors, and their packing.

Turns sources (type, starting values, what is held) and exposures' nuisances into the flat vector
theta, the `Scene` that reads it, and the `Transform` the samplers use.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import jax.numpy as jnp
import numpy as np

from jaxpho.core.scene import NUISANCE, POINT_ROW, ROW, Link, Scene
from jaxpho.core.sources import SHAPE, SOURCE_TYPES, base_name
from jaxpho.fit.links import differences
from jaxpho.fit.options import FitOptions, PriorOptions
from jaxpho.fit.priors import prior_of, size_given_flux
from jaxpho.fit.table import FLAT_WIDTH, Parameter, ParameterTable, SourceStart

__all__ = ["FLAT_WIDTH", "Parameter", "ParameterTable", "SourceStart", "build_parameters"]


def parameter_bucket(n: int) -> int:
    """Padded parameter count: multiples of 4 up to 16, then of 8, then of 16."""
    step = 4 if n <= 16 else 8 if n <= 64 else 16
    return -(-n // step) * step


class _Builder:
    """Collects parameters and constants; hands out indices (constants count from -1 down)."""

    def __init__(self):
        self.parameters: list[Parameter] = []
        self.constants: list[float] = [0.0, 1.0]
        self.fixed: dict = {}
        self.shared: dict = {}

    def constant(self, value: float) -> int:
        if value in self.constants:
            return -1 - self.constants.index(value)
        self.constants.append(value)
        return -len(self.constants)

    def free(self, parameter: Parameter) -> int:
        self.parameters.append(parameter)
        return len(self.parameters) - 1


def _add_source(b: _Builder, s: int, start: SourceStart, bands, options, pixel, noise) -> dict:
    """Add a source's parameters; returns (parameter, band) -> index."""
    kind = SOURCE_TYPES[start.type]
    index: dict[tuple[str, str], int] = {}
    for name in kind.parameters:
        for band in bands if name in kind.fluxes else ("",):
            value = float(start.values[name, band])
            if start.holds(name):
                b.fixed[s, name, band] = value
                index[name, band] = b.constant(value)
                continue
            prior = prior_of(name, start, value, options, pixel)
            scale = noise.get(band, 1.0) if name in kind.fluxes else pixel
            if prior.logarithmic:
                value = value if value > 0 else prior.mean or prior.low or scale
                scale = prior.sigma or 1.0  # of the logarithm, where the map is linear
            follow = None
            if prior.name == "size_magnitude":
                prior, follow = _follow(b, prior, index["flux" + name[len("rhalf") :], prior.band])
            index[name, band] = b.free(Parameter(s, name, band, value, prior, scale, None, follow))
        if base_name(name) in SHAPE:
            _add_differences(b, s, start, name, bands, options, index)
        if base_name(name) == "e2":
            _join_ellipticities(b, start, "e1" + name[2:], name, index)
    for component in kind.components:
        for name, value in component.fixed:
            index[name + component.suffix, ""] = b.constant(value)
    return index


def _add_differences(b: _Builder, s: int, start: SourceStart, name, bands, options, index) -> None:
    """Add what a shape parameter needs where it differs from band to band."""
    found = differences(name, options, bands)
    if found is None:
        return
    for band in found.bands:
        value = float(start.values.get((found.name, band), 0.0))
        if start.holds(name):
            b.fixed[s, found.name, band] = value
            index[found.name, band] = b.constant(value)
        else:
            sigma = found.prior.sigma
            own = Parameter(s, found.name, band, value, found.prior, sigma)
            index[found.name, band] = b.free(own)


def _link_row(index: dict, suffix: str, bands, options) -> list[list[tuple[int, float]]]:
    """[B, 4] (index, weight) of what is added to the shape of one component in each band."""
    found = {name: differences(name + suffix, options, bands) for name in SHAPE}
    out = []
    for i, band in enumerate(bands):
        row = []
        for d in found.values():
            at = None if d is None else index.get((d.name, d.band_of(band)))
            # zero times the constant zero where nothing differs
            row.append((-1, 0.0) if at is None else (at, float(d.weight[i])))
        out.append(row)
    return out


def _link(rows: list, padded: int, n_bands: int):
    """Indices and weights [B, C, 4] of all components, padding included; None where all are 0."""
    index, weight = np.full((n_bands, padded, 4), -1, np.int64), np.zeros((n_bands, padded, 4))
    if rows:
        both = np.swapaxes(np.array(rows, float), 0, 1)  # [B, C, 4, 2]
        index[:, : len(rows)], weight[:, : len(rows)] = both[..., 0], both[..., 1]
    return (index, weight) if weight.any() else None


def _follow(b: _Builder, prior: PriorOptions, flux: int) -> tuple[PriorOptions, int | None]:
    """The prior of a size and the free flux it follows; that of a held flux is log-normal."""
    if flux >= 0:
        return prior, flux
    held = b.constants[-1 - flux]
    soft = prior.softening or 1e-6 * max(abs(held), 1e-30)
    median = math.exp(size_given_flux(prior, math.log(soft) + math.asinh(held / (2 * soft))))
    return PriorOptions("log_normal", prior.low, prior.high, median, prior.sigma), None


def _join_ellipticities(b: _Builder, start: SourceStart, e1: str, e2: str, index: dict) -> None:
    """Make two free ellipticities partners on a disc; leave one beside a held one its chord."""
    free = [index[name, ""] for name in (e1, e2) if index[name, ""] >= 0]
    if len(free) == 2:
        for i, k in (free, free[::-1]):
            b.parameters[i].partner = k
    elif free:
        parameter = b.parameters[free[0]]
        held = start.values[e2 if parameter.name == e1 else e1, ""]
        e_max, prior = parameter.prior.high, parameter.prior
        room = math.sqrt(max(e_max**2 - held**2, (0.1 * e_max) ** 2))
        parameter.prior = replace(prior, low=-room, high=room)
        parameter.beside = held


def _add_nuisances(b: _Builder, nuisances: Sequence, exposures, exposure_bands) -> np.ndarray:
    """Indices [E, 6] of every exposure's nuisances (duck-typed `jaxpho.data.exposure.Nuisance`)."""
    zero, one = b.constant(0.0), b.constant(1.0)
    out = np.tile([zero, zero, one, zero, zero, zero], (len(exposures), 1))

    def normal(owner, name, mean, sigma):
        prior = PriorOptions("normal", mean=mean, sigma=sigma)
        return b.free(Parameter(("exposure", owner), name, "", mean, prior, sigma))

    for e, (n, name, band) in enumerate(zip(nuisances, exposures, exposure_bands, strict=True)):
        if n is None:
            continue
        if n.offset_sigma > 0:
            owner = name if n.offset_group == "exposure" else f"band {band}"
            if owner not in b.shared:
                b.shared[owner] = [normal(owner, k, 0.0, n.offset_sigma) for k in NUISANCE[:2]]
            out[e, :2] = b.shared[owner]
        if n.scale_sigma > 0:
            out[e, 2] = normal(name, "scale", 1.0, n.scale_sigma)
        if n.sky in ("constant", "plane"):
            held = n.sky_sigma <= 0
            out[e, 3] = (
                b.constant(n.sky_mean) if held else normal(name, "sky", n.sky_mean, n.sky_sigma)
            )
        if n.sky == "plane" and n.sky_slope_sigma > 0:
            out[e, 4] = normal(name, "sky_x", 0.0, n.sky_slope_sigma)
            out[e, 5] = normal(name, "sky_y", 0.0, n.sky_slope_sigma)
    return out


def build_parameters(
    sources: Sequence[SourceStart],
    bands: Sequence[str],
    options: FitOptions,
    *,
    pixel_scale: float,
    cos_dec: float,
    flux_scale: dict[str, float] | None = None,
    nuisances: Sequence = (),
    exposures: Sequence[str] = (),
    exposure_bands: Sequence[str] = (),
    n_exposures: int | None = None,
    size=lambda n: n,
    component_size=lambda n: n,
    least: dict[str, int] | None = None,
    dtype=np.float32,
) -> tuple[ParameterTable, int]:
    """Parameters of a patch.

    Parameters
    ----------
    sources : sequence of SourceStart
    bands : sequence of str
    options : FitOptions
    pixel_scale : float
        Largest pixel of the exposures, arcsec: default bounds scale with it.
    cos_dec : float
        Of the reference.
    flux_scale : dict, optional
        Typical flux error per band: the scale of z for fluxes.
    nuisances, exposures, exposure_bands : sequences
        Per exposure; may be empty for none.
    n_exposures : int, optional
        Exposures of the packed patch, padding included.
    size, component_size : callable
        Padded numbers of parameters and of components (each component costs time).
    least : dict, optional
        Smallest numbers of "sersic" and "point" components, padding included.
    dtype : dtype

    Returns
    -------
    table : ParameterTable
    n : int
        Padded number of parameters.
    """
    b = _Builder()
    index = [
        _add_source(b, s, start, bands, options, pixel_scale, flux_scale or {})
        for s, start in enumerate(sources)
    ]
    nuisance = _add_nuisances(b, nuisances, exposures, exposure_bands)
    rows: dict[str, list] = {"sersic": [], "point": []}
    owners: dict[str, list] = {"sersic": [], "point": []}
    linked: list = []
    for s, start in enumerate(sources):
        for component in SOURCE_TYPES[start.type].components:
            names = ROW if component.profile == "sersic" else POINT_ROW
            rows[component.profile].append(
                [_row(index[s], names, component.suffix, band) for band in bands]
            )
            owners[component.profile].append(s)
            if component.profile == "sersic":
                linked.append(_link_row(index[s], component.suffix, bands, options))
    n = size(max(len(b.parameters), 1))
    constants = np.zeros(size(len(b.constants) + 2))
    constants[: len(b.constants)] = b.constants
    # constants are referred to as -1, -2, ...; they follow theta
    empty = {"sersic": [-1, -1, -1, -2, -2, -1, -1], "point": [-1, -1, -1]}
    arrays = {}
    for profile, width in (("sersic", len(ROW)), ("point", len(POINT_ROW))):
        count = len(rows[profile])
        wanted = max(count, (least or {}).get(profile, 0))
        padded = component_size(wanted) if wanted else 0
        a = np.empty((len(bands), padded, width), np.int64)
        a[:] = empty[profile]
        if count:
            a[:, :count] = np.swapaxes(np.array(rows[profile]), 0, 1)
        source = np.zeros(padded, np.int32)
        source[:count] = owners[profile]
        arrays[profile] = (a, source)
    every = np.tile([-1, -1, -2, -1, -1, -1], (n_exposures or len(nuisance), 1))
    every[: len(nuisance)] = nuisance

    def final(a):
        return jnp.asarray(np.where(a < 0, n - 1 - a, a), jnp.int32)

    link = _link(linked, arrays["sersic"][0].shape[1], len(bands)) if options.links else None
    scene = Scene(
        sersic_index=final(arrays["sersic"][0]),
        point_index=final(arrays["point"][0]),
        sersic_source=jnp.asarray(arrays["sersic"][1]),
        point_source=jnp.asarray(arrays["point"][1]),
        nuisance_index=final(every),
        constants=jnp.asarray(constants, dtype),
        cos_dec=jnp.asarray(cos_dec, dtype),
        link=None if link is None else Link(final(link[0]), jnp.asarray(link[1], dtype)),
    )
    return ParameterTable(b.parameters, scene, b.fixed), n


def _row(index: dict, names: Sequence[str], suffix: str, band: str) -> list[int]:
    out = []
    for name in names:
        if name == "flux":
            out.append(index["flux" + suffix, band])
        else:
            out.append(index[name if name in ("ra", "dec") else name + suffix, ""])
    return out
