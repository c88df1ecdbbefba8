"""Units: every path to nJy per pixel against astropy.units and hand-computed magnitudes."""

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from fits_images import SCALE, image_options

from jaxpho.data.units import (
    calibration,
    flux_unit_to_njy,
    magnitude_to_njy,
    number_or_key,
    parse_unit,
)
from jaxpho.errors import InputError

RTOL = 1e-9  # float64 arithmetic with a handful of operations
AB_RTOL = 1e-4  # 31.4 mag and 3631 Jy round the AB zero point differently
AREA = (SCALE * u.arcsec) ** 2


def header(**cards):
    h = fits.Header()
    h.update(cards)
    return h


@pytest.mark.parametrize("unit", ["MJy/sr", "nJy / arcsec2", "Jy/sr", "mJy/arcsec**2"])
def test_surface_brightness_times_pixel_area(unit):
    area = AREA.to_value(u.sr)
    factor, name, note = calibration(header(BUNIT=unit), image_options(), wcs_area_sr=area)
    expected = (1 * u.Unit(unit.replace("**", "")) * AREA).to_value(u.nJy)
    assert name == "nJy" and "WCS" in note
    np.testing.assert_allclose(factor, expected, rtol=RTOL)


def test_pixel_area_cards_come_before_the_wcs():
    area = AREA.to_value(u.sr)
    expected = (1 * u.MJy / u.sr * AREA).to_value(u.nJy)
    for cards in ({"PIXAR_SR": area}, {"PIXAR_A2": SCALE**2}):
        factor, _, note = calibration(header(BUNIT="MJy/sr", **cards), image_options(), None, 1.0)
        np.testing.assert_allclose(factor, expected, rtol=RTOL)
        assert next(iter(cards)) in note
    given = image_options(pixel_area=2 * area)
    factor, _, _ = calibration(header(BUNIT="MJy/sr", PIXAR_SR=area), given)
    np.testing.assert_allclose(factor, 2 * expected, rtol=RTOL)


@pytest.mark.parametrize("unit", ["nJy", "uJy", "mJy", "Jy", "nJy/pixel", "erg / (s cm2 Hz)"])
def test_flux_per_pixel(unit):
    factor, name, _ = calibration(header(BUNIT=unit), image_options())
    np.testing.assert_allclose(factor, u.Unit(unit.split("/pix")[0]).to(u.nJy), rtol=RTOL)
    assert name == "nJy"


def test_case_tells_milli_from_mega():
    assert flux_unit_to_njy("MJy") == pytest.approx(1e9 * flux_unit_to_njy("mJy"), rel=RTOL)


@pytest.mark.parametrize("unit", ["nanomaggy", "nmgy", "nMgy", "nanomaggies"])
def test_nanomaggies(unit):
    assert parse_unit(unit) == ("flux", 3631.0)
    np.testing.assert_allclose(magnitude_to_njy(22.5), 3631.0, rtol=AB_RTOL)


@pytest.mark.parametrize("unit", ["ELECTRONS/S", "electron / s", "counts/s", "DN/s", "e-/s"])
def test_photflam_against_astropy(unit):
    h = header(BUNIT=unit, PHOTFLAM=1.5e-20, PHOTPLAM=11534.0)
    factor, name, note = calibration(h, image_options())
    flam = 1.5e-20 * u.erg / u.s / u.cm**2 / u.AA
    expected = flam.to_value(u.nJy, u.spectral_density(11534.0 * u.AA))
    np.testing.assert_allclose(factor, expected, rtol=RTOL)
    assert name == "nJy" and "PHOTFLAM" in note


def test_photfnu_and_counts_per_exposure():
    factor, _, _ = calibration(header(BUNIT="ELECTRONS/S", PHOTFNU=3e-8), image_options())
    np.testing.assert_allclose(factor, 30.0, rtol=RTOL)
    h = header(BUNIT="ELECTRONS", PHOTFNU=3e-8, EXPTIME=100.0)
    np.testing.assert_allclose(calibration(h, image_options())[0], 0.3, rtol=RTOL)


