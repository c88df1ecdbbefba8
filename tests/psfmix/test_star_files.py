"""make-psf --stars: images with catalogues, cubes of stamps, files written, and refusals."""

import hashlib

import h5py
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from star_case import GAIN, profile, stamps_of

from jaxpho.data.psfstore import read_psf_store
from jaxpho.errors import InputError
from psfmix.fit import render_parameters
from psfmix.make_psf import main
from psfmix.starread import Planes, read_stars

SIDE = 320
# Largest difference from the true PSF, of its peak: see tests/psfmix/test_stars.py.
RESIDUAL = 0.01
# ra, dec through a header's tangent projection and back, pixels.
WCS_ERROR = 1e-3


def make_wcs():
    wcs = WCS(naxis=2)
    wcs.wcs.crpix, wcs.wcs.crval = (100.5, 120.5), (150.0, 2.0)
    wcs.wcs.cd = np.array([[-0.2, 0.01], [0.01, 0.2]]) / 3600
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    return wcs


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """An image with 16 stars on a grid, a catalogue in pixels and one on the sky."""
    folder = tmp_path_factory.mktemp("stars")
    rng = np.random.default_rng(2)
    corner = np.stack(np.meshgrid(*[np.arange(40, SIDE - 20, 75)] * 2), -1).reshape(-1, 2)
    places = corner + rng.uniform(-0.5, 0.5, corner.shape)
    mean = np.zeros((SIDE, SIDE))
    for (x, y), flux in zip(places, np.geomspace(2e4, 3e5, len(places)), strict=True):
        star = profile().withFlux(flux).shift(x - (SIDE - 1) / 2, y - (SIDE - 1) / 2)
        mean += star.drawImage(nx=SIDE, ny=SIDE, scale=1, dtype=float).array
    data = rng.poisson((mean + 100) * GAIN) / GAIN  # the sky is still there
    ivar = np.full(data.shape, GAIN / 100)
    mask = np.zeros(data.shape, np.int16)
    data[50, 46:52] = np.nan
    mask[30, 30:48] = 4
    data[30, 30:48] = 1e5
    image = fits.ImageHDU(data.astype(np.float32), make_wcs().to_header(), name="SCI")
    planes = [fits.ImageHDU(ivar, name="WHT"), fits.ImageHDU(mask, name="DQ")]
    fits.HDUList([fits.PrimaryHDU(), image, *planes]).writeto(folder / "image.fits")
    Table({"x": places[:, 0], "y": places[:, 1]}).write(folder / "stars.csv")
    ra, dec = make_wcs().all_pix2world(*places.T, 0)
    Table({"ra": ra, "dec": dec}).write(folder / "sky.fits")
    return folder, places


def call(folder, *extra, stars="stars.csv", image="image.fits", out="psf.h5"):
    argv = ["--band", "r", "--stars", str(folder / stars), "--outname", str(out), "-q"]
    argv += ["--psf_image", str(folder / image)] if image else []
    return main([*argv, "--gain", str(GAIN), "--ngauss", "3", *extra])


def test_an_image_and_a_catalogue(image, tmp_path):
    folder, places = image
    out = tmp_path / "psf.h5"
    assert call(folder, "--fitsout", "--stamp_size", "41", out=out) == 0
    assert {p.name for p in tmp_path.iterdir()} == {
        "psf.h5", "psf_r.fits", "psf_r.png", "psf_r_stars.png",
    }  # fmt: skip
    model = read_psf_store(out, "r").collapsed()
    assert model.locations is None and model.amplitude_sum == "unit" and not model.includes_pixel
    true = profile().drawImage(nx=41, ny=41, scale=1, dtype=float).array
    drawn = render_parameters(model.parameters[0], true.shape)
    assert np.abs(drawn - true).max() < RESIDUAL * true.max()
    with h5py.File(out) as file:
        attrs = dict(file["r"].attrs)
    assert attrs["star_count"] == 16 and attrs["star_used"] == 16 and attrs["order"] == 0
    assert attrs["residual"] < 0.01 and attrs["ee_error"] < 0.01
    for key, name in (("stars_sha256", "stars.csv"), ("image_sha256", "image.fits")):
        assert attrs[key] == hashlib.sha256((folder / name).read_bytes()).hexdigest(), key
    with fits.open(tmp_path / "psf_r.fits") as hdus:
        table = Table.read(hdus["STARS"])
        assert hdus["RESIDUALS"].data.shape == (16, 41, 41)
        assert hdus["CLIPPED"].data[0].sum() >= 24  # the mask and what is not finite
        assert hdus["CLIPPED"].data[3:].sum() < 50
        assert len(hdus["PARAMETERS"].data) == 3
        scaled = hdus["RESIDUALS"].data[table["flag"] == 0]
        assert np.nanstd(scaled) == pytest.approx(1, abs=0.05)
    np.testing.assert_allclose(table["x"], places[:, 0], atol=0.1)
    np.testing.assert_allclose(table["background"], 100, atol=2)


