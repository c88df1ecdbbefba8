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


@pytest.fixture
def x64():
    """Run the test with 64-bit JAX types; the process default is restored afterwards."""
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)
