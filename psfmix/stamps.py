"""Star stamps: small images around the stars of one detector, with weights and positions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntFlag

import numpy as np

from jaxpho.errors import InputError

# A window of this sigma (native px) finds centres before anything is known about the PSF, starting
# from the brightest 3 x 3 pixels within this distance of the catalogue's position.
_WINDOW, _SEARCH = 2.0, 3.0
_CENTROID_STEPS = 12
_SMALLEST = 9


class StarFlag(IntFlag):
    """Why a star has no part in the PSF; 0 for those that have."""

    OUTSIDE = 1
    UNUSABLE = 2
    SATURATED = 4
    FAINT = 8
    CLIPPED = 16
    MISFIT = 32
    SHAPE = 64
    ASTRAY = 128


REASONS = {
    StarFlag.OUTSIDE: "position missing or outside the image",
    StarFlag.UNUSABLE: "core or half of the stamp unusable",
    StarFlag.SATURATED: "saturated",
    StarFlag.FAINT: "faint",
    StarFlag.CLIPPED: "core unlike the PSF",
    StarFlag.MISFIT: "high chi2",
    StarFlag.SHAPE: "wider, narrower or more elongated than the PSF",
    StarFlag.ASTRAY: "centre far from the catalogue's",
}
"""What every flag means, for tables and logs."""


def reason(flag):
    """The reasons of a flag in words, or an empty text."""
    return "; ".join(text for bit, text in REASONS.items() if flag & bit)


@dataclass(frozen=True)
class Stamps:
    """Images of stars at native sampling. Pixels are 0-indexed.

    Attributes
    ----------
    images : array (nstar, ny, nx), float64
        0 where unusable.
    ivar : array (nstar, ny, nx), float64
        Inverse variance of the pixels without the star's own shot noise, or with it (see
        `gain`); 0 where unusable.
    corners : int array (nstar, 2)
        x, y detector pixel of each stamp's pixel (0, 0).
    positions : array (nstar, 2)
        x, y detector pixel where the catalogue puts the star.
    flags : int array (nstar,)
        `StarFlag` of what is known before any fit.
    detector : (nx, ny) or None
        Size of the detector, pixels.
    gain : float or None
        Electrons per unit of the image: the star model's shot noise is then added to 1 / `ivar`.
    """

    images: np.ndarray
    ivar: np.ndarray
    corners: np.ndarray
    positions: np.ndarray
    flags: np.ndarray
    detector: tuple[int, int] | None = None
    gain: float | None = None

    def __len__(self):
        return len(self.images)

    @property
    def shape(self):
        """(ny, nx) of a stamp."""
        return self.images.shape[1:]

    def on(self, detector):
        """The same stars on a detector of (nx, ny) pixels; stars outside it are flagged."""
        inside = np.all((self.positions > -0.5) & (self.positions < np.array(detector) - 0.5), 1)
        flags = np.where(inside, self.flags, self.flags | StarFlag.OUTSIDE)
        return replace(self, detector=tuple(detector), flags=flags)

    def centers(self):
        """The catalogue's positions in pixels of each stamp, array (nstar, 2)."""
        return self.positions - self.corners


