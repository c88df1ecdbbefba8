"""Reading exposures: errors of every kind, masks, templates, nuisances, units between images."""

import logging

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from fits_images import SHAPE, image_data, image_options, tan_header, write_mef

from jaxpho.data.arrays import exposure_from_arrays
from jaxpho.data.exposure import PSFInput
from jaxpho.data.ingest import read_exposures, read_images
from jaxpho.data.plan import plan_images
from jaxpho.data.psfmodel import PSF_DTYPE, PSFModel
from jaxpho.errors import InputError

RTOL = 3e-7  # float32 products


@pytest.fixture
def mef(tmp_path):
    """One image in nJy with error and mask extensions."""
    header = tan_header(BUNIT="nJy", FILTER="F200W")
    return write_mef(tmp_path / "a.fits", image_data(), header,
                     ERR=np.full(SHAPE, 2.0, np.float32), DQ=np.zeros(SHAPE, np.int32))  # fmt: skip


def read(path, bands=("f200w",), **values):
    values = {"band": bands[0], "files": str(path), "science": "SCI", **values}
    return read_exposures([image_options(**values)], path.parent, list(bands))


def test_plain_image(mef):
    (e,) = read(mef, error="ERR", mask="DQ")
    assert (e.name, e.band, e.unit) == ("a", "f200w", "nJy")
    assert e.data.dtype == e.ierr.dtype == np.float32
    np.testing.assert_array_equal(e.data, image_data())
    np.testing.assert_array_equal(e.ierr, np.float32(0.5))
    assert e.nuisance.sky == "none" and e.nuisance.offset_sigma == 0
    assert {"unit_from", "sky_from", "wcs_from", "mask_from", "error_from"} <= set(e.notes)


def test_error_weight_variance_agree(tmp_path):
    sigma = np.random.default_rng(1).uniform(0.5, 2, SHAPE).astype(np.float32)
    path = write_mef(tmp_path / "a.fits", image_data(), tan_header(BUNIT="uJy"), ERR=sigma,
                     WHT=1 / sigma**2, VAR=sigma**2)  # fmt: skip
    for key, ext in (("error", "ERR"), ("weight", "WHT"), ("variance", "VAR"), ("error", 2)):
        (e,) = read(path, **{key: ext})
        np.testing.assert_allclose(e.ierr, 1e-3 / sigma, rtol=RTOL)
        np.testing.assert_allclose(e.data, 1e3 * image_data(), rtol=RTOL)
    (e,) = read(path, error="ERR", error_scale=2.0)
    np.testing.assert_allclose(e.ierr, 0.5e-3 / sigma, rtol=RTOL)
    (e,) = read(path, error="estimate")
    assert np.ptp(e.ierr) == 0 and abs(e.ierr[0, 0] * 1e3 - 1) < 0.15


def test_invalid_pixels_get_no_weight(tmp_path, caplog):
    data, sigma = image_data(), np.ones(SHAPE, np.float32)
    data[3, 4], data[5, 6] = np.nan, np.inf
    sigma[0, 0], sigma[0, 1], sigma[0, 2] = 0.0, -1.0, np.nan
    path = write_mef(tmp_path / "a.fits", data, tan_header(BUNIT="nJy"), ERR=sigma)
    with caplog.at_level(logging.INFO):
        (e,) = read(path, error="ERR")
    assert (e.ierr == 0).sum() == 5 and np.isfinite(e.data).all()
    assert "3 pixels (0.4 %) have no valid error (1 negative)" in caplog.text
    assert "2 pixels not finite" in e.notes["mask_from"]
    assert all(record.levelno < logging.WARNING for record in caplog.records)
    # most likely another array was taken for the errors
    read(path, error="SCI")
    warned = [r.message for r in caplog.records if r.levelno == logging.WARNING]
    assert any("have no valid error" in text for text in warned)


def test_masks(tmp_path):
    dq = np.zeros(SHAPE, np.int32)
    dq[2, 3], dq[4, 5], dq[6, 7] = 1, 32, -(2**31)
    extra = fits.Header()
    extra["MP_SAT"], extra["MP_BAD"] = 5, 0
    path = write_mef(tmp_path / "a.fits", image_data(), tan_header(BUNIT="nJy"),
                     ERR=np.ones(SHAPE), DQ=(dq, extra))  # fmt: skip

    def bad(**values):
        (e,) = read(path, error="ERR", **{"mask": "DQ", **values})
        return {tuple(map(int, p)) for p in np.argwhere(e.ierr == 0)}

    assert bad() == {(2, 3), (4, 5), (6, 7)}
    assert bad(mask_bits=[0]) == {(2, 3)}
    assert bad(mask_bits=["SAT", "?NOPE"]) == {(4, 5)}
    assert bad(mask_bits=[31]) == {(6, 7)}
    assert bad(mask="none") == set()
    assert len(bad(mask_good=True)) == SHAPE[0] * SHAPE[1] - 3
    assert bad(mask="none", mask_regions=[[-5, 2, 0, 1], [30, 999, 23, 24]]) == {
        (0, 0), (0, 1), (23, 30), (23, 31)}  # fmt: skip


