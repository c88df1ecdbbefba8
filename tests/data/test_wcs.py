"""WCS: affine maps against forcepho and plain differences, mended headers, made headers."""

import json
import logging
import sys
import types

import numpy as np
import pytest
from astropy.coordinates import FK5, SkyCoord
from astropy.io import fits
from astropy.wcs import WCS
from fits_images import DEC, RA, SCALE, SHAPE, tan_header

from jaxpho.data.fitsread import BadExposure
from jaxpho.data.gwcsfile import GWCSAdaptor, read_gwcs
from jaxpho.data.options import WCSOptions
from jaxpho.data.wcs import (
    build_wcs,
    contains,
    local_affine,
    matrix_complaint,
    pixel_area,
    world_to_pixel,
)
from jaxpho.errors import InputError

FRAME_MAS = 1.0  # two routes through astropy's frames
PIXEL_ATOL = 1e-8  # Newton refined, float64
FORCEPHO_PIXEL_ATOL = 5e-6  # forcepho keeps float32 pixel coordinates
FORCEPHO_RTOL = 1e-5  # its D of undistorted exposures is that of the reference pixel
FORCEPHO_SIP_RTOL = 1e-4  # its forward differences see half a pixel of distortion
DIFFERENCE_RTOL = 1e-6  # differences over 2e-6 deg of positions good to 1e-9 pixel


def sip_header():
    h = tan_header(CTYPE1="RA---TAN-SIP", CTYPE2="DEC--TAN-SIP")
    h.update(A_ORDER=2, B_ORDER=2, A_2_0=2e-4, A_1_1=-1e-4, B_0_2=3e-4, B_2_0=-5e-5)
    return h


def tpv_header():
    h = tan_header(CTYPE1="RA---TPV", CTYPE2="DEC--TPV")
    h.update(PV1_0=0.0, PV1_1=1.01, PV1_2=0.002, PV1_4=0.5, PV2_0=0.0, PV2_1=0.99, PV2_2=-0.003)
    return h


def rotated_pc_header():
    c, s = np.cos(0.6), np.sin(0.6)
    h = tan_header(CD1_1=None, CD1_2=None, CD2_1=None, CD2_2=None)
    h.update(CDELT1=-SCALE / 3600, CDELT2=SCALE / 3600, PC1_1=c, PC1_2=-s, PC2_1=s, PC2_2=c)
    return h


@pytest.mark.parametrize("make", [tan_header, sip_header, tpv_header, rotated_pc_header])
def test_affine_map_against_differences(make):
    wcs, _ = build_wcs(make(), WCSOptions(), SHAPE)
    rng = np.random.default_rng(1)
    x, y = rng.uniform(0, SHAPE[1], (3, 4)), rng.uniform(0, SHAPE[0], (3, 4))
    ra, dec = wcs.pixel_to_world_values(x, y)
    crpix, cw, d = local_affine(wcs, ra, dec)
    np.testing.assert_allclose(crpix, np.stack([x, y], -1), atol=PIXEL_ATOL)
    h = 1e-6
    for k, (da, dd) in enumerate([(h, 0.0), (0.0, h)]):
        forward = world_to_pixel(wcs, ra + da, dec + dd) - world_to_pixel(wcs, ra - da, dec - dd)
        scale = np.abs(cw).max()
        np.testing.assert_allclose(cw[..., k] / scale, forward / (2 * h) / scale,
                                   atol=100 * DIFFERENCE_RTOL)  # fmt: skip
    cosd = np.cos(np.radians(dec))[..., None]
    np.testing.assert_allclose(d[..., 0] * 3600 * cosd, cw[..., 0], rtol=DIFFERENCE_RTOL)
    np.testing.assert_allclose(d[..., 1] * 3600, cw[..., 1], rtol=DIFFERENCE_RTOL)


@pytest.mark.parametrize("case", ["case1", "case2"])
def test_affine_map_against_forcepho(data_dir, case):
    folder = data_dir / "forcepho_format" / case
    expected = np.load(folder / "expected.npz")
    meta = json.loads((folder / "meta.json").read_text())
    peaks = fits.getdata(folder / "peak_catalog.fits", 1)
    for i, path in enumerate(expected["epaths"]):
        band, name = str(path).split("/", 1)
        header = fits.Header.fromstring(meta[band][name])
        wcs, _ = build_wcs(header, WCSOptions(), (header["NAXIS2"], header["NAXIS1"]))
        crpix, cw, d = local_affine(wcs, peaks["ra"], peaks["dec"])
        rtol = FORCEPHO_SIP_RTOL if "A_ORDER" in header else FORCEPHO_RTOL
        np.testing.assert_allclose(crpix, expected["crpix"][i], atol=FORCEPHO_PIXEL_ATOL)
        for mine, theirs in ((cw, expected["CW"][i]), (d, expected["D"][i])):
            scale = np.abs(theirs).max()
            np.testing.assert_allclose(mine / scale, theirs / scale, atol=rtol)


