"""What the documentation lists is what the code has."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from jaxpho.compat.bounds import BoundsOptions
from jaxpho.compat.config import MARKS, NOT_USED, ForcephoConfig
from jaxpho.compat.results import catalog_dtype
from jaxpho.config import ProductOptions
from jaxpho.fit.draws import STATISTICS
from jaxpho.fit.options import FitOptions
from jaxpho.schema import build

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs" / "data_model.md").read_text()


def section(title):
    """Text from a heading to the next of its kind."""
    rest = TEXT.split(f"## {title}\n", 1)[1]
    return rest.split("\n## ", 1)[0]


def quoted(text):
    return set(re.findall(r"`([\w.]+)`", text))


def test_every_key_of_forcepho_is_in_the_table():
    keys = {f.name for cls in (ForcephoConfig, BoundsOptions) for f in fields(cls)}
    found = quoted(section("forcepho's configuration files"))
    assert keys | set(NOT_USED) | set(MARKS) | {"store_directory"} <= found
    unused = section("forcepho's configuration files").split("Read and not used", 1)[1]
    assert quoted(unused) == set(NOT_USED)


def test_names_of_results():
    text = section("Processor data model: what a run writes")
    assert all(name in text for name in STATISTICS)
    for name in catalog_dtype(["g"]).names[:-1]:
        assert name in text, name
    products = {f"products.{f.name}" for f in fields(ProductOptions)}
    assert {name for name in quoted(text) if name.startswith("products.")} <= products


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`(jaxpho/[\w/]+(?:\.py)?)`", TEXT))))
def test_modules_exist(path):
    assert (ROOT / path).exists()


@pytest.mark.slow
def test_the_example_of_a_model_runs():
    """As it stands; its size is that which the optimum has, of the right order."""
    text = (ROOT / "docs" / "models.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    space = {}
    exec(compile(code, "models.md", "exec"), space)  # our own documentation
    fit, draws = space["fit"], space["draws"]
    column = fit.index(0, "rhalf")
    sigma = fit.covariance[column, column] ** 0.5
    assert abs(float(draws["rhalf"].mean()) - fit.theta[column]) < 3 * sigma
    assert len(space["simulated"]) == 5


def test_configurations_of_the_models_page_are_valid():
    for block in re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "models.md").read_text(), re.S):
        options = build(FitOptions, yaml.safe_load(block)["fit"])
        assert options.priors or options.links
