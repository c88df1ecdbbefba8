"""Which pixels a mask image marks as bad."""

from __future__ import annotations

import numpy as np

from jaxpho.errors import InputError

HUGE = 1e30
"""Values as large as this mark pixels without data (-1.7e38, 1e30, 1e32 ...), whatever the mask."""

# Planes of Rubin and HSC pipelines, for files whose header does not list them (MP_ cards).
LSST_PLANES = {
    "BAD": 0, "SAT": 1, "INTRP": 2, "CR": 3, "EDGE": 4, "DETECTED": 5, "DETECTED_NEGATIVE": 6,
    "SUSPECT": 7, "NO_DATA": 8,
}  # fmt: skip


def bad_pixels(
    mask, header, bits=None, nonzero_is_good: bool = False, where: str = "mask", planes=None
):
    """Bad pixels of a mask.

    Parameters
    ----------
    mask : [ny, nx] integers or booleans (floats that hold whole numbers are accepted).
    header : its header; cards MP_<NAME> give the bit of a named plane.
    bits : numbers or names of the bits that count; None: any nonzero value. A name with a leading
        "?" is passed over when the mask has no such plane.
    nonzero_is_good : the selected values mark good pixels instead.
    where : names the mask in errors.
    planes : name -> bit, of an instrument whose headers need not list them.

    Returns
    -------
    bad : [ny, nx] bool.

    Raises
    ------
    InputError
        For values that are not whole numbers, bits beyond the type, unknown names.
    """
    if mask.dtype.kind == "f":
        finite = np.isfinite(mask)
        if bits is not None and np.any(mask[finite] != np.round(mask[finite])):
            raise InputError(f"{where}: mask_bits needs whole numbers, found fractions")
        # a pixel without a mask value is not known to be good
        unknown = ~finite
        mask = np.where(finite, mask, 0.0)
        mask = mask.astype(np.int64) if bits is not None else mask != 0
    elif mask.dtype.kind in "iub":
        unknown = np.zeros(mask.shape, bool)
    else:
        raise InputError(f"{where}: mask holds {mask.dtype}, expected whole numbers")
    if bits is None:
        chosen = mask != 0
    else:
        width = 8 * mask.dtype.itemsize
        value = 0
        for bit in (bit_number(b, header, where, planes) for b in bits):
            if bit is not None:
                if not 0 <= bit < width:
                    raise InputError(f"{where}: mask bit {bit}, the mask has {width} bits")
                value |= 1 << bit
        # reinterpreted as unsigned, so that the sign bit is a bit as any other
        unsigned = mask.astype(mask.dtype.newbyteorder("=")).view(f"u{mask.dtype.itemsize}")
        chosen = (unsigned & np.array(value, unsigned.dtype)) != 0
    return (~chosen if nonzero_is_good else chosen) | unknown


def bit_number(bit: int | str, header, where: str = "mask", planes=None) -> int | None:
    """Number of a bit given as number or plane name; None for an absent "?NAME"."""
    if isinstance(bit, int) or bit.lstrip("-").isdigit():
        return int(bit)
    name = bit.lstrip("?").upper()
    listed = {k[3:].upper(): int(v) for k, v in header.items() if k.startswith("MP_")}
    planes = listed or planes or {}
    if name in planes:
        return planes[name]
    if bit.startswith("?"):
        return None
    found = f"(found: {', '.join(sorted(planes))})" if planes else "and its header lists none"
    raise InputError(f"{where}: no mask plane '{name}' {found}; give bit numbers, or MP_ cards")


def region_mask(regions, shape, where: str = "mask_regions"):
    """Pixels inside rectangles [x0, x1, y0, y1], upper ends excluded: [ny, nx] bool."""
    bad = np.zeros(shape, bool)
    for region in regions:
        if len(region) != 4:
            raise InputError(f"{where}: expected [x0, x1, y0, y1], found {region}")
        x0, x1, y0, y1 = region
        if x1 <= x0 or y1 <= y0:
            raise InputError(f"{where}: {region} is empty; expected x0 < x1 and y0 < y1")
        bad[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)] = True
    return bad
