"""PSF images and PSFEx models into mixtures: centre, rotation, cache, what is asked for."""

from types import SimpleNamespace

import numpy as np
import pytest
from astropy.io import fits
from synthetic_result import REFERENCE, make_wcs

from jaxpho import prepare
from jaxpho.data.exposure import PSFInput
from jaxpho.data.options import PSFOptions
from jaxpho.data.psfmodel import PSF_DTYPE, PSFModel
from jaxpho.data.psfstore import write_psf_store
from jaxpho.errors import InputError

OVERSAMPLE = 3
MIXTURE_ATOL = 2e-3  # of the peak; one Gaussian fitted by two


def gaussian(shape, x0, y0, cxx, cyy, cxy):
    y, x = np.indices(shape)
    inverse = np.linalg.inv([[cxx, cxy], [cxy, cyy]])
    dx, dy = x - x0, y - y0
    q = inverse[0, 0] * dx**2 + 2 * inverse[0, 1] * dx * dy + inverse[1, 1] * dy**2
    image = np.exp(-q / 2)
    return image / image.sum()


STAR = gaussian((9, 9), 4.0, 4.0, 2.0, 2.0, 0.0)


def exposure(psf, name="e1"):
    return SimpleNamespace(
        name=name, band="g", shape=(50, 60), wcs=make_wcs(0.3, 20.0, (30, 25)), psf=psf,
        notes={},
    )  # fmt: skip


@pytest.fixture
def psf_file(tmp_path):
    """An elliptical Gaussian, 3 samples per pixel, off the middle of its stamp."""
    image = gaussian((61, 61), 31.5, 29.0, 40.0, 20.0, 6.0)
    hdu = fits.PrimaryHDU(image)
    hdu.header["OVERSAMP"] = OVERSAMPLE
    hdu.writeto(tmp_path / "psf.fits")
    return tmp_path / "psf.fits"


def image_input(path, **options):
    options = PSFOptions(file=str(path), ngauss=1, **options)
    return PSFInput("image", path, oversample_key="OVERSAMP", options=options)


def test_an_image_becomes_its_gaussian_and_is_cached(psf_file, tmp_path, monkeypatch):
    cache, steps = tmp_path / "run" / "cache.h5", []
    first = exposure(image_input(psf_file))
    quality = prepare.prepare_psfs([first], [], cache, lambda *a: steps.append(a))["e1"]
    assert steps == [(1, 1)]
    assert quality.residual < MIXTURE_ATOL and not quality.poor
    p = first.psf.parameters[0]
    # from samples to native pixels, less the sample's own extent
    own = 1 / 12 / OVERSAMPLE**2
    expected = np.array([40.0, 20.0, 6.0]) / OVERSAMPLE**2 - [own, own, 0]
    np.testing.assert_allclose([p["Cxx"][0], p["Cyy"][0], p["Cxy"][0]], expected, atol=0.03)
    np.testing.assert_allclose([p["xcr"][0], p["ycr"][0]], 0, atol=2e-3)
    assert not first.psf.includes_pixel
    assert "residual" in first.notes["psf"]

    def refuse(job):
        raise AssertionError("fitted again")

    monkeypatch.setattr(prepare, "_fit_job", refuse)
    again = exposure(image_input(psf_file))
    prepare.prepare_psfs([again], [], cache)
    np.testing.assert_array_equal(again.psf.parameters, first.psf.parameters)
    with pytest.raises(AssertionError, match="fitted again"):
        prepare.prepare_psfs([exposure(image_input(psf_file, signed=True))], [], cache)


def test_mixtures_that_are_made_have_reduced_ones(tmp_path):
    """Stored with them, turned with them, and read again from the cache."""
    image = 0.7 * gaussian((81, 81), 40.0, 40.0, 20.0, 16.0, 2.0)
    image += 0.3 * gaussian((81, 81), 40.0, 40.0, 90.0, 80.0, -5.0)
    hdu = fits.PrimaryHDU(image)
    hdu.header["OVERSAMP"] = OVERSAMPLE
    hdu.writeto(tmp_path / "psf.fits")
    models = []
    for rotate in (0.0, 0.0, 90.0):
        options = PSFOptions(file="psf.fits", ngauss=2, rotate=rotate)
        psf = PSFInput("image", tmp_path / "psf.fits", oversample_key="OVERSAMP", options=options)
        e = exposure(psf)
        prepare.prepare_psfs([e], [], tmp_path / "c.h5")
        models.append(e.psf)
    first, again, turned = (model.reduced for model in models)
    assert first and all(r.parameters.shape == (1, 1) for r in first)
    for a, b, c in zip(first, again, turned, strict=True):
        assert (a.width, a.error) == (b.width, b.error) == (c.width, c.error)
        np.testing.assert_array_equal(a.parameters, b.parameters)
        np.testing.assert_allclose(c.parameters["Cyy"], a.parameters["Cxx"], rtol=1e-5)


