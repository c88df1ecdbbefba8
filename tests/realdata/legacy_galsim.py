"""A galaxy drawn by GalSim on a Legacy Survey exposure, from header and PSFEx file alone.

Independent of the package but for the reading of the PSFEx polynomial, which has its own tests
against GalSim: astrometry by astropy with the survey's offset, the Sersic law by GalSim, convolved
with the PSFEx image itself.
"""

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from jaxpho.data.psfex import read_psfex

STEP = 0.1  # arcsec, for the derivatives of the WCS


def _wcs(survey, base, ccdname):
    path = next(survey.glob(f"images/**/{base}*{ccdname}*"))
    with fits.open(path) as hdus:
        wcs = WCS(next(hdu.header for hdu in hdus if hdu.data is not None))
    with fits.open(survey / "survey-ccds-1.fits.gz") as hdus:
        ccds = hdus[1].data
        row = next(r for r in ccds if base in r["image_filename"] and r["ccdname"] == ccdname)
        cos_dec = np.cos(np.deg2rad(wcs.wcs.crval[1]))
        shift = np.array([row["ccdraoff"] / cos_dec, row["ccddecoff"]]) / 3600.0
    wcs.wcs.crval = wcs.wcs.crval + shift
    return wcs


def render_galaxy(survey, name, row, shape):
    """Image [ny, nx] of unit flux of a catalogue row with a Sersic profile.

    `name` is the exposure's, BASE-CCDNAME; pixels are 0-indexed.
    """
    galsim = pytest.importorskip("galsim")
    base, ccdname = name.rsplit("-", 1)
    wcs = _wcs(survey, base, ccdname)
    ra, dec = float(row["ra"]), float(row["dec"])
    cos_dec = np.cos(np.deg2rad(dec))
    x, y = (float(v) for v in wcs.all_world2pix(ra, dec, 0))

    def pixel(east, north):
        return np.array(
            wcs.all_world2pix(ra + east / 3600.0 / cos_dec, dec + north / 3600.0, 0), float
        )

    d = np.stack([pixel(STEP, 0) - pixel(-STEP, 0), pixel(0, STEP) - pixel(0, -STEP)], axis=1)
    d /= 2 * STEP
    psf = read_psfex(next(survey.glob(f"calib/psfex-single/**/{name}-psfex.fits"))).image(x, y)
    params = galsim.GSParams(folding_threshold=1e-3, maximum_fft_size=8192)
    psf = galsim.InterpolatedImage(
        galsim.Image(psf), scale=1.0, x_interpolant=galsim.Lanczos(7), gsparams=params
    ).withFlux(1.0)
    # position angle from north to east; the profile is drawn in the plane (east, north)
    galaxy = galsim.Sersic(
        float(row["sersic"]), half_light_radius=float(row["rhalf"]), gsparams=params
    ).shear(q=float(row["q"]), beta=(90.0 - float(row["pa"])) * galsim.degrees)
    galaxy = galaxy.transform(*d.ravel()).withFlux(1.0)
    image = galsim.Image(shape[1], shape[0], scale=1.0)
    scene = galsim.Convolve(galaxy, psf, gsparams=params)
    centre = galsim.PositionD(x + 1, y + 1)
    return scene.drawImage(image=image, center=centre, method="no_pixel").array
