"""The engine on dask.distributed: the same catalogue, and the same troubles survived."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing

import numpy as np
import pytest
from scene_case import row_of_stars
from superscene_run import Here, decisions, run, same

from jaxpho.errors import InputError
from jaxpho.superscene import cluster
from jaxpho.superscene.cluster import DaskEngine
from jaxpho.superscene.snapshot import read_snapshot
from jaxpho.superscene.worker import Work

distributed = pytest.importorskip("distributed")
STARS = 10


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    state = row_of_stars(STARS)
    run(tmp_path_factory.mktemp("run"), state, Here())
    return state


def test_a_local_cluster_with_every_trouble(tmp_path, reference):
    """A process that dies once, one that hangs, a source that cannot be fitted."""
    context = {"folder": str(tmp_path), "trouble": {"1": "once die"}}
    engine = DaskEngine(Work("superscene_jobs", context), workers=2, limit=20)
    addresses = list(engine.client.nthreads())
    assert engine.workers == 2 and all("127.0.0.1" in a for a in addresses)
    assert "127.0.0.1" in engine.client.scheduler.address
    state = row_of_stars(STARS)
    try:
        done = run(tmp_path / "one", state, _kept(engine))
        assert done.end == "finished"
        same(state, reference)
        assert decisions(tmp_path / "one") == [("1", "died", "again")]
        # a worker of Dask itself is killed: its patch comes again, with the same outcome
        killed = []

        def kill(patch, answer, seconds):
            if not killed:
                pids = list(engine.client.run(os.getpid).values())
                killed.append(pids[0])
                os.kill(pids[0], signal.SIGKILL)

        state = row_of_stars(STARS)
        assert run(tmp_path / "two", state, _kept(engine), on_done=kill).end == "finished"
        same(state, reference)
        # another work for the same workers: limits are theirs
        trouble = {"0": "hang", "source 7": "raise"}
        engine.what = json.dumps([{"module": "superscene_jobs", "context": {"trouble": trouble}},
                                  1.0, None])  # fmt: skip
        state = row_of_stars(STARS)
        assert run(tmp_path / "three", state, _kept(engine)).end == "finished"
        kinds = {kind for _, kind, _ in decisions(tmp_path / "three")}
        assert kinds == {"timeout", "raised"}
        assert 7 in np.flatnonzero(state.failed)
        # a worker that cannot start is no fault of the patches
        for context, error in (({"refuse": True}, InputError), ({"die": True}, RuntimeError)):
            engine.what = json.dumps([{"module": "superscene_jobs", "context": context}, None,
                                      None])  # fmt: skip
            state = row_of_stars(STARS)
            with pytest.raises(error):
                run(tmp_path / error.__name__, state, _kept(engine))
            assert not state.failed.any()
            assert read_snapshot(tmp_path / error.__name__).state == "stopped"
        # at once
        engine.what = json.dumps([{"module": "superscene_jobs", "context": {"seconds": 1000}},
                                  None, None])  # fmt: skip
        state, begun = row_of_stars(STARS), time.monotonic()
        done = run(tmp_path / "four", state, _kept(engine),
                   stopping=lambda: 2 if time.monotonic() > begun + 1 else 0)  # fmt: skip
        assert done.end == "stopped" and time.monotonic() - begun < 60
    finally:
        engine.close()


class _kept:
    """An engine that survives the end of a run."""

    def __init__(self, engine):
        self.engine = engine

    def __getattr__(self, name):
        return (lambda: None) if name == "close" else getattr(self.engine, name)


def scheduler_process(*arguments):
    """A scheduler with a worker in another process, and its address."""
    code = (
        "import sys, time, json\n"
        "import distributed\n"
        "if __name__ == '__main__':\n"
        "    files = json.loads(sys.argv[1])\n"
        "    security = None\n"
        "    if files:\n"
        "        names = {f'tls_{r}_{k}': files[k] for k in ('cert', 'key')\n"
        "                 for r in ('client', 'worker', 'scheduler')}\n"
        "        security = distributed.Security(tls_ca_file=files['ca'],\n"
        "                                        require_encryption=True, **names)\n"
        "    cluster = distributed.LocalCluster(n_workers=1, threads_per_worker=1,\n"
        "        processes=False, dashboard_address=None, host='127.0.0.1',\n"
        "        protocol='tls://' if files else 'tcp://', security=security, memory_limit=0)\n"
        "    print(cluster.scheduler_address, flush=True)\n"
        "    time.sleep(600)\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, env=environment,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    return process, process.stdout.readline().decode().strip()


def certificates(folder):
    key, cert = folder / "key.pem", folder / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
         "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out",
         str(cert)], check=True, capture_output=True,
    )  # fmt: skip
    return {"ca": str(cert), "cert": str(cert), "key": str(key)}


def test_a_scheduler_elsewhere_by_tls_that_goes_away(tmp_path, reference, monkeypatch):
    """Encrypted; killed in the middle the run stops, and goes on with another scheduler."""
    monkeypatch.setattr(cluster, "CONNECT", 2.0)
    files = certificates(tmp_path)
    process, address = scheduler_process(json.dumps(files))
    try:
        assert address.startswith("tls://127.0.0.1")
        with pytest.raises(InputError, match="needs the files of certificates"):
            DaskEngine(Work("superscene_jobs"), scheduler=address)
        engine = DaskEngine(Work("superscene_jobs", {"seconds": 0.05}), scheduler=address,
                            certificates=files)  # fmt: skip
        ended = []

        def kill(patch, answer, seconds):
            ended.append(patch.name)
            if len(ended) == 3:
                process.kill()

        state = row_of_stars(STARS)
        done = run(tmp_path / "run", state, engine, on_done=kill)
        assert done.end == "stopped" and "connection to the workers was lost" in done.halt
        with closing(sqlite3.connect(tmp_path / "run" / "ledger.db")) as db:
            assert (
                db.execute("SELECT COUNT(*) FROM patches WHERE state = 'done'").fetchone()[0] >= 3
            )
            assert not db.execute("SELECT 1 FROM sources WHERE failed").fetchall()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    state = row_of_stars(STARS)
    assert run(tmp_path / "run", state, Here()).end == "finished"
    same(state, reference)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "either a number of workers or a scheduler"),
        ({"workers": 2, "scheduler": "tcp://127.0.0.1:1"}, "either a number"),
        ({"scheduler": "127.0.0.1:1"}, "expected tcp://host:port"),
        ({"scheduler": "tls://127.0.0.1:1", "certificates": {"ca": "none"}}, "'ca': none"),
        ({"scheduler": "tcp://127.0.0.1:1"}, "no answer from tcp://127.0.0.1:1 within 0.5 s"),
    ],
)
def test_wrong_input(monkeypatch, arguments, words):
    monkeypatch.setattr(cluster, "CONNECT", 0.5)
    with pytest.raises(InputError, match=words):
        DaskEngine(Work("superscene_jobs"), **arguments)


def test_without_dask_the_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match=r"pip install 'jaxpho\[dask\]'"):
        DaskEngine(Work("superscene_jobs"), workers=2)
