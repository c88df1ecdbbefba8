"""PSF store: round trips, forcepho's files, interpolation, and what is refused."""

from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import expm

from jaxpho.data.locations import location_weights, mean_mixture
from jaxpho.data.psfmodel import PSF_DTYPE, PSFModel
from jaxpho.data.psfstore import (
    check_psf_store,
    list_psf_groups,
    read_psf_store,
    write_psf_store,
)
from jaxpho.errors import InputError

# Barycentric weights reproduce a linear function to rounding of coordinates of a few thousand.
LINEAR_ATOL = 1e-8
# Parameters are stored in float32.
FLOAT32_RTOL = 1e-6

SQUARE = np.array([[0.0, 0.0], [4000.0, 0.0], [0.0, 4000.0], [4000.0, 4000.0]])


def mixtures(nloc, ngauss=3, seed=1):
    rng = np.random.default_rng(seed)
    out = np.zeros((nloc, ngauss), PSF_DTYPE)
    for name in ("amp", "xcr", "ycr"):
        out[name] = rng.normal(size=(nloc, ngauss))
    out["Cxx"], out["Cyy"] = rng.uniform(1, 3, size=(2, nloc, ngauss))
    out["Cxy"] = rng.uniform(-0.5, 0.5, size=(nloc, ngauss))
    out["sersic_bin"] = -1
    return out


def test_round_trip_keeps_everything_and_other_groups(tmp_path):
    path = tmp_path / "psf.h5"
    one = PSFModel(mixtures(1), includes_pixel=True, amplitude_sum="unit")
    grid = PSFModel(mixtures(4), SQUARE)
    write_psf_store(path, "F200W", one, attrs={"residual": 0.01})
    write_psf_store(path, "F277W/exp/1", grid)
    assert list_psf_groups(path) == ["F200W", "F277W/exp/1"]
    back = read_psf_store(path, "F200W")
    assert np.array_equal(back.parameters, one.parameters)
    assert back.includes_pixel and back.amplitude_sum == "unit" and back.locations is None
    assert back.attrs["residual"] == 0.01
    back = read_psf_store(path, "F277W/exp/1")
    assert np.array_equal(back.parameters, grid.parameters)
    assert np.array_equal(back.locations, SQUARE)
    assert not back.includes_pixel
    assert [p.name for p in tmp_path.iterdir()] == ["psf.h5"]


def test_overwriting_a_band_keeps_its_exposures(tmp_path):
    path = tmp_path / "psf.h5"
    write_psf_store(path, "g", PSFModel(mixtures(1)))
    write_psf_store(path, "g/exp", PSFModel(mixtures(1, seed=2)))
    write_psf_store(path, "g", PSFModel(mixtures(1, seed=3)))
    assert np.array_equal(read_psf_store(path, "g/exp").parameters, mixtures(1, seed=2))
    assert np.array_equal(read_psf_store(path, "g").parameters, mixtures(1, seed=3))
    with pytest.raises(InputError, match="overwrite is off"):
        write_psf_store(path, "g", PSFModel(mixtures(1)), overwrite=False)


@pytest.mark.parametrize("forcepho", [False, True])
def test_written_per_radius_collapses_back(tmp_path, forcepho):
    path = tmp_path / "psf.h5"
    write_psf_store(path, "g", PSFModel(mixtures(2), SQUARE[:2]), nradii=9, forcepho=forcepho)
    with h5py.File(path) as file:
        data = file["g/parameters"]
        assert data.shape == ((2, 27) if forcepho else (2, 9, 3))
        assert ("xcen" in data.dtype.names) == forcepho
        assert file["g"].attrs["n_psf_per_source"] == 27
        assert file["g/detector_locations"].shape == (2, 2)
    back = read_psf_store(path, "g")
    assert back.parameters["sersic_bin"].max() == 8
    assert np.array_equal(back.collapsed().parameters, mixtures(2))


def test_forcepho_stores(data_dir, tmp_path):
    folder = data_dir / "forcepho_format"
    expected = np.load(folder / "case2" / "expected.npz")
    for band, count in (("F115W", 27), ("F277W", 28)):
        model = read_psf_store(folder / "case2" / "psf_store.h5", band)
        assert model.ngauss == count and not model.includes_pixel
        assert (model.collapsed() is None) == (band == "F277W")
        write_psf_store(tmp_path / "copy.h5", band, model, forcepho=True)
        copy = read_psf_store(tmp_path / "copy.h5", band)
        assert np.array_equal(copy.parameters, model.parameters)
    first = read_psf_store(folder / "case2" / "psf_store.h5", "F115W").at()
    for ours, theirs in (("amp", "amp"), ("xcr", "xcen"), ("Cxy", "Cxy")):
        assert np.array_equal(first[ours], expected[f"psfgauss_{theirs}"][:27])


