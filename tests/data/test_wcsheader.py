"""Headers of stores: each gives back the WCS that reading the image used, whatever its kind."""

import logging

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS, DistortionLookupTable
from fits_images import RA, SCALE, image_options, tan_header, write_mef
from gwcs_case import CENTRE, asdf_extension, make_gwcs
from store_case import case_wcs

from jaxpho.data.gwcsfile import GWCSAdaptor, open_gwcs, write_gwcs
from jaxpho.data.ingest import read_one, wcs_offsets
from jaxpho.data.metastore import MetaStore, check_header, make_index, parse_header
from jaxpho.data.plan import plan_images
from jaxpho.data.wcs import world_to_pixel
from jaxpho.data.wcsheader import fit_sip, stored_header, wcs_difference

SAME = 1e-6  # pixel, what is asked of headers
LOOKUP = 5e-3  # pixel: polynomials of degree 5 for a bilinear table of half a pixel, kinks and all
SHAPE = (40, 56)  # (ny, nx)


def sip_header():
    header = case_wcs(0.05, 33.0, (3, -2), mirrored=True, sip=True).to_header(relax=True)
    return header


def tpv_header():
    header = tan_header(CTYPE1="RA---TPV", CTYPE2="DEC--TPV")
    pv = {"PV1_0": 1e-5, "PV1_1": 1.001, "PV1_2": 2e-3, "PV1_4": 0.4, "PV1_6": -0.3}
    pv |= {"PV2_0": -2e-5, "PV2_1": 0.999, "PV2_2": -1e-3, "PV2_5": 0.5}
    header.update(pv)
    return header


def rotated():
    """PC matrix and CDELT, of which only the diagonal was kept."""
    header = tan_header(CD1_1=None, CD1_2=None, CD2_1=None, CD2_2=None)
    header.update(CDELT1=-SCALE / 3600, CDELT2=SCALE / 3600, PC1_1=0.8, PC2_2=0.8)
    return header


def galactic():
    header = tan_header(CTYPE1="GLON-TAN", CTYPE2="GLAT-TAN")
    header["CRVAL1"], header["CRVAL2"] = 120.0, 40.0
    return header


KINDS = {
    "plain": (tan_header(), {}),
    "sip": (sip_header(), {}),
    "tpv": (tpv_header(), {}),
    "shifted": (tpv_header(), {"offset_ra": 0.31, "offset_dec": -0.07}),
    "repaired": (rotated(), {"repair_pc": -1}),
    "overridden": (tan_header(), {"header": {"CRVAL1": RA + 1e-3, "CD1_2": 3e-6, "CD2_1": 3e-6}}),
    "removed": (sip_header(), {"remove": ["A_2_0"]}),
    "made": (fits.Header(), {"pixel_scale": 0.1, "ra": 10.0, "dec": 5.0, "rotation": 30.0}),
    "galactic": (galactic(), {}),
    "three axes": (tan_header(WCSAXES=3, CTYPE3="WAVE", CRVAL3=1.0, CRPIX3=1.0, CDELT3=1.0), {}),
    "fk5": (tan_header(RADESYS="FK5", EQUINOX=1975.0), {}),
    "at the pole": (tan_header(CRVAL2=89.9999), {}),
}


def read(path, **values):
    options = image_options(
        band="r", files=str(path), science="SCI", error="ERR", unit="nJy", check_filter=False,
        **values,
    )  # fmt: skip
    (plan,) = plan_images([options], path.parent, ["r"], find_psf=False)
    return read_one(plan), plan


def write(path, header, **extensions):
    data = np.random.default_rng(0).normal(size=SHAPE).astype("f4")
    return write_mef(path, data, header, ERR=np.ones(SHAPE, "f4"), **extensions)


def stored(exposure, plan, **options):
    """The header as a store gives it back, and the quoted error."""
    header, error = stored_header(exposure, plan, "r_1", wcs_offsets(plan), **options)
    text = header.tostring()
    assert check_header(parse_header(text, "here"), "r_1", "here") == SHAPE[::-1]
    return text, error


def difference(exposure, text, tmp_path):
    """Largest distance [pixel] of positions by the stored header, random pixels of the image."""
    index = make_index(tmp_path / "meta.json", {"r_1": {"a": text}})
    wcs = MetaStore(tmp_path / "meta.json", index).wcs("r_1", "a")
    rng = np.random.default_rng(1)
    x, y = rng.uniform(-0.5, SHAPE[1] - 0.5, 300), rng.uniform(-0.5, SHAPE[0] - 0.5, 300)
    sky = exposure.wcs.pixel_to_world_values(x, y)
    return np.hypot(*(world_to_pixel(wcs, *sky) - np.stack([x, y], -1)).T).max()


@pytest.mark.parametrize("cards", ["all", "wcs"])
@pytest.mark.parametrize("kind", list(KINDS))
def test_positions_are_those_of_the_image(kind, cards, tmp_path):
    header, options = KINDS[kind]
    exposure, plan = read(write(tmp_path / "a.fits", header), wcs=options)
    text, error = stored(exposure, plan, cards=cards)
    assert error < SAME
    assert difference(exposure, text, tmp_path) < SAME


def test_the_wcs_of_another_extension(tmp_path):
    """That of SCI, a wrong one, must not shine through."""
    header = tpv_header()
    header["CRVAL1"] += 1.0
    other = (np.zeros(SHAPE, "f4"), sip_header())
    exposure, plan = read(write(tmp_path / "a.fits", header, OTHER=other), wcs={"ext": "OTHER"})
    text, error = stored(exposure, plan)
    assert error < SAME and difference(exposure, text, tmp_path) < SAME
    assert "PV1_4" not in text and "A_ORDER" in text


