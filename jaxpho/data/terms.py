"""Which PSF mixture each Gaussian of a galaxy is convolved with: reduced ones where they do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxpho.core.gaussians import Gaussians
from jaxpho.core.terms import ShapeRange, Terms
from jaxpho.data.psfmodel import PSF_DTYPE, ReducedPSF

BUDGET = 1e-4
"""Largest error of a galaxy's image from reduced mixtures, of its peak."""
ROW, LONG_ROW, MANY = 4, 12, 3
"""Gaussians of a row of `Terms`, and of those of as many components or more.

What a component pays for as padding is less than a row; the matrix products of the Fisher pass, one
a row, gain time only when rows are long.
"""
# Numbers of rows are these parts of the full number, halved again and again: few compiled programs.
_STEPS = (1.0, 0.875, 0.75, 0.625)
# Prices of an error of the whole budget, in Gaussians, from which the cheapest choice is made.
_PRICES = np.concatenate([[0.0], np.geomspace(1e-2, 1e4, 61)])
_PIXEL = 1.0 / 12.0


class Mixtures(NamedTuple):
    """The PSF at one source in one exposure: one mixture for all radii, and its reduced ones.

    ``reduced`` are of one location.
    """

    full: np.ndarray
    reduced: tuple[ReducedPSF, ...] = ()


def pick(mixtures: Mixtures, widths, shares, budget: float = BUDGET) -> list[np.ndarray]:
    """The mixtures with the fewest Gaussians that keep a galaxy within the budget.

    Parameters
    ----------
    mixtures : Mixtures
    widths : array [K]
        Least sigma along the minor axis of each Gaussian of the galaxy, native pixels: only
        mixtures made for this or a smaller width may serve it.
    shares : array [K]
        Largest part of each Gaussian in the galaxy's peak. The error of the galaxy is at most the
        sum of shares times errors of the mixtures.
    budget : float
        Of the galaxy's peak.

    Returns
    -------
    list of K structured arrays
    """
    choices = [mixtures.full, *(r.parameters[0] for r in mixtures.reduced)]
    size = np.array([len(c) for c in choices])
    least = np.array([0.0, *(r.width for r in mixtures.reduced)])
    error = np.array([0.0, *(r.error for r in mixtures.reduced)])
    allowed = least <= np.asarray(widths, float)[:, None]
    loss = np.asarray(shares, float)[:, None] * error / budget
    price = size + _PRICES[:, None, None] * loss
    # for every price of an error the cheapest choice; of those within the budget the smallest
    chosen = np.argmin(np.where(allowed, price, np.inf), -1)
    fits = loss[np.arange(len(loss)), chosen].sum(-1) <= 1.0
    total = np.where(fits, size[chosen].sum(-1), np.inf)
    best = int(np.argmin(total))
    if not np.isfinite(total[best]):
        return [mixtures.full] * len(loss)
    return [choices[k] for k in _spend(chosen[best], size, loss, allowed)]


def _spend(chosen, size, loss, allowed):
    """Use what is left of the budget for one smaller mixture after another."""
    each = np.arange(len(chosen))
    while True:
        left = 1.0 - loss[each, chosen].sum()
        more = loss - loss[each, chosen][:, None]
        saved = np.where(allowed & (more <= left), size[chosen][:, None] - size, 0)
        k, choice = np.unravel_index(np.argmax(saved), saved.shape)
        if saved[k, choice] <= 0:
            return chosen
        chosen = np.where(each == k, choice, chosen)


