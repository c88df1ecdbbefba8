"""Numbers and text as scripts that pages load: a page opened from a disk cannot fetch files.

Everything that comes from a run passes through here or through `html.escape`.
"""

from __future__ import annotations

import base64
import json
import math
import zlib

import numpy as np

FASTEST = 4
"""Of zlib: higher levels cost more time than they save space on noise."""
_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028",
            "\u2029": "\\u2029"}  # fmt: skip


def to_json(value) -> str:
    """JSON that may stand anywhere in a page or a script; what is not finite becomes null."""
    options = {"allow_nan": False, "ensure_ascii": True, "separators": (",", ":")}
    try:
        text = json.dumps(value, default=_known, **options)
    except (TypeError, ValueError):
        # what is not finite, or a key that is no text: rare, and slow to put right
        text = json.dumps(_plain(value), **options)
    for character, escape in _ESCAPES.items():
        text = text.replace(character, escape)
    return text


def script(key: str, value) -> str:
    """A script that hands `value` to the page under the name `key`."""
    return f"jaxpho.put({to_json(key)},{to_json(value)});\n"


def packed(values, kind: str = "f4") -> dict:
    """An array for `jaxpho.unpack`: compressed, byte planes apart, little-endian.

    Parameters
    ----------
    values : array
    kind : numpy type: f4, i2, u2 or u1.

    Returns
    -------
    dict
        kind, shape, and the bytes in base64.
    """
    array = np.ascontiguousarray(values, np.dtype(kind).newbyteorder("<"))
    planes = array.reshape(-1).view(np.uint8).reshape(-1, array.itemsize).T
    content = zlib.compress(np.ascontiguousarray(planes).tobytes(), FASTEST)
    return {"kind": kind, "shape": list(array.shape),
            "bytes": base64.b64encode(content).decode()}  # fmt: skip


def rounded(value, digits: int = 6):
    """A number with so many digits; None where it is not finite."""
    value = float(value)
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None


def rounded_all(values, digits: int = 6) -> list:
    """Numbers of an array with so many digits, None where not finite."""
    return [rounded(v, digits) for v in np.asarray(values, float).ravel().tolist()]


def _known(value):
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value.item() if isinstance(value, np.generic) else str(value)


def _plain(value):
    """What JSON knows."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | bool | None) else str(value)
