"""Samples in forcepho's layout and units: against its conventions, and read back."""

import dataclasses
import json

import h5py
import numpy as np
import pytest
from astropy.io import fits
from synthetic_result import REFERENCE, make_result

from jaxpho.compat.archive import Archive
from jaxpho.compat.catalog import SHAPE_COLUMNS, read_catalog
from jaxpho.compat.results import Membership, read_forcepho_samples, write_forcepho_samples
from jaxpho.compat.units import bounds_of, ellipse_of, ellipticity_of, from_forcepho, to_forcepho
from jaxpho.data.catalog import Peak
from jaxpho.errors import InputError

BANDS = ("g", "r")
COLUMNS = (*BANDS, *SHAPE_COLUMNS)
WIDTH = len(COLUMNS)
# float64: angles of nearly round draws lose a few digits
RTOL = 1e-9


def galaxies(rng, draws=40, held=True):
    """A galaxy and a star that were fitted, and a galaxy that was held."""
    result = make_result(rng, draws)
    keep = [i for i, label in enumerate(result.labels) if label[0] in (0, 1)]
    values = {"rhalf": 0.7, "sersic": 1.5, "e1": -0.2, "e2": 0.1, "ra": 2.0, "dec": -4.0}
    fixed = {(2, name, ""): value for name, value in values.items()}
    fixed |= {(2, "flux", band): 30.0 for band in BANDS}
    n = 3 if held else 2
    cut = {
        name: getattr(result, name)[np.ix_(keep, keep)]
        for name in ("covariance", "mass_matrix_initial", "mass_matrix_final")
        if getattr(result, name) is not None
    }
    for name in ("samples", "warmup"):
        cut[name] = None if getattr(result, name) is None else getattr(result, name)[..., keep]
    return dataclasses.replace(
        result, labels=[result.labels[i] for i in keep], theta=result.theta[keep],
        start=result.start[keep], bounds=result.bounds[keep], fixed=fixed if held else {},
        source_ids=result.source_ids[:n], types=["sersic", "point", "sersic"][:n],
        at_bound=None, flags=None, source_chi2=None, source_npix=None, source_nexp=None,
        source_band_npix=None, diagnostics={"gradients": 900, "warmup_gradients": 100}, **cut,
    )  # fmt: skip


@pytest.fixture
def rng():
    return np.random.default_rng(8)


MEMBERSHIP = Membership([5, 2, 9], [4.0, 2.0, 6.0], 2)


def write(path, result, **options):
    final = write_forcepho_samples(path, result, MEMBERSHIP, **options)
    return final, read_forcepho_samples(path)


@pytest.mark.parametrize("pa", [-1.5, -0.3, 0.0, 0.7, 1.5])
def test_angles_and_axes(pa):
    """Second moments of an ellipse on the sky, from both descriptions."""
    q = 0.8  # sqrt(b/a)
    e1, e2 = ellipticity_of(q, pa)
    major = np.array([np.cos(pa), np.sin(pa)])  # (RA cos dec, Dec)
    minor = np.array([-major[1], major[0]])
    theirs = np.outer(major, major) / q**2 + np.outer(minor, minor) * q**2
    e, ours = np.hypot(e1, e2), 0.5 * np.arctan2(e2, e1)  # East of North
    axis = np.array([np.sin(ours), np.cos(ours)])
    other = np.array([-axis[1], axis[0]])
    ratio = (1 - e) / (1 + e)
    np.testing.assert_allclose(
        np.outer(axis, axis) / ratio + np.outer(other, other) * ratio, theirs, atol=1e-12
    )
    back = ellipse_of(e1, e2, near=pa)
    np.testing.assert_allclose(back, (q, pa), atol=1e-12)
    assert ellipse_of(e1, e2)[1] == pytest.approx(pa)