def shares_of(full: np.ndarray, shapes: ShapeRange, scale: float, pixel: float) -> np.ndarray:
    """Largest part [K] of each Gaussian in a galaxy's peak, over the shapes that it may have.

    Parameters
    ----------
    full : structured array (ngauss,)
    shapes : ShapeRange
    scale : float
        Pixels per arcsec.
    pixel : float
        Variance of the pixel where the PSF does not include it.
    """
    amp, cxx, cyy, cxy = (full[k].astype(float) for k in ("amp", "Cxx", "Cyy", "Cxy"))
    variance = (shapes.sigma * scale)[..., None] ** 2
    out = np.zeros(shapes.sigma.shape[-1])
    for q in {1.0, shapes.minor**2}:
        det = (cxx + pixel + variance * q) * (cyy + pixel + variance / q) - cxy**2
        peak = np.abs(shapes.amplitude * (amp / np.sqrt(det)).sum(-1))
        total = peak.sum(-1, keepdims=True)  # 0 where an exposure does not see the source
        out = np.maximum(out, (peak / np.where(total > 0, total, 1.0)).max(0))
    return out


def pack_terms(
    mixtures: Sequence[Sequence[Mixtures]],
    d: np.ndarray,
    pixel_term: np.ndarray,
    components: Sequence[ShapeRange],
    n_full: int,
    n_exposures: int,
    dtype=np.float32,
) -> tuple[Terms | None, np.ndarray]:
    """Rows of PSF Gaussians for the Sersic components of a scene.

    Parameters
    ----------
    mixtures : [E][S]
    d : array [E, S, 2, 2]
        d(x, y)/d(RA cos dec, dec), pixel/arcsec.
    pixel_term : array [E]
        0 where the PSF includes the pixel.
    components : sequence of ShapeRange
        In the order of the scene.
    n_full : int
        Gaussians that the components take now, padding included.
    n_exposures : int
        Padded.
    dtype : dtype

    Returns
    -------
    terms : Terms or None
        None where less than an eighth would be saved.
    counts : array [C]
        Gaussians of each component, the largest number over exposures.
    """
    picked = []
    for e, row in enumerate(mixtures):
        picked.append([])
        for c in components:
            singular = np.linalg.svd(np.asarray(d[e, c.source], float), compute_uv=False)
            widths = c.sigma.min(0) * c.minor * singular[-1]
            scale = np.sqrt(np.prod(singular))
            here = row[c.source]
            shares = shares_of(here.full, c, scale, _PIXEL * float(pixel_term[e]))
            picked[-1].append(_listed(pick(here, widths, shares)))
    counts = np.array([[len(p) for p in row] for row in picked]).max(0)
    length = LONG_ROW if len(components) >= MANY else ROW
    rows = -(-counts // length)
    starts = np.concatenate([[0], np.cumsum(rows)])
    n_rows = _size(int(starts[-1]), n_full / length)
    if n_rows is None:
        return None, counts
    flat = np.zeros((n_exposures, n_rows * length), PSF_DTYPE)
    flat["Cxx"] = flat["Cyy"] = 1.0  # padding: no flux, a round covariance
    component = np.zeros(n_rows, np.int32)
    for c in range(len(components)):
        component[starts[c] : starts[c + 1]] = c
        for e, row in enumerate(picked):
            first = length * starts[c]
            flat[e, first : first + len(row[c])] = row[c]
    shape = (n_exposures, n_rows, length)
    fields = (flat[k].reshape(shape).astype(dtype) for k in PSF_DTYPE.names[:-1])
    bins = flat["sersic_bin"].reshape(shape)
    return Terms(Gaussians(*fields), np.ascontiguousarray(bins), component), counts


def _listed(chosen: list[np.ndarray]) -> np.ndarray:
    """One list of Gaussians, which says which radius each belongs to."""
    parts = []
    for k, parameters in enumerate(chosen):
        parts.append(parameters.copy())
        parts[-1]["sersic_bin"] = k
    return np.concatenate(parts)


def _size(n: int, full: float) -> int | None:
    """Padded number of rows: the least of full x (7/8, 3/4, 5/8, 1/2, ...) that holds n."""
    out, power = None, 1.0
    while True:
        for step in _STEPS:
            size = int(np.ceil(step * power * full))
            if size < max(n, 1):
                return out
            if size < full:
                out = size
            if size == 1:
                return out
        power /= 2
