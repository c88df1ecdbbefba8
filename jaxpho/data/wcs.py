"""Astrometry of one image: the header's WCS mended or made, and its local affine maps."""

from __future__ import annotations

import logging
import warnings

import numpy as np
from astropy.coordinates import FK5, ICRS, BarycentricMeanEcliptic, SkyCoord
from astropy.wcs import WCS, FITSFixedWarning, WcsError
from astropy.wcs.utils import wcs_to_celestial_frame

from jaxpho.data.fitsread import BadExposure
from jaxpho.errors import InputError

log = logging.getLogger("jaxpho.wcs")

MAX_SHEAR = 0.01  # relative, beyond which a matrix is not taken for a rotation
HALF_STEP = 0.5  # pixel, of the central differences
NEWTON_STEPS = 3  # astropy inverts distortions to 1e-4 pixel only


class FrameAdaptor:
    """A WCS in another celestial frame (galactic, ecliptic, FK4 ...), seen in ICRS."""

    def __init__(self, wcs, frame):
        self.native, self.frame = wcs, frame

    def pixel_to_world_values(self, x, y):
        """Ra, dec [deg, ICRS] of 0-indexed pixels."""
        place = SkyCoord(*self.native.pixel_to_world_values(x, y), unit="deg", frame=self.frame)
        place = place.transform_to(ICRS())
        return place.ra.deg, place.dec.deg

    def world_to_pixel_values(self, ra, dec):
        """0-indexed pixels of ra, dec [deg, ICRS]."""
        place = SkyCoord(ra, dec, unit="deg", frame=ICRS()).transform_to(self.frame)
        return self.native.world_to_pixel_values(place.spherical.lon.deg, place.spherical.lat.deg)


def _in_icrs(wcs, where: str):
    """The WCS as ICRS positions, and what was done.

    FK5 of equinox 2000 is taken as ICRS: they differ by less than 25 mas, and images that say FK5
    are nearly always tied to a catalogue in ICRS.
    """
    try:
        if wcs.wcs.lngtyp == "ELON":  # astropy would take it for right ascension
            equinox = wcs.wcs.equinox if np.isfinite(wcs.wcs.equinox) else 2000.0
            frame = BarycentricMeanEcliptic(equinox=f"J{equinox}")
        else:
            frame = wcs_to_celestial_frame(wcs)
    except ValueError as error:
        kind = ", ".join(wcs.wcs.ctype)
        raise BadExposure(
            f"{where}: WCS in a celestial frame that is not understood ({kind}, RADESYS "
            f"{wcs.wcs.radesys or 'missing'}): {str(error).splitlines()[0]}"
        ) from None
    if isinstance(frame, ICRS):
        return wcs, ""
    if isinstance(frame, FK5) and abs(frame.equinox.jyear - 2000.0) < 1e-6:
        return wcs, "FK5 J2000 taken as ICRS"
    name = frame.name.upper()
    if frame.name in ("fk4", "fk5"):
        name += f" equinox {frame.equinox.value}"
    return FrameAdaptor(wcs, frame), f"from {name} to ICRS"


def has_celestial(header) -> bool:
    """Whether the header names a celestial coordinate system."""
    kinds = [str(header.get(f"CTYPE{i}", "")) for i in (1, 2)]
    return any(k.startswith(("RA", "GLON", "ELON")) for k in kinds) and any(
        k.startswith(("DEC", "GLAT", "ELAT")) for k in kinds
    )


_PC = ("PC1_1", "PC1_2", "PC2_1", "PC2_2")
_CD = ("CD1_1", "CD1_2", "CD2_1", "CD2_2")
_NUMBERS = (*_PC, *_CD, *(f"{k}{i}" for k in ("CRVAL", "CRPIX", "CDELT") for i in (1, 2)))


def _check_cards(header, where: str) -> None:
    """Raise for cards of the linear WCS that hold no finite number."""
    for key in _NUMBERS:
        value = header.get(key, 0.0)
        if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
            raise BadExposure(
                f"{where}: header card {key} is {value!r}, expected a number; mend it under "
                "wcs.header"
            )