@given(x=st.floats(-500, 4500), y=st.floats(-500, 4500))
@settings(max_examples=50, deadline=None)
def test_weights_are_convex_and_linear_inside(x, y):
    points = np.concatenate([SQUARE, [[1500.0, 2100.0], [3000.0, 1000.0]]])
    weights = location_weights(points, x, y)
    assert np.all(weights >= 0) and abs(weights.sum() - 1) < LINEAR_ATOL
    inside = np.clip([x, y], 0, 4000)
    # Outside the square hull the nearest point of the hull is the clipped position.
    assert np.allclose(weights @ points, inside, rtol=0, atol=1e-5)


def size(p):
    """Fourth root of the determinants."""
    cxx, cyy, cxy = (p[name].astype(float) for name in ("Cxx", "Cyy", "Cxy"))
    return (cxx * cyy - cxy**2) ** 0.25


def test_mean_of_sheared_and_scaled_mixtures():
    """Width and shear change linearly: the mean is what lies between."""
    spin = np.array([[0.6, 0.8], [0.8, -0.6]])

    def mixture(t):
        matrix = (1 + 0.2 * t) * expm(0.15 * t * spin)
        out = mixtures(1)[0]
        for k, shape in enumerate((np.diag([1.0, 1.0]), np.diag([4.0, 4.0]))):
            c = matrix @ shape @ matrix
            out["Cxx"][k], out["Cyy"][k], out["Cxy"][k] = c[0, 0], c[1, 1], c[0, 1]
        return out[:2]

    found = mean_mixture(np.stack([mixture(t) for t in (0.0, 1.0, 3.0)]), [0.5, 0.25, 0.25])
    for name in ("Cxx", "Cyy", "Cxy"):
        assert np.allclose(found[name], mixture(1.0)[name], rtol=FLOAT32_RTOL, atol=1e-6), name
    padded = np.stack([mixture(0.0), mixture(1.0)])
    for name in ("amp", "Cxx", "Cyy", "Cxy"):
        padded[name][:, 1] = 0.0
    assert np.all(np.isfinite(mean_mixture(padded, [0.5, 0.5])["Cxx"]))


def test_interpolation_modes():
    model = PSFModel(mixtures(4), SQUARE)
    middle = model.at(0, 1000)
    assert np.allclose(
        size(middle), 0.75 * size(model.parameters[0]) + 0.25 * size(model.parameters[2]),
        rtol=FLOAT32_RTOL,
    )  # fmt: skip
    assert np.array_equal(model.at(100, 3900, method="nearest"), model.parameters[2])
    assert np.array_equal(model.at(4000, 0), model.parameters[1])
    pair = PSFModel(mixtures(2), SQUARE[:2])
    assert np.allclose(
        pair.at(2000, 0)["amp"], pair.parameters["amp"].mean(axis=0), rtol=FLOAT32_RTOL
    )
    line = location_weights(np.array([[0.0, 0], [1, 1], [2, 2]]), 0.9, 1.1)
    assert line.argmax() == 1
    with pytest.raises(InputError, match="'linear' or 'nearest'"):
        model.at(1, 2, method="cubic")
    with pytest.raises(InputError, match="not finite"):
        model.at(np.nan, 0)


def damaged(path, change):
    write_psf_store(path, "g", PSFModel(mixtures(2), SQUARE[:2]))
    with h5py.File(path, "a") as file:
        change(file)


def drop_attribute(file):
    del file["g"].attrs["n_psf_per_source"]


def drop_parameters(file):
    del file["g/parameters"]


def plain_parameters(file):
    del file["g/parameters"]
    file["g/parameters"] = np.zeros((2, 3))


def rename_field(file):
    values = file["g/parameters"][()]
    del file["g/parameters"]
    names = [("flux" if name == "amp" else name, values.dtype[name]) for name in values.dtype.names]
    file["g/parameters"] = values.view(np.dtype(names))


def negative_variance(file):
    values = file["g/parameters"][()]
    values["Cxx"][0, 0] = -1
    file["g/parameters"][...] = values


def wrong_locations(file):
    del file["g/detector_locations"]
    file["g/detector_locations"] = np.zeros((2, 5))


def spoil_locations(values):
    def change(file):
        del file["g/detector_locations"]
        file["g/detector_locations"] = values

    return change


def attribute(**values):
    return lambda file: file["g"].attrs.update(values)


def not_a_number(file):
    values = file["g/parameters"][()]
    values["xcr"][1, 0] = np.nan
    file["g/parameters"][...] = values