def test_across_zero_hours():
    wcs, _ = build_wcs(tan_header(CRVAL1=0.0), WCSOptions(), SHAPE)
    crpix, cw, _ = local_affine(wcs, np.array([359.9999, 0.0001]), np.array([DEC, DEC]))
    assert np.isfinite(cw).all()
    np.testing.assert_allclose(cw[0], cw[1], rtol=1e-5, atol=1e-2)  # convergence of meridians
    assert contains(wcs, SHAPE, [359.9999, 0.0001], DEC).all()


def test_footprint():
    wcs, _ = build_wcs(sip_header(), WCSOptions(), SHAPE)
    ra, dec = wcs.pixel_to_world_values([0.0, 31.0, -3.0, 16.0], [0.0, 23.0, 5.0, 40.0])
    assert contains(wcs, SHAPE, ra, dec).tolist() == [True, True, False, False]
    assert contains(wcs, SHAPE, ra, dec, margin=5).tolist() == [True, True, True, False]
    # the antipode and a far field, where the distortion polynomial is meaningless
    assert not contains(wcs, SHAPE, [RA + 180, RA + 20], [-DEC, 40.0]).any()


def test_broken_pc_is_named_and_mended(caplog):
    header = rotated_pc_header()
    truth, _ = build_wcs(header.copy(), WCSOptions(), SHAPE)
    header["PC1_1"], header["PC2_2"] = -header["PC1_1"], header["PC2_2"]
    header["CDELT1"] = SCALE / 3600
    other = header["PC1_2"]
    del header["PC1_2"], header["PC2_1"]
    with caplog.at_level(logging.WARNING):
        wcs, note = build_wcs(header, WCSOptions(), SHAPE, where="f200w.fits")
    assert "not a rotation" in caplog.text and "repair_pc: -1" in caplog.text
    assert "not a rotation" in note
    assert pixel_area(wcs, SHAPE) < 0.8 * pixel_area(truth, SHAPE)
    caplog.clear()
    sign = 1 if -other > 0 else -1
    cards = {"PC1_2": sign * abs(other), "PC2_1": sign * abs(other)}
    for options in (WCSOptions(repair_pc=sign), WCSOptions(header=cards)):
        mended, note = build_wcs(header, options, SHAPE)
        assert not caplog.records and "PC1_2" in note
        np.testing.assert_allclose(pixel_area(mended, SHAPE), pixel_area(truth, SHAPE), rtol=1e-9)


def test_jwst_headers(data_dir, caplog):
    header = fits.getheader(data_dir / "jwst_ceers_7band" / "6414" / "f200w.fits")
    with caplog.at_level(logging.WARNING):
        build_wcs(header, WCSOptions(), (201, 201))
    assert "not a rotation" in caplog.text and "0.02" in caplog.text
    wcs, _ = build_wcs(header, WCSOptions(repair_pc=-1), (201, 201))
    scale = np.degrees(np.sqrt(pixel_area(wcs, (201, 201)))) * 3600
    np.testing.assert_allclose(scale, 0.02, rtol=1e-6)


@pytest.mark.parametrize("make", [tan_header, sip_header, tpv_header, rotated_pc_header])
def test_sound_matrices_pass(make):
    assert matrix_complaint(make()) is None


def test_sheared_and_singular_matrices():
    assert "longer" in matrix_complaint(tan_header(CD2_2=1.03 * SCALE / 3600))
    assert "singular" in matrix_complaint(tan_header(CD2_2=0.0))
    # cards that hold the scale in PC, with unit CDELT, as astropy writes them
    written = WCS(tan_header()).to_header()
    assert matrix_complaint(written) is None


