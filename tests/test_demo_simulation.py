"""The demo's simulated field is what its truth table says, judged by astropy and numpy alone."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from matplotlib.figure import Figure

pytest.importorskip("galsim")
DEMO = Path(__file__).resolve().parent.parent / "notebooks" / "demo"
POSITION_TOLERANCE = 2e-4  # arcsec: centroid of a noiseless image cut at the image's edge
SHAPE_TOLERANCE = 2e-3  # e1, e2 from moments of a Gaussian profile (n = 0.5) without PSF


@pytest.fixture(scope="module")
def demo():
    """The demo's modules, imported as its scripts import them."""
    sys.path.insert(0, str(DEMO))
    names = ("demo_field", "demo_forecast", "simulate", "compare")
    modules = {name: importlib.import_module(name) for name in names}
    yield modules
    sys.path.remove(str(DEMO))


@pytest.fixture(scope="module")
def run(demo, tmp_path_factory):
    """One simulated field on disk."""
    out = tmp_path_factory.mktemp("demo")
    demo["simulate"].simulate(7, out)
    return out


def test_field_holds_what_the_demo_promises(run):
    truth = Table.read(run / "truth.ecsv")
    galaxies = truth[truth["type"] == "sersic"]
    assert len(galaxies) == 14 and len(truth) == 17
    assert 10 <= truth["sn"].min() < 20 and 200 < truth["sn"].max() <= 300
    assert 0.7 <= galaxies["sersic"].min() < 1.1 and 4.6 < galaxies["sersic"].max() <= 5
    assert truth["flux_g"].unit == "nJy" and truth["rhalf"].unit == "arcsec"
    cos = np.cos(np.radians(truth["dec"].mean()))
    for pair in (0, 1):
        a, b = truth[truth["pair"] == pair]
        distance = 3600 * np.hypot((a["ra"] - b["ra"]) * cos, a["dec"] - b["dec"])
        assert 0.7 < distance < 2.5 * 0.8
    assert sorted(truth["type"][truth["pair"] == 1]) == ["point", "sersic"]


def test_peaks_hide_the_truth(run):
    truth, peaks = Table.read(run / "truth.ecsv"), Table.read(run / "peaks.fits")
    assert peaks.colnames == ["id", "ra", "dec", "type"]
    shift = 3600 * np.abs(peaks["dec"] - truth["dec"])
    assert 0 < shift.max() < 0.13 and np.std(shift) > 0.01


def test_images_have_the_noise_they_quote_and_garbage_where_masked(run):
    files = sorted((run / "images").glob("*.fits"))
    assert [f.stem for f in files] == [b + str(i) for b in "gz" for i in range(4)]
    for path in files:
        with fits.open(path) as hdus:
            sci, err, dq = (hdus[k].data for k in ("SCI", "ERR", "DQ"))
            assert "MAGZPT" in hdus["SCI"].header
        assert 0.003 < np.mean(dq > 0) < 0.05
        assert np.isnan(sci[dq > 0]).any() and np.nanmax(np.abs(sci[dq > 0])) > 1e4
        good = dq == 0
        assert np.isfinite(sci[good]).all() and (err[good] > 0).all()
        # the lower half of the pixels by expected variance sees little of the sources
        blank = good & (err < np.median(err))
        assert abs(np.std(sci[blank] / err[blank]) - 1) < 0.03


def test_psf_images_are_complete_and_centred(run):
    for path in sorted((run / "psf").glob("*.fits")):
        image = fits.getdata(path).astype(float)
        assert image.sum() == pytest.approx(1, abs=3e-4)
        y, x = np.indices(image.shape)
        middle = (image.shape[0] - 1) / 2
        assert (image * x).sum() / image.sum() == pytest.approx(middle, abs=1e-3)
        assert (image * y).sum() / image.sum() == pytest.approx(middle, abs=1e-3)


