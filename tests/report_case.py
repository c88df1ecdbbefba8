"""A report of a made-up run whose names try to become HTML."""

import warnings

import numpy as np
from astropy.table import Table
from export_case import write_run
from synthetic_result import VALUES

from jaxpho.cli import main
from jaxpho.output.catalog import make_table, rows_of_patch, write_catalog
from jaxpho.output.residuals import write_residuals
from jaxpho.output.samples import write_samples

EVIL = "<script>alert(1)</script>"
EVIL_MESSAGE = "</script><img src=x onerror=alert(2)> & 'more' \u2028"
EVIL_LOG = 'a file <b>bold</b> & "quoted"'


def write_report(folder, options=()):
    """Make a run and its report; returns (run directory, the fit)."""
    run, result = write_run(folder)
    result.source_ids[1] = EVIL
    result.messages.append(EVIL_MESSAGE)
    result.npix = np.array([len(result.pixels[e]["x"]) for e in result.exposures])
    cosine = np.cos(np.deg2rad(result.reference[1]))
    write_samples(run / "patches" / "patch3_samples.h5", result)
    for entry in result.astrometry.values():
        # sources where the sky says, on square pixels
        entry["CW"] = 3600 * entry["D"] @ np.diag([cosine, 1.0])
    write_residuals(run / "patches" / "patch3_residuals.h5", result)
    table = make_table(rows_of_patch(result), result.bands, "nJy", {"CREATOR": "jaxpho 1"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_catalog(run / "catalog.fits", table)
    (run / "run.log").write_text(
        "2026-01-02 03:04:05,678 INFO jaxpho.cli: jaxpho 1.2, configuration c.yml\n"
        f"2026-01-02 03:04:35,678 WARNING jaxpho.run: {EVIL_LOG}\n"
    )
    truth = Table({"id": ["101"], "flux_g": [VALUES["flux"]], "rhalf": [1.3]})
    truth.write(folder / "truth.ecsv")
    command = ["report", str(run), "-q", "--truth", str(folder / "truth.ecsv"), *options]
    assert main(command) == 0
    return run, result
