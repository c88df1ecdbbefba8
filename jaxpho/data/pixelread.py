"""The pixels of one image that can be used, and their variance, out of its files."""

from __future__ import annotations

import logging

import numpy as np

from jaxpho.data import sky as skymod
from jaxpho.data.fitsread import BadExposure, FitsFile
from jaxpho.data.masks import HUGE, LSST_PLANES, bad_pixels, region_mask
from jaxpho.data.plan import ImagePlan, as_selector, locate
from jaxpho.errors import InputError

log = logging.getLogger("jaxpho.ingest")

UNUSABLE = ("not finite", f"beyond {HUGE:g}")
MANY_INVALID = 0.1
"""Share of pixels without a valid error above which the error map is perhaps the wrong one."""


def _array(plan: ImagePlan, f: FitsFile, index: int, kind: str, shape, plain=()):
    """An array beside the science image (error, mask ...): (array, header, label) or None."""
    selector = as_selector(getattr(plan.options, kind), plain)
    if selector is None:
        return None
    path, ext = locate(plan, selector, f"{plan.where}: {kind}")
    if path is None:
        return None
    same = path == plan.path
    if same and ext is None:
        raise InputError(f"{plan.where}: {kind}: give an extension or a file")
    other = f if same else FitsFile(path)
    try:
        if ext is None and index < len(other.hdus) and other.hdus[index].header.get("NAXIS") == 2:
            number = index
        else:
            number = other.index(ext, selector.optional)
        if number is None:
            return None
        label = f"{path.name}[{other.hdus[number].name or number}]"
        array, header = other.image(number), other.header(number)
    finally:
        if not same:
            other.__exit__()
    if array.shape != shape:
        raise InputError(
            f"{path}: {kind} has shape {array.shape}, the science image of {plan.path.name} "
            f"{shape} (ny, nx)"
        )
    return array, header, label


def good_pixels(plan: ImagePlan, f: FitsFile, index: int, data):
    """Pixels that hold a number and are not masked: [ny, nx] bool, and where the mask came from."""
    o, where = plan.options, plan.where
    finite = np.isfinite(data)
    good = np.abs(data) < HUGE
    lost = [(~finite).sum(), (finite & ~good).sum()]
    parts = [f"{n} pixels {t}" for n, t in zip(lost, UNUSABLE, strict=True) if n]
    found = _array(plan, f, index, "mask", data.shape)
    if found is not None:
        array, header, label = found
        planes = LSST_PLANES if o.preset in ("hsc", "rubin") else None
        label_of = f"{where}: {label}"
        bad = bad_pixels(array, header, o.mask_bits, bool(o.mask_good), label_of, planes)
        parts.append(f"{int((bad & good).sum())} by {label}")
        good &= ~bad
    if o.mask_regions:
        bad = region_mask(o.mask_regions, data.shape, f"{where}: mask_regions")
        parts.append(f"{int((bad & good).sum())} by mask_regions")
        good &= ~bad
    return good, ("masked: " + ", ".join(parts)) if parts else "nothing masked"


def variance_of(plan: ImagePlan, f: FitsFile, index: int, data, good):
    """Variance in image units squared, nan where there is none; and where it came from."""
    o, where = plan.options, plan.where
    given = [k for k in ("error", "weight", "variance") if getattr(o, k) not in (None, "none")]
    if len(given) != 1:
        raise InputError(
            f"{where}: expected exactly one of error, weight, variance (or error: estimate); "
            f"found {', '.join(given) or 'none'}"
        )
    kind = given[0]
    if isinstance(o.error, str) and o.error.lower() == "estimate":
        if not good.any():
            raise BadExposure(f"{where}: every pixel is masked or not finite")
        scatter = skymod.blank_statistics(np.where(good, data, 0.0), good).scatter
        if not scatter > 0:
            raise InputError(f"{where}: error: estimate: the blank pixels have no scatter")
        return np.full(data.shape, scatter**2), f"scatter of the blank pixels, {scatter:.4g}"
    found = _array(plan, f, index, kind, data.shape)
    if found is None:
        raise InputError(f"{where}: {kind}: the optional file or extension is missing")
    array, header, label = found
    values = array.astype(np.float64)
    valid = np.isfinite(values) & (values > 0)
    if not valid.any():
        finite = values[np.isfinite(values)]
        span = f"{finite.min():.4g} to {finite.max():.4g}" if finite.size else "not finite"
        raise InputError(f"{where}: {kind} {label} has no positive value ({span})")
    lost = int((good & ~valid).sum())
    if lost:
        negative = int((good & (values < 0)).sum())
        share = lost / good.sum()
        say = log.warning if share > MANY_INVALID else log.info
        say("%s: %d pixels (%.1f %%) have no valid %s (%d negative): masked",
            plan.name, lost, 100 * share, kind, negative)  # fmt: skip
    if kind == "weight" and plan.options.preset == "hst":
        log.warning("%s: WHT is taken for an inverse variance; drizzle must have been run with "
                    "final_wht_type IVM or ERR, else give an error map", plan.name)  # fmt: skip
    variance = np.full(data.shape, np.nan)
    power = {"error": 2.0, "variance": 1.0, "weight": -1.0}[kind]
    variance[valid] = values[valid] ** power
    return variance, f"{kind} {label}" + (f" ({lost} invalid)" if lost else "")