def test_separate_files_by_replacement(tmp_path):
    header = tan_header(BUNIT="nJy")
    for name, array in (("x_ooi_g.fits", image_data()), ("x_oow_g.fits.gz", np.full(SHAPE, 4.0)),
                        ("x_ood_g.fits", np.zeros(SHAPE, np.int16))):  # fmt: skip
        fits.PrimaryHDU(array, header).writeto(tmp_path / name)
    path = tmp_path / "x_ooi_g.fits"
    weight, mask = {"replace": ["_ooi_", "_oow_"]}, {"replace": ["_ooi_", "_ood_"]}
    (e,) = read(path, ("g",), science=0, weight=weight, mask=mask)
    np.testing.assert_array_equal(e.ierr, 2.0)
    by_template = {"file": "{dir}/x_oow_{band}.fits.gz"}
    (e,) = read(path, ("g",), science=0, weight=by_template, name="{band}-{header[NAXIS1]}")
    assert e.name == "g-32"


def test_npy_image_with_made_wcs(tmp_path):
    np.save(tmp_path / "a.npy", image_data())
    np.save(tmp_path / "e.npy", np.ones(SHAPE))
    (e,) = read(tmp_path / "a.npy", science=None, error={"file": "e.npy"}, zero_point=31.4,
                wcs={"pixel_scale": 0.1, "ra": 10.0, "dec": 5.0})  # fmt: skip
    assert e.unit == "nJy"
    np.testing.assert_allclose(e.data, image_data(), rtol=RTOL)


def test_shot_noise_and_sky(tmp_path):
    path = write_mef(tmp_path / "a.fits", image_data(level=100.0), tan_header(EXPTIME=50.0),
                     ERR=np.ones(SHAPE))  # fmt: skip
    (e,) = read(path, error="ERR", zero_point=30.0, sky={"value": 100.0},
                shot_noise={"gain": 2.0, "exptime": "EXPTIME"})  # fmt: skip
    counts = image_data(level=100.0).astype(float) - 100.0
    factor = 10 ** (0.4 * 1.4)
    np.testing.assert_allclose(e.data, counts * factor, rtol=1e-5, atol=1e-5)
    expected = 1 / (factor * np.sqrt(1 + np.abs(counts) / 100))
    np.testing.assert_allclose(e.ierr, expected, rtol=RTOL)


def test_unsubtracted_sky_is_noticed(tmp_path, caplog):
    path = write_mef(tmp_path / "a.fits", image_data(level=500.0), tan_header(BUNIT="nJy"),
                     ERR=np.ones(SHAPE))  # fmt: skip
    read(path, error="ERR")
    assert "no sky is subtracted" in caplog.text


def test_sky_nuisance_prior_from_blank_pixels(tmp_path, caplog):
    data = np.random.default_rng(2).normal(0.3, 1.0, (120, 120)).astype(np.float32)
    path = write_mef(tmp_path / "a.fits", data, tan_header(BUNIT="uJy"), ERR=np.ones((120, 120)))
    with caplog.at_level(logging.INFO):
        (e,) = read(path, error="ERR", sky={"nuisance": "plane"},
                    astrometry={"offset_sigma": 0.05, "offset_group": "band"},
                    flux_scale_sigma=0.02)  # fmt: skip
    n = e.nuisance
    assert (n.sky, n.offset_sigma, n.offset_group, n.scale_sigma) == ("plane", 0.05, "band", 0.02)
    assert abs(n.sky_mean - 300) < 50 and 5 < n.sky_sigma < 40  # nJy; noise is 1000 / 120
    assert n.sky_slope_sigma >= n.sky_sigma and "degenerate with the wings" in caplog.text
    (e,) = read(path, error="ERR", sky={"nuisance": "constant", "sigma": "1e-2"})
    np.testing.assert_allclose([e.nuisance.sky_sigma, e.nuisance.sky_mean], [10.0, 0.0])


