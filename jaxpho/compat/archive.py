"""A run's results as a run directory of forcepho, which its post-processing reads.

config.json                 the configuration, with the name of the catalogue
<scene>.fits                all sources at their latest values, in forcepho's units
<scene>_log.json            which source was in which patches, and their order
patches/patch<i>_samples.h5, patches/patch<i>_residuals.h5
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from astropy.io import fits

from jaxpho.compat.results import Membership, catalog_dtype, number_of, write_forcepho_samples
from jaxpho.data.fitsread import CREATOR
from jaxpho.data.hdf5 import writing
from jaxpho.files import ascii_text
from jaxpho.fit.result import PatchResult

FOLDER = "forcepho"
"""Folder within our run directory."""


class Archive:
    """Writes the folder, patch by patch.

    Parameters
    ----------
    folder : of the archive.
    peaks : every source of the field, in order.
    bands : in order.
    scene : file name of the catalogue.
    config : plain values of the configuration.
    warmup : keep the draws of the warm-up.
    """

    def __init__(self, folder, peaks: Sequence, bands, scene: str, config: dict, warmup=True):
        self.folder, self.scene, self.warmup = Path(folder), scene, warmup
        self.bands = list(bands)
        self.config = json.dumps(config | {"scene_catalog": scene, "bandlist": self.bands})
        self.table = np.zeros(len(peaks), catalog_dtype(bands))
        self.table["source_index"], self.table["is_valid"] = np.arange(len(peaks)), 1
        for name in ("q", "pa", "sersic", "rhalf", *self.bands):
            self.table[name] = np.nan  # until it is fitted
        for i, (row, peak) in enumerate(zip(self.table, peaks, strict=True)):
            row["id"], row["ra"], row["dec"] = number_of(peak.id, i), peak.ra, peak.dec
        self.sources: dict[int, list[str]] = {}
        self.patches: list[str] = []

    def add(
        self,
        result: PatchResult,
        membership: Membership,
        radius: float,
        residuals: Path | None,
        name: str = "",
    ) -> None:
        """Write the samples of a patch, and its residuals where there are any.

        Parameters
        ----------
        result : PatchResult
        membership : Membership
        radius : of the patch, arcsec.
        residuals : the file of residuals in our run directory, whose layout is forcepho's.
        name : of the patch; by default its number.

        Raises
        ------
        InputError
            For sources that are not single profiles.
        """
        patch = name or str(result.patch_id)
        stem = self.folder / "patches" / f"patch{patch}"
        final = write_forcepho_samples(
            f"{stem}_samples.h5", result, membership,
            radius=radius, config=self.config, warmup=self.warmup,
        )  # fmt: skip
        if residuals is not None:
            with writing(f"{stem}_residuals.h5") as temporary:
                link_or_copy(residuals, temporary)
        final["is_active"], final["is_valid"] = 0, 1
        for key in ("n_iter", "n_patch"):
            final[key] += self.table[key][final["source_index"]]
        self.table[final["source_index"]] = final
        for index in final["source_index"].tolist():
            self.sources.setdefault(index, []).append(patch)
        self.patches.append(patch)

    def write_scene(self) -> None:
        """Write catalogue, log and configuration, each in one step."""
        primary, table = fits.PrimaryHDU(), fits.BinTableHDU(self.table)
        for hdu in (primary, table):
            hdu.header["CREATOR"] = CREATOR
            hdu.header["FILTERS"] = ascii_text(",".join(self.bands))
        with writing(self.folder / self.scene) as temporary:
            fits.HDUList([primary, table]).writeto(temporary, overwrite=True)
        log = {"sourcelog": self.sources, "patchlog": self.patches}
        texts = {f"{Path(self.scene).stem}_log.json": json.dumps(log), "config.json": self.config}
        for name, text in texts.items():
            with writing(self.folder / name) as temporary:
                temporary.write_text(text, encoding="utf-8")


def link_or_copy(source: Path, target: Path) -> None:
    """A second name for a file, or a copy where the file system has no such thing."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