def matrix_complaint(header) -> str | None:
    """What is wrong with the header's linear matrix, or None.

    A PC matrix beside CDELT must be a rotation or flip: singular values 1 within 1 %. A CD matrix
    (or PC with unit CDELT) must have square pixels without shear.
    """
    pc = {k: header[k] for k in _PC if k in header}
    cdelt = np.array([float(header.get(f"CDELT{i}", 1.0)) for i in (1, 2)])
    if pc and not np.allclose(np.abs(cdelt), 1.0):
        matrix = np.array([[pc.get("PC1_1", 1.0), pc.get("PC1_2", 0.0)],
                           [pc.get("PC2_1", 0.0), pc.get("PC2_2", 1.0)]], float)  # fmt: skip
        s = np.linalg.svd(matrix, compute_uv=False)
        if np.all(np.abs(s - 1.0) <= MAX_SHEAR):
            return None
        text = (
            f"its PC matrix [[{matrix[0, 0]:.4g}, {matrix[0, 1]:.4g}], [{matrix[1, 0]:.4g}, "
            f"{matrix[1, 1]:.4g}]] is not a rotation or flip (singular values {s[0]:.4g}, "
            f"{s[1]:.4g} instead of 1)"
        )
        lost = "PC1_2" not in pc and "PC2_1" not in pc and np.all(np.abs(np.diag(matrix)) < 1)
        scale = np.abs(cdelt[0]) * 3600
        if lost:
            other = np.sqrt(1 - min(1.0, matrix[0, 0] ** 2))
            return (
                f"{text}: the off-diagonal terms seem lost, the pixels would be "
                f'{scale * s[0]:.4g}" instead of CDELT\'s {scale:.4g}"; mend it with wcs: '
                f"{{repair_pc: -1}} (PC1_2 = PC2_1 = {-other:.4f}) or {{repair_pc: 1}} (+), or "
                "give PC1_2 and PC2_1 under wcs.header"
            )
        return f"{text}; if it is wrong give PC1_1 ... PC2_2 under wcs.header"
    cd = [header.get(k, 0.0) for k in _CD]
    if any(k in header for k in _CD):
        s = np.linalg.svd(np.array(cd, float).reshape(2, 2), compute_uv=False)
        if s[1] <= 0:
            return "its CD matrix is singular; give CD1_1 ... CD2_2 under wcs.header"
        if s[0] / s[1] > 1 + MAX_SHEAR:
            return (
                f"its CD matrix has pixels {100 * (s[0] / s[1] - 1):.1f} % longer one way than the "
                "other; if it is wrong give CD1_1 ... CD2_2 under wcs.header"
            )
    return None


def simple_header(options, shape, where: str = "image"):
    """Cards of a tangent-plane WCS from scale, position, rotation and parity."""
    if options.ra is None or options.dec is None:
        raise InputError(f"{where}: wcs.pixel_scale needs wcs.ra and wcs.dec")
    if not -90 <= options.dec <= 90:
        raise InputError(f"{where}: wcs.dec is {options.dec}, expected -90 to 90")
    x = (shape[1] - 1) / 2 if options.x is None else options.x
    y = (shape[0] - 1) / 2 if options.y is None else options.y
    angle, scale = np.radians(options.rotation), options.pixel_scale / 3600.0
    c, s = np.cos(angle), np.sin(angle)
    cd = scale * np.array([[-c * options.parity, s], [s * options.parity, c]])
    cards = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CUNIT1": "deg", "CUNIT2": "deg"}
    cards |= {"CRVAL1": options.ra, "CRVAL2": options.dec, "CRPIX1": x + 1, "CRPIX2": y + 1}
    cards |= {f"CD{i + 1}_{j + 1}": cd[i, j] for i in (0, 1) for j in (0, 1)}
    return cards


_LINEAR = ("PC", "CD", "CDELT", "CROTA", "CTYPE", "CUNIT", "CRVAL", "CRPIX", "PV", "A_", "B_",
           "AP_", "BP_", "LONPOLE", "LATPOLE", "WCSAXES")  # fmt: skip


