"""Writes the report: patch after patch, then the pages, in a folder that appears when complete."""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

import numpy as np
from astropy.table import Table

from jaxpho.errors import InputError
from jaxpho.output.profiles import attach_pixels
from jaxpho.output.runfiles import RunFiles, number_of
from jaxpho.report.catalogdata import catalog_data, truth_data
from jaxpho.report.html import PAGES, page
from jaxpho.report.indexpage import index_body
from jaxpho.report.jsdata import script
from jaxpho.report.patchdata import PatchPages, patch_pages, shown_exposures
from jaxpho.report.pixels import bin_factor
from jaxpho.report.psfdata import ReportPSF, psf_facts, psf_picture
from jaxpho.report.summary import LogFacts, read_log, read_noise_table
from jaxpho.report.thumbnails import PER_FILE, png, sheet

log = logging.getLogger("jaxpho.report")

MARK = "jaxpho-report.txt"
"""A file that says that a folder is a report, which may be replaced."""
SHARE = {"pixels": 0.6, "draws": 0.2}
"""Of the largest size that these may take."""
MOST_DRAWS, FEWEST_DRAWS = 1000, 100
BYTES_OF_DRAW = 2.7


@dataclass
class ReportInputs:
    """What a report is made of besides the files of patches.

    Attributes
    ----------
    run : RunFiles
    table : catalogue, one row per source.
    psfs : of the run, as far as they are known.
    config : text of the configuration, or "".
    facts : (name, value) further lines for the summary.
    truth : table with id and true values, or None.
    version : of the program that writes the report.
    notes : sentences for the top of the summary.
    """

    run: RunFiles
    table: Table
    psfs: list[ReportPSF] = field(default_factory=list)
    config: str = ""
    facts: list[tuple[str, str]] = field(default_factory=list)
    truth: Table | None = None
    version: str = ""
    notes: list[str] = field(default_factory=list)


@dataclass
class Findings:
    """What the summary shows; see `jaxpho.report.indexpage`."""

    name: str
    table: Table
    bands: list[str]
    unit: str
    errors_from: str
    log: LogFacts
    noise: Table | None
    config: str
    facts: list
    version: str
    creator: str
    notes: list[str]
    psf_of: dict[str, int] = field(default_factory=dict)
    fwhm: list[float] = field(default_factory=list)
    patches: list[dict] = field(default_factory=list)
    outlines: list = field(default_factory=list)
    chi2: dict[str, tuple[float, int]] = field(default_factory=dict)
    band_of: dict[str, str] = field(default_factory=dict)
    stages: dict[str, float] = field(default_factory=dict)
    bad: list[str] = field(default_factory=list)


