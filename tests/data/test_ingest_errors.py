"""Bad input: one sentence that names file, extension and what was expected."""

import numpy as np
import pytest
from astropy.io import fits
from fits_images import SHAPE, image_data, image_options, tan_header, write_mef

from jaxpho.data.ingest import read_images
from jaxpho.data.presets import resolve
from jaxpho.errors import InputError


@pytest.fixture
def folder(tmp_path):
    """Two good images of bands g and r."""
    for name, band in (("g1", "g"), ("g2", "g"), ("r1", "r")):
        write_mef(tmp_path / f"{name}.fits", image_data(), tan_header(BUNIT="nJy", FILTER=band),
                  ERR=np.ones(SHAPE, np.float32), DQ=np.zeros(SHAPE, np.int16),
                  SMALL=np.ones((5, 6)), ZERO=np.zeros(SHAPE), NEG=-np.ones(SHAPE),
                  CUBE=np.ones((2, *SHAPE)), FLOAT=np.full(SHAPE, 0.5))  # fmt: skip
    table = fits.BinTableHDU.from_columns([fits.Column("A", "E", array=np.zeros(3))], name="TAB")
    fits.append(tmp_path / "g1.fits", table.data, table.header)
    return tmp_path


def run(folder, bands=("g",), **values):
    values = {"band": "g", "files": "g1.fits", "science": "SCI", "error": "ERR", **values}
    return read_images([image_options(**values)], folder, list(bands))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"files": "nope.fits"}, "nope.fits does not exist"),
        ({"files": "nope*.fits"}, "matches no file"),
        ({"files": "."}, "is a folder"),
        ({"files": None}, "`files` is missing"),
        ({"science": "NOPE"}, "no extension 'NOPE'.*SCI"),
        ({"science": 17}, "no extension 17"),
        ({"science": 0}, "holds no image"),
        ({"science": "TAB"}, "table"),
        ({"science": "CUBE"}, "3 axes"),
        ({"error": "NOPE"}, "no extension 'NOPE'"),
        ({"error": "SMALL"}, r"\(5, 6\).*\(24, 32\)"),
        ({"error": "ZERO"}, "no positive value"),
        ({"error": "NEG"}, "no positive value"),
        ({"error": None}, "exactly one of error, weight, variance"),
        ({"weight": "ERR"}, "exactly one of error, weight, variance"),
        ({"error": {"file": "nope.fits"}}, "nope.fits"),
        ({"error": {"replace": ["g1", "g9"]}}, "g9.fits does not exist"),
        ({"error": {"replace": ["zz", "g9"]}}, "'zz' is not in the file name"),
        ({"mask": "SMALL"}, "mask has shape"),
        ({"mask": "DQ", "mask_bits": ["NOPE"]}, "NOPE"),
        ({"mask": "DQ", "mask_bits": ["SAT"]}, "SAT.*header lists none"),
        ({"mask": "DQ", "mask_bits": [40]}, "40"),
        ({"mask": "FLOAT", "mask_bits": [0]}, "whole numbers"),
        ({"mask_regions": [[5, 5, 0, 3]]}, "empty"),
        ({"zero_point": {"value": -1000.0}}, "-1000 mag.*within -60 and 60"),
        ({"zero_point": {"key": "FILTER"}}, "'FILTER' holds 'g', expected a number"),
        ({"preset": "jwts"}, "did you mean 'jwst'"),
        ({"preset": "decam"}, "survey_dir"),
        ({"name": "{nope}"}, "nope.*known"),
        ({"name": "{header[NOPE]}"}, "NOPE"),
        ({"files": "r1.fits"}, "filter is 'r'.*'g'"),
        ({"sky": {"subtract": "file"}}, "sky.file"),
        ({"sky": {"file": "nope.fits"}}, "nope.fits"),
        ({"sky": {"subtract": "value"}}, "sky.value"),
        ({"shot_noise": {}}, "gain, exptime"),
        ({"shot_noise": {"gain": 0.0}}, "expected > 0"),
        ({"psf": {}}, "exactly one of store, file, psfex"),
        ({"psf": {"file": "nope.fits"}}, "nope.fits"),
        ({"table": {"file": "nope.csv"}}, "nope.csv"),
        ({"wcs": {"remove": ["CTYPE1"]}}, "no celestial WCS"),
    ],
)
def test_messages(folder, values, words):
    with pytest.raises(InputError, match=words) as caught:
        run(folder, **values)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("preset", ["decam", "bok", "mosaic", "legacy"])
def test_a_sky_value_comes_before_the_sky_file_of_a_preset(preset):
    given = {"preset": preset, "survey_dir": "survey", "sky": {"value": 5.0}}
    sky = resolve(image_options(**given)).sky
    assert (sky.value, sky.subtract, sky.file) == (5.0, None, None)


def test_duplicate_names(folder):
    with pytest.raises(InputError, match="'x' is used twice.*g1.fits.*g2.fits"):
        run(folder, files="g?.fits", name="x")


def test_band_without_images(folder):
    with pytest.raises(InputError, match="band r has no usable exposure"):
        run(folder, bands=("g", "r"))


def test_required_psf(folder):
    with pytest.raises(InputError, match="no psf for band g"):
        read_images([image_options(band="g", files="g1.fits", error="ERR")], folder, ["g"],
                    require_psf=True)  # fmt: skip


def test_filter_check_can_be_switched_off(folder):
    assert run(folder, files="r1.fits", check_filter=False).exposures[0].band == "g"


