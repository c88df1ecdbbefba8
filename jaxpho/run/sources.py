"""The catalogue of a run, put together from the files of its patches."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from jaxpho.config import Config
from jaxpho.errors import InputError
from jaxpho.fit import flags
from jaxpho.fit.draws import method_text
from jaxpho.fit.result import PatchResult
from jaxpho.output.catalog import make_table, row_of_peak, rows_of_patch, write_catalog
from jaxpho.output.combine import source_result
from jaxpho.output.samples import read_samples
from jaxpho.run.field import Field
from jaxpho.run.folder import CATALOG, PATCHES
from jaxpho.run.version import version
from jaxpho.superscene.layout import peak_of
from jaxpho.superscene.policy import Patch
from jaxpho.superscene.state import CatalogState
from jaxpho.superscene.worker import first_line

log = logging.getLogger("jaxpho.run")

UNFINISHED = flags.bit("unfinished")
UNREADABLE = (InputError, OSError, KeyError, ValueError, TypeError, RuntimeError)
KEPT_FILES = 32
"""Patches whose files are kept in memory while rows are made."""


class Sources:
    """Which patches each source was in, and the rows of the catalogue that follow.

    Parameters
    ----------
    config, found, state : of the run.
    done : patches that are finished already.

    Attributes
    ----------
    parts : source -> names of its patches, in their order.
    home : source -> the patch in which it got the last of its iterations, or its latest.
    rows : source -> row; of those that have changed it is made anew by `update`.
    """

    def __init__(
        self, config: Config, found: Field, state: CatalogState, done: Iterable[Patch] = ()
    ):
        self.config, self.found, self.state = config, found, state
        self.folder = Path(config.output)
        self.parts: dict[int, list[str]] = {}
        self.home: dict[int, str] = {}
        self.rows: dict[int, dict] = {}
        self.changed: set[int] = set()
        self.unsaved = False
        self._count: dict[int, int] = {}
        self.read = lru_cache(KEPT_FILES)(self._read)
        for patch in done:
            self.add(patch)

    def add(self, patch: Patch) -> None:
        """Take note of a patch that is finished."""
        target = self.state.options.target
        for i in patch.active:
            before = self._count.get(i, 0)
            self._count[i] = before + patch.iterations
            self.parts.setdefault(i, []).append(patch.name)
            if before < target:
                self.home[i] = patch.name
            self.changed.add(i)

    def _read(self, name: str) -> tuple[PatchResult, dict[str, int]]:
        result = read_samples(self.folder / PATCHES / f"patch{name}_samples.h5")
        return result, {str(k): s for s, k in enumerate(result.source_ids)}

    def result(self, i: int) -> PatchResult:
        """The fit of one source, of all its patches; InputError where a file cannot be read."""
        # without draws the latest optimum is all there is to know
        names = self.parts[i] if self.state.options.draws else self.parts[i][-1:]
        found = [self.read(name) for name in names]
        sample, key = self.config.sample, str(self.found.peaks[i].id)
        parts = [(result, index[key]) for result, index in found]
        home = int(self.home[i].rstrip("ab"))
        return source_result(parts, home, sample.min_ess, sample.max_rhat)

    def update(self) -> None:
        """Make the rows of the sources that have changed."""
        # neighbours after one another: they are in the same files
        for i in sorted(self.changed, key=lambda i: (self.parts[i][-1], i)):
            try:
                row = rows_of_patch(self.result(i))[0]
            except UNREADABLE as error:
                peak = self.found.peaks[i]
                log.error("source %s: no errors in the catalogue (%s)", peak.id, first_line(error))
                state, bands = self.state, self.config.bands
                values = state.parameters[i, : state.width(i)]
                row = row_of_peak(peak_of(state.start(i), bands, values, state.fit), bands)
                self.unsaved = True
            self.rows[i] = row
        self.changed.clear()
        self.read.cache_clear()

    def table_rows(self) -> list[dict]:
        """A row for each source of the field, those that were not fitted included."""
        self.update()
        out = []
        for i, peak in enumerate(self.found.peaks):
            mask = int(self.state.flags[i])
            if not self.state.failed[i] and self.state.iterations[i] < self.state.options.target:
                mask |= UNFINISHED
            row = self.rows.get(i)
            if row is None:
                row = row_of_peak(replace(peak, flags=peak.flags | mask), self.config.bands)
            else:
                mask |= row["flags"]
                row = row | {"flags": mask, "flag_names": ",".join(flags.decode(mask))}
            out.append(row)
        return out

    def save(self) -> list[int]:
        """Write the catalogue; the flags of all sources."""
        config = self.config
        rows = self.table_rows()
        meta = {"CREATOR": f"jaxpho {version()}", "SERSIC": self.found.mixture}
        meta |= {"SEED": config.seed, "SAMPLER": method_text(config.sample.method)}
        table = make_table(rows, config.bands, self.found.images.unit, meta)
        try:
            write_catalog(self.folder / CATALOG, table)
            self.unsaved = False
        except (OSError, InputError) as error:
            # a full disk may have room again at the next attempt
            self.unsaved = True
            log.error("%s not written (%s)", self.folder / CATALOG, first_line(error))
        return [row["flags"] for row in rows]
