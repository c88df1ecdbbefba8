"""Chains, residuals, images and pictures: what is written is what is read."""

import dataclasses
import struct
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from matplotlib.figure import Figure
from synthetic_result import EXPOSURES, POSITIONS, REFERENCE, SIZE, make_result, make_wcses

from jaxpho.errors import InputError
from jaxpho.files import file_names, replacing, safe_name
from jaxpho.output.catalog import make_table, read_catalog, rows_of_patch, write_catalog
from jaxpho.output.images import ImageAssembler
from jaxpho.output.plots import chosen_exposures, plot_patch, source_outlines, write_patch_plot
from jaxpho.output.residuals import read_residuals, write_residuals
from jaxpho.output.samples import read_samples, write_samples

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def rng():
    return np.random.default_rng(5)


@pytest.mark.parametrize("draws", [0, 30])
def test_samples_round_trip(rng, tmp_path, draws):
    result = make_result(rng, draws)
    result.labels[-1] = (("exposure", "g/1"), "offset_ra", "")
    path = tmp_path / "patches" / "patch3_samples.h5"
    write_samples(path, result)
    back = read_samples(path)
    for f in dataclasses.fields(result):
        a, b = getattr(result, f.name), getattr(back, f.name)
        if f.name in ("pixels", "astrometry"):
            assert b == {}
        elif f.name.endswith("statistics"):
            assert set(a) == set(b) and len(a) == (6 if draws else 0)
            for name in a:
                np.testing.assert_array_equal(a[name], b[name])
                assert a[name].dtype == b[name].dtype
        elif isinstance(a, np.ndarray):
            np.testing.assert_array_equal(a, b, err_msg=f.name)
            assert a.dtype == b.dtype, f.name
        elif f.name == "diagnostics":
            assert set(a) == set(b)
            np.testing.assert_array_equal(a["ess"], b["ess"])
            assert b["divergences"] == 0
        else:
            assert a == b, f.name
    assert back.index(("exposure", "g/1"), "offset_ra") == len(result.labels) - 1


def test_samples_without_the_warm_up(rng, tmp_path):
    result = make_result(rng, 30)
    write_samples(tmp_path / "s.h5", result, warmup=False)
    back = read_samples(tmp_path / "s.h5")
    assert back.warmup is None and back.warmup_statistics == {}
    np.testing.assert_array_equal(back.samples, result.samples)


def test_reading_something_else_says_so(tmp_path, rng):
    with pytest.raises(InputError, match="no such samples file"):
        read_samples(tmp_path / "none.h5")
    write_residuals(tmp_path / "r.h5", make_result(rng))
    with pytest.raises(InputError, match="expected a file of format jaxpho-samples-1"):
        read_samples(tmp_path / "r.h5")


def test_residuals_round_trip(rng, tmp_path):
    result = make_result(rng)
    path = tmp_path / "patch3_residuals.h5"
    write_residuals(path, result)
    back = read_residuals(path)
    assert {band: sorted(back[band]) for band in back} == {"g": ["g/1", "g/2"], "r": ["r/1"]}
    for name, band, *_ in EXPOSURES:
        given, found = result.pixels[name], back[band][name]
        np.testing.assert_array_equal(found["xpix"], given["x"])
        np.testing.assert_array_equal(found["ierr"], given["ierr"])
        np.testing.assert_array_equal(found["residual"], given["data"] - given["model"])
        assert found["data"].dtype == np.float32
        for key, values in result.astrometry[name].items():
            np.testing.assert_array_equal(found[key], values)
    with h5py.File(path) as f:
        assert [p.decode() for p in f["epaths"]] == [f"{e[1]}/{e[0]}" for e in EXPOSURES]
        for where in f["epaths"]:
            assert f[where]["residual"].ndim == 1  # as forcepho opens them
        np.testing.assert_array_equal(f["reference_coordinates"], REFERENCE)


def test_residuals_of_forcepho_are_read(rng, tmp_path):
    """No attributes there: band and exposure are the path."""
    arrays = {name: rng.normal(size=7) for name in ("xpix", "ypix", "data", "ierr", "residual")}
    with h5py.File(tmp_path / "r.h5", "w") as f:
        f["epaths"] = np.array(["F200W/visit/1"], "S")
        f["reference_coordinates"] = [53.1, -27.8]
        for name, values in arrays.items():
            f[f"F200W/visit/1/{name}"] = values
    found = read_residuals(tmp_path / "r.h5")["F200W"]["visit/1"]
    for name, values in arrays.items():
        np.testing.assert_array_equal(found[name], values)
    with h5py.File(tmp_path / "r.h5", "a") as f:
        del f["F200W/visit/1/ierr"]
    with pytest.raises(InputError, match="r.h5, F200W/visit/1: no data set 'ierr'"):
        read_residuals(tmp_path / "r.h5")
    (tmp_path / "r.h5").write_bytes((tmp_path / "r.h5").read_bytes()[:700])
    with pytest.raises(InputError, match="residual file .*r.h5"):
        read_residuals(tmp_path / "r.h5")