def make_stamps(
    images, ivar, positions, *, corners=None, detector=None, saturation=None, gain=None
):
    """Check star stamps and put them together.

    Parameters
    ----------
    images : array (nstar, ny, nx)
        Native sampling; pixels that are not finite are unusable.
    ivar : array (nstar, ny, nx)
        Inverse variance; pixels where it is 0, negative or not finite are unusable.
    positions : array (nstar, 2)
        x, y detector pixel of every star, 0-indexed; a star without one is flagged.
    corners : int array (nstar, 2), optional
        x, y detector pixel of each stamp's pixel (0, 0); by default the stamp is cut around the
        pixel nearest to the star, which is then at ((nx - 1) // 2, (ny - 1) // 2).
    detector : (nx, ny), optional
    saturation : float, optional
        Pixels at or above this value are unusable, and stars with one in their core are rejected.
    gain : float, optional
        Electrons per unit of the image; see `Stamps`.

    Returns
    -------
    Stamps

    Raises
    ------
    InputError
        Shapes or numbers that do not match, stamps that are too small, no star.
    """
    images, ivar = (np.array(a, dtype=float) for a in (images, ivar))
    positions = np.asarray(positions, dtype=float)
    if images.ndim != 3 or not len(images):
        raise InputError(f"star stamps have shape {images.shape}; expected (nstar, ny, nx)")
    if min(images.shape[1:]) < _SMALLEST:
        raise InputError(
            f"star stamps have {images.shape[2]} x {images.shape[1]} pixels; expected at least "
            f"{_SMALLEST} x {_SMALLEST}"
        )
    if ivar.shape != images.shape:
        raise InputError(f"star weights have shape {ivar.shape}; the stamps have {images.shape}")
    if positions.shape != (len(images), 2):
        raise InputError(f"{len(images)} star stamps and {len(positions)} positions")
    known = np.isfinite(positions).all(axis=1)
    positions = np.where(known[:, None], positions, 0.0)
    for value, name in ((saturation, "saturation level"), (gain, "gain")):
        if value is not None and not (np.isfinite(value) and value > 0):
            raise InputError(f"the {name} of the stars is {value}; expected a positive number")
    ny, nx = images.shape[1:]
    if corners is None:
        corners = np.rint(positions).astype(int) - [(nx - 1) // 2, (ny - 1) // 2]
    corners = np.asarray(corners, dtype=int)
    usable = np.isfinite(images) & np.isfinite(ivar) & (ivar > 0)
    hot = np.zeros_like(usable)
    if saturation is not None:
        hot = np.nan_to_num(images, nan=-np.inf, posinf=np.inf) >= saturation
        usable &= ~hot
    images[~usable], ivar[~usable] = 0.0, 0.0
    flags = np.zeros(len(images), int)
    centers = positions - corners
    inside = np.all((centers >= -0.5) & (centers <= np.array([nx, ny]) - 0.5), axis=1)
    flags[~(inside & known)] |= StarFlag.OUTSIDE
    flags[usable.mean(axis=(1, 2)) < 0.5] |= StarFlag.UNUSABLE
    gy, gx = np.indices((ny, nx))
    for k in np.flatnonzero(hot.any(axis=(1, 2))):
        near = np.hypot(gx - centers[k, 0], gy - centers[k, 1]) < 2 * _WINDOW
        if hot[k][near].any():
            flags[k] |= StarFlag.SATURATED
    return Stamps(images, ivar, corners, positions, flags, detector, gain)


def cut_stamps(image, ivar, positions, size, **layout):
    """Stamps around the stars of a science image.

    Parameters
    ----------
    image, ivar : array (ny, nx)
    positions : array (nstar, 2)
        x, y pixel, 0-indexed. Stars outside the image are flagged; parts of stamps beyond its
        edges are unusable pixels.
    size : int
        Side of a stamp, pixels; odd numbers put the star in the middle.
    **layout
        ``saturation``, ``gain`` of `make_stamps`.

    Returns
    -------
    Stamps

    Raises
    ------
    InputError
        See `make_stamps`; also when no star is inside the image.
    """
    image, ivar = np.asarray(image, float), np.asarray(ivar, float)
    positions = np.atleast_2d(np.asarray(positions, float))
    if image.ndim != 2 or ivar.shape != image.shape:
        raise InputError(
            f"the image of the stars has shape {image.shape} and its weights {ivar.shape}"
        )
    if size < _SMALLEST:
        raise InputError(f"star stamps of {size} pixels; expected at least {_SMALLEST}")
    ny, nx = image.shape
    finite = np.isfinite(positions).all(axis=1)
    within = np.all((positions > -0.5) & (positions < np.array([nx, ny]) - 0.5), axis=1)
    if not (finite & within).any():
        raise InputError(
            f"none of the {len(positions)} stars lies inside the image of {nx} x {ny} pixels"
        )
    # A star without a position stays in the table, at a place where nothing can be read.
    kept = np.where(within[:, None], positions, -1.0)
    corners = np.rint(kept).astype(int) - (size - 1) // 2
    cut = np.full((2, len(kept), size, size), np.nan)
    for k, (x0, y0) in enumerate(corners):
        if not within[k]:
            continue
        rows, columns = (slice(max(c, 0), min(c + size, n)) for c, n in ((y0, ny), (x0, nx)))
        into = (
            slice(rows.start - y0, rows.stop - y0),
            slice(columns.start - x0, columns.stop - x0),
        )
        for stamp, source in zip(cut, (image, ivar), strict=True):
            stamp[k][into] = source[rows, columns]
    stamps = make_stamps(*cut, kept, corners=corners, detector=(nx, ny), **layout)
    stamps.flags[~within] = StarFlag.OUTSIDE
    return stamps


def first_guess(stamps):
    """Centre, flux (of a Gaussian window) and background of every star, before any PSF is known.

    Returns
    -------
    center : array (nstar, 2), pixels of the stamp
    flux, background : arrays (nstar,); their common factor is that of the window
    """
    ny, nx = stamps.shape
    gy, gx = np.indices((ny, nx))
    frame = np.minimum(np.minimum(gx, nx - 1 - gx), np.minimum(gy, ny - 1 - gy)) < max(1, nx // 10)
    center, flux, background = stamps.centers(), np.zeros(len(stamps)), np.zeros(len(stamps))
    for k, (image, ivar) in enumerate(zip(stamps.images, stamps.ivar, strict=True)):
        good = ivar > 0
        if stamps.flags[k] or not good.any():
            continue
        background[k] = np.median(image[good & frame] if (good & frame).any() else image[good])
        light = np.where(good, image - background[k], 0.0)
        center[k] = _centroid(light, good, gx, gy, center[k])
        window = np.exp(-0.5 * _distance2(gx, gy, center[k]) / _WINDOW**2) * good
        flux[k] = np.sum(window * light) / np.sum(window**2)
    return center, flux, background


def _distance2(gx, gy, center):
    return (gx - center[0]) ** 2 + (gy - center[1]) ** 2


def _centroid(light, good, gx, gy, start):
    """Gaussian-weighted centroid, from the brightest 3 x 3 pixels near the start."""
    padded = np.pad(light, 1)
    box = sum(
        padded[1 + dy : 1 + dy + light.shape[0], 1 + dx : 1 + dx + light.shape[1]]
        for dy in (-1, 0, 1)
        for dx in (-1, 0, 1)
    )
    near = _distance2(gx, gy, start) <= _SEARCH**2
    if not near.any():
        return start
    y, x = np.unravel_index(np.argmax(np.where(near, box, -np.inf)), box.shape)
    center = np.array([x, y], float)
    for _ in range(_CENTROID_STEPS):
        weight = np.exp(-0.5 * _distance2(gx, gy, center) / _WINDOW**2) * light
        total = weight.sum()
        if not total > 0:
            return start
        mean = np.array([np.sum(weight * gx), np.sum(weight * gy)]) / total
        # The window halves the step of a star as wide as itself; twice the step is nearly right.
        center = center + np.clip(2 * (mean - center), -1, 1)
    return center if _distance2(*center, start) <= (2 * _SEARCH) ** 2 else start
