"""InferenceData: files that arviz reads, with names, coordinates, and diagnostics like ours."""

import arviz as az
import numpy as np
import pytest
import xarray
from synthetic_result import EXPOSURES, make_result

from jaxpho.errors import InputError
from jaxpho.fit.diagnostics import diagnose, ebfmi
from jaxpho.inference_data import Groups, make_inference_data, scalars, write_groups
from jaxpho.output.inference import groups_of, to_inference_data, write_inference_data

DRAWS = 400
# the same definitions, in float64
RTOL = 1e-6


@pytest.fixture
def result():
    return correlated(np.random.default_rng(4))


def correlated(rng):
    """Draws of chains with some memory; a nuisance of an exposure among the parameters."""
    result = make_result(rng, DRAWS)
    white = result.samples - result.theta
    for i in range(1, DRAWS):
        white[:, i] = 0.6 * white[:, i - 1] + 0.8 * white[:, i]
    result.samples = result.theta + white
    result.labels[-1] = (("exposure", "g/1"), "sky", "")
    return result


def test_file_has_the_draws(result, tmp_path):
    path = tmp_path / "patches" / "p.nc"
    write_inference_data(path, result)
    data = az.from_netcdf(path)
    assert [p.name for p in path.parent.iterdir()] == ["p.nc"]
    posterior = data["posterior"]
    assert posterior["flux"].dims == ("chain", "draw", "source", "band")
    assert list(posterior["source"].values) == result.source_ids
    for column, (owner, name, band) in enumerate(result.labels):
        at = {"source": result.source_ids[owner]} if isinstance(owner, int) else {}
        at |= {"exposure": owner[1]} if not at else {}
        at |= {"band": band} if band else {}
        for group, draws in (("posterior", result.samples), ("warmup_posterior", result.warmup)):
            found = data[group][name].sel(at).values
            np.testing.assert_array_equal(found, draws[..., column])
    assert np.isnan(posterior["rhalf"].sel(source="star-7")).all()  # has no size
    assert posterior["flux"].attrs["units"] == "nJy"
    assert posterior["rhalf"].attrs["units"] == posterior["ra"].attrs["units"] == "arcsec"
    stats = data["sample_stats"]
    ours = {"diverging": "diverging", "n_steps": "n_steps", "acceptance_rate": "accept",
            "energy": "energy", "step_size": "step_size"}  # fmt: skip
    for theirs, name in ours.items():
        np.testing.assert_array_equal(stats[theirs].values, result.statistics[name])
    assert stats["diverging"].dtype == bool
    np.testing.assert_array_equal(stats["lp"].values, -result.statistics["potential"])
    assert data["warmup_sample_stats"]["lp"].shape == (4, 25)
    assert data.attrs["patch_id"] == 3 and data.attrs["reference_ra"] == 150.0


def test_diagnostics_agree(result):
    data = to_inference_data(result)
    rhat = az.rhat(data, method="rank")
    bulk, tail = az.ess(data, method="bulk"), az.ess(data, method="tail")
    ours = diagnose(result.samples)
    columns = [(result.labels.index((0, "flux", b)), "flux", (0, i)) for i, b in enumerate("gr")]
    columns.append((result.labels.index((1, "dec", "")), "dec", 1))
    for column, name, at in columns:
        for theirs, values in ((rhat, ours.rhat), (bulk, ours.bulk), (tail, ours.tail)):
            found = np.asarray(dataset(theirs)[name])[at]
            np.testing.assert_allclose(found, values[column], rtol=RTOL)
    assert 300 < ours.bulk[columns[0][0]] < 800  # 1600 draws with a memory of .6
    energy = result.statistics["energy"]
    np.testing.assert_allclose(np.ravel(az.bfmi(energy)), ebfmi(energy), rtol=RTOL)


def dataset(found):
    """arviz 1 wraps the variables in a tree."""
    return found["posterior"] if "posterior" in getattr(found, "children", {}) else found


def test_pixels_on_request(result, tmp_path):
    data = to_inference_data(result, warmup=False, pixels=True)
    assert "warmup_posterior" not in list(data.groups() if callable(data.groups) else data.groups)
    observed, constant = data["observed_data"]["data"].values, data["constant_data"]
    n = len(result.pixels["g/1"]["data"])
    np.testing.assert_array_equal(observed[:n], result.pixels["g/1"]["data"])
    np.testing.assert_array_equal(constant["x"].values[n : 2 * n], result.pixels["g/2"]["x"])
    names = list(dict.fromkeys(constant["exposure_of_pixel"].values.tolist()))
    assert names == [e[0] for e in EXPOSURES]
    write_groups(tmp_path / "p.nc", groups_of(result, pixels=True))
    back = az.from_netcdf(tmp_path / "p.nc")
    np.testing.assert_array_equal(back["observed_data"]["data"].values, observed)
    result.pixels = {}
    with pytest.raises(InputError, match="patch 3 has no pixels"):
        groups_of(result, pixels=True)


def test_zarr(result, tmp_path):
    path = tmp_path / "p.zarr"
    for _ in range(2):  # the second replaces the first
        write_inference_data(path, result)
    data = xarray.open_datatree(path, engine="zarr")
    np.testing.assert_array_equal(
        data["posterior"]["dec"].values[..., 1],
        result.samples[..., result.labels.index((1, "dec", ""))],
    )
    assert [p.name for p in tmp_path.iterdir()] == ["p.zarr"]


def test_what_cannot_be_written(result, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="p.h5: expected a file name that ends in .nc or .zarr"):
        write_inference_data(tmp_path / "p.h5", result)
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="file/p.nc cannot be written"):
        write_inference_data(tmp_path / "file" / "p.nc", result)
    monkeypatch.setattr("jaxpho.inference_data.find_spec", lambda name: None)
    message = r"to_inference_data: arviz is not installed; 'pip install \"jaxpho\[arviz\]\"'"
    with pytest.raises(InputError, match=message):
        to_inference_data(result)
    result.samples = None
    with pytest.raises(InputError, match="patch 3 has no draws"):
        groups_of(result)


def test_attributes_are_numbers_and_texts():
    found = scalars({"a": True, "b": [1, 2], "c": np.float32(1), "d": "x", "e": None})
    assert found == {"a": 1, "b": "[1, 2]", "c": 1.0, "d": "x", "e": "None"}
    draws = np.zeros((1, 5))
    data = make_inference_data(Groups({"posterior": {"x": draws}}, attrs=found))
    assert data["posterior"]["x"].shape == (1, 5)
