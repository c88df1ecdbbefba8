"""Simulated exposures against GalSim, and their noise."""

import galsim
import numpy as np
import pytest

import jaxpho
from jaxpho.data.psfmodel import PSF_DTYPE, PSFModel
from jaxpho.errors import InputError

SCALE, SHAPE, NOISE = 0.2, (32, 40), 0.5
SIGMA = 0.35  # of the Gaussian PSF, arcsec: its mixture is exact
# Gaussians of the Sersic mixture: 1e-4 of the peak and float32
ATOL = 3e-4


@pytest.fixture(scope="module")
def exposure():
    parameters = np.zeros(1, PSF_DTYPE)
    parameters["amp"], parameters["sersic_bin"] = 1.0, -1
    parameters["Cxx"] = parameters["Cyy"] = (SIGMA / SCALE) ** 2
    psf = PSFModel(parameters)
    error = np.full(SHAPE, NOISE)
    error[5, 7] = np.nan
    blank = np.zeros(SHAPE)
    return jaxpho.exposure_from_arrays(blank, error, psf, band="r", pixel_scale=SCALE)


def source(exposure, **change):
    ra, dec = (float(v) for v in exposure.wcs.pixel_to_world_values(22.3, 14.6))
    values = {"rhalf": 0.7, "sersic": 2.0, "q": 0.7, "pa": 20.0}
    given = {"values": values, "flux": {("flux", "r"): 900.0}}
    return jaxpho.Peak("a", "sersic", ra, dec, **given | change)


def test_it_is_what_galsim_draws(exposure):
    (found,) = jaxpho.simulate_images([exposure], [source(exposure)])
    # East is to the left
    galaxy = galsim.Sersic(2.0, half_light_radius=0.7, flux=900.0)
    galaxy = galaxy.shear(q=0.7, beta=(90 + 20) * galsim.degrees)
    offset = (22.3 - (SHAPE[1] - 1) / 2, 14.6 - (SHAPE[0] - 1) / 2)
    scene = galsim.Convolve(galaxy, galsim.Gaussian(sigma=SIGMA))
    image = scene.drawImage(nx=SHAPE[1], ny=SHAPE[0], scale=SCALE, offset=offset).array
    good = exposure.ierr > 0
    assert found.data[5, 7] == 0 and found.ierr is exposure.ierr
    np.testing.assert_allclose(found.data[good], image[good], atol=ATOL * image.max())


def test_noise_is_that_of_the_errors(exposure):
    (plain,) = jaxpho.simulate_images([exposure], [source(exposure)])
    (noisy,) = jaxpho.simulate_images([exposure], [source(exposure)], seed=3)
    (again,) = jaxpho.simulate_images([exposure], [source(exposure)], seed=3)
    np.testing.assert_array_equal(noisy.data, again.data)
    good = exposure.ierr > 0
    # 1279 pixels: a standard deviation known to 2 %
    assert np.std((noisy.data - plain.data)[good]) == pytest.approx(NOISE, rel=0.08)


def test_what_is_missing_is_named(exposure):
    for change, complaint in (
        ({"flux": {}}, "source a has no flux in band r"),
        ({"values": {"rhalf": 1.0}}, "source a .sersic. has no sersic"),
    ):
        with pytest.raises(InputError, match=complaint):
            jaxpho.simulate_images([exposure], [source(exposure, **change)])
