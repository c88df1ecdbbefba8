"""Detection and starting values on images drawn by GalSim, which knows nothing of this code."""

import galsim
import numpy as np
import pytest
from astropy.io import fits
from fits_images import catalog_options

from jaxpho.data.catalog import Peak
from jaxpho.data.detect import detect_peaks, get_peaks, stack
from jaxpho.data.exposure import Exposure
from jaxpho.data.moments import fill_starts, moments_start
from jaxpho.data.options import DetectOptions, WCSOptions
from jaxpho.data.psfmodel import PSF_DTYPE, PSFModel
from jaxpho.data.wcs import build_wcs
from jaxpho.errors import InputError

RA, DEC = 150.0, 2.0
PSF_SIGMA = 0.12  # arcsec
NOISE = 0.05
# offsets East, North [arcsec], flux, half-light radius, n (0: star), q, pa
SOURCES = [
    (0.0, 0.0, 200.0, 0.8, 1.0, 0.5, 40.0),
    (6.0, 3.0, 120.0, 0.4, 2.0, 0.8, 120.0),
    (-5.0, 4.0, 100.0, 0.0, 0.0, 1.0, 0.0),
    (-4.0, -5.0, 80.0, 0.6, 1.0, 0.7, 0.0),
]  # fmt: skip
MATCH = 0.1  # arcsec, positions
FLUX_RTOL = 0.3  # starting values: a quarter of the light of n = 2 lies beyond the aperture
SIZE_RTOL = 0.35


def exposure(name, band, scale, rotation, seed, with_psf=True, colour=1.0):
    n = int(20 / scale)
    wcs_options = WCSOptions(pixel_scale=scale, ra=RA, dec=DEC, rotation=rotation)
    wcs, _ = build_wcs(fits.Header(), wcs_options, (n, n))
    image = np.zeros((n, n))
    for east, north, flux, rhalf, sersic, q, pa in SOURCES:
        profile = galsim.DeltaFunction()
        if sersic:
            profile = galsim.Sersic(sersic, half_light_radius=rhalf).shear(
                q=q, beta=(90 + pa - rotation) * galsim.degrees
            )
        profile = galsim.Convolve(profile.withFlux(flux * colour), galsim.Gaussian(sigma=PSF_SIGMA))
        ra = RA + east / 3600 / np.cos(np.radians(DEC + north / 3600))
        x, y = wcs.world_to_pixel_values(ra, DEC + north / 3600)
        centre = galsim.PositionD(float(x) + 1, float(y) + 1)
        stamp = galsim.ImageD(n, n)
        image += profile.drawImage(image=stamp, scale=scale, center=centre).array
    noise = NOISE * scale / 0.1
    image += np.random.default_rng(seed).normal(0, noise, image.shape)
    ierr = np.full(image.shape, 1 / noise, np.float32)
    ierr[5:9, 5:30] = 0
    image[5:9, 5:30] = 1e6
    psf = None
    if with_psf:
        parameters = np.zeros((1, 1), PSF_DTYPE)
        variance = (PSF_SIGMA / scale) ** 2
        parameters[0, 0] = (1.0, 0.0, 0.0, variance, variance, 0.0, -1)
        psf = PSFModel(parameters, None, False)
    return Exposure(name, band, image.astype(np.float32), ierr, wcs, "nJy", fits.Header(), psf=psf)


@pytest.fixture(scope="module")
def exposures():
    return [
        exposure("a", "g", 0.1, 0.0, 1),
        exposure("b", "g", 0.1, 30.0, 2),
        exposure("c", "r", 0.17, -70.0, 3, colour=2.0),
    ]


def offsets(peaks):
    return np.array(
        [((p.ra - RA) * 3600 * np.cos(np.radians(p.dec)), (p.dec - DEC) * 3600) for p in peaks]
    )


def nearest(peaks, source):
    distance = np.hypot(*(offsets(peaks) - source[:2]).T)
    return peaks[int(distance.argmin())], distance.min()