def test_layout(rng, tmp_path):
    """Names, shapes and kinds of everything that forcepho's reader and post-processing use."""
    result = galaxies(rng)
    result.labels.append((("exposure", "g/1"), "sky", ""))  # a nuisance is marginalised over
    for name in ("samples", "warmup"):
        values = getattr(result, name)
        setattr(result, name, np.concatenate([values, values[..., :1]], -1))
    big = np.eye(len(result.labels))
    n = len(result.labels) - 1
    for name in ("mass_matrix_initial", "mass_matrix_final"):
        matrix = big.copy()
        matrix[:n, :n] = getattr(result, name)
        setattr(result, name, matrix)
    result.theta = np.append(result.theta, 0.1)
    result.start = np.append(result.start, 0.0)
    result.bounds = np.concatenate([result.bounds, [[-1, 1]]])
    final, found = write(tmp_path / "p.h5", result, radius=7.2, config=json.dumps({"a": 1}))
    a, attrs, draws = found.arrays, found.attrs, 4 * 40
    assert found.chain.shape == (draws, 2 * WIDTH) and found.n_chain == 4
    assert found.bands == list(BANDS) and found.shapes == list(SHAPE_COLUMNS)
    np.testing.assert_array_equal(a["reference_coordinates"], REFERENCE)
    assert a["bandlist"].dtype.kind == a["shapenames"].dtype.kind == "S"
    assert [e.decode() for e in a["exposures"]] == ["g/g/1", "g/g/2", "r/r/1"]
    for name in ("active", "final", "fixed"):
        names = a[name].dtype.names
        assert names == ("id", "source_index", "is_active", "is_valid", "n_iter", "n_patch", "roi",
                         *SHAPE_COLUMNS, *BANDS)  # fmt: skip
        assert a[name]["roi"].dtype == np.float32 and a[name]["id"].dtype == np.int32
    assert list(a["active"]["source_index"]) == list(a["chaincat"]["source_index"]) == [5, 2]
    assert list(a["active"]["id"]) == [101, 2]  # the second has no number of its own
    assert list(a["fixed"]["source_index"]) == [9] and list(a["active"]["roi"]) == [4, 2]
    assert a["chaincat"].dtype["g"].shape == (draws,) and a["bounds"].dtype["ra"].shape == (2,)
    assert list(a["bounds"]["source_index"]) == [5, 2]
    assert a["cov"].shape == (2 * WIDTH, 2 * WIDTH)
    assert not a["stats"]["tune"].any() and a["warmup/stats"]["tune"].all()
    assert len(a["stats"]) == draws and a["warmup/chain"].shape == (100, 2 * WIDTH)
    assert (attrs["patchID"], attrs["n_sample"], attrs["n_tune"]) == (3, draws, 0)
    assert attrs["ndim"] == 2 * WIDTH and attrs["n_call"] == 1000
    assert attrs["radius"] == pytest.approx(0.002) and attrs["ra"] == REFERENCE[0]
    assert json.loads(attrs["config"]) == {"a": 1}
    np.testing.assert_array_equal(final, a["final"])
    assert (final["n_iter"] == draws).all() and (final["n_patch"] == 1).all()


def test_chain_in_its_units(rng, tmp_path):
    """Column by column from the draws, and everything back."""
    result = galaxies(rng)
    _, found = write(tmp_path / "p.h5", result)
    draws = result.samples.reshape(-1, len(result.labels))
    get = {label: draws[:, i] for i, label in enumerate(result.labels)}
    cat, cosine = found.arrays["chaincat"], np.cos(np.deg2rad(REFERENCE[1]))
    np.testing.assert_array_equal(cat["g"][0], get[0, "flux", "g"])
    np.testing.assert_array_equal(cat["r"][1], get[1, "flux", "r"])
    np.testing.assert_allclose(cat["ra"][0], REFERENCE[0] + get[0, "ra", ""] / 3600 / cosine)
    np.testing.assert_allclose(cat["dec"][1], REFERENCE[1] + get[1, "dec", ""] / 3600)
    np.testing.assert_array_equal(cat["rhalf"][0], get[0, "rhalf", ""])
    e = np.hypot(get[0, "e1", ""], get[0, "e2", ""])
    np.testing.assert_allclose(cat["q"][0] ** 2, (1 - e) / (1 + e))
    # deg East of North -> radians from East to North
    pa = np.rad2deg(0.5 * np.arctan2(get[0, "e2", ""], get[0, "e1", ""]))
    np.testing.assert_allclose((np.rad2deg(cat["pa"][0]) - (90 - pa) + 90) % 180 - 90, 0, atol=1e-9)
    assert np.ptp(cat["pa"][0]) < np.pi  # in one piece
    # a star for a code of galaxies
    assert (cat["q"][1] == 1).all() and (cat["rhalf"][1] == 0).all()
    # chain and catalogue agree, and positions there are offsets
    chain = found.chain.reshape(len(draws), 2, WIDTH)
    for j, name in enumerate(COLUMNS):
        zero = dict(zip(("ra", "dec"), REFERENCE, strict=True)).get(name, 0.0)
        np.testing.assert_allclose(chain[:, :, j].T + zero, cat[name], rtol=1e-14)
    back = from_forcepho(found.chain, 2, REFERENCE[1])
    for (owner, name, band), values in get.items():
        column = back[name][:, owner]
        column = column[:, BANDS.index(band)] if band else column
        np.testing.assert_allclose(column, values, rtol=RTOL, atol=RTOL, err_msg=name)