def edit_header(header, options, shape, where: str = "image"):
    """Apply the `wcs` block to a header; returns a copy and what was done, as text."""
    header, done = header.copy(), []
    for key in options.remove or []:
        if key not in header:
            raise InputError(f"{where}: wcs.remove: no header card '{key}'")
        del header[key]
        done.append(f"{key} removed")
    if options.pixel_scale is not None:
        for key in [k for k in header if k.startswith(_LINEAR)]:
            del header[key]
        header.update(simple_header(options, shape, where))
        done.append(f"made from pixel_scale {options.pixel_scale} arcsec")
    elif any(getattr(options, k) is not None for k in ("ra", "dec", "x", "y")):
        raise InputError(f"{where}: wcs.ra, dec, x, y need wcs.pixel_scale")
    if options.repair_pc is not None:
        if "PC1_1" not in header or not abs(float(header["PC1_1"])) <= 1:
            raise InputError(
                f"{where}: wcs.repair_pc needs a card PC1_1 between -1 and 1, found "
                f"{header.get('PC1_1')}"
            )
        other = options.repair_pc * np.sqrt(1 - float(header["PC1_1"]) ** 2)
        header["PC1_2"] = header["PC2_1"] = other
        done.append(f"PC1_2 = PC2_1 = {other:.6f}")
    for key, value in (options.header or {}).items():
        header[key] = value
        done.append(f"{key} = {value}")
    return header, "; ".join(done)


def shift_header(header, offsets) -> None:
    """Add (RA cos dec, dec) offsets [arcsec] to a header's CRVAL, in place."""
    dec = float(header.get("CRVAL2", 0.0))
    header["CRVAL1"] = float(header["CRVAL1"]) + offsets[0] / 3600 / np.cos(np.radians(dec))
    header["CRVAL2"] = dec + offsets[1] / 3600


