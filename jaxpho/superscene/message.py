"""What the master tells a worker about a patch."""

from __future__ import annotations

import numpy as np

from jaxpho.superscene.graph import ARCSEC
from jaxpho.superscene.layout import to_plain
from jaxpho.superscene.policy import Patch
from jaxpho.superscene.state import CatalogState


def message_of(state: CatalogState, patch: Patch, seed: int) -> dict:
    """The message about a patch, of plain values.

    Returns
    -------
    dict
        `patch`, `seed`, `iterations` (0: the optimum only); `finishes`: per active source whether
        it will have its iterations with this patch; `region` with ra, dec [deg] and radius
        [arcsec] of a circle that holds the active sources with their radii of influence; `active`
        and `fixed`: per source its number, `start` (the catalogue's entry, see
        `layout.from_plain`, which priors refer to) and parameters [npar] (the latest draw, nan
        where unknown). Active ones also have radius [arcsec], lower and upper [npar], covariance
        [npar, npar] or None.
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
        "finishes": state.finishes(patch),
        "region": region,
        "active": [_active(state, i) for i in patch.active],
        "fixed": [_source(state, i) for i in patch.fixed],
    }


def _source(state: CatalogState, i: int) -> dict:
    return {
        "number": i,
        "start": to_plain(state.start(i)),
        "parameters": state.parameters[i, : state.width(i)].tolist(),
    }


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
