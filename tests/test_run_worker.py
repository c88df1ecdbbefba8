"""Workers with the real fit: from a configuration, in processes, to a catalogue state."""

import numpy as np
import pytest
from small_field import write_field
from superscene_run import run

from jaxpho.config import load_config
from jaxpho.data.catalog import Peak
from jaxpho.data.psfmodel import PSFModel
from jaxpho.output.samples import read_samples
from jaxpho.run import worker
from jaxpho.run.field import load_field
from jaxpho.superscene.child import ChildEngine
from jaxpho.superscene.layout import parameter_names, peak_of
from jaxpho.superscene.policy import SceneOptions
from jaxpho.superscene.state import new_state
from jaxpho.superscene.worker import Work

STARS = (("1", -4.0, -3.0, "point"), ("2", 5.0, 4.0, "point"), ("3", 3.2, 4.0, "point"))


def test_a_worker_reads_its_exposures_and_mixtures(tmp_path):
    path = write_field(tmp_path, STARS)
    task = worker.prepare(worker.context_of(path, tmp_path / "psf_mixtures.h5", tmp_path / "out"))
    assert [e.name for e in task.exposures] == ["g1", "g2", "r1"]
    assert all(isinstance(e.psf, PSFModel) for e in task.exposures)
    assert (task.bands, task.mixture, task.finer) == (["g", "r"], "k12", True)
    assert task.sample.method == "none" and task.precision == "float32"


@pytest.mark.slow
def test_processes_fit_a_field_and_draw_the_same_when_alone(tmp_path):
    """Two workers and one: bit by bit the same; and the fluxes that were put in."""
    sample = {"method": "nuts", "num_chains": 2, "num_samples": 30, "num_warmup": 20}
    path = write_field(tmp_path, STARS, sample=sample)
    config = load_config(path)
    found = load_field(config)
    states = []
    for workers in (1, 2):
        folder = tmp_path / f"run{workers}"
        (folder / "patches").mkdir(parents=True)
        state = new_state(
            found.peaks, config.bands, found.radius,
            SceneOptions(target=60, per_patch=30, max_active=1),
        )  # fmt: skip
        context = worker.context_of(path, tmp_path / "psf_mixtures.h5", folder)
        engine = ChildEngine(Work("jaxpho.run.worker", context), workers, limit=500)
        assert run(folder, state, engine).end == "finished"
        assert state.counts == {"done": 3, "failed": 0, "waiting": 0}
        states.append(state)
    np.testing.assert_array_equal(states[0].parameters, states[1].parameters)
    np.testing.assert_array_equal(states[0].covariance, states[1].covariance)
    names = parameter_names("point", config.bands)
    assert np.isfinite(states[0].parameters[:, : len(names)]).all()
    # a Gaussian of peak 60 and width 2 pixels stands for each star: 1508; the PSF's is 1.5 to 2.4
    star: Peak = peak_of(found.peaks[0], config.bands, states[0].parameters[0, : len(names)])
    assert 0.6 < star.flux["flux", "g"] / 1508 < 1.1
    files = sorted((tmp_path / "run1" / "patches").glob("*_samples.h5"))
    assert len(files) == 5 and all(read_samples(f).samples.shape[0] == 2 for f in files)
