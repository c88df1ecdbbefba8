"""Where images lie on the sky, as arrays, so that thousands are searched at once.

An image is taken for an affine map from the tangent plane at its middle, exact enough to find
images; how far the WCS departs from it at the edges is kept beside it as a margin.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jaxpho.data.wcs import local_affine


@dataclass
class Footprints:
    """Outlines of N images.

    Attributes
    ----------
    centre : ndarray [N, 2]
        ra, dec of the image's middle, deg.
    matrix : ndarray [N, 2, 2]
        d(x, y)/d(RA cos dec, dec), pixel/deg.
    nside : ndarray [N, 2]
        nx, ny.
    margin : ndarray [N]
        Pixels by which the WCS departs from the map.
    """

    centre: np.ndarray
    matrix: np.ndarray
    nside: np.ndarray
    margin: np.ndarray

    def near(self, ra: float, dec: float, radius: float) -> np.ndarray:
        """Indices of the images that a circle may touch: none that it does is missed.

        Parameters
        ----------
        ra, dec : deg.
        radius : arcsec.
        """
        return np.flatnonzero(self._touches(slice(None), ra, dec, radius))

    def image_near(self, number: int, ra, dec, radius) -> np.ndarray:
        """Whether image `number` may touch circles; ra, dec [deg], radius [arcsec]: arrays [n]."""
        return self._touches(number, ra, dec, radius)

    def _touches(self, which, ra, dec, radius):
        """Image by image, or circle by circle: one of both is a single one."""
        centre, matrix = self.centre[which], self.matrix[which]
        east, north, front = tangent_plane(centre[..., 0], centre[..., 1], ra, dec)
        offset = np.einsum("...ij,...j->...i", matrix, np.stack([east, north], -1))
        beyond = np.maximum(np.abs(offset) - self.nside[which] / 2, 0.0)
        scale = np.linalg.norm(matrix, ord=2, axis=(-2, -1))
        reach = np.asarray(radius) / 3600.0 * scale + self.margin[which]
        return front & (np.hypot(beyond[..., 0], beyond[..., 1]) <= 1.01 * reach + 1.0)

    def pixel_scale(self, number: int) -> float:
        """Side of a pixel of an image, arcsec."""
        return float(3600.0 / np.sqrt(abs(np.linalg.det(self.matrix[number]))))


def tangent_plane(ra0, dec0, ra, dec):
    """Gnomonic coordinates of positions about centres.

    Returns
    -------
    east, north : deg.
    front : whether the position is on the centre's side of the sky at all.
    """
    ra0, dec0, ra, dec = (np.radians(np.asarray(a, float)) for a in (ra0, dec0, ra, dec))
    cosine = np.sin(dec0) * np.sin(dec) + np.cos(dec0) * np.cos(dec) * np.cos(ra - ra0)
    front = cosine > 0.1
    scale = np.degrees(1.0 / np.where(front, cosine, 1.0))
    east = scale * np.cos(dec) * np.sin(ra - ra0)
    north = scale * (np.cos(dec0) * np.sin(dec) - np.sin(dec0) * np.cos(dec) * np.cos(ra - ra0))
    return east, north, front


def footprint(wcs, nside) -> tuple[np.ndarray, np.ndarray, float]:
    """Middle [2], matrix [2, 2] and margin of one image; see `Footprints`.

    Parameters
    ----------
    wcs : has world_to_pixel_values and pixel_to_world_values.
    nside : (nx, ny).
    """
    nside = np.asarray(nside, float)
    middle = (nside - 1) / 2
    centre = np.array(wcs.pixel_to_world_values(*middle), float)
    _, _, d = local_affine(wcs, *centre)
    matrix = 3600.0 * d
    fraction = np.array([(i, j) for i in (-0.5, 0, 0.5) for j in (-0.5, 0, 0.5) if i or j])
    pixels = fraction * nside
    sky = wcs.pixel_to_world_values(*(middle + pixels).T)
    east, north, front = tangent_plane(*centre, *sky)
    predicted = np.stack([east, north], -1) @ matrix.T
    miss = np.hypot(*(predicted - pixels).T)
    good = front & np.isfinite(miss)
    # beyond the corners the departure goes on growing
    margin = 2.0 * float(miss[good].max()) if good.any() else 0.0
    return centre, matrix, margin if good.all() else margin + float(np.hypot(*nside))
