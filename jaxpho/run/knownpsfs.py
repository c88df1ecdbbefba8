"""The PSFs of a run as they were fitted, found again without fitting any."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from jaxpho.data.psfinput import rotate_model
from jaxpho.data.psfmodel import PSFModel
from jaxpho.data.psfstore import list_psf_groups, read_psf_store
from jaxpho.errors import InputError
from jaxpho.prepare import psf_center, read_psf
from jaxpho.report.psfdata import ReportPSF

log = logging.getLogger("jaxpho.report")


def known_psfs(exposures, peaks, cache) -> list[ReportPSF]:
    """The PSFs that a run gave its exposures, with the images that they were fitted to.

    Exposures whose PSF file is gone, or whose mixture is not in the cache, are left out.

    Parameters
    ----------
    exposures, peaks, cache : as of `jaxpho.prepare.prepare_psfs`; nothing is changed.
    """
    cache = Path(cache)
    groups = set(list_psf_groups(cache)) if cache.is_file() else set()
    out: dict = {}
    for exposure in exposures:
        try:
            key, known = _known(exposure, peaks, cache, groups)
        except (InputError, OSError) as error:
            log.warning("PSF of exposure %s left out: %s", exposure.name, error)
            continue
        if known is not None:
            out.setdefault(key, known).exposures.append(exposure.name)
    return list(out.values())


def _known(exposure, peaks, cache: Path, groups):
    """A key for the PSF of an exposure, and the PSF, or None."""
    psf = exposure.psf
    if psf is None:
        return None, None
    if isinstance(psf, PSFModel):
        return id(psf), ReportPSF(str(psf.attrs.get("source", "")), psf)
    found = read_psf(exposure, peaks)
    if isinstance(found, PSFModel):
        # a store is read anew for each exposure
        key = str(psf.path), exposure.band, found.parameters.tobytes()
        return key, ReportPSF(psf.path.name, found)
    if found.group not in groups:
        log.warning("PSF of exposure %s left out: %s has no mixture of it", exposure.name, cache)
        return None, None
    options = found.options
    model = rotate_model(read_psf_store(cache, found.group), options.rotate)
    known = ReportPSF(found.label, model, oversample=found.oversample)
    if not options.rotate:
        known.image = np.array(found.images[0], float)
        known.center = psf_center(known.image, options.center, options.trim)
    return (found.group, options.rotate), known
