"""Peak catalogues: layouts, units, what is missing, what is held, and bad rows."""

import logging

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.table import MaskedColumn, Table
from fits_images import catalog_options

from jaxpho.data.catalog import NONFINITE_FLAG, Peak, read_catalog
from jaxpho.errors import InputError
from jaxpho.fit.flags import bit
from jaxpho.output.catalog import make_table, row_of_peak, write_catalog

BANDS = ["g", "r"]
RTOL = 1e-6


def table(**columns):
    base = {"id": [7, 8], "ra": [10.0, 10.1], "dec": [-5.0, -5.1]}
    return Table({**base, **columns})


def write(folder, t, name="peaks.ecsv"):
    t.write(folder / name, overwrite=True)
    return str(folder / name)


def read(folder, t=None, name="peaks.ecsv", bands=BANDS, unit="nJy", **values):
    path = write(folder, table() if t is None else t, name)
    return read_catalog(catalog_options(file=path, **values), bands, unit)


@pytest.mark.parametrize("name", ["p.fits", "p.ecsv", "p.csv"])
def test_formats(tmp_path, name):
    t = table(RHALF=[0.5, 0.7], q=[0.5, 1.0], pa=[30.0, 210.0], sersic=[1.0, 4.0],
              flux_g=[10.0, 20.0], type=["sersic", "point"])  # fmt: skip
    a, b = read(tmp_path, t, name)
    assert (a.id, a.type, a.ra, a.dec) == (7, "sersic", 10.0, -5.0)
    assert a.values == pytest.approx({"rhalf": 0.5, "q": 0.5, "pa": 30.0, "sersic": 1.0})
    assert a.flux == {("flux", "g"): 10.0} and a.flags == 0 and a.fixed == frozenset()
    assert b.type == "point" and b.values == {}


def test_column_map_and_units(tmp_path):
    t = Table({"NUM": ["a", "b"], "X": [10.0, 11.0] * u.deg, "Y": [1.0, 2.0] * u.deg,
               "size": [0.01, 0.02] * u.arcmin, "theta": [0.5, 0.5] * u.rad,
               "F_g": [1.0, 2.0] * u.uJy, "M_r": [25.0, 99.0]})  # fmt: skip
    columns = {"id": "NUM", "ra": "X", "dec": "Y", "rhalf": "size", "pa": "theta",
               "flux_g": "F_g", "mag_r": "M_r"}  # fmt: skip
    a, b = read(tmp_path, t, columns=columns)
    assert a.id == "a" and a.values["rhalf"] == pytest.approx(0.6)
    assert a.values["pa"] == pytest.approx(np.degrees(0.5))
    assert a.flux[("flux", "g")] == pytest.approx(1000.0)
    assert a.flux[("flux", "r")] == pytest.approx((25 * u.ABmag).to_value(u.nJy), rel=1e-4)
    assert ("flux", "r") not in b.flux and b.flags == NONFINITE_FLAG  # 99 is no magnitude


@pytest.mark.parametrize(("flux_unit", "factor"), [("uJy", 1e3), ("nanomaggy", 3631.0)])
def test_flux_unit(tmp_path, flux_unit, factor):
    t = table(flux_g=[1.0, 2.0], flux_r=[3.0, 4.0])
    peaks = read(tmp_path, t, flux_unit=flux_unit)
    assert peaks[1].flux == {("flux", "g"): 2 * factor, ("flux", "r"): 4 * factor}
    assert read(tmp_path, t, unit="count", flux_unit="image")[0].flux[("flux", "g")] == 1.0
    mags = read(tmp_path, table(mag_g=[25.0, 26.0]))
    assert mags[0].flux[("flux", "g")] == pytest.approx(10**2.56, rel=RTOL)