def write_report(
    folder, inputs: ReportInputs, per_band: int = 2, size: float = 200e6, progress=iter
) -> dict:
    """Write a report; the folder is replaced in one step when all of it is there.

    Parameters
    ----------
    folder : path.
    inputs : ReportInputs
    per_band : exposures of each patch shown per band.
    size : largest size, bytes: pixels are binned and draws thinned to stay below.
    progress : wraps the iterable of patches.

    Returns
    -------
    dict
        files, bytes, bin, draws: what was written, and how coarsely.

    Raises
    ------
    InputError
        When the folder is something other than a report.
    """
    folder = Path(folder)
    check_folder(folder, overwrite=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.with_name(f".{folder.name}.part{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    try:
        made = _write(part, folder, inputs, per_band, size, progress)
        _replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return made


def check_folder(folder: Path, overwrite: bool) -> None:
    """Raise InputError unless a report may be written there."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(f"{folder}: this is a file, expected a folder")
    if not any(folder.iterdir()):
        return
    if not (folder / MARK).is_file():
        raise InputError(f"{folder}: the folder has files that are no report; give another one")
    if not overwrite:
        raise InputError(f"{folder} has a report already; --overwrite replaces it")


def _replace(part: Path, folder: Path) -> None:
    old = folder.with_name(f".{folder.name}.old{os.getpid()}")
    if folder.exists():
        os.replace(folder, old)
    os.replace(part, folder)
    shutil.rmtree(old, ignore_errors=True)


def _write(part: Path, folder: Path, inputs, per_band, size, progress) -> dict:
    run, table = inputs.run, inputs.table
    for name in ("assets", "data/patch", "data/pixels", "data/draws", "data/psf", "thumbs"):
        (part / name).mkdir(parents=True)
    for source in files("jaxpho.report").joinpath("assets").iterdir():
        if source.name.endswith((".js", ".css")):
            (part / "assets" / source.name).write_bytes(source.read_bytes())
    bin, draws = plan(run, table, per_band, size)
    if bin > 1:
        inputs.notes.append(
            f"Pixels are shown in squares of {bin} x {bin}, so that the report stays below "
            f"{size / 1e6:.0f} MB; --size allows more."
        )
    found = _findings(folder, inputs)
    row_of = {str(name): i for i, name in enumerate(table["id"])}
    thumbs: dict[int, np.ndarray] = {}
    numbers = _numbers(run.samples)
    for name in progress(list(run.samples)):
        pages = _one(run, name, numbers[name], row_of, per_band, bin, draws, found)
        if pages is None:
            continue
        _keep(part, pages, found)
        thumbs.update(pages.thumbs)
        if name != str(numbers[name]) and "patch" in table.colnames:
            table["patch"][pages.rows] = numbers[name]
            inputs.notes.append(
                f"Patch {name}, a part of one that was cut in two, has number {numbers[name]}."
            )
    facts = psf_facts(inputs.psfs)
    found.psf_of, found.fwhm = facts["of"], [p["fwhm"] for p in facts["psfs"]]
    found.bad = [f"{path}: {why}" for path, why in run.bad.items()]
    _write_thumbs(part, thumbs)
    _write_data(part, inputs, found, facts, sorted(thumbs))
    for name in PAGES:
        body = index_body(found) if name == "index" else '<div id="page"></div>'
        data = ("run", "catalog") if name != "psf" else ("run", "psf")
        data = (*data, "psf") if name == "source" else data
        (part / f"{name}.html").write_text(page(name, found.name, body, data), encoding="utf-8")
    (part / MARK).write_text(
        f"A report of jaxpho {inputs.version}. Open index.html.\n"
        "`jaxpho report --overwrite` replaces this folder as a whole.\n", encoding="utf-8",
    )  # fmt: skip
    written = [p for p in part.rglob("*") if p.is_file()]
    total = sum(p.stat().st_size for p in written)
    return {"files": len(written), "bytes": total, "bin": bin, "draws": draws}


def plan(run: RunFiles, table: Table, per_band: int, size: float) -> tuple[int, int]:
    """Factor of binning and draws of a source that keep a report within a size, from file sizes."""
    pixels = 0.0
    for path in run.residuals.values():
        # data, residual and error, compressed: about 7 bytes
        pixels += path.stat().st_size / 7.0
    shown = 1.0
    if run.samples:
        first = next(run.results(), None)
        if first is not None and first[1].exposures:
            bands = first[1].exposure_bands
            count = [min(bands.count(b), per_band) for b in dict.fromkeys(bands)]
            shown = sum(count) / len(bands)
    bin = bin_factor(pixels * shown, SHARE["pixels"] * size)
    quantities = len(table) * (6.0 + len(str(table.meta.get("BANDS", "g")).split(",")))
    draws = SHARE["draws"] * size / (BYTES_OF_DRAW * max(quantities, 1.0))
    return bin, int(np.clip(draws, FEWEST_DRAWS, MOST_DRAWS))


def _findings(folder: Path, inputs: ReportInputs) -> Findings:
    run, table = inputs.run, inputs.table
    kinds = (
        sorted({str(k) for k in table["errors_from"]}) if "errors_from" in table.colnames else []
    )
    facts = read_log(run.folder / "run.log")
    return Findings(
        name=run.folder.resolve().name, table=table,
        bands=[b for b in str(table.meta.get("BANDS", "")).split(",") if b],
        unit=str(table.meta.get("FLUXUNIT", "")),
        errors_from=", ".join(k for k in kinds if k), log=facts,
        noise=read_noise_table(run.folder / "noise.ecsv"), config=inputs.config,
        facts=inputs.facts, version=inputs.version,
        creator=facts.creator or str(table.meta.get("CREATOR", "")), notes=inputs.notes,
    )  # fmt: skip


def _numbers(names) -> dict[str, int]:
    """A number of its own for every patch; parts of patches come after the whole ones."""
    whole = [name for name in names if name.isdigit()]
    parts = [name for name in names if not name.isdigit()]
    first = 1 + max((number_of(name) for name in names), default=-1)
    return {name: int(name) for name in whole} | {n: first + i for i, n in enumerate(parts)}


def _one(
    run: RunFiles, name: str, number: int, row_of, per_band, bin, draws, found
) -> PatchPages | None:
    """The pages of a patch; None, logged once, where its file cannot be read."""
    from jaxpho.output.samples import read_samples

    path = run.samples[name]
    result = run.attempt(path, lambda p: read_samples(p, warmup=False))
    if result is None:
        return None
    residuals = run.residuals.get(name)
    if residuals is not None:
        names = shown_exposures(result, per_band)
        run.attempt(residuals, lambda p: attach_pixels(result, p, names))
    own = run.owned(result)
    result.patch_id = number
    for e, name in enumerate(result.exposures):
        found.band_of.setdefault(name, result.exposure_bands[e])
    return run.attempt(path, lambda _: patch_pages(result, own, row_of, bin, draws))


def _keep(part: Path, pages: PatchPages, found: Findings) -> None:
    number = pages.facts["id"]
    for kind, content in (("patch", pages.facts), ("pixels", pages.pixels), ("draws", pages.draws)):
        if content is not None:
            text = script(f"{kind}/{number}", content)
            (part / "data" / kind / f"{number}.js").write_text(text, encoding="utf-8")
    seconds = float(sum(pages.seconds.values()))
    found.patches.append(
        {"id": number, "sources": len(pages.rows), "npix": pages.facts["npix"],
         "chi2": pages.facts["chi2"] or 0.0, "seconds": seconds}
    )  # fmt: skip
    found.outlines.append(
        [number, *(round(float(v), 7) for v in pages.outline[1:]), pages.pixels is not None,
         pages.draws is not None]
    )  # fmt: skip
    for name, (chi2, npix) in pages.chi2.items():
        before = found.chi2.get(name, (0.0, 0))
        found.chi2[name] = before[0] + chi2, before[1] + npix
    for stage, value in pages.seconds.items():
        found.stages[stage] = found.stages.get(stage, 0.0) + float(value)


def _write_thumbs(part: Path, thumbs: dict[int, np.ndarray]) -> None:
    for first in sorted({row // PER_FILE * PER_FILE for row in thumbs}):
        chosen = {r: t for r, t in thumbs.items() if first <= r < first + PER_FILE}
        (part / "thumbs" / f"{first}.png").write_bytes(png(sheet(chosen, first)))


def _write_data(part: Path, inputs: ReportInputs, found: Findings, psfs: dict, thumbed) -> None:
    every = np.zeros(len(inputs.table), int)
    every[list(thumbed)] = 1
    facts = {
        "name": found.name, "bands": found.bands, "unit": found.unit,
        "patches": found.outlines, "psfs": len(inputs.psfs),
        "truth": truth_data(inputs.table, inputs.truth),
    }  # fmt: skip
    catalog = catalog_data(inputs.table) | {"thumbs": "".join(map(str, every))}
    for key, content in (("run", facts), ("catalog", catalog), ("psf", psfs)):
        (part / "data" / f"{key}.js").write_text(script(key, content), encoding="utf-8")
    for k, psf in enumerate(inputs.psfs):
        if psfs["psfs"][k]["picture"]:
            text = script(f"psf/{k}", psf_picture(psf))
            (part / "data" / "psf" / f"{k}.js").write_text(text, encoding="utf-8")
