"""`jaxpho-fit` killed while it samples: `--resume` ends with the draws of an undisturbed run."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from small_field import SOURCES, write_field

from jaxpho.output.catalog import read_catalog
from jaxpho.output.samples import read_samples

SAMPLE = {"method": "nuts", "num_warmup": 50, "num_samples": 25, "max_rounds": 2, "min_ess": 1e9,
          "save_every": 0.0}  # fmt: skip
KILL = """
import os, sys
from jaxpho.output import checkpoint
from jaxpho.cli import fit_main
write, calls = checkpoint._write, []
def dying(path, arrays):
    calls.append(path)
    if len(calls) == {at}:
        open(path.with_name("half"), "wb").write(b"half a file")
        os.kill(os.getpid(), 9)
    write(path, arrays)
checkpoint._write = dying
sys.exit(fit_main(sys.argv[1:]))
"""
NEVER = 10**6


@pytest.mark.slow
def test_killed_run_goes_on(tmp_path):
    """Twice, in the warm-up and among the draws of the second of two patches."""
    config = write_field(tmp_path, [s for s in SOURCES if s[0] != "3"], sample=SAMPLE)

    def run(output, at, *words):
        environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "programs")}
        environment |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        command = [sys.executable, "-c", KILL.format(at=at), str(config), "-q"]
        command += ["--output", str(tmp_path / output), *words]
        return subprocess.run(command, capture_output=True, text=True, env=environment)

    whole = run("whole", NEVER)
    assert whole.returncode == 0, whole.stderr
    assert not (tmp_path / "whole" / "checkpoints").exists()
    # the first patch has 4 chunks, each with a state after it; then the second chunk's own file
    assert run("killed", 8 + 3).returncode == -signal.SIGKILL
    refused = run("killed", NEVER)
    assert refused.returncode == 2 and "--resume to go on with it" in refused.stderr
    # the state of the third chunk, a chunk of draws
    assert run("killed", 4, "--resume").returncode == -signal.SIGKILL
    done = run("killed", NEVER, "--resume")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "killed" / "run.log").read_text()
    assert text.count("sampling goes on after 100 iterations") == 2  # of the first patch: all
    assert "sampling goes on after 25 iterations" in text
    assert "sampling goes on after 50 iterations" in text
    assert not (tmp_path / "killed" / "checkpoints").exists()
    for i in (0, 1):
        found, expected = (
            read_samples(tmp_path / name / "patches" / f"patch{i}_samples.h5")
            for name in ("killed", "whole")
        )
        for name in ("samples", "warmup", "theta"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    found, expected = (read_catalog(tmp_path / n / "catalog.fits") for n in ("killed", "whole"))
    for name in expected.colnames:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
