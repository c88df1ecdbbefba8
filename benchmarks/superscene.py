"""What the master costs: patches that do nothing, through each engine.

    python benchmarks/superscene.py [--patches 10000] [--engines child dask] [--workers 1]

Every patch is planned, checked out, sent, answered, checked in and noted in the ledger; its fit is
the identity. Wall time per patch, CPU time of the master (with Dask: and of its scheduler, which is
in the same process), and the memory of the master after the first and the last tenth.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from jaxpho.data.catalog import Peak
from jaxpho.superscene.child import ChildEngine
from jaxpho.superscene.cluster import DaskEngine
from jaxpho.superscene.ledger import Ledger
from jaxpho.superscene.master import Master
from jaxpho.superscene.policy import SceneOptions
from jaxpho.superscene.state import new_state
from jaxpho.superscene.worker import Work

LIMIT = 5e-3
"""Seconds per patch that are to be kept."""


def prepare(context):
    """As `jaxpho.superscene.worker.Work` asks for."""
    return context


def work(prepared, message):
    """The parameters as they are, and a covariance of the size of a galaxy's."""
    latest = [source["parameters"] for source in message["active"]]
    return {
        "latest": latest,
        "covariance": [np.eye(len(row)) for row in latest],
        "flags": [0] * len(latest),
        "summary": {"gradients": 0, "chi2": 0.0},
    }


def field(patches: int, sources: int):
    """A state that makes the given number of patches, of some sources each, in one round."""
    rng = np.random.default_rng(1)
    side = int(np.ceil(np.sqrt(patches)))
    shape = {"rhalf": 0.3, "sersic": 1.0, "e1": 0.1, "e2": 0.0}
    peaks = []
    for k in range(patches):
        for s in range(sources):
            ra, dec = 10 + (k % side) / 180 + s / 3600, (k // side) / 180
            flux = {("flux", band): float(rng.uniform(1, 100)) for band in "gri"}
            peaks.append(Peak(len(peaks), "sersic", ra, dec, dict(shape), flux))
    return new_state(peaks, list("gri"), np.ones(len(peaks)), SceneOptions(target=10))


def resident() -> float:
    """Resident memory of this process, MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return float("nan")


def measure(name: str, patches: int, sources: int, workers: int) -> dict:
    """Seconds per patch through one engine, and memory."""
    state = field(patches, sources)
    what = Work("superscene")
    if name == "child":
        engine = ChildEngine(what, workers)
    else:
        engine = DaskEngine(what, workers)
    # processes and imports are not what is measured
    engine.submit("warm", {"active": []})
    while not engine.collect(5.0):
        pass
    memory, done = [], [0]

    def on_done(patch, answer, seconds):
        done[0] += 1
        if done[0] % max(patches // 10, 1) == 0:
            memory.append(round(resident(), 1))

    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        ledger = Ledger(folder, state, 0)
        opened = time.perf_counter() - begun
        begun, spent = time.perf_counter(), time.process_time()
        end = Master(folder, state, ledger, engine, 0, on_done=on_done).run()
        seconds, spent = time.perf_counter() - begun, time.process_time() - spent
        size = (Path(folder) / "ledger.db").stat().st_size
        ledger.close()
    engine.close()
    assert end == "finished" and done[0] == patches, (end, done)
    return {
        "engine": name, "workers": workers, "patches": patches, "sources": len(state),
        "ms_per_patch": 1e3 * seconds / patches, "master_cpu_ms": 1e3 * spent / patches,
        "load": round(os.getloadavg()[0], 1), "ledger_opened_s": opened,
        "ledger_bytes_per_source": size / len(state), "master_MiB": memory,
    }  # fmt: skip


def main():
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patches", type=int, default=10_000, help="number (default 10000)")
    parser.add_argument("--sources", type=int, default=3, help="sources of a patch (default 3)")
    parser.add_argument("--workers", type=int, default=1, help="processes (default 1)")
    parser.add_argument(
        "--engines", nargs="+", default=["child", "dask"], choices=["child", "dask"]
    )
    parser.add_argument("--json", metavar="FILE", help="keep the numbers")
    args = parser.parse_args()
    rows = [measure(name, args.patches, args.sources, args.workers) for name in args.engines]
    for row in rows:
        good = "" if row["ms_per_patch"] <= 1e3 * LIMIT else f"  above {1e3 * LIMIT:g} ms"
        print(f"{row['engine']:6s} {row['workers']} workers, {row['patches']} patches of "
              f"{args.sources} sources: {row['ms_per_patch']:.2f} ms per patch{good} (CPU of the "
              f"master {row['master_cpu_ms']:.2f} ms, load {row['load']}); ledger "
              f"{row['ledger_bytes_per_source']:.0f} B per source; master "
              f"{row['master_MiB'][0]} to {row['master_MiB'][-1]} MiB")  # fmt: skip
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=1))
    return int(any(row["ms_per_patch"] > 1e3 * LIMIT for row in rows))


if __name__ == "__main__":
    sys.exit(main())
