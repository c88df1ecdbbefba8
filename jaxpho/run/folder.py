"""The run directory: what may be replaced in it, and what is never touched."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from jaxpho.errors import InputError

CATALOG = "catalog.fits"
CHECKPOINTS = "checkpoints"
"""Folder of the chains that a run is drawing; gone when it has ended."""
NOISE = "noise.ecsv"
PATCHES = "patches"
"""Folder of the files of patches."""
_HALF = ("patches/.patch*.part*", "images/.*.part*", "forcepho/.*.part*",
         "forcepho/patches/.*.part*", ".*.part*")  # fmt: skip
"""What a killed run leaves half written."""
_PRODUCTS = ("config.yml", "noise.ecsv", "status.json", "ledger.db*",
             "patches/patch*_samples.h5", "patches/patch*_residuals.h5",
             "patches/patch*.png", "patches/patch*_posterior.nc",
             "forcepho/patches/patch*_samples.h5", "forcepho/patches/patch*_residuals.h5",
             "forcepho/config.json", "forcepho/*_log.json", *_HALF)  # fmt: skip
"""Files of a run, apart from FITS files."""


def claim(folder: Path, overwrite: bool, config: Path | None = None, resume: bool = False) -> None:
    """Make sure that a run directory may be written; nothing is deleted here.

    Raises
    ------
    InputError
        When it is a file, holds the configuration itself (which the run would replace) or files
        of other origin where a run writes, or an earlier run's results without `overwrite` or
        `resume`.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"output: {folder} is a file, expected a folder")
    if config is not None and config.resolve() == (folder / "config.yml").resolve():
        raise InputError(
            f"output: {folder} holds {config} itself, which the run would replace; give another "
            "folder"
        )
    for path in _fits(folder):
        if not _own(path):
            raise InputError(
                f"output: {folder} holds {path.relative_to(folder)}, which jaxpho did not write "
                "and a run might replace; give another folder"
            )
    if not (folder / CATALOG).exists() and not (folder / PATCHES).exists():
        return
    if not (overwrite or resume):
        more = "--resume to go on with it, " if (folder / "ledger.db").exists() else ""
        raise InputError(
            f"output: {folder} holds the results of an earlier run; give {more}--overwrite, or "
            "another folder with --output"
        )


def protect(folder: Path, inputs) -> None:
    """Refuse input files that the run would delete or replace, whoever wrote them.

    Raises
    ------
    InputError
        Naming the first of them.
    """
    root = folder.resolve()
    for path in inputs:
        file = Path(path).resolve()
        inside = {root / "images", root / PATCHES, root / "forcepho"} & set(file.parents)
        if inside or file == root / CATALOG:
            raise InputError(
                f"output: {folder} holds the input {path}, which the run would replace; give "
                "another folder"
            )


def clear(folder: Path, everything: bool = True) -> None:
    """Delete an earlier run's products, once the input has proved usable.

    Only files that a run writes are deleted; the log goes on, and fitted PSF mixtures are kept
    and used again. Without `everything` only what is half written.
    """
    found = [path for p in (_PRODUCTS if everything else _HALF) for path in folder.glob(p)]
    if everything:
        found += [path for path in _fits(folder) if _own(path)]
    for path in found:
        if path.is_file():
            path.unlink()


def forget(folder: Path) -> None:
    """Delete the chains that a run has saved to go on from."""
    for path in folder.glob(f"{CHECKPOINTS}/patch*"):
        shutil.rmtree(path, ignore_errors=True)
    with contextlib.suppress(OSError):
        (folder / CHECKPOINTS).rmdir()


def _fits(folder: Path) -> list[Path]:
    """FITS files where a run writes its own."""
    found = (folder / CATALOG, *sorted(folder.glob("images/*.fits")))
    return [p for p in (*found, *sorted(folder.glob("forcepho/*.fits"))) if p.is_file()]


def _own(path: Path) -> bool:
    from jaxpho.data.fitsread import is_product  # heavy: --help does without

    return is_product(path)
