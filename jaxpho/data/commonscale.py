"""Exposures in images' own units: those of a band share one flux, so they must share one scale."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from jaxpho.data.plan import ImagePlan
from jaxpho.data.units import calibration
from jaxpho.data.wcs import build_wcs, pixel_area
from jaxpho.errors import InputError

log = logging.getLogger("jaxpho.ingest")

SAME_SCALE = 1e-6
_TELLING_CARDS = ("EXPTIME", "TEXPTIME", "MAGZPT", "MAGZERO", "MAGZP", "ZEROPNT", "PHOTZP",
                  "PHOTZPT", "PHOTFLAM", "FLUXMAG0")  # fmt: skip
"""Cards that hint at different scales of exposures that nothing calibrates."""


def scale_to_first(plans: Sequence[ImagePlan], unit: str) -> None:
    """Set `scale` of exposures in their own units: to the unit of the first of their band.

    Only ratios of known calibrations (zero points, header cards) are used. Where none is known
    the exposures are taken to have one scale already, and a warning says so.

    Parameters
    ----------
    plans : exposures to be read; one whose zero point cannot be used gets a `problem`.
    unit : of the run: "auto", "nJy" or "image".

    Raises
    ------
    InputError
        When only some exposures of a band can be calibrated.
    """
    by_band: dict[str, list[ImagePlan]] = {}
    for plan in plans:
        if not plan.problem and _keeps_unit(plan, unit):
            by_band.setdefault(plan.band, []).append(plan)
    for band, group in by_band.items():
        _scale_band(band, [p for p in group if not p.problem])


def _keeps_unit(plan: ImagePlan, unit: str) -> bool:
    if unit == "image" or plan.options.unit == "image":
        try:
            plan.njy = njy_per_unit(plan)
        except InputError as error:
            plan.problem, plan.damaged = str(error), False
        return True
    # that an exposure cannot be calibrated at all is said when it is read
    return unit == "auto" and plan.options.zero_point is None and njy_per_unit(plan) is None


def njy_per_unit(plan: ImagePlan) -> float | None:
    """NJy per unit of an image, by its zero point or header; None when nothing tells.

    Raises
    ------
    InputError
        For a zero point of the configuration that cannot be used.
    """
    options, header = plan.options, plan.fields["header"]
    options = replace(options, unit=None) if options.unit == "image" else options
    try:
        try:
            found = calibration(header, options, plan.row, None, plan.where)
        except InputError:
            if options.zero_point is not None:
                raise
            wcs, _ = build_wcs(header, options.wcs, plan.shape, where=plan.where)
            area = pixel_area(wcs, plan.shape)
            found = calibration(header, options, plan.row, area, plan.where)
    except InputError:
        if options.zero_point is not None:
            raise
        return None
    return found[0] if found[1] == "nJy" and found[0] > 0 else None


def _scale_band(band: str, group: list[ImagePlan]) -> None:
    known = [p for p in group if p.njy is not None]
    if known and len(known) < len(group):
        other = next(p for p in group if p.njy is None)
        raise InputError(
            f"band {band}: {known[0].name} has a zero point or a calibrated unit, {other.name} has "
            "none: exposures that share one flux need one scale; give zero_point for all"
        )
    if len(group) < 2:
        return
    first = group[0]
    if known:
        for plan in known:
            ratio = plan.njy / first.njy
            plan.scale = ratio if abs(ratio - 1.0) > SAME_SCALE else 1.0
        scaled = [f"{p.name} x {p.scale:.6g}" for p in known if p.scale != 1.0]
        if scaled:
            log.info("band %s: one flux for exposures of different zero points: brought to the "
                     "unit of %s (%s)", band, first.name, ", ".join(scaled))  # fmt: skip
        return
    hints = [
        f"{card} from {min(values):g} to {max(values):g}"
        for card in _TELLING_CARDS
        if len(values := _numbers(group, card)) > 1
    ]
    log.warning(
        "band %s: one flux is fitted to %d exposures that nothing calibrates: they are taken to "
        "have the same scale%s; zero points would tell",
        band, len(group), f", although their headers differ ({'; '.join(hints)})" if hints else "",
    )  # fmt: skip


def _numbers(group: list[ImagePlan], card: str) -> set[float]:
    values = (plan.fields["header"].get(card) for plan in group)
    return {float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool)}
