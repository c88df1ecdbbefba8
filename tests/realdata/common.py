"""Runs of `jaxpho-fit` on the real data sets, and what the tests read off them."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Row, Table
from scipy.special import gammainc, gammaincinv

from jaxpho.fit.result import PatchResult
from jaxpho.output.samples import read_samples

CONFIGS = Path(__file__).parent / "configs"
NMGY = 3631.0  # nJy
TIME_LIMIT = 1800  # seconds; a run takes one or two minutes on an idle core


@dataclass
class Run:
    """Products of one run: catalogue rows by id, the fit of its only patch, the log."""

    folder: Path
    rows: dict[str, Row]
    result: PatchResult
    log: str

    @property
    def chi2(self) -> dict[str, float]:
        """chi2 by exposure."""
        return dict(zip(self.result.exposures, self.result.chi2, strict=True))

    @property
    def chi2_per_pixel(self) -> dict[str, float]:
        """chi2 / unmasked pixels by exposure."""
        r = self.result
        return dict(zip(r.exposures, r.chi2 / r.npix, strict=True))

    def flux(self, source, band: str) -> float:
        """Flux in nMgy."""
        return float(self.rows[str(source)][f"flux_{band}"]) / NMGY


def fit(name: str | Path, data_dir: Path, folder: Path, *overrides: str) -> Run:
    """Run the command on `configs/NAME.yml`, without sampling, and read what it wrote.

    `name` may be the path of another configuration, without ".yml".
    """
    command = [Path(sys.executable).with_name("jaxpho-fit"), CONFIGS / f"{name}.yml"]
    for override in ("sample.method=none", *overrides):
        command += ["--set", override]
    done = subprocess.run(
        [*map(str, command), "--output", str(folder)],
        env={**os.environ, "JAXPHO_DATA": str(data_dir.resolve())},
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = {str(row["id"]): row for row in Table.read(folder / "catalog.fits")}
    result = read_samples(folder / "patches" / "patch0_samples.h5")
    return Run(folder, rows, result, (folder / "run.log").read_text(encoding="utf-8"))


def read_tractor(path: Path) -> dict[str, np.void]:
    """Rows of a Tractor catalogue by object id."""
    with fits.open(path, memmap=False) as hdus:
        return {str(row["objid"]): row for row in hdus[1].data.copy()}


def fraction_inside(radius: float, rhalf_major: float, sersic: float, q: float) -> float:
    """Fraction of an elliptical Sersic profile's flux inside a circle about its centre.

    The integral over radius is the incomplete gamma function, that over angle a periodic
    trapezoid, exact to rounding.
    """
    b = gammaincinv(2 * sersic, 0.5)
    angle = np.arange(720) * 2 * np.pi / 720
    stretch = np.sqrt(np.cos(angle) ** 2 + np.sin(angle) ** 2 / q**2)
    inner = gammainc(2 * sersic, b * (radius * stretch / rhalf_major) ** (1 / sersic))
    return float(np.mean(inner / stretch**2) / q)
