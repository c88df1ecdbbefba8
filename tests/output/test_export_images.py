"""Exported images, mosaics and cutouts, against the input's WCS and the pixels that were fitted."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from export_case import NAMES, write_run
from synthetic_result import POSITIONS, REFERENCE, make_wcses

from jaxpho.cli import main


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(folder with the inputs, run directory, the fit) after an export of images."""
    folder = tmp_path_factory.mktemp("images")
    run, result = write_run(folder)
    assert main(["export", str(run), "--what", "mosaics,cutouts", "-q"]) == 0
    return folder, run, result


def star():
    """(ra, dec) of the second source of the case, a star."""
    dra, ddec = POSITIONS[1]
    return REFERENCE[0] + dra / 3600 / np.cos(np.deg2rad(REFERENCE[1])), REFERENCE[1] + ddec / 3600


def file_of(folder, name):
    (path,) = folder.glob(f"*{name}.fits")
    return path


def test_images_have_the_size_and_wcs_of_the_input_and_the_pixels_of_the_fit(exported):
    folder, run, result = exported
    for name in NAMES:
        given = WCS(fits.getheader(folder / f"{name}.fits", "SCI"))
        pixels = result.pixels[name]
        with fits.open(file_of(run / "export" / "images", name)) as hdus:
            hdus.verify("exception")
            layers = {k: hdus[k].data for k in ("DATA", "MODEL", "RESIDUAL", "CHI", "PATCH")}
            wcs = WCS(hdus["RESIDUAL"].header)
            assert hdus["RESIDUAL"].header["BUNIT"] == "nJy"
        x, y = wcs.world_to_pixel_values(*star())
        assert np.hypot(*np.subtract(given.world_to_pixel_values(*star()), (x, y))) < 0.01
        at = pixels["y"], pixels["x"]
        assert layers["MODEL"].shape == (pixels["y"].max() + 1, pixels["x"].max() + 1)
        np.testing.assert_allclose(layers["MODEL"][at], pixels["model"], atol=1e-4)
        np.testing.assert_array_equal(layers["DATA"][at], pixels["data"])
        good = pixels["ierr"] > 0
        assert np.isnan(layers["RESIDUAL"][at][~good]).all()
        chi = (pixels["data"] - pixels["model"]) * pixels["ierr"]
        np.testing.assert_allclose(layers["CHI"][at][good], chi[good], atol=1e-3)
        assert (layers["PATCH"] == 3).all()


def test_mosaics_keep_the_flux_of_a_source(exported):
    _, run, result = exported
    with fits.open(run / "export" / "mosaics" / "g.fits") as hdus:
        hdus.verify("exception")
        wcs, model = WCS(hdus["MODEL"].header), hdus["MODEL"].data
        residual = hdus["DATA"].data - model
        np.testing.assert_allclose(residual, hdus["RESIDUAL"].data, atol=1e-3)
        assert hdus["COVERAGE"].data.max() == pytest.approx(2, abs=0.01)  # two exposures
        y, x = np.indices(model.shape)
    # two exposures at an angle, each with a masked column that the other one fills: measured .05 %
    # for the field and .3 % within 2 arcsec of the star, .3 arcsec pixels
    np.testing.assert_allclose(np.nansum(model), 2750.0, rtol=2e-3)
    near = []
    for name in NAMES[:2]:
        pixels = result.pixels[name]
        near.append(_near(pixels["model"], make_wcses()[_key(name)], pixels["x"], pixels["y"]))
    np.testing.assert_allclose(_near(model, wcs, x, y), np.mean(near), rtol=0.01)
    assert (run / "export" / "mosaics" / "r.fits").exists()


def _key(name):
    return list(make_wcses())[NAMES.index(name)]


def _near(values, wcs, x, y):
    x0, y0 = wcs.world_to_pixel_values(*star())
    scale = 3600 * np.sqrt(abs(np.linalg.det(wcs.pixel_scale_matrix)))
    inside = np.hypot(x - x0, y - y0) * scale < 2.0
    return np.nansum(np.asarray(values)[inside])


def test_cutouts_are_parts_of_the_images_at_their_place(exported):
    folder, run, _ = exported
    with fits.open(run / "export" / "cutouts" / "star-7.fits") as hdus:
        hdus.verify("exception")
        assert len(hdus) == 1 + 4 * len(NAMES) and hdus[0].header["SOURCE"] == "star-7"
        for hdu in hdus[1:]:
            if hdu.name != "DATA":
                continue
            path = folder / f"{hdu.header['EXPOSURE']}.fits"
            image, header = fits.getdata(path, "SCI", header=True)
            x0, y0 = WCS(header).world_to_pixel_values(*star())
            x, y = WCS(hdu.header).world_to_pixel_values(*star())
            # a whole number of pixels apart, and the same values
            assert abs((x0 - x) - round(x0 - x)) < 1e-4 and abs((y0 - y) - round(y0 - y)) < 1e-4
            dx, dy = round(x0 - x), round(y0 - y)
            ny, nx = hdu.data.shape
            np.testing.assert_array_equal(hdu.data, image[dy : dy + ny, dx : dx + nx])
    assert sorted(p.name for p in (run / "export" / "cutouts").iterdir()) == [
        "101.fits", "2066.fits", "star-7.fits",
    ]  # fmt: skip


def test_arviz_files_hold_the_draws(exported):
    arviz = pytest.importorskip("arviz")
    _, run, result = exported
    assert main(["export", str(run), "--what", "arviz", "-q"]) == 0
    data = arviz.from_netcdf(run / "export" / "arviz" / "patch3_posterior.nc")
    drawn = np.array(data["posterior"]["rhalf"])[:, :, 0]
    data.close()
    np.testing.assert_allclose(drawn, result.samples[..., result.index(0, "rhalf")])


def test_without_the_input_images(exported, capsys):
    folder, run, result = exported
    for name in NAMES:
        (folder / f"{name}.fits").rename(folder / f"{name}.gone")
    arguments = ["export", str(run), "--what", "images", "--outdir", str(folder / "second"), "-q"]
    assert main(arguments) == 2
    assert "input images cannot be read" in capsys.readouterr().err
    # with images of the run, those tell WCS and size
    (run / "export" / "images").rename(run / "images")
    assert main(arguments) == 0
    assert "WCS and size are those of the run's images" in capsys.readouterr().err
    pixels = result.pixels[NAMES[0]]
    with fits.open(file_of(folder / "second" / "images", NAMES[0])) as hdus:
        np.testing.assert_array_equal(hdus["DATA"].data[pixels["y"], pixels["x"]], pixels["data"])
