"""The work on one patch, with a stand-in for the fit; and a real one."""

import json
from dataclasses import replace

import numpy as np
import pytest
from small_field import write_field
from test_run import StandInFit
from test_stored_field import round_psf

from jaxpho.config import load_config
from jaxpho.errors import InputError
from jaxpho.fit import flags
from jaxpho.fit.options import FitOptions, SampleOptions
from jaxpho.output.samples import read_samples
from jaxpho.run.field import load_field
from jaxpho.superscene import fitting
from jaxpho.superscene.fitting import Task
from jaxpho.superscene.layout import parameter_names, peak_of
from jaxpho.superscene.message import message_of
from jaxpho.superscene.policy import SceneOptions
from jaxpho.superscene.posterior import draws_of
from jaxpho.superscene.state import new_state
from jaxpho.superscene.worker import encode

BANDS = ["g", "r"]


class Sampled(StandInFit):
    """The stand-in with draws."""

    def __call__(self, packed, peaks, options, sampling, *, key, checkpoint=None, **more):
        self.sampling, self.key = sampling, key
        result = super().__call__(packed, peaks, options, sampling, key=key, **more)
        if sampling.method != "none":
            rng = np.random.default_rng(0)
            shape = (2, sampling.num_samples, len(result.theta))
            result.samples = result.theta + 0.01 * rng.normal(size=shape)
            result.diagnostics |= {"gradients": 500, "warmup_gradients": 100}
        return result


@pytest.fixture
def field(tmp_path):
    found = load_field(load_config(write_field(tmp_path)))
    for exposure in found.exposures:
        exposure.psf = round_psf()
    return found


def scene(field, **options):
    """The state of a field, sources in patches of their own."""
    options = SceneOptions(**{"target": 20, "per_patch": 20, "max_active": 1} | options)
    return new_state(field.peaks, BANDS, field.radius, options)


def task_of(field, folder, **sample):
    return Task(field.exposures, BANDS, FitOptions(), SampleOptions(**sample), folder=folder)


def test_the_last_draw_is_the_answer_and_the_samples_are_on_disk(monkeypatch, tmp_path, field):
    fit = Sampled()
    monkeypatch.setattr(fitting, "fit_patch", fit)
    state = scene(field)
    patches = state.plan(0, 0)
    patch = next(p for p in patches if p.fixed)
    neighbour = patch.fixed[0]
    message = json.loads(encode(message_of(state, patch, 5)))
    assert message["active"][0]["covariance"] is None
    # the neighbour's latest values are what is held
    names = parameter_names(field.peaks[neighbour].type, BANDS)
    row = np.array([7.0 if name == "flux" else v for (name, _), v in
                    zip(names, message["fixed"][0]["parameters"], strict=True)])  # fmt: skip
    message["fixed"][0]["parameters"] = row.tolist()
    answer = json.loads(encode(fitting.work(task_of(field, tmp_path), message)))
    assert (fit.sampling.num_samples, fit.sampling.max_rounds) == (20, 1)
    (held,) = fit.calls[0][2]
    assert held.fixed == {"all"} and held.flux["flux", "g"] == 7.0
    result = read_samples(tmp_path / f"patch{patch.name}_samples.h5")
    source = field.peaks[patch.active[0]]
    assert result.source_ids == [source.id, field.peaks[neighbour].id]
    found = peak_of(source, BANDS, answer["latest"][0])
    column = result.index(0, "flux", "g")
    assert found.flux["flux", "g"] == result.samples[0, -1, column]
    assert found.flux["flux", "g"] != pytest.approx(result.samples[..., column].mean(), rel=1e-6)
    # an offset of .01 arcsec, give or take the draw's .01
    reference = result.reference
    ra = reference[0] + result.samples[0, -1, result.index(0, "ra")] / 3600 / np.cos(
        np.radians(reference[1])
    )
    assert found.ra == pytest.approx(ra, abs=1e-9)
    block = np.array(answer["covariance"][0])
    flux = parameter_names(source.type, BANDS).index(("flux", "g"))
    assert block[flux, flux] == pytest.approx(result.samples[..., column].var(ddof=1))
    assert answer["summary"]["gradients"] == 600
    # and the state takes it
    state.check_in(patch, answer["latest"], answer["covariance"], answer["flags"])
    assert message_of(state, patch, 5)["active"][0]["covariance"] is not None