def test_start_fit_fixed_and_bounds(rng, tmp_path):
    result = galaxies(rng)
    _, found = write(tmp_path / "p.h5", result)
    active, final, fixed = (found.arrays[k] for k in ("active", "final", "fixed"))
    flux = result.index(0, "flux", "g")
    assert active["g"][0] == result.start[flux]
    assert final["g"][0] == result.samples[-1, -1, flux]  # where the sampler stopped
    assert fixed["r"][0] == 30.0 and fixed["sersic"][0] == 1.5
    e1, e2 = ellipticity_of(fixed["q"][0], fixed["pa"][0])
    assert (e1, e2) == (pytest.approx(-0.2), pytest.approx(0.1))
    cosine = np.cos(np.deg2rad(REFERENCE[1]))
    assert fixed["ra"][0] == pytest.approx(REFERENCE[0] + 2 / 3600 / cosine, abs=1e-12)
    bounds = found.arrays["bounds"]
    low, high = result.bounds[result.index(0, "dec")]
    expected = REFERENCE[1] + np.array([low, high]) / 3600
    np.testing.assert_allclose(bounds["dec"][0], expected, rtol=1e-14)
    assert bounds["pa"][0, 0] <= final["pa"][0] <= bounds["pa"][0, 1]
    assert (bounds["q"][1] == 1).all() and (bounds["rhalf"][1] == 0).all()
    for name in COLUMNS:
        cat = found.arrays["chaincat"][name][0]
        if name != "q":  # draws of this test know no disc of ellipticities
            assert (cat > bounds[name][0, 0] - 1e-9).all() and (cat < bounds[name][0, 1]).all()


def test_bounds_of_ellipticities(rng):
    """A disc where both are free, a chord beside a held one, none where both are held."""
    result = galaxies(rng, 0)
    i, k = result.index(0, "e1"), result.index(0, "e2")
    result.bounds[[i, k]] = [-0.6, 0.6]
    at = COLUMNS.index("q")
    low, high = bounds_of(result, [0])[at]
    assert (low, high) == (pytest.approx(np.sqrt(0.4 / 1.6)), 1.0)
    held = {(0, "e2", ""): 0.3}
    chord = dataclasses.replace(
        result, labels=[x for x in result.labels if x != (0, "e2", "")],
        theta=np.delete(result.theta, k), bounds=np.delete(result.bounds, k, 0),
        covariance=None, fixed=result.fixed | held, at_bound=None,
    )  # fmt: skip
    chord.bounds[i] = [-0.5, 0.5]
    e = np.hypot(0.5, 0.3)
    assert bounds_of(chord, [0])[at][0] == pytest.approx(np.sqrt((1 - e) / (1 + e)))
    q = np.sqrt((1 - np.hypot(-0.2, 0.1)) / (1 + np.hypot(-0.2, 0.1)))
    np.testing.assert_allclose(bounds_of(result, [2])[at], q)


def test_mass_matrices(rng, tmp_path):
    """Inverses of each other for what is free; zero for what a star does not have."""
    result = galaxies(rng)
    _, found = write(tmp_path / "p.h5", result)
    initial, final, cov = (
        found.arrays[k] for k in ("mass_matrix_initial", "mass_matrix_final", "cov")
    )
    free = np.flatnonzero(cov.diagonal() > 0)
    assert len(free) == WIDTH + 4  # the star: two fluxes and a position
    block = np.ix_(free, free)
    scale = np.sqrt(cov.diagonal()[free])
    unit = (final[block] @ cov[block]) * scale[None, :] ** -1 * scale[:, None]
    np.testing.assert_allclose(unit, np.eye(len(free)), atol=1e-6)
    np.testing.assert_allclose(1.5 * final, initial, rtol=1e-5, atol=1e-7 * np.abs(initial).max())
    variance = np.linalg.inv(result.mass_matrix_final)
    i, k = result.index(0, "e1"), result.index(1, "flux", "r")
    at = COLUMNS.index("q"), WIDTH + COLUMNS.index("r")
    assert cov[at] == pytest.approx(variance[i, k], rel=1e-6)


def test_without_draws_or_warm_up(rng, tmp_path):
    result = galaxies(rng, 0)
    _, found = write(tmp_path / "p.h5", result)
    assert found.chain.shape == (1, 2 * WIDTH)
    expected = to_forcepho(result, result.theta, [0, 1])
    np.testing.assert_array_equal(found.chain[0], expected)
    assert not {"stats", "cov", "warmup/chain"} & set(found.arrays)
    write(tmp_path / "p.h5", galaxies(rng), warmup=False)
    with h5py.File(tmp_path / "p.h5") as f:
        assert all(isinstance(node, h5py.Dataset) for node in f.values())
    alone = galaxies(rng, held=False)
    write_forcepho_samples(tmp_path / "q.h5", alone)
    found = read_forcepho_samples(tmp_path / "q.h5")
    assert "fixed" not in found.arrays and list(found.arrays["active"]["source_index"]) == [0, 1]


