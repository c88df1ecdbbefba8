"""PSFEx models against GalSim's reader and a direct evaluation of the polynomial."""

import galsim
import galsim.des
import numpy as np
import pytest
from astropy.io import fits

from jaxpho.data.psfex import read_psfex
from jaxpho.errors import InputError

# GalSim sums the same polynomial in another order, in float32 basis images.
GALSIM_ATOL = 1e-7
# File order of PSFEx's second-degree terms: 1, x, x^2, y, x y, y^2.
POWERS = ((0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (0, 2))


def basis_images(seed=0, n=15):
    rng = np.random.default_rng(seed)
    y, x = np.indices((n, n)) - (n - 1) / 2
    images = rng.normal(scale=1e-3, size=(6, n, n))
    images[0] += np.exp(-(x**2 + y**2) / 8) / (2 * np.pi * 4)
    return images.astype("f4")


def write_psfex(path, images, **changes):
    """A file in PSFEx's own layout: everything but the images in the header."""
    column = fits.Column(
        "PSF_MASK", f"{images.size}E", dim=str(images.shape[::-1]), array=images[None]
    )
    hdu = fits.BinTableHDU.from_columns([column], name="PSF_DATA")
    cards = {
        "POLNAXIS": 2, "POLGRP1": 1, "POLNAME1": "X_IMAGE", "POLZERO1": 1024.5, "POLSCAL1": 2000.0,
        "POLGRP2": 1, "POLNAME2": "Y_IMAGE", "POLZERO2": 2048.5, "POLSCAL2": 4000.0,
        "POLNGRP": 1, "POLDEG1": 2, "PSF_FWHM": 4.0, "PSF_SAMP": 0.8, "PSFNAXIS": 3,
        "PSFAXIS1": images.shape[2], "PSFAXIS2": images.shape[1], "PSFAXIS3": images.shape[0],
    }  # fmt: skip
    for key, value in (cards | changes).items():
        if value is not None:
            hdu.header[key] = value
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path)
    return path


def write_merged(path, stacks, sizes):
    """A merged table: everything in columns, images padded at their end to the largest."""
    largest = max(sizes)
    padded = np.zeros((len(stacks), 6, largest, largest), "f4")
    for row, (images, n) in enumerate(zip(stacks, sizes, strict=True)):
        padded[row, :, :n, :n] = images
    values = {
        "polname1": ["X_IMAGE"] * 2, "polname2": ["Y_IMAGE"] * 2, "polgrp1": [1, 1],
        "polgrp2": [1, 1], "polnaxis": [2, 2], "poldeg1": [2, 2], "polzero1": [100.0, -50.0],
        "polzero2": [200.0, -60.0], "polscal1": [2000.0, 1000.0], "polscal2": [4000.0, 3000.0],
        "psf_samp": [1.0, 1.0], "psfaxis1": sizes, "psfaxis2": sizes, "psfaxis3": [6, 6],
        "expnum": [7, 7], "ccdname": ["N10", "N11"],
    }  # fmt: skip
    columns = []
    for name, value in values.items():
        kind = "7A" if isinstance(value[0], str) else "K" if isinstance(value[0], int) else "D"
        columns.append(fits.Column(name, kind, array=value))
    dim = str(padded.shape[:0:-1])
    columns.append(fits.Column("psf_mask", f"{padded[0].size}E", dim=dim, array=padded))
    hdu = fits.BinTableHDU.from_columns(columns)
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path)
    return path


def test_agrees_with_galsim(tmp_path):
    path = write_psfex(tmp_path / "a.psf", basis_images())
    model = read_psfex(path)
    theirs = galsim.des.DES_PSFEx(str(path))
    for x, y in ((0, 0), (511.3, 1800.2), (2047, 4095)):
        # GalSim takes FITS positions, 1-indexed.
        expected = theirs.getPSFArray(galsim.PositionD(x + 1, y + 1))
        assert np.allclose(model.image(x, y, normalize=False), expected, rtol=0, atol=GALSIM_ATOL)
    assert model.image(511.3, 1800.2).sum() == pytest.approx(1, abs=1e-12)
    assert model.oversample == pytest.approx(1.25) and model.includes_pixel


def test_merged_rows_and_padding(tmp_path):
    stacks, sizes = [basis_images(1, 15), basis_images(2, 11)], [15, 11]
    path = write_merged(tmp_path / "merged.fits", stacks, sizes)
    model = read_psfex(path, expnum=7, ccdname="N11")
    u, v = (30.5 + 1 + 50) / 1000, (40.0 + 1 + 60) / 3000
    direct = sum(u**i * v**j * image for (i, j), image in zip(POWERS, stacks[1], strict=True))
    assert model.image(30.5, 40).shape == (11, 11)
    assert np.allclose(model.image(30.5, 40, normalize=False), direct, rtol=1e-6, atol=1e-12)
    with pytest.raises(InputError, match="2 rows of 2 for expnum 7; expected exactly one"):
        read_psfex(path, expnum=7)
    with pytest.raises(InputError, match="0 rows of 2"):
        read_psfex(path, expnum=7, ccdname="S1")


def test_shift_moves_the_frame(tmp_path):
    model = read_psfex(write_psfex(tmp_path / "a.psf", basis_images()))
    assert np.allclose(model.shifted(35, 1465).image(3, 4), model.image(38, 1469), atol=1e-15)


def test_survey_files(data_dir):
    paths = sorted(data_dir.glob("*/calib/psfex*/**/*-psfex.fits"))
    assert len(paths) == 12
    for path in paths:
        model = read_psfex(path)
        raw, unit = model.image(20, 20, normalize=False), model.image(20, 20)
        # The README: the sums are 1.01-1.04.
        assert 1.01 < raw.sum() < 1.04
        middle = (np.array(unit.shape) - 1) // 2
        assert np.unravel_index(unit.argmax(), unit.shape) == tuple(middle)
    folder = data_dir / "bok_mosaic_grz" / "calib"
    merged = read_psfex(next(folder.glob("psfex/**/ksb_170430*-psfex.fits")), ccdname="CCD4")
    single = read_psfex(next(folder.glob("psfex-single/**/ksb_170430*-psfex.fits")))
    assert np.allclose(merged.image(50, 60), single.image(50, 60), atol=1e-7)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"POLNAME1": "MAG_AUTO"}, "depends on MAG_AUTO"),
        ({"POLDEG1": 3}, "degree 3 needs 10"),
        ({"PSF_SAMP": None}, "lacks 'PSF_SAMP'"),
        ({"PSF_SAMP": 0.0}, "PSF_SAMP 0.0"),
        ({"POLZERO1": None}, "lacks 'POLZERO1'"),
    ],
)
def test_bad_models(tmp_path, changes, sentence):
    path = write_psfex(tmp_path / "bad.psf", basis_images(), **changes)
    with pytest.raises(InputError, match=sentence):
        read_psfex(path)


def test_bad_files(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_psfex(tmp_path / "none.psf")
    (tmp_path / "text.psf").write_text("not FITS")
    with pytest.raises(InputError, match="cannot be read as FITS"):
        read_psfex(tmp_path / "text.psf")
    fits.PrimaryHDU(np.zeros((3, 3))).writeto(tmp_path / "image.fits")
    with pytest.raises(InputError, match="no table with a 'psf_mask' column"):
        read_psfex(tmp_path / "image.fits")
    path = write_psfex(tmp_path / "a.psf", basis_images())
    with pytest.raises(InputError, match="no extension 'NOPE'"):
        read_psfex(path, ext="NOPE")
