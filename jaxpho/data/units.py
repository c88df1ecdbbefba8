"""From an image's unit to nJy per pixel."""

from __future__ import annotations

import logging
import math
import re

from astropy import units as u

from jaxpho.errors import InputError

log = logging.getLogger("jaxpho.units")

AB_ZERO_POINT_NJY = 31.4  # AB magnitude of 1 nJy
NJY_PER_NANOMAGGY = 3631.0
MAX_ZERO_POINT = 60.0  # mag; nothing real comes near it

# Names that FITS headers use and astropy does not read, as (astropy unit, nJy per unit).
_FLUX_NAMES = {
    "nanomaggy": NJY_PER_NANOMAGGY,
    "nanomaggies": NJY_PER_NANOMAGGY,
    "nmgy": NJY_PER_NANOMAGGY,
    "maggy": NJY_PER_NANOMAGGY * 1e9,
    "maggies": NJY_PER_NANOMAGGY * 1e9,
    "mgy": NJY_PER_NANOMAGGY * 1e9,
    "njy": 1.0,
    "ujy": 1e3,
    "microjy": 1e3,
    "mjy": None,  # "mJy" and "MJy" differ by 1e9: only the exact spelling is trusted
    "jy": 1e9,
}
_COUNT_NAMES = r"(electrons?|counts?|cts?|adu|dn|e-|e)"
_NO_UNIT = ("", "none", "unknown", "count", "counts", "adu", "dn", "electron", "electrons")


def magnitude_to_njy(mag):
    """AB magnitude -> nJy, 10^(-0.4 (mag - 31.4))."""
    return 10.0 ** (-0.4 * (mag - AB_ZERO_POINT_NJY))


def flux_unit_to_njy(name: str) -> float:
    """NJy per unit of a flux: nJy, uJy, mJy, Jy, nanomaggy, or what astropy reads as one.

    Raises
    ------
    InputError
        When `name` is not a flux density.
    """
    text = name.strip()
    known = _FLUX_NAMES.get(text.lower())
    if known is not None:
        return known
    try:
        return float(u.Unit(text).to(u.nJy))
    except (ValueError, TypeError, u.UnitConversionError):
        raise InputError(
            f"unit '{name}' is not a flux density; expected nJy, uJy, mJy, Jy, nanomaggy, maggy "
            "or a unit that astropy converts to nJy"
        ) from None


def parse_unit(text: str) -> tuple[str, float]:
    """What kind of quantity a BUNIT names.

    Returns
    -------
    kind : "flux" (per pixel), "surface" (per steradian), "rate" (counts per second), "counts",
        or "unknown".
    factor : nJy, or nJy/sr, per unit; 1 for the other kinds.
    """
    name = text.strip()
    lower = re.sub(r"\s*(/|per)\s*(pix|pixel)$", "", name.lower())
    compact = lower.replace(" ", "").replace("**", "^").replace(".s-1", "/s")
    if _FLUX_NAMES.get(lower) is not None:
        return "flux", _FLUX_NAMES[lower]
    if re.fullmatch(_COUNT_NAMES + r"(/s(ec(onds?)?)?|s\^?-1|\^?s\^?\(?-1\)?)", compact):
        return "rate", 1.0
    if lower in _NO_UNIT:
        return "counts", 1.0
    try:
        unit = u.Unit(re.sub(r"\s*/\s*(pix|pixel)$", "", name))
    except (ValueError, TypeError):
        return "unknown", 1.0
    if unit.is_equivalent(u.nJy):
        return "flux", float(unit.to(u.nJy))
    if unit.is_equivalent(u.nJy / u.sr):
        return "surface", float(unit.to(u.nJy / u.sr))
    return "unknown", 1.0


def number_or_key(value, header, row, where: str):
    """A number, or the number that a header card or table column of that name holds.

    Raises
    ------
    InputError
        When neither has the name, or the value is not a finite number; `where` names the option.
    """
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return value
    found = value
    lookup = row or {}
    if value in lookup:
        found = lookup[value]
    elif value in header:
        found = header[value]
    try:
        number = float(found)
    except (TypeError, ValueError):
        place = "a header card" + (" or table column" if row else "")
        if found is value:
            raise InputError(f"{where}: expected a number or {place}, found '{value}'") from None
        raise InputError(f"{where}: '{value}' holds '{found}', expected a number") from None
    if not math.isfinite(number):
        raise InputError(f"{where}: '{value}' holds {number}")
    return number


