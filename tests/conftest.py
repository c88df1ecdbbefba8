"""Fixtures shared by all tests."""

import os
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def data_dir():
    """The folder of real data, or a skip that says so."""
    path = Path(os.environ.get("JAXPHO_DATA", ROOT / ".." / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"JAXPHO_DATA: no data folder at {path}")
    return path


@pytest.fixture(autouse=True)
def same_types():
    """Tests that run a command with `precision: float64` leave the process as it was."""
    before = jax.config.jax_enable_x64
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.fixture
def x64():
    """Run the test with 64-bit JAX types; `same_types` restores the process default."""
    jax.config.update("jax_enable_x64", True)
