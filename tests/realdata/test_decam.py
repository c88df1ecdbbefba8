"""decam_8exp_grz: a bright galaxy and a faint star in eight exposures, from the survey's files."""

import re

import numpy as np
import pytest
from realdata.common import fit, fraction_inside, read_tractor
from realdata.legacy_galsim import render_galaxy

from jaxpho.output.residuals import read_residuals

pytestmark = pytest.mark.realdata
BANDS = "grz"
GALAXY, STAR = "1", "0"
CATALOG = "decam_8exp_grz/reference_legacypipe_DR9.6.9/tractor/244/tractor-2447p120.fits"
# The exact single Sersic found by an independent fit (README of the data set), nMgy.
EXACT_TOTAL = {"g": 22.03, "r": 69.95, "z": 152.67}
EXACT_INSIDE = {
    5.0: {"g": 17.52, "r": 55.62, "z": 121.39},
    7.0: {"g": 19.06, "r": 60.52, "z": 132.10},
}
EXACT = {"rhalf_major": 2.095, "sersic": 3.470, "q": 0.656, "pa": 87.46}
EXACT_CHI2, PIXELS = 18095.0, 16687
# Tractor draws a Sersic law as a mixture of Gaussians that is truncated and softened. Of the total
# flux it quotes, that mixture (n = 3.725, q = .6535, r = 2.208") puts these fractions inside 5"
# and 7"; the law itself would put .775 and .846 there, 6 % less (docs/real_data.md).
TRACTOR_INSIDE = {5.0: 0.8197, 7.0: 0.8952}
NO_OFFSETS = ("images.0.wcs.offset_ra=0", "images.0.wcs.offset_dec=0")
# PSF mixtures follow the PSFEx images to .35 % of their peak, and a galaxy smooths that.
RENDER_TOLERANCE = 3e-3
ADVICE = "an astrometric offset per exposure would lower chi2"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("decam")


@pytest.fixture(scope="module")
def run(data_dir, folder):
    return fit("decam", data_dir, folder / "run", f"psf_cache={folder / 'psf.h5'}")


@pytest.fixture(scope="module")
def galaxy(run):
    return run.rows[GALAXY]


@pytest.fixture(scope="module")
def tractor(data_dir):
    return read_tractor(data_dir / CATALOG)


def _inside(run, band, radius):
    row = run.rows[GALAXY]
    return run.flux(GALAXY, band) * fraction_inside(
        radius, row["rhalf_major"], row["sersic"], row["q"]
    )


def test_aperture_integral_against_galsim():
    galsim = pytest.importorskip("galsim")
    profile = galsim.Sersic(2.0, half_light_radius=1.5 * np.sqrt(0.6)).shear(
        q=0.6, beta=0 * galsim.degrees
    )
    image = profile.drawImage(nx=901, ny=901, scale=0.02, method="no_pixel").array
    y, x = np.indices(image.shape) - 450
    total = image[np.hypot(x, y) * 0.02 < 5.0].sum()
    assert fraction_inside(5.0, 1.5, 2.0, 0.6) == pytest.approx(total, rel=2e-3)


@pytest.mark.parametrize("band", BANDS)
def test_fluxes_against_exact_fit(band, run):
    assert run.flux(GALAXY, band) == pytest.approx(EXACT_TOTAL[band], rel=0.015)
    for radius, fluxes in EXACT_INSIDE.items():
        assert _inside(run, band, radius) == pytest.approx(fluxes[band], rel=0.01)


def test_shape_against_exact_fit(galaxy):
    assert galaxy["rhalf_major"] == pytest.approx(EXACT["rhalf_major"], rel=0.02)
    assert galaxy["sersic"] == pytest.approx(EXACT["sersic"], abs=0.06)
    assert galaxy["q"] == pytest.approx(EXACT["q"], abs=0.01)
    assert galaxy["pa"] % 180.0 == pytest.approx(EXACT["pa"], abs=1.0)


def test_centre(galaxy, tractor):
    # the exact fit's centre is not quoted; Tractor's is within 1 mas of a GalSim fit's
    ra, dec = tractor[GALAXY]["ra"], tractor[GALAXY]["dec"]
    east = (galaxy["ra"] - ra) * np.cos(np.deg2rad(dec)) * 3.6e6
    assert np.hypot(east, (galaxy["dec"] - dec) * 3.6e6) < 6.0


def test_chi2(run):
    assert run.result.npix.sum() == PIXELS
    assert run.result.chi2.sum() == pytest.approx(EXACT_CHI2, abs=60.0)


def test_model_against_galsim(run, data_dir):
    """The same parameters drawn by GalSim with the PSF images themselves, not their mixtures."""
    chi2 = 0.0
    for band, exposures in read_residuals(run.folder / "patches/patch0_residuals.h5").items():
        flux = float(run.rows[GALAXY][f"flux_{band}"])
        for name, pixels in exposures.items():
            x, y = pixels["xpix"], pixels["ypix"]
            shape = (y.max() + 1, x.max() + 1)
            survey = data_dir / "decam_8exp_grz"
            exact = flux * render_galaxy(survey, name, run.rows[GALAXY], shape)[y, x]
            model = pixels["data"] - pixels["residual"]
            near = np.hypot(x - 20.0, y - 26.5) < 10.0  # the star is at 19 pixels
            difference = (model - exact)[near]
            assert np.abs(difference).max() < RENDER_TOLERANCE * exact.max(), name
            swapped = np.where(near, model - exact, 0.0) + pixels["residual"]
            chi2 += np.sum((swapped.astype(float) * pixels["ierr"]) ** 2)
    assert chi2 == pytest.approx(EXACT_CHI2, abs=60.0)


@pytest.mark.parametrize("band", BANDS)
def test_fluxes_against_tractor(band, run, tractor):
    flux = tractor[GALAXY][f"flux_{band}"]
    assert run.flux(GALAXY, band) == pytest.approx(flux, rel=0.06)
    for radius, fraction in TRACTOR_INSIDE.items():
        assert _inside(run, band, radius) == pytest.approx(flux * fraction, rel=0.02)


def test_shape_against_tractor(galaxy, tractor):
    assert galaxy["rhalf_major"] == pytest.approx(tractor[GALAXY]["shape_r"], rel=0.08)
    assert galaxy["sersic"] == pytest.approx(tractor[GALAXY]["sersic"], abs=0.4)


def test_star(run, tractor):
    # S/N 4 to 18 in the wing of the galaxy: its own errors are the measure
    row = run.rows[STAR]
    for band in BANDS:
        expected = tractor[STAR][f"flux_{band}"]
        error = row[f"flux_{band}_err"] / 3631.0
        assert abs(run.flux(STAR, band) - expected) < 2 * error


def test_ignoring_the_offsets_costs_and_is_told(run, data_dir, folder):
    other = fit("decam", data_dir, folder / "no_offsets", *NO_OFFSETS)
    assert other.result.chi2.sum() > run.result.chi2.sum() + 300.0
    assert ADVICE in other.log
    promised = float(re.search(f"{ADVICE} by about ([0-9]+)", other.log)[1])
    assert promised > 300.0