def test_sources_of_two_components_are_refused(rng, tmp_path):
    with pytest.raises(InputError, match="source 2066 is a bulge_disk: forcepho's files hold one"):
        write_forcepho_samples(tmp_path / "p.h5", make_result(rng, 30))
    assert not list(tmp_path.iterdir())
    # a held neighbour is for information, and is left out
    result = galaxies(rng)
    result.types = ["sersic", "point", "bulge_disk"]
    _, found = write(tmp_path / "p.h5", result)
    assert "fixed" not in found.arrays and len(found.arrays["active"]) == 2


def test_names_in_other_letters(rng, tmp_path):
    result = galaxies(rng)
    result.exposures = ["über/1", *result.exposures[1:]]
    _, found = write(tmp_path / "p.h5", result)
    assert found.arrays["exposures"][0].decode() == "g/über/1"
    with pytest.raises(InputError, match="band 'q' has the name of a column"):
        Archive(tmp_path, [], ["q"], "s.fits", {})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("active", None, "has no data set 'active'; it holds bandlist, bounds"),
        ("chain", None, "has no data set 'chain'"),
        ("active", np.zeros(3), "'active' has dtype float64"),
        ("chain", np.zeros(3), "expected \\[draw, npar\\]"),
        ("chain", np.zeros((3, 4)), "'chain' has 4 columns, expected 16 for 2 sources in 2 bands"),
        ("reference_coordinates", [1.0], "holds 1 numbers"),
    ],
)
def test_foreign_files(rng, tmp_path, name, value, message):
    path = tmp_path / "p.h5"
    write(path, galaxies(rng))
    with h5py.File(path, "a") as f:
        del f[name]
        if value is not None:
            f[name] = value
    with pytest.raises(InputError, match=f"p.h5.*{message}"):
        read_forcepho_samples(path)


def test_truncated_or_missing_files(rng, tmp_path):
    path = tmp_path / "p.h5"
    with pytest.raises(InputError, match="p.h5 does not exist"):
        read_forcepho_samples(path)
    write(path, galaxies(rng))
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(InputError, match="samples file .*p.h5"):
        read_forcepho_samples(path)


def test_a_whole_run(rng, tmp_path):
    """The folder as forcepho's post-processing walks through it."""
    peaks = [Peak(i, "sersic", 150.0 + i / 100, 2.0) for i in range(10)]
    residuals = tmp_path / "r.h5"
    residuals.write_bytes(b"pixels")
    archive = Archive(tmp_path / "forcepho", peaks, BANDS, "scene.fits", {"seed": 3})
    archive.add(galaxies(rng), MEMBERSHIP, 5.0, residuals)
    archive.write_scene()
    root = tmp_path / "forcepho"
    config = json.loads((root / "config.json").read_text())
    assert config["seed"] == 3
    logs = json.loads((root / config["scene_catalog"].replace(".fits", "_log.json")).read_text())
    assert logs == {"patchlog": ["3"], "sourcelog": {"5": ["3"], "2": ["3"]}}
    final = fits.getdata(root / config["scene_catalog"])
    assert len(final) == 10 and list(np.flatnonzero(final["n_iter"])) == [2, 5]
    assert np.isnan(final["g"][0]) and final["ra"][7] == 150.07 and final["is_valid"].all()
    patch = logs["patchlog"][0]
    found = read_forcepho_samples(root / f"patches/patch{patch}_samples.h5")
    index, n = found.arrays["chaincat"]["source_index"], found.attrs["n_sample"]
    np.testing.assert_array_equal(final["g"][index], found.arrays["final"]["g"])
    assert found.arrays["chaincat"]["g"][:, -n:].shape == (2, 160)
    assert (root / f"patches/patch{patch}_residuals.h5").read_bytes() == b"pixels"
    # the catalogue of fitted sources is one that forcepho, and we, can start from
    table = final[[2, 5]]
    hdu = fits.BinTableHDU(table)
    hdu.header["FILTERS"] = fits.getheader(root / "scene.fits", 1)["FILTERS"]
    hdu.writeto(tmp_path / "start.fits")
    assert read_catalog(tmp_path / "start.fits").fluxes("g")[1] == found.arrays["final"]["g"][0]
