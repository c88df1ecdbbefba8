"""The header of a stored exposure: its cards, with the WCS that reading the image used.

A store keeps one header per exposure and no other extension. The WCS is therefore written so
that the header alone gives it back: edits and shifts of the configuration are made in the cards,
and a WCS that cards cannot hold (distortion tables, gwcs) is approximated by SIP polynomials.
"""

from __future__ import annotations

import contextlib
import logging
import warnings

import numpy as np
from astropy.io import fits

from jaxpho.data.fitsread import FitsFile
from jaxpho.data.footprint import tangent_plane
from jaxpho.data.options import WCSOptions
from jaxpho.data.wcs import build_wcs, edit_header, shift_header, world_to_pixel
from jaxpho.errors import InputError
from jaxpho.files import ascii_text

log = logging.getLogger("jaxpho.wcs")

EXACT = 1e-6
"""Pixels by which a WCS may differ from that of its header without being fitted."""

POOR = 0.05
"""Pixels beyond which the approximation of a WCS deserves a warning."""

SIP_DEGREE, SIP_SIDE = 5, 33
"""Of the fitted polynomials, and points per side of the grid they are fitted on."""

_STRUCTURE = (
    "SIMPLE", "XTENSION", "BITPIX", "NAXIS", "EXTEND", "PCOUNT", "GCOUNT", "GROUPS", "EXTNAME",
    "EXTVER", "EXTLEVEL", "BSCALE", "BZERO", "BLANK", "CHECKSUM", "DATASUM", "INHERIT", "LONGSTRN",
    "COMMENT", "HISTORY", "CONTINUE", "FILTER", "BUNIT", "EXPID", "END", "",
)  # fmt: skip
_WCS = ("CTYPE", "CRVAL", "CRPIX", "CDELT", "CUNIT", "CROTA", "CD1_", "CD2_", "PC1_", "PC2_",
        "PC00", "PV1_", "PV2_", "PS1_", "PS2_", "WCSAXES", "WCSNAME", "LONPOLE", "LATPOLE",
        "RADESYS", "EQUINOX", "A_", "B_", "AP_", "BP_", "A_ORDER", "B_ORDER", "CPDIS", "CPERR",
        "D2IM", "DP1", "DP2", "CQDIS", "DQ1", "DQ2", "AXISCORR", "NPOLFILE",
        "D2IMFILE")  # fmt: skip
_TABLES = ("CPDIS", "CPERR", "D2IM", "DP1", "DP2", "CQDIS", "DQ1", "DQ2", "AXISCORR")
_USEFUL = ("TELESCOP", "INSTRUME", "DETECTOR", "MODULE", "CHANNEL", "CCDNAME", "CCDNUM", "EXPNUM",
           "PUPIL", "DATE-OBS", "TIME-OBS", "MJD-OBS", "MJD-AVG", "EXPTIME", "EFFEXPTM", "OBJECT",
           "OBS_ID", "VISIT", "ORIGUNIT", "ORIGFILT")  # fmt: skip
"""Cards that a header without the others keeps."""


def stored_header(
    exposure, plan, band: str, offsets=(0.0, 0.0), cards: str = "all"
) -> tuple[fits.Header, float]:
    """The header of a store for an exposure that was read from an image.

    Parameters
    ----------
    exposure : Exposure
        From `jaxpho.data.ingest.read_one`.
    plan : ImagePlan
        Its plan; `options.wcs` says how the WCS was mended.
    band : name of the band in the store, the value of FILTER.
    offsets : shift that the options add to (RA cos dec, dec), arcsec.
    cards : "all" of the image's, or "wcs" and a few that say which exposure it is.

    Returns
    -------
    header, error : error is the largest distance, in pixels, between positions by the header and
        by the exposure's WCS.

    Raises
    ------
    InputError
        When no header gives the WCS.
    """
    options, shape = plan.options.wcs, exposure.shape
    plain = _plain(exposure.header, cards)
    other = options.ext is not None
    source = exposure.header
    if other:
        with FitsFile(plan.path) as file:
            source = file.header(file.index(options.ext))
    own, error = plain, np.inf
    with contextlib.suppress(InputError, KeyError, ValueError, TypeError):
        edited, _ = edit_header(source, options, shape, plan.where)
        if any(offsets):
            shift_header(edited, offsets)
        own = _plain(edited, "wcs" if other else cards)
        if other:
            own.extend(_without(plain, _WCS), unique=True)
        error = wcs_difference(exposure.wcs, own, shape)
    if error > EXACT:
        fitted = _without(plain, _WCS)
        fitted.extend(fit_sip(exposure.wcs, shape))
        approximate = wcs_difference(exposure.wcs, fitted, shape)
        if approximate < error:
            own, error = fitted, approximate
        log.log(
            logging.WARNING if error > POOR else logging.INFO,
            "%s: the WCS is not one of header cards alone; those written to the store follow it "
            "to %.2g pixel", exposure.name, error,
        )  # fmt: skip
    if not np.isfinite(error):
        raise InputError(f"{plan.where}: no FITS header describes its WCS")
    return _complete(own, exposure, band), error


