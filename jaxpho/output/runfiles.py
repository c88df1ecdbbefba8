"""A run directory, finished or not, as what exports start from: patches, catalogue, images."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from astropy.table import Table

from jaxpho.errors import InputError
from jaxpho.fit.result import PatchResult
from jaxpho.output.catalog import read_catalog
from jaxpho.output.samples import read_samples

log = logging.getLogger("jaxpho.export")


@dataclass
class RunFiles:
    """What lies in a run directory.

    Attributes
    ----------
    folder : of the run.
    samples, residuals : number of a patch -> its file, in the order of numbers.
    catalog : of the run, or None where a killed run wrote none.
    bad : files that could not be read, and why.
    """

    folder: Path
    samples: dict[int, Path]
    residuals: dict[int, Path]
    catalog: Table | None = None
    bad: dict[Path, str] = field(default_factory=dict)

    def results(self) -> Iterator[tuple[Path, PatchResult]]:
        """Files and fits of the patches; those whose file is damaged are logged and left out."""
        for path in self.samples.values():
            result = self.attempt(path, read_samples)
            if result is not None:
                yield path, result

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
        for s, name in enumerate(result.source_ids):
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


def _patches(folder: Path, kind: str) -> dict[int, Path]:
    found = {}
    for path in (folder / "patches").glob(f"patch*_{kind}.h5"):
        match = re.fullmatch(rf"patch(\d+)_{kind}\.h5", path.name)
        if match:
            found[int(match[1])] = path
    return dict(sorted(found.items()))


def _own_catalog(path: Path) -> Table:
    table = read_catalog(path)
    missing = [name for name in ("id", "ra", "dec", "patch") if name not in table.colnames]
    if missing:
        raise InputError(f"{path}: no column '{missing[0]}'")
    for name in table.colnames:
        if table[name].dtype.kind == "S":
            table[name] = np.char.decode(table[name])
    return table
