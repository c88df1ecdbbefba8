"""Generalised WCS (gwcs): in the ASDF extension of an image, and in the ASDF file of a meta store.

The only module that imports gwcs, which is optional: without it the FITS approximations of the
headers are used.
"""

from __future__ import annotations

import logging
from importlib.util import find_spec

import numpy as np

from jaxpho.data.wcs import NEWTON_STEPS, newton
from jaxpho.errors import InputError

log = logging.getLogger("jaxpho.wcs")


def has_gwcs() -> bool:
    """Whether gwcs and asdf are installed."""
    return find_spec("gwcs") is not None and find_spec("asdf") is not None


class GWCSAdaptor:
    """A gwcs with the two methods of `Exposure.wcs`, and a shift on the sky [arcsec]."""

    def __init__(self, wcs, offset_ra=0.0, offset_dec=0.0, centre=(0.0, 0.0)):
        self.gwcs, self.centre = wcs, centre
        self.offset = (offset_ra / 3600.0, offset_dec / 3600.0)
        try:
            self.analytic = wcs.backward_transform is not None
        except NotImplementedError:
            self.analytic = False

    def pixel_to_world_values(self, x, y):
        """Ra, dec [deg] of 0-indexed pixels."""
        ra, dec = self.gwcs(x, y, with_bounding_box=False)
        ra, dec = np.asarray(ra, float), np.asarray(dec, float)
        return ra + self.offset[0] / np.cos(np.radians(dec)), dec + self.offset[1]

    def world_to_pixel_values(self, ra, dec):
        """0-indexed pixels of ra, dec [deg]."""
        ra, dec = np.broadcast_arrays(np.asarray(ra, float), np.asarray(dec, float))
        if not self.analytic:
            # gwcs's own numerical inverse needs a bounding box and a known projection
            x, y = (np.full(ra.shape, float(c)) for c in self.centre)
            return newton(self, ra, dec, x, y, 5 * NEWTON_STEPS)
        dec = dec - self.offset[1]
        ra = ra - self.offset[0] / np.cos(np.radians(dec))
        x, y = self.gwcs.invert(ra, dec, with_bounding_box=False)
        return np.asarray(x, float), np.asarray(y, float)


def read_gwcs(hdus, shape, offsets=(0.0, 0.0)):
    """The gwcs in a file's ASDF extension: (adaptor or None, note).

    None when there is no such extension or gwcs is not installed: the header's FITS approximation
    is then used, and the note says so.
    """
    if "ASDF" not in hdus:
        return None, ""
    try:
        import asdf
        import gwcs  # noqa: F401  (registers its types with asdf)
    except ImportError:
        return None, "gwcs is not installed: the FITS approximation is used"
    import io

    try:
        raw = np.asarray(hdus["ASDF"].data["ASDF_METADATA"][0]).tobytes()
        with asdf.open(io.BytesIO(raw), lazy_load=False) as opened:
            wcs = opened.tree.get("meta", {}).get("wcs")
    except Exception as error:  # asdf, its schemas and its YAML have errors of their own
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return None, f"the ASDF extension cannot be read ({reason}): the FITS approximation is used"
    if wcs is None or not callable(wcs):
        return None, "the ASDF extension holds no gwcs: the FITS approximation is used"
    centre = ((shape[1] - 1) / 2, (shape[0] - 1) / 2)
    return GWCSAdaptor(wcs, *offsets, centre), "gwcs of the ASDF extension"


OFFSETS = "jaxpho_offsets"
"""Entry of the ASDF file with the shifts of gwcs objects, arcsec, beside the bands."""


def open_gwcs(path) -> dict:
    """The gwcs objects of an ASDF file, {band: {exposure id: adaptor}}, as forcepho writes them.

    Empty when gwcs is not installed: the headers' FITS approximations are then used.

    Raises
    ------
    InputError
        When the file is damaged.
    """
    try:
        import asdf
        import gwcs  # noqa: F401  (registers its types with asdf)
    except ImportError:
        log.warning("%s: gwcs is not installed, the headers' WCS are used", path)
        return {}
    try:
        with asdf.open(path, lazy_load=False, memmap=False) as opened:
            shifts = opened.tree.get(OFFSETS, {})
            return {
                band: {
                    name: GWCSAdaptor(wcs, *shifts.get(band, {}).get(name, (0.0, 0.0)))
                    for name, wcs in exposures.items()
                    if callable(wcs)
                }
                for band, exposures in opened.tree.items()
                if isinstance(exposures, dict) and band not in ("asdf_library", "history", OFFSETS)
            }
    except Exception as error:  # asdf, its schemas and its YAML have errors of their own
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: not a readable ASDF file ({reason})") from None


def write_gwcs(path, tree: dict) -> None:
    """Write gwcs adaptors {band: {exposure id: adaptor}} as `open_gwcs` reads them."""
    import asdf

    plain: dict = {b: {name: w.gwcs for name, w in group.items()} for b, group in tree.items()}
    shifts = {
        b: {name: [3600.0 * v for v in w.offset] for name, w in group.items() if any(w.offset)}
        for b, group in tree.items()
    }
    if any(shifts.values()):
        plain[OFFSETS] = shifts
    asdf.AsdfFile(plain).write_to(path)
