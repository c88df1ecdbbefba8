"""PIFF models: against what PIFF itself draws, and what is said without the package."""

import sys

import galsim
import numpy as np
import pytest
from astropy.io import fits

from jaxpho.data.psfstore import read_psf_store
from jaxpho.errors import InputError
from psfmix.fit import render_parameters
from psfmix.make_psf import main
from psfmix.piffmodel import is_piff, piff_grid

# Four Gaussians describe a Moffat or a grid of pixels no better than this part of the peak.
MIXTURE = 0.01
# Drawing at another sampling: GalSim's Fourier transforms are good to about this part of the peak.
DRAWN = 1e-3
NX, NY = 1000, 800


def make_piff(path, name):
    """A model that PIFF fits to ten noiseless stars, whose size grows along x."""
    piff = pytest.importorskip("piff", reason="the optional package piff is not installed")
    wcs = galsim.JacobianWCS(0.25, 0.02, -0.015, 0.27)
    rng = np.random.default_rng(3)
    stars = []
    for x, y in rng.uniform(50, 750, (10, 2)):
        psf = galsim.Moffat(beta=3.5, fwhm=0.9 * (1 + 1e-4 * x)).shear(g1=0.05)
        stamp = galsim.Image(25, 25)
        stamp.setCenter(round(x), round(y))
        stamp.wcs = wcs
        psf.withFlux(1e5).drawImage(stamp, center=galsim.PositionD(x, y))
        weight = galsim.Image(stamp.bounds, wcs=wcs, init_value=0.01)
        data = piff.StarData(stamp, galsim.PositionD(x, y), weight=weight)
        stars.append(piff.Star(data, None))
    if name == "moffat":
        psf = piff.SimplePSF(piff.Moffat(beta=3.5, fastfit=True), piff.Polynomial(1))
    else:
        psf = piff.SimplePSF(piff.PixelGrid(0.26, 9), piff.Mean())
    psf.set_context({0: wcs}, None)
    psf.fit(stars)
    psf.write(str(path))
    return psf


@pytest.fixture(scope="module")
def moffat(tmp_path_factory):
    path = tmp_path_factory.mktemp("piff") / "model.piff"
    return path, make_piff(path, "moffat")


def test_grid_is_what_piff_draws(moffat):
    path, model = moffat
    assert is_piff(path)
    grid = piff_grid(path, (NX, NY), 3)
    assert grid.oversample == 3 and grid.includes_pixel is False
    np.testing.assert_allclose(grid.locations[[0, 5]], [[0, 0], [NX - 1, (NY - 1) / 2]])
    for image, (x, y) in zip(grid.images, grid.locations, strict=True):
        drawn = model.draw(x=x + 1, y=y + 1, stamp_size=15, center=True).array
        # 3 x 3 samples, each integrated over its own square, make a native pixel
        ny = image.shape[0] // 3
        native = image.reshape(ny, 3, ny, 3).sum((1, 3))
        low = (ny - 15) // 2
        native = native[low : low + 15, low : low + 15]
        assert np.abs(native - drawn).max() < DRAWN * drawn.max()
    widths = [image.max() for image in grid.images[:3]]
    assert widths[0] > widths[1] > widths[2]  # the position counts


def test_command(moffat, tmp_path):
    path, model = moffat
    out = tmp_path / "psf.h5"
    argv = ["--band", "r", "--psf_image", str(path), "--grid", f"{NX},{NY},2", "-q"]
    assert main([*argv, "--outname", str(out), "--savefig", "0"]) == 0
    stored = read_psf_store(out, "r").collapsed()
    assert len(stored.locations) == 4 and not stored.includes_pixel
    assert stored.attrs["oversample_from"] == "PIFF model"
    assert len(stored.attrs["image_sha256"]) == 64
    for x, y in stored.locations:
        drawn = model.draw(x=x + 1, y=y + 1, stamp_size=21, center=True).array
        mixture = render_parameters(stored.at(x, y), drawn.shape)
        assert np.abs(mixture - drawn).max() < MIXTURE * drawn.max()
    assert main([*argv, "--outname", str(out), "--ext", "7"]) == 2


def test_grid_of_pixels_keeps_the_pixel(tmp_path):
    path = tmp_path / "pixels.piff"
    model = make_piff(path, "pixels")
    grid = piff_grid(path, (NX, NY), 2)
    assert grid.includes_pixel is True
    drawn = model.draw(x=1, y=1, stamp_size=9, center=True).array
    middle = grid.images[0].shape[0] // 2
    values = grid.images[0][middle - 12 : middle + 13 : 3, middle - 12 : middle + 13 : 3] * 9
    assert np.abs(values - drawn).max() < DRAWN * drawn.max()


def test_refusals(moffat, tmp_path, monkeypatch):
    path, _ = moffat
    with pytest.raises(InputError, match="has the chips 0; --ext is 7"):
        piff_grid(path, (NX, NY), 2, "7")
    with pytest.raises(InputError, match="expected at least 2"):
        piff_grid(path, (NX, NY), 1)


def test_without_the_package(tmp_path, monkeypatch):
    column = fits.Column("type", "6A", array=np.array(["Simple"]))
    hdu = fits.BinTableHDU.from_columns([column], name="psf")
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(tmp_path / "a.piff")
    assert is_piff(tmp_path / "a.piff")
    monkeypatch.setitem(sys.modules, "piff", None)
    with pytest.raises(InputError, match=r"needs the package piff: pip install 'jaxpho\[piff\]'"):
        piff_grid(tmp_path / "a.piff", (NX, NY), 2)


def test_a_damaged_model(tmp_path):
    pytest.importorskip("piff", reason="the optional package piff is not installed")
    column = fits.Column("type", "6A", array=np.array(["Simple"]))
    hdu = fits.BinTableHDU.from_columns([column], name="psf")
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(tmp_path / "a.piff")
    with pytest.raises(InputError, match="PIFF model .*a.piff cannot be read"):
        piff_grid(tmp_path / "a.piff", (NX, NY), 2)
    assert not is_piff(tmp_path / "none.fits")
