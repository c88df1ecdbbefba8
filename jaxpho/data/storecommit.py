"""From finished exposures to the stores, such that a kill at any moment leaves stores in order.

The pixel store and the meta store are two files and cannot be replaced in one step. Whatever is
about to change or to go is therefore taken out of the meta store first; then the new pixel store
replaces the old one; then the meta store lists what is in it. At every moment the meta store
lists only exposures whose pixels belong to their headers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

from jaxpho.data.gwcsfile import has_gwcs, open_gwcs, write_gwcs
from jaxpho.data.hdf5 import open_hdf5, writing
from jaxpho.data.metaindex import index_path
from jaxpho.data.metastore import MetaStore, check_ids, open_meta_store, write_meta_store
from jaxpho.data.pixelstore import PixelStore, write_header
from jaxpho.data.storeinfo import read_info
from jaxpho.data.storejob import StoreJob
from jaxpho.data.storeoptions import PreprocessConfig
from jaxpho.data.storepart import Part, part_of
from jaxpho.errors import InputError

log = logging.getLogger("jaxpho.preprocess")

CREATOR = "jaxpho preprocess"
"""Attribute `creator` of pixel stores that may be changed without asking."""


@dataclass
class Existing:
    """What the stores hold already.

    Attributes
    ----------
    meta : MetaStore or None
    infos : (band, id) -> what made it (`read_info`), of exposures that are in both stores.
    loose : those in the pixel store alone, as a killed run may leave them.
    """

    meta: MetaStore | None = None
    infos: dict[tuple[str, str], dict] = field(default_factory=dict)
    loose: dict[tuple[str, str], dict] = field(default_factory=dict)

    def holds(self, job: StoreJob) -> bool:
        """Whether the exposure of a job is stored as it would be again."""
        return self.infos.get(job.key, {}).get("digest") == job.digest


def read_existing(config: PreprocessConfig, overwrite: bool = False) -> Existing:
    """Look at the stores that a run goes on with.

    Raises
    ------
    InputError
        When there are stores that `jaxpho preprocess` did not make, or damaged ones, and
        `overwrite` is not given.
    """
    if overwrite:
        return Existing()
    pixels, meta = config.pixel_path, config.meta_path
    advice = "give --overwrite to replace it, or another folder with --output"
    if not pixels.exists():
        if meta.exists():
            raise InputError(f"meta store {meta} is there without its pixel store; {advice}")
        return Existing()
    try:
        with PixelStore(pixels) as store:
            with open_hdf5(pixels, "pixel store") as file:
                if file.attrs.get("creator") != CREATOR:
                    raise InputError(f"pixel store {pixels} was not made by this command")
            infos = {key: read_info(store.attrs(*key)) for key in store.exposures()}
            for band, name in (key for key, info in infos.items() if "summary" not in info):
                raise InputError(f"{store.where(band, name)} was not made by this command")
        found = open_meta_store(meta) if meta.exists() else None
    except InputError as error:
        raise InputError(f"{error}; {advice}") from None
    if found is None:
        return Existing(None, {}, infos)
    both = {key: infos[key] for key in found.keys if key in infos}
    return Existing(found, both, {key: info for key, info in infos.items() if key not in both})


@dataclass
class Entry:
    """An exposure of the new stores: a finished part, or what is there already."""

    key: tuple[str, str]
    info: dict
    part: Part | None = None

    @property
    def kept(self) -> bool:
        """Whether it stays as it is."""
        return self.part is None


def entries_of(jobs: list[StoreJob], existing: Existing, folder: Path, others=()):
    """Exposures of the new stores, in order: [Entry]; jobs without a result are left out.

    Parameters
    ----------
    folder : of the parts.
    others : keys of further exposures to keep, after those of the jobs in their bands.
    """
    entries = []
    for job in jobs:
        part = part_of(job, folder)
        if existing.holds(job):
            entries.append(Entry(job.key, existing.infos[job.key]))
        elif part.path.exists():
            entries.append(Entry(job.key, part.info(job.key), part))
    if others:
        entries += [Entry(key, existing.infos[key]) for key in others]
        bands = list(dict.fromkeys(entry.key[0] for entry in entries))
        entries.sort(key=lambda entry: bands.index(entry.key[0]))
    return entries


def foreign(jobs: list[StoreJob], existing: Existing, failures) -> list[tuple[str, str]]:
    """Exposures of the stores that the configuration does not name.

    A file that cannot be opened does not tell its id; exposures that were made from it are not
    foreign.
    """
    named = {job.key for job in jobs}
    broken = {failure.path.name for failure in failures}
    return [
        key
        for key, info in existing.infos.items()
        if key not in named and info.get("summary", {}).get("file") not in broken
    ]


def commit(
    config: PreprocessConfig,
    entries: list[Entry],
    existing: Existing,
    progress: Callable[[int, int], None] | None = None,
) -> bool:
    """Bring the stores to hold the entries, and nothing else; False when they do already.

    Memory: the headers of all exposures; pixels are copied chunk by chunk.

    Raises
    ------
    InputError
        When a file cannot be read or written; the stores are in order then, too.
    """
    kept = [entry for entry in entries if entry.kept]
    same = len(kept) == len(entries) and list(existing.infos) == [e.key for e in entries]
    if same and not existing.loose and existing.meta is not None:
        return False
    for band, names in _by_band(entries):
        check_ids(names, f"stores, {band}")
    # of exposures that stay, headers are read before anything is replaced
    texts: dict[str, dict[str, str]] = {}
    for entry in entries:
        band, name = entry.key
        text = existing.meta.text(band, name) if entry.kept else entry.part.header()
        texts.setdefault(band, {})[name] = text
    gwcs = _gwcs_of(config, entries)
    if not _pixels_match(entries, existing):
        with writing(config.pixel_path) as temporary:
            _write_pixels(temporary, config.pixel_path, entries, progress)
            # from here on the old headers do not belong to all the pixels
            if existing.meta is None:
                config.meta_path.unlink(missing_ok=True)
            elif len(kept) < len(existing.meta):
                _write_meta(config, {b: {n: texts[b][n] for n in ns} for b, ns in _by_band(kept)})
    asdf = config.meta_path.with_suffix(".asdf")
    if gwcs:
        with writing(asdf) as temporary:
            write_gwcs(temporary, gwcs)
    else:
        asdf.unlink(missing_ok=True)
    _write_meta(config, texts)
    return True


def _by_band(entries: list[Entry]):
    out: dict[str, list[str]] = {}
    for entry in entries:
        out.setdefault(entry.key[0], []).append(entry.key[1])
    return out.items()


def _write_meta(config: PreprocessConfig, texts: dict) -> None:
    try:
        write_meta_store(config.meta_path, texts)
    except OSError as error:
        raise InputError(
            f"meta store {config.meta_path} cannot be written ({error.strerror or error})"
        ) from None


def _pixels_match(entries: list[Entry], existing: Existing) -> bool:
    """Whether the pixel store was replaced already, when an earlier run was killed."""
    there = {**existing.infos, **existing.loose}
    if set(there) != {entry.key for entry in entries}:
        return False
    return all(there[e.key].get("digest") == e.info.get("digest") for e in entries)


def _write_pixels(temporary: Path, old: Path, entries: list[Entry], progress) -> None:
    sizes = [(e.info["summary"]["nx"], e.info["summary"]["ny"]) for e in entries]
    with h5py.File(temporary, "w") as out:
        write_header(out, np.max(sizes, axis=0))
        out.attrs["creator"] = CREATOR
        source = open_hdf5(old, "pixel store") if any(entry.kept for entry in entries) else None
        try:
            for k, entry in enumerate(entries):
                path = f"{entry.key[0]}/{entry.key[1]}"
                group = out.require_group(path)
                if entry.kept:
                    source.copy(source[f"{path}/data"], group, "data")
                else:
                    with open_hdf5(entry.part.path, "part") as file:
                        file.copy(file[f"pixels/{path}/data"], group, "data")
                if progress is not None:
                    progress(k + 1, len(entries))
        finally:
            if source is not None:
                source.close()


def _gwcs_of(config: PreprocessConfig, entries: list[Entry]) -> dict:
    """The gwcs of all entries that have one, {band: {id: adaptor}}."""
    out: dict = {}
    asdf = config.meta_path.with_suffix(".asdf")
    old = {}
    if asdf.is_file() and any(entry.kept for entry in entries):
        if not has_gwcs():
            raise InputError(
                f"{asdf}: gwcs is not installed, and the exposures that are kept would lose "
                "theirs; install it, or make the stores anew with --overwrite"
            )
        old = open_gwcs(asdf)
    for entry in entries:
        band, name = entry.key
        tree = old if entry.kept else {}
        if not entry.kept and entry.part.gwcs.is_file():
            tree = open_gwcs(entry.part.gwcs)
        if name in tree.get(band, {}):
            out.setdefault(band, {})[name] = tree[band][name]
    return out


def clean(config: PreprocessConfig, parts: bool = False) -> None:
    """Delete what killed runs left half written, and finished parts only on request."""
    asdf, index = config.meta_path.with_suffix(".asdf"), index_path(config.meta_path)
    for path in (config.pixel_path, config.meta_path, asdf, index, config.table_path):
        for leftover in path.parent.glob(f".{path.stem}.part*{path.suffix}"):
            if leftover.is_file():
                leftover.unlink(missing_ok=True)
    for leftover in config.parts.glob("*" if parts else ".*.part*"):
        leftover.unlink(missing_ok=True)


def discard_parts(config: PreprocessConfig) -> None:
    """Delete the parts once the stores hold them."""
    for path in [*config.parts.glob("*.h5"), *config.parts.glob("*.asdf")]:
        path.unlink(missing_ok=True)
    config.parts.rmdir()


def size_on_disk(jobs: list[StoreJob]) -> int:
    """Bytes that the exposures of jobs take in a pixel store."""
    return sum(8 * (-(-nx // 8) * 8) * (-(-ny // 8) * 8) for ny, nx in (j.plan.shape for j in jobs))