def test_sources_stand_and_point_where_astropy_says(demo):
    """Centroid and second moments on the sky, through astropy's own SIP, of a Gaussian galaxy."""
    field, forecast = demo["demo_field"], demo["demo_forecast"]
    exposures = field.make_exposures(np.random.default_rng(3), per_band=2)
    source = field.Source(1, "sersic", -6.0, 4.0, 50.0, 1.0, 0.8, 0.5, 0.5, 30.0)
    ra0, dec0 = source.sky
    for exposure in exposures:
        exposure.psf = field.galsim.Gaussian(sigma=0.01)
        box = forecast.window(exposure, [source])
        image = exposure.draw(exposure.profile(source), exposure.position(source), box)
        assert image.sum() == pytest.approx(1, abs=1e-3)
        y, x = np.indices(image.shape, float)
        wcs = WCS(exposure.header)
        ra, dec = wcs.all_pix2world(x + box.xmin - 1, y + box.ymin - 1, 0)
        dx = 3600 * (ra - ra0) * np.cos(np.radians(dec0))
        dy = 3600 * (dec - dec0)
        # the exact distortion has curvature that the local WCS of the drawing leaves out
        cx, cy = (image * dx).sum() / image.sum(), (image * dy).sum() / image.sum()
        curvature = 0.5 * exposure.band.scale / (exposure.band.npix / 2) ** 2 * 30
        assert np.hypot(cx, cy) < POSITION_TOLERANCE + curvature
        xx, yy, xy = (
            (image * p * q).sum() / image.sum() - m
            for p, q, m in ((dx, dx, cx * cx), (dy, dy, cy * cy), (dx, dy, cx * cy))
        )
        xx, yy = xx - exposure.band.scale**2 / 12, yy - exposure.band.scale**2 / 12
        # position angle East of North: 2 pa = atan2(2 xy, yy - xx) with x East, y North
        pa = np.degrees(0.5 * np.arctan2(2 * xy, yy - xx))
        root = np.hypot((xx - yy) / 2, xy)
        q = np.sqrt(((xx + yy) / 2 - root) / ((xx + yy) / 2 + root))
        rhalf = np.sqrt(2 * np.log(2)) * (xx * yy - xy * xy) ** 0.25
        e, (e1, e2) = (1 - q) / (1 + q), source.shape
        assert e * np.cos(2 * np.radians(pa)) == pytest.approx(e1, abs=SHAPE_TOLERANCE)
        assert e * np.sin(2 * np.radians(pa)) == pytest.approx(e2, abs=SHAPE_TOLERANCE)
        assert rhalf == pytest.approx(0.8, rel=2e-3)


def test_distortion_matters(demo):
    """The SIP terms move positions by more than a tenth of a pixel: a fit must use them."""
    for exposure in demo["demo_field"].make_exposures(np.random.default_rng(5), per_band=1):
        wcs = WCS(exposure.header)
        corner = np.array([[20.0, 20.0], [exposure.band.npix - 20.0, 30.0]])
        shift = wcs.sip_pix2foc(corner, 0) - (corner - np.array(wcs.wcs.crpix) + 1)
        assert np.abs(shift).max() > 0.1


def test_a_seed_is_a_field(demo):
    field = demo["demo_field"]
    first, again = (field.make_sources(np.random.default_rng(11)) for _ in range(2))
    other = field.make_sources(np.random.default_rng(12))
    assert first == again and first != other


def test_linearised_optimum_is_distributed_as_forecast(run):
    truth = Table.read(run / "truth.ecsv")
    names = [c.removesuffix("_shift") for c in truth.colnames if c.endswith("_shift")]
    pulls = np.concatenate([truth[n + "_shift"] / truth[n + "_forecast"] for n in names])
    pulls = np.asarray(pulls)[np.isfinite(pulls)]
    assert pulls.size == 14 * 8 + 3 * 4
    assert abs(pulls.mean()) < 0.35 and 0.75 < pulls.std() < 1.3


