"""Sky models against scipy directly, estimates and blank-pixel statistics on simulated noise."""

import numpy as np
import pytest
from astropy.io import fits
from fits_images import image_options
from scipy.interpolate import RectBivariateSpline

from jaxpho.data.ingest import read_images
from jaxpho.data.options import ImageOptions
from jaxpho.data.sky import (
    blank_pixels,
    blank_statistics,
    estimate_sky,
    mesh_sky,
    spline_sky,
)
from jaxpho.errors import InputError

SPLINE_RTOL = 1e-6  # gridvals are float32


def splinesky_row(pad=0):
    rng = np.random.default_rng(3)
    x, y = np.arange(9) * 50 - 1, np.arange(7) * 60 - 1
    values = rng.normal(100.0, 1.0, (7, 9)).astype(np.float32)
    row = {"gridvals": np.pad(values, ((0, pad), (0, pad))), "xgrid": np.pad(x, (0, pad)),
           "ygrid": np.pad(y, (0, pad)), "gridw": 9, "gridh": 7, "x0": 120, "y0": 90,
           "order": 3}  # fmt: skip
    return row, RectBivariateSpline(x, y, values.T.astype(float), kx=3, ky=3)


@pytest.mark.parametrize("pad", [0, 2])
def test_spline_sky_against_scipy(pad):
    row, spline = splinesky_row(pad)
    sky = spline_sky(row, (30, 40))
    expected = [[spline(120 + x, 90 + y)[0, 0] for x in (0, 17, 39)] for y in (0, 11, 29)]
    np.testing.assert_allclose(sky[np.ix_([0, 11, 29], [0, 17, 39])], expected, rtol=SPLINE_RTOL)


def test_spline_sky_errors():
    row, _ = splinesky_row()
    with pytest.raises(InputError, match="xgrid"):
        spline_sky({"gridvals": row["gridvals"]}, (5, 5), "sky.fits")
    bad = dict(row, gridvals=np.full((7, 9), np.nan))
    with pytest.raises(InputError, match="not finite"):
        spline_sky(bad, (5, 5))
    with pytest.raises(InputError, match="increase"):
        spline_sky(dict(row, xgrid=row["xgrid"][::-1]), (5, 5))


@pytest.mark.parametrize("data_set", ["decam_8exp_grz", "bok_mosaic_grz"])
def test_survey_sky_models(data_dir, data_set):
    """The subtracted level is the file's spline, and lies near the pipeline's median sky."""
    folder = data_dir / data_set
    options = image_options(preset="legacy", survey_dir=str(folder))
    without = image_options(preset="legacy", survey_dir=str(folder), sky={"subtract": "none"})
    bands = ["g", "r", "z"]
    clean = read_images([options], ".", bands).exposures
    raw = read_images([without], ".", bands).exposures
    files = {p.name: p for p in folder.glob("calib/sky-single/**/*.fits")}
    assert clean and len(clean) == len(raw)
    for a, b in zip(clean, raw, strict=True):
        row = fits.getdata(files[f"{a.name}-splinesky.fits"], 1)[0]
        n = int(row["gridh"]), int(row["gridw"])
        spline = RectBivariateSpline(
            row["xgrid"][: n[1]], row["ygrid"][: n[0]], row["gridvals"][: n[0], : n[1]].T
        )
        sky = (b.data - a.data).astype(float)
        model = spline(row["x0"] + np.arange(a.shape[1]), row["y0"] + np.arange(a.shape[0])).T
        # one factor to nJy per image; float32 pixels leave 1e-6 of the sky level
        np.testing.assert_allclose(sky / sky.mean(), model / model.mean(), rtol=1e-5)
        assert abs(model.mean() / row["sky_med"] - 1) < 0.01
        assert "splinesky" in a.notes["sky_from"]


def test_mesh_sky():
    x, y = np.meshgrid((np.arange(8) + 0.5) * 10 - 0.5, (np.arange(6) + 0.5) * 10 - 0.5)
    plane = 3.0 + 0.1 * x - 0.05 * y
    sky = mesh_sky(plane, (60, 80))
    yy, xx = np.mgrid[5:55, 5:75]
    np.testing.assert_allclose(sky[5:55, 5:75], 3.0 + 0.1 * xx - 0.05 * yy, atol=1e-9)
    assert np.ptp(sky[:, :4], axis=1).max() < 1e-9  # held beyond the outermost centres
    np.testing.assert_allclose(mesh_sky(np.array([[2.5]]), (6, 5)), 2.5)
    np.testing.assert_allclose(mesh_sky(np.ones((60, 80)), (60, 80)), 1.0)
    with pytest.raises(InputError, match="larger"):
        mesh_sky(np.ones((9, 9)), (5, 5))


def field(level=20.0, seed=0, shape=(160, 200)):
    rng = np.random.default_rng(seed)
    data = rng.normal(level, 1.0, shape)
    y, x = np.indices(shape)
    for cx, cy, flux in [(40, 50, 4000), (150, 100, 20000), (90, 30, 800), (100, 130, 1500)]:
        data += flux * np.exp(-0.5 * ((x - cx) ** 2 + (y - cy) ** 2) / 9) / (2 * np.pi * 9)
    return data


def test_blank_statistics_of_a_field():
    good = np.ones((160, 200), bool)
    stats = np.array([blank_statistics(field(seed=s), good)[:3] for s in range(12)])
    assert np.abs(stats[:, 0] - 20.0).max() < 0.03
    np.testing.assert_allclose(stats[:, 2], 1.0, rtol=0.03)
    pulls = (stats[:, 0] - 20.0) / stats[:, 1]
    assert np.sqrt((pulls**2).mean()) < 2.5  # the level carries its clipping bias too


def test_structure_widens_the_error():
    rng = np.random.default_rng(5)
    waves = np.kron(rng.normal(0, 0.5, (4, 5)), np.ones((40, 40)))
    good = np.ones((160, 200), bool)
    flat = blank_statistics(rng.normal(0, 1, (160, 200)), good)
    rough = blank_statistics(rng.normal(0, 1, (160, 200)) + waves, good)
    assert rough.error > 5 * flat.error and rough.structure > 0.2
    assert flat.structure < 0.05


def test_sources_are_not_blank():
    data = field()
    blank = blank_pixels(data, np.ones(data.shape, bool))
    assert not blank[45:56, 35:46].any() and not blank[95:106, 145:156].any()
    assert blank.mean() > 0.7


def test_estimates():
    data, good = field(), np.ones((160, 200), bool)
    good[:, :20] = False
    data[:, :20] = np.nan
    assert abs(estimate_sky(data, good) - 20.0) < 0.03
    y, x = np.indices(data.shape)
    tilted = data + 0.02 * x
    sky = estimate_sky(tilted, good, mesh=40)
    inner = (slice(20, 140), slice(40, 180))
    assert np.abs(sky[inner] - (20 + 0.02 * x[inner])).max() < 0.3
    with pytest.raises(InputError, match="usable"):
        blank_statistics(data, np.zeros_like(good))


def test_defaults_leave_the_sky_fixed():
    assert ImageOptions().sky.nuisance == "none"
