"""The master of a run: rounds of patches, handed to an engine and checked in as they end."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from jaxpho.errors import InputError
from jaxpho.superscene import faults
from jaxpho.superscene.interrupt import NO, NOW
from jaxpho.superscene.ledger import CUT, DONE, FAILED, Ledger, OpenPatch, Outcome
from jaxpho.superscene.message import message_of
from jaxpho.superscene.policy import Patch, halves
from jaxpho.superscene.records import pass_on
from jaxpho.superscene.snapshot import Rate, Snapshot, write_snapshot
from jaxpho.superscene.state import CatalogState
from jaxpho.superscene.worker import Report, first_line

log = logging.getLogger("jaxpho.master")

FINISHED, STOPPED = "finished", "stopped"
ASKED = "asked to"
"""Why a run has halted that was interrupted."""
SNAPSHOT_EVERY, PAUSE = 2.0, 10.0
"""Seconds between snapshots, and before a file that could not be written is tried again."""


class Engine(Protocol):
    """Where patches are worked on.

    Attributes
    ----------
    slots : number of patches that it takes at a time.
    workers : number of processes.
    """

    slots: int
    workers: int

    def submit(self, name: str, message: dict) -> None:
        """Hand over a patch."""

    def collect(self, timeout: float) -> list[Report]:
        """What has ended, waiting for at most `timeout` seconds."""

    def withdraw(self) -> list[str]:
        """Names of patches that it gives back, as far as it knows that they have not begun."""

    def cancel(self) -> None:
        """Stop at once; nothing more is reported."""

    def close(self) -> None:
        """Return what the engine holds."""


class Master:
    """Runs the rounds of a field until every source has its iterations.

    Parameters
    ----------
    folder : the run directory, for the snapshot.
    state, ledger : of the field; the ledger has loaded the state.
    engine : Engine
    seed : of the run.
    stopping : asked again and again; `interrupt.NO`, `SOON` or `NOW`.
    on_done : called with (patch, answer, seconds) of every patch that went well.
    """

    def __init__(
        self,
        folder,
        state: CatalogState,
        ledger: Ledger,
        engine: Engine,
        seed: int,
        stopping: Callable[[], int] = lambda: NO,
        on_done: Callable[[Patch, dict, float], None] | None = None,
    ):
        self.folder, self.state, self.ledger, self.engine = Path(folder), state, ledger, engine
        self.seed, self.stopping, self.on_done = seed, stopping, on_done
        self.ready: deque[OpenPatch] = deque()
        self.held: list[OpenPatch] = []
        self.later: list[tuple[float, OpenPatch]] = []
        self.running: dict[str, OpenPatch] = {}
        self.counts = ledger.counts()
        self.round, self.said, self.halt = 0, "", ""
        self.identical = not ledger.timed_out()
        self.rate = Rate(self.share, len(state))
        self.written = -SNAPSHOT_EVERY

    @property
    def share(self) -> float:
        """Of the iterations that are wanted, those that are done."""
        s = self.state
        done = (s.iterations.clip(max=s.options.target) / s.options.target)[~s.failed].sum()
        return float((done + s.failed.sum()) / len(s))

    def run(self) -> str:
        """Work until nothing is left, or until it has to stop.

        Returns
        -------
        "finished"; or "stopped", and `halt` says why: the ledger can be resumed then.

        Raises
        ------
        InputError, RuntimeError
            When workers cannot start; the ledger can be resumed then, too.
        """
        end = STOPPED
        try:
            while not self.halt:
                if not self._next_round():
                    end = FINISHED
                    break
                while self.ready or self.held or self.later or self.running:
                    self._step()
                    if self.halt and not self.running:
                        break
        except OSError as error:
            # a ledger that cannot be written: nothing is lost that it holds
            self.halt = faults.KINDS["disk"] + f" ({error})"
        except (InputError, RuntimeError) as error:
            self.halt = str(error)
            raise
        finally:
            self.engine.cancel()
            if self.halt:
                log.error("stopped: %s", self.halt)
            self._snapshot(end, force=True)
        return end

    def _next_round(self) -> bool:
        """Take up the patches of the round that a ledger left, or plan the next."""
        left = self.ledger.open_patches()
        if not left:
            number, first = self.ledger.next_round()
            patches = self.state.plan(number, first)
            if not patches:
                return False
            self.ledger.add(patches)
            left = [OpenPatch(patch) for patch in patches]
            log.info("round %d: %d patches of %d sources", number, len(patches),
                     sum(len(p.active) for p in patches))  # fmt: skip
        self.round = left[0].patch.round
        for one in left:
            (self.held if one.patch.after else self.ready).append(one)
        return True

    def _step(self) -> None:
        """Hand over what is ready, and take what has ended."""
        level = self.stopping()
        if level and not self.halt:
            self.halt = ASKED
            self._drop(self.engine.withdraw())
        if level == NOW:
            self.engine.cancel()
            self._drop(list(self.running))
            return
        if not self.halt:
            self._submit()
        self._snapshot("running")
        if not self.running and self.later:
            time.sleep(min(PAUSE, 0.1))  # an engine without work does not wait
        reports = self.engine.collect(0.5 if self.running else 0.0)
        if reports:
            # what has ended together is noted together
            with self.ledger.transaction():
                for report in reports:
                    self._take(report)

    def _drop(self, names: list[str]) -> None:
        """Take patches back; they stay open in the ledger."""
        for name in names:
            one = self.running.pop(name)
            self.state.release(one.patch)
            self.ready.append(one)

    def _submit(self) -> None:
        now = time.monotonic()
        if self.later:
            self.ready.extendleft(one for at, one in self.later if at <= now)
            self.later = [(at, one) for at, one in self.later if at > now]
        if self.held:
            names = [one.patch.name for one in self._open()]
            free = [h for h in self.held if not any(n.startswith(h.patch.after) for n in names)]
            self.ready.extendleft(free)
            self.held = [h for h in self.held if h not in free]
        while self.ready and len(self.running) < self.engine.slots:
            one = self.ready.popleft()
            self.state.check_out(one.patch)
            self.running[one.patch.name] = one
            message = message_of(self.state, one.patch, self._seed(one))
            self.engine.submit(one.patch.name, message)

    def _open(self) -> list[OpenPatch]:
        return [*self.ready, *self.held, *(one for _, one in self.later), *self.running.values()]

    def _seed(self, one: OpenPatch) -> int:
        # the failures that are answered by another seed; others leave the outcome as it was
        reseeds = int(bool({"raised", "nonfinite"} & set(one.failures)))
        return faults.seed_of(self.seed, one.patch.name, reseeds)

    def _take(self, report: Report) -> None:
        one = self.running.pop(report.name)
        self.state.release(one.patch)
        pass_on(report.records)
        kind, message = report.kind, report.message
        if kind and self.stopping():
            # an interruption may look like an error; it is tried again when the run goes on
            log.warning("patch %s: %s", one.patch.name, message)
            self.ready.append(one)
            return
        if not kind:
            answer = report.answer
            try:
                self.state.check_in(
                    one.patch, answer["latest"], answer.get("covariance"), answer.get("flags"),
                    answer.get("iterations"), answer.get("types"),
                )  # fmt: skip
            except (ValueError, KeyError, TypeError) as error:
                kind, message = "nonfinite", first_line(error)
        if kind:
            self._failed(one, kind, message, report.seconds)
            return
        self._done(one, report)
        if self.on_done is not None:
            self.on_done(one.patch, report.answer, report.seconds)

    def _done(self, one: OpenPatch, report: Report) -> None:
        summary = report.answer.get("summary", {})
        outcome = Outcome(
            len(one.failures) + 1, self._seed(one), report.seconds, summary.get("gradients"),
            summary.get("chi2"), summary.get("message", ""),
        )  # fmt: skip
        self._end(one.patch, DONE, outcome)

    def _end(self, patch: Patch, state: str, outcome: Outcome) -> None:
        self.ledger.end(patch, state, outcome)
        self.counts[state] = self.counts.get(state, 0) + 1

    def _failed(self, one: OpenPatch, kind: str, message: str, seconds: float) -> None:
        patch = one.patch
        decision = faults.decide(kind, one.failures, len(patch.active))
        self.said = f"patch {patch.name}: {faults.KINDS[kind]} ({message}): {decision}"
        log.warning("%s", self.said)
        self.ledger.decision(patch, kind, decision, message)
        one.failures.append(kind)
        outcome = Outcome(len(one.failures), self._seed(one), seconds, message=message)
        if kind == "timeout" and self.identical:
            self.identical = False
            log.warning("a limit of wall time stopped a patch: another run may give another "
                        "catalogue")  # fmt: skip
        if decision == faults.STOP:
            self.halt = self.halt or f"patch {patch.name}: {faults.KINDS[kind]} ({message})"
        elif decision == faults.HALVE:
            self._end(patch, CUT, outcome)
            parts = halves(patch, self.state.graph, self.state.options.neighbours)
            self.ledger.add(parts)
            self.ready.appendleft(OpenPatch(parts[0]))
            self.held.append(OpenPatch(parts[1]))
        elif decision == faults.FLAG:
            for i in patch.active:
                fitted = bool(self.state.patches[i])
                self.state.give_up([i], faults.flags_of(kind, fitted))
            names = ", ".join(str(self.state.peaks[i].id) for i in patch.active)
            log.error("patch %s failed (%s): sources %s", patch.name, message, names)
            self._end(patch, FAILED, outcome)
        elif kind == "disk":
            self.later.append((time.monotonic() + PAUSE, one))
        else:
            self.ready.appendleft(one)

    def _snapshot(self, state: str, force: bool = False) -> None:
        now = time.monotonic()
        if not force and now - self.written < SNAPSHOT_EVERY:
            return
        self.written = now
        waiting = len(self.ready) + len(self.held) + len(self.later)
        patches = {name: self.counts.get(name, 0) for name in (DONE, CUT, FAILED)}
        patches |= {"running": len(self.running), "waiting": waiting}
        message = f"stopped: {self.halt}" if self.halt and state != "running" else self.said
        try:
            write_snapshot(
                self.folder,
                Snapshot(
                    state, self.round, patches, self.state.counts, workers=self.engine.workers,
                    message=message, identical=self.identical, **self.rate(self.share),
                ),
            )  # fmt: skip
        except OSError as error:
            log.warning("status not written (%s)", error)