def test_sky_positions_and_planes(image, tmp_path):
    folder, places = image
    pixel = read_stars(folder / "stars.csv", folder / "image.fits", size=31)
    sky = read_stars(folder / "sky.fits", folder / "image.fits", size=31)
    np.testing.assert_allclose(sky.positions, pixel.positions, atol=WCS_ERROR)
    np.testing.assert_array_equal(sky.images, pixel.images)
    assert pixel.detector == (SIDE, SIDE)
    hdus = fits.open(folder / "image.fits")
    fits.PrimaryHDU(hdus["WHT"].data ** -0.5).writeto(tmp_path / "rms.fits")
    planes = Planes(error=f"{tmp_path / 'rms.fits'}[0]", mask="3")
    error = read_stars(folder / "stars.csv", folder / "image.fits", planes=planes, size=31)
    np.testing.assert_allclose(error.ivar, pixel.ivar, rtol=1e-6)
    assert (pixel.ivar[0] == 0).sum() > 10  # the mask and what is not finite
    assert not pixel.images[pixel.ivar == 0].any()


def test_constant_noise_is_assumed(image, tmp_path, caplog):
    folder, _ = image
    data = fits.getdata(folder / "image.fits", "SCI")
    fits.PrimaryHDU(data).writeto(tmp_path / "bare.fits")
    with caplog.at_level("WARNING", "psfmix.stars"):
        stars = read_stars(folder / "stars.csv", tmp_path / "bare.fits", size=31)
    assert "no weights or errors" in caplog.text
    sigma = stars.ivar.max() ** -0.5
    assert sigma == pytest.approx(np.sqrt(100 / GAIN), rel=0.1)


def test_a_cube_of_stamps_and_a_grid(tmp_path):
    images, ivar, places, _ = stamps_of(n=20, seed=3, size=31, spoiled=False)
    table = fits.BinTableHDU(Table({"x": places[:, 0], "y": places[:, 1]}))
    hdus = [fits.PrimaryHDU(images), fits.ImageHDU(ivar**-0.5, name="ERR"), table]
    fits.HDUList(hdus).writeto(tmp_path / "cube.fits")
    out = tmp_path / "psf.h5"
    extra = ["--order", "1", "--grid", "2000,1600,3", "--savefig", "0", "--psf_includes_pixel"]
    assert call(tmp_path, *extra, stars="cube.fits", image=None, out=out) == 0
    model = read_psf_store(out, "r").collapsed()
    assert model.parameters.shape == (9, 3) and model.includes_pixel
    np.testing.assert_allclose(model.locations[[0, 8]], [[0, 0], [1999, 1599]])
    # a corner of the stamps that the table tells
    shifted = Table({"x": places[:, 0], "y": places[:, 1]})
    shifted["x0"], shifted["y0"] = (np.rint(places) - [15, 14]).T
    hdus = [fits.PrimaryHDU(images), fits.ImageHDU(ivar, name="IVAR"), fits.BinTableHDU(shifted)]
    fits.HDUList(hdus).writeto(tmp_path / "corners.fits")
    stamps = read_stars(tmp_path / "corners.fits")
    np.testing.assert_array_equal(stamps.corners[:, 1], np.rint(places[:, 1]) - 14)


