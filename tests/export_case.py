"""A run directory of a made-up fit with draws, with the input images it would have come from."""

import numpy as np
import yaml
from astropy.io import fits
from synthetic_result import EXPOSURES, REFERENCE, SKY_SIGMA, make_result, make_wcses

from jaxpho.output.catalog import make_table, rows_of_patch, write_catalog
from jaxpho.output.noise import write_noise
from jaxpho.output.residuals import write_residuals
from jaxpho.output.samples import write_samples

NAMES = [f"{band}{i}" for i, (_, band, _, _) in enumerate(EXPOSURES)]


def run_result(seed=5, draws=60):
    """The result with the names that reading the images gives the exposures."""
    result = make_result(np.random.default_rng(seed), draws=draws)
    old = list(result.exposures)
    result.exposures = NAMES
    for kind in ("pixels", "astrometry"):
        found = getattr(result, kind)
        setattr(result, kind, {new: found[o] for new, o in zip(NAMES, old, strict=True)})
    return result


def write_run(folder, draws=60):
    """Write images and run; returns the run directory and the fit."""
    result = run_result(draws=draws)
    for name, wcs in zip(NAMES, make_wcses().values(), strict=True):
        pixels = result.pixels[name]
        shape = pixels["y"].max() + 1, pixels["x"].max() + 1
        good = pixels["ierr"] > 0
        header = wcs.to_header()
        header["BUNIT"] = "nJy"
        hdus = [fits.PrimaryHDU(), fits.ImageHDU(pixels["data"].reshape(shape), header, "SCI")]
        hdus.append(fits.ImageHDU(np.full(shape, SKY_SIGMA, "f4"), header, "ERR"))
        hdus.append(fits.ImageHDU((~good).reshape(shape).astype("i4"), header, "DQ"))
        fits.HDUList(hdus).writeto(folder / f"{name}.fits")
    run = folder / "run"
    write_samples(run / "patches" / "patch3_samples.h5", result)
    write_residuals(run / "patches" / "patch3_residuals.h5", result)
    table = make_table(rows_of_patch(result), result.bands, "nJy", {"CREATOR": "jaxpho 1"})
    write_catalog(run / "catalog.fits", table)
    write_noise(run / "noise.ecsv", [])
    files = {band: str(folder / f"{band}[0-9].fits") for band in "gr"}
    entry = {"science": "SCI", "error": "ERR", "mask": "DQ", "psf": None}
    config = {
        "output": str(run), "root": str(folder), "bands": ["g", "r"],
        "images": [{"band": b, "files": files[b], **entry} for b in files],
        "peaks": {"positions": [list(REFERENCE)]},
    }  # fmt: skip
    (run / "config.yml").write_text(yaml.safe_dump(config))
    return run, result
