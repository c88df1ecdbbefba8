"""Every notebook runs in a fresh kernel without an error or a warning, and is stored clean."""

import importlib.util
import re
from pathlib import Path

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_notebook

ROOT = Path(__file__).resolve().parent.parent
_spec = importlib.util.spec_from_file_location("notebooks_run", ROOT / "notebooks" / "run.py")
run = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(run)

PATHS = run.notebooks()
MACHINE = re.compile(r"/(home|Users|root|tmp|work|mnt|var)/")


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_it_runs(path):
    notebook = run.execute(path)
    assert run.complaints(notebook) == []
    images = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if "image/png" in output.get("data", {})
    ]
    assert images


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_it_is_stored_without_outputs(path):
    """`python notebooks/run.py --strip` makes it so."""
    text = path.read_text(encoding="utf-8")
    notebook = nbformat.reads(text, as_version=4)
    nbformat.validate(notebook)
    assert text == run.text_of(run.strip(notebook))
    assert not MACHINE.search(text)


def test_the_readme_lists_them():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(PATHS) >= 6
    assert all(f"](notebooks/{path.name})" in text for path in PATHS)
    # and links between them lead somewhere
    for path in PATHS:
        for target in re.findall(r"\]\(([\w./]+)\)", path.read_text(encoding="utf-8")):
            assert (path.parent / target).exists(), (path.name, target)


def test_warnings_and_errors_are_told(tmp_path):
    def written(source):
        path = tmp_path / "a.ipynb"
        nbformat.write(new_notebook(cells=[new_code_cell(source)]), path)
        return path

    notebook = run.execute(written("import warnings\nwarnings.warn('beware')\nprint('fine')"))
    (complaint,) = run.complaints(notebook)
    assert "beware" in complaint
    with pytest.raises(CellExecutionError, match="no such thing"):
        run.execute(written("raise ValueError('no such thing')"))


def test_stripping_removes_what_editors_add():
    cell = new_code_cell("1 + 1", execution_count=3, metadata={"collapsed": True}, id="x7")
    cell.outputs = [nbformat.v4.new_output("stream", text="2")]
    found = run.strip(
        new_notebook(
            cells=[cell], metadata={"kernelspec": {"name": "mine", "display_name": "Mine"}}
        )
    )
    assert found.cells[0].outputs == [] and found.cells[0].execution_count is None
    assert found.cells[0].id == "cell-00" and found.metadata.kernelspec.name == "python3"
