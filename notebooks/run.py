"""Execute the notebooks in fresh kernels and write them as pages with all figures.

    python notebooks/run.py                   # all of them, to notebooks/html
    python notebooks/run.py 01 04             # those whose names begin so
    python notebooks/run.py --strip           # after an edit: remove outputs, write nothing else

The notebooks are stored without outputs, so that a change of text is a change of text; what they
show is made by whoever looks. An error, or anything on standard error (a warning), is a failure.
"""

import argparse
import os
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parent
TIMEOUT = 1800
"""Seconds a cell may take."""
QUIET = "ignore:IProgress not found"
"""numpyro asks for progress bars in notebooks, and warns where these have no widgets."""
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def notebooks(begin=()):
    """Paths of the notebooks whose names begin with one of some texts; all without any."""
    return [p for p in sorted(FOLDER.glob("*.ipynb")) if not begin or p.name.startswith(begin)]


def execute(path):
    """The notebook with its outputs, run in a fresh kernel whose folder is the notebook's.

    Raises
    ------
    nbclient.exceptions.CellExecutionError
        With the traceback of the cell that failed.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=TIMEOUT,
        startup_timeout=TIMEOUT,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        # not that its sockets on this machine are not encrypted
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
    )
    return client.execute(env=os.environ | {"PYTHONWARNINGS": QUIET})


def complaints(notebook):
    """What cells wrote to standard error: warnings, and logs of warnings."""
    outputs = [o for cell in notebook.cells for o in cell.get("outputs", ())]
    return [o.text for o in outputs if o.output_type == "stream" and o.name == "stderr"]


def strip(notebook):
    """The notebook without outputs, counts, and what the editor noted about itself."""
    for i, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{i:02d}", {}
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    notebook.metadata = nbformat.from_dict(METADATA)
    return notebook


def text_of(notebook):
    """The file's text."""
    return nbformat.writes(notebook) + "\n"


def page(notebook):
    """The notebook as HTML."""
    from nbconvert import HTMLExporter  # not needed to test them

    return HTMLExporter().from_notebook_node(notebook)[0]


def main():
    """Command line; returns the exit code."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("begin", nargs="*", help="beginnings of names, such as 01; default all")
    p.add_argument("--out", type=Path, default=FOLDER / "html", help="folder of the pages")
    p.add_argument("--strip", action="store_true", help="remove outputs from the files and stop")
    args = p.parse_args()
    failed = 0
    for path in notebooks(tuple(args.begin)):
        if args.strip:
            path.write_text(text_of(strip(nbformat.read(path, as_version=4))), encoding="utf-8")
            continue
        start = time.perf_counter()
        notebook = execute(path)
        args.out.mkdir(parents=True, exist_ok=True)
        target = args.out / f"{path.stem}.html"
        target.write_text(page(notebook), encoding="utf-8")
        print(f"{target}: {time.perf_counter() - start:.0f} s", flush=True)
        for text in complaints(notebook):
            print(f"{path.name}: {text.strip()}", file=sys.stderr)
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main())