def _complete(header: fits.Header, exposure, band: str) -> fits.Header:
    ny, nx = exposure.shape
    out = fits.Header()
    out["NAXIS"], out["NAXIS1"], out["NAXIS2"] = 2, nx, ny
    out["FILTER"] = (band, "band of the store")
    out["BUNIT"] = (exposure.unit, "per pixel, of the pixel store")
    out["EXPID"] = ascii_text(exposure.name)[:68]
    for card, old in (("ORIGFILT", "FILTER"), ("ORIGUNIT", "BUNIT")):
        value = str(exposure.header.get(old, "")).strip()
        if value and value != out[old]:
            out[card] = (ascii_text(value)[:60], f"{old} of the image")
    out.extend(header, unique=True)
    return out


def _plain(header, cards: str = "all") -> fits.Header:
    """The cards that any reader understands; structure, comments and damaged ones left out."""
    out = fits.Header()
    for card in header.cards:
        key = card.keyword
        if key in _STRUCTURE or key.startswith(("NAXIS", *_TABLES)):
            continue
        if cards == "wcs" and not key.startswith(_WCS) and key not in _USEFUL:
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                value = card.value  # first: making it text would mend it, to something else
                image = str(card)
                image.encode("ascii")
                # as text and back: what a reader of the store will see
                again = fits.Header.fromstring(image)
            if len(image) % 80 == 0 and len(again) == 1 and again[0] == value:
                out.append(card, end=True)
        except (ValueError, fits.VerifyError, UnicodeEncodeError, Warning, KeyError, IndexError):
            log.debug("header card %s is damaged and left out", key)
    return out


def _without(header: fits.Header, prefixes) -> fits.Header:
    out = fits.Header()
    for card in header.cards:
        if not card.keyword.startswith(prefixes):
            out.append(card, end=True)
    return out


def wcs_difference(wcs, header, shape) -> float:
    """Largest distance [pixel] between pixels by a WCS and by a header, over the image.

    Infinite where the header has no usable WCS.
    """
    ny, nx = shape
    with _silent(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            text = fits.Header.fromstring(header.tostring())
            again, _ = build_wcs(text, WCSOptions(), shape)
            x, y = _grid(shape, 9)
            ra, dec = wcs.pixel_to_world_values(x, y)
            back = world_to_pixel(again, ra, dec)
        except Exception as error:  # astropy asserts, wcslib has errors of its own
            log.debug("header without usable WCS: %s", error)
            return np.inf
    miss = np.hypot(back[..., 0] - x, back[..., 1] - y)
    return float(miss.max()) if np.isfinite(miss).all() else np.inf


@contextlib.contextmanager
def _silent():
    """Warnings about a WCS were given when the image was read."""
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def _grid(shape, side: int):
    """Pixels [side^2] from edge to edge of an image."""
    ny, nx = shape
    x, y = np.meshgrid(np.linspace(-0.5, nx - 0.5, side), np.linspace(-0.5, ny - 0.5, side))
    return x.reshape(-1), y.reshape(-1)


def fit_sip(wcs, shape, degree: int = SIP_DEGREE) -> fits.Header:
    """Cards of a TAN-SIP WCS (Shupe et al. 2005) that follows another over an image.

    Parameters
    ----------
    wcs : has pixel_to_world_values.
    shape : (ny, nx).
    degree : of the polynomials.
    """
    ny, nx = shape
    middle = np.array([(nx - 1) / 2, (ny - 1) / 2])
    crval = np.array(wcs.pixel_to_world_values(*middle), float)
    x, y = _grid(shape, SIP_SIDE)
    ra, dec = (np.asarray(v, float) for v in wcs.pixel_to_world_values(x, y))
    plane = np.stack(tangent_plane(*crval, ra, dec)[:2], -1)
    # scaled to 1 at the edges: high powers of thousands of pixels would drown the low ones
    scale = max(nx, ny) / 2
    u, v = (x - middle[0]) / scale, (y - middle[1]) / scale
    powers = [(p, q) for n in range(1, degree + 1) for q in range(n + 1) for p in (n - q,)]
    design = np.stack([u**p * v**q for p, q in powers], -1)
    coefficients, *_ = np.linalg.lstsq(design, plane, rcond=None)
    coefficients = coefficients / np.array([scale ** (p + q) for p, q in powers])[:, None]
    cd = coefficients[:2].T
    distortion = coefficients[2:] @ np.linalg.inv(cd).T
    header = fits.Header()
    header["WCSAXES"] = 2
    header["CTYPE1"], header["CTYPE2"] = "RA---TAN-SIP", "DEC--TAN-SIP"
    header["CUNIT1"] = header["CUNIT2"] = "deg"
    header["RADESYS"] = "ICRS"
    for i in range(2):
        header[f"CRVAL{i + 1}"], header[f"CRPIX{i + 1}"] = float(crval[i]), float(middle[i] + 1)
        for j in range(2):
            header[f"CD{i + 1}_{j + 1}"] = float(cd[i, j])
    for name, column in zip("AB", distortion.T, strict=True):
        header[f"{name}_ORDER"] = degree
        for (p, q), value in zip(powers[2:], column, strict=True):
            header[f"{name}_{p}_{q}"] = float(value)
    return header
