"""PSF images in the shapes that simulators and image makers give them."""

import h5py
import numpy as np
import pytest
from astropy.io import fits

from jaxpho.data.psfmodel import PSF_DTYPE
from jaxpho.errors import InputError
from psfmix.inputs import read_psf_cube, read_psf_image


def image(shape=(9, 11)):
    return np.random.default_rng(0).uniform(size=shape)


def write(path, *hdus):
    fits.HDUList(list(hdus)).writeto(path)
    return path


def test_plain(tmp_path):
    data = image()
    path = write(tmp_path / "psf.fits", fits.PrimaryHDU(data))
    found = read_psf_image(path, oversample=3)
    np.testing.assert_array_equal(found.image, data)
    assert found.oversample == 3 and found.oversample_from == "given"
    assert len(found.checksum) == 64


def test_first_image_extension_where_the_primary_is_empty(tmp_path, caplog):
    data = image()
    table = fits.BinTableHDU.from_columns([fits.Column("a", "E", array=[1.0])])
    path = write(tmp_path / "psf.fits", fits.PrimaryHDU(), table, fits.ImageHDU(data, name="OVER"))
    with caplog.at_level("INFO"):
        found = read_psf_image(path, oversample=1)
    np.testing.assert_array_equal(found.image, data)
    assert found.ext == "2 OVER" and "extension 0 is empty" in caplog.text


def test_stpsf_extensions(tmp_path):
    """Each extension of such a file has its own OVERSAMP."""
    hdus = [fits.PrimaryHDU(image((36, 36)))]
    for name in ("DET_SAMP", "OVERDIST", "DET_DIST"):
        hdus.append(fits.ImageHDU(image((36, 36) if "OVER" in name else (9, 9)), name=name))
    for hdu, factor in zip(hdus, (4, 1, 4, 1), strict=True):
        hdu.header["OVERSAMP"] = factor
    path = write(tmp_path / "psf.fits", *hdus)
    assert read_psf_image(path).oversample == 4
    assert read_psf_image(path, "DET_DIST").oversample == 1
    assert read_psf_image(path, "3").image.shape == (9, 9)
    assert read_psf_image(path, 2, oversample=2).oversample == 2


@pytest.mark.parametrize("card", ["OVERSAMP", "DET_SAMP", "OVERSAMPL"])
def test_oversampling_of_the_primary_header(tmp_path, card):
    primary = fits.PrimaryHDU()
    primary.header[card if len(card) <= 8 else f"HIERARCH {card}"] = 5
    found = read_psf_image(write(tmp_path / "psf.fits", primary, fits.ImageHDU(image())))
    assert found.oversample == 5 and card in found.oversample_from


def test_oversampling_from_pixel_scales(tmp_path):
    hdu = fits.PrimaryHDU(image())
    hdu.header["PIXELSCL"] = 0.01
    path = write(tmp_path / "psf.fits", hdu)
    assert read_psf_image(path, sci_pix_scale=0.04).oversample == pytest.approx(4)


def test_no_oversampling_is_warned_of(tmp_path, caplog):
    path = write(tmp_path / "psf.fits", fits.PrimaryHDU(image()))
    assert read_psf_image(path).oversample == 1
    assert "1 is assumed" in caplog.text


def test_cube(tmp_path):
    cube = image((3, 9, 11))
    path = write(tmp_path / "psf.fits", fits.PrimaryHDU(cube))
    np.testing.assert_array_equal(read_psf_image(path, oversample=1, plane=2).image, cube[2])
    with pytest.raises(InputError, match="--plane chooses one of its 3 planes"):
        read_psf_image(path, oversample=1)
    with pytest.raises(InputError, match="3 planes; plane 3"):
        read_psf_image(path, oversample=1, plane=3)
    flat = write(tmp_path / "flat.fits", fits.PrimaryHDU(cube[:1]))
    assert read_psf_image(flat, oversample=1).image.shape == (9, 11)


