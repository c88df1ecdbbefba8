"""What `jaxpho preprocess` is to do: one job per exposure, with a checksum of all it depends on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path

from jaxpho.data.commonscale import scale_to_first
from jaxpho.data.gwcsfile import has_gwcs
from jaxpho.data.ingest import own_unit
from jaxpho.data.metastore import check_ids
from jaxpho.data.options import AstrometryOptions
from jaxpho.data.plan import ImagePlan, as_selector, locate, plan_images
from jaxpho.data.storeoptions import FIT_ONLY, PreprocessConfig
from jaxpho.data.tables import fill_template, find_file
from jaxpho.data.units import calibration
from jaxpho.errors import InputError
from jaxpho.schema import to_plain

log = logging.getLogger("jaxpho.preprocess")

RECIPE = 1
"""Part of every checksum: to be raised when the same input would be stored as something else."""

_NO_MATTER = ("files", "meta", "pixels", "survey_dir", "table", "name", "band", "preset",
              "on_bad_exposure", "check_filter", *FIT_ONLY)  # fmt: skip
"""Keys that do not change the pixels: the files themselves and the table's row are listed."""


@dataclass
class StoreJob:
    """One exposure to be stored.

    Attributes
    ----------
    plan : ImagePlan
        The image, without PSF and nuisances.
    band : in the stores.
    unit : "nJy", "image" or "auto".
    cards : header cards to keep.
    sky_statistics : whether to keep statistics of the blank pixels.
    digest : checksum of input files, table row and options.
    """

    plan: ImagePlan
    band: str
    unit: str
    cards: str
    sky_statistics: bool = True
    digest: str = ""

    @property
    def id(self) -> str:
        """Exposure id."""
        return self.plan.name

    @property
    def key(self) -> tuple[str, str]:
        """(band, exposure id)."""
        return self.band, self.id

    @property
    def label(self) -> str:
        """Names the exposure in messages."""
        return f"{self.band}/{self.id}"


@dataclass
class Failure:
    """An exposure that is not stored, and why."""

    band: str
    id: str
    path: Path
    reason: str


def plan_jobs(config: PreprocessConfig) -> tuple[list[StoreJob], list[Failure]]:
    """Find the exposures of a configuration.

    Returns
    -------
    jobs : in the order of the stores.
    failures : files that cannot be opened.

    Raises
    ------
    InputError
        As `plan_images`; for band names and exposure ids that stores cannot have, and exposures
        of one band in different units.
    """
    _tell_unused(config)
    plans = plan_images(config.images, config.root or ".", config.bands, find_psf=False)
    scale_to_first(plans, config.unit)
    jobs, failures = [], []
    for plan in plans:
        if plan.problem:
            failures.append(Failure(plan.band, plan.name, plan.path, plan.problem))
            continue
        plan.options = _pixels_only(plan.options)
        band = _band_name(config, plan)
        job = StoreJob(plan, band, config.unit, config.cards, config.sky_statistics)
        job.digest = digest(job)
        jobs.append(job)
    order = {band: i for i, band in enumerate(config.bands)}
    # those of one filter by detector, otherwise as they were
    jobs.sort(key=lambda job: (order[job.plan.band], job.band))
    for band in dict.fromkeys(job.band for job in jobs):
        check_ids([job.id for job in jobs if job.band == band], f"images, band {band}")
    _check_units(jobs)
    return jobs, failures


def _tell_unused(config: PreprocessConfig) -> None:
    used = [name for name in FIT_ONLY if any(_given(entry, name) for entry in config.images)]
    if any(entry.sky.nuisance != "none" for entry in config.images):
        used.append("sky.nuisance")
    if used:
        log.info("%s of the images: for the fit, not part of the stores", ", ".join(used))


def _given(entry, name: str) -> bool:
    return getattr(entry, name) not in (None, 0.0, AstrometryOptions())


def _pixels_only(options):
    """The options that pixels depend on; what a fit leaves free is set to nothing."""
    sky = replace(options.sky, nuisance="none", sigma="blank", slope_sigma=None)
    return replace(options, sky=sky, psf=None, astrometry=AstrometryOptions(), flux_scale_sigma=0.0)


def _band_name(config: PreprocessConfig, plan: ImagePlan) -> str:
    template = config.band_name
    if isinstance(template, dict):
        template = template.get(plan.band, "{band}")
    name = fill_template(template, plan.fields, f"{plan.where}: band_name").strip()
    if not name or "/" in name or not name.isascii() or not name.isprintable() or len(name) > 60:
        raise InputError(
            f"{plan.where}: band_name gives {name!r}, expected up to 60 plain characters without "
            "'/'"
        )
    return name


def _check_units(jobs: list[StoreJob]) -> None:
    seen: dict[str, tuple] = {}
    for job in jobs:
        unit = planned_unit(job)
        if unit is None or (job.unit == "nJy" and unit != "nJy"):
            continue  # reading it will say what is wrong
        first, other = seen.setdefault(job.band, (job, unit))
        if other != unit:
            raise InputError(
                f"exposures of band {job.band} mix units: {first.id} is in {other}, {job.id} in "
                f"{unit}; give zero points or `unit` per entry, or set unit: image"
            )


def planned_unit(job: StoreJob) -> str | None:
    """The unit that the exposure will have; None when only reading it can tell."""
    header, options = job.plan.fields["header"], job.plan.options
    if job.unit == "image":
        return own_unit(options, header)
    with contextlib.suppress(InputError):
        return calibration(header, options, job.plan.row, 1.0, job.plan.where)[1]
    return None


def inputs_of(plan: ImagePlan) -> list[Path]:
    """Files that an exposure is made from, its table apart."""
    paths = [plan.path]
    for kind in ("error", "weight", "variance", "mask"):
        selector = as_selector(getattr(plan.options, kind), ("estimate",))
        if selector is not None:
            paths.append(locate(plan, selector, f"{plan.where}: {kind}")[0])
    sky = plan.options.sky
    if sky.file is not None and sky.subtract in (None, "file"):
        with contextlib.suppress(InputError):  # reading the exposure will say it
            paths.append(find_file(sky.file, plan.fields, plan.base, f"{plan.where}: sky.file"))
    return list(dict.fromkeys(path for path in paths if path is not None))


def digest(job: StoreJob) -> str:
    """Checksum of input files (name, size, time of change), table row and options."""
    plan = job.plan
    files = []
    for path in inputs_of(plan):
        status = path.stat()
        files.append([os.path.relpath(path, plan.base), status.st_size, status.st_mtime_ns])
    options = {k: v for k, v in to_plain(plan.options).items() if k not in _NO_MATTER}
    # with gwcs installed, an image that has one is read otherwise
    gwcs = plan.options.wcs.gwcs and "ASDF" in plan.extensions and has_gwcs()
    values = [
        RECIPE,
        job.band,
        job.id,
        job.unit,
        job.cards,
        job.sky_statistics,
        files,
        options,
        plan.row,
        gwcs,
    ]
    if plan.scale != 1.0:
        values.append(plan.scale)
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:40]
