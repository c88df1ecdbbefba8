"""The commands: exit codes, one sentence without traceback, no files where none are due."""

import logging
import subprocess
import sys

import pytest
from astropy.io import fits

from jaxpho import cli
from jaxpho.run.folder import claim, clear, protect


def test_help_names_every_option_and_is_light(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.fit_main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for option in ("--set", "--init", "--dry-run", "--output", "--overwrite", "--version"):
        assert option in text
    assert "exit status" in text


def test_help_does_not_import_jax():
    code = (
        "import sys\nfrom jaxpho.cli import fit_main\n"
        "try:\n    fit_main(['--help'])\nexcept SystemExit:\n    pass\n"
        "assert not {'jax', 'astropy', 'matplotlib'} & set(sys.modules), 'heavy imports'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_version(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("jaxpho ")


def test_the_umbrella_knows_fit(tmp_path, capsys):
    assert cli.main(["fit", str(tmp_path / "none.yml")]) == 2
    assert capsys.readouterr().err.startswith("jaxpho fit: ")


@pytest.mark.parametrize("argv", [["nonsense"], []])
def test_wrong_usage_is_exit_2(argv, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(argv)
    assert caught.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_wrong_input_is_one_sentence_and_exit_2(tmp_path, capsys):
    path = tmp_path / "config.yml"
    path.write_text("output: run\nbands: [g]\nimges: []\n")
    assert cli.fit_main([str(path)]) == 2
    err = capsys.readouterr().err
    assert err == (
        "jaxpho-fit: config.yml: unknown key 'imges' at top level; did you mean 'images'?\n"
    )
    assert list(tmp_path.iterdir()) == [path]


def test_no_configuration_is_exit_2(capsys):
    assert cli.fit_main([]) == 2
    assert "--init" in capsys.readouterr().err


def test_init_writes_a_file_once(tmp_path, capsys):
    path = tmp_path / "new.yml"
    assert cli.fit_main(["--init", str(path)]) == 0
    text = path.read_text()
    assert "bands:" in text
    assert cli.fit_main(["--init", str(path)]) == 2
    assert path.read_text() == text
    assert cli.fit_main(["--init", str(tmp_path / "no" / "x.yml")]) == 2
    capsys.readouterr()
    assert cli.fit_main(["--init"]) == 0
    assert capsys.readouterr().out == text


def product(path):
    """A FITS file as a run writes it."""
    path.parent.mkdir(exist_ok=True)
    fits.PrimaryHDU(header=fits.Header({"CREATOR": "jaxpho"})).writeto(path)


def test_an_earlier_run_is_not_overwritten_by_accident(tmp_path):
    (tmp_path / "patches").mkdir()
    keep = [tmp_path / "psf_mixtures.h5", tmp_path / "notes.txt", tmp_path / "patches" / "my.png"]
    keep.append(tmp_path / "run.log")
    killed = tmp_path / "patches" / ".patch0_samples.part12.h5"
    gone = [tmp_path / "config.yml", tmp_path / "patches" / "patch0_samples.h5", killed]
    for path in keep + gone:
        path.write_text("x")
    gone += [tmp_path / "catalog.fits", tmp_path / "images" / "g_g0.fits"]
    for path in gone[-2:]:
        product(path)
    with pytest.raises(cli.InputError, match="--overwrite"):
        claim(tmp_path, overwrite=False)
    claim(tmp_path, overwrite=True)
    assert all(path.exists() for path in keep + gone)  # nothing goes before the input is checked
    clear(tmp_path)
    assert all(path.exists() for path in keep)
    assert not any(path.exists() for path in gone)
    with pytest.raises(cli.InputError, match="is a file"):
        claim(keep[0], overwrite=True)


def test_input_is_never_overwritten(tmp_path):
    with pytest.raises(cli.InputError, match="itself"):
        claim(tmp_path, overwrite=True, config=tmp_path / "config.yml")
    for path in (tmp_path / "images" / "g0.fits", tmp_path / "catalog.fits"):
        product(path)
        claim(tmp_path, overwrite=True)
        with pytest.raises(cli.InputError, match=path.name):
            protect(tmp_path, [path])
        path.unlink()
        fits.PrimaryHDU().writeto(path)  # of other origin
        with pytest.raises(cli.InputError, match=f"{path.name}, which jaxpho did not write"):
            claim(tmp_path, overwrite=True)
        clear(tmp_path)
        assert path.exists()
        path.unlink()
    protect(tmp_path, [tmp_path / "g0.fits"])


def test_internal_errors_are_one_line(monkeypatch, capsys):
    def broken(args):
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(cli, "_fit", broken)
    assert cli.fit_main(["x.yml"]) == cli.INTERNAL_ERROR
    error = capsys.readouterr().err
    assert "a defect" in error
    assert "Traceback" not in error


def test_ctrl_c_is_exit_130(monkeypatch, capsys):
    def interrupted(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_fit", interrupted)
    assert cli.fit_main(["x.yml"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_log_file_keeps_tracebacks_and_the_terminal_does_not(tmp_path, capsys):
    log = logging.getLogger("jaxpho.test")
    handler = cli.log_to_terminal()
    try:
        with cli.LogFile(tmp_path / "run" / "run.log"):
            try:
                raise ValueError("broken patch")
            except ValueError:
                log.error("patch 3 failed")
                log.debug("traceback", exc_info=True)
    finally:
        logging.getLogger("jaxpho").removeHandler(handler)
    err = capsys.readouterr().err
    assert err == "error: patch 3 failed\n"
    text = (tmp_path / "run" / "run.log").read_text()
    assert "Traceback" in text
    # wrong input leaves the log of an earlier run as it was
    with pytest.raises(cli.InputError), cli.LogFile(tmp_path / "run" / "run.log"):
        log.error("something else")
        raise cli.InputError("no such file")
    assert (tmp_path / "run" / "run.log").read_text() == text


def test_a_reader_that_has_seen_enough_is_no_error():
    code = "import sys; from jaxpho.cli import fit_main; sys.exit(fit_main(['--init']))"
    command = f'"{sys.executable}" -c "{code}" | true; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