def test_mesh_and_spline_sky_files(tmp_path):
    path = write_mef(tmp_path / "a.fits", image_data(level=7.0), tan_header(BUNIT="nJy"),
                     ERR=np.ones(SHAPE))  # fmt: skip
    fits.PrimaryHDU(np.full((3, 4), 7.0)).writeto(tmp_path / "a_sky.fits")
    (mesh,) = read(path, error="ERR", sky={"file": "{base}_sky.fits"})
    grid = {"gridvals": np.full((2, 4, 5), 7.0), "xgrid": [np.arange(5) * 10] * 2}
    grid |= {"ygrid": [np.arange(4) * 10] * 2, "who": ["a", "b"]}
    Table(grid).write(tmp_path / "s.fits")
    (spline,) = read(path, error="ERR", sky={"file": "s.fits", "rows": {"who": "{stem}"}})
    for e in (mesh, spline):
        np.testing.assert_allclose(e.data, image_data(level=7.0) - 7.0, atol=1e-5)


def test_glob_order_names_and_bands_from_headers(tmp_path):
    for name, band in (("b", "HSC-R"), ("a", "HSC-R"), ("c", "HSC-G"), ("d", "HSC-Y")):
        write_mef(tmp_path / f"{name}.fits", image_data(), tan_header(BUNIT="nJy", FILTER=band),
                  ERR=np.ones(SHAPE))  # fmt: skip
    options = image_options(files="?.fits", error="ERR")
    plans = plan_images([options], tmp_path, ["g", "r"])
    assert [(p.band, p.name) for p in plans] == [("g", "c"), ("r", "a"), ("r", "b")]


def test_psf_inputs(mef):
    folder = mef.parent
    for name in ("psf_F200W.fits", "store.h5", "x.psf"):
        (folder / name).touch()
    cases = [
        ({"file": "psf_{band_upper}.fits", "oversample": "OVERSAMP"}, "image"),
        ({"store": "store.h5"}, "store"),
        ({"psfex": ["no.psf", "x.psf"], "rows": {"expnum": "{header[NAXIS1]}"}}, "psfex"),
    ]
    for psf, kind in cases:
        (e,) = read(mef, error="ERR", psf=psf)
        assert isinstance(e.psf, PSFInput) and e.psf.kind == kind and e.psf.path.is_file()
    assert e.psf.rows == {"expnum": "32"}
    (e,) = read(mef, error="ERR", psf=cases[0][0])
    assert e.psf.oversample_key == "OVERSAMP"
    (e,) = read(mef, error="ERR", psf=cases[1][0])
    assert e.psf.group == "f200w"


def test_joined_table(tmp_path):
    for name in ("a", "b"):
        write_mef(tmp_path / f"{name}.fits", image_data(), tan_header(VISIT=name),
                  ERR=np.ones(SHAPE))  # fmt: skip
    table = Table({"visit": ["b", "a"], "zp": [25.0, 31.4], "dra": [0.5, 0.0]})
    table.write(tmp_path / "t.csv")
    options = image_options(
        band="g", files="?.fits", science="SCI", error="ERR", name="v{visit}",
        table={"file": "t.csv", "match": {"visit": "VISIT"}}, zero_point={"column": "zp"},
        wcs={"offset_ra": "dra"},
    )  # fmt: skip
    a, b = read_exposures([options], tmp_path, ["g"])
    assert (a.name, b.name) == ("va", "vb")
    np.testing.assert_allclose(b.data / a.data, 10 ** (0.4 * 6.4), rtol=1e-5)
    shift = b.wcs.pixel_to_world_values(0, 0)[0] - a.wcs.pixel_to_world_values(0, 0)[0]
    np.testing.assert_allclose(shift * 3600 * np.cos(np.radians(2.0)), 0.5, rtol=1e-4)


def test_lsst_layout(tmp_path):
    mask = np.full(SHAPE, 32, np.int32)  # DETECTED everywhere is not bad
    mask[1, 1] = 2
    planes = fits.Header()
    for name, bit in (("BAD", 0), ("SAT", 1), ("CR", 3), ("EDGE", 4), ("DETECTED", 5)):
        planes[f"HIERARCH MP_{name}"] = bit
    planes["HIERARCH MP_NO_DATA"] = 8
    fits.HDUList([
        fits.PrimaryHDU(header=fits.Header({"FLUXMAG0": 10**10.8})),
        fits.ImageHDU(image_data(), tan_header()), fits.ImageHDU(mask, planes),
        fits.ImageHDU(np.full(SHAPE, 4.0)),
    ]).writeto(tmp_path / "calexp.fits")  # fmt: skip
    options = image_options(band="i", files="calexp.fits", preset="hsc")
    (e,) = read_exposures([options], tmp_path, ["i"])
    factor = 10 ** (0.4 * 4.4)
    np.testing.assert_allclose(e.ierr[0, 0], 0.5 / factor, rtol=RTOL)
    assert (e.ierr == 0).sum() == 1 and e.unit == "nJy"


