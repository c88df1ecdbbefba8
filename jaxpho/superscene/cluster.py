"""The engine on dask.distributed (the extra dask): workers of this machine, or of any cluster.

A worker of Dask supervises a child process of its own (`jaxpho.superscene.child`), so that a hang,
a kill or too little memory ends there as it does without Dask, and programs stay compiled.
Between the machines goes JSON; nothing is unpickled from disk.
"""

from __future__ import annotations

import contextlib
import json
import logging
import queue
import threading
import time
import uuid
from dataclasses import asdict
from pathlib import Path

from jaxpho.errors import InputError
from jaxpho.superscene.child import ChildEngine
from jaxpho.superscene.worker import Report, Work, encode

log = logging.getLogger("jaxpho.cluster")

LOOPBACK = "127.0.0.1"
CONNECT, ASK_EVERY = 30.0, 5.0
"""Seconds within which a scheduler must answer, and between questions for its workers."""
KEPT_MESSAGES = 10
"""Messages of a connection that Dask keeps; by default a thousand."""
BUNDLE, BUNDLE_SECONDS = 32, 0.1
"""Patches that travel together at most, and seconds of work that they may be."""


class DaskEngine:
    """Works on patches through dask.distributed.

    Parameters
    ----------
    work : Work
        Its module must be importable by the workers.
    workers : processes of a cluster of this machine, on the loopback address; None with
        `scheduler`.
    scheduler : address of a running scheduler, tcp://host:port or tls://host:port.
    limit, memory : seconds of wall time per patch, and bytes of the process that works on it.
    dashboard : address of a local cluster's dashboard, or None.
    certificates : files {"ca", "cert", "key"} (PEM) for tls://, or None.

    Raises
    ------
    InputError
        When dask is not installed, a certificate is missing, or the scheduler does not answer.
    """

    def __init__(
        self,
        work: Work,
        workers: int | None = None,
        scheduler: str | None = None,
        limit: float | None = None,
        memory: int | None = None,
        dashboard: str | None = None,
        certificates: dict[str, str] | None = None,
    ):
        if (workers is None) == (scheduler is None):
            raise InputError("engine: expected either a number of workers or a scheduler's address")
        if scheduler is not None and scheduler.split("://")[0] not in ("tcp", "tls"):
            raise InputError(f"engine: expected tcp://host:port or tls://host:port, found "
                             f"'{scheduler}'")  # fmt: skip
        self.distributed = _import()
        self.what = json.dumps([asdict(work), limit, memory])
        self.address, self.wanted, self.dashboard = scheduler, workers, dashboard
        self.security = self._security(certificates)
        self.done: queue.SimpleQueue = queue.SimpleQueue()
        self.pending: list[tuple[str, dict]] = []
        self.running: dict[str, object] = {}
        self.bundles: dict[object, list[str]] = {}
        self.mean: float | None = None
        self.asked, self.count = -ASK_EVERY, 1
        self.cluster = self.client = None
        self._connect()

    @property
    def bundle(self) -> int:
        """Patches that travel together: several where one is done sooner than it travels."""
        if self.mean is None:
            return 1
        return int(min(max(BUNDLE_SECONDS / max(self.mean, 1e-6), 1), BUNDLE))

    @property
    def workers(self) -> int:
        """Number of workers; a cluster elsewhere may grow and shrink."""
        if self.wanted is not None:
            return self.wanted
        if time.monotonic() - self.asked > ASK_EVERY:
            with contextlib.suppress(Exception):  # while the scheduler is away
                self.count = max(len(self.client.nthreads()), 1)
            self.asked = time.monotonic()
        return self.count

    @property
    def slots(self) -> int:
        """Patches at a time: one bundle in waiting for every worker."""
        return 2 * self.workers * self.bundle

    def _security(self, files: dict[str, str] | None):
        if files is None:
            if self.address is not None and self.address.startswith("tls://"):
                raise InputError("engine: tls:// needs the files of certificates: ca, cert and key")
            return None
        for name in ("ca", "cert", "key"):
            if not Path(files.get(name) or "").is_file():
                raise InputError(f"engine: no file of certificates '{name}': {files.get(name)}")
        return self.distributed.Security(
            tls_ca_file=files["ca"], tls_client_cert=files["cert"], tls_client_key=files["key"],
            tls_worker_cert=files["cert"], tls_worker_key=files["key"],
            tls_scheduler_cert=files["cert"], tls_scheduler_key=files["key"],
            require_encryption=True,
        )  # fmt: skip

    def _connect(self) -> None:
        import dask.config

        # what was sent is kept for debugging, whole: a patch is some kilobytes, and there are many
        with dask.config.set({"distributed.admin.low-level-log-length": KEPT_MESSAGES}):
            self._connect_kept()

    def _connect_kept(self) -> None:
        if self.wanted is not None:
            self.cluster = self.distributed.LocalCluster(
                n_workers=self.wanted, threads_per_worker=1, processes=True, host=LOOPBACK,
                dashboard_address=self.dashboard, memory_limit=0, security=self.security,
                protocol="tls://" if self.security else None, silence_logs=logging.ERROR,
            )  # fmt: skip
        target = self.cluster or self.address
        try:
            self.client = self.distributed.Client(
                target, timeout=CONNECT, security=self.security, set_as_default=False
            )
        except (OSError, TimeoutError) as error:
            raise InputError(f"engine: no answer from {target} within {CONNECT:g} s "
                             f"({error})") from None  # fmt: skip

    def submit(self, name: str, message: dict) -> None:
        """Hand over a patch; it is sent by the next `collect`, together with others."""
        self.pending.append((name, message))

    def _send(self) -> list[Report]:
        """Send what is pending; reports of what cannot be sent."""
        if not self.pending:
            return []
        waiting, self.pending = self.pending, []
        if self.client.status != "running" and not self._reconnect():
            return [Report(name, "lost", message="no scheduler") for name, _ in waiting]
        # no worker idle for the sake of the size of bundles
        size = max(min(self.bundle, -(-len(waiting) // self.workers)), 1)
        for k in range(0, len(waiting), size):
            part = waiting[k : k + size]
            future = self.client.submit(
                remote, self.what, encode(part).decode(), pure=False,
                key=f"patch-{part[0][0]}-{uuid.uuid4().hex}",
            )  # fmt: skip
            self.bundles[future] = [name for name, _ in part]
            self.running |= {name: future for name, _ in part}
            future.add_done_callback(self.done.put)
        return []

    def collect(self, timeout: float = 0.5) -> list[Report]:
        """Reports of the patches that have ended; waits for the first, at most `timeout`."""
        out, ended = self._send(), []
        with contextlib.suppress(queue.Empty):
            if not out and self.running:
                ended.append(self.done.get(timeout=max(timeout, 0.001)))
            while True:
                ended.append(self.done.get_nowait())
        # what was cancelled may be told late
        ended = [future for future in ended if future in self.bundles]
        good = [future for future in ended if future.status == "finished"]
        with contextlib.suppress(Exception):  # away in between: these are told as lost below
            texts = self.client.gather(good) if good else []
            for future, text in zip(good, texts, strict=True):
                out += [self._noted(Report(**values)) for values in json.loads(text)]
                self._forget(future)
        for future in ended:
            if future in self.bundles:
                out += self._broken(future)
                self._forget(future)
        if self.client.status != "running":
            out += [Report(n, "lost", message="the scheduler is gone") for n in self.running]
            self.running.clear()
            self.bundles.clear()
        return out

    def _forget(self, future) -> None:
        for name in self.bundles.pop(future):
            self.running.pop(name, None)

    def _noted(self, report: Report) -> Report:
        old = report.seconds if self.mean is None else self.mean
        self.mean = 0.9 * old + 0.1 * report.seconds
        return report

    def _broken(self, future) -> list[Report]:
        names = self.bundles[future]
        if future.status != "error":
            kind, text = "lost", f"the scheduler has {future.status} it"
        else:
            error = future.exception()
            if not isinstance(error, self.distributed.KilledWorker):
                # a worker that cannot start, which is no fault of these patches
                self.cancel()
                raise error if isinstance(error, InputError) else RuntimeError(str(error))
            # of several, which one it was is not known
            kind, text = "died" if len(names) == 1 else "lost", "its workers died"
        return [Report(name, kind, message=text) for name in names]

    def withdraw(self) -> list[str]:
        """Give back the patches that have not been sent; their names."""
        names = [name for name, _ in self.pending]
        self.pending.clear()
        return names

    def cancel(self) -> None:
        """Stop everything at once; nothing more is reported."""
        futures = list(self.bundles)
        for part in (self.pending, self.running, self.bundles):
            part.clear()
        with contextlib.suppress(Exception):
            if futures:
                self.client.cancel(futures, force=True)
                # what is being worked on goes on in its process, unless that is ended
                self.client.run(stop)

    def close(self) -> None:
        """Leave the cluster; end it where it is ours."""
        self.cancel()
        for part in (self.client, self.cluster):
            with contextlib.suppress(Exception):
                if part is not None:
                    part.close(timeout=5)
        self.cluster = None

    def _reconnect(self) -> bool:
        """Whether the scheduler is there again."""
        log.warning("the scheduler is gone; connecting again")
        with contextlib.suppress(Exception):
            self.client.close(timeout=1)
        if self.cluster is not None:
            with contextlib.suppress(Exception):
                self.cluster.close(timeout=5)
            self.cluster = None
        try:
            self._connect()
        except InputError as error:
            log.error("%s", error)
            return False
        return True


def _import():
    try:
        import distributed
    except ImportError:
        raise InputError("engine: several workers need dask: pip install 'jaxpho[dask]'") from None
    return distributed


class _Worker:
    """In a worker of Dask: the process that it supervises."""

    lock = threading.Lock()
    engine: ChildEngine | None = None
    what = ""


def remote(what: str, messages: str) -> str:
    """In a worker: the reports about patches, as JSON."""
    with _Worker.lock:
        if _Worker.what != what:
            stop()
            work, limit, memory = json.loads(what)
            _Worker.engine = ChildEngine(Work(**work), limit=limit, memory=memory)
            _Worker.what = what
        engine, wanted, reports = _Worker.engine, json.loads(messages), []
        try:
            for name, message in wanted:
                engine.submit(name, message)
            while len(reports) < len(wanted) and (engine.children or engine.queue):
                reports += engine.collect(1.0)
        except InputError:
            raise
        except (OSError, ValueError):  # by `stop`, from another thread
            pass
        told = {report.name for report in reports}
        reports += [Report(n, "lost", message="it was stopped") for n, _ in wanted if n not in told]
        return encode([asdict(report) for report in reports]).decode()


def stop() -> None:
    """In a worker: end the process that it supervises, with what it works on."""
    if _Worker.engine is not None:
        _Worker.engine.cancel()
