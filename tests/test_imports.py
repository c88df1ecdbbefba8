"""Imports go one way, module by module, and heavy or optional packages stay in their rooms.

The rules below are the house's order (CONTRIBUTING.md, "Imports go one way"). They are read from
the sources with `ast`, so that lazy imports inside functions count as well.
"""

import ast
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("jaxpho", "psfmix")

# room -> rooms it may import from. A module belongs to the longest key that its name starts with.
LAYERS = {
    "jaxpho": set(),  # __init__: the public names, see PUBLIC below
    "jaxpho.errors": set(),
    "jaxpho.schema": {"jaxpho.errors"},
    "jaxpho.files": set(),
    # the seam to arviz, for jaxpho and psfmix
    "jaxpho.inference_data": {"jaxpho.errors", "jaxpho.files"},
    "jaxpho.core": {"jaxpho.errors"},
    "jaxpho.data": {"jaxpho.core", "jaxpho.errors", "jaxpho.files", "jaxpho.schema"},
    "jaxpho.fit": {"jaxpho.core", "jaxpho.errors", "jaxpho.schema"},
}
LAYERS["jaxpho.output"] = {
    "jaxpho.data",
    "jaxpho.files",
    "jaxpho.fit",
    "jaxpho.inference_data",
} | LAYERS["jaxpho.fit"]
# forcepho's conventions, from its files to its numbers
LAYERS["jaxpho.compat"] = {"jaxpho.output"} | LAYERS["jaxpho.output"]
LAYERS["jaxpho.imagefit"] = {"jaxpho.output"} | LAYERS["jaxpho.output"]
LAYERS["jaxpho.simulate"] = {"jaxpho.data"} | LAYERS["jaxpho.fit"] | {"jaxpho.fit"}
LAYERS["jaxpho.superscene"] = {"jaxpho.output"} | LAYERS["jaxpho.output"]
LAYERS["jaxpho.report"] = {"jaxpho.superscene"} | LAYERS["jaxpho.superscene"]
LAYERS["jaxpho.prepare"] = {"jaxpho.report", "psfmix"} | LAYERS["jaxpho.report"]
LAYERS["jaxpho.example"] = {"jaxpho.schema", "jaxpho.errors"}
LAYERS["jaxpho.config"] = {"jaxpho.example", "jaxpho.prepare", "jaxpho.compat"} | LAYERS[
    "jaxpho.report"
]
# What drives a whole run, above everything else: the field, the loop, the command line.
TOP = ("jaxpho.run", "jaxpho.cli", "jaxpho.__main__")
for _top in TOP:
    LAYERS[_top] = {"jaxpho.config", "jaxpho.report", *TOP} | LAYERS["jaxpho.config"]
LAYERS["psfmix"] = {
    "jaxpho.core",
    "jaxpho.data.psfmodel",
    "jaxpho.data.psfstore",
    "jaxpho.data.psfex",
    "jaxpho.data.tables",
    "jaxpho.errors",
    "jaxpho.files",
    "jaxpho.inference_data",
}
PUBLIC = {"jaxpho.core", "jaxpho.fit", "jaxpho.data", "jaxpho.errors"}
LAYERS["jaxpho"] = PUBLIC

LAZY_ONLY = {"psfmix": "jaxpho.prepare"}  # imported inside functions, by this module alone

# third-party package -> rooms that may import it
THIRD_PARTY = {
    "astropy": (
        "jaxpho.data",
        "jaxpho.compat",
        "jaxpho.output",
        "jaxpho.report",
        "jaxpho.superscene",
        "psfmix",
    ),
    "h5py": (
        "jaxpho.data",
        "jaxpho.compat",
        "jaxpho.output",
        "jaxpho.report",
        "jaxpho.superscene",
        "psfmix.hdf5image",
    ),
    "yaml": ("jaxpho.config", "jaxpho.example", "psfmix"),
    "matplotlib": ("jaxpho.output.plots.seam", "psfmix"),
    "tqdm": ("jaxpho.prepare", "jaxpho.run", "jaxpho.cli", "jaxpho.superscene", "psfmix"),
    "numpyro": ("jaxpho.fit", "psfmix"),
    "sep": ("jaxpho.data",),
    "gwcs": ("jaxpho.data",),
    "asdf": ("jaxpho.data",),
    "dask": ("jaxpho.superscene",),
    "distributed": ("jaxpho.superscene",),
    "arviz": ("jaxpho.inference_data",),
    "sqlite3": ("jaxpho.superscene",),
    "piff": ("psfmix",),
    "regions": ("jaxpho.output",),
    "reproject": ("jaxpho.output",),
}
ONE_FILE = {
    "sep",
    "dask",
    "distributed",
    "arviz",
    "gwcs",
    "sqlite3",
    "piff",
    "regions",
    "reproject",
}  # at most one module imports it
LAZY_THIRD = {
    "sep",
    "dask",
    "distributed",
    "arviz",
    "gwcs",
    "asdf",
    "piff",
    "regions",
    "reproject",
}  # optional extras
FORBIDDEN = {"galsim", "pickle", "pytest", "hypothesis", "tests", "dill", "cloudpickle"}
MATPLOTLIB_ROOMS_PSFMIX = {"psfmix.figures", "psfmix.make_psf"}


