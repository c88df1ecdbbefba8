"""make-psf --reduced: the ladder, mixtures by radius, and what is refused."""

import logging

import galsim
import h5py
import numpy as np
import pytest
from astropy.io import fits

from jaxpho.data.psfstore import read_psf_store
from jaxpho.data.splinestore import SplineTable, write_spline_table
from psfmix.make_psf import main
from psfmix.reduced import TOLERANCE, TOLERANCES
from psfmix.smoothing import largest_difference


@pytest.fixture(scope="module")
def psf(tmp_path_factory):
    path = tmp_path_factory.mktemp("psf") / "star.fits"
    star = galsim.Moffat(beta=3.0, fwhm=3.0).shear(g1=0.05, g2=0.02)
    image = star.drawImage(nx=61, ny=61, scale=0.5).array.astype(float)
    fits.PrimaryHDU(image).writeto(path)
    return path


def call(psf, out, *extra):
    common = ["--oversample", "2", "--ngauss", "3", "--method", "map", "--savefig", "0"]
    return main(["--band", "r", "--psf_image", str(psf), "--outname", str(out), *common, *extra])


def test_a_ladder_is_stored(psf, tmp_path, caplog):
    caplog.set_level(logging.INFO, "psfmix")
    assert call(psf, tmp_path / "a.h5", "--reduced") == 0
    assert call(psf, tmp_path / "b.h5", "-q") == 0
    model, plain = (read_psf_store(tmp_path / name, "r") for name in ("a.h5", "b.h5"))
    np.testing.assert_array_equal(model.parameters, plain.parameters)
    assert plain.reduced == () and len(model.reduced) >= 3
    full = model.collapsed().parameters[0]
    for rung in model.reduced:
        assert rung.error <= TOLERANCES[-1] and rung.parameters.shape[1] < 3
        found = largest_difference(rung.parameters[0], full, rung.width)
        assert found == pytest.approx(rung.error, rel=1e-3)
    assert "from width  Gaussians  error" in caplog.text


@pytest.mark.parametrize("source", ["list", "table"])
def test_radii(psf, tmp_path, source):
    """As forcepho reads them: flat, by sersic_bin, with its names on request."""
    radii, text, extra = [0.0, 0.5, 4.0, 60.0], "0,.5,4,60", []
    if source == "table":
        rng = np.random.default_rng(0)
        n, r = (a.ravel() for a in np.meshgrid(np.arange(1, 6.0), np.arange(1, 6.0)))
        table = SplineTable(0.05 * np.array(radii), n, r, rng.uniform(size=(25, 4)), {})
        text = str(tmp_path / "table.h5")
        write_spline_table(text, table)
        extra = ["--sci_pix_scale", ".05"]
    out = tmp_path / "psf.h5"
    extra += ["--reduced", "--radii", text, "--q_min", ".25", "--forcepho-names", "-q"]
    assert call(psf, out, *extra) == 0
    with h5py.File(out) as file:
        data = file["r/parameters"][()]
        assert data.dtype.names[:3] == ("amp", "xcen", "ycen") and data.shape[0] == 1
        assert file["r"].attrs["n_psf_per_source"] == data.shape[1] < 12
        assert "reduced" not in file["r"]
    model = read_psf_store(out, "r")
    bins = model.parameters["sersic_bin"][0]
    assert sorted(set(bins)) == [0, 1, 2, 3]
    full = model.parameters[0][bins == 0]
    for k, radius in enumerate(radii[1:], 1):
        part = model.parameters[0][bins == k]
        # half of the radius: the root of the least axis ratio
        assert len(part) == 3 or largest_difference(part, full, 0.5 * radius) <= TOLERANCE
    assert np.count_nonzero(bins == 3) == 1


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--radii", "1,2"], "give --reduced as well"),
        (["--reduced", "--radii", "1,x"], "'1,x'; expected numbers"),
        (["--reduced", "--radii", "1,-2"], "radii from 0 on"),
        (["--reduced", "--radii", "1,nan"], "radii from 0 on"),
        (["--reduced", "--radii", "1", "--q_min", "0"], "--q_min is 0.0"),
        (["--reduced", "--radii", "PSF"], "give --sci_pix_scale"),
        (["--reduced", "--radii", "PSF", "--sci_pix_scale", ".1"], "star.fits"),
    ],
)
def test_bad_options(psf, tmp_path, capsys, extra, words):
    extra = [str(psf) if text == "PSF" else text for text in extra]
    assert call(psf, tmp_path / "psf.h5", *extra) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "psf.h5").exists()
