"""Our parameters in forcepho's units and conventions, and back: for files, nothing else.

forcepho's vector has, source by source, a flux per band, ra and dec in degrees from the reference
(RA not times cos dec), q = sqrt(b/a), pa in radians from +RA (East) towards +Dec (North), the
Sersic index, and the circularised half-light radius in arcsec.
"""

from __future__ import annotations

import numpy as np

from jaxpho.compat.catalog import SHAPE_COLUMNS
from jaxpho.core.sources import SOURCE_TYPES
from jaxpho.errors import InputError
from jaxpho.fit.links import is_difference
from jaxpho.fit.result import PatchResult

OURS = ("ra", "dec", "e1", "e2", "sersic", "rhalf")
"""Our parameters in the order of forcepho's columns; e1, e2 stand where q and pa do."""

_POINT = {"e1": 0.0, "e2": 0.0, "sersic": 1.0, "rhalf": 0.0}
"""What a star is for a code that knows galaxies only."""


def is_plain(result: PatchResult, s: int) -> bool:
    """Whether a source is one profile, with one size and shape."""
    return len(SOURCE_TYPES[result.types[s]].components) == 1


def check_types(result: PatchResult, sources) -> None:
    """Raise InputError when one of the sources is more than one profile."""
    for s in sources:
        if not is_plain(result, s):
            raise InputError(
                f"source {result.source_ids[s]} is a {result.types[s]}: forcepho's files hold one "
                "Sersic profile per source"
            )
        if any(owner == s and is_difference(name) for owner, name, _ in result.labels):
            raise InputError(
                f"source {result.source_ids[s]} has other shapes in other bands (fit.links): "
                "forcepho's files hold one"
            )


def ellipse_of(e1, e2, near=None):
    """(q, pa) of forcepho from ellipticities.

    Parameters
    ----------
    e1, e2 : array_like
    near : array_like, optional
        Angles [rad] that pa is to be within pi/2 of; default 0.
    """
    e = np.hypot(e1, e2)
    pa = 0.5 * (np.pi - np.arctan2(e2, e1))
    near = 0.0 if near is None else near
    return np.sqrt((1 - e) / (1 + e)), near + (pa - near + np.pi / 2) % np.pi - np.pi / 2


def ellipticity_of(q, pa):
    """(e1, e2) from forcepho's q and pa."""
    q2 = np.asarray(q, float) ** 2
    e, angle = (1 - q2) / (1 + q2), np.pi - 2 * np.asarray(pa, float)
    return e * np.cos(angle), e * np.sin(angle)


def _values(result: PatchResult, theta: np.ndarray, s: int, name: str, band: str = ""):
    """A parameter [...] of a source in parameters [..., npar], free or held."""
    column = result.index(s, name, band)
    if column is not None:
        return theta[..., column]
    held = dict(SOURCE_TYPES[result.types[s]].components[0].fixed)
    known = result.fixed.get((s, name, band), held.get(name))
    if known is None:
        known = _POINT.get(name, np.nan)
    return np.full(theta.shape[:-1], float(known))


def angles(result: PatchResult) -> np.ndarray:
    """Position angles [S] of the fit, radians in [-pi/2, pi/2): draws are given near these."""
    theta = np.asarray(result.theta, float)
    return np.array(
        [
            float(ellipse_of(*(_values(result, theta, s, k) for k in ("e1", "e2")))[1])
            for s in range(len(result.types))
        ]
    )


def to_forcepho(result: PatchResult, theta, sources) -> np.ndarray:
    """Parameters of some sources in forcepho's units, [..., len(sources) (B + 6)].

    Parameters
    ----------
    result : PatchResult
    theta : array_like
        [..., npar] values of the free parameters.
    sources : sequence of int
        Indices of the sources.

    Raises
    ------
    InputError
        For sources of several components.
    """
    check_types(result, sources)
    theta = np.asarray(theta, float)
    cosine, near = np.cos(np.deg2rad(result.reference[1])), angles(result)
    columns = []
    for s in sources:
        columns += [_values(result, theta, s, "flux", band) for band in result.bands]
        ra, dec, e1, e2, sersic, rhalf = (_values(result, theta, s, name) for name in OURS)
        q, pa = ellipse_of(e1, e2, near[s])
        columns += [ra / 3600.0 / cosine, dec / 3600.0, q, pa, sersic, rhalf]
    if not columns:
        return np.zeros((*theta.shape[:-1], 0))
    return np.stack(columns, -1)