def test_the_posterior_is_all_draws_of_all_patches(monkeypatch, tmp_path, field):
    """In degrees, because patches have references of their own."""
    monkeypatch.setattr(fitting, "fit_patch", Sampled())
    state = scene(field, target=30, per_patch=15)
    names, k = [], 0
    while patches := state.plan(k, k):
        k += 1
        for patch in patches:
            message = message_of(state, patch, 5)
            answer = fitting.work(task_of(field, tmp_path), message)
            state.check_in(patch, answer["latest"])
            if 1 in patch.active:
                names.append(patch.name)
                last = answer["latest"][0]
    assert len(names) == 2
    found = draws_of(tmp_path, names, field.peaks[1].id)
    keys = parameter_names("point", BANDS)
    assert set(found) == set(keys) and {v.shape for v in found.values()} == {(2, 30)}
    # the last draw of all is the state's
    np.testing.assert_allclose([found[key][0, -1] for key in keys], last, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(state.parameters[1, : len(keys)], last)
    first = read_samples(tmp_path / f"patch{names[0]}_samples.h5")
    offset = first.samples[..., first.index(0, "dec")] / 3600
    np.testing.assert_allclose(found["dec", ""][:, :15], first.reference[1] + offset, rtol=1e-12)
    with pytest.raises(InputError, match="no such samples file"):
        draws_of(tmp_path, ["77"], "2")
    with pytest.raises(InputError, match="expected draws of source 9, found none"):
        draws_of(tmp_path, names, "9")
    with pytest.raises(InputError, match="no patch that it was fitted in"):
        draws_of(tmp_path, [], "2")


def test_without_draws_the_optimum_is_the_answer(monkeypatch, field):
    monkeypatch.setattr(fitting, "fit_patch", Sampled())
    state = scene(field, max_active=3)
    for patch in state.plan(0, 0):
        message = message_of(state, patch, 5)
        answer = fitting.work(task_of(field, None, method="none"), message)
        state.check_in(patch, answer["latest"], answer["covariance"], answer["flags"])
    assert state.counts["done"] == 3
    names = parameter_names("sersic", BANDS)
    assert state.parameters[0, names.index(("flux", "g"))] == 100.0


def test_parts_of_a_patch_have_files_of_their_own(monkeypatch, tmp_path, field):
    monkeypatch.setattr(fitting, "fit_patch", Sampled())
    state = scene(field)
    patch = replace(state.plan(0, 12)[0], name="12ab")
    fitting.work(task_of(field, tmp_path), message_of(state, patch, 1))
    assert read_samples(tmp_path / "patch12ab_samples.h5").patch_id == 12


def test_a_corrupt_exposure_is_left_out_and_flagged(monkeypatch, field, caplog):
    fit = Sampled()
    monkeypatch.setattr(fitting, "fit_patch", fit)
    broken = next(e for e in field.exposures if e.name == "g2")

    def unreadable(*_):
        raise OSError("Unable to read data (filter returned failure)")

    state = scene(field)
    message = message_of(state, state.plan(0, 0)[0], 1)
    task = task_of(field, None, method="none")
    whole = fitting.work(task, message)
    monkeypatch.setattr(broken, "tiles", unreadable)
    answer = fitting.work(task, message)
    assert answer["summary"]["left_out"] == ["g2"]
    assert [flags.decode(mask) for mask in answer["flags"]] == [["bad_exposure"]]
    assert answer["summary"]["npix"] < whole["summary"]["npix"]
    assert "exposure g2 is left out: Unable to read data" in caplog.text
    for exposure in field.exposures:
        monkeypatch.setattr(exposure, "tiles", unreadable)
    with pytest.raises(OSError, match="Unable to read"):
        fitting.work(task, message)