@pytest.mark.parametrize("damage", ["mask", "nan", "truncate", "text", "cards", "text card"])
def test_one_bad_exposure_is_left_out(folder, damage, caplog):
    path = folder / "g2.fits"
    with fits.open(path) as f:
        if damage == "mask":
            f["DQ"].data[:] = 1
        elif damage == "nan":
            f["SCI"].data[:] = np.nan
        elif damage == "cards":
            f["SCI"].header.update(CD1_1=0.0, CD1_2=0.0, CD2_1=0.0, CD2_2=0.0)
        elif damage == "text card":
            f["SCI"].header["CD1_1"] = "north"
        f.writeto(path, overwrite=True)
    if damage == "truncate":
        path.write_bytes(path.read_bytes()[:9000])
    if damage == "text":
        path.write_text("this is not FITS")
    result = run(folder, files="g?.fits", mask="DQ")
    assert [e.name for e in result.exposures] == ["g1"]
    (skipped,) = result.skipped
    assert skipped.name == "g2" and str(path) in skipped.reason and "left out" in caplog.text
    with pytest.raises(InputError):
        run(folder, files="g?.fits", mask="DQ", on_bad_exposure="stop")
    with pytest.raises(InputError, match="band g has no usable exposure"):
        run(folder, files="g2.fits", mask="DQ")


def test_units_that_differ(folder):
    write_mef(folder / "u.fits", image_data(), tan_header(), ERR=np.ones(SHAPE))
    good = image_options(band="g", files="g1.fits", science="SCI", error="ERR")
    bare = image_options(band="r", files="u.fits", science="SCI", error="ERR")
    with pytest.raises(InputError, match="mix units.*nJy.*count"):
        read_images([good, bare], folder, ["g", "r"])
    with pytest.raises(InputError, match="u.fits: cannot be calibrated"):
        read_images([good, bare], folder, ["g", "r"], unit="nJy")
    same = image_options(band="g", files="u.fits", science="SCI", error="ERR")
    with pytest.raises(InputError, match="mix units"):
        read_images([good, same], folder, ["g"], allow_mixed_units=True)


def test_errors_that_outweigh_everything_are_masked(folder, caplog):
    path = folder / "g1.fits"
    with fits.open(path) as f:
        f["ERR"].data[3, 4] = 1e-25
        f.writeto(path, overwrite=True)
    (e,) = run(folder).exposures
    assert e.ierr[3, 4] == 0 and (e.ierr > 0).sum() == e.ierr.size - 1
    assert "1 pixels have errors below" in caplog.text


@pytest.mark.parametrize(
    ("values", "damage"),
    [
        ({"error": "ERR"}, lambda f: f["ERR"].__setattr__("data", f["ERR"].data[:-3])),
        ({"error": "ERR"}, lambda f: f["ERR"].data.__imul__(-1)),
        ({}, lambda f: f["SCI"].header.remove("CTYPE1")),
        ({}, lambda f: f.__delitem__("SCI")),
        ({"zero_point": {"key": "EXTVER"}}, lambda f: f["SCI"].header.set("EXTVER", "x")),
    ],
    ids=["shape", "negative errors", "no WCS", "no extension", "zero point"],
)
def test_a_fault_of_one_exposure_is_not_one_of_the_run(folder, values, damage):
    """Unless no exposure of the entry is without it: then the entry is to blame."""
    for name in ("g1", "g2"):
        with fits.open(folder / f"{name}.fits") as f:
            f["SCI"].header["EXTVER"] = 1
            if name == "g2":
                damage(f)
            f.writeto(folder / f"{name}.fits", overwrite=True)
    values = {"check_filter": False, **values}
    result = run(folder, files="g?.fits", **values)
    assert [e.name for e in result.exposures] == ["g1"]
    assert [s.name for s in result.skipped] == ["g2"] and "g2.fits" in result.skipped[0].reason
    with pytest.raises(InputError, match="g2.fits"):
        run(folder, files="g?.fits", on_bad_exposure="stop", **values)
    good, bad = (image_options(band="g", files=f"{n}.fits", science="SCI", **{"error": "ERR", **v})
                 for n, v in (("g1", {}), ("g2", values)))  # fmt: skip
    with pytest.raises(InputError, match="g2.fits"):
        read_images([good, bad], folder, ["g"])


def test_a_left_out_exposure_says_where_it_lies(folder):
    with fits.open(folder / "g2.fits") as f:
        f["DQ"].data[:] = 1
        f.writeto(folder / "g2.fits", overwrite=True)
    (lost,) = run(folder, files="g?.fits", mask="DQ").skipped
    assert lost.shape == SHAPE
    np.testing.assert_allclose(lost.wcs.world_to_pixel_values(150.0, 2.0), (15.5, 11.5), atol=1e-6)


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_errors_beyond_single_precision_cost_the_exposure_only(folder, size):
    with fits.open(folder / "g2.fits") as f:
        f["ERR"].data[:] = size
        f.writeto(folder / "g2.fits", overwrite=True)
    options = [image_options(band="g", files="g?.fits", science="SCI", error="ERR")]
    result = read_images(options, folder, ["g"], precision="float32")
    assert [e.name for e in result.exposures] == ["g1"]
    assert "g2.fits: typical errors of 1e" in result.skipped[0].reason
    only = [image_options(band="g", files="g2.fits", science="SCI", error="ERR", unit="count")]
    with pytest.raises(InputError, match="precision: float64`, or a zero point"):
        read_images(only, folder, ["g"], precision="float32")
    assert len(read_images(options, folder, ["g"], precision="float64").exposures) == 2
