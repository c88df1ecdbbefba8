"""The catalogue: units everywhere, errors by linear propagation against Monte Carlo."""

import warnings

import astropy.units as u
import numpy as np
import pytest
from synthetic_result import POSITIONS, REFERENCE, VALUES, make_result

from jaxpho.data.catalog import Peak
from jaxpho.fit import flags
from jaxpho.output import columns
from jaxpho.output.catalog import (
    make_table,
    read_catalog,
    row_of_peak,
    rows_of_patch,
    write_catalog,
)
from jaxpho.output.derived import PA_ERR_MAX, SourceView, ellipse_from_e, shape

# 200 000 draws give standard deviations to .16 % (1 sigma); the rest is the curvature of the
# derived quantities over errors of about 1-2 %.
DRAWS = 50_000
PROPAGATION_RTOL = 0.02


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def test_units_and_meanings_in_every_column(rng, tmp_path):
    result = make_result(rng, pixels=False)
    table = make_table(rows_of_patch(result), result.bands, result.unit)
    path = tmp_path / "catalog.fits"
    write_catalog(path, table)
    assert [p.name for p in tmp_path.iterdir()] == ["catalog.fits"]
    back = read_catalog(path)
    assert back.colnames == table.colnames
    expected = {
        "ra": u.deg, "dec_err": u.mas, "flux_g": u.nJy, "flux_disk_r_err": u.nJy,
        "flux_cov": u.nJy**2, "rhalf_major_bulge": u.arcsec, "pa_disk_err": u.deg,
        "radec_cov": u.mas**2,
    }  # fmt: skip
    for name, unit in expected.items():
        assert back[name].unit == unit, name
    dimensionless = (
        "q",
        "sersic",
        "e1",
        "e2",
        "flags",
        "chi2",
        "p_value",
        "residual_peak",
        "npix",
        "nexp",
        "patch",
        "rhat",
        "ess",
        "id",
        "type",
        "at_bound",
        "fixed",
        "errors_from",
        "flag_names",
        "divergences",
        "ebfmi",
        "prior_dominated",
        "piled_up",
    )
    for name in back.colnames:
        if not name.startswith(dimensionless):
            assert back[name].unit is not None, name
        assert back[name].description, name
    assert back["flux_cov"].shape == (3, 2, 2)
    assert list(back["id"]) == ["101", "star-7", "2066"]
    assert back.meta["FLAG0"] == "at_bound"


def test_values(rng):
    result = make_result(rng, pixels=False)
    sersic, star, double = rows_of_patch(result)
    cos = np.cos(np.deg2rad(REFERENCE[1]))
    assert sersic["ra"] == pytest.approx(REFERENCE[0] + POSITIONS[0][0] / 3600 / cos, abs=1e-12)
    assert sersic["dec"] == pytest.approx(REFERENCE[1] + POSITIONS[0][1] / 3600, abs=1e-12)
    e = np.hypot(VALUES["e1"], VALUES["e2"])
    assert sersic["q"] == pytest.approx((1 - e) / (1 + e))
    # pa from its definition: e1 = e cos 2pa, e2 = e sin 2pa
    twice = np.deg2rad(2 * sersic["pa"])
    assert (e * np.cos(twice), e * np.sin(twice)) == pytest.approx((VALUES["e1"], VALUES["e2"]))
    assert 0 <= sersic["pa"] < 180
    assert sersic["rhalf_major"] == pytest.approx(VALUES["rhalf"] / np.sqrt(sersic["q"]))
    assert double["flux_g"] == VALUES["flux_disk"] + VALUES["flux_bulge"]
    assert double["sersic_disk"] == 1.0 and double["sersic_disk_err"] == 0.0
    assert double["fixed"] == "sersic_disk"
    assert double["at_bound"] == "sersic_bulge"
    assert double["flag_names"] == "at_bound"
    assert double["ess_min"] < 900 and double["rhat_max"] == pytest.approx(1.003)
    assert "rhalf" not in star and star["flux_r"] == VALUES["flux"]


def monte_carlo(result, rng):
    """Draws of a copy of the fit with samples instead of a Laplace covariance."""
    result.samples = rng.multivariate_normal(
        result.theta, result.covariance, size=(4, DRAWS), method="cholesky"
    )
    return rows_of_patch(result)


def test_linear_propagation_agrees_with_monte_carlo(rng):
    result = make_result(rng, pixels=False)
    laplace, sampled = rows_of_patch(result), monte_carlo(result, rng)
    checked = 0
    for a, b in zip(laplace, sampled, strict=True):
        assert a["errors_from"] == "laplace" and b["errors_from"] == "samples"
        for name in a:
            if not name.endswith("_err") or a[name] == 0:
                continue
            if name.startswith(("q_bulge", "pa_bulge", "rhalf_major_bulge")):
                continue  # nearly round: not linear, see below
            assert a[name] == pytest.approx(b[name], rel=PROPAGATION_RTOL), name
            checked += 1
        np.testing.assert_allclose(
            a["flux_cov"], b["flux_cov"], rtol=PROPAGATION_RTOL,
            atol=PROPAGATION_RTOL * np.diag(a["flux_cov"]).max(),
        )  # fmt: skip
        assert a["flux_cov"][0, 0] == pytest.approx(a["flux_g_err"] ** 2)
    assert checked > 25


