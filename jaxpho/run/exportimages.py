"""The part of `jaxpho export` that makes images: whole exposures, mosaics, cutouts, ArviZ files."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from jaxpho.errors import InputError

log = logging.getLogger("jaxpho.export")


def write_images(job) -> None:
    """DATA, MODEL, RESIDUAL, CHI and PATCH of every exposure that a patch has pixels of."""
    from jaxpho.files import file_names
    from jaxpho.output.fullimages import assemble
    from jaxpho.output.images import write_images
    from jaxpho.output.patchmap import index_exposures, own_positions

    found = job.run
    if not found.residuals:
        raise InputError(
            f"{found.folder}: no file of pixels, patches/patch<i>_residuals.h5 (was "
            "products.residuals false?): images cannot be put together"
        )
    parts = index_exposures(found, job.bar("pixels"))
    positions = own_positions(found)
    exposures = _exposures(found, sorted(parts))
    names = file_names(f"{e.band}_{e.name}" for e in exposures)
    count = 0
    for exposure in job.bar("images")(exposures):
        own = parts.get((exposure.band, exposure.name), [])
        images = assemble(exposure, own, found, positions) if own else None
        if images is None:
            continue
        name = f"{names[f'{exposure.band}_{exposure.name}']}.fits"
        write_images(job.folder / "images" / name, exposure, images)
        count += 1
    log.info("wrote %d images", count)
    job.written["images/"] = (
        f"DATA, MODEL, RESIDUAL, CHI (residual over sigma) and PATCH (its number) of {count} "
        "exposures, at their own pixels"
    )


def _exposures(found, known: list[tuple[str, str]]) -> list:
    """The input exposures, or, where they are gone, what the run's own images tell of them."""
    from jaxpho.config import load_config
    from jaxpho.data.ingest import read_images
    from jaxpho.output.fullimages import kept_exposures
    from jaxpho.output.noise import read_inflation

    path = found.folder / "config.yml"
    try:
        config = load_config(path)
        exposures = read_images(
            config.images, config.root, config.bands, unit=config.unit, require_psf=False,
            precision=config.precision,
        ).exposures  # fmt: skip
    except InputError as error:
        exposures, reason = [], str(error)
    else:
        reason = f"{path} does not name them"
        noise = found.folder / "noise.ecsv"
        factor = found.attempt(noise, read_inflation) if noise.is_file() else None
        for exposure in exposures if factor else ():
            exposure.inflation = factor.get(exposure.name, 1.0)
    have = {(e.band, e.name) for e in exposures}
    exposures = [e for e in exposures if (e.band, e.name) in set(known)]
    missing = [key for key in known if key not in have]
    if not missing:
        return exposures
    kept = kept_exposures(found.folder / "images", missing)
    lost = [f"{b}/{n}" for b, n in missing if (b, n) not in {(e.band, e.name) for e in kept}]
    if lost and not exposures and not kept:
        raise InputError(
            f"the input images cannot be read ({reason}), and {found.folder / 'images'} has none "
            "that would tell WCS and size: images cannot be put together"
        )
    if kept:
        log.warning("%d input images cannot be read (%s): WCS and size are those of the run's "
                    "images, pixels those of the patches", len(kept), reason)  # fmt: skip
    if lost:
        log.warning("left out: %s (%s)", ", ".join(lost), reason)
        found.bad.update({Path(name): reason for name in lost})
    return exposures + kept


def image_files(job):
    """The images of this export, or those of an earlier one in the same folder."""
    from jaxpho.output.cutouts import ImageFiles

    if job.images is None:
        job.images = ImageFiles(sorted((job.folder / "images").glob("*.fits")))
    return job.images


def write_mosaics(job) -> None:
    """One mosaic for each band."""
    from jaxpho.files import safe_name
    from jaxpho.output.mosaic import make_mosaic, write_mosaic

    images = image_files(job)
    bands = list(dict.fromkeys(band for band, _ in images.names))
    for band in bands:
        chosen = [i for i, (b, _) in enumerate(images.names) if b == band]
        layers, wcs = make_mosaic(images, chosen, job.args.scale, job.bar(f"mosaic {band}"))
        path = job.folder / "mosaics" / f"{safe_name(band)}.fits"
        write_mosaic(path, layers, wcs, band, images.units[chosen[0]])
    job.written["mosaics/"] = (
        f"DATA, MODEL, RESIDUAL (flux per pixel, mean of exposures, North up) and COVERAGE of "
        f"{len(bands)} bands"
    )


def write_cutouts(job) -> None:
    """One file for each source, or each of those that are named."""
    from jaxpho.output.cutouts import cutout_paths, cutout_sizes, write_cutout

    images, table = image_files(job), job.sources
    ids = [str(name) for name in table["id"]]
    paths = cutout_paths(job.folder / "cutouts", ids)
    sizes = cutout_sizes(table) if job.args.size is None else np.full(len(ids), job.args.size)
    wanted = set(ids) if job.args.ids is None else set(job.args.ids.split(","))
    unknown = sorted(wanted - set(ids))
    if unknown:
        raise InputError(f"--ids: no source '{unknown[0]}' among the {len(ids)} of the catalogue")
    count = 0
    for i in job.bar("cutouts")([i for i, name in enumerate(ids) if name in wanted]):
        place = float(table["ra"][i]), float(table["dec"][i])
        count += write_cutout(paths[i], images, ids[i], *place, float(sizes[i])) > 0
    job.written["cutouts/"] = (
        f"DATA, MODEL, RESIDUAL and CHI of {count} sources, numbered by exposure (EXTVER)"
    )


def write_arviz(job) -> None:
    """The draws of each patch as InferenceData."""
    from jaxpho.output.inference import write_inference_data

    count = 0
    for path, result in job.bar("ArviZ", len(job.run.samples))(job.run.results()):
        if result.samples is None:
            continue
        name = path.name.replace("_samples.h5", "_posterior.nc")
        target = job.folder / "arviz" / name
        job.run.attempt(path, lambda _, t=target, r=result: write_inference_data(t, r))
        count += 1
    if count:
        job.written["arviz/"] = f"draws of {count} patches as ArviZ InferenceData (NetCDF)"
    else:
        log.warning("no patch has draws (sample.method: none): no ArviZ files")