@pytest.mark.parametrize("parity", [1, -1])
@pytest.mark.parametrize("rotation", [0.0, 40.0, -120.0])
def test_made_wcs(rotation, parity):
    options = WCSOptions(pixel_scale=SCALE, ra=RA, dec=DEC, x=5.0, y=7.0, rotation=rotation,
                         parity=parity)  # fmt: skip
    wcs, note = build_wcs(fits.Header(), options, SHAPE)
    centre = SkyCoord(*wcs.pixel_to_world_values(5.0, 7.0), unit="deg")
    up = SkyCoord(*wcs.pixel_to_world_values(5.0, 8.0), unit="deg")
    left = SkyCoord(*wcs.pixel_to_world_values(4.0, 7.0), unit="deg")
    assert centre.separation(SkyCoord(RA, DEC, unit="deg")).arcsec < 1e-9
    assert abs(centre.separation(up).arcsec - SCALE) < 1e-6
    turn = (centre.position_angle(up).deg - rotation + 180) % 360 - 180
    assert abs(turn) < 1e-4
    handed = (centre.position_angle(left) - centre.position_angle(up)).wrap_at("180d").deg
    assert abs(handed - 90 * parity) < 1e-4
    assert "pixel_scale" in note


def test_offsets_shift_the_sky():
    wcs, note = build_wcs(tan_header(), WCSOptions(), SHAPE, offsets=(0.3, -0.2))
    plain, _ = build_wcs(tan_header(), WCSOptions(), SHAPE)
    a, d = wcs.pixel_to_world_values(3.0, 4.0)
    a0, d0 = plain.pixel_to_world_values(3.0, 4.0)
    assert abs((a - a0) * np.cos(np.radians(DEC)) * 3600 - 0.3) < 1e-6
    assert abs((d - d0) * 3600 + 0.2) < 1e-6
    assert "shifted" in note


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (WCSOptions(), "no celestial WCS"),
        (WCSOptions(pixel_scale=0.1), "ra and wcs.dec"),
        (WCSOptions(pixel_scale=0.1, ra=1.0, dec=95.0), "95"),
        (WCSOptions(ra=1.0), "pixel_scale"),
        (WCSOptions(repair_pc=1), "PC1_1"),
        (WCSOptions(remove=["NOPE"]), "NOPE"),
    ],
)
def test_errors(options, words):
    with pytest.raises(InputError, match=words):
        build_wcs(fits.Header(), options, SHAPE, where="a.fits")


def other_frame_header(kind):
    """A tangent plane at RA, DEC in another celestial frame, turned by an odd angle."""
    place = SkyCoord(RA, DEC, unit="deg")
    h = tan_header()
    if kind in ("fk4", "fk5"):
        equinox = 1950.0 if kind == "fk4" else 1975.0
        place = place.transform_to(f"{kind}" if kind == "fk4" else FK5(equinox="J1975"))
        h.update(RADESYS=kind.upper(), EQUINOX=equinox)
    else:
        name = {"galactic": "G", "ecliptic": "E"}[kind]
        frame = "galactic" if kind == "galactic" else "barycentricmeanecliptic"
        place = place.transform_to(frame)
        h.update(CTYPE1=f"{name}LON-TAN", CTYPE2=f"{name}LAT-TAN")
    h.update(CRVAL1=place.spherical.lon.deg, CRVAL2=place.spherical.lat.deg)
    return h


@pytest.mark.parametrize("kind", ["galactic", "fk4", "fk5", "ecliptic"])
def test_other_celestial_frames_become_icrs(kind):
    header = other_frame_header(kind)
    wcs, note = build_wcs(header, WCSOptions(), SHAPE)
    assert "to ICRS" in note
    centre = header["CRPIX1"] - 1, header["CRPIX2"] - 1
    at = SkyCoord(*wcs.pixel_to_world_values(*centre), unit="deg")
    assert at.separation(SkyCoord(RA, DEC, unit="deg")).mas < FRAME_MAS
    assert np.allclose(world_to_pixel(wcs, RA, DEC), centre, atol=1e-3)
    # astropy's own high-level API, which knows the frame, says where the neighbours are
    native = WCS(header)
    crpix, _, d = local_affine(wcs, RA, DEC)
    step = 0.5
    for axis, (ra, dec) in enumerate(((step / np.cos(np.radians(DEC)), 0), (0, step))):
        moved = SkyCoord(RA + ra / 3600, DEC + dec / 3600, unit="deg")
        if kind == "ecliptic":  # which astropy's WCS does not tell from ICRS
            place = moved.transform_to("barycentricmeanecliptic")
            pixel = np.array(native.world_to_pixel_values(place.lon.deg, place.lat.deg))
        else:
            pixel = np.array(native.world_to_pixel(moved))
        assert np.allclose((pixel - crpix) / step, d[:, axis], atol=1e-4 * np.abs(d).max())