@pytest.mark.filterwarnings("ignore:File may have been truncated")
def test_refusals_of_files(image, tmp_path):
    folder, places = image
    stars, picture = folder / "stars.csv", folder / "image.fits"
    Table({"x": [900.0, -5], "y": [3.0, 3]}).write(tmp_path / "away.csv")
    Table({"a": [1.0]}).write(tmp_path / "other.csv")
    Table({"x": ["a"], "y": [1.0]}).write(tmp_path / "text.csv")
    fits.PrimaryHDU(np.zeros((3, 21, 21))).writeto(tmp_path / "cube.fits")
    table = fits.BinTableHDU(Table({"x": [1.0], "y": [1.0]}))
    one = fits.PrimaryHDU(np.random.default_rng(1).normal(size=(3, 21, 21)))
    fits.HDUList([one, table]).writeto(tmp_path / "three.fits")
    Table({"ra": [150.0], "dec": [2.0]}).write(tmp_path / "sky.csv")
    fits.PrimaryHDU(np.random.default_rng(1).normal(size=(50, 50))).writeto(tmp_path / "nowcs.fits")
    (tmp_path / "half.fits").write_bytes(picture.read_bytes()[:200_000])
    cases = [
        ((stars, tmp_path / "half.fits"), {}, "half.fits"),
        ((tmp_path / "away.csv", picture), {}, "none of the 2 stars lies inside the image"),
        ((tmp_path / "other.csv", picture), {}, "no columns x, y .* or ra, dec .*found a"),
        ((tmp_path / "text.csv", picture), {}, "columns x, y must be numbers"),
        ((tmp_path / "none.csv", picture), {}, "none.csv: the table does not exist"),
        ((stars, tmp_path / "none.fits"), {}, "none.fits does not exist"),
        ((stars, stars), {}, "not a readable FITS file"),
        ((stars, picture), {"ext": "9"}, "no extension '9'; it has: 0 PRIMARY, 1 SCI"),
        ((stars, tmp_path / "cube.fits"), {}, r"shape \(3, 21, 21\); expected \(ny, nx\)"),
        ((tmp_path / "cube.fits",), {}, "no weights or errors, and the pixels do not scatter"),
        ((tmp_path / "three.fits",), {}, "holds 3 star stamps and 1 positions"),
        ((picture,), {}, r"expected \(nstar, ny, nx\)"),
        ((tmp_path / "sky.csv", tmp_path / "nowcs.fits"), {}, "no celestial WCS"),
        ((stars, picture), {"planes": Planes(weight="2", error="2")}, "--weight and --error"),
        ((stars, picture), {"planes": Planes(weight="NONE")}, "no extension 'NONE'"),
        ((stars, picture), {"planes": Planes(weight="w.fits")}, "weight w.fits does not exist"),
        (
            (stars, picture),
            {"planes": Planes(weight=str(tmp_path / "nowcs.fits"))},
            r"weight .*nowcs.fits has shape \(50, 50\)",
        ),
        ((stars, picture), {"size": 3}, "stamps of 3 pixels"),
    ]
    for files, options, message in cases:
        with pytest.raises(InputError, match=message):
            read_stars(*files, **options)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--trim", "3"], "does not go with --trim"),
        (["--oversample", "2"], "does not go with --oversample"),
        (["--ladder", "1:3"], "does not go with --ladder"),
        (["--grid", "320,320,3"], "needs --order 1 or 2"),
        (["--grid", "100,320,3", "--order", "1"], "has 320 x 320"),
        (["--stamp_size", "40"], "expected an odd number"),
        (["--gain", "0"], "gain of the stars is 0.0"),
        (["--min_snr", "1e9"], "all of the 16 stars were rejected: 16 faint"),
    ],
)
def test_refusals_of_options(image, tmp_path, capsys, extra, message):
    folder, _ = image
    size = [] if "--stamp_size" in extra else ["--stamp_size", "21"]
    assert call(folder, *extra, *size, out=tmp_path / "psf.h5") == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_neither_image_nor_stars(tmp_path, capsys):
    assert main(["--band", "r", "--outname", str(tmp_path / "psf.h5")]) == 2
    assert "neither --psf_image nor --stars" in capsys.readouterr().err