def test_a_ladder_that_fails_is_done_without(psf_file, tmp_path, monkeypatch, caplog):
    def fail(model):
        raise np.linalg.LinAlgError("singular")

    monkeypatch.setattr("psfmix.reduced.reduce_model", fail)
    e = exposure(image_input(psf_file))
    prepare.prepare_psfs([e], [], tmp_path / "c.h5")
    assert e.psf.reduced == ()
    assert "psf.fits: no reduced mixtures (singular)" in caplog.text


def test_rotation_turns_x_towards_y(psf_file, tmp_path):
    plain, turned = exposure(image_input(psf_file)), exposure(image_input(psf_file, rotate=90.0))
    prepare.prepare_psfs([plain], [], tmp_path / "c.h5")
    prepare.prepare_psfs([turned], [], tmp_path / "c.h5")
    a, b = plain.psf.parameters[0], turned.psf.parameters[0]
    np.testing.assert_allclose(b["Cyy"], a["Cxx"], rtol=1e-5)
    np.testing.assert_allclose(b["Cxx"], a["Cyy"], rtol=1e-5)
    np.testing.assert_allclose(b["Cxy"], -a["Cxy"], rtol=1e-5)
    np.testing.assert_allclose(b["ycr"], a["xcr"], atol=1e-6)


def test_rotation_of_an_image_of_the_mixture():
    """Values of the turned mixture at turned points equal the original's."""
    p = np.zeros((1, 1), PSF_DTYPE)
    p["amp"], p["xcr"], p["ycr"], p["Cxx"], p["Cyy"], p["Cxy"] = 1, 0.5, -0.2, 3, 1, 0.4
    turned = prepare.rotate_model(PSFModel(p), 30.0).parameters[0, 0]
    c, s = np.cos(np.pi / 6), np.sin(np.pi / 6)
    rotation = np.array([[c, -s], [s, c]])
    np.testing.assert_allclose([turned["xcr"], turned["ycr"]], rotation @ [0.5, -0.2], rtol=1e-6)
    expected = rotation @ [[3, 0.4], [0.4, 1]] @ rotation.T
    found = [[turned["Cxx"], turned["Cxy"]], [turned["Cxy"], turned["Cyy"]]]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("x0", [20.0, 20.3, 19.5])
def test_centres(x0):
    image = gaussian((41, 43), x0, 18.7, 6.0, 9.0, 2.0)
    np.testing.assert_allclose(prepare.psf_center(image, "peak"), (x0, 18.7), atol=1e-4)
    np.testing.assert_allclose(prepare.psf_center(image, "centroid"), (x0, 18.7), atol=1e-3)
    assert prepare.psf_center(image, "stamp") == (21.0, 20.0)
    image[5, 40] += 0.015  # a neighbour moves the centroid, not the core
    np.testing.assert_allclose(prepare.psf_center(image, "peak"), (x0, 18.7), atol=1e-4)
    assert prepare.psf_center(image, "centroid")[0] > x0 + 0.2
    with pytest.raises(InputError, match="sums to"):
        prepare.psf_center(np.zeros((9, 9)))


def test_detector_positions_are_the_sources_or_a_grid():
    e = exposure(None)
    off = SimpleNamespace(ra=REFERENCE[0] + 1.0, dec=REFERENCE[1])
    here = SimpleNamespace(ra=REFERENCE[0], dec=REFERENCE[1])
    found = prepare.detector_positions(e, [here, off])
    assert (found >= 0).all() and (found[:, 0] <= 59).all() and (found[:, 1] <= 49).all()
    assert [29.0, 24.0] in found.tolist()
    many = [SimpleNamespace(ra=REFERENCE[0] + k * 1e-4, dec=REFERENCE[1] - (k % 7) * 1e-4)
            for k in range(40)]  # fmt: skip
    assert len(prepare.detector_positions(e, many)) == prepare.MAX_POSITIONS
    assert prepare.detector_positions(e, many, constant=True).tolist() == [[29.5, 24.5]]