def test_ellipticities_and_sizes(tmp_path):
    e, pa = 0.4, 65.0
    t = table(e1=[e * np.cos(2 * np.radians(pa))] * 2, e2=[e * np.sin(2 * np.radians(pa))] * 2,
              rhalf_major=[2.0, 2.0])  # fmt: skip
    (a, _) = read(tmp_path, t)
    q = (1 - e) / (1 + e)
    assert a.values == pytest.approx({"q": q, "pa": pa, "rhalf": 2 * np.sqrt(q)})
    (a, _) = read(tmp_path, table(a=[0.5, 0.5], b=[0.3, 0.3], pa=[-20.0, 0.0]))
    expected = {"q": 0.6, "pa": 160.0, "rhalf": np.sqrt(2 * np.log(2) * 0.15)}
    assert a.values == pytest.approx(expected)


def test_components(tmp_path):
    t = table(type=["bulge_disk", "sersic_point"], rhalf_disk=[1.0, np.nan],
              rhalf_bulge=[0.2, np.nan], rhalf=[np.nan, 0.4], flux_disk_g=[5.0, np.nan],
              flux_bulge_g=[2.0, np.nan], flux_point_g=[np.nan, 3.0])  # fmt: skip
    a, b = read(tmp_path, t)
    assert a.values == {"rhalf_disk": 1.0, "rhalf_bulge": 0.2}
    assert a.flux == {("flux_disk", "g"): 5.0, ("flux_bulge", "g"): 2.0}
    assert b.values == {"rhalf": 0.4} and b.flux == {("flux_point", "g"): 3.0}


def test_tractor(data_dir):
    folder = data_dir / "decam_8exp_grz" / "reference_legacypipe_DR9.6.9" / "tractor"
    options = catalog_options(file=str(folder / "244" / "tractor-2447p120.fits"), format="tractor")
    star, galaxy = read_catalog(options, ["g", "r", "z"])
    assert (star.type, galaxy.type) == ("point", "sersic") and star.values == {}
    fluxes = [galaxy.flux["flux", b] / 3631 for b in "grz"]
    np.testing.assert_allclose(fluxes, [21.197046, 67.481544, 146.90044], rtol=RTOL)
    e = np.hypot(-0.2088805, 0.017247925)
    q = (1 - e) / (1 + e)
    values = galaxy.values
    np.testing.assert_allclose([values["q"], values["sersic"]], [q, 3.724985], rtol=RTOL)
    np.testing.assert_allclose(values["rhalf"], 2.2076223 * np.sqrt(q), rtol=RTOL)
    assert abs(values["pa"] - 87.64) < 0.01
    assert star.flags == 0  # a shape of zero is how the format says "none"


def test_forcepho_layout(data_dir):
    path = data_dir / "forcepho_format" / "case2" / "peak_catalog.fits"
    bands = fits.getheader(path, 1)["FILTERS"].split(",")
    row = fits.getdata(path, 1)[0]
    peak = read_catalog(catalog_options(file=str(path), format="forcepho"), bands)[0]
    np.testing.assert_allclose(peak.values["q"], row["q"] ** 2, rtol=RTOL)
    np.testing.assert_allclose(peak.values["pa"], (90 - np.degrees(row["pa"])) % 180, rtol=RTOL)
    np.testing.assert_allclose([peak.flux["flux", b] for b in bands], [row[b] for b in bands])


def test_unusable_values_are_missing_and_flagged(tmp_path, caplog):
    t = table(rhalf=[np.nan, -1.0], q=[0.5, 1.7], flux_g=[np.inf, 1.0])
    with caplog.at_level(logging.WARNING):
        a, b = read(tmp_path, t)
    assert a.values == {"q": 0.5} and a.flux == {} and b.values == {}
    assert a.flags == b.flags == NONFINITE_FLAG == bit("nonfinite")
    assert "rhalf is not usable in 2 rows" in caplog.text
    masked = table(rhalf=MaskedColumn([0.5, 0.6], mask=[True, False]))
    a, b = read(tmp_path, masked)
    assert "rhalf" not in a.values and a.flags == 0 and b.values["rhalf"] == 0.6


