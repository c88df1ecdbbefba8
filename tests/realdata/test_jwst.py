"""jwst_ceers_7band: two galaxies over seven NIRCam bands, from the survey's cutouts.

The reference (README of the data set) is an exact fit: Sersic law times PSF image, sky 0, one
shift per band. `sersic_fft.py` is another one, written for these tests: it reproduces the
reference.
"""

import numpy as np
import pytest
from astropy.io import fits
from realdata import sersic_fft
from realdata.common import fit

from jaxpho.output.residuals import read_residuals

pytestmark = pytest.mark.realdata
BANDS = ("f115w", "f150w", "f200w", "f277w", "f356w", "f410m", "f444w")
SCALE = dict(zip(BANDS, [0.02] * 3 + [0.04] * 4, strict=True))
ZERO_POINT = {0.02: 28.96698, 0.04: 27.46183}
SINGLE_MAG = (22.8015, 22.6764, 22.5891, 22.7201, 23.1544, 23.3808, 23.3980)
SINGLE = {"rhalf_major": 0.2076, "sersic": 0.8434, "q": 0.8856}
SINGLE_HALF_CHI2 = 118036
DISK = {"rhalf_major": 0.7607, "sersic": 0.370, "q": 0.965}
BULGE = {"rhalf_major": 0.1045, "sersic": 2.053, "q": 0.928}
TOTAL_MAG = {"f200w": 19.267, "f444w": 19.690}
MAG, Q, Q_DISK, APERTURE = 0.03, 0.02, 0.04, 0.015
RE, RE_BULGE = 0.03, 0.06
N, N_BULGE = 0.05, 0.2
# How well our exact fit repeats the reference's, which is quoted to three or four digits.
SAME_MAG, SAME_RE, SAME_N, SAME_Q, SAME_CHI2 = 0.002, 2e-3, 3e-3, 1e-3, 1e-4


def read(data_dir, name):
    folder = data_dir / "jwst_ceers_7band"
    psf_set = (folder / name / "PSF_SET").read_text().strip()
    exposures = []
    for band in BANDS:
        data, error = (
            fits.getdata(folder / name / f"{band}{suffix}.fits").astype(float)
            for suffix in ("", "_err")
        )
        good = (fits.getdata(folder / name / f"{band}_mask.fits.gz") == 0) & (error > 0)
        weight = np.where(good, 1 / np.where(good, error, 1), 0.0)
        psf = fits.getdata(folder / "PSF" / f"set_{psf_set}" / f"{band.upper()}_hybrid.fits")
        scale = SCALE[band]
        exposures.append(sersic_fft.Exposure(data, weight, psf, scale, ZERO_POINT[scale]))
    return exposures


def exact_two(exposures):
    """Disk and bulge with a centre each."""
    start = [[0.75, 0.45, 0.95, 1.4, 0, 0], [0.1, 1.9, 0.92, -0.9, 0, 0]]
    free = np.ones((2, sersic_fft.NPAR), bool)
    free[0, 4:] = False  # the exposures' shifts place the disk
    return sersic_fft.fit(exposures, start, free)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("jwst")


@pytest.fixture(scope="module")
def single(data_dir, folder):
    return fit("jwst6414", data_dir, folder / "single")


@pytest.fixture(scope="module")
def double(data_dir, folder):
    return fit("jwst40", data_dir, folder / "double")


def magnitudes(run):
    """AB magnitudes of all sources together, by band."""
    flux = [sum(float(row[f"flux_{b}"]) for row in run.rows.values()) for b in BANDS]
    return 31.4 - 2.5 * np.log10(flux)


def close(row, name, expected, tolerance):
    assert float(row[name]) == pytest.approx(expected, abs=tolerance), name


def test_single_sersic(single):
    (row,) = single.rows.values()
    assert magnitudes(single) == pytest.approx(SINGLE_MAG, abs=MAG)
    close(row, "rhalf_major", SINGLE["rhalf_major"], RE * SINGLE["rhalf_major"])
    close(row, "sersic", SINGLE["sersic"], N)
    close(row, "q", SINGLE["q"], Q)
    assert not single.result.at_bound.any()


def test_exact_fit_repeats_the_single_reference(data_dir):
    start = [[0.2, 1.0, 0.88, 0.5, 0.0, 0.0]]
    found = sersic_fft.fit(read(data_dir, "6414"), start, [[1, 1, 1, 1, 0, 0]])
    assert found.total == pytest.approx(SINGLE_MAG, abs=SAME_MAG)
    assert found.components[0, 0] == pytest.approx(SINGLE["rhalf_major"], rel=SAME_RE)
    assert found.components[0, 1:3] == pytest.approx([SINGLE["sersic"], SINGLE["q"]], abs=SAME_Q)
    assert found.chi2 / 2 == pytest.approx(SINGLE_HALF_CHI2, rel=SAME_CHI2)


def test_exact_fit_repeats_the_disk_and_bulge_reference(data_dir):
    found = exact_two(read(data_dir, "40"))
    for component, expected in zip(found.components, (DISK, BULGE), strict=True):
        assert component[0] == pytest.approx(expected["rhalf_major"], rel=SAME_RE)
        assert component[1] == pytest.approx(expected["sersic"], abs=SAME_N)
        assert component[2] == pytest.approx(expected["q"], abs=SAME_Q)
    for band, expected in TOTAL_MAG.items():
        assert found.total[BANDS.index(band)] == pytest.approx(expected, abs=SAME_MAG)


def test_disk_and_bulge_against_the_reference(double):
    total = dict(zip(BANDS, magnitudes(double), strict=True))
    for band, expected in TOTAL_MAG.items():
        assert total[band] == pytest.approx(expected, abs=MAG)
    disk, bulge = double.rows["disk"], double.rows["bulge"]
    close(disk, "rhalf_major", DISK["rhalf_major"], RE * DISK["rhalf_major"])
    close(disk, "sersic", DISK["sersic"], N)
    close(disk, "q", DISK["q"], Q_DISK)
    close(bulge, "rhalf_major", BULGE["rhalf_major"], RE_BULGE * BULGE["rhalf_major"])
    close(bulge, "sersic", BULGE["sersic"], N_BULGE)
    close(bulge, "q", BULGE["q"], Q)
    assert not double.result.at_bound.any()


@pytest.mark.parametrize("band", BANDS)
def test_aperture(double, band):
    """Light of data and model within 1.5" of the brightest pixel."""
    (p,) = read_residuals(double.folder / "patches" / "patch0_residuals.h5")[band].values()
    model = np.where(p["ierr"] > 0, p["data"] - p["residual"], 0.0)
    x, y = (p[k] - p[k][np.argmax(model)] for k in ("xpix", "ypix"))
    inside = (np.hypot(x, y) * SCALE[band] < 1.5) & (p["ierr"] > 0)
    difference = -2.5 * np.log10(p["data"][inside].sum() / model[inside].sum())
    assert abs(difference) < APERTURE