def test_fk5_of_2000_is_taken_as_icrs():
    wcs, note = build_wcs(tan_header(RADESYS="FK5", EQUINOX=2000.0), WCSOptions(), SHAPE)
    assert isinstance(wcs, WCS) and "FK5 J2000 taken as ICRS" in note


def test_unusable_cards_are_named():
    for key, value in (("CD1_1", "north"), ("CRVAL1", True), ("CRPIX2", "x")):
        with pytest.raises(BadExposure, match=f"a.fits: header card {key}"):
            build_wcs(tan_header(**{key: value}), WCSOptions(), SHAPE, where="a.fits")
    with pytest.raises(BadExposure, match="a.fits"):
        build_wcs(tan_header(CD1_1=0.0, CD2_2=0.0), WCSOptions(), SHAPE, where="a.fits")


class _FakeGWCS:
    """A linear sky map with the calls of a gwcs."""

    backward_transform = "analytic"

    def __call__(self, x, y, with_bounding_box=True):
        assert not with_bounding_box
        return RA - np.asarray(x) * 1e-4, DEC + np.asarray(y) * 1e-4

    def invert(self, ra, dec, with_bounding_box=True):
        assert not with_bounding_box
        return (RA - np.asarray(ra)) * 1e4, (np.asarray(dec) - DEC) * 1e4


def test_gwcs_adaptor_with_shift():
    wcs = GWCSAdaptor(_FakeGWCS(), 0.36, -0.72)
    ra, dec = wcs.pixel_to_world_values(2.0, 3.0)
    assert abs(dec - (DEC + 3e-4 - 2e-4)) < 1e-12
    x, y = wcs.world_to_pixel_values(ra, dec)
    np.testing.assert_allclose([x, y], [2.0, 3.0], atol=1e-6)
    crpix, _, d = local_affine(wcs, ra, dec)
    np.testing.assert_allclose(crpix, [2.0, 3.0], atol=PIXEL_ATOL)
    assert d[0, 0] < 0 < d[1, 1]


class _OneWay(_FakeGWCS):
    """Without an inverse, as gwcs says it."""

    @property
    def backward_transform(self):
        raise NotImplementedError

    def invert(self, *args, **kwargs):
        raise AssertionError("must not be called")


def test_gwcs_without_inverse():
    wcs = GWCSAdaptor(_OneWay(), centre=(10.0, 10.0))
    ra, dec = wcs.pixel_to_world_values(np.array([2.0, 30.0]), np.array([3.0, 1.0]))
    crpix = world_to_pixel(wcs, ra, dec)
    np.testing.assert_allclose(crpix, [[2.0, 3.0], [30.0, 1.0]], atol=PIXEL_ATOL)


def test_gwcs_missing_falls_back(monkeypatch):
    hdus = fits.HDUList([fits.PrimaryHDU()])
    assert read_gwcs(hdus, SHAPE) == (None, "")
    column = fits.Column("ASDF_METADATA", "4B", array=np.zeros((1, 4), np.uint8))
    hdus.append(fits.BinTableHDU.from_columns([column], name="ASDF"))
    monkeypatch.setitem(sys.modules, "gwcs", None)
    wcs, note = read_gwcs(hdus, SHAPE)
    assert wcs is None and "not installed" in note


def test_gwcs_read_from_the_asdf_extension(monkeypatch):
    tree = {"meta": {"wcs": _FakeGWCS()}}

    class _Opened:
        def __init__(self, tree):
            self.tree = tree

        def __enter__(self):
            return self

        def __exit__(self, *exc):
            return None

    fake = types.SimpleNamespace(open=lambda *a, **k: _Opened(tree))
    monkeypatch.setitem(sys.modules, "asdf", fake)
    monkeypatch.setitem(sys.modules, "gwcs", types.ModuleType("gwcs"))
    column = fits.Column("ASDF_METADATA", "4B", array=np.zeros((1, 4), np.uint8))
    hdus = fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns([column], name="ASDF")])
    wcs, note = read_gwcs(hdus, SHAPE)
    assert isinstance(wcs, GWCSAdaptor) and note.startswith("gwcs")
