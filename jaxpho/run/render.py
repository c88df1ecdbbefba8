"""`jaxpho render`: model and residual images of the sources of a catalogue."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from jaxpho.errors import InputError
from jaxpho.run.evaluate import add_selection

log = logging.getLogger("jaxpho.render")

DESCRIPTION = """\
Render the sources of a catalogue, as they are, on the configuration's exposures. One FITS file for
each exposure, with its WCS: MODEL, RESIDUAL (data - model, NaN where masked) and CHI (residual over
sigma). Where a region is given, pixels outside its super-pixels have model 0 and no residual.
"""


def add_arguments(parser) -> None:
    """The arguments after the configuration."""
    add_selection(parser)
    parser.add_argument("--out", metavar="DIR", required=True, help="folder of the images")


@dataclass
class Canvas:
    """An exposure whose every pixel is to be drawn, masked or not."""

    exposure: object

    def __getattr__(self, name):
        return getattr(self.exposure, name)

    def tiles(self, select=None):
        """All super-pixels, or those with a pixel of a selection."""
        import numpy as np

        from jaxpho.data.tiles import cut_tiles

        ny, nx = self.exposure.shape
        return cut_tiles(np.zeros((ny, nx), np.float32), np.ones((ny, nx), np.float32), select)


def run(args) -> int:
    """Carry out the command; returns the exit code."""
    import sys

    from tqdm import tqdm

    from jaxpho.files import file_names
    from jaxpho.output.images import write_images
    from jaxpho.run.scene import read_inputs

    args.start = None
    found = read_inputs(args)
    exposures = found.images.exposures
    names = file_names(f"{e.band}_{e.name}" for e in exposures)
    hidden = args.quiet or not sys.stderr.isatty()
    written = 0
    for exposure in tqdm(exposures, desc="images", unit="image", disable=hidden):
        images = draw(found, exposure)
        if images is None:
            log.info("%s: no pixel in the region", exposure.name)
            continue
        path = Path(args.out) / f"{names[f'{exposure.band}_{exposure.name}']}.fits"
        write_images(path, exposure, images)
        written += 1
    if not written:
        raise InputError(
            f"none of the {len(exposures)} exposures has a pixel in the region"
            + (f" --region {args.region}" if args.region else "")
            + "; nothing was written"
        )
    log.info("wrote %d images to %s", written, args.out)
    return 0


def draw(found, exposure) -> dict | None:
    """MODEL, RESIDUAL and CHI [ny, nx] of one exposure; None when the region misses it."""
    import numpy as np

    from jaxpho.data.exposure import Nuisance
    from jaxpho.data.pack import pack_patch
    from jaxpho.fit.evaluate import model_pixels, problem_of
    from jaxpho.run.field import first_mixture, n_radii
    from jaxpho.run.scene import reference_of

    config, peaks = found.config, found.peaks + found.fixed
    mixture = first_mixture(config)
    try:
        packed = pack_patch(
            [Canvas(exposure)], peaks, bands=[exposure.band], reference=reference_of(peaks),
            region=found.region, n_radii=n_radii(mixture), dtype=np.dtype(config.precision),
        )  # fmt: skip
    except InputError as error:
        if "no exposure has an unmasked pixel" in str(error):
            return None
        raise
    # the sources alone, at their own values: no sky, no shift, no bounds
    packed.nuisances = [Nuisance()]
    peaks = [replace(peak, fixed=frozenset({"all"})) for peak in peaks]
    problem, table, n = problem_of(packed, peaks, replace(config.fit, priors={}), mixture)
    (model,) = model_pixels(packed, problem, table.start(n), config.fit.pixel_mode)
    pixels = packed.pixels(0)
    ny, nx = exposure.shape
    inside = (pixels["x"] < nx) & (pixels["y"] < ny)
    at = pixels["y"][inside], pixels["x"][inside]
    image, known = np.zeros((ny, nx), np.float32), np.zeros((ny, nx), bool)
    image[at], known[at] = model[inside], True
    good = known & (exposure.ierr > 0)
    residual = np.where(good, exposure.data - image, np.float32(np.nan))
    return {"MODEL": image, "RESIDUAL": residual, "CHI": residual * exposure.ierr}
