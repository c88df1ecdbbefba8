"""forcepho's configuration in the words of ours, so that its files can be fitted as they are."""

from __future__ import annotations

import logging
from pathlib import Path

from jaxpho.compat.config import ForcephoConfig
from jaxpho.errors import InputError

log = logging.getLogger("jaxpho.compat")

SERSIC_LIMITS = (0.3, 8.0)
"""Where the Sersic mixtures end."""

OUTPUT, SCENE = "output", "outscene.fits"
"""forcepho's defaults of `outbase` and `scene_catalog`."""


def scene_name(config: ForcephoConfig) -> str:
    """File name of the fitted catalogue; forcepho puts it into `outbase`."""
    name = Path(config.scene_catalog or SCENE).name
    return name if name.endswith(".fits") else f"{name}.fits"


def our_values(config: ForcephoConfig) -> dict:
    """The values of a `jaxpho.config.Config` that ask for the same fit.

    Fluxes keep the unit of the images; the model is ours (free-radius Sersic mixtures, each
    source's own PSF, exact pixels). Bounds of position, rhalf, Sersic index and axis ratio are
    kept; fluxes and position angles are not bounded.
    """
    psf = {"store": config.psfstorefile}
    if config.fitsfiles is not None:
        images = {"files": config.fitsfiles, "science": 0, "error": 1, "unit": "image"}
    else:
        images = {"meta": config.metastorefile, "pixels": config.pixelstorefile}
    if config.tweak_background:
        images["sky"] = {"subtract": "value", "value": config.tweak_background}
    entries = [images | {"psf": psf}]
    if config.background and config.fitsfiles is None:
        levels = {band: config.background.get(band, 0.0) for band in config.bandlist}
        entries = [
            entries[0] | {"band": band, "sky": {"subtract": "value", "value": level}}
            for band, level in levels.items()
        ]
    elif config.background:
        raise InputError(
            "tweak_background: levels by band are for stores; with fitsfiles give the name of a "
            "header card"
        )
    bounds = config.bounds_kwargs
    reach = min(bounds.dpos) if bounds.dpos else bounds.n_pix * bounds.pixscale
    low, high = bounds.sersic_range
    priors = {
        "position": {"name": "uniform", "low": -reach, "high": reach},
        "rhalf": {"name": "uniform", "low": bounds.rhalf_range[0], "high": bounds.rhalf_range[1]},
        "sersic": {
            "name": "uniform",
            "low": max(low, SERSIC_LIMITS[0]),
            "high": min(high, SERSIC_LIMITS[1]),
        },
    }
    values = {
        "output": config.outbase or OUTPUT,
        "bands": config.bandlist,
        "images": entries,
        "peaks": {"file": config.raw_catalog, "format": "forcepho", "flux_unit": "image"},
        "fit": {"priors": priors, "q_min": min(max(bounds.sqrtq_range[0] ** 2, 1e-3), 0.99)},
        "sample": {
            "num_samples": max(config.sampling_draws // 4, 10),
            "num_warmup": max(sum(config.warmup), 10),
            "max_tree_depth": min(config.max_treedepth, 12),
        },
        "patches": {
            "max_active": config.maxactive_per_patch,
            "min_radius": config.patch_minradius,
            "max_radius": max(config.patch_maxradius, config.patch_minradius),
        },
        "products": {
            "forcepho": True,
            "residuals": config.write_residuals,
            "forcepho_scene": scene_name(config),
        },
        "unit": "auto" if config.fitsfiles is None else "image",
        "seed": config.seed,
    }
    log.info("a configuration of forcepho: its stores and bounds, fitted with jaxpho's own model")
    return values
