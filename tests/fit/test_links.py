"""Shapes that differ from band to band: by hand, by differences, recovered, and refused."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fit_case import BANDS, MIXTURE, draw, make_case, z_of
from synthetic_patch import derivative, oracle_model

from jaxpho.core.scene import scene_rows
from jaxpho.errors import InputError
from jaxpho.fit.driver import fit_patch
from jaxpho.fit.evaluate import problem_of
from jaxpho.fit.links import (
    NOMINAL,
    LinkOptions,
    check_bands,
    check_links,
    is_difference,
    wavelengths_of,
)
from jaxpho.fit.models import SceneModel
from jaxpho.fit.options import FitOptions
from jaxpho.fit.posterior import evaluate, model_of
from jaxpho.fit.transforms import physical, prior_energy
from jaxpho.output.catalog import make_table, rows_of_patch
from jaxpho.superscene.fitting import Task, latest
from jaxpho.superscene.layout import peak_of

# of rows in double precision
FLOAT64 = 1e-12
# Derivatives in units of the curvature's root, by differences with steps in z.
DIFFERENCES, STEP = 1e-6, 2e-3
# standard deviations: 8 numbers, one in 10^4
SIGMAS = 4.3

WAVES = {"g": 0.5, "r": 0.7, "i": 0.9}
LINKS = {"rhalf": LinkOptions("wavelength"), "sersic": LinkOptions("wavelength"),
         "ellipticity": LinkOptions("free", reference="r")}  # fmt: skip
SLOPES = {("drhalf", ""): -0.8, ("dsersic", ""): 2.0, ("de1", "g"): 0.1, ("de1", "i"): -0.05,
          ("de2", "g"): 0.0, ("de2", "i"): 0.08}  # fmt: skip


def options(links=None, **kwargs):
    return FitOptions(links=LINKS if links is None else links, wavelengths=WAVES, **kwargs)


@cache
def three_bands(noise=True):
    """A galaxy whose size, index and ellipticity change with the band, by an independent model."""
    s = draw(4, ("sersic",), n_bands=3, exposures_per_band=1, shape=(16, 16), flux=3e4,
             dtype=np.float64)  # fmt: skip
    at = {name: i for i, (_, name, _) in enumerate(s.labels)}
    rng, tiles = np.random.default_rng(2), []
    for e, t in enumerate(s.tiles):
        theta, band = np.array(s.theta), BANDS[s.exposure_band[e]]
        step = WAVES[band] - 0.7
        theta[at["rhalf"]] *= np.exp(-0.8 * step)
        theta[at["sersic"]] += 2.0 * step
        for name in ("e1", "e2"):
            theta[at[name]] += SLOPES.get(("d" + name, band), 0.0)
        data = oracle_model(s, theta, e)
        sigma = 1.0 / np.where(t.ierr > 0, t.ierr, np.inf)
        tiles.append(t._replace(data=data + noise * sigma * rng.standard_normal(data.shape)))
    return s._replace(tiles=tiles).pack(np.float64)


def truth_of(case):
    """Free parameters at the truth, slopes included."""
    theta = case.truth.copy()
    for i, (_, name, band) in enumerate(case.table.labels):
        if is_difference(name):
            theta[i] = SLOPES[name, band]
    return theta


def test_rows_in_every_band(x64):
    """What the truth was rendered with; one shape in all bands where the differences are zero."""
    s = three_bands()
    case, plain = make_case(s, options=options()), make_case(s)
    names = [(name, band) for _, name, band in case.table.labels if is_difference(name)]
    assert sorted(names) == sorted(SLOPES)
    rows = scene_rows(jnp.asarray(truth_of(case)), case.problem.scene, case.problem.patch).sersic
    known = {name: case.truth[case.find(0, name)] for name in ("rhalf", "sersic", "e1", "e2")}
    for e, band in enumerate(case.packed.exposure_bands):
        step = WAVES[band] - 0.7
        expected = [
            known["rhalf"] * np.exp(-0.8 * step), known["sersic"] + 2.0 * step,
            known["e1"] + SLOPES.get(("de1", band), 0.0),
            known["e2"] + SLOPES.get(("de2", band), 0.0),
        ]  # fmt: skip
        np.testing.assert_allclose(rows[e, 0, 3:], expected, rtol=FLOAT64)
    zero = np.where([is_difference(label[1]) for label in case.table.labels], 0.0,
                    truth_of(case)[: len(case.table.labels)])  # fmt: skip
    padded = np.zeros(case.n)
    padded[: len(zero)] = zero
    same = model_of(jnp.asarray(padded), case.problem)
    one = model_of(jnp.asarray(plain.truth), plain.problem)
    np.testing.assert_allclose(same, one, rtol=FLOAT64, atol=FLOAT64)


def test_shapes_stay_what_they_can_be(x64):
    """Slopes beyond reason: n within the mixtures, ellipses that are ellipses, finite gradients."""
    case = make_case(three_bands(), options=options())
    theta = truth_of(case)
    theta[case.find(0, "dsersic")] = 50.0
    theta[case.find(0, "de1", "g")] = 3.0
    rows = scene_rows(jnp.asarray(theta), case.problem.scene, case.problem.patch).sersic
    assert (rows[..., 4] >= 0.3).all() and (rows[..., 4] <= 8.0).all()
    assert (np.hypot(rows[..., 5], rows[..., 6]) < 0.99).all()
    total = jax.grad(lambda t: scene_rows(t, case.problem.scene, case.problem.patch).sersic.sum())
    assert np.isfinite(total(jnp.asarray(theta))).all()


def test_derivatives(x64):
    """Gradient and Gauss-Newton matrix, of slopes too, against differences of the model."""
    case = make_case(three_bands(), options=options())
    z = z_of(truth_of(case), case.problem)
    found = evaluate(jnp.asarray(z), case.problem, case.problem.patch.data)
    weight = np.asarray(case.problem.patch.ierr)
    model = jax.jit(lambda z: model_of(physical(z, case.problem.transform), case.problem))
    chi = weight * (np.asarray(model(jnp.asarray(z))) - np.asarray(case.problem.patch.data))
    slopes = derivative(lambda x: weight * np.asarray(model(jnp.asarray(x))), z, [STEP] * case.n)
    slopes = slopes.reshape(case.n, -1)
    prior = jax.grad(prior_energy)(jnp.asarray(z), case.problem.transform)
    curvature = np.asarray(jax.hessian(prior_energy)(jnp.asarray(z), case.problem.transform))
    fisher = slopes @ slopes.T
    root = np.sqrt(np.diag(fisher) + np.diag(curvature))
    gradient = (slopes @ chi.ravel() + prior) / root
    np.testing.assert_allclose(found.gradient / root, gradient, atol=1e-4 * abs(gradient).max())
    linked = [i for i, label in enumerate(case.table.labels) if is_difference(label[1])]
    expected = (fisher / np.outer(root, root))[linked]
    got = (np.asarray(found.curvature) - curvature) / np.outer(root, root)
    np.testing.assert_allclose(got[linked], expected, atol=DIFFERENCES)


@cache
def fitted():
    s = three_bands()
    case = make_case(s, options=options())
    return case, fit_patch(case.packed, case.peaks, options(restarts=0), mixture=MIXTURE)


def test_recovered_and_told(x64):
    """Slopes and differences within their errors; columns with units; the next patch's start."""
    case, result = fitted()
    sigma = np.sqrt(np.diag(result.covariance))
    n = len(case.table.labels)
    pull = (result.theta - truth_of(case)[:n]) / sigma
    assert (np.abs(pull) < SIGMAS).all(), dict(zip(result.labels, pull, strict=True))
    at = {label[1:]: i for i, label in enumerate(result.labels)}
    # and they are measured
    assert sigma[at["drhalf", ""]] < 0.1 and abs(pull[at["drhalf", ""]]) < 4
    table = make_table(rows_of_patch(result), result.bands, "nJy")
    assert table["drhalf"].unit == "um-1" and table["drhalf_err"][0] > 0
    assert table["drhalf"][0] == pytest.approx(result.theta[at["drhalf", ""]])
    assert table["de2_i"][0] == pytest.approx(result.theta[at["de2", "i"]])
    assert "de1" not in table.colnames and "drhalf_g" not in table.colnames
    # held by a neighbouring patch, it looks the same there
    row, _ = latest(result, 0, Task([], list(case.packed.bands), options(), None))
    peak = peak_of(case.peaks[0], case.packed.bands, row, options())
    peak = replace(peak, fixed=frozenset({"all"}))
    held, table, n = problem_of(case.packed, [peak], options(), MIXTURE)
    assert table.labels == []
    again = scene_rows(jnp.asarray(table.start(n, np.float64)), held.scene, held.patch).sersic
    own = np.zeros(case.n)
    own[: len(result.theta)] = result.theta
    rows = scene_rows(jnp.asarray(own), case.problem.scene, case.problem.patch).sersic
    np.testing.assert_allclose(again[..., 3:], rows[..., 3:], rtol=1e-6)