@pytest.fixture
def perfect_run(run, tmp_path):
    """A run directory whose catalogue is the truth plus the shift that the noise produces."""
    truth = Table.read(run / "truth.ecsv")
    table = Table({"id": truth["id"].astype(str), "flags": np.zeros(len(truth), int)})
    cos = np.cos(np.radians(truth["dec"]))
    for name in ("ra", "dec", "flux_g", "flux_z", "rhalf", "sersic", "e1", "e2"):
        scale = {"ra": 3600 * cos, "dec": 3600}.get(name, 1.0)
        table[name] = np.asarray(truth[name]) + np.asarray(truth[f"{name}_shift"]) / scale
        unit = "mas" if name in ("ra", "dec") else truth[name].unit
        error = np.asarray(truth[f"{name}_forecast"]) * (1e3 if unit == "mas" else 1)
        table[f"{name}_err"] = error
        table[f"{name}_err"].unit = unit
    noise = np.random.default_rng(1).standard_normal((2, 80, 80)).astype(np.float32)
    for i, chi in enumerate(noise):
        hdus = [fits.PrimaryHDU(), fits.ImageHDU(chi, name="CHI")]
        hdus[0].header["EXPOSURE"] = f"g{i}"
        hdus.append(fits.ImageHDU(np.zeros(chi.shape, np.int32), name="PATCH"))
        fits.HDUList(hdus).writeto(tmp_path / f"image{i}.fits")
    return tmp_path, table


def judged(demo, run, out, table, capsys):
    """Exit code and printed text of compare.py."""
    table.write(out / "catalogue.fits", overwrite=True)
    code = demo["compare"].main([str(out), str(run / "truth.ecsv")])
    return code, capsys.readouterr().out


def test_comparison_accepts_the_best_possible_fit(demo, run, perfect_run, capsys):
    out, table = perfect_run
    code, text = judged(demo, run, out, table, capsys)
    assert code == 0, text
    assert max(map(len, text.splitlines())) <= 100 + len(str(out))
    pulls = Table.read(out / "pulls.ecsv")
    assert len(pulls) == 14 * 8 + 3 * 4 and 100 < pulls["counts"].sum() < len(pulls)
    np.testing.assert_allclose(pulls["pull"], pulls["linear_shift"] / pulls["cramer_rao"], 1e-3)
    assert (out / "pulls.png").is_file() and "pulls.png" in text
    # three fields pooled have more than 300 values
    assert demo["compare"].main(["pool", str(out), str(out), str(out)]) == 0


def test_flags_are_told_by_name(demo, run, perfect_run, capsys):
    out, table = perfect_run
    table["flags"][1], table["flag_names"] = 8448, np.where(np.arange(len(table)) == 1, "a,b", "")
    _, text = judged(demo, run, out, table, capsys)
    assert f"sources with flags: {table['id'][1]} (a,b)" in text


def test_comparison_refuses_an_outlier_a_bias_and_a_missing_source(
    demo, run, perfect_run, capsys, monkeypatch
):
    (out, table), axes = perfect_run, []
    for change, complaint in (
        (("flux_g", 2, 9.0), "largest pull"),
        (("rhalf", slice(None), 6.0), "mean pull"),
        (("id", 4, None), "no finite pull"),
    ):
        name, rows, sigmas = change
        changed = table.copy()
        if sigmas is None:
            changed.remove_row(rows)
        else:
            changed[name][rows] += sigmas * changed[f"{name}_err"][rows]
        axes.clear()
        monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: axes.extend(self.axes))
        code, text = judged(demo, run, out, changed, capsys)
        assert code == 1 and complaint in text
        pulls = Table.read(out / "pulls.ecsv")
        worst = np.nanmax(np.abs(pulls["pull"][pulls["counts"]]))
        assert axes[0].get_xlim()[1] > worst and axes[1].get_ylim()[1] > worst  # it is seen
    with fits.open(out / "image0.fits", mode="update") as hdus:
        hdus["CHI"].data *= 1.1
    code, text = judged(demo, run, out, table, capsys)
    assert code == 1 and "residual / sigma in g0" in text
