"""Which engine a configuration gets, and the store of compiled programs."""

import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
from small_field import write_field

from jaxpho.config import load_config
from jaxpho.errors import InputError
from jaxpho.run import programs
from jaxpho.run.engines import make_engine
from jaxpho.superscene.child import ChildEngine
from jaxpho.superscene.here import HereEngine


def test_engines_are_those_of_the_configuration(tmp_path):
    config = load_config(write_field(tmp_path))
    found = SimpleNamespace(exposures=[])

    def engine(**options):
        wanted = replace(config, engine=replace(config.engine, **options))
        return make_engine(wanted, found, tmp_path / "psf_mixtures.h5")

    assert isinstance(engine(), HereEngine)
    processes = engine(workers=3, limit=60.0, memory=2.0)
    assert isinstance(processes, ChildEngine) and processes.workers == 3
    assert (processes.limit, processes.limit_memory) == (60.0, 2 * 10**9)
    assert processes.work.context["config"] == str(tmp_path / "run" / "config.yml")
    pytest.importorskip("distributed")
    with pytest.raises(InputError, match="needs the files of certificates"):
        engine(scheduler="tls://127.0.0.1:1")
    with pytest.raises(InputError, match="found 'udp://127.0.0.1:1'"):
        engine(scheduler="udp://127.0.0.1:1")


COMPILE = """
import sys
import jaxpho.cli
from jaxpho.run import programs
programs.LEAST_SECONDS = 0.0
print(programs.keep_programs(sys.argv[1]))
import jax
import jax.numpy as jnp
print(jax.jit(lambda x: jnp.sin(x) @ jnp.cos(x).T)(jnp.ones((9, 9))).sum())
"""


def test_programs_are_kept_in_whole_files(tmp_path):
    # without what JAX has set in this process
    mine = ("JAX_COMPILATION_CACHE_DIR", "TF_CPP_MIN_LOG_LEVEL")
    environment = {k: v for k, v in os.environ.items() if k not in mine}

    def run(where):
        command = [sys.executable, "-c", COMPILE, str(where)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0 and "machine feature" not in done.stderr, done.stderr
        return done.stdout.split()

    folder = tmp_path / "programs"
    first = run(folder)
    assert first[0] == str(folder)
    names = {path.name for path in folder.iterdir()}
    assert names and not any(name.startswith(".") for name in names)
    times = {path.name: path.stat().st_mtime_ns for path in folder.glob("*-cache")}
    assert run(folder) == first  # from the store
    assert {path.name: path.stat().st_mtime_ns for path in folder.glob("*-cache")} == times
    assert programs.keep_programs("none") is None
    # a place that cannot be written costs the store, not the run
    (tmp_path / "file").write_text("")
    assert run(tmp_path / "file" / "below")[0] == "None"
    assert programs.default_folder().name.startswith("programs-")
