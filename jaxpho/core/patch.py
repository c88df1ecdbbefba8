"""The packed patch: everything the compiled functions see, as one pytree.

Shapes: E exposures, S sources, N pixels of a block (a whole number of 8x8 tiles of one exposure),
M blocks, P PSF Gaussians of a source (all Sersic radii together), J those of a point source.
Pixel coordinates are relative to an integer origin of each exposure, ``pix0``, so that float32
positions are as good at x = 12000 as at x = 50. Padding has ``ierr`` = 0.
"""

from typing import NamedTuple

import numpy as np
from jax import Array

from jaxpho.core.gaussians import Gaussians
from jaxpho.core.noise import Noise
from jaxpho.core.pixel import tile_offsets
from jaxpho.core.terms import Terms


def bucket(n: int, minimum: int = 1) -> int:
    """Padded size: the next of 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, ... (two per octave)."""
    n = max(int(n), minimum)
    power = 1 << (n - 1).bit_length()
    return n if n <= 4 else (power * 3 // 4 if n <= power * 3 // 4 else power)


class Patch(NamedTuple):
    """Pixels, astrometry and PSFs of a region in all its exposures.

    Attributes
    ----------
    data, ierr : Array
        [M, N] flux and 1/sigma per pixel, image unit; ierr = 0 is a masked or padding pixel.
    tile_x, tile_y : Array
        [M, N/64] centre of each tile, pixels from ``pix0``.
    block_exposure : Array
        [M] int32, exposure of a block.
    n_blocks : Array
        [] int32, blocks in use; the rest is padding and costs nothing.
    exposure_band : Array
        [E] int32, index of the band.
    pix0 : Array
        [E, 2] int32 origin (x, y) of the exposure's pixel coordinates.
    d : Array
        [E, S, 2, 2] d(x, y)/d(RA cos dec, dec), pixel/arcsec, at the source's starting position.
    cw : Array
        [E, S, 2, 2] d(x, y)/d(RA, dec), pixel/deg.
    crpix, crval : Array
        [E, S, 2] linearisation point: pixels from ``pix0``, and degrees from the reference.
    g : Array
        [E] flux unit -> image unit.
    pixel_term : Array
        [E] 1 to integrate over the pixel, 0 where the PSF includes it.
    psf : Gaussians
        [E, S, P] PSF mixture per source and exposure (flux = amplitude), pixels.
    psf_bin : Array
        [E, P] int32, Sersic radius each PSF Gaussian multiplies.
    psf_point : Gaussians
        [E, S, J] PSF mixture of a point source.
    sky_center : Array
        [E, 2] where the sky plane has its constant, pixels from ``pix0``.
    sky_scale : Array
        [E] pixels over which a unit slope of the sky plane changes it by one.
    terms : Terms, optional
        What Sersic components are convolved with instead of ``psf``: reduced mixtures for their
        wide Gaussians. Made for the components of one scene.
    noise : Noise, optional
        Noise that is not independent and normal; `jaxpho.core.noise`.
    """

    data: Array
    ierr: Array
    tile_x: Array
    tile_y: Array
    block_exposure: Array
    n_blocks: Array
    exposure_band: Array
    pix0: Array
    d: Array
    cw: Array
    crpix: Array
    crval: Array
    g: Array
    pixel_term: Array
    psf: Gaussians
    psf_bin: Array
    psf_point: Gaussians
    sky_center: Array
    sky_scale: Array
    terms: Terms | None = None
    noise: Noise | None = None

    @property
    def n_exposures(self) -> int:
        """Number of exposures, padding included."""
        return self.g.shape[0]

    def xpix(self, absolute: bool = True) -> np.ndarray:
        """X of every pixel [M, N] (float64 on the host; from ``pix0`` when not absolute)."""
        return self._positions(self.tile_x, 0, absolute)

    def ypix(self, absolute: bool = True) -> np.ndarray:
        """Y of every pixel, as :meth:`xpix`."""
        return self._positions(self.tile_y, 1, absolute)

    def _positions(self, tile: Array, axis: int, absolute: bool) -> np.ndarray:
        offset = tile_offsets()[axis]
        position = np.asarray(tile, np.float64)[..., None] + offset
        position = position.reshape(len(position), -1)
        if absolute:
            position = position + np.asarray(self.pix0)[np.asarray(self.block_exposure), axis, None]
        return position
