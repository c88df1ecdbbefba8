"""`jaxpho preprocess` killed at any moment: stores in order, and the same result in the end."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from store_images import KEYS, check_stores, command, configuration, contents, write_images

from jaxpho.data.metastore import open_meta_store
from jaxpho.data.pixelstore import PixelStore

KILLS = 12  # moments


@pytest.fixture
def config(tmp_path):
    write_images(tmp_path)
    return configuration(tmp_path)


def test_a_worker_that_dies_is_told(tmp_path):
    """As when the system takes its memory away."""
    from worker_jobs import some_die

    from jaxpho.run.workers import run_jobs

    jobs = [(k, k in (2, 5)) for k in range(7)]
    found = {o.number: o for o in run_jobs(some_die, jobs, 2)}
    assert sorted(found) == list(range(7))
    assert {k for k, o in found.items() if o.error} == {2, 5}
    assert "killed" in found[2].error


def run_process(path, *words):
    code = "import sys; from jaxpho.cli import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.Popen(
        [sys.executable, "-c", code, "preprocess", str(path), "-q", *words],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


OTHER = ["--set", "images.*.error_scale=3", "--set", "images.*.wcs.offset_ra=0.9"]
"""Another way to store the images: with other errors and, in the headers, other positions."""


def check_pairs(stores, scales):
    """Headers belong to pixels: who has the errors of `OTHER` has its position, too."""
    keys = check_stores(stores)
    if not keys:
        return
    meta = open_meta_store(stores / "meta.json")
    with PixelStore(stores / "pixels.h5") as pixels:
        for key in keys:
            ierr = pixels.image(*key)[1]
            other = np.median(ierr[ierr > 0]) < 0.7 * scales[key][0]
            assert other == (abs(meta.header(*key)["CRVAL1"] - scales[key][1]) > 1e-6), key


def scales_of(stores):
    """Errors and position of each exposure."""
    meta, out = open_meta_store(stores / "meta.json"), {}
    with PixelStore(stores / "pixels.h5") as pixels:
        for key in meta.keys:
            ierr = pixels.image(*key)[1]
            out[key] = np.median(ierr[ierr > 0]), meta.header(*key)["CRVAL1"]
    return out


STEPS = ("pixels written", "meta reduced", "pixels in place", "meta in place")
"""Moments of the assembly."""


def test_killed_at_every_step(config):
    """The steps between which the two stores differ are too short to be hit by chance."""
    stores = config.parent / "stores"
    assert command(config, "--workers", 1, "-q") == 0
    expected, scales = contents(stores), scales_of(stores)
    for step in STEPS:
        assert die_at(step, config, OTHER) == -signal.SIGKILL
        check_pairs(stores, scales)
        listed = json.loads((stores / "meta.json").read_text())
        reduced = sum(map(len, listed.values())) < len(KEYS)
        assert reduced == (step in ("meta reduced", "pixels in place"))
        # no image is read again: the exposures are finished, in one place or the other
        assert len(list((stores / ".pixels.parts").glob("*.h5"))) == len(KEYS)
        assert command(config, "--workers", 1, "-q", *OTHER) == 0
        check_pairs(stores, scales)
        assert command(config, "--workers", 1, "-q") == 0
        assert contents(stores) == expected
    names = sorted(p.name for p in stores.iterdir())
    assert names == ["exposures.ecsv", "meta.json", "pixels.h5", "preprocess.log"]


def die_at(step, config, words):
    """The exit code of a run that is killed at a step of the assembly."""
    code = f"""
import os, sys
from jaxpho.data import storecommit as module
from jaxpho.run import preprocess
from jaxpho.cli import main
step, calls = {step!r}, []
def die(*_, **__):
    os.kill(os.getpid(), 9)
def after(name, wanted):
    own = getattr(module, name)
    def then(*args):
        own(*args)
        calls.append(name)
        if len(calls) == wanted:
            die()
    setattr(module, name, then)
if step == "pixels written":
    after("_write_pixels", 1)
elif step == "meta reduced":
    after("_write_meta", 1)
elif step == "pixels in place":
    write = module._write_meta
    module._write_meta = lambda *args: die() if calls else (write(*args), calls.append(1))
elif step == "meta in place":
    module.discard_parts = die
sys.exit(main(sys.argv[1:]))
"""
    words = ["preprocess", str(config), "-q", "--workers", "1", *words]
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True).returncode


@pytest.mark.slow
def test_killed_at_any_moment(config):
    """kill -9 of the run and its workers at random, then again without."""
    stores = config.parent / "stores"
    started = time.monotonic()
    process = run_process(config, "--workers", "2")
    assert process.wait() == 0, process.stderr.read()
    seconds = time.monotonic() - started
    expected, scales = contents(stores), scales_of(stores)
    rng = np.random.default_rng(0)
    for k in range(KILLS):
        process = run_process(config, "--workers", "2", *([] if k % 2 else OTHER))
        time.sleep(rng.uniform(0.2, 1.1) * seconds)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        check_pairs(stores, scales)
    assert command(config, "--workers", 1, "-q") == 0
    assert contents(stores) == expected


def test_workers_end_with_their_master(config):
    """Nobody is left behind by a master that is killed alone."""
    process = run_process(config, "--workers", "2")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        process.kill()
        pytest.skip("this system does not list the children of a process")
    found, waited = [], time.monotonic()
    while len(found) < 2 and process.poll() is None and time.monotonic() - waited < 60:
        found = children.read_text().split() or found
    process.kill()
    process.wait()
    waited = time.monotonic()
    while any(_alive(pid) for pid in found) and time.monotonic() - waited < 20:
        time.sleep(0.1)
    assert found and not any(_alive(pid) for pid in found)


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