def test_quantiles_of_samples(rng):
    result = make_result(rng, pixels=False)
    row = monte_carlo(result, rng)[0]
    sigma = row["rhalf_err"]
    assert row["rhalf_p84"] - row["rhalf_p16"] == pytest.approx(2 * sigma, rel=PROPAGATION_RTOL)
    assert row["rhalf_p50"] == pytest.approx(VALUES["rhalf"], abs=0.02 * sigma)
    assert row["rhalf_mean"] == pytest.approx(VALUES["rhalf"], abs=0.02 * sigma)
    table = make_table([row], result.bands, result.unit)
    assert table["pa_p84"].unit == u.deg


def test_position_angle_of_a_round_source_is_unknown(rng):
    result = make_result(rng, pixels=False)
    for name in ("e1", "e2"):
        result.theta[result.index(0, name)] = 0.0
    row = rows_of_patch(result)[0]
    assert row["q"] == 1.0 and row["q_err"] > 0
    assert row["pa_err"] == pytest.approx(PA_ERR_MAX)
    assert np.isfinite(row["rhalf_major_err"])


def test_position_angles_near_north_do_not_wrap(rng):
    result = make_result(rng, pixels=False)
    result.theta[result.index(0, "e1")] = 0.4
    result.theta[result.index(0, "e2")] = 0.0
    laplace, sampled = rows_of_patch(result)[0], monte_carlo(result, rng)[0]
    assert sampled["pa_err"] == pytest.approx(laplace["pa_err"], rel=PROPAGATION_RTOL)


def test_held_profiles_are_in_the_table(rng):
    result = make_result(rng, pixels=False)
    result.types[0] = "dev"
    keep = [i for i, label in enumerate(result.labels) if label != (0, "sersic", "")]
    result.labels = [result.labels[i] for i in keep]
    result.theta, result.covariance = result.theta[keep], result.covariance[np.ix_(keep, keep)]
    assert shape(SourceView(result, 0))["sersic"].value == 4.0


def test_own_unit_of_an_uncalibrated_image(rng, tmp_path):
    result = make_result(rng, pixels=False)
    warnings.simplefilter("error")
    for unit in ("adu", "counts/s", "electron / s", "furlong"):
        table = make_table(rows_of_patch(result), result.bands, unit)
        write_catalog(tmp_path / "c.fits", table)
        back = read_catalog(tmp_path / "c.fits")
        assert back.meta["FLUXUNIT"] == unit
        assert str(back["flux_g"].unit).replace(" ", "") == unit.replace(" ", "")
        assert back["flux_cov"].unit is not None
        assert np.isfinite(back["flux_g"]).all()


def test_a_source_that_was_not_fitted_keeps_its_row(rng):
    result = make_result(rng, pixels=False)
    lost = Peak("77", "sersic", 150.1, 2.1, {"rhalf": 0.8}, {("flux", "g"): 12.0},
                frozenset(), flags.bit("no_data"))  # fmt: skip
    double = Peak("78", "bulge_disk", 150.1, 2.1, {}, {("flux", "g"): 12.0})
    rows = [*rows_of_patch(result), row_of_peak(lost, ["g", "r"]), row_of_peak(double, ["g", "r"])]
    table = make_table(rows, ["g", "r"], "nJy")
    assert table["flag_names"][3] == "no_data"
    assert table["flux_g"][3] == 12.0 and np.isnan(table["flux_r"][3])
    assert np.isnan(table["flux_g_err"][3]) and table["patch"][3] == -1
    assert table["flux_g"][4] == 12.0


def test_ellipse_convention():
    q, pa = ellipse_from_e(np.array([0.5, 0.0, -0.5, 0.0]), np.array([0.0, 0.5, 0.0, -0.5]))
    np.testing.assert_allclose(q, 1 / 3)
    np.testing.assert_allclose(pa, [0, 45, 90, 135])


def test_documentation_table_names_each_column():
    text = columns.table()
    assert "| flux_{band} | flux |" in text and "| rhalf_major | arcsec |" in text


def test_flags_round_trip_and_stay_put():
    names = [flag.name for flag in flags.FLAGS]
    assert flags.decode(flags.encode(names)) == names
    assert names[:4] == ["at_bound", "no_convergence", "divergences", "low_ess"]
    assert flags.bit("nonfinite") == 1 << 9
    assert flags.decode(1 << 40) == ["bit40"]
    assert all(name in flags.table() for name in names)


@pytest.mark.parametrize("draws", [0, 50])
def test_a_band_without_pixels_is_not_measured(rng, draws):
    result = make_result(rng, draws)
    result.source_band_npix[0] = [40, 0]
    result.diagnostics["rhat"][result.index(0, "flux", "r")] = 9.0
    blind, seen = rows_of_patch(result)[:2]
    assert np.isnan([blind["flux_r"], blind["flux_r_err"]]).all()
    assert np.isfinite([blind["flux_g"], blind["flux_g_err"], seen["flux_r"]]).all()
    assert list(np.isnan(blind["flux_cov"]).ravel()) == [False, True, True, True]
    assert blind["rhat_max"] < 1.1
