"""What workers of the superscene do in tests: no JAX, but every kind of trouble."""

import logging
import os
import signal
import time
from pathlib import Path

import numpy as np

from jaxpho.errors import InputError


def prepare(context):
    logging.getLogger("jaxpho.jobs").warning("prepared")
    if context.get("refuse"):
        raise InputError("no such exposure")
    if context.get("die"):
        os.kill(os.getpid(), signal.SIGKILL)
    return context


def once(folder, name):
    """Whether this is the first call with a name, over all processes."""
    try:
        (Path(folder) / f"once-{name}").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def work(context, message):
    """Draws that depend on seed and neighbours; `trouble` of a patch's name, or of a source."""
    name = message["patch"]
    troubles = context.get("trouble", {})
    sources = [s["number"] for s in message["active"]]
    for key, what in troubles.items():
        if key == name or key in [f"source {i}" for i in sources]:
            trouble(what, context, name, message)
    time.sleep(context.get("seconds", 0.0))
    held = sum(np.nansum(s["parameters"]) for s in message["fixed"])
    rng = np.random.default_rng(message["seed"])
    latest = [
        (np.array(s["parameters"]) + 1e-3 * np.sin(held) + 1e-3 * rng.normal(size=3)).tolist()
        for s in message["active"]
    ]
    if context.get("folder"):
        with open(Path(context["folder"]) / f"patch{name}.txt", "a") as f:
            f.write(f"{message['seed']}\n")
    return {
        "latest": latest, "covariance": [np.eye(3) * 1e-6 for _ in latest],
        "flags": [0 for _ in latest],
        "summary": {"gradients": 10, "chi2": float(len(latest))},
    }  # fmt: skip


def trouble(what, context, name, message):
    if what.startswith("once "):
        if not once(context["folder"], f"{name}-{what[5:]}"):
            return
        what = what[5:]
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "exit":
        os._exit(3)
    if what == "hang":
        time.sleep(1000)
    if what == "raise":
        raise FloatingPointError("singular matrix\nof many lines")
    if what == "full":
        raise OSError(28, "No space left on device")
    if what == "memory":
        raise MemoryError
    if what == "nan":
        message["active"][0]["parameters"][0] = float("nan")
    if what == "eat":
        message["eaten"] = np.ones(2**24)  # 128 MiB
        time.sleep(1000)
    if what == "crowd" and len(message["active"]) > 1:
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1 byte")
