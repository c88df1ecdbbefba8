"""Read exposures: pixels, errors, masks, sky, unit and WCS of every image of a configuration."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxpho.data.commonscale import scale_to_first
from jaxpho.data.exposure import LARGEST, Exposure
from jaxpho.data.fitsread import BadExposure, FitsFile
from jaxpho.data.gwcsfile import read_gwcs
from jaxpho.data.masks import HUGE
from jaxpho.data.options import ImageOptions
from jaxpho.data.pixelread import good_pixels, variance_of
from jaxpho.data.plan import ImagePlan, plan_images, science_ext
from jaxpho.data.skyread import nuisance_of, subtract_sky
from jaxpho.data.storeplan import is_stored, read_stored
from jaxpho.data.units import calibration, number_or_key
from jaxpho.data.wcs import build_wcs, pixel_area
from jaxpho.errors import InputError

log = logging.getLogger("jaxpho.ingest")

SMALLEST_ERROR = 1e-4
"""Of the median: a pixel that claims less would outweigh all others together."""


class Skipped(NamedTuple):
    """An exposure that was left out, why, and where it lies, if that is known."""

    name: str
    band: str
    path: Path
    reason: str
    wcs: object = None
    shape: tuple[int, int] = (0, 0)


@dataclass
class ImageSet:
    """What `read_images` returns."""

    exposures: list[Exposure]
    skipped: list[Skipped] = field(default_factory=list)
    unit: str = "nJy"


def read_exposures(
    options: Sequence[ImageOptions], base_dir, bands: Sequence[str], **kwargs
) -> list[Exposure]:
    """The exposures of `read_images`; those left out are in the log only."""
    return read_images(options, base_dir, bands, **kwargs).exposures


def read_images(
    options: Sequence[ImageOptions],
    base_dir,
    bands: Sequence[str],
    unit: str = "auto",
    require_psf: bool = False,
    allow_mixed_units: bool = False,
    precision: str = "float64",
) -> ImageSet:
    """Read every exposure that the configuration names.

    Parameters
    ----------
    options : entries of `images`.
    base_dir : folder of relative paths.
    bands : bands of the run.
    unit : "nJy": an image that cannot be calibrated is an error; "image": keep the images' own
        units; "auto": nJy where the header or a zero point allow.
    require_psf : an image without PSF is an error.
    allow_mixed_units : bands may differ in unit (never the exposures of one band).
    precision : floating point of the fit; exposures whose numbers it cannot hold are bad.

    Returns
    -------
    ImageSet : exposures sorted by band; `skipped` ones were bad in a good run.

    Raises
    ------
    InputError
        One sentence naming the file and what is wrong: see `plan_images`; what `read_one` finds
        wrong with every exposure of an entry, so that the entry is to blame; mixed units; bands
        of which no exposure is left.
    """
    labels = [f"images.{k}" for k in range(len(options))]
    stored = [
        exposure
        for label, entry in zip(labels, options, strict=True)
        if is_stored(entry)
        for exposure in read_stored(entry, base_dir, bands, label, require_psf)
    ]
    plain = [k for k, entry in enumerate(options) if not is_stored(entry)]
    plans = plan_images(
        [options[k] for k in plain],
        base_dir,
        bands,
        require_psf,
        labels=[labels[k] for k in plain],
        known={e.band for e in stored},
    )
    scale_to_first(plans, unit)
    _check_names([e.name for e in stored], [plan.name for plan in plans])
    exposures, skipped = _usable(stored, precision)
    failed, read = [], set()
    for plan in plans:
        try:
            if plan.problem:
                raise (BadExposure if plan.damaged else InputError)(plan.problem)
            exposure = read_one(plan, keep_unit=unit == "image")
            _check_range(exposure, precision)
            exposures.append(exposure)
            read.add(plan.entry)
        except InputError as error:
            if plan.options.on_bad_exposure == "stop":
                raise
            failed.append((plan, error))
    for plan, error in failed:
        if plan.entry not in read and not isinstance(error, BadExposure):
            raise error
        skipped.append(Skipped(plan.name, plan.band, plan.path, str(error), *_footprint(plan)))
    for lost in skipped:
        log.warning("exposure %s (band %s) is left out: %s", lost.name, lost.band, lost.reason)
    for band in bands:
        if not any(e.band == band for e in exposures):
            reason = next((s.reason for s in skipped if s.band in (band, "")), "none was found")
            raise InputError(f"band {band} has no usable exposure: {reason}")
    exposures.sort(key=lambda e: bands.index(e.band))
    common = _check_units(exposures, unit, allow_mixed_units)
    return ImageSet(exposures, skipped, common)


def _usable(stored: list, precision: str) -> tuple[list, list[Skipped]]:
    good, bad = [], []
    for e in stored:
        try:
            _check_range(e, precision)
            good.append(e)
        except BadExposure as error:
            bad.append(Skipped(e.name, e.band, Path(e.notes["path"]), str(error), e.wcs, e.shape))
    return good, bad


def _check_range(exposure, precision: str) -> None:
    """Raise BadExposure where squares of 1/sigma leave the range of single precision."""
    error = exposure.typical_error
    if precision == "float64" or error is None or 1.0 / LARGEST <= error <= LARGEST:
        return
    where, unit = exposure.notes["path"], exposure.unit
    zero_point = "" if unit == "nJy" else ", or a zero point, which gives nJy"
    raise BadExposure(
        f"{where}: typical errors of {error:.2g} {unit} are beyond single "
        f"precision: if they are right, set `precision: float64`{zero_point}"
    )


def _footprint(plan: ImagePlan) -> tuple:
    """WCS and shape of an exposure that could not be read, as far as its header tells."""
    try:
        header = plan.fields["header"]
        wcs, _ = build_wcs(
            header, plan.options.wcs, plan.shape, wcs_offsets(plan), where=plan.where
        )
    except (InputError, KeyError):
        return None, plan.shape
    return wcs, plan.shape


def _check_names(stored: list[str], planned: list[str]) -> None:
    """Raise when an exposure of a store is called as another."""
    seen = set(planned)
    for name in stored:
        if name in seen:
            raise InputError(
                f"exposure name '{name}' is used twice; set `name` of one of the entries to a "
                "template that tells them apart, for example 'stored-{stem}'"
            )
        seen.add(name)


def _check_units(exposures: list[Exposure], unit: str, allow_mixed: bool) -> str:
    first = exposures[0]
    if unit == "nJy":
        for e in exposures:
            if e.unit != "nJy":
                raise InputError(
                    f"{e.notes['path']}: cannot be calibrated to nJy ({e.notes['unit_from']}); "
                    "give zero_point or unit, or set the run's unit: image"
                )
    advice = "give every image a zero point, or set the run's unit: image"
    if unit == "image":
        advice = "images in their own units must agree; calibrate them with zero points"
    by_band: dict[str, Exposure] = {}
    for e in exposures:
        other = by_band.setdefault(e.band, e)
        reference = other if allow_mixed else first
        if e.unit != reference.unit:
            raise InputError(
                f"exposures mix units: {reference.name} (band {reference.band}) is in "
                f"{reference.unit}, {e.name} (band {e.band}) in {e.unit} "
                f"({e.notes['unit_from']}); {advice}"
            )
    return first.unit


def read_one(plan: ImagePlan, keep_unit: bool = False) -> Exposure:
    """Read one planned exposure.

    Parameters
    ----------
    plan : from `plan_images`.
    keep_unit : no conversion to nJy.

    Returns
    -------
    Exposure : pixels in float32; `ierr` is 0 where masked, not finite or without a valid error.

    Raises
    ------
    InputError
        Missing extension, shapes that differ, no valid error at all, no WCS.
    BadExposure
        Every pixel is masked or not finite, or the data are damaged.
    """
    o, where, notes = plan.options, plan.where, dict(plan.notes, path=str(plan.path))
    with FitsFile(plan.path) as f:
        index = f.index(science_ext(o, plan.fields, where))
        raw, header = f.image(index), f.header(index)
        if not np.issubdtype(raw.dtype, np.number):
            raise InputError(f"{where}: extension {index} is not numeric")
        data = raw.astype(np.float64)
        good, notes["mask_from"] = good_pixels(plan, f, index, data)
        variance, notes["error_from"] = variance_of(plan, f, index, data, good)
        wcs, notes["wcs_from"] = _wcs(plan, f, index, data.shape, wcs_offsets(plan))
    usable = good & np.isfinite(variance) & (variance > 0)
    if not usable.any():
        raise BadExposure(f"{where}: every pixel is masked or not finite ({notes['mask_from']})")
    absurd = usable & (variance < SMALLEST_ERROR**2 * np.median(variance[usable]))
    if absurd.any():
        usable &= ~absurd
        log.warning("%s: %d pixels have errors below %g of the median: masked",
                    plan.name, int(absurd.sum()), SMALLEST_ERROR)  # fmt: skip
    level, notes["sky_from"] = subtract_sky(plan, header, data, usable)
    # the masked pixels of pictures would otherwise carry infinities
    data = np.where(np.abs(data) < HUGE, data, 0.0) - level
    if o.shot_noise is not None:
        variance = variance + np.abs(data) / _electrons(plan, header)
        notes["error_from"] += " + shot noise of the sources"
    factor, unit, notes["unit_from"] = _calibrate(plan, header, wcs, data.shape, keep_unit)
    notes["factor"], notes["sky_level"] = factor, factor * float(np.median(level))
    data *= factor
    beyond = ~(np.abs(data) < HUGE)  # single precision would make infinities of them
    if beyond.any():
        notes["mask_from"] += f"; {int((usable & beyond).sum())} pixels beyond {HUGE:g} {unit}"
        usable &= ~beyond
    ierr = np.zeros(data.shape, np.float32)
    with np.errstate(over="ignore"):
        ierr[usable] = 1.0 / (np.sqrt(variance[usable]) * factor * o.error_scale)
    ierr[~np.isfinite(ierr)] = 0.0
    if not ierr.any():
        raise BadExposure(f"{where}: no pixel has a value and an error within single precision "
                          f"({notes['mask_from']}; {notes['unit_from']})")  # fmt: skip
    data = np.where(beyond, 0.0, data).astype(np.float32)
    if o.error_scale != 1.0:
        notes["error_from"] += f", times {o.error_scale:g}"
    exposure = Exposure(plan.name, plan.band, data, ierr, wcs, unit, header)
    exposure.psf, exposure.notes = plan.psf, notes
    exposure.nuisance = nuisance_of(plan, exposure, factor)
    log.info(
        "%s: band %s, %d x %d pixels (%d usable); unit %s from %s; errors from %s; sky: %s; %s",
        plan.name, plan.band, data.shape[1], data.shape[0], int((ierr > 0).sum()), unit,
        notes["unit_from"], notes["error_from"], notes["sky_from"], notes["wcs_from"],
    )  # fmt: skip
    return exposure


def wcs_offsets(plan: ImagePlan) -> tuple[float, float]:
    """Shift of the WCS in (RA cos dec, dec) that the options ask for, arcsec."""
    o, where = plan.options.wcs, plan.where
    return tuple(
        number_or_key(v, {}, plan.row, f"{where}: wcs.{n}") or 0.0
        for n, v in (("offset_ra", o.offset_ra), ("offset_dec", o.offset_dec))
    )


def _wcs(plan: ImagePlan, f: FitsFile, index: int, shape, offsets):
    o, where = plan.options.wcs, plan.where
    if o.ext is not None:
        index = f.index(o.ext)
    edits = o.header or o.remove or o.pixel_scale or o.repair_pc
    if o.gwcs and not edits:
        wcs, note = read_gwcs(f.hdus, shape, offsets)
        if wcs is not None:
            return wcs, note
    else:
        note = ""
    wcs, text = build_wcs(f.header(index), o, shape, offsets, fobj=f.hdus, where=where)
    if note:
        log.warning("%s: %s", plan.name, note)
        text = f"{text}; {note}"
    return wcs, text


def _electrons(plan: ImagePlan, header) -> float:
    """Electrons per image unit, gain x exposure time."""
    o, where = plan.options.shot_noise, f"{plan.where}: shot_noise"
    gain = number_or_key(o.gain, header, plan.row, f"{where}.gain")
    seconds = number_or_key(o.exptime, header, plan.row, f"{where}.exptime")
    if gain is None and seconds is None:
        raise InputError(f"{where}: give gain, exptime or both")
    product = (1.0 if gain is None else gain) * (1.0 if seconds is None else seconds)
    if not product > 0:
        raise InputError(f"{where}: gain x exptime is {product}, expected > 0")
    return product


def own_unit(options: ImageOptions, header) -> str:
    """The unit of an image that is not converted."""
    named = None if options.unit == "image" else options.unit
    return str(named or header.get("BUNIT") or "count").strip()


def _calibrate(plan: ImagePlan, header, wcs, shape, keep_unit: bool):
    if keep_unit or plan.options.unit == "image":
        who = "run" if keep_unit else "configuration"
        note = f"the image's own unit, as the {who} asks"
        if plan.scale != 1.0:
            note += f", times {plan.scale:.6g} to the scale of its band"
        elif plan.njy is not None:
            note += f" (one is {plan.njy:.6g} nJy)"
        return plan.scale, own_unit(plan.options, header), note
    factor, unit, note = calibration(
        header, plan.options, plan.row, pixel_area(wcs, shape), plan.where
    )
    if not (np.isfinite(factor) and factor > 0):
        raise InputError(f"{plan.where}: {note}: factor {factor} is not a positive number")
    if unit != "nJy":
        log.warning("%s: %s (%s)", plan.name, note, unit)
    return factor, unit, note
