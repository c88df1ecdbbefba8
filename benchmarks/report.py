"""How long a report of many sources takes, and how large it is: `report.py [SOURCES] [FOLDER]`.

Makes the run directory of a fit that never was: patches of four galaxies in three bands, with
pixels and draws. Then `jaxpho report` runs on it as a user would run it.
"""

import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from jaxpho.fit.result import PatchResult
from jaxpho.output.catalog import make_table, rows_of_patch, write_catalog
from jaxpho.output.residuals import write_residuals
from jaxpho.output.samples import write_samples

BANDS = ("g", "r", "z")
PER_PATCH = 4
SIDE = 64  # pixels
SCALE = 0.2  # arcsec
CHAINS, DRAWS = 4, 150
NAMES = (*(("flux", b) for b in BANDS), ("ra", ""), ("dec", ""), ("rhalf", ""), ("sersic", ""),
         ("e1", ""), ("e2", ""))  # fmt: skip
VALUES = (300.0, 500.0, 900.0, 0.0, 0.0, 0.6, 1.5, 0.1, -0.1)
ERRORS = (5.0, 6.0, 9.0, 0.01, 0.01, 0.02, 0.2, 0.02, 0.02)
PLACES = ((-2.5, -2.5), (2.5, -2.2), (-2.2, 2.8), (2.6, 2.4))


def template(rng):
    """The fit of one patch."""
    labels = [(s, name, band) for s in range(PER_PATCH) for name, band in NAMES]
    theta = np.array(VALUES * PER_PATCH)
    sigma = np.array(ERRORS * PER_PATCH)
    for s, place in enumerate(PLACES):
        theta[9 * s + 3 : 9 * s + 5] = place
    y, x = (a.ravel() for a in np.indices((SIDE, SIDE)))
    d = np.diag([-1 / SCALE, 1 / SCALE])
    middle = (SIDE - 1) / 2
    pixels, astrometry = {}, {}
    for band, flux in zip(BANDS, VALUES, strict=False):
        model = np.zeros(len(x))
        for place in PLACES:
            x0, y0 = middle + d @ place
            blob = np.exp(-np.hypot(x - x0, y - y0) / 2.5)
            model += flux * blob / blob.sum()
        data = model + rng.normal(0, 1, len(x))
        ones = np.ones(len(x), np.float32)
        pixels[band] = {"x": x, "y": y, "data": data, "ierr": ones, "model": model}
        astrometry[band] = {
            "D": np.tile(d, (PER_PATCH, 1, 1)), "CW": np.tile(3600 * d, (PER_PATCH, 1, 1)),
            "crpix": np.full((PER_PATCH, 2), middle), "crval": np.zeros((PER_PATCH, 2)),
        }  # fmt: skip
    npix = np.full(len(BANDS), SIDE**2)
    return PatchResult(
        patch_id=0, source_ids=list("abcd"), types=["sersic"] * PER_PATCH, bands=list(BANDS),
        unit="nJy", reference=(150.0, 0.0), labels=labels, theta=theta,
        covariance=np.diag(sigma**2),
        samples=rng.normal(theta, sigma, (CHAINS, DRAWS, len(theta))), astrometry=astrometry,
        chi2=npix * 1.0, npix=npix, exposures=list(BANDS), exposure_bands=list(BANDS),
        pixels=pixels, seconds={"map": 1.0, "sample": 5.0},
    )  # fmt: skip


def write_run(folder, sources, seed=1):
    """The run directory of so many sources."""
    rng = np.random.default_rng(seed)
    number = -(-sources // PER_PATCH)
    across = int(np.ceil(np.sqrt(number)))
    base, rows = template(rng), []
    for p in range(number):
        i, j = divmod(p, across)
        shift = rng.normal(0, 1, len(base.theta)) * np.sqrt(np.diag(base.covariance)) * 3
        result = replace(
            base, patch_id=p, reference=(150.0 + 12 * j / 3600, 12 * i / 3600),
            source_ids=[str(PER_PATCH * p + s) for s in range(PER_PATCH)],
            theta=base.theta + shift, samples=base.samples + shift,
        )  # fmt: skip
        for pixels in result.pixels.values():
            # noise of its own, so that nothing compresses better than real data would
            pixels["data"] = pixels["model"] + rng.normal(0, 1, SIDE**2)
        made = rows_of_patch(replace(result, samples=None))
        for row in made:
            row["patch"] = p
        rows += made
        write_samples(folder / "patches" / f"patch{p}_samples.h5", result)
        write_residuals(folder / "patches" / f"patch{p}_residuals.h5", result)
    write_catalog(folder / "catalog.fits", make_table(rows, BANDS, "nJy", {"CREATOR": "made up"}))


def main(sources=10_000, folder=None):
    """Make the run, report on it, print the figures."""
    with tempfile.TemporaryDirectory() as temporary:
        run = Path(folder or temporary) / "run"
        if not run.is_dir():
            write_run(run, sources)
        command = [sys.executable, "-m", "jaxpho", "report", str(run), "--overwrite", "-q"]
        began = time.monotonic()
        subprocess.run(command, check=True)
        wall = time.monotonic() - began
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        files = [p for p in (run / "report").rglob("*") if p.is_file()]
        size = sum(p.stat().st_size for p in files) / 1e6
        seconds = used.ru_utime + used.ru_stime
        print(f"{sources} sources: {wall:.1f} s ({seconds:.1f} s of a core), {size:.0f} MB in "
              f"{len(files)} files, {used.ru_maxrss / 1e3:.0f} MB of memory")  # fmt: skip


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]), *sys.argv[2:3])
