"""Rounds of patches in a run: all draws of a source, and the same ones however often it stops."""

import sqlite3
from contextlib import closing

import numpy as np
import pytest
from drawn_fit import PATCHES, SAMPLE, DrawnFit
from test_run import FAR, SOURCES, StandInFit, run

from jaxpho import cli
from jaxpho.fit import flags
from jaxpho.output.catalog import read_catalog
from jaxpho.superscene.posterior import draws_of
from jaxpho.superscene.snapshot import read_snapshot


def same_catalogues(one, other):
    first, second = (read_catalog(folder / "catalog.fits") for folder in (one, other))
    assert first.colnames == second.colnames
    for name in first.colnames:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def patches_of(folder):
    """name -> (active sources, iterations, state) in the ledger."""
    with closing(sqlite3.connect(folder / "ledger.db")) as db:
        rows = db.execute("SELECT name, active, iterations, state FROM patches").fetchall()
    return {name: tuple(rest) for name, *rest in rows}


def files_of(folder):
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def test_a_source_has_the_draws_of_all_its_patches(monkeypatch, tmp_path):
    assert run(monkeypatch, tmp_path, DrawnFit(), patches=PATCHES, sample=SAMPLE) == 0
    out = tmp_path / "run"
    table = read_catalog(out / "catalog.fits")
    found = patches_of(out)
    drawn = sorted((int(k), v[1]) for k, v in found.items() if v[0] == "[1]" and v[1] > 0)
    # 80 draws, 20 with neighbours at each of their draws; before that its optimum
    assert [n for _, n in drawn] == [20] * 4
    assert [v[1] for v in found.values() if v[0] == "[1]"].count(0) == 1
    assert [v[1] for v in found.values() if v[0] == "[0]"] == [80]  # nobody is near: at once
    draws = draws_of(out / "patches", [str(k) for k, _ in drawn], "2")["flux", "g"]
    assert draws.shape == (2, 80)
    assert table["flux_g_err"][1] == pytest.approx(draws.std(), rel=1e-5)
    assert table["flux_g_p50"][1] == pytest.approx(np.median(draws), rel=1e-6)
    assert (table["errors_from"] == "samples").all()
    # 160 independent draws are fewer than asked for
    assert all("low_ess" in names for names in table["flag_names"][1:])
    assert table["ess_bulk_min"][1] > 60
    # pixels, pictures and images are those of the last of these
    last = int(table["patch"][1])
    assert last == drawn[-1][0] and (out / "patches" / f"patch{last}.png").exists()
    assert len(list((out / "patches").glob("*_residuals.h5"))) == 3
    assert len(list((out / "patches").glob("*_samples.h5"))) == len(found)


def test_exports_have_all_draws_of_a_source(monkeypatch, tmp_path):
    run(monkeypatch, tmp_path, DrawnFit(), patches=PATCHES, sample=SAMPLE)
    out = tmp_path / "run"
    assert cli.main(["export", str(out), "--formats", "fits", "--what", "all", "-q"]) == 0
    chains = read_catalog(out / "export" / "chains.fits")
    assert list(chains["ndraw"]) == [20, 80, 80] and list(chains["id"]) == ["1", "2", "3"]
    table = read_catalog(out / "catalog.fits")
    final = read_catalog(out / "export" / "catalog_samples.fits")
    for name in ("flux_g", "flux_g_err", "ra", "flags", "patch", "ess_bulk_min"):
        np.testing.assert_allclose(final[name], table[name], rtol=1e-6, err_msg=name)
    np.testing.assert_allclose(chains["flux_g"][1].ravel().std(), table["flux_g_err"][1], rtol=1e-5)


def test_a_run_that_stops_again_and_again_has_the_same_catalogue(monkeypatch, tmp_path):
    """Stopped by a second Ctrl-C in every third fit."""
    whole = DrawnFit()
    assert run(monkeypatch, tmp_path, whole, patches=PATCHES, sample=SAMPLE) == 0
    there, fits, code = tmp_path / "again", [], 130
    words = ["--output", str(there)]
    assert run(monkeypatch, tmp_path, DrawnFit(stops=0), *words) == 130
    while code == 130:
        fit = DrawnFit(stops=2)
        code = run(monkeypatch, tmp_path, fit, *words, "--resume")
        fits += fit.calls[:2]
        if code == 130:
            assert read_snapshot(there).state == "stopped"
            names = list(read_catalog(there / "catalog.fits")["flag_names"])
            assert any("unfinished" in n for n in names)
    assert code == 0
    # every fit is done once
    assert [ids for _, ids, _ in fits] == [ids for _, ids, _ in whole.calls]
    same_catalogues(there, tmp_path / "run")
    assert patches_of(there) == patches_of(tmp_path / "run")
    assert {state for _, _, state in patches_of(there).values()} == {"done"}
    assert files_of(there) == files_of(tmp_path / "run")
    # there is nothing left to do
    again = DrawnFit()
    assert run(monkeypatch, tmp_path, again, *words, "--resume") == 0 and again.calls == []
    same_catalogues(there, tmp_path / "run")


def test_a_run_goes_on_only_as_it_was_begun(monkeypatch, tmp_path, capsys):
    assert run(monkeypatch, tmp_path, DrawnFit(stops=3), patches=PATCHES, sample=SAMPLE) == 130
    other = ["--resume", "--set", "fit.q_min=0.2"]
    assert run(monkeypatch, tmp_path, DrawnFit(), *other) == 2
    assert "was begun with another configuration: it cannot be resumed" in capsys.readouterr().err
    assert run(monkeypatch, tmp_path, DrawnFit(), "--resume", "--set", "seed=7") == 2
    assert "another seed (0, expected 7)" in capsys.readouterr().err
    assert run(monkeypatch, tmp_path, DrawnFit(), "--resume", "--set", "products.plots=false") == 0


def test_retry_fits_what_failed(monkeypatch, tmp_path, capsys):
    assert run(monkeypatch, tmp_path, StandInFit(fails={"1"}), sources=(*SOURCES, FAR)) == 1
    out = tmp_path / "run"
    good = StandInFit()
    monkeypatch.setattr("jaxpho.superscene.fitting.fit_patch", good)
    assert cli.main(["retry", str(out), "--failed", "-q"]) == 1  # one lies off every image
    assert [ids for _, ids, _ in good.calls] == [["1"]]
    table = read_catalog(out / "catalog.fits")
    assert list(table["flag_names"]) == ["", "", "", "no_data"] and table["flux_g_err"][0] == 1.0
    assert read_snapshot(out).sources == {"done": 3, "failed": 1, "waiting": 0}
    capsys.readouterr()
    with pytest.raises(SystemExit, match="2"):
        cli.main(["retry", str(out)])
    assert cli.main(["retry", str(tmp_path / "none"), "--failed"]) == 2
    assert "not the directory of a run" in capsys.readouterr().err


def test_files_that_only_the_run_needs_go(monkeypatch, tmp_path):
    off = [f"products.{name}=false" for name in ("samples", "residuals", "plots")]
    words = [word for text in off for word in ("--set", text)]
    assert run(monkeypatch, tmp_path, DrawnFit(), *words, patches=PATCHES, sample=SAMPLE) == 0
    out = tmp_path / "run"
    assert list((out / "patches").iterdir()) == []
    assert len(list((out / "images").glob("*.fits"))) == 3
    assert "low_ess" in flags.decode(read_catalog(out / "catalog.fits")["flags"][1])