def four_dimensions(file):
    values = file["g/parameters"][()]
    del file["g/parameters"]
    file["g/parameters"] = values[None, None]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (not_a_number, "hold values that are not finite"),
        (four_dimensions, r"'parameters' has shape \(1, 1, 2, 3\)"),
        (attribute(n_psf_per_source=7), "n_psf_per_source is 7 but 'parameters' holds 3"),
        (attribute(n_psf_per_source="many"), "n_psf_per_source is 'many'; expected a whole"),
        (attribute(includes_pixel="perhaps"), "includes_pixel is 'perhaps'; expected true"),
        (attribute(amplitude_sum="two"), "amplitude_sum is 'two'; expected one of"),
        (spoil_locations([b"left", b"right"]), "'detector_locations' has dtype"),
        (spoil_locations(np.ones((2, 2))), "share the same detector location"),
        (spoil_locations(np.full((2, 2), np.nan)), "must be finite"),
        (drop_attribute, "lacks the attribute 'n_psf_per_source'"),
        (drop_parameters, "no data set 'parameters'"),
        (plain_parameters, "not a structured array"),
        (rename_field, "no numeric field 'amp'"),
        (negative_variance, "not positive definite"),
        (wrong_locations, r"detector_locations has shape \(2, 5\)"),
    ],
)
def test_bad_groups_are_named(tmp_path, change, sentence):
    path = tmp_path / "psf.h5"
    damaged(path, change)
    with pytest.raises(InputError, match=sentence) as caught:
        read_psf_store(path, "g")
    assert "psf.h5" in str(caught.value) and "'g'" in str(caught.value)


def test_bad_files_are_named(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_psf_store(tmp_path / "none.h5", "g")
    path = tmp_path / "psf.h5"
    write_psf_store(path, "g", PSFModel(mixtures(1)))
    with pytest.raises(InputError, match="no group 'r'; it holds: g"):
        read_psf_store(path, "r")
    truncated = tmp_path / "cut.h5"
    truncated.write_bytes(path.read_bytes()[:500])
    text = tmp_path / "text.h5"
    text.write_text("not HDF5")
    for bad in (truncated, text):
        with pytest.raises(InputError, match="not a readable HDF5 file"):
            read_psf_store(bad, "g")
        content = bad.read_bytes()
        with pytest.raises(InputError, match="not a readable HDF5 file"):
            write_psf_store(bad, "g", PSFModel(mixtures(1)))
        assert bad.read_bytes() == content


@pytest.mark.parametrize(
    ("locations", "sentence"),
    [
        (None, "need 2 detector locations"),
        (np.zeros((3, 2)), r"expected \(2, 2\)"),
        (np.ones((2, 2)), "share the same detector location"),
        (np.array([[0, 0], [np.nan, 1]]), "finite"),
    ],
)
def test_bad_locations(locations, sentence):
    with pytest.raises(InputError, match=sentence):
        PSFModel(mixtures(2), locations)


def test_wrong_dtype_is_refused():
    with pytest.raises(InputError, match="dtype"):
        PSFModel(np.zeros((1, 3)))


def test_what_is_not_a_psf_is_never_touched(tmp_path):
    """Data of other programs, and our own groups taken for something else."""
    path = tmp_path / "other.h5"
    model = PSFModel(mixtures(1))
    with h5py.File(path, "w") as f:
        f["spectra"], f["night/wave"], f.attrs["telescope"] = np.ones(3), np.arange(4), "big"
        f["notes"] = b"x"
        f.create_group("mine").attrs["who"] = "me"
    before = path.read_bytes()
    for group, message in (
        ("spectra", "'spectra' is a data set"), ("spectra/r", "'spectra' is a data set"),
        ("night", "holds something else"), ("mine", "holds something else"),
        (".", "cannot name"), ("../x", "cannot name"), ("", "cannot name"),
        ("r/parameters", "cannot name"), ("r/reduced/x", "cannot name"),
    ):  # fmt: skip
        for call in (check_psf_store, lambda p, g: write_psf_store(p, g, model)):
            with pytest.raises(InputError, match=message):
                call(path, group)
    assert path.read_bytes() == before
    write_psf_store(path, "r", model)
    write_psf_store(path, "r/e1", model)
    write_psf_store(path, "r", model)
    assert list_psf_groups(path) == ["r", "r/e1"]
    with h5py.File(path, "r") as f:
        assert f.attrs["telescope"] == "big" and "wave" in f["night"] and "spectra" in f


def test_writers_at_the_same_time_lose_nothing(tmp_path):
    path = tmp_path / "psf.h5"
    model = PSFModel(mixtures(1))
    names = [f"b{i}" for i in range(24)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: write_psf_store(path, name, model), names))
    assert list_psf_groups(path) == sorted(names)
    assert [p.name for p in tmp_path.iterdir()] == ["psf.h5"]