def test_sites_of_slopes(x64):
    case = make_case(three_bands(), options=options())
    shapes = {s.name: (s.index.shape, s.bands) for s in SceneModel(case.problem, case.table).sites}
    assert shapes["drhalf"] == ((1,), ()) and shapes["de1"] == ((2, 1), ("g", "i"))


def test_one_band_has_one_shape():
    case = make_case(draw(0), options=options())
    assert case.problem.scene.link is None
    assert not any(is_difference(name) for _, name, _ in case.table.labels)


def test_wavelengths_by_name_or_by_the_configuration():
    np.testing.assert_allclose(wavelengths_of(["r", "f200w"], {"r": 0.65}), [0.65, 1.989])
    assert wavelengths_of(["g"], {})[0] == NOMINAL["g"]
    with pytest.raises(InputError, match="band 'blue' has none, and its name does not tell"):
        wavelengths_of(["blue"], {})
    same = FitOptions(links={"rhalf": LinkOptions("wavelength")}, wavelengths={"g": 0.5, "r": 0.5})
    with pytest.raises(InputError, match="all bands have 0.5 micron, expected different ones"):
        check_bands(same, ["g", "r"])


@pytest.mark.parametrize(
    "links, words",
    [
        ({"flux": LinkOptions("free")}, "expected rhalf, sersic or ellipticity"),
        ({"rhalf": LinkOptions("wavelength", reference="g")}, "belongs to kind free"),
        ({"rhalf": LinkOptions("free", reference="z")}, "expected one of g, r, i, found 'z'"),
        ({"rhalf": LinkOptions("constant", sigma=1.0)}, "sigma' belongs to kinds"),
    ],
)
def test_links_that_cannot_be_are_refused(links, words):
    with pytest.raises(InputError, match=words):
        check_links(links)
        check_bands(options(links), list(BANDS))
