"""Regions of the sky from which the pixels of a patch are taken."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jaxpho.data.footprint import tangent_plane
from jaxpho.errors import InputError


def _check(name: str, region, lengths) -> None:
    """Raise InputError for a centre that is no place, or sides that are no lengths."""
    for key, value in vars(region).items():
        try:
            finite = bool(np.isfinite(float(value)))
        except (TypeError, ValueError):
            finite = False
        if not finite:
            raise InputError(f"{name}: {key} is {value!r}, expected a finite number")
        if key in lengths and not value > 0:
            raise InputError(f"{name}: {key} is {value} arcsec, expected more than 0")
    if abs(region.dec) > 90:
        raise InputError(f"{name}: dec is {region.dec} deg, expected within -90 to 90")


@dataclass(frozen=True)
class Circle:
    """A circle: ra, dec [deg] and radius [arcsec].

    Raises
    ------
    InputError
        For values that are not finite, |dec| > 90 or a radius that is not positive.
    """

    ra: float
    dec: float
    radius: float

    def __post_init__(self):
        _check("circle", self, ("radius",))

    @property
    def reach(self) -> float:
        """Radius of the circle about (ra, dec) that contains the region, arcsec."""
        return self.radius

    def contains(self, east, north):
        """Whether offsets from (ra, dec) in the tangent plane [arcsec] are inside."""
        return east**2 + north**2 <= self.radius**2


@dataclass(frozen=True)
class Box:
    """A rectangle about (ra, dec) [deg].

    Attributes
    ----------
    width, height : float
        Full sides, arcsec.
    angle : float
        Direction of the height, degrees East of North.

    Raises
    ------
    InputError
        As `Circle`, for width and height.
    """

    ra: float
    dec: float
    width: float
    height: float
    angle: float = 0.0

    def __post_init__(self):
        _check("box", self, ("width", "height"))

    @property
    def reach(self) -> float:
        """As `Circle.reach`."""
        return float(np.hypot(self.width, self.height)) / 2

    def contains(self, east, north):
        """As `Circle.contains`."""
        c, s = np.cos(np.radians(self.angle)), np.sin(np.radians(self.angle))
        across, along = east * c - north * s, east * s + north * c
        return (np.abs(across) <= self.width / 2) & (np.abs(along) <= self.height / 2)


class Polygon:
    """A polygon; its sides are straight in the tangent plane at its middle.

    Parameters
    ----------
    vertices : sequence of (ra, dec)
        deg, at least three, in either sense; it may be concave.
    """

    def __init__(self, vertices):
        points = np.asarray(vertices, float)
        if points.ndim != 2 or points.shape[1] != 2 or len(points) < 3:
            raise InputError(
                f"polygon: vertices have shape {points.shape}, expected (n, 2) with n >= 3"
            )
        if not np.isfinite(points).all() or (np.abs(points[:, 1]) > 90).any():
            raise InputError("polygon: expected finite vertices with dec within -90 to 90")
        # right ascensions may lie on both sides of zero
        near = (points[:, 0] - points[0, 0] + 180.0) % 360.0 - 180.0
        self.ra = float((points[0, 0] + (near.min() + near.max()) / 2) % 360.0)
        self.dec = float((points[:, 1].min() + points[:, 1].max()) / 2)
        east, north, _ = tangent_plane(self.ra, self.dec, *points.T)
        self.corners = 3600.0 * np.stack([east, north], -1)

    @property
    def reach(self) -> float:
        """As `Circle.reach`."""
        return float(np.hypot(*self.corners.T).max())

    def contains(self, east, north):
        """As `Circle.contains`."""
        east, north = np.broadcast_arrays(east, north)
        inside = np.zeros(east.shape, bool)
        for (x0, y0), (x1, y1) in zip(self.corners, np.roll(self.corners, -1, 0), strict=True):
            if y0 == y1:
                continue
            crosses = (north < y0) != (north < y1)
            inside ^= crosses & (east < x0 + (north - y0) * (x1 - x0) / (y1 - y0))
        return inside


Region = Circle | Box | Polygon


def select_region(shape, region: Region, centre: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Pixels [ny, nx] whose centres are in a region.

    Parameters
    ----------
    shape : (ny, nx).
    centre : [2] pixel of the region's (ra, dec).
    d : [2, 2] d(x, y)/d(RA cos dec, dec) there, pixel/arcsec.
    """
    select = np.zeros(shape, bool)
    mark(select, region, centre, d)
    return select


def mark(select: np.ndarray, region: Region, centre: np.ndarray, d: np.ndarray) -> None:
    """Add the pixels of a region to a selection, in place; see `select_region`."""
    ny, nx = select.shape
    inverse = np.linalg.inv(d)
    reach = region.reach * np.linalg.svd(d, compute_uv=False)[0] + 1.0
    x0, x1 = np.clip([centre[0] - reach, centre[0] + reach + 2], 0, nx).astype(int)
    y0, y1 = np.clip([centre[1] - reach, centre[1] + reach + 2], 0, ny).astype(int)
    x = np.arange(x0, x1)[None, :] - centre[0]
    y = np.arange(y0, y1)[:, None] - centre[1]
    east = inverse[0, 0] * x + inverse[0, 1] * y
    north = inverse[1, 0] * x + inverse[1, 1] * y
    select[y0:y1, x0:x1] |= region.contains(east, north)