@pytest.mark.parametrize(
    ("given", "cards", "row", "expected"),
    [
        (25.0, {}, None, 25.0),
        ({"key": "MAGZPT"}, {"MAGZPT": 26.5}, None, 26.5),
        ({"flux_key": "FLUXMAG0"}, {"FLUXMAG0": 10**10.8}, None, 27.0),
        ({"column": "zp"}, {}, {"zp": 24.0}, 24.0),
        ({"value": 25.0, "exptime": True}, {"EXPTIME": 100.0}, None, 30.0),
        ({"column": "zp", "exptime": "t"}, {}, {"zp": 24.0, "t": 10.0}, 26.5),
        ({"value": 25.0, "exptime": 1000.0}, {}, None, 32.5),
    ],
)
def test_zero_points(given, cards, row, expected):
    options = image_options(zero_point=given)
    factor, unit, _ = calibration(header(BUNIT="Jy", **cards), options, row)
    ab = (expected * u.ABmag).to_value(u.nJy)
    np.testing.assert_allclose(factor, ab, rtol=AB_RTOL)
    assert unit == "nJy"


def test_without_calibration_the_own_unit_is_kept_and_said():
    for h, unit in ((header(), "count"), (header(BUNIT="counts/s"), "counts/s")):
        factor, name, note = calibration(h, image_options())
        assert (factor, name) == (1.0, unit) and "not calibrated" in note
    factor, name, _ = calibration(header(BUNIT="Jy"), image_options(unit="image"))
    assert (factor, name) == (1.0, "Jy")


def test_abmag_calibrates_what_nothing_else_does():
    """forcepho's card: the AB magnitude of one unit."""
    for h in (header(ABMAG=28.9), header(ABMAG=28.9, BUNIT="electron/s")):
        factor, unit, note = calibration(h, image_options())
        np.testing.assert_allclose(factor, (28.9 * u.ABmag).to_value(u.nJy), rtol=AB_RTOL)
        assert unit == "nJy" and "ABMAG" in note
    assert calibration(header(ABMAG=28.9, BUNIT="uJy"), image_options())[0] == 1e3
    assert calibration(header(ABMAG="none"), image_options())[1] == "count"


def test_optional_zero_point_falls_back_to_bunit():
    given = {"flux_key": "FLUXMAG0", "optional": True}
    factor, unit, _ = calibration(header(BUNIT="nJy"), image_options(zero_point=given))
    assert (factor, unit) == (1.0, "nJy")


@pytest.mark.parametrize(
    ("options", "cards", "words"),
    [
        ({"zero_point": {"key": "NOPE"}}, {}, "NOPE"),
        ({"zero_point": {"value": 25.0, "key": "ZP"}}, {}, "exactly one"),
        ({"zero_point": {"column": "zp"}}, {}, "zp"),
        ({"zero_point": {"flux_key": "F"}}, {"F": -1.0}, "-1"),
        ({"zero_point": {"value": 25.0, "exptime": True}}, {}, "EXPTIME"),
        ({"zero_point": {"value": 25.0, "exptime": True}}, {"EXPTIME": 0.0}, "exposure time"),
        ({"unit": "MJy/sr"}, {}, "pixel_area"),
        ({"unit": "MJy/sr", "pixel_area": -1.0}, {}, "pixel area"),
    ],
)
def test_errors_name_what_is_wrong(options, cards, words):
    with pytest.raises(InputError, match=words):
        calibration(header(**cards), image_options(**options), where="a.fits")


def test_number_or_key():
    assert number_or_key("GAIN", header(GAIN=2.5), None, "x") == 2.5
    assert number_or_key("gain", header(), {"gain": 3}, "x") == 3.0
    assert number_or_key("1e-3", header(), None, "x") == 1e-3  # YAML reads this as text
    with pytest.raises(InputError, match="NOPE"):
        number_or_key("NOPE", header(), None, "x")