def build_wcs(header, options, shape, offsets=(0.0, 0.0), fobj=None, where: str = "image"):
    """The celestial WCS of an image.

    Parameters
    ----------
    header : astropy header with the file's cards.
    options : WCSOptions.
    shape : (ny, nx).
    offsets : shift added to (RA cos dec, dec) [arcsec].
    fobj : the open HDUList, for distortion tables.
    where : names the image in errors.

    Returns
    -------
    wcs, note : astropy WCS (0-indexed through its *_values methods) and where it came from.

    Raises
    ------
    InputError
        When the image has no WCS and the `wcs` block gives none.
    BadExposure
        When the WCS cannot be used: a card is not a number, the matrix is singular, the celestial
        frame is unknown.
    """
    header, done = edit_header(header, options, shape, where)
    if not has_celestial(header):
        raise InputError(
            f"{where}: the header has no celestial WCS (CTYPE1 is "
            f"{header.get('CTYPE1', 'missing')!r}); give wcs: {{pixel_scale: .., ra: .., dec: ..}} "
            "or the header cards under wcs.header"
        )
    _check_cards(header, where)
    complaint = matrix_complaint(header)
    if complaint and "singular;" in complaint:
        raise BadExposure(f"{where}: {complaint}")
    if complaint:
        log.warning("%s: WCS suspect: %s", where, complaint)
    if offsets[0] or offsets[1]:
        shift_header(header, offsets)
        done += f"{'; ' if done else ''}shifted by {offsets[0]:+.4f}, {offsets[1]:+.4f} arcsec"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FITSFixedWarning)
            wcs = WCS(header, fobj=fobj).celestial
            wcs.array_shape = tuple(shape)
            # the first use is where wcslib finds errors
            corner = wcs.pixel_to_world_values((shape[1] - 1) / 2, (shape[0] - 1) / 2)
    except (WcsError, ValueError, KeyError, TypeError, MemoryError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise BadExposure(f"{where}: WCS cannot be used: {reason[-1]}") from error
    if not np.all(np.isfinite(corner)):
        raise BadExposure(f"{where}: WCS gives no position at the image centre")
    wcs, moved = _in_icrs(wcs, where)
    area = pixel_area(wcs, shape)
    if not (np.isfinite(area) and area > 0):
        raise BadExposure(f"{where}: WCS gives the central pixel an area of {area:.3g} sr")
    done += f"{'; ' if done and moved else ''}{moved}"
    kind = "WCS of the header" if options.pixel_scale is None else "WCS"
    return wcs, kind + (f" ({done})" if done else "") + (f"; {complaint}" if complaint else "")


def _jacobian(wcs, x, y):
    """d(RA cos dec, dec)/d(x, y) [deg/pixel] at pixels, [..., 2, 2], by central differences."""
    h = HALF_STEP
    px = np.stack([x + h, x - h, x, x])
    py = np.stack([y, y, y + h, y - h])
    ra, dec = (np.asarray(v, float) for v in wcs.pixel_to_world_values(px, py))
    dra = (np.stack([ra[0] - ra[1], ra[2] - ra[3]], -1) + 180) % 360 - 180
    ddec = np.stack([dec[0] - dec[1], dec[2] - dec[3]], -1)
    # half angle sum: the two ends lie at slightly different declinations
    cosd = np.cos(np.radians(np.stack([dec[0] + dec[1], dec[2] + dec[3]], -1) / 2))
    return np.stack([dra * cosd, ddec], -2) / (2 * h)


def newton(wcs, ra, dec, x, y, steps: int):
    """Pixels that map to ra, dec, from a guess."""
    for _ in range(steps):
        a, d = wcs.pixel_to_world_values(x, y)
        miss = np.stack([((ra - a + 180) % 360 - 180) * np.cos(np.radians(dec)), dec - d], -1)
        if not np.nanmax(np.abs(miss), initial=0.0) > 1e-12:
            break
        jac = _jacobian(wcs, x, y)
        det = jac[..., 0, 0] * jac[..., 1, 1] - jac[..., 0, 1] * jac[..., 1, 0]
        x = x + (jac[..., 1, 1] * miss[..., 0] - jac[..., 0, 1] * miss[..., 1]) / det
        y = y + (jac[..., 0, 0] * miss[..., 1] - jac[..., 1, 0] * miss[..., 0]) / det
    return x, y


def world_to_pixel(wcs, ra, dec):
    """0-indexed pixel positions [..., 2], float64, refined beyond astropy's 1e-4 pixel.

    Positions the WCS cannot map are nan.
    """
    ra, dec = np.broadcast_arrays(np.asarray(ra, float), np.asarray(dec, float))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # astropy warns where the distortion does not invert
        x, y = (np.array(v, float) for v in wcs.world_to_pixel_values(ra, dec))
        x, y = newton(wcs, ra, dec, x, y, NEWTON_STEPS)
    return np.stack([x, y], -1)


def local_affine(wcs, ra, dec):
    """The affine map from sky to pixels at positions.

    Parameters
    ----------
    wcs : has world_to_pixel_values and pixel_to_world_values.
    ra, dec : [...] deg.

    Returns
    -------
    crpix : [..., 2] 0-indexed pixel position.
    cw : [..., 2, 2] d(x, y)/d(RA, dec), pixel/deg.
    d : [..., 2, 2] d(x, y)/d(RA cos dec, dec), pixel/arcsec.

    Notes
    -----
    The inverse of central differences over one pixel, in float64 (forcepho's convention, which
    takes forward differences).
    """
    crpix = world_to_pixel(wcs, ra, dec)
    inverse = _jacobian(wcs, crpix[..., 0], crpix[..., 1])
    finite = np.isfinite(inverse).all((-1, -2))
    d_deg = np.full(inverse.shape, np.nan)
    d_deg[finite] = np.linalg.inv(inverse[finite])
    cw = d_deg.copy()
    cw[..., 0] *= np.cos(np.radians(np.asarray(dec, float)))[..., None]
    return crpix, cw, d_deg / 3600.0


def pixel_area(wcs, shape) -> float:
    """Solid angle of the central pixel [sr]."""
    jac = _jacobian(wcs, np.asarray((shape[1] - 1) / 2), np.asarray((shape[0] - 1) / 2))
    return float(abs(np.linalg.det(jac)) * np.radians(1.0) ** 2)


def contains(wcs, shape, ra, dec, margin: float = 0.0):
    """Whether positions lie on the image, grown by `margin` pixels: [...] bool.

    Distorted solutions can map far positions into the image; the way back tells.
    """
    ra, dec = np.broadcast_arrays(np.asarray(ra, float), np.asarray(dec, float))
    crpix = world_to_pixel(wcs, ra, dec)
    x, y = crpix[..., 0], crpix[..., 1]
    inside = (x >= -0.5 - margin) & (x <= shape[1] - 0.5 + margin)
    inside &= (y >= -0.5 - margin) & (y <= shape[0] - 0.5 + margin)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        a, d = wcs.pixel_to_world_values(np.where(inside, x, 0.0), np.where(inside, y, 0.0))
    near = np.abs((a - ra + 180) % 360 - 180) * np.cos(np.radians(dec)) + np.abs(d - dec)
    tolerance = np.degrees(np.sqrt(pixel_area(wcs, shape)))
    return inside & (near < tolerance)
