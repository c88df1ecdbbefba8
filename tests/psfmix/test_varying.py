"""PSFs on a grid of positions: interpolation, readers, and what they refuse."""

import galsim
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from jaxpho.errors import InputError
from psfmix.varying import PSFGrid, fit_varying, psfex_grid, read_grid

OVERSAMPLE = 2.0
# Error at a left-out interior position, relative to the largest at the positions themselves.
LEFT_OUT = 1.5
# Residual over peak of four Gaussians and more.
NODES = 1e-3


def draw(u, v, n=41):
    """FWHM up by 20 % and ellipticity from 0 to .1 over the field, u and v from 0 to 1."""
    star = galsim.Moffat(beta=3.0, fwhm=2.5 * (1 + 0.1 * (u + v)))
    star = star.shear(g=0.1 * v, beta=0.7 * galsim.radians)
    return star.drawImage(nx=n, ny=n, scale=1 / OVERSAMPLE).array.astype(float)


def make_grid(side, draw=draw):
    u, v = (a.ravel() for a in np.meshgrid(*[np.linspace(0, 1, side)] * 2))
    images = [draw(*place) for place in zip(u, v, strict=True)]
    return PSFGrid(images, np.stack([2000 * u, 2000 * v], -1), OVERSAMPLE)


def test_left_out_positions():
    grid = make_grid(5)
    model, found = fit_varying(grid, ngauss=3)
    assert model.parameters.shape == (25, 3) and model.locations.shape == (25, 2)
    interior = np.all((grid.locations > 0) & (grid.locations < 2000), axis=1)
    np.testing.assert_array_equal(np.isfinite(found.left_out), interior)
    assert found.left_out[interior].max() <= LEFT_OUT * found.at_nodes.max()
    assert model.attrs["left_out"] == found.left_out[interior].max()
    # components keep their meaning: their sizes follow the field smoothly
    size = np.sqrt(model.parameters["Cxx"] + model.parameters["Cyy"])
    assert (np.diff(size, axis=1) > 0).all()
    grids = size.reshape(5, 5, 3)
    assert np.abs(np.diff(grids, 2, axis=0)).max() < 0.05 * size.max()


@pytest.mark.parametrize(("ngauss", "signed"), [(4, False), (6, False), (4, True)])
def test_many_gaussians_correspond(ngauss, signed):
    """Components of rich mixtures are degenerate, and yet mean the same at all positions."""
    # the spacing of 5 x 5 positions, in a quarter of the field
    grid = make_grid(3, lambda u, v: draw(u / 2 + 0.25, v / 2 + 0.25))
    _, found = fit_varying(grid, ngauss=ngauss, signed=signed)
    assert found.at_nodes.max() < NODES
    assert np.nanmax(found.left_out) <= LEFT_OUT * found.at_nodes.max()


@pytest.mark.slow
@pytest.mark.parametrize("ngauss", [3, 4, 6])
@pytest.mark.parametrize("profile", ["Moffat 2.5", "Moffat 3.5", "Kolmogorov"])
def test_left_out_positions_of_other_profiles(profile, ngauss):
    def other(u, v):
        name, *beta = profile.split()
        star = getattr(galsim, name)(*map(float, beta), fwhm=2.5 * (1 + 0.1 * (u + v)))
        star = star.shear(g=0.1 * v, beta=0.7 * galsim.radians)
        return star.drawImage(nx=41, ny=41, scale=1 / OVERSAMPLE).array.astype(float)

    _, found = fit_varying(make_grid(5, other), ngauss=ngauss)
    assert found.at_nodes.max() < {3: 3e-3, 4: NODES, 6: NODES}[ngauss]
    assert np.nanmax(found.left_out) <= LEFT_OUT * found.at_nodes.max()


def test_two_positions_interpolate_nothing():
    grid = make_grid(2)
    grid = PSFGrid(grid.images[:2], grid.locations[:2], OVERSAMPLE)
    model, found = fit_varying(grid, ngauss=2)
    assert np.isnan(found.left_out).all() and "left_out" not in model.attrs


@pytest.fixture
def cube(tmp_path):
    grid = make_grid(2)
    hdu = fits.PrimaryHDU(np.array(grid.images))
    hdu.header["OVERSAMP"] = OVERSAMPLE
    hdu.writeto(tmp_path / "cube.fits")
    table = Table({"x": grid.locations[:, 0], "y": grid.locations[:, 1]})
    table["file"] = [f"psf{k}.fits" for k in range(4)]
    table.write(tmp_path / "places.csv")
    (tmp_path / "images").mkdir()
    for name, image in zip(table["file"], grid.images, strict=True):
        fits.PrimaryHDU(image, hdu.header).writeto(tmp_path / "images" / name)
    return tmp_path, grid


def test_cube_and_folder(cube):
    folder, grid = cube
    for source in ("cube.fits", "images"):
        found = read_grid(folder / source, folder / "places.csv")
        assert found.oversample == OVERSAMPLE
        np.testing.assert_array_equal(found.images, grid.images)
        np.testing.assert_allclose(found.locations, grid.locations)


def test_bad_grids(cube, tmp_path):
    folder, _ = cube
    Table({"x": [1.0], "y": [2.0]}).write(folder / "one.csv")
    with pytest.raises(InputError, match="4 images and .* 1 positions"):
        read_grid(folder / "cube.fits", folder / "one.csv")
    with pytest.raises(InputError, match="no column 'file'; expected x, y, file, found x, y"):
        read_grid(folder / "images", folder / "one.csv")
    Table({"x": ["a"], "y": [2.0]}).write(folder / "text.csv")
    with pytest.raises(InputError, match="x and y must be numbers"):
        read_grid(folder / "cube.fits", folder / "text.csv")
    with pytest.raises(InputError, match="expected a cube"):
        read_grid(folder / "images" / "psf0.fits", folder / "one.csv")
    with pytest.raises(InputError, match="does not exist"):
        read_grid(folder / "none.fits", folder / "one.csv")


def test_psfex(tmp_path):
    """A linear model: exactly what was put in, at every position."""
    base, slope = draw(0, 0), draw(1, 0) - draw(0, 0)
    mask = np.array([base, slope, 0 * slope])[None]
    column = fits.Column("PSF_MASK", f"{mask.size}E", dim="(41,41,3)", array=mask)
    hdu = fits.BinTableHDU.from_columns([column], name="PSF_DATA")
    cards = {
        "POLNAXIS": 2, "POLZERO1": 1.0, "POLZERO2": 1.0, "POLSCAL1": 100.0, "POLSCAL2": 100.0,
        "POLNGRP": 1, "POLDEG1": 1, "POLGRP1": 1, "POLGRP2": 1, "PSF_SAMP": 1 / OVERSAMPLE,
        "PSFNAXIS": 3, "PSFAXIS1": 41, "PSFAXIS2": 41, "PSFAXIS3": 3, "POLNAME1": "X_IMAGE",
        "POLNAME2": "Y_IMAGE",
    }  # fmt: skip
    hdu.header.update(cards)
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(tmp_path / "a.psf")
    grid = psfex_grid(tmp_path / "a.psf", (101, 51), 2)
    assert grid.includes_pixel and grid.oversample == OVERSAMPLE
    np.testing.assert_allclose(grid.locations, [[0, 0], [100, 0], [0, 50], [100, 50]])
    expected = (base + slope) / (base + slope).sum()
    np.testing.assert_allclose(grid.images[1], expected, atol=1e-6 * expected.max())
    with pytest.raises(InputError, match="expected at least 2"):
        psfex_grid(tmp_path / "a.psf", (101, 51), 1)