def module_name(path):
    """Dotted name of a source file below the repository root."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules():
    """{dotted name: source} of the packages."""
    files = (f for package in PACKAGES for f in sorted((ROOT / package).rglob("*.py")))
    return {module_name(f): f.read_text() for f in files}


def imported(name, source, known):
    """(target, lazy) of every import; targets within the packages are module names."""
    tree = ast.parse(source)
    eager = set()
    stack = list(tree.body)
    while stack:
        node = stack.pop()
        eager.add(id(node))
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            stack.extend(ast.iter_child_nodes(node))
    result = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = name if f"{name}.__init__" in known else name.rpartition(".")[0]
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join(above + ([base] if base else []))
            inside = [f"{base}.{alias.name}" for alias in node.names]
            targets = [t if t in known else base for t in inside]
        else:
            continue
        result += [(target, id(node) not in eager) for target in targets]
    return result


def within(name, room):
    """Is the module the room or inside it?"""
    return name == room or name.startswith(room + ".")


def room_of(name):
    """The rule that a module falls under: the longest key of LAYERS that it is within."""
    rooms = [r for r in LAYERS if within(name, r) and (r != "jaxpho" or name == "jaxpho")]
    return max(rooms, key=len) if rooms else None


def violations(sources):
    """Every breach of the rules in {module: source}, as sentences."""
    found, users = [], defaultdict(set)
    for name, source in sources.items():
        room = room_of(name)
        if room is None:
            found.append(f"{name}: no room in LAYERS of tests/test_imports.py")
            continue
        for target, lazy in imported(name, source, sources):
            top = target.split(".")[0]
            if top in FORBIDDEN:
                found.append(f"{name} imports {top}, which no package may")
            elif top in PACKAGES:
                own = within(target, room) and room != "jaxpho"
                if not own and not any(within(target, r) for r in LAYERS[room]):
                    found.append(f"{name} imports {target}: against the order")
                if top in LAZY_ONLY and not within(name, top):
                    if not lazy:
                        found.append(f"{name} imports {target} at import time")
                    if name != LAZY_ONLY[top]:
                        found.append(f"{name} imports {target}: only {LAZY_ONLY[top]} may")
            elif top in THIRD_PARTY:
                users[top].add(name)
                if not any(within(name, r) for r in THIRD_PARTY[top]):
                    found.append(f"{name} imports {top}: not in this room")
                if top in LAZY_THIRD and not lazy:
                    found.append(f"{name} imports the optional {top} at import time")
                psfmix_plain = within(name, "psfmix") and name not in MATPLOTLIB_ROOMS_PSFMIX
                if top == "matplotlib" and psfmix_plain:
                    found.append(f"{name} imports matplotlib: only psfmix.figures may")
    for package in sorted(ONE_FILE):
        if len(users[package]) > 1:
            found.append(f"{package} is imported by several modules: {sorted(users[package])}")
    return found


def test_imports_go_one_way():
    assert violations(modules()) == []


@pytest.mark.parametrize(
    ("name", "source", "complaint"),
    [
        ("jaxpho.core.render", "from jaxpho.data import packing", "against the order"),
        ("jaxpho.core.render", "import astropy.units as u", "not in this room"),
        ("jaxpho.fit.model", "def f():\n    import h5py", "not in this room"),
        ("jaxpho.fit.model", "from jaxpho.data.packing import pack", "against the order"),
        ("jaxpho.fit.model", "from ..output import plots", "against the order"),
        ("jaxpho.data.wcs", "from jaxpho.fit import flags", "against the order"),
        ("jaxpho.output.plots", "import jaxpho.config", "against the order"),
        ("jaxpho.output.plots", "import jaxpho.cli", "against the order"),
        ("jaxpho.output.plots.psf", "import matplotlib", "not in this room"),
        ("jaxpho.data.catalog", "import sep", "at import time"),
        ("jaxpho.output.table", "def f():\n    import psfmix.fit", "only jaxpho.prepare may"),
        ("jaxpho.prepare", "import psfmix", "at import time"),
        ("jaxpho.core.render", "import galsim", "no package may"),
        ("psfmix.fit", "from jaxpho.fit import priors", "against the order"),
        ("psfmix.fit", "from jaxpho.data import packing", "against the order"),
        ("psfmix.fit", "import matplotlib.pyplot as plt", "only psfmix.figures may"),
        ("jaxpho.errors", "from jaxpho import core", "against the order"),
        ("jaxpho.somewhere", "import os", "no room"),
    ],
)
def test_a_violation_is_caught(name, source, complaint):
    sources = {key: "" for key in modules()} | {"jaxpho.data.packing": "", name: source}
    assert any(complaint in sentence and name in sentence for sentence in violations(sources))


def test_two_users_of_one_optional_package_are_caught():
    lazy = "def f():\n    import sep\n"
    sources = {"jaxpho.data.a": lazy, "jaxpho.data.b": lazy}
    assert violations(sources) == [
        "sep is imported by several modules: ['jaxpho.data.a', 'jaxpho.data.b']"
    ]


def test_what_is_allowed_passes():
    sources = {
        "jaxpho.core.a": "import jax\nfrom jaxpho.errors import InputError",
        "jaxpho.fit.b": "from jaxpho.core import a\nfrom jaxpho.core.a import x",
        "jaxpho.prepare": "def f():\n    from psfmix.fit import fit_mixture",
        "jaxpho.cli": "from jaxpho.config import Config\nimport jaxpho.prepare",
        "psfmix.figures": "import matplotlib\nfrom jaxpho.data.psfmodel import PSFModel",
    }
    assert violations(sources) == []


def test_core_and_fit_load_without_the_host_side_packages():
    """What the sources promise holds at run time, third-party imports included."""
    names = [n for n in modules() if within(n, "jaxpho.core") or within(n, "jaxpho.fit")]
    # programs below core (table generator) are run, not imported
    names = [n for n in names if not within(n, "jaxpho.core.tables")]
    code = "import importlib, sys\n"
    code += f"for name in {sorted(names)!r}:\n    importlib.import_module(name)\n"
    code += "print([m for m in ('astropy', 'h5py', 'yaml', 'matplotlib') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
