"""Reduced PSF mixtures in a store: round trips, other readers, rotation, what is refused."""

from dataclasses import replace

import h5py
import numpy as np
import pytest

from jaxpho.data.exposure import PSFInput
from jaxpho.data.locations import mean_mixture
from jaxpho.data.options import PSFOptions
from jaxpho.data.psfinput import read_psf_input, rotate_model
from jaxpho.data.psfmodel import PSF_DTYPE, PSFModel, ReducedPSF
from jaxpho.data.psfstore import list_psf_groups, read_psf_store, write_psf_store
from jaxpho.errors import InputError

PLACES = np.array([[0.0, 0.0], [100.0, 0.0], [0.0, 100.0]])


def mixture(nloc, ngauss, seed):
    rng = np.random.default_rng(seed)
    out = np.zeros((nloc, ngauss), PSF_DTYPE)
    out["amp"] = rng.uniform(0.1, 1, (nloc, ngauss))
    out["xcr"], out["Cxy"] = rng.normal(0, 0.1, (2, nloc, ngauss))
    out["Cxx"], out["Cyy"] = rng.uniform(1, 3, (2, nloc, ngauss))
    out["sersic_bin"] = -1
    return out


def make(nloc=1):
    reduced = [
        ReducedPSF(1.5, mixture(nloc, 3, 2), 2e-3),
        ReducedPSF(1.5, mixture(nloc, 4, 3), 1e-4),
        ReducedPSF(4.0, mixture(nloc, 2, 4), 9e-5),
    ]
    return PSFModel(mixture(nloc, 5, 1), PLACES[:nloc] if nloc > 1 else None, reduced=reduced)


def same(a, b):
    assert len(a) == len(b)
    for one, two in zip(a, b, strict=True):
        assert (one.width, one.error) == (two.width, two.error)
        np.testing.assert_array_equal(one.parameters, two.parameters)


@pytest.mark.parametrize("nloc", [1, 3])
@pytest.mark.parametrize(("nradii", "forcepho"), [(None, False), (9, False), (9, True)])
def test_round_trip_and_what_others_see(tmp_path, nloc, nradii, forcepho):
    path, model = tmp_path / "psf.h5", make(nloc)
    write_psf_store(path, "g", model, nradii=nradii, forcepho=forcepho)
    back = read_psf_store(path, "g")
    same(back.reduced, model.reduced)
    same(back.single().reduced, model.reduced)
    assert list_psf_groups(path) == ["g"]
    plain = tmp_path / "plain.h5"
    write_psf_store(plain, "g", replace(model, reduced=()), nradii=nradii, forcepho=forcepho)
    assert read_psf_store(plain, "g").reduced == ()
    with h5py.File(path) as one, h5py.File(plain) as two:
        np.testing.assert_array_equal(one["g/parameters"], two["g/parameters"])
        assert dict(one["g"].attrs) == dict(two["g"].attrs)
        assert set(one["g"]) - set(two["g"]) == {"reduced"}
        assert one["g/reduced"].shape == (nloc, 9)


def test_replacing_a_group_drops_its_ladder(tmp_path):
    path = tmp_path / "psf.h5"
    write_psf_store(path, "g/exposure", make())
    write_psf_store(path, "g", make())
    write_psf_store(path, "g", replace(make(), reduced=()))
    assert read_psf_store(path, "g").reduced == ()
    same(read_psf_store(path, "g/exposure").reduced, make().reduced)


def test_position_and_method(tmp_path):
    model = make(3)
    path = tmp_path / "psf.h5"
    write_psf_store(path, "g", model)
    at = model.ladder_at(20.0, 30.0)[0].parameters[0]
    expected = mean_mixture(model.reduced[0].parameters, np.array([0.5, 0.2, 0.3]))["Cxx"]
    np.testing.assert_allclose(at["Cxx"], expected, rtol=1e-6)
    near = PSFInput("store", path, group="g", options=PSFOptions(method="nearest"))
    found = read_psf_input(near).ladder_at(20.0, 30.0, "linear")
    for one, two in zip(found, model.reduced, strict=True):
        np.testing.assert_array_equal(one.parameters[0], two.parameters[0])
    assert replace(model, reduced=()).ladder_at(1.0, 2.0) == ()


def test_a_turned_psf_has_a_turned_ladder():
    model = make()
    turned = rotate_model(model, 90.0)
    for before, after in zip(model.reduced, turned.reduced, strict=True):
        assert before.width == after.width and before.error == after.error
        np.testing.assert_allclose(after.parameters["Cyy"], before.parameters["Cxx"], rtol=1e-5)
        np.testing.assert_allclose(after.parameters["ycr"], before.parameters["xcr"], rtol=1e-5)


def test_mixtures_per_radius_have_no_ladder():
    """It would say of which radius it is a reduction of only for one of them."""
    ragged = np.concatenate([mixture(1, 5, 1), mixture(1, 2, 1)], axis=1)
    ragged["sersic_bin"] = [[0] * 5 + [1] * 2]
    assert PSFModel(ragged, reduced=make().reduced).single().reduced == ()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda n: n["reduced"].attrs.__delitem__("width"), "lacks the attribute 'width'"),
        (lambda n: n["reduced"].attrs.modify("count", [3, 4, 3]), r"shape \(1, 9\)"),
        (lambda n: n["reduced"].attrs.create("count", [3.0, 4.0, 2.0]), r"shape \(1, 9\)"),
        (lambda n: n["reduced"].attrs.create("error", [1e-3, 1e-3]), r"3, 3 and 2 numbers"),
        (lambda n: n["reduced"].attrs.modify("width", [1.0, -1.0, 2.0]), "width -1.0"),
        (lambda n: n["reduced"].attrs.modify("error", [1e-3, np.nan, 1e-3]), "error nan"),
        (lambda n: (n.pop("reduced"), n.create_dataset("reduced", data=[1.0])), "structured array"),
        (lambda n: (n.pop("reduced"), n.create_group("reduced")), "structured array"),
    ],
)
def test_bad_ladders_are_named(tmp_path, change, words):
    path = tmp_path / "psf.h5"
    write_psf_store(path, "g", make())
    with h5py.File(path, "a") as file:
        change(file["g"])
    with pytest.raises(InputError, match=rf"psf.h5.*'g'.*'reduced'.*{words}"):
        read_psf_store(path, "g")
