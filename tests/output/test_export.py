"""Exported catalogues, chains and regions, against astropy, numpy, scipy and regions themselves."""

import json
from dataclasses import replace

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.io.votable.ucd import check_ucd
from astropy.table import Table
from astropy.wcs.utils import skycoord_to_pixel
from export_case import run_result, write_run
from scipy.integrate import dblquad
from synthetic_result import VALUES, make_wcs

from jaxpho.cli import main
from jaxpho.output import photometry
from jaxpho.output.final import FinalTables
from jaxpho.output.photometry import Sersic
from jaxpho.output.runfiles import RunFiles

MAG = 2.5 / np.log(10)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(folder of the export, the fit)."""
    run, result = write_run(tmp_path_factory.mktemp("run"))
    assert main(["export", str(run), "--what", "catalogue,samples,regions", "-q"]) == 0
    return run / "export", result


def column(result, s, name, band=""):
    return result.index(s, name, band)


def test_tables_pass_the_verifier_and_keep_units_in_both_formats(exported):
    folder, _ = exported
    for name in ("catalog_optimum", "catalog_samples", "chains"):
        with fits.open(folder / f"{name}.fits") as hdus:
            hdus.verify("exception")
            cards = hdus[1].header
        one, two = (Table.read(folder / f"{name}.{end}") for end in ("fits", "ecsv"))
        assert one.colnames == two.colnames and len(one) == len(two) == 3
        for i, key in enumerate(one.colnames, start=1):
            assert two[key].description and cards[f"TCOMM{i}"]
            assert check_ucd(two[key].meta["ucd"], check_controlled_vocabulary=True), key
            assert cards[f"TUCD{i}"] == two[key].meta["ucd"]
            if one[key].dtype.kind == "f":
                assert one[key].unit == two[key].unit, key
                np.testing.assert_allclose(
                    np.ma.filled(one[key], np.nan), np.ma.filled(two[key], np.nan), rtol=1e-6
                )
        assert f"| {one.colnames[-1]} |" in (folder / "README.md").read_text()
    assert one["flux_g"].unit == u.nJy and one["rhalf"].unit == u.arcsec


def test_optimum_has_laplace_errors_and_samples_have_those_of_the_draws(exported):
    folder, result = exported
    optimum, sampled = (Table.read(folder / f"catalog_{k}.ecsv") for k in ("optimum", "samples"))
    at = column(result, 0, "rhalf")
    assert optimum["rhalf_err"][0] == pytest.approx(result.covariance[at, at] ** 0.5)
    assert set(optimum["errors_from"]) == {"laplace"} and set(sampled["errors_from"]) == {"samples"}
    pair = [column(result, 0, "flux", band) for band in "gr"]
    np.testing.assert_allclose(optimum["flux_cov"][0], result.covariance[np.ix_(pair, pair)])
    draws = result.samples[..., at].ravel()
    assert sampled["rhalf_err"][0] == pytest.approx(draws.std())
    assert sampled["rhalf_mean"][0] == pytest.approx(draws.mean())
    for end, q in (("p16", 15.865525), ("p50", 50), ("p84", 84.134475)):
        assert sampled[f"rhalf_{end}"][0] == pytest.approx(np.percentile(draws, q))
        mags = 31.4 - 2.5 * np.log10(result.samples[..., pair[0]].ravel())
        assert sampled[f"mag_g_{end}"][0] == pytest.approx(np.percentile(mags, q))
    assert 0.99 < sampled["rhalf_rhat"][0] < 1.1
    assert 100 < sampled["rhalf_ess_bulk"][0] < 1000  # 240 independent draws
    assert np.isfinite(sampled["dec_p16"]).all()
    assert abs(sampled["ra_p50"][0] - sampled["ra"][0]) * 3.6e6 < 5 * sampled["ra_err"][0]


def test_magnitudes_and_colours_by_hand(exported):
    table = Table.read(exported[0] / "catalog_optimum.ecsv")
    f, c = VALUES["flux"], table["flux_cov"][0]
    assert table["mag_g"][0] == pytest.approx(31.4 - 2.5 * np.log10(f))
    assert (table["flux_g"].quantity[0]).to(u.ABmag).value == pytest.approx(
        table["mag_g"][0], abs=1e-3  # 3631 Jy is 31.40 nJy to .0001 mag
    )  # fmt: skip
    assert table["mag_g_err"][0] == pytest.approx(MAG * c[0, 0] ** 0.5 / f, rel=1e-4)
    assert table["color_g_r"][0] == pytest.approx(0, abs=1e-12)
    by_hand = MAG / f * (c[0, 0] + c[1, 1] - 2 * c[0, 1]) ** 0.5
    assert table["color_g_r_err"][0] == pytest.approx(by_hand, rel=1e-4)
    area = 2 * np.pi * VALUES["rhalf"] ** 2
    assert table["sb_g"][0] == pytest.approx(table["mag_g"][0] + 2.5 * np.log10(area))
    assert table["ellipticity"][0] == pytest.approx(1 - table["q"][0])
    # a star's light is all at its centre; of two components there is no one Kron radius
    assert table["flux_kron_g"][1] == table["flux_aper1_g"][1] == pytest.approx(f)
    assert np.isnan(table["flux_kron_g"][2]) and table["kron_disk"][2] > 0


def test_fluxes_within_apertures_and_kron_radii():
    one, four = (Sersic(*map(np.array, (1.0, n, 0.4))) for n in (1.0, 4.0))
    # n = 1: 1 - (1 + x) exp(-x) at 2.5 x 2 scale lengths; n = 4: Graham & Driver (2005), table 1
    kron = one.within_ellipse(2.5 * one.kron_radius())
    assert kron == pytest.approx(1 - 6 * np.exp(-5), rel=1e-9)
    assert four.within_ellipse(2.5 * four.kron_radius()) == pytest.approx(0.904, abs=1e-3)
    assert one.within_ellipse(1.0) == pytest.approx(0.5)
    # the circle by brute force, for n = 1: exp(-b m), with m^2 = x^2 q + y^2 / q
    b, q, radius = 1.6783469900166605, 0.4, 0.8

    def light(t, r):
        m = r * np.sqrt(q * np.cos(t) ** 2 + np.sin(t) ** 2 / q)
        return r * np.exp(-b * m) * b**2 / (2 * np.pi)

    brute, _ = dblquad(light, 0, radius, 0, 2 * np.pi)
    assert one.within_circle(radius) == pytest.approx(brute, rel=1e-6)
    assert photometry.magnitude_factor("electron/s") is None


def test_chains_are_the_stored_draws(exported):
    folder, result = exported
    table = Table.read(folder / "chains.fits")
    assert table["flux_g"].shape == (3, *result.samples.shape[:2])
    at = column(result, 2, "rhalf_bulge")
    np.testing.assert_allclose(table["rhalf_bulge"][2], result.samples[..., at], rtol=1e-6)
    np.testing.assert_array_equal(table["nchain"], 4)


def test_shapes_of_bands_choices_and_diagnostics(tmp_path):
    result = run_result()
    extra = [(0, "drhalf", ""), (0, "dsersic", "r")]
    n, rng = len(result.theta), np.random.default_rng(8)
    covariance = np.zeros((n + 2, n + 2))
    covariance[:n, :n], covariance[n:, n:] = result.covariance, np.diag([0.04, 0.01])
    more = np.array([-2.0, 1.0]) + rng.normal(size=(*result.samples.shape[:2], 2)) * [0.2, 0.1]
    choice = {"type": "sersic", "chi2": {"point": 90.0, "sersic": 0.0, "exp": 8.0, "dev": 7.0},
              "score": {"point": 80.0, "sersic": 0.0, "exp": 6.0, "dev": 5.0}}  # fmt: skip
    result = replace(
        result, labels=result.labels + extra, covariance=covariance, choices=[choice, None, None],
        theta=np.append(result.theta, [-2.0, 1.0]),
        samples=np.concatenate([result.samples, more], -1),
        at_bound=np.zeros(n + 2, bool), source_residual_peak=np.array([1.0, -6.0, 2.0]),
        diagnostics={"divergences": 3, "ebfmi": np.array([0.9, 0.7, 1.0, 0.8]), "method": "svi",
                     "piled_up": np.arange(n + 2) == n},
    )  # fmt: skip
    made = FinalTables(RunFiles(tmp_path, {}, {}), wavelengths={"g": 0.5, "r": 0.7})
    made.add(result)
    tables = made.tables()
    optimum, sampled = tables["catalog_optimum"], tables["catalog_samples"]
    for table in tables.values():
        for key in table.colnames:
            assert check_ucd(table[key].meta["ucd"], check_controlled_vocabulary=True), key
    # ln rhalf is linear in wavelength about .6 micron, n is another one in r
    q, flux = optimum["q"][0], VALUES["flux"]
    for band, step, index in (("g", -0.1, 2.0), ("r", 0.1, 3.0)):
        rhalf = VALUES["rhalf"] * np.exp(-2.0 * step)
        own = Sersic(*map(np.array, (rhalf, index, q)))
        for table in (optimum, sampled):
            assert table[f"flux_aper1_{band}"][0] == pytest.approx(flux * own.within_circle(0.5))
            kron = own.within_ellipse(2.5 * own.kron_radius())
            assert table[f"flux_kron_{band}"][0] == pytest.approx(flux * kron)
            sb = 31.4 - 2.5 * np.log10(flux / (2 * np.pi * rhalf**2))
            assert table[f"sb_{band}"][0] == pytest.approx(sb)
        # d sb / d slope = 5 / ln 10 step
        got = optimum[f"sb_{band}_err"][0] ** 2
        rest = result.covariance[column(result, 0, "rhalf"), column(result, 0, "rhalf")]
        f = column(result, 0, "flux", band)
        cross = result.covariance[column(result, 0, "rhalf"), f]
        by_hand = (2 * MAG) ** 2 * (rest / VALUES["rhalf"] ** 2 + 0.04 * step**2)
        by_hand += MAG**2 * result.covariance[f, f] / flux**2
        by_hand -= 4 * MAG**2 * cross / flux / VALUES["rhalf"]
        assert got == pytest.approx(by_hand, rel=1e-3)
    assert optimum["drhalf_err"][0] == pytest.approx(0.2)
    assert sampled["dsersic_r_mean"][0] == pytest.approx(more[..., 1].mean())
    assert 100 < sampled["drhalf_ess_bulk"][0] < 1000
    np.testing.assert_allclose(tables["chains"]["drhalf"][0], more[..., 0], rtol=1e-6)
    assert np.isnan(optimum["drhalf"][1]) and "drhalf_r" not in optimum.colnames
    assert optimum["dchi2_point"][0] == 90 and sampled["type_margin"][0] == 5
    assert list(optimum["residual_peak"]) == [1, -6, 2]
    assert set(optimum["divergences"]) == {-1} and set(sampled["divergences"]) == {3}
    assert sampled["ebfmi_min"][0] == 0.7 and sampled["piled_up"][0] == "drhalf"
    assert set(sampled["errors_from"]) == {"svi draws"}
    # without wavelengths, that are not the name's own either, nothing is guessed
    odd = replace(result, bands=["A1", "A2"], labels=[
        (s, name, {"g": "A1", "r": "A2"}.get(band, band)) for s, name, band in result.labels
    ])  # fmt: skip
    made = FinalTables(RunFiles(tmp_path, {}, {}), chains=False)
    made.add(odd)
    table = made.tables()["catalog_optimum"]
    assert np.isnan(table["flux_kron_A1"][0]) and table["flux_kron_A1"][1] == pytest.approx(flux)
    assert table["kron"][0] > 0 and table["mag_A1"][0] == optimum["mag_g"][0]


@pytest.mark.parametrize("end", ["reg", "crtf"])
def test_regions_load_and_lie_on_the_sources(exported, end):
    from regions import Regions

    folder, result = exported
    table = Table.read(folder / "catalog_optimum.ecsv")
    found = Regions.read(folder / f"sources.{end}")
    assert len(found) == 3 and len(Regions.read(folder / f"patches.{end}")) == 1
    wcs = make_wcs(0.1, 35.0, (50.0, 50.0))
    for region, row in zip(found, table, strict=True):
        assert str(row["id"]) in map(str, (region.meta.get("text"), region.meta.get("label")))
        here = SkyCoord(row["ra"], row["dec"], unit="deg")
        assert region.center.icrs.separation(here) < 0.01 * u.arcsec
    # the end of the major axis lies at its position angle, just inside and just outside
    row, ellipse = table[0], found[0].to_pixel(wcs)
    here = SkyCoord(row["ra"], row["dec"], unit="deg")
    from regions import PixCoord

    for factor, inside in ((0.98, True), (1.02, False)):
        far = here.directional_offset_by(row["pa"] * u.deg, factor * row["rhalf_major"] * u.arcsec)
        assert ellipse.contains(PixCoord(*skycoord_to_pixel(far, wcs))) == inside
    (patch,) = Regions.read(folder / f"patches.{end}")
    assert all(patch.contains(SkyCoord(table["ra"], table["dec"], unit="deg"), wcs))


def test_a_map_of_columns_a_damaged_patch_and_refusals(tmp_path, capsys):
    run, result = write_run(tmp_path)
    (tmp_path / "map.yml").write_text(
        json.dumps({"columns": {"TARGETID": "id", "FLUX_IVAR_G": {
            "column": "flux_g_err", "unit": "nanomaggy", "power": -2}}})
    )  # fmt: skip
    arguments = ["export", str(run), "--what", "catalogue", "--formats", "fits", "-q"]
    assert main([*arguments, "--dry-run"]) == 0 and not (run / "export").exists()
    assert main([*arguments, "--columns", str(tmp_path / "map.yml")]) == 0
    table = Table.read(run / "export" / "catalog_optimum.fits", unit_parse_strict="silent")
    assert table.colnames == ["TARGETID", "FLUX_IVAR_G"]
    at = column(result, 0, "flux", "g")
    assert table["FLUX_IVAR_G"][0] == pytest.approx(3631**2 / result.covariance[at, at])
    assert main(arguments) == 2 and "give --overwrite" in capsys.readouterr().err
    assert main([*arguments, "--apertures", "-1"]) == 2
    assert main(["export", str(tmp_path / "map.yml")]) == 2
    (tmp_path / "map.yml").write_text(json.dumps({"columns": {"A": "nothing"}}))
    assert main([*arguments, "--overwrite", "--columns", str(tmp_path / "map.yml")]) == 2
    assert "no column 'nothing'" in capsys.readouterr().err
    (run / "patches" / "patch4_samples.h5").write_bytes(b"not HDF5")
    (run / "patches" / "patch3_samples.h5").write_bytes(b"neither")
    assert main([*arguments, "--overwrite"]) == 1
    table = Table.read(run / "export" / "catalog_optimum.fits")
    assert list(table["read_from"]) == ["catalog"] * 3 and np.ma.is_masked(table["rhalf_err"][0])
    assert table["rhalf"][0] == pytest.approx(VALUES["rhalf"])
    assert not (run / "export" / "catalog_samples.fits").exists()
