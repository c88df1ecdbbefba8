"""make-psf --fit_bg: the constant belongs to the optimum, to the draws, and to what is written."""

import numpy as np
import pytest
from astropy.io import fits

from jaxpho.data.psfstore import read_psf_store
from psfmix.background import fit_background
from psfmix.fit import from_array, render_parameters
from psfmix.make_psf import main

RAW = np.array([[0.7, 0.05, -0.1, 0.8, 1.0, 0.15], [0.3, -0.2, 0.1, 6.0, 5.0, -0.8]])
SHAPE, OVERSAMPLE = (61, 63), 2.0
LEVEL = 0.02
"""Background over the peak: its sum over the stamp is several times the PSF's."""
NOISELESS = 2e-5
"""Error of a background without noise, over the peak, where the mixture describes the PSF."""


@pytest.fixture(scope="module")
def image():
    psf = render_parameters(from_array(RAW), SHAPE, OVERSAMPLE)
    return psf, psf + LEVEL * psf.max()


def test_the_constant_is_found(image):
    psf, picture = image
    for level in (LEVEL, -LEVEL):
        found, fit = fit_background(
            psf + level * psf.max(), ngauss=2, oversample=OVERSAMPLE, normalize="stamp"
        )
        assert abs(found / psf.max() - level) < NOISELESS
        assert fit.residual < 1e-3
        assert fit.parameters["amp"].sum() == pytest.approx(psf.sum(), rel=1e-2)


@pytest.mark.parametrize("normalize", ["stamp", "unit"])
def test_optimum_and_files(image, tmp_path, normalize):
    psf, picture = image
    fits.PrimaryHDU(picture).writeto(tmp_path / "sky.fits")
    words = ["--band", "r", "--psf_image", str(tmp_path / "sky.fits"), "--oversample", "2", "-q"]
    words += ["--ngauss", "2", "--method", "map", "--fit_bg", "--fitsout", "--savefig", "0"]
    assert main([*words, "--outname", str(tmp_path / "psf.h5"), "--normalize", normalize]) == 0
    model = read_psf_store(tmp_path / "psf.h5", "r")
    level = model.attrs["background"]
    assert abs(level / psf.max() - LEVEL) < NOISELESS and model.attrs["residual"] < 1e-3
    amplitude = model.parameters[0, : model.ngauss // 9]["amp"].sum()
    expected = 1.0 if normalize == "unit" else picture.sum() - level * picture.size
    assert amplitude == pytest.approx(expected, rel=1e-5)
    with fits.open(tmp_path / "psf_r.fits") as hdus:
        scale = 1 / (picture.sum() - level * picture.size) if normalize == "unit" else 1.0
        np.testing.assert_allclose(hdus["TARGET"].data, scale * picture, rtol=1e-6)
        assert hdus[0].header["BACKGRND"] == pytest.approx(scale * level, rel=1e-6)
        residual = np.abs(hdus["RESIDUAL"].data).max() / (scale * psf.max())
        assert residual == pytest.approx(model.attrs["residual"], abs=1e-5)
        np.testing.assert_allclose(
            hdus["MODEL"].data - hdus["TARGET"].data, hdus["RESIDUAL"].data, atol=1e-6 * scale
        )
