"""One run: read, prepare PSFs, have the patches fitted, write everything as it comes."""

from __future__ import annotations

import logging
import shutil
import time
from collections import Counter
from pathlib import Path

import numpy as np
from tqdm import tqdm

from jaxpho.config import Config, dump_config
from jaxpho.files import replacing
from jaxpho.fit import flags
from jaxpho.inference_data import check_arviz
from jaxpho.output.noise import noise_summary, write_noise
from jaxpho.prepare import PSFQuality, prepare_psfs
from jaxpho.run import whole
from jaxpho.run.engines import make_engine
from jaxpho.run.field import Field, load_field
from jaxpho.run.folder import CATALOG, CHECKPOINTS, NOISE, clear, forget, protect
from jaxpho.run.scenestate import scene_of, setup_of
from jaxpho.run.sources import Sources
from jaxpho.run.worker import machine
from jaxpho.superscene.here import HereEngine
from jaxpho.superscene.interrupt import Interrupts
from jaxpho.superscene.ledger import FAILED, LEDGER, Ledger
from jaxpho.superscene.lock import RunLock
from jaxpho.superscene.master import ASKED, FINISHED, Master
from jaxpho.superscene.policy import Patch
from jaxpho.superscene.state import CatalogState

log = logging.getLogger("jaxpho.run")

DONE, SOME_FAILED = 0, 1
FAILURES = flags.encode(["failed", "no_data"])
NONFINITE, UNFINISHED = flags.bit("nonfinite"), flags.bit("unfinished")
SAVE_EVERY = 60.0
"""Seconds between catalogues written during a run."""
GO_ON, FRESH, RETRY = "go on", "fresh", "retry"


def run(config: Config, quiet: bool = False, mode: str = "") -> int:
    """Carry out a run.

    Parameters
    ----------
    config : the configuration; `output` is created.
    quiet : no progress bar.
    mode : `GO_ON` with what an earlier run has left; `FRESH`: forget all of it but PSF mixtures;
        `RETRY`: go on, and fit what has failed again. By default patches are fitted anew, but
        chains that were begun go on.

    Returns
    -------
    0 when every source was fitted, 1 when some were not, exposures were left out, or files could
    not be written.

    Raises
    ------
    InputError
        When the input makes the run impossible; nothing has been fitted then.
    KeyboardInterrupt
        When it was asked to stop; the text says how to go on.
    """
    clock = time.monotonic()
    folder = Path(config.output)
    if config.products.arviz:
        check_arviz("products.arviz")
    quality: dict[str, PSFQuality] = {}
    mixtures = Path(config.psf_cache or folder / "psf_mixtures.h5")

    def prepare(exposures, peaks):
        files = [exposure.notes["path"] for exposure in exposures]
        protect(folder, files + [path for path in [config.peaks.file] if path])
        with tqdm(desc="PSF mixtures", unit="psf", disable=quiet, leave=False) as bar:
            quality.update(prepare_psfs(exposures, peaks, mixtures, told_by(bar)))

    found = load_field(config, prepare)
    flag_poor_psfs(found, quality)
    state = scene_of(config, found)
    # another process that writes the same files would ruin both runs
    with RunLock(folder):
        clear(folder, everything=mode not in (GO_ON, RETRY) or not (folder / LEDGER).exists())
        if mode == FRESH:
            forget(folder)
        ledger = Ledger(folder, state, config.seed, setup=setup_of(config))
        try:
            with replacing(folder / "config.yml") as temporary:
                temporary.write_text(dump_config(config), encoding="utf-8")
            write_noise(folder / NOISE, found.exposures)
            if mode == RETRY:
                again = ledger.retry_failed()
                log.info("%d sources of patches that failed are fitted again", len(again))
            return _Run(config, found, state, ledger, mixtures, quiet, clock).go()
        finally:
            ledger.close()