def test_held_parameters(tmp_path):
    t = table(rhalf=[0.5, 0.6], q=[0.5, 0.6], pa=[1.0, 2.0], sersic=[1.0, 2.0], held=[True, False])
    a, b = read(tmp_path, t)
    assert a.fixed == {"shape", "ra", "dec"} and b.fixed == frozenset()
    a, b = read(tmp_path, t, fixed=["sersic"], fixed_by_id={"8": ["shape", "pa"]})
    assert a.fixed == {"shape", "ra", "dec", "sersic"}
    assert b.fixed == {"sersic", "shape", "e1", "e2"}
    t["fixed"] = ["rhalf, position", ""]
    t.remove_column("held")
    assert read(tmp_path, t)[0].fixed == {"rhalf", "ra", "dec"}


def test_types_defaults_ids_and_positions(tmp_path):
    options = {"types": {"8": "point"}, "type": "exp", "defaults": {"rhalf": 0.3, "flux": 5.0}}
    a, b = read(tmp_path, **options)
    assert (a.type, b.type) == ("exp", "point")
    assert a.values == {"rhalf": 0.3} and b.values == {}
    assert b.flux == {("flux", "g"): 5.0, ("flux", "r"): 5.0}
    assert [p.id for p in read(tmp_path, ids=["8"])] == [8]
    peaks = read_catalog(catalog_options(positions=[[1.0, 2.0], [-1.0, 3.0]]), BANDS)
    assert [(p.id, p.ra, p.dec) for p in peaks] == [(1, 1.0, 2.0), (2, 359.0, 3.0)]


def test_types_that_the_fit_chooses(tmp_path):
    """By the column, by id or for all that have none; what the file knows is where it starts."""
    t = table(type=["auto", "exp"], rhalf=[0.3, 0.4], sersic=[3.0, 2.0])
    a, b = read(tmp_path, t)
    assert (a.type, a.auto, b.type, b.auto) == ("sersic", True, "exp", False)
    assert a.values == {"rhalf": 0.3, "sersic": 3.0}
    assert [p.auto for p in read(tmp_path, types={"8": "auto"})] == [False, True]
    assert all(p.auto and p.type == "sersic" for p in read(tmp_path, type="auto"))


def test_a_type_that_the_catalogue_overrides_is_told(tmp_path, caplog):
    t = table(type=["exp", "point"])
    read(tmp_path, t, type="exp", types={"8": "dev"})
    assert not [r for r in caplog.records if r.levelname == "WARNING"]
    assert [p.type for p in read(tmp_path, t, type="dev")] == ["exp", "point"]
    assert "2 sources have types of their own, which peaks.type: dev leaves" in caplog.text


@pytest.mark.parametrize(
    ("columns", "options", "words"),
    [
        ({"ra": [10.0, np.nan]}, {}, r"row 1 \(id 8\): ra is nan"),
        ({"dec": [np.inf, 1.0]}, {}, r"row 0 \(id 7\): dec is inf"),
        ({"dec": [95.0, 1.0]}, {}, r"row 0 \(id 7\): dec is 95"),
        ({"id": [3, 3]}, {}, "id 3 occurs twice"),
        ({"type": ["galaxy", "point"]}, {}, "row 0: unknown source type 'galaxy'"),
        ({}, {"type": "galaxy"}, "unknown source type"),
        ({"rhalf": [0.3, 0.4]}, {"type": "auto", "fixed": ["rhalf"]}, "so no shape can be held"),
        ({}, {"columns": {"ra": "nope"}}, "no column 'nope'"),
        ({}, {"columns": {"colour": "ra"}}, "unknown name 'colour'"),
        ({}, {"columns": {"flux": "f"}}, "{band}"),
        ({}, {"fixed": ["rhalf"]}, "rhalf is held but"),
        ({}, {"fixed": ["size"]}, "'size' cannot be held"),
        ({}, {"fixed_by_id": {"99": ["ra"]}}, "no source with id 99"),
        ({}, {"ids": ["99"]}, "no source with id 99"),
        ({"rhalf": ["big", "small"]}, {}, "holds 'big', expected a number"),
        ({"rhalf": [1.0, 2.0] * u.kg}, {}, "expected arcsec"),
        ({"flux_g": [1.0, 2.0] * u.m}, {}, "not a flux density"),
        ({"flux_g": [1.0, 2.0]}, {"flux_unit": "parsec"}, "not a flux density"),
    ],
)
def test_bad_catalogues(tmp_path, columns, options, words):
    with pytest.raises(InputError, match=words) as caught:
        read(tmp_path, table(**columns), **options)
    assert "\n" not in str(caught.value)


