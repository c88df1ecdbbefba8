"""Products of the whole field, put together from the files of its patches when a run ends."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxpho.compat.archive import FOLDER, Archive
from jaxpho.compat.results import Membership
from jaxpho.config import Config
from jaxpho.errors import InputError
from jaxpho.fit.result import PatchResult
from jaxpho.output.images import ImageAssembler
from jaxpho.output.residuals import read_residuals
from jaxpho.output.samples import read_samples
from jaxpho.run.field import Field
from jaxpho.run.folder import PATCHES
from jaxpho.schema import to_plain
from jaxpho.superscene.policy import OPTIMUM, Patch
from jaxpho.superscene.worker import first_line

log = logging.getLogger("jaxpho.run")


def write_images(config: Config, found: Field, patches: Sequence[Patch]) -> bool:
    """Model and residual images of what has been fitted; whether that went well."""
    folder = Path(config.output)
    images, good = ImageAssembler(found.exposures), True
    for patch in patches:
        residuals = folder / PATCHES / f"patch{patch.name}_residuals.h5"
        if not residuals.exists():
            continue
        try:
            result = read_samples(folder / PATCHES / f"patch{patch.name}_samples.h5")
            for exposures in read_residuals(residuals).values():
                for name, a in exposures.items():
                    model = a["data"] - a["residual"]
                    result.pixels[name] = {"x": a["xpix"], "y": a["ypix"], "model": model}
            images.add(result)
        except Exception as error:
            good = _told("patch " + patch.name, error)
    try:
        paths = images.write(folder / "images")
        log.info("wrote %d model and residual images", len(paths))
    except Exception as error:
        good = _told("model and residual images", error)
    return good


def write_archive(config: Config, found: Field, patches: Sequence[Patch]) -> bool:
    """Everything in forcepho's layout; whether that went well."""
    options, folder = config.products, Path(config.output)
    archive = Archive(
        folder / FOLDER, found.peaks, config.bands, options.forcepho_scene, to_plain(config),
        options.warmup,
    )  # fmt: skip
    number = {str(peak.id): i for i, peak in enumerate(found.peaks)}
    good = True
    for patch in patches:
        if patch.iterations == OPTIMUM:
            continue
        try:
            result = read_samples(folder / PATCHES / f"patch{patch.name}_samples.h5")
            residuals = folder / PATCHES / f"patch{patch.name}_residuals.h5"
            kept = residuals if options.residuals and residuals.exists() else None
            index = [number[str(name)] for name in result.source_ids]
            membership = Membership(index, found.radius[index].tolist(), len(patch.active))
            archive.add(result, membership, patch_radius(result, membership), kept, patch.name)
        except InputError as error:
            log.warning("patch %s is not in %s: %s", patch.name, archive.folder, error)
        except Exception as error:
            good = _told("patch " + patch.name, error)
    try:
        archive.write_scene()
    except (OSError, InputError) as error:
        good = _told(str(archive.folder), error)
    return good


def patch_radius(result: PatchResult, membership: Membership) -> float:
    """Radius [arcsec] about the reference that holds the active sources with their influence."""
    radius = 0.0
    for s in range(membership.n_active):
        offset = []
        for name in ("ra", "dec"):
            column = result.index(s, name)
            held = result.fixed.get((s, name, ""), 0.0)
            offset.append(held if column is None else float(result.theta[column]))
        radius = max(radius, float(np.hypot(*offset)) + membership.roi[s])
    return radius


def drop_files(config: Config) -> None:
    """Delete the files of patches that served the run alone."""
    unwanted = []
    if not config.products.samples:
        unwanted.append("patch*_samples.h5")
    if not config.products.residuals:
        unwanted.append("patch*_residuals.h5")
    for pattern in unwanted:
        for path in (Path(config.output) / PATCHES).glob(pattern):
            path.unlink(missing_ok=True)


def _told(what: str, error: BaseException) -> bool:
    log.error("%s not written (%s)", what, first_line(error))
    log.debug("traceback of %s", what, exc_info=error)
    return False
