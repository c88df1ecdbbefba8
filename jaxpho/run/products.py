"""The files of one patch beside its samples: pixels, picture, ArviZ."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from jaxpho.config import ProductOptions
from jaxpho.fit.result import PatchResult
from jaxpho.output.inference import write_inference_data
from jaxpho.output.plots import write_patch_plot
from jaxpho.output.residuals import write_residuals
from jaxpho.superscene.worker import first_line

log = logging.getLogger("jaxpho.run")


class Products:
    """Writes what the configuration asks for of a patch, in the process that has fitted it.

    Parameters
    ----------
    options : ProductOptions
    exposures : of the run.
    folder : where the files go.
    """

    def __init__(self, options: ProductOptions, exposures: Sequence, folder: Path):
        self.options, self.exposures, self.folder = options, exposures, folder

    def __call__(self, message: dict, result: PatchResult) -> list[str]:
        """Write them; what could not be written, which never ends a run.

        Pixels and pictures are those of the patch in which a source gets the last of its
        iterations; draws are in every patch.
        """
        options, stem = self.options, f"patch{message['patch']}"
        errors: list[str] = []

        def attempt(write: Callable, name: str, *rest) -> None:
            try:
                write(self.folder / name, result, *rest)
            except Exception as error:
                # a full disk or a broken picture costs files, not the photometry
                errors.append(first_line(error))
                log.error("patch %s: %s not written (%s)", message["patch"], name, errors[-1])
                log.debug("traceback of patch %s", message["patch"], exc_info=True)

        if options.arviz and result.samples is not None:
            attempt(write_inference_data, f"{stem}_posterior.nc", options.warmup)
        if not any(message["finishes"]):
            return errors
        trim_pixels(result, self.exposures)
        if keeps_pixels(options):
            attempt(write_residuals, f"{stem}_residuals.h5")
        if options.plots:
            wcs = {exposure.name: exposure.wcs for exposure in self.exposures}
            attempt(write_patch_plot, f"{stem}.png", wcs, options.plot_exposures)
        return errors


def keeps_pixels(options: ProductOptions) -> bool:
    """Whether residuals of patches are written: images are put together from them, too."""
    return options.residuals or options.images


def trim_pixels(result: PatchResult, exposures) -> None:
    """Drop the parts of edge tiles that lie outside the images, in place."""
    shapes = {exposure.name: exposure.shape for exposure in exposures}
    for name, pixels in result.pixels.items():
        ny, nx = shapes[name]
        x, y = np.asarray(pixels["x"]), np.asarray(pixels["y"])
        inside = (x >= 0) & (x < nx) & (y >= 0) & (y < ny)
        if not inside.all():
            result.pixels[name] = {k: np.asarray(v)[inside] for k, v in pixels.items()}