def test_rows_that_are_not_wanted_may_be_bad(tmp_path):
    (peak,) = read(tmp_path, table(ra=[10.0, np.nan], type=["sersic", "galaxy"]), ids=[7])
    assert peak.id == 7


def test_bad_files(tmp_path):
    with pytest.raises(InputError, match="nope.fits: the table does not exist"):
        read_catalog(catalog_options(file=str(tmp_path / "nope.fits")), BANDS)
    (tmp_path / "x.fits").write_text("no table")
    with pytest.raises(InputError, match="x.fits: not a readable"):
        read_catalog(catalog_options(file=str(tmp_path / "x.fits")), BANDS)
    with pytest.raises(InputError, match="no rows"):
        read(tmp_path, table()[:0])
    with pytest.raises(InputError, match="no column 'ra'"):
        read(tmp_path, Table({"x": [1.0]}))
    with pytest.raises(InputError, match="`file`, `positions` or `detect: true`"):
        read_catalog(catalog_options(), BANDS)
    with pytest.raises(InputError, match="magnitudes need calibrated"):
        read(tmp_path, table(mag_g=[20.0, 21.0]), unit="count")


def fitted(folder):
    """A catalogue as a fit writes it, of two sources in nJy, and what it was made from."""
    shape = {"rhalf": 0.4, "sersic": 2.0, "q": 0.5, "pa": 40.0}
    flux = {("flux", "g"): 300.0, ("flux", "r"): 500.0}
    galaxy = Peak("a", "sersic", 10.0, -5.0, dict(shape), dict(flux))
    nucleus = {("flux_point", "g"): 50.0, ("flux_point", "r"): 70.0}
    active = Peak("b", "sersic_point", 10.1, -5.0, dict(shape), flux | nucleus)
    rows = [row_of_peak(peak, BANDS) for peak in (galaxy, active)]
    rows[1] |= {f"flux_point_{b}": nucleus["flux_point", b] for b in BANDS}
    rows[1] |= {f"flux_sersic_{b}": flux["flux", b] for b in BANDS}
    path = folder / "catalog.fits"
    write_catalog(path, make_table(rows, BANDS, "nJy", {"CREATOR": "jaxpho 1.0"}))
    return path, (galaxy, active)


@pytest.mark.parametrize("form", [None, "plain", "tractor", "forcepho"])
def test_a_fits_own_catalogue_is_recognised(tmp_path, form):
    """Whatever layout is named; its total flux is not taken for that of one component."""
    path, expected = fitted(tmp_path)
    flux_unit = "image" if form == "forcepho" else None
    found = read_catalog(catalog_options(file=str(path), format=form, flux_unit=flux_unit), BANDS)
    for a, b in zip(found, expected, strict=True):
        assert (a.id, a.type, a.flags) == (b.id, b.type, 0)
        assert {k: a.values[k] for k in b.values} == pytest.approx(b.values)
        for key, value in b.flux.items():
            assert a.flux[key] == pytest.approx(value), key


@pytest.mark.parametrize("form", ["tractor", "forcepho"])
def test_units_of_columns_beat_those_of_the_format(tmp_path, form):
    flux = "flux_g" if form == "tractor" else "g"
    t = table(pa=[30.0, 40.0] * u.deg, q=[0.5, 0.5])
    t[flux] = [1.0, 2.0] * u.uJy
    peak = read(tmp_path, t, format=form)[1]
    assert peak.flux["flux", "g"] == pytest.approx(2000.0)
    if form == "forcepho":
        assert peak.values["pa"] == pytest.approx(50.0)
    t[flux] = [1.0, 2.0]
    t[flux].unit = u.m
    usual = 3631.0 if form == "tractor" else 1.0
    assert read(tmp_path, t, "p.fits", format=form)[1].flux["flux", "g"] == pytest.approx(2 * usual)