def table_image(path):
    """A distortion table of half a pixel in x, as HST's images have them."""
    wcs = WCS(tan_header())
    x, y = np.meshgrid(np.linspace(-1, 1, 8), np.linspace(-1, 1, 6))
    table = (0.5 * np.sin(x + 0.5 * y)).astype("f4")
    step = SHAPE[1] / 7, SHAPE[0] / 5
    wcs.cpdis1 = DistortionLookupTable(table, (1.0, 1.0), (1.0, 1.0), step)
    wcs.cpdis2 = DistortionLookupTable(-0.3 * table, (1.0, 1.0), (1.0, 1.0), step)
    hdus = wcs.to_fits(relax=True)
    science = fits.ImageHDU(np.ones(SHAPE, "f4"), hdus[0].header, "SCI")
    error = fits.ImageHDU(np.ones(SHAPE, "f4"), name="ERR")
    fits.HDUList([fits.PrimaryHDU(), science, error, *hdus[1:]]).writeto(path)
    return path


def test_distortion_tables_are_approximated(tmp_path, caplog):
    exposure, plan = read(table_image(tmp_path / "a.fits"))
    assert exposure.wcs.cpdis1 is not None
    plain = tan_header()
    assert wcs_difference(exposure.wcs, plain, SHAPE) > 0.1  # the table matters
    with caplog.at_level(logging.INFO):
        text, error = stored(exposure, plan)
    assert "not one of header cards alone" in caplog.text
    assert SAME < error < LOOKUP
    assert difference(exposure, text, tmp_path) < 1.5 * error


def test_polynomials_follow_any_smooth_wcs():
    wcs = case_wcs(0.05, 70.0, (0, 0), sip=True)
    assert wcs_difference(wcs, fit_sip(wcs, SHAPE), SHAPE) < SAME
    assert wcs_difference(wcs, fits.Header(), SHAPE) == np.inf


def test_cards(tmp_path):
    header = tan_header(
        FILTER="F200W", BUNIT="uJy", OBSERVER="someone", PROPOSER="someone", DETECTOR="NRCA1"
    )
    header["HISTORY"] = "was made"
    path = write(tmp_path / "a.fits", header)
    # astropy does not write what it will read
    path.write_bytes(path.read_bytes().replace(b"OBSERVER= 'someone '", b"BROKEN  = 12:34     "))
    exposure, plan = read(path)
    assert exposure.unit == "nJy"
    text, _ = stored(exposure, plan)
    found = parse_header(text, "here")
    assert found["FILTER"] == "r_1" and found["ORIGFILT"] == "F200W"
    assert found["BUNIT"] == "nJy" and found["ORIGUNIT"] == "uJy"
    assert found["PROPOSER"] == "someone" and found["DETECTOR"] == "NRCA1"
    assert found["EXPID"] == "a"
    assert "BROKEN" not in found and "HISTORY" not in found and "EXTNAME" not in found
    found = parse_header(stored(exposure, plan, cards="wcs")[0], "here")
    assert "PROPOSER" not in found and found["DETECTOR"] == "NRCA1"


@pytest.mark.parametrize("analytic", [True, False])
def test_gwcs_in_the_image(analytic, tmp_path):
    """With the real package: the header is an approximation, the ASDF file the thing itself."""
    pytest.importorskip("gwcs")
    path = write(tmp_path / "a.fits", fits.Header())
    with fits.open(path, mode="append") as hdus:
        hdus.append(asdf_extension(make_gwcs(SHAPE, analytic=analytic)))
    exposure, plan = read(path, wcs={"offset_ra": 0.2, "offset_dec": -0.1})
    assert isinstance(exposure.wcs, GWCSAdaptor) and exposure.wcs.analytic == analytic
    text, error = stored(exposure, plan)
    assert error < SAME and "RA---TAN-SIP" in text
    assert difference(exposure, text, tmp_path) < SAME
    # the middle lies where it was put, plus the shift
    middle = exposure.wcs.pixel_to_world_values((SHAPE[1] - 1) / 2, (SHAPE[0] - 1) / 2)
    expected = CENTRE[0] + 0.2 / 3600 / np.cos(np.radians(CENTRE[1])), CENTRE[1] - 0.1 / 3600
    np.testing.assert_allclose(middle, expected, atol=1e-9)
    write_gwcs(tmp_path / "meta.asdf", {"r_1": {"a": exposure.wcs}})
    again = open_gwcs(tmp_path / "meta.asdf")["r_1"]["a"]
    assert again.offset == exposure.wcs.offset
    x, y = np.array([0.0, 7.3, 55.0]), np.array([3.0, 39.0, 11.1])
    sky = exposure.wcs.pixel_to_world_values(x, y)
    np.testing.assert_allclose(again.pixel_to_world_values(x, y), sky, rtol=0, atol=1e-12)
    # a store prefers the gwcs to the header, and knows where the image's middle is
    index = make_index(tmp_path / "meta.json", {"r_1": {"a": text}})
    wcs = MetaStore(tmp_path / "meta.json", index).wcs("r_1", "a")
    assert isinstance(wcs, GWCSAdaptor) and wcs.centre == ((SHAPE[1] - 1) / 2, (SHAPE[0] - 1) / 2)
    np.testing.assert_allclose(world_to_pixel(wcs, *sky), np.stack([x, y], -1), atol=SAME)