def test_detection_and_starts(exposures):
    peaks = get_peaks(catalog_options(detect=True), exposures, ["g", "r"])
    assert len(peaks) == len(SOURCES)
    for source in SOURCES:
        peak, distance = nearest(peaks, source)
        assert distance < MATCH
        np.testing.assert_allclose(peak.flux["flux", "g"], source[2], rtol=FLUX_RTOL)
        np.testing.assert_allclose(peak.flux["flux", "r"], 2 * source[2], rtol=FLUX_RTOL)
        if source[4]:
            assert abs(np.log(peak.values["rhalf"] / source[3])) < SIZE_RTOL
            assert abs(peak.values["q"] - source[5]) < 0.15
            turn = (peak.values["pa"] - source[6] + 90) % 180 - 90
            assert abs(turn) < 15
        else:
            assert peak.values["rhalf"] < PSF_SIGMA
    assert [p.id for p in peaks] == [1, 2, 3, 4]


def test_stack_keeps_flux_and_ignores_masked(exposures):
    image, sigma, _ = stack(exposures[:2])
    assert np.isinf(sigma).any() and np.abs(image).max() < 100
    total = sum(s[2] for s in SOURCES)
    assert abs(image[np.isfinite(sigma)].sum() / total - 1) < 0.05


def test_points_and_choice_of_exposures(exposures):
    found = detect_peaks(exposures, DetectOptions(point_like=True, bands=["r"], threshold=5.0))
    kinds = [nearest(found, s)[0].type for s in SOURCES]
    assert kinds[2] == "point" and kinds[0] == "sersic"
    one = detect_peaks(exposures, DetectOptions(exposures=["a"]), "exp")
    assert {p.type for p in one} == {"exp"}


def test_what_is_known_stays(exposures):
    known = Peak(1, "sersic", RA, DEC, {"rhalf": 0.33, "q": 0.9}, {("flux", "g"): 5.0})
    out = moments_start(exposures, known)
    assert out.values == {"rhalf": 0.33, "q": 0.9} and out.flux["flux", "g"] == 5.0
    assert ("flux", "r") in out.flux and ("flux", "r") not in known.flux
    complete = Peak(2, "point", RA, DEC, {}, {("flux", "g"): 1.0, ("flux", "r"): 1.0})
    assert fill_starts(exposures, [complete], ["g", "r"])[0] is complete


def test_neighbours_do_not_leak():
    """A faint source beside a bright one: its flux is not that of the pair."""
    e = exposure("a", "g", 0.1, 0.0, 4)
    bright = Peak(1, "sersic", RA, DEC)
    faint = Peak(2, "point", RA + 1.6 / 3600, DEC + 0.4 / 3600)
    alone = moments_start([e], faint).flux["flux", "g"]
    beside = moments_start([e], faint, [bright, faint]).flux["flux", "g"]
    assert beside < 0.5 * alone or beside < 20


def test_off_the_images(exposures):
    out = moments_start(exposures, Peak(1, "sersic", RA + 1, DEC))
    assert out.values == {} and out.flux == {}


def test_without_psf_sizes_are_as_observed():
    plain, deconvolved = (exposure("a", "g", 0.1, 0.0, 1, with_psf=w) for w in (False, True))
    star = Peak(1, "sersic", RA - 5 / 3600 / np.cos(np.radians(DEC)), DEC + 4 / 3600)
    observed = moments_start([plain], star).values["rhalf"]
    assert observed > 0.8 * PSF_SIGMA > 2 * moments_start([deconvolved], star).values["rhalf"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"detection": {"bands": ["z"]}}, "band 'z'"),
        ({"detection": {"exposures": ["zz"]}}, "'zz'"),
        ({"detection": {"threshold": 1e6}}, "nothing is above"),
        ({"file": "x.fits"}, "excludes"),
    ],
)
def test_errors(exposures, values, words):
    with pytest.raises(InputError, match=words):
        get_peaks(catalog_options(detect=True, **values), exposures, ["g", "r"])
