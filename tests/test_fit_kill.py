"""`jaxpho-fit` killed while it samples: the catalogue is that of an undisturbed run."""

import os
import signal
import subprocess
import sys
import time

import pytest
from small_field import SOURCES, write_field
from superscene_run import decisions
from test_run_resume import files_of, patches_of, same_catalogues

SAMPLE = {"method": "nuts", "num_warmup": 50, "num_samples": 25, "max_rounds": 2, "min_ess": 1e9,
          "save_every": 0.0}  # fmt: skip
PATIENCE = 500.0
"""Seconds within which a chain begins, on a machine that has other things to do."""


@pytest.mark.slow
def test_killed_run_goes_on(tmp_path):
    """The master is killed in the chains of either patch, then a worker in those of the second."""
    config = write_field(tmp_path, [s for s in SOURCES if s[0] != "3"], sample=SAMPLE)
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "programs")}
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)  # which JAX has set in this process
    environment |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}

    said = tmp_path / "stderr"

    def begin(output, *words):
        command = [sys.executable, "-m", "jaxpho", "fit", str(config), "-q"]
        command += ["--output", str(tmp_path / output), *words]
        with open(said, "w") as file:
            return subprocess.Popen(command, env=environment, stderr=file)

    def until_saved(run, patch, chunks):
        folder = tmp_path / "killed" / "checkpoints" / f"patch{patch}"
        limit = time.monotonic() + PATIENCE
        while len(list(folder.glob("draws*.npz"))) < chunks:
            assert run.poll() is None, said.read_text()
            assert time.monotonic() < limit
            time.sleep(0.01)

    # in this process: engines do not change the outcome
    whole = begin("whole", "--workers", "0")
    assert whole.wait() == 0, said.read_text()
    for patch, words in (("0", []), ("1", ["--resume"])):
        run = begin("killed", "--workers", "1", *words)
        until_saved(run, patch, 2)
        run.kill()
        assert run.wait() == -signal.SIGKILL
    refused = begin("killed", "--workers", "1")
    assert refused.wait() == 2 and "--resume to go on with it" in said.read_text()
    run = begin("killed", "--workers", "1", "--resume")
    until_saved(run, "1", 3)
    children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(run.pid)], capture_output=True)
    os.kill(int(children.stdout.split()[0]), signal.SIGKILL)
    assert run.wait() == 0, said.read_text()
    assert "machine feature" not in said.read_text()
    text = (tmp_path / "killed" / "run.log").read_text()
    assert text.count("sampling goes on after") >= 2
    assert decisions(tmp_path / "killed") == [("1", "died", "again")]
    same_catalogues(tmp_path / "killed", tmp_path / "whole")
    assert patches_of(tmp_path / "killed") == patches_of(tmp_path / "whole")
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "whole")
    for i in (0, 1):
        names = [tmp_path / n / "patches" / f"patch{i}.png" for n in ("killed", "whole")]
        assert names[0].read_bytes() == names[1].read_bytes()
