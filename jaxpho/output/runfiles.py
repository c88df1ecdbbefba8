"""A run directory, finished or not, as what exports start from: patches, catalogue, images."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from astropy.table import Table

from jaxpho.errors import InputError
from jaxpho.fit.result import PatchResult
from jaxpho.output.catalog import read_catalog
from jaxpho.output.combine import source_result
from jaxpho.output.samples import read_active, read_samples

log = logging.getLogger("jaxpho.export")

KEPT_FILES = 32
"""Patches that are kept in memory while sources are put together."""


@dataclass
class RunFiles:
    """What lies in a run directory.

    Attributes
    ----------
    folder : of the run.
    samples, residuals : name of a patch -> its file, in the order of their numbers; parts of a
        patch have letters behind it.
    catalog : of the run, or None where a killed run wrote none.
    bad : files that could not be read, and why.
    targets : `min_ess` and `max_rhat` that the draws of a source are judged by, where known.
    """

    folder: Path
    samples: dict[str, Path]
    residuals: dict[str, Path]
    catalog: Table | None = None
    bad: dict[Path, str] = field(default_factory=dict)
    targets: dict[str, float] = field(default_factory=dict)

    def results(self) -> Iterator[tuple[Path, PatchResult]]:
        """Files and fits of the patches; those whose file is damaged are logged and left out."""
        for path in self.samples.values():
            result = self.attempt(path, read_samples)
            if result is not None:
                yield path, result

    def sources(self) -> Iterator[tuple[Path, PatchResult]]:
        """Files and fits for catalogues: as `results`, or source by source.

        Where a source was fitted in several patches, the fits are those of single sources, with the
        draws of all of their patches (`jaxpho.output.combine`).
        """
        members = {path: self.attempt(path, read_active) or [] for path in self.samples.values()}
        where: dict[str, list[Path]] = {}
        for path, names in members.items():
            for name in names:
                where.setdefault(name, []).append(path)
        read = lru_cache(KEPT_FILES)(lambda path: self.attempt(path, read_samples))
        for path, names in members.items():
            result = read(path)
            if result is None:
                continue
            if all(len(where[name]) == 1 for name in names):
                yield path, result
                continue
            for name in names:
                if where[name][-1] != path:
                    continue
                parts = [(found, members[p].index(name)) for p in where[name]
                         if (found := read(p)) is not None]  # fmt: skip
                home = self._patch_of().get(name, -1)
                yield (
                    path,
                    source_result(parts, result.patch_id if home < 0 else home, **self.targets),
                )

    def flags(self, name) -> int:
        """Flags of a source in the catalogue of the run, 0 where it has none."""
        if not hasattr(self, "_flags"):
            t = self.catalog
            known = t is not None and "flags" in t.colnames
            self._flags = dict(zip(map(str, t["id"]), map(int, t["flags"]), strict=True)) if (
                known) else {}  # fmt: skip
        return max(self._flags.get(str(name), 0), 0)

    def attempt(self, path: Path, read):
        """What `read(path)` returns; None, logged once and kept in `bad`, where it fails."""
        if path in self.bad:
            return None
        try:
            return read(path)
        except (InputError, OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
            # h5py tells damage in all of these ways; one bad patch does not end an export
            text = str(error).strip().splitlines()
            self.bad[path] = text[0] if text else type(error).__name__
            named = str(path) in self.bad[path]
            log.error("left out: %s%s", "" if named else f"{path}: ", self.bad[path])
            return None

    def owned(self, result: PatchResult) -> list[int]:
        """Indices of the sources that this patch has fitted.

        Patches also hold the sources of their neighbours fixed; the catalogue knows whose they
        are. Without a catalogue they are those with a free parameter.
        """
        free = {owner for owner, _, _ in result.labels if isinstance(owner, int)}
        patch_of = self._patch_of()
        out = []
        for s, name in enumerate(result.source_ids[: result.n_active]):
            known = patch_of.get(str(name))
            if known == result.patch_id or (known in (None, -1) and s in free):
                out.append(s)
        return out

    def _patch_of(self) -> dict[str, int]:
        if not hasattr(self, "_patches"):
            table = self.catalog
            self._patches = {} if table is None else dict(
                zip(map(str, table["id"]), map(int, table["patch"]), strict=True)
            )  # fmt: skip
        return self._patches


def open_run(folder) -> RunFiles:
    """Look at a run directory.

    Raises
    ------
    InputError
        When it is none, or holds neither a patch nor a catalogue.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such run directory")
    samples, residuals = (_patches(folder, kind) for kind in ("samples", "residuals"))
    path = folder / "catalog.fits"
    run = RunFiles(folder, samples, residuals)
    if path.is_file():
        run.catalog = run.attempt(path, _own_catalog)
    if not samples and not residuals and run.catalog is None:
        raise InputError(
            f"{folder}: expected a run directory with patches/patch<i>_samples.h5 or a "
            "catalog.fits of jaxpho; found neither"
        )
    return run


def _patches(folder: Path, kind: str) -> dict[str, Path]:
    found = {}
    for path in (folder / "patches").glob(f"patch*_{kind}.h5"):
        match = re.fullmatch(rf"patch((\d+)[ab]*)_{kind}\.h5", path.name)
        if match:
            found[int(match[2]), match[1]] = path
    return {name: path for (_, name), path in sorted(found.items())}


def number_of(name: str) -> int:
    """The number of a patch, or of the one that it is a part of."""
    return int(name.rstrip("ab"))


def _own_catalog(path: Path) -> Table:
    table = read_catalog(path)
    missing = [name for name in ("id", "ra", "dec", "patch") if name not in table.colnames]
    if missing:
        raise InputError(f"{path}: no column '{missing[0]}'")
    for name in table.colnames:
        if table[name].dtype.kind == "S":
            table[name] = np.char.decode(table[name])
    return table