def exposures_of(result):
    out = []
    for (name, band, *_), wcs in zip(EXPOSURES, make_wcses().values(), strict=True):
        pixels = result.pixels[name]
        image = {k: np.array(pixels[k]).reshape(SIZE) for k in ("data", "ierr")} | {"shape": SIZE}
        out.append(SimpleNamespace(name=name, band=band, wcs=wcs, unit="nJy", header=None, **image))
    return out


def test_images_keep_the_wcs_and_add_up(rng, tmp_path):
    result = make_result(rng)
    exposures = exposures_of(result)
    assembler = ImageAssembler(exposures)
    assembler.add(result)
    paths = assembler.write(tmp_path)
    assert sorted(p.name for p in paths) == ["g_g_1.fits", "g_g_2.fits", "r_r_1.fits"]
    for exposure, path in zip(exposures, sorted(paths), strict=True):
        with fits.open(path) as hdus:
            assert hdus[0].header["EXPOSURE"] == exposure.name
            good = exposure.ierr > 0
            total = hdus["MODEL"].data + hdus["RESIDUAL"].data
            np.testing.assert_allclose(total[good], exposure.data[good], rtol=1e-5, atol=1e-5)
            assert np.isnan(hdus["RESIDUAL"].data[~good]).all()
            assert np.std(hdus["CHI"].data[good]) == pytest.approx(1, abs=0.05)
            assert (hdus["PATCH"].data == 3).all()
            assert hdus["MODEL"].header["BUNIT"] == "nJy"
            x, y = np.array([3.0, 60.0]), np.array([50.0, 7.0])
            before = exposure.wcs.pixel_to_world_values(x, y)
            after = WCS(hdus["RESIDUAL"].header).pixel_to_world_values(x, y)
            np.testing.assert_allclose(after, before, rtol=0, atol=1e-11)


def half(result, patch_id, keep):
    """The same fit as a patch of its own with the pixels of one side."""
    pixels = {}
    for name, p in result.pixels.items():
        chosen = keep(p["x"])
        pixels[name] = {k: v[chosen] for k, v in p.items()}
        pixels[name]["model"] = np.full(chosen.sum(), float(patch_id), np.float32)
    labels = [label for label in result.labels if label[0] == patch_id]
    at = [result.labels.index(label) for label in labels]
    return dataclasses.replace(
        result, patch_id=patch_id, pixels=pixels, source_ids=[str(patch_id)],
        types=["sersic"], labels=[(0, *label[1:]) for label in labels], theta=result.theta[at],
        covariance=result.covariance[np.ix_(at, at)], fixed={}, at_bound=None, flags=None,
        source_chi2=None, source_npix=None, source_nexp=None, source_band_npix=None,
    )  # fmt: skip


def test_overlapping_patches_meet_between_their_sources(rng):
    result = make_result(rng)
    exposures = exposures_of(result)
    for order in ((0, 1), (1, 0)):
        assembler = ImageAssembler(exposures)
        for s in order:
            assembler.add(half(result, s, lambda x: x == x))
        image = assembler.images("g/1")
        cos = np.cos(np.deg2rad(REFERENCE[1]))
        for s in (0, 1):
            dra, ddec = POSITIONS[s]
            sky = REFERENCE[0] + dra / 3600 / cos, REFERENCE[1] + ddec / 3600
            x, y = (int(np.round(v)) for v in exposures[0].wcs.world_to_pixel_values(*sky))
            assert image["PATCH"][y, x] == s
            assert image["MODEL"][y, x] == s
    assembler = ImageAssembler(exposures)
    assembler.add(half(result, 1, lambda x: x < 30))
    image = assembler.images("g/1")
    assert (image["PATCH"][:, 30:] == -1).all() and (image["MODEL"][:, 30:] == 0).all()


