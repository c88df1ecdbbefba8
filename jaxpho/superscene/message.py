"""What the master tells a worker about a patch."""

from __future__ import annotations

import numpy as np

from jaxpho.superscene.graph import ARCSEC
from jaxpho.superscene.policy import Patch
from jaxpho.superscene.state import CatalogState


def message_of(state: CatalogState, patch: Patch, seed: int) -> dict:
    """The message about a patch, of plain values.

    Returns
    -------
    dict
        `patch`, `seed`, `iterations`; `region` with ra, dec [deg] and radius [arcsec] of a circle
        that holds the active sources with their radii of influence; `active`: per source number,
        id, type, radius [arcsec], parameters [npar] (the latest draw, nan where unknown), lower
        and upper [npar], covariance [npar, npar] or None; `fixed`: number, id, type, parameters.
    """
    centre = state.graph.points[patch.active].mean(axis=0)
    centre /= np.linalg.norm(centre)
    chord = np.linalg.norm(state.graph.points[patch.active] - centre, axis=1)
    reach = 2 * np.arcsin(np.clip(chord / 2, 0, 1)) * ARCSEC + state.radius[patch.active]
    region = {
        "ra": float(np.degrees(np.arctan2(centre[1], centre[0])) % 360.0),
        "dec": float(np.degrees(np.arcsin(centre[2]))),
        "radius": float(reach.max()),
    }
    return {
        "patch": patch.name,
        "seed": seed,
        "iterations": patch.iterations,
        "region": region,
        "active": [_active(state, i) for i in patch.active],
        "fixed": [_source(state, i) for i in patch.fixed],
    }


def _source(state: CatalogState, i: int) -> dict:
    peak, width = state.peaks[i], state.width(i)
    return {"number": i, "id": peak.id, "type": peak.type,
            "parameters": state.parameters[i, :width].tolist()}  # fmt: skip


def _active(state: CatalogState, i: int) -> dict:
    width = state.width(i)
    block = state.covariance[i, :width, :width]
    lower, upper = state.bounds[i, :width].T.tolist()
    return _source(state, i) | {
        "radius": float(state.radius[i]),
        "lower": lower,
        "upper": upper,
        "covariance": block.tolist() if np.isfinite(block).all() else None,
    }