class _Run:
    """The patches of a run, from the first round to the last file."""

    def __init__(
        self,
        config: Config,
        found: Field,
        state: CatalogState,
        ledger: Ledger,
        mixtures: Path,
        quiet: bool,
        clock: float,
    ):
        self.config, self.found, self.state, self.ledger = config, found, state, ledger
        self.mixtures, self.quiet, self.clock = mixtures, quiet, clock
        self.folder = Path(config.output)
        self.sources = Sources(config, found, state, ledger.done())
        self.unwritten = False
        self.saved = time.monotonic()
        self.master: Master | None = None

    def go(self) -> int:
        """Work; the exit code."""
        engine = make_engine(self.config, self.found, self.mixtures)
        self.bar = tqdm(total=len(self.state), desc="sources", unit="source", disable=self.quiet)
        masks: list[int] = []
        end = ""
        try:
            with self.bar, Interrupts(raising=isinstance(engine, HereEngine)) as asked:
                self.master = Master(
                    self.folder, self.state, self.ledger, engine, self.config.seed,
                    stopping=lambda: asked.level, on_done=self._done,
                )  # fmt: skip
                self._note_machine(machine(self.config.threads))
                end = self.master.run()
        except KeyboardInterrupt:
            raise KeyboardInterrupt(self._stopped()) from None
        finally:
            engine.close()
            # also after Ctrl-C: what is done stays
            masks = self._write(end)
        if end != FINISHED and self.master.halt == ASKED:
            raise KeyboardInterrupt(self._stopped())
        if end == FINISHED:
            forget(self.folder)
            whole.drop_files(self.config)
        return self._summary(masks, end)

    def _done(self, patch: Patch, answer: dict, seconds: float) -> None:
        """What follows when a patch has been checked in."""
        found = answer["summary"]
        n = len(patch.active)
        log.info("patch %s: %d source%s, %d pixels, chi2 = %.1f, %.1f s", patch.name, n,
                 "s" * (n != 1), found["npix"], found["chi2"], seconds)  # fmt: skip
        self.unwritten |= bool(found["unwritten"])
        self._note_machine(found["machine"])
        self.sources.add(patch)
        shutil.rmtree(self.folder / CHECKPOINTS / f"patch{patch.name}", ignore_errors=True)
        counts = self.state.counts
        self.bar.set_postfix_str(f"round {patch.round}, patch {patch.name}", refresh=False)
        self.bar.update(counts["done"] + counts["failed"] - self.bar.n)
        if time.monotonic() - self.saved > SAVE_EVERY:
            self.sources.save()
            self.saved = time.monotonic()

    def _note_machine(self, text: str) -> None:
        """Remember what the run computes with; say so where that changes."""
        if text == getattr(self, "_machine", None):
            return
        known, self._machine = self.ledger.note("machine", text), text
        if known not in (None, text) and self.master.identical:
            log.warning("another machine, version or number of threads works on this run: another "
                        "one may differ (%s, before: %s)", text, known)  # fmt: skip
            self.master.identical = False

    def _write(self, end: str) -> list[int]:
        """Catalogue and products of the whole field; the flags of all sources."""
        patches, masks = self.ledger.done(), self.state.flags.tolist()
        if end == FINISHED or patches or self.ledger.counts().get(FAILED):
            masks = self.sources.save()
        if patches and self.config.products.images:
            self.unwritten |= not whole.write_images(self.config, self.found, patches)
        if patches and self.config.products.forcepho:
            self.unwritten |= not whole.write_archive(self.config, self.found, patches)
        return masks

    def _stopped(self) -> str:
        """What an interrupted run leaves behind, and how to go on."""
        if not self.sources.parts:
            return "no source was finished, the same command starts again (PSFs are kept)"
        done = self.state.counts["done"]
        return (
            f"{done} of {len(self.state)} sources are in {self.folder / CATALOG}, the others are "
            "flagged unfinished; to go on, give --resume; to start again, --overwrite (fitted "
            "PSFs are used again) or another --output"
        )

    def _summary(self, masks: list[int], end: str) -> int:
        seconds = time.monotonic() - self.clock
        peaks = self.found.peaks
        bad = sum(
            # a value of the catalogue that could not be used does not make a good fit a failure
            bool(mask & (FAILURES | UNFINISHED)) or bool(mask & ~peak.flags & NONFINITE)
            for mask, peak in zip(masks, peaks, strict=True)
        )
        counts = Counter(name for mask in masks for name in flags.decode(mask))
        text = ", ".join(f"{name} {n}" for name, n in counts.most_common()) or "none"
        log.info("%d of %d sources measured in %.0f s", len(masks) - bad, len(masks), seconds)
        log.info("flags: %s", text)
        for line in noise_summary(self.found.exposures):
            log.info("%s: %s", line, self.folder / NOISE)
        skipped = self.found.images.skipped
        for exposure in skipped:
            log.warning("exposure %s was left out: %s", exposure.name, exposure.reason)
        if not self.sources.unsaved:
            log.info("catalogue: %s", self.folder / CATALOG)
        if end != FINISHED:
            log.error("the run has stopped; to go on, give --resume")
        lost = bad or skipped or self.unwritten or self.sources.unsaved or end != FINISHED
        return SOME_FAILED if lost else DONE


def flag_poor_psfs(found: Field, quality: dict[str, PSFQuality]) -> None:
    """Flag the sources that a poorly described PSF touches."""
    for e, exposure in enumerate(found.exposures):
        if quality[exposure.name].poor:
            for i in np.flatnonzero(found.fraction[:, e] > 0):
                found.peaks[i].flags |= flags.bit("bad_psf")


def told_by(bar):
    """A function of (done, total) that moves a progress bar."""

    def progress(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    return progress