def test_jwst_layout(tmp_path):
    dq = np.zeros(SHAPE, np.uint32)
    dq[0, 0], dq[0, 1] = 1, 4  # DO_NOT_USE, jump
    header = tan_header(BUNIT="MJy/sr", PIXAR_SR=2e-14)
    write_mef(tmp_path / "cal.fits", image_data(), header, ERR=np.ones(SHAPE), DQ=dq)
    write_mef(tmp_path / "i2d.fits", image_data(), header, ERR=np.ones(SHAPE))
    options = image_options(band="f200w", files="*.fits", preset="jwst")
    cal, i2d = read_exposures([options], tmp_path, ["f200w"])
    np.testing.assert_allclose(cal.data, image_data() * 20.0, rtol=RTOL)
    assert (cal.ierr == 0).sum() == 1 and (i2d.ierr == 0).sum() == 0


def test_mixed_units(tmp_path):
    for name, unit in (("a", "nJy"), ("b", None)):
        header = tan_header(BUNIT=unit) if unit else tan_header()
        write_mef(tmp_path / f"{name}.fits", image_data(), header, ERR=np.ones(SHAPE))
    options = [image_options(band=b, files=f"{f}.fits", science="SCI", error="ERR")
               for b, f in (("g", "a"), ("r", "b"))]  # fmt: skip
    both = read_images(options, tmp_path, ["g", "r"], allow_mixed_units=True).exposures
    assert [e.unit for e in both] == ["nJy", "count"]


def test_real_jwst_set(data_dir):
    folder = data_dir / "jwst_ceers_7band" / "6414"
    options = image_options(
        band="f200w", files=str(folder / "{band}.fits"), unit="MJy/sr", wcs={"repair_pc": -1},
        error={"replace": [".fits", "_err.fits"]}, mask={"replace": [".fits", "_mask.fits.gz"]},
    )  # fmt: skip
    (e,) = read_exposures([options], ".", ["f200w"])
    raw, bad = fits.getdata(folder / "f200w.fits"), fits.getdata(folder / "f200w_mask.fits.gz")
    zero_point = 28.96698  # of the data set's README
    np.testing.assert_allclose(e.data, raw * 10 ** (-0.4 * (zero_point - 31.4)), rtol=3e-5)
    np.testing.assert_array_equal(e.ierr > 0, bad == 0)


def test_real_survey_directories(data_dir):
    """Aperture flux of the bright star against Tractor, .98-.99 by the data set's README."""
    folder = data_dir / "bok_mosaic_grz"
    exposures = read_exposures(
        [image_options(preset="legacy", survey_dir=str(folder))], ".", ["g", "r", "z"]
    )
    truth = {"g": 85.81849, "r": 128.70595, "z": 141.74413}  # nanomaggies, source 11
    assert [e.band for e in exposures] == ["g", "r", "z"]
    for e in exposures:
        x, y = e.wcs.world_to_pixel_values(177.3631791004918, 59.42805864041878)
        yy, xx = np.indices(e.shape)
        radius = 7.0 / (0.4535 if e.band != "z" else 0.2596)
        flux = e.data[np.hypot(xx - x, yy - y) < radius].sum() / 3631
        assert abs(flux / truth[e.band] - 0.985) < 0.03
        assert e.psf.kind == "psfex" and e.psf.rows["ccdname"].startswith("CCD")
    decam = data_dir / "decam_8exp_grz"
    exposures = read_exposures(
        [image_options(preset="decam", survey_dir=str(decam))], ".", ["g", "r", "z"]
    )
    assert [e.band for e in exposures] == list("gggrrzzz")
    assert sum(int((e.ierr > 0).sum()) for e in exposures) == 16687


