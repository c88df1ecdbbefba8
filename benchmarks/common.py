"""Shared by all benchmarks: timing with compilation apart, memory, environment, output.

Times are CPU seconds of the process (user + system, all threads) and wall seconds; on a shared
machine the CPU time is the steadier of the two, and ratios taken within one process the only
figures to compare between machines.
"""

import argparse
import json
import os
import platform
import resource
import time
from pathlib import Path

import jax
import numpy as np


def parser(description):
    """Argument parser with the options every benchmark has."""
    p = argparse.ArgumentParser(description=description)
    p.add_argument("--repeats", type=int, default=7, help="timed calls of each kind (default 7)")
    p.add_argument("--json", type=Path, metavar="FILE", help="also write all figures to FILE")
    return p


def environment():
    """What the figures depend on, without the name of the machine."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].split(":", 1)[1].strip() if names else cpu
    device = jax.devices()[0]
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "device": f"{device.platform} {device.device_kind}",
        "python": platform.python_version(),
        "jax": jax.__version__,
        "x64": bool(jax.config.jax_enable_x64),
        "load": round(os.getloadavg()[0], 1),
        "date": time.strftime("%Y-%m-%d"),
    }


def compiled(function, *args):
    """Compile ``function`` for these arguments.

    Returns
    -------
    executable
        To be called with the same arguments.
    dict
        ``lower`` and ``compile`` in seconds, ``temporaries`` and ``arguments`` in bytes.
    """
    start = time.perf_counter()
    lowered = jax.jit(function).lower(*args)
    middle = time.perf_counter()
    executable = lowered.compile()
    end = time.perf_counter()
    memory = executable.memory_analysis()
    figures = {"lower": middle - start, "compile": end - middle}
    if memory is not None:
        figures["temporaries"] = memory.temp_size_in_bytes
        figures["arguments"] = memory.argument_size_in_bytes
    return executable, figures


def measure(calls, repeats=7, least=0.05):
    """Time several calls in turn, so that a busy machine slows all of them alike.

    Parameters
    ----------
    calls : dict of callables
        Each returns arrays; a call is repeated inside a sample until it took ``least`` seconds.
    repeats : int
        Samples of each.

    Returns
    -------
    dict
        Per call: quartiles of CPU and wall seconds, as ``cpu`` and ``wall`` [25, 50, 75 %].
    """
    loops, samples = {}, {name: [] for name in calls}
    for name, call in calls.items():
        jax.block_until_ready(call())
        start = time.perf_counter()
        jax.block_until_ready(call())
        loops[name] = max(1, int(least / max(time.perf_counter() - start, 1e-7)))
    for _ in range(repeats):
        for name, call in calls.items():
            cpu, wall = time.process_time(), time.perf_counter()
            for _ in range(loops[name]):
                jax.block_until_ready(call())
            n = loops[name]
            samples[name].append(
                [(time.process_time() - cpu) / n, (time.perf_counter() - wall) / n]
            )
    out = {}
    for name, values in samples.items():
        q = np.percentile(values, [25, 50, 75], axis=0)
        out[name] = {"cpu": q[:, 0].tolist(), "wall": q[:, 1].tolist()}
    return out


def peak_memory():
    """Largest resident size of this process so far, MB."""
    unit = 1e6 if platform.system() == "Darwin" else 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def table(header, rows):
    """A Markdown table as text; floats get three significant digits."""

    def cell(value):
        return f"{value:.3g}" if isinstance(value, float) else str(value)

    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(cell(v) for v in row) + " |" for row in rows]
    return "\n".join(lines)


def finish(args, figures):
    """Write the figures with the environment as JSON, when asked to."""
    if args.json:
        args.json.write_text(json.dumps({"environment": environment(), **figures}, indent=1))
