"""What the pages of a patch and of its sources show, read from the files of the patch."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from jaxpho.fit.result import PatchResult
from jaxpho.output.derived import SourceView
from jaxpho.output.images import source_positions
from jaxpho.output.profiles import ellipse_matrix, place_of, shapes_of
from jaxpho.output.shown import shown_quantities
from jaxpho.report.jsdata import packed, rounded, rounded_all
from jaxpho.report.pixels import Stamp, make_stamp, stamp_data
from jaxpho.report.thumbnails import thumb_side, thumbnail

_TALLY = ("at_bound", "rhat", "ess_bulk", "ess_tail")


def shown_exposures(result: PatchResult, per_band: int) -> list[str]:
    """Exposures to show: per band those with most good pixels in the patch."""
    out = []
    for band in dict.fromkeys(result.exposure_bands):
        members = [e for e, b in enumerate(result.exposure_bands) if b == band]
        out += sorted(members, key=lambda e: -result.npix[e])[:per_band]
    return [result.exposures[e] for e in sorted(out)]


@dataclass
class PatchPages:
    """The three scripts of a patch, and what the summary wants to know of it.

    Attributes
    ----------
    facts, pixels, draws : contents of the scripts; pixels and draws are None where there are none.
    rows : rows of the catalogue of the sources fitted here.
    thumbs : row -> picture.
    outline : number, ra, dec [deg], radius [arcsec].
    chi2, npix : by exposure.
    seconds : by stage.
    """

    facts: dict
    pixels: dict | None = None
    draws: dict | None = None
    rows: list[int] = field(default_factory=list)
    thumbs: dict[int, np.ndarray] = field(default_factory=dict)
    outline: tuple = ()
    chi2: dict[str, tuple[float, int]] = field(default_factory=dict)
    seconds: dict = field(default_factory=dict)


def patch_pages(
    result: PatchResult, own, row_of: dict[str, int], bin: int, draws: int, bands=None,
) -> PatchPages:  # fmt: skip
    """Everything of one patch.

    Parameters
    ----------
    result : PatchResult
        With pixels and astrometry of the exposures that are to be shown.
    own : indices of the sources that this patch has fitted.
    row_of : id of a source -> its row in the catalogue.
    bin : exposure pixels per pixel of the report, along each axis.
    draws : of each source at most, all chains together.
    bands : up to three, short to long, that make the small pictures.
    """
    own = [s for s in own if str(result.source_ids[s]) in row_of]
    stamps = {
        e: make_stamp(result.pixels[name], bin)
        for e, name in enumerate(result.exposures)
        if len(result.pixels.get(name, {}).get("x", ()))
    }
    facts = _facts(result, own, row_of, stamps)
    out = PatchPages(facts, seconds=dict(result.seconds))
    out.rows = [row_of[str(result.source_ids[s])] for s in own]
    out.chi2 = {n: (float(result.chi2[e]), int(result.npix[e]))
                for e, n in enumerate(result.exposures)}  # fmt: skip
    if stamps:
        out.pixels = {str(e): stamp_data(stamp) for e, stamp in stamps.items()}
        out.thumbs = _thumbs(result, own, row_of, stamps, bands or three(result.bands))
    if result.samples is not None:
        out.draws = _draws(result, own, row_of, draws)
    out.outline = (int(result.patch_id), *result.reference, _radius(result, stamps))
    return out


def _facts(result: PatchResult, own, row_of, stamps: dict[int, Stamp]) -> dict:
    exposures = []
    for e, name in enumerate(result.exposures):
        stamp = stamps.get(e)
        facts = {"name": name, "band": result.exposure_bands[e], "npix": int(result.npix[e])}
        facts["chi2"] = rounded(result.chi2[e])
        if stamp is not None:
            facts["key"] = str(e)
            facts["shape"] = list(stamp.model.shape)
        exposures.append(facts)
    sampled = result.samples is not None
    diagnostics = {k: v for k, v in result.diagnostics.items()
                   if isinstance(v, str | bool | int | float | np.generic)}  # fmt: skip
    return {
        "id": int(result.patch_id), "unit": result.unit, "bands": list(result.bands),
        "ra": rounded(result.reference[0], 11), "dec": rounded(result.reference[1], 11),
        "chi2": rounded(np.sum(result.chi2)), "npix": int(np.sum(result.npix)),
        "seconds": {k: rounded(v, 3) for k, v in result.seconds.items()},
        "messages": [str(m) for m in result.messages],
        "diagnostics": diagnostics, "exposures": exposures,
        "sources": [
            _source(result, s, s in own, row_of.get(str(name)), stamps)
            for s, name in enumerate(result.source_ids)
        ],
        "parameters": _parameters(result),
        "chains": list(result.samples.shape[:2]) if sampled else None,
    }  # fmt: skip


def _source(result: PatchResult, s: int, own: bool, row, stamps) -> dict:
    places, sizes = {}, shapes_of(result, s)
    for e in stamps:
        place = place_of(result, s, result.exposures[e])
        if place is None:
            continue
        shapes = [ellipse_matrix(*shape, place.d) for shape in sizes]
        places[str(e)] = {
            "x": round(place.x, 3), "y": round(place.y, 3),
            "d": rounded_all(place.d, 7), "ellipses": [rounded_all(m, 5) for m in shapes],
        }  # fmt: skip
    return {
        "row": row, "id": str(result.source_ids[s]), "type": result.types[s], "own": own,
        "shapes": [rounded_all(shape, 5) for shape in sizes], "places": places,
    }  # fmt: skip


def _parameters(result: PatchResult) -> list:
    """[owner, name, band, value, error, at bound, R-hat, ESS of bulk and tail] of each."""
    n = len(result.labels)
    errors = np.sqrt(np.maximum(np.diag(result.covariance), 0)) if n else []
    if result.samples is not None and n:
        errors = result.samples.reshape(-1, n).std(0)
    arrays = {"at_bound": result.at_bound} | {k: result.diagnostics.get(k) for k in _TALLY[1:]}
    worth = [a if np.shape(a) == (n,) else np.full(n, np.nan) for a in arrays.values()]
    out = []
    for i, (owner, name, band) in enumerate(result.labels):
        whose = str(result.source_ids[owner]) if isinstance(owner, int) else str(owner[1])
        out.append([whose, name, band, rounded(result.theta[i]), rounded(errors[i], 4),
                    bool(worth[0][i] == 1), *(rounded(w[i], 4) for w in worth[1:])])  # fmt: skip
    return out


def three(bands) -> list[str]:
    """The first, the middle and the last of some bands."""
    return list(dict.fromkeys([bands[0], bands[len(bands) // 2], bands[-1]])) if bands else []


def _thumbs(result, own, row_of, stamps, bands) -> dict[int, np.ndarray]:
    first = {}
    for e in sorted(stamps, key=lambda e: -stamps[e].model.size):
        first.setdefault(result.exposure_bands[e], e)
    used = [first[band] for band in bands if band in first]
    out = {}
    for s in own:
        places = {e: place_of(result, s, result.exposures[e]) for e in used}
        here = [e for e in used if places[e] is not None]
        if not here:
            continue
        sizes = [rhalf / np.sqrt(q) for rhalf, q, _ in shapes_of(result, s)]
        side = thumb_side(max(sizes, default=0.0))
        row = row_of[str(result.source_ids[s])]
        out[row] = thumbnail([stamps[e] for e in here], [places[e] for e in here], side)
    return out


def _draws(result: PatchResult, own, row_of, most: int) -> dict:
    nchain, ndraw = result.samples.shape[:2]
    step = max(1, -(-nchain * ndraw // most))
    found = {}
    for s in own:
        view = SourceView(result, s)
        shown = shown_quantities(view)
        if not shown:
            continue
        draws = np.stack([q.draws[:, ::step] for q in shown])
        low, high = draws.min((1, 2)), draws.max((1, 2))
        scale = np.where(high > low, high - low, 1.0)[:, None, None]
        whole = np.rint(65535 * (draws - low[:, None, None]) / scale)
        found[str(row_of[str(result.source_ids[s])])] = {
            "names": [q.name for q in shown], "units": [q.unit for q in shown],
            "values": rounded_all([q.value for q in shown], 8), "low": rounded_all(low, 9),
            "high": rounded_all(high, 9), "draws": packed(whole, "u2"),
        }  # fmt: skip
    out = {"step": step, "total": nchain * ndraw, "sources": found}
    statistics = result.statistics
    if "potential" in statistics:
        out["lp"] = packed(-np.asarray(statistics["potential"])[:, ::step], "f4")
    if "diverging" in statistics:
        chain, draw = np.nonzero(np.asarray(statistics["diverging"]))
        out["diverging"] = [[int(c), int(d) // step] for c, d in zip(chain, draw, strict=True)]
    return out


def _radius(result: PatchResult, stamps) -> float:
    """Radius [arcsec] of the circle around the pixels, or the sources, of a patch."""
    reach = 0.0
    for e, stamp in stamps.items():
        place = place_of(result, 0, result.exposures[e]) if result.source_ids else None
        if place is None:
            continue
        ny, nx = (n * stamp.bin for n in stamp.model.shape)
        inside = np.isfinite(stamp.ierr)
        if not inside.any():
            continue
        x = stamp.x0 + stamp.bin * np.arange(stamp.model.shape[1])[inside.any(0)]
        y = stamp.y0 + stamp.bin * np.arange(stamp.model.shape[0])[inside.any(1)]
        # half the sides of the box: the pixels of a patch are more nearly round than square
        scale = np.sqrt(abs(np.linalg.det(place.d)))
        reach = max(reach, 0.5 * float(max(np.ptp(x), np.ptp(y)) + stamp.bin) / scale)
    if reach > 0:
        return reach
    ra, dec = source_positions(result)
    east = ((ra - result.reference[0] + 180) % 360 - 180) * np.cos(np.deg2rad(dec))
    return 1.0 + 3600 * float(np.hypot(east, dec - result.reference[1]).max(initial=0.0))