def test_picture_is_a_png(rng, tmp_path):
    result = make_result(rng)
    path = tmp_path / "patch3.png"
    write_patch_plot(path, result, make_wcses())
    content = path.read_bytes()
    assert content[:8] == PNG_SIGNATURE
    width, height = struct.unpack(">II", content[16:24])
    assert width > 600 and height > 600
    assert [p.name for p in tmp_path.iterdir()] == ["patch3.png"]


def test_picture_has_a_row_per_exposure_and_labels(rng):
    result = make_result(rng)
    figure = plot_patch(result, make_wcses(), per_band=1)
    assert isinstance(figure, Figure)
    panels = [axis for axis in figure.axes if axis.get_title() or axis.images]
    assert sum("sigma" in axis.get_title() for axis in panels) == 1
    words = [text.get_text() for axis in figure.axes for text in axis.texts]
    assert {"101", "2066", "N", "E"} <= set(words)
    assert chosen_exposures(result, 1) == [0, 2]
    assert len(chosen_exposures(result, 5)) == 3


def test_picture_without_wcs_pixels_or_good_data(rng):
    result = make_result(rng)
    plot_patch(result)
    for pixels in result.pixels.values():
        pixels["ierr"][:] = 0
    plot_patch(result, make_wcses())
    result.pixels = {}
    plot_patch(result)


def test_outline_is_the_half_light_ellipse(rng):
    """Second moments of the outline on the sky against axes and angle of the shape."""
    result = make_result(rng)
    wcs = make_wcses()["r/1"]
    _, (outline,) = source_outlines(result, 0, wcs)
    ra, dec = wcs.pixel_to_world_values(*outline.T)
    x = (ra - REFERENCE[0]) * 3600 * np.cos(np.deg2rad(REFERENCE[1])) - POSITIONS[0][0]
    y = (dec - REFERENCE[1]) * 3600 - POSITIONS[0][1]
    r, angle = np.hypot(x, y), np.rad2deg(np.arctan2(x, y))  # East of North
    e1, e2 = 0.2, -0.12
    e = np.hypot(e1, e2)
    major = 1.2 * np.sqrt((1 + e) / (1 - e))
    assert r.max() == pytest.approx(major, rel=2e-3)
    assert r.min() == pytest.approx(1.2**2 / major, rel=2e-3)
    expected = 0.5 * np.rad2deg(np.arctan2(e2, e1))
    assert (angle[np.argmax(r)] - expected + 90) % 180 - 90 == pytest.approx(0, abs=3)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


NASTY = (
    "a b/../c",
    "$\\frac{",
    "x" * 300,
    "<script>alert(1)</script>",
    "\u00fcber\nline",
    "A B/../C",
)


def test_file_names_are_safe_short_and_each_exposure_has_its_own():
    names = file_names(NASTY)
    assert len({n.lower() for n in names.values()}) == len(NASTY)
    for name in names.values():
        assert len(name) <= 120 and name.isascii() and not set(name) & set("/ <>$\n")
    assert safe_name("g-1_x.2") == "g-1_x.2"


def test_any_name_of_a_source_or_an_exposure_can_be_written(rng, tmp_path):
    result = make_result(rng)
    renamed = dict(zip(result.exposures, (NASTY[0], NASTY[0] + "/deeper", NASTY[4]), strict=True))
    result.source_ids = [NASTY[3], NASTY[1], NASTY[2]]
    exposures = exposures_of(result)
    result.pixels = {renamed[k]: v for k, v in result.pixels.items()}
    result.exposures = [renamed[k] for k in result.exposures]
    for exposure in exposures:
        exposure.name = renamed[exposure.name]
    write_samples(tmp_path / "s.h5", result)
    assert read_samples(tmp_path / "s.h5").source_ids == result.source_ids
    write_residuals(tmp_path / "r.h5", result)
    found = read_residuals(tmp_path / "r.h5")
    assert {name for band in found.values() for name in band} == set(result.exposures)
    assembler = ImageAssembler(exposures)
    assembler.add(result)
    paths = assembler.write(tmp_path / "images")
    assert sorted(paths) == sorted((tmp_path / "images").iterdir()) and len(paths) == 3
    assert fits.getheader(paths[2])["EXPOSURE"] == r"\xfcber\x0aline"
    wcs = dict(zip(result.exposures, make_wcses().values(), strict=True))
    write_patch_plot(tmp_path / "p.png", result, wcs)
    table = make_table(rows_of_patch(result), result.bands, "nJy")
    write_catalog(tmp_path / "c.fits", table)
    assert list(read_catalog(tmp_path / "c.fits")["id"]) == result.source_ids
