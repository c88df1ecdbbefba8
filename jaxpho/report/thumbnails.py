"""Small pictures of the sources, North up, many in one PNG file."""

from __future__ import annotations

import struct
import zlib

import numpy as np

SIDE = 32
"""Pixels."""
COLUMNS, ROWS = 16, 8
PER_FILE = COLUMNS * ROWS
LEAST, MOST, FACTOR = 3.0, 20.0, 8.0
"""Side [arcsec]: so many half-light radii, within limits."""


def thumb_side(rhalf_major: float) -> float:
    """Side of the picture of a source, arcsec."""
    return float(np.clip(FACTOR * np.nan_to_num(rhalf_major), LEAST, MOST))


def thumbnail(stamps, places, side: float) -> np.ndarray:
    """[SIDE, SIDE, 3] of a source, red to blue; black where there are no pixels.

    Parameters
    ----------
    stamps : of one to three bands, from the shortest wavelength to the longest.
    places : where the source lies on each.
    side : arcsec.
    """
    step = (np.arange(SIDE) + 0.5) / SIDE - 0.5
    east, north = np.meshgrid(-step * side, -step * side)
    out = []
    for stamp, place in zip(stamps, places, strict=True):
        d = np.asarray(place.d)
        x = place.x + d[0, 0] * east + d[0, 1] * north
        y = place.y + d[1, 0] * east + d[1, 1] * north
        i = np.floor((y - stamp.y0 + 0.5) / stamp.bin).astype(int)
        j = np.floor((x - stamp.x0 + 0.5) / stamp.bin).astype(int)
        ny, nx = stamp.model.shape
        inside = (i >= 0) & (i < ny) & (j >= 0) & (j < nx)
        i, j = np.clip(i, 0, ny - 1), np.clip(j, 0, nx - 1)
        residual = np.where(stamp.ierr[i, j] > 0, stamp.residual[i, j], 0.0)
        out.append(np.where(inside, stamp.model[i, j] + residual, np.nan) / stamp.sigma)
    layers = np.array(out[::-1])  # red first
    finite = np.isfinite(layers)
    high = max(float(np.max(layers[finite], initial=0.0)), 12.0)
    tone = np.arcsinh((layers + 2.0) / 4.0) / np.arcsinh((0.7 * high + 2.0) / 4.0)
    tone = np.where(finite, np.clip(tone, 0, 1), 0.0)
    if len(tone) == 1:
        tone = np.repeat(tone, 3, 0)
    elif len(tone) == 2:
        tone = np.array([tone[0], 0.5 * (tone[0] + tone[1]), tone[1]])
    # half of the colour: that of the noise would drown faint sources
    tone = 0.5 * (tone + tone.mean(0))
    return np.rint(255 * tone.transpose(1, 2, 0)).astype(np.uint8)


def sheet(thumbs: dict[int, np.ndarray], first: int) -> np.ndarray:
    """Pictures of the rows from `first` on, side by side: [ny, nx, 3]."""
    out = np.zeros((ROWS * SIDE, COLUMNS * SIDE, 3), np.uint8)
    for row, picture in thumbs.items():
        k = row - first
        if 0 <= k < PER_FILE:
            i, j = divmod(k, COLUMNS)
            out[i * SIDE : (i + 1) * SIDE, j * SIDE : (j + 1) * SIDE] = picture
    return out


def png(image: np.ndarray) -> bytes:
    """A PNG file of an image [ny, nx, 3] of bytes (W3C PNG specification, no filter)."""
    ny, nx, _ = image.shape
    lines = np.zeros((ny, 1 + 3 * nx), np.uint8)
    lines[:, 1:] = image.reshape(ny, -1)

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", nx, ny, 8, 2, 0, 0, 0)
    content = zlib.compress(lines.tobytes(), 6)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", content), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