@pytest.mark.parametrize("sentinel", [3e38, -1.7e38, 1e30])
def test_values_that_mark_missing_data_are_masked(tmp_path, sentinel):
    data = image_data()
    data[3:6, 4:9] = sentinel
    path = write_mef(tmp_path / "a.fits", data, tan_header(BUNIT="nJy"), ERR=np.ones(SHAPE))
    for error in ("ERR", "estimate"):
        (e,) = read(path, error=error, sky={"nuisance": "constant"})
        assert (e.ierr == 0).sum() == 15 and not e.ierr[3:6, 4:9].any()
        assert "15 pixels beyond 1e+30" in e.notes["mask_from"]
        assert abs(e.nuisance.sky_mean) < 0.2 and 0.9 < 1 / e.ierr[0, 0] < 1.1
    exposure = exposure_from_arrays(data, 1.0, PSFModel(np.zeros((1, 1), PSF_DTYPE)), pixel_scale=1)
    assert (exposure.ierr == 0).sum() == 15


def test_values_beyond_single_precision_in_the_flux_unit_are_masked(tmp_path):
    data = image_data().astype(float)
    data[2, 2] = 1e25
    path = write_mef(tmp_path / "a.fits", data, tan_header(), ERR=np.ones(SHAPE))
    (e,) = read(path, error="ERR", zero_point={"value": 10.0})
    assert e.ierr[2, 2] == 0 and (e.ierr == 0).sum() == 1 and np.isfinite(e.data).all()
    assert "1 pixels beyond 1e+30 nJy" in e.notes["mask_from"]


def write_two(folder, *headers):
    for name, cards in zip("ab", headers, strict=True):
        write_mef(folder / f"{name}.fits", np.full(SHAPE, 4.0, np.float32),
                  tan_header(**cards), ERR=np.ones(SHAPE))  # fmt: skip
    return folder / "?.fits"


@pytest.mark.parametrize("entry_says", [False, True])
def test_exposures_in_their_own_unit_share_the_scale_of_the_first(tmp_path, entry_says, caplog):
    files = write_two(tmp_path, {"MAGZPT": 27.0}, {"MAGZPT": 28.0})
    options = image_options(
        band="g", files=str(files), science="SCI", error="ERR", zero_point={"key": "MAGZPT"},
        sky={"nuisance": "constant", "sigma": 3.0}, unit="image" if entry_says else None,
    )  # fmt: skip
    with caplog.at_level(logging.INFO):
        run_unit = "auto" if entry_says else "image"
        a, b = read_images([options], tmp_path, ["g"], unit=run_unit).exposures
    ratio = 10**-0.4
    np.testing.assert_allclose([a.data[0, 0], b.data[0, 0]], [4.0, 4.0 * ratio], rtol=RTOL)
    np.testing.assert_allclose([a.ierr[0, 0], b.ierr[0, 0]], [1.0, 1.0 / ratio], rtol=RTOL)
    np.testing.assert_allclose([a.nuisance.sky_sigma, b.nuisance.sky_sigma], [3.0, 3.0 * ratio])
    assert a.unit == b.unit == "count" and "brought to the unit of a (b x 0.398107)" in caplog.text
    assert "times 0.398107" in b.notes["unit_from"] and "nJy" in a.notes["unit_from"]


def test_surface_brightness_in_its_own_unit_knows_pixel_areas(tmp_path):
    small = {"BUNIT": "MJy/sr", "CD1_1": -0.1 / 3600, "CD2_2": 0.1 / 3600}
    files = write_two(tmp_path, {"BUNIT": "MJy/sr"}, small)
    options = image_options(band="g", files=str(files), science="SCI", error="ERR")
    a, b = read_images([options], tmp_path, ["g"], unit="image").exposures
    np.testing.assert_allclose(b.data / a.data, 0.25, rtol=1e-4)


@pytest.mark.parametrize("unit", ["auto", "image"])
def test_exposures_that_nothing_calibrates_share_a_flux_with_a_warning(tmp_path, unit, caplog):
    files = write_two(tmp_path, {"EXPTIME": 100.0}, {"EXPTIME": 300.0})
    options = image_options(band="g", files=str(files), science="SCI", error="ERR")
    read_images([options], tmp_path, ["g"], unit=unit)
    assert "one flux is fitted to 2 exposures that nothing calibrates" in caplog.text
    assert "EXPTIME from 100 to 300" in caplog.text


def test_one_exposure_without_calibration_beside_a_calibrated_one(tmp_path):
    files = write_two(tmp_path, {"MAGZPT": 27.0}, {})
    zero_point = {"key": "MAGZPT", "optional": True}
    options = image_options(band="g", files=str(files), science="SCI", error="ERR",
                            zero_point=zero_point)  # fmt: skip
    with pytest.raises(InputError, match="band g: a has a zero point.*b has none"):
        read_images([options], tmp_path, ["g"], unit="image")