def zero_point(options, header, row, where: str) -> tuple[float, str] | None:
    """AB magnitude of one image unit, and where it came from; None when an optional one lacks."""
    if options is None:
        return None
    given = [k for k in ("value", "key", "flux_key", "column") if getattr(options, k) is not None]
    if len(given) != 1:
        raise InputError(
            f"{where}: zero_point expects exactly one of value, key, flux_key, column; "
            f"found {', '.join(given) or 'none'}"
        )
    kind = given[0]
    name = getattr(options, kind)
    if kind == "value":
        zp, source = float(name), "the configuration"
    elif kind == "column":
        if row is None or name not in row:
            raise InputError(f"{where}: zero_point.column: no table column '{name}' for this image")
        zp, source = number_or_key(name, {}, row, where), f"table column {name}"
    else:
        if name not in header:
            if options.optional:
                return None
            raise InputError(f"{where}: zero_point: no header card '{name}'")
        zp, source = number_or_key(name, header, None, where), f"header card {name}"
        if kind == "flux_key":
            if not zp > 0:
                raise InputError(f"{where}: zero_point: card {name} is {zp}, expected > 0")
            zp = 2.5 * math.log10(zp)
    if options.exptime is not None and options.exptime is not False:
        key = "EXPTIME" if options.exptime is True else options.exptime
        seconds = number_or_key(key, header, row, f"{where}: zero_point.exptime")
        if not seconds > 0:
            raise InputError(f"{where}: exposure time is {seconds} s, expected > 0")
        zp += 2.5 * math.log10(seconds)
        source += f" + 2.5 log10({seconds:g} s)"
    if not abs(zp) <= MAX_ZERO_POINT:
        raise InputError(
            f"{where}: zero point is {zp:g} mag from {source}, expected within "
            f"-{MAX_ZERO_POINT:g} and {MAX_ZERO_POINT:g}"
        )
    return zp, source


def _inverse_sensitivity(header) -> tuple[float, str] | None:
    """NJy per count/s from PHOTFNU, or PHOTFLAM and PHOTPLAM (HST)."""
    if header.get("PHOTFNU"):
        return float(header["PHOTFNU"]) * 1e9, "PHOTFNU"
    if header.get("PHOTFLAM") and header.get("PHOTPLAM"):
        flam = float(header["PHOTFLAM"]) * u.erg / u.s / u.cm**2 / u.AA
        wave = float(header["PHOTPLAM"]) * u.AA
        return float(flam.to_value(u.nJy, u.spectral_density(wave))), "PHOTFLAM and PHOTPLAM"
    return None


def pixel_area_sr(value, header, wcs_area_sr: float | None, where: str) -> tuple[float, str]:
    """Solid angle of a pixel [sr] and its source: option, PIXAR_SR, PIXAR_A2, then the WCS."""
    if value is not None:
        area, source = number_or_key(value, header, None, f"{where}: pixel_area"), str(value)
    elif header.get("PIXAR_SR"):
        area, source = float(header["PIXAR_SR"]), "PIXAR_SR"
    elif header.get("PIXAR_A2"):
        area, source = float(header["PIXAR_A2"]) * u.arcsec.to(u.rad) ** 2, "PIXAR_A2"
    elif wcs_area_sr is not None:
        area, source = wcs_area_sr, "the WCS"
    else:
        raise InputError(f"{where}: surface brightness needs a pixel area; give pixel_area")
    if not (math.isfinite(area) and area > 0):
        raise InputError(f"{where}: pixel area from {source} is {area} sr, expected > 0")
    return area, source


def calibration(
    header, options, row=None, wcs_area_sr: float | None = None, where: str = "image"
) -> tuple[float, str, str]:
    """Factor from pixel values to nJy per pixel.

    Parameters
    ----------
    header : astropy header of the image (primary cards included).
    options : ImageOptions; `unit`, `zero_point` and `pixel_area` are used.
    row : dict of the joined table row, or None.
    wcs_area_sr : solid angle of the central pixel from the WCS [sr].
    where : names the image in errors.

    Returns
    -------
    factor, unit, note : `unit` is "nJy", or the image's own with factor 1 when neither a zero
        point nor the header calibrates it; `note` says where it came from.

    Raises
    ------
    InputError
        For a zero point, area or exposure time that cannot be used.
    """
    own = header.get("BUNIT", "") if options.unit in (None, "image") else options.unit
    own = str(own or "").strip()
    said = "BUNIT" if options.unit in (None, "image") else "the configuration's unit"
    if options.unit == "image":
        return 1.0, own or "count", "the image's own unit, as the configuration asks"
    zp = zero_point(options.zero_point, header, row, where)
    if zp is not None:
        return magnitude_to_njy(zp[0]), "nJy", f"AB zero point {zp[0]:.4f} from {zp[1]}"
    kind, factor = parse_unit(own)
    if kind == "flux":
        return factor, "nJy", f"{said} {own}"
    if kind == "surface":
        area, source = pixel_area_sr(options.pixel_area, header, wcs_area_sr, where)
        return factor * area, "nJy", f"{said} {own} x pixel area {area:.6g} sr from {source}"
    inverse = _inverse_sensitivity(header) if kind in ("rate", "counts") and own else None
    if inverse is not None:
        njy, source = inverse
        if kind == "rate":
            return njy, "nJy", f"{said} {own} x {source}"
        seconds = float(header.get("EXPTIME") or 0)
        if seconds > 0:
            return njy / seconds, "nJy", f"{said} {own} / EXPTIME x {source}"
    zp = header.get("ABMAG")
    if isinstance(zp, int | float) and not isinstance(zp, bool) and abs(zp) <= MAX_ZERO_POINT:
        return magnitude_to_njy(zp), "nJy", f"AB zero point {zp:.4f} from header card ABMAG"
    reason = f"unit '{own}' without a zero point" if own else "no BUNIT and no zero point"
    return 1.0, own or "count", f"not calibrated: {reason}; fluxes are in the image's own unit"
