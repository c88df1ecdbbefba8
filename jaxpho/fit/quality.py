"""Statistics and flags of every source after a fit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jaxpho.core.sources import SOURCE_TYPES, base_name
from jaxpho.fit import flags
from jaxpho.fit.parameters import ParameterTable
from jaxpho.fit.transforms import Transform

BOUND_MARGIN = 2e-3  # of a parameter's range
DISC_MARGIN = 0.01  # of the largest ellipticity; the optimiser stops at 0.003 or less from it
BLEND_CORRELATION = 0.5
COVERAGE = 0.7
PRIOR_SHARE = 0.75  # of the prior's own standard deviation
EDGE = 0.02  # of a parameter's range
PILED_UP = 0.05
"""Share of the draws in the `EDGE` of a range; that of draws all over the range is .02 an edge, and
that of draws all over the disc of ellipticities .04."""


@dataclass
class SourceArea:
    """chi2 and coverage within each source's own area, arrays [S].

    ``coverage`` is the unmasked share of the area in the best exposure of the worst band;
    ``band_npix`` [S, B] the unmasked pixels in each of ``bands``.
    """

    chi2: np.ndarray
    npix: np.ndarray
    nexp: np.ndarray
    coverage: np.ndarray
    band_npix: np.ndarray
    bands: list[str]


def source_areas(
    pixels: list[dict], centres: np.ndarray, d: np.ndarray, radii, bands: list[str], wanted
) -> SourceArea:
    """chi2 and unmasked pixels within a radius of each source.

    Parameters
    ----------
    pixels : list of dict
        Per exposure: x, y, data, ierr, model.
    centres : ndarray
        [E, S, 2] pixel positions.
    d : ndarray
        [E, S, 2, 2] pixel/arcsec.
    radii : ndarray
        [S] arcsec.
    bands : list of str
        Band of each exposure.
    wanted : list of str
        All bands that fluxes are measured in.
    """
    n = len(radii)
    coverage = {band: np.zeros(n) for band in wanted}
    by_band = np.zeros((n, len(wanted)), int)
    out = SourceArea(
        np.zeros(n), np.zeros(n, int), np.zeros(n, int), np.zeros(n), by_band, list(wanted)
    )
    for p, centre, matrix, band in zip(pixels, centres, d, bands, strict=True):
        chi = (p["data"] - p["model"]) * p["ierr"]
        for s in range(n):
            inverse = np.linalg.inv(matrix[s])
            dx, dy = p["x"] - centre[s, 0], p["y"] - centre[s, 1]
            east = inverse[0, 0] * dx + inverse[0, 1] * dy
            north = inverse[1, 0] * dx + inverse[1, 1] * dy
            inside = (east**2 + north**2 <= radii[s] ** 2) & (p["ierr"] > 0)
            count = int(inside.sum())
            out.chi2[s] += float((chi[inside].astype(np.float64) ** 2).sum())
            out.npix[s] += count
            by_band[s, wanted.index(band)] += count
            out.nexp[s] += count > 0
            expected = max(np.pi * radii[s] ** 2 * abs(np.linalg.det(matrix[s])), 1.0)
            coverage[band][s] = max(coverage[band][s], count / expected)
    out.coverage = np.min(list(coverage.values()), axis=0)
    return out


def at_bound(table: ParameterTable, theta: np.ndarray) -> np.ndarray:
    """[n] bool: parameters at the edge of their range."""
    out = np.zeros(len(table.parameters), bool)
    for i, p in enumerate(table.parameters):
        low, high = p.prior.low, p.prior.high
        if p.partner is not None:
            out[i] = np.hypot(theta[i], theta[p.partner]) > (1 - DISC_MARGIN) * high
        elif low is not None and high is not None:
            values = np.array([low, theta[i], high], float)
            if p.prior.logarithmic:
                values = np.log(np.maximum(values, 1e-300))
            fraction = (values[1] - values[0]) / (values[2] - values[0])
            out[i] = not BOUND_MARGIN < fraction < 1 - BOUND_MARGIN
    return out


def piled_up(table: ParameterTable, draws: np.ndarray) -> np.ndarray:
    """[n] bool: parameters of which many draws [chains, draws, n] lie at an edge of their range."""
    theta = np.asarray(draws, np.float64).reshape(-1, draws.shape[-1])
    out = np.zeros(len(table.parameters), bool)
    for i, p in enumerate(table.parameters):
        low, high = p.prior.low, p.prior.high
        if p.partner is not None:
            radius = np.hypot(theta[:, i], theta[:, p.partner])
            share = [(radius > (1.0 - EDGE) * high).mean() / 2.0]
        elif low is not None and high is not None:
            values, ends = theta[:, i], np.array([low, high], float)
            if p.prior.name.startswith("log_"):
                values, ends = (np.log(np.maximum(a, 1e-300)) for a in (values, ends))
            fraction = (values - ends[0]) / (ends[1] - ends[0])
            share = [(fraction < EDGE).mean(), (fraction > 1.0 - EDGE).mean()]
        else:
            continue
        out[i] = max(share) > PILED_UP
    return out


def coordinate_variance(draws: np.ndarray, tr: Transform) -> np.ndarray:
    """Variance [n] of draws [chains, draws, n] in the natural coordinates."""
    theta = np.asarray(draws, np.float64).reshape(-1, draws.shape[-1])
    log = np.asarray(tr.log)
    return np.where(log, np.log(np.where(log, np.maximum(theta, 1e-300), 1.0)), theta).var(0)


def prior_dominated(covariance_t: np.ndarray, tr: Transform, n: int) -> np.ndarray:
    """[n] bool: parameters whose error is nearly that of the prior alone."""
    sigma = np.sqrt(np.maximum(np.diag(covariance_t)[:n], 0.0))
    precision = np.asarray(tr.precision)[:n]
    width = (np.asarray(tr.high) - np.asarray(tr.low))[:n] / np.sqrt(12.0)
    width = np.where(np.asarray(tr.bounded)[:n], width, np.inf)
    width = np.where(np.asarray(tr.disc)[:n], np.asarray(tr.high)[:n] / 2.0, width)
    prior = np.minimum(width, np.where(precision > 0, 1.0 / np.maximum(precision, 1e-30), np.inf))
    return sigma > PRIOR_SHARE * prior


def flux_blended(labels: list[tuple], covariance: np.ndarray, n_sources: int) -> np.ndarray:
    """[S] bool: sources whose flux is strongly correlated with another source's."""
    out = np.zeros(n_sources, bool)
    at = [
        i for i, (owner, name, _) in enumerate(labels)
        if isinstance(owner, int) and base_name(name) == "flux"
    ]  # fmt: skip
    sigma = np.sqrt(np.maximum(np.diag(covariance), 1e-300))
    for a in at:
        for b in at:
            if labels[a][0] != labels[b][0] and labels[a][2] == labels[b][2]:
                if abs(covariance[a, b]) > BLEND_CORRELATION * sigma[a] * sigma[b]:
                    out[labels[a][0]] = True
    return out


def source_flags(n_sources: int, labels: list[tuple], per_parameter: dict[str, np.ndarray],
                 per_source: dict[str, np.ndarray], whole: list[str]) -> np.ndarray:  # fmt: skip
    """Combine flags: by parameter (given to its owner), by source, and for the whole patch."""
    mask = np.zeros(n_sources, np.int64)
    for name, values in per_parameter.items():
        for (owner, _, _), value in zip(labels, values, strict=True):
            if value and isinstance(owner, int):
                mask[owner] |= flags.bit(name)
    for name, values in per_source.items():
        mask[np.asarray(values, bool)] |= flags.bit(name)
    for name in whole:
        mask |= flags.bit(name)
    return mask


def influence_radius(type_: str, values: dict, psf_sigma: float) -> float:
    """Radius [arcsec] of the area that judges a source: two half-light radii and the PSF."""
    shapes = [name for name in SOURCE_TYPES[type_].shapes if base_name(name) == "rhalf"]
    size = max((values[name] for name in shapes), default=0.0)
    return float(np.hypot(2.0 * size, 2.5 * psf_sigma))