def from_forcepho(chain, n_bands: int, dec: float) -> dict[str, np.ndarray]:
    """forcepho's vectors [..., S (B + 6)] in our units: the inverse of `to_forcepho`.

    Parameters
    ----------
    chain : array_like
    n_bands : bands.
    dec : declination of the reference, deg.

    Returns
    -------
    dict
        flux [..., S, B]; ra, dec (arcsec, RA times cos dec), e1, e2, sersic, rhalf [..., S].
    """
    chain = np.asarray(chain, float)
    values = chain.reshape(*chain.shape[:-1], -1, n_bands + len(SHAPE_COLUMNS))
    out = {"flux": values[..., :n_bands]}
    shape = dict(zip(SHAPE_COLUMNS, np.moveaxis(values[..., n_bands:], -1, 0), strict=True))
    out["ra"] = shape["ra"] * 3600.0 * np.cos(np.deg2rad(dec))
    out["dec"] = shape["dec"] * 3600.0
    out["e1"], out["e2"] = ellipticity_of(shape["q"], shape["pa"])
    return out | {name: shape[name] for name in ("sersic", "rhalf")}


def bounds_of(result: PatchResult, sources) -> np.ndarray:
    """Bounds [len(sources) (B + 6), 2] of `to_forcepho`; a held parameter has its value twice.

    Fluxes without bounds have infinite ones; pa is anywhere within pi/2 of the fit.
    """
    check_types(result, sources)
    theta = np.asarray(result.theta, float)
    limits = result.bounds
    if limits is None:
        limits = np.tile([-np.inf, np.inf], (len(theta), 1))
    cosine, near, out = np.cos(np.deg2rad(result.reference[1])), angles(result), []

    def ends(s, name, band="", scale=1.0):
        column = result.index(s, name, band)
        if column is None:
            return np.repeat(_values(result, theta, s, name, band), 2) * scale
        return np.asarray(limits[column], float) * scale

    for s in sources:
        out += [ends(s, "flux", band) for band in result.bands]
        out += [ends(s, "ra", scale=1 / 3600.0 / cosine), ends(s, "dec", scale=1 / 3600.0)]
        q = float(ellipse_of(*(_values(result, theta, s, name) for name in ("e1", "e2")))[0])
        if all(result.index(s, name) is None for name in ("e1", "e2")):
            out += [np.repeat(q, 2), np.repeat(near[s], 2)]
        else:
            # free ones share a disc; one beside a held one moves on its chord
            largest = [min(np.abs(ends(s, name)).max(), 1.0) for name in ("e1", "e2")]
            both = all(result.index(s, name) is not None for name in ("e1", "e2"))
            e = min(max(largest) if both else float(np.hypot(*largest)), 1.0)
            out += [
                np.array([np.sqrt(max(1 - e, 0) / (1 + e)), 1.0]),
                near[s] + np.pi / 2 * np.array([-1.0, 1.0]),
            ]
        out += [ends(s, "sersic"), ends(s, "rhalf")]
    return np.array(out).reshape(-1, 2)


def free_columns(result: PatchResult, sources) -> np.ndarray:
    """Columns [len(sources) (B + 6)] of theta in forcepho's order; -1 for held parameters.

    e1 and e2 stand where q and pa do.
    """
    out = []
    for s in sources:
        found = [result.index(s, "flux", band) for band in result.bands]
        found += [result.index(s, name) for name in OURS]
        out += [-1 if column is None else column for column in found]
    return np.array(out, int)