def test_bad_files(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_psf_image(tmp_path / "none.fits")
    text = tmp_path / "text.fits"
    text.write_text("SIMPLE but not FITS")
    with pytest.raises(InputError, match=r"text\.fits is not a readable FITS file"):
        read_psf_image(text)
    empty = write(tmp_path / "empty.fits", fits.PrimaryHDU())
    with pytest.raises(InputError, match="holds no image; its extensions are: 0 PRIMARY"):
        read_psf_image(empty)
    row = write(tmp_path / "row.fits", fits.PrimaryHDU(np.ones(5)))
    with pytest.raises(InputError, match=r"shape \(5,\); expected a 2-D image"):
        read_psf_image(row, oversample=1)
    good = write(tmp_path / "good.fits", fits.PrimaryHDU(image()))
    with pytest.raises(InputError, match="no extension 'SCI'; it has: 0 PRIMARY"):
        read_psf_image(good, "SCI")
    with pytest.raises(InputError, match="--oversample is 0; expected a positive number"):
        read_psf_image(good, oversample=0)
    hdu = fits.PrimaryHDU(image())
    hdu.header["DET_SAMP"] = "four"
    text = write(tmp_path / "card.fits", hdu)
    with pytest.raises(InputError, match="card DET_SAMP is 'four'"):
        read_psf_image(text)


@pytest.fixture
def hdf5(tmp_path):
    """Two images, one without attributes of its own, a cube and a spectrum."""
    path = tmp_path / "psf.hdf5"
    with h5py.File(path, "w") as file:
        file.attrs["OVERSAMP"] = 3
        file["a/spectrum"] = np.ones(5)
        file["b/psf"] = image()
        file["b/psf"].attrs["det_samp"] = np.int64(4)
        file["c"] = image((2, 9, 11))
        file["d"] = image((7, 7))
    return path


def test_hdf5(hdf5, caplog):
    with caplog.at_level("INFO", "psfmix.inputs"):
        found = read_psf_image(hdf5)
    np.testing.assert_array_equal(found.image, image())
    assert (found.ext, found.oversample, found.oversample_from) == (
        "b/psf",
        4,
        "attribute DET_SAMP",
    )
    assert "no data set given, taking b/psf" in caplog.text and len(found.checksum) == 64
    found = read_psf_image(hdf5, "/d")
    assert found.image.shape == (7, 7) and found.oversample == 3
    assert read_psf_image(hdf5, "c", plane=1).image.shape == (9, 11)
    assert [plane.image.shape for plane in read_psf_cube(hdf5)] == [(9, 11)] * 2


def test_bad_hdf5(hdf5, tmp_path):
    for ext, message in (
        ("e", r"has no data set 'e'; it has: a/spectrum, b/psf, c, d"),
        ("a/spectrum", r"shape \(5,\); expected a 2-D image"),
        ("c", "--plane chooses one of its 2 planes"),
    ):
        with pytest.raises(InputError, match=message):
            read_psf_image(hdf5, ext)
    store = tmp_path / "store.h5"
    with h5py.File(store, "w") as file:
        file["r/parameters"] = np.zeros((1, 9, 2), PSF_DTYPE)
        file["r/detector_locations"] = np.zeros((2, 1))
    with pytest.raises(InputError, match=r"store of PSF mixtures already \(r/parameters\)"):
        read_psf_image(store)
    with h5py.File(tmp_path / "empty.h5", "w"):
        pass
    with pytest.raises(InputError, match="holds no image; it has: nothing"):
        read_psf_image(tmp_path / "empty.h5")
    damaged = tmp_path / "half.h5"
    damaged.write_bytes(hdf5.read_bytes()[:600])
    with pytest.raises(InputError, match="half.h5 is not a readable HDF5 file"):
        read_psf_image(damaged)


def test_no_message_within_a_message(tmp_path):
    empty = write(tmp_path / "empty.fits", fits.PrimaryHDU())
    with pytest.raises(InputError) as caught:
        read_psf_image(empty)
    assert "not a readable" not in str(caught.value)


def test_plane_of_an_image(tmp_path):
    flat = write(tmp_path / "flat.fits", fits.PrimaryHDU(image()))
    with pytest.raises(InputError, match="--plane is for cubes"):
        read_psf_image(flat, oversample=1, plane=0)
    cube = write(tmp_path / "cube.fits", fits.PrimaryHDU(image((1, 9, 11))))
    assert read_psf_image(cube, oversample=1, plane=0).image.shape == (9, 11)
    with pytest.raises(InputError, match="expected a cube"):
        read_psf_cube(flat, oversample=1)
