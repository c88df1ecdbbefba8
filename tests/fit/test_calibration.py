"""Simulation-based calibration of both samplers, small; `make calibrate` is the whole."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import binom

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))

from calibration import cli, figures, fits, ranks, results, scenes, simulate, tables  # noqa: E402

NUMBER = 32
# of uniform ranks, over 7 parameters: one false alarm in 10^4
P_VALUE = 1e-4 / 7
# of the peak, at noise a millionth of the signal: GalSim's own tolerances
SAME_IMAGE = 2e-4


def settings(method="nuts", **changes):
    """Settings of a run."""
    out = {
        "scene": "galaxy", "psf": "gaussians", "renderer": "model", "method": method, "seed": 5,
        "sn": [10.0, 100.0], "min_ess": 100.0, "max_rhat": 1.05,
    }  # fmt: skip
    return out | changes


def command(folder, number, **changes):
    """Arguments of `cli.run`."""
    return SimpleNamespace(**settings(**changes), out=folder, first=0, number=number, processes=1)


def test_uniform_ranks_pass_and_wrong_errors_do_not():
    rng = np.random.default_rng(2)
    truth, draws = rng.standard_normal((500, 2)), rng.standard_normal((200, 500, 2))
    right = (draws < truth).mean(0)
    assert (ranks.uniformity(right) > P_VALUE).all()
    np.testing.assert_allclose(ranks.coverage(right, 0.68), 0.68, atol=0.08)
    # errors too small by a third, means off by half a sigma
    for wrong in ((draws / 1.5 < truth).mean(0), (draws + 0.5 < truth).mean(0)):
        assert (ranks.uniformity(wrong) < P_VALUE).all()
    mean, error = ranks.bias(0.5 + truth)
    np.testing.assert_allclose(mean, 0.5, atol=4 * error.max())
    np.testing.assert_allclose(error, 500**-0.5, rtol=0.1)


@pytest.mark.parametrize(("scene", "psf"), [("bands", "gaussians"), ("galaxy_star", "gaussians")])
def test_galsim_draws_what_the_model_draws(scene, psf):
    """Conventions of both: position, angle, size and flux, in rotated and dithered exposures."""
    pytest.importorskip("galsim")
    found = [
        simulate.Simulator(scene, psf, renderer, (1e6, 1.1e6)).draw(3, 1)
        for renderer in ("model", "mixture")
    ]
    assert [d.truth.tolist() for d in found[1:]] == [found[0].truth.tolist()]
    assert found[0].labels == scenes.SCENES[scene].labels
    ours, theirs = (np.asarray(d.packed.patch.data) for d in found)
    assert np.abs(ours - theirs).max() < SAME_IMAGE * ours.max()
    np.testing.assert_allclose(found[0].sn, found[1].sn, rtol=1e-3)


def test_a_data_set_is_the_same_whatever_came_before_it():
    first, second = (
        simulate.Simulator("galaxy", "gaussians", "model", (10, 100)) for _ in range(2)
    )
    first.draw(5, 0)
    a, b = first.draw(5, 1), second.draw(5, 1)
    np.testing.assert_array_equal(a.packed.patch.data, b.packed.patch.data)
    assert a.peaks == b.peaks and a.design.noise == b.design.noise
    # the catalogue knows no truth: flux and size are off by up to half
    guess = a.peaks[0].flux["flux", "r"] / a.truth[0]
    assert guess != 1.0 and 1 / simulate.GUESS <= guess <= simulate.GUESS
    other = first.draw(6, 1)
    assert np.abs(other.truth - a.truth).min() > 0


def test_results_survive_a_kill_and_refuse_other_settings(tmp_path):
    path = tmp_path / "a.jsonl"
    writer = results.Writer(path, settings())
    writer.add({"number": 3, "mean": [1 / 3]})
    writer.close()
    with path.open("a") as stream:
        stream.write('{"number": 4, "mea')
    known, records = results.read_folder(tmp_path)
    assert known == settings() and [r["number"] for r in records] == [3]
    writer = results.Writer(path, settings())
    writer.add({"number": 4})
    writer.close()
    assert [json.loads(line).get("number") for line in path.read_text().splitlines()] == [
        None,
        3,
        4,
    ]
    results.Writer(tmp_path / "b.jsonl", settings(min_ess=50.0)).close()
    with pytest.raises(results.InputError, match=r"b\.jsonl: made with other settings"):
        results.read_folder(tmp_path)


def test_a_fit_that_raises_is_counted(monkeypatch):
    simulator = simulate.Simulator("galaxy", "gaussians", "model", (10, 100))
    data = simulator.draw(5, 0)

    def fail(*_, **__):
        raise FloatingPointError("no")

    monkeypatch.setattr(fits, "fit_patch", fail)
    record = fits.fit_one(data, 5, 0, simulator.scene.options, None)
    assert record["error"] == "FloatingPointError: no" and record["number"] == 0
    sample = tables.collect([record], simulator.scene.labels, 0.6)
    assert (sample.fits, sample.failed, len(sample.rank)) == (1, 1, 0)


@pytest.mark.parametrize("method", ["nuts", "marginal"])
def test_ranks_of_truths_drawn_from_the_prior(method, tmp_path, capsys):
    cli.run(command(tmp_path, NUMBER - 2, method=method))
    cli.run(command(tmp_path, NUMBER, method=method))
    assert f"2 of {NUMBER} data sets to do" in capsys.readouterr().out
    folder = results.folder_of(tmp_path, settings(method))
    _, sample = cli.load(folder)
    assert (sample.fits, sample.failed, sample.unmixed) == (NUMBER, 0, 0)
    assert ranks.uniformity(sample.rank, bins=5).min() > P_VALUE
    inside = binom.ppf([1e-5, 1 - 1e-5], NUMBER, 0.68) / NUMBER
    covered = ranks.coverage(sample.rank, 0.68)
    assert (covered >= inside[0]).all() and (covered <= inside[1]).all()
    # of a standard normal, five standard errors
    assert np.abs(sample.pull.mean(0)).max() < 5 * NUMBER**-0.5
    if method == "nuts":
        pngs = tmp_path / "ranks.png", tmp_path / "trends.png"
        figures.rank_figure(sample, pngs[0])
        tables.LEAST, least = 4, tables.LEAST
        try:
            figures.trend_figure(sample, pngs[1])
        finally:
            tables.LEAST = least
        assert all(p.stat().st_size > 10_000 for p in pngs)


def test_sources_of_a_pair_are_rows_of_one_table():
    labels = scenes.SCENES["pair"].labels
    n = len(labels)
    record = {
        "number": 0, "separation": 2.0, "sn": 30.0, "sd": [1.0] * n, "truth": [0.0] * n,
        "rank": [0.5] * n, "mean": list(np.arange(n) + 1.0), "rhat": 1.0, "converged": True,
        "divergences": 2, "gradients": 10, "seconds": 1.0,
    }  # fmt: skip
    sample = tables.collect([record], labels, 0.6)
    assert sample.names == ["flux r", "ra", "dec", "rhalf", "sersic", "e1", "e2"]
    np.testing.assert_array_equal(sample.pull, np.arange(n).reshape(2, -1) + 1.0)
    np.testing.assert_allclose(sample.by["flux ratio"], [1 / 8, 8.0])
    np.testing.assert_allclose(sample.by["distance / FWHM"], 2.0)
    assert (sample.divergences, sample.divergent) == (2, 1)
    both = tables.pooled([sample, sample])
    assert both.rank.shape == (4, 7) and both.fits == 2 and both.seconds == 1.0