def test_a_psfex_model_gives_a_mixture_per_source(tmp_path, monkeypatch):
    def image(x, y, normalize):
        return gaussian((31, 31), 15, 15, 4 + 0.05 * x, 4, 0)

    model = SimpleNamespace(degree=1, oversample=1.0, image=image)
    monkeypatch.setattr(prepare, "read_psfex", lambda *a, **k: model)
    psf = PSFInput("psfex", tmp_path / "x.psf", rows={"EXPNUM": "5"},
                   options=PSFOptions(ngauss=1, normalize="unit"))  # fmt: skip
    e = exposure(psf)
    sky = e.wcs.pixel_to_world_values([10.0, 40.0], [10.0, 30.0])
    peaks = [SimpleNamespace(ra=ra, dec=dec) for ra, dec in zip(*sky, strict=True)]
    prepare.prepare_psfs([e], peaks, tmp_path / "c.h5")
    assert e.psf.includes_pixel
    for x, y in ((10.0, 10.0), (40.0, 30.0)):
        assert e.psf.at(x, y)["Cxx"][0] == pytest.approx(4 + 0.05 * x, rel=0.01)
        assert e.psf.at(x, y)["amp"].sum() == pytest.approx(1, abs=1e-5)
    psf.rows = {"seeing": "1"}
    with pytest.raises(InputError, match="picked by expnum and ccdname"):
        prepare.prepare_psfs([exposure(psf)], peaks, tmp_path / "c.h5")


def test_stores_and_nearest_location(tmp_path):
    p = np.zeros((2, 1), PSF_DTYPE)
    p["amp"], p["Cxx"], p["Cyy"], p["sersic_bin"] = 1, [[1], [3]], [[1], [3]], -1
    model = PSFModel(p, np.array([[0.0, 0.0], [10.0, 0.0]]), amplitude_sum="unit")
    write_psf_store(tmp_path / "s.h5", "g", model)
    # sizes are linear, by inverse squares of the distances
    between = (1 + (np.sqrt(3) - 1) * 16 / 52) ** 2
    for method, expected in (("linear", between), ("nearest", 1.0)):
        psf = PSFInput("store", tmp_path / "s.h5", group="g", options=PSFOptions(method=method))
        e = exposure(psf)
        quality = prepare.prepare_psfs([e], [], tmp_path / "c.h5")
        assert e.psf.at(4.0, 0.0, "linear")["Cxx"][0] == pytest.approx(expected)
        assert not quality["e1"].poor
    assert not (tmp_path / "c.h5").exists()


def test_an_exposure_without_psf_is_named(tmp_path):
    with pytest.raises(InputError, match="exposure e1 .band g. has no PSF"):
        prepare.prepare_psfs([exposure(None)], [], tmp_path / "c.h5")


@pytest.mark.parametrize(
    ("image", "options", "words"),
    [
        (np.zeros((9, 9)), {}, "maximum 0 and sum 0"),
        (np.full((9, 9), np.nan), {}, "no finite pixel"),
        (-np.ones((9, 9)), {}, "must be positive"),
        (np.ones((9, 9)), {"trim": 5}, "trim of 5"),
        (np.ones((2, 2)), {}, "4 usable pixels for 1 Gaussians"),
        (np.ones((3, 9, 9)), {}, "3 axes .3, 9, 9.*write the plane"),
        (np.ones((9, 9)), {}, "no peak: its maximum is 1, the median along its edge 1"),
        (STAR, {"oversample": 500.0}, "9 x 9 samples, 500 per pixel.*is the oversampling right"),
    ],
)
def test_every_psf_is_checked_before_one_is_fitted(
    image, options, words, psf_file, tmp_path, monkeypatch
):
    bad = tmp_path / "bad.fits"
    fits.PrimaryHDU(image).writeto(bad)
    oversample = options.get("oversample", 1.0)
    options = PSFOptions(file=str(bad), ngauss=1, **options)
    spoilt = PSFInput("image", bad, oversample=oversample, options=options)
    pair = [exposure(image_input(psf_file)), exposure(spoilt, name="e2")]
    monkeypatch.setattr("psfmix.fit.fit_mixture", lambda *a, **k: pytest.fail("fitted"))
    for check in (
        lambda: prepare.prepare_psfs(pair, [], tmp_path / "c.h5"),
        lambda: prepare.check_psfs(pair, []),
    ):
        with pytest.raises(InputError, match=f"bad.fits.*{words}.*exposure e2"):
            check()


@pytest.mark.parametrize(
    ("residual", "ee", "warns", "poor"),
    [(0.019, 0.009, False, False), (0.044, 0.009, True, False), (0.01, 0.012, True, False),
     (0.11, 0.0, True, True), (0.0, 0.06, True, True)],
)  # fmt: skip
def test_a_mixture_that_a_better_one_would_help_is_a_warning(residual, ee, warns, poor, caplog):
    quality = prepare.PSFQuality(residual, ee)
    found = exposure(PSFModel(np.zeros((1, 4), PSF_DTYPE)))
    with caplog.at_level("INFO"):
        prepare._report(found, SimpleNamespace(label="psf.fits"), quality, "fitted")
    (record,) = caplog.records
    assert (record.levelname == "WARNING") == warns and quality.poor == poor
    assert ("psf.ngauss is 4) or psf.signed: true may help" in record.message) == warns
