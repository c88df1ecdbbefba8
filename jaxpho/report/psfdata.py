"""PSF mixtures for the pages: their Gaussians, pictures and encircled energies."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from jaxpho.data.psfmodel import PSFModel
from jaxpho.output.psfshape import draw_psf, encircled, moments
from jaxpho.report.jsdata import packed, rounded, rounded_all

MOST_PICTURES = 200
LARGEST_SIDE = 201
"""Of pictures, samples: the rest of a larger PSF image is cut off."""
RADII = 60
FIELDS = ("amp", "xcr", "ycr", "Cxx", "Cyy", "Cxy")


@dataclass
class ReportPSF:
    """A PSF of a run, and the image that it was fitted to.

    Attributes
    ----------
    label : file, for people.
    model : PSFModel
    exposures : names of those that have it.
    image : [ny, nx] at the first location, or None.
    oversample : samples of the image per native pixel.
    center : (x, y) of the image at the source.
    """

    label: str
    model: PSFModel
    exposures: list[str] = field(default_factory=list)
    image: np.ndarray | None = None
    oversample: float = 1.0
    center: tuple[float, float] | None = None


def psf_facts(psfs: list[ReportPSF]) -> dict:
    """Numbers of all PSFs, and which exposure has which."""
    return {
        "psfs": [_facts(k, psf) for k, psf in enumerate(psfs)],
        "of": {name: k for k, psf in enumerate(psfs) for name in psf.exposures},
    }


def _facts(number: int, psf: ReportPSF) -> dict:
    model = psf.model.single()
    mixtures = []
    for mixture in model.parameters:
        used = mixture[mixture["amp"] != 0]
        rows = np.stack([used[name].astype(float) for name in FIELDS], -1)
        mixtures.append([rounded_all(row, 6) for row in rows])
    shape = moments(model.parameters[0])
    quality = {k: rounded(model.attrs[k], 4) for k in ("residual", "ee_error")
               if k in model.attrs}  # fmt: skip
    return {
        "label": psf.label, "exposures": list(psf.exposures), "mixtures": mixtures,
        "locations": None if model.locations is None else [
            rounded_all(at, 7) for at in model.locations
        ],
        "includes_pixel": bool(model.includes_pixel), "picture": number < MOST_PICTURES,
        "reduced": len(psf.model.reduced),
        **{k: rounded(v, 5) for k, v in shape.items()}, **quality,
    }  # fmt: skip


def psf_picture(psf: ReportPSF) -> dict:
    """Image, mixture and encircled energy of the first location."""
    image, center = psf.image, psf.center
    if image is not None:
        image, center = _cut(np.asarray(image, float), center)
    picture = draw_psf(psf.model.single(), 0, image, psf.oversample, center)
    outer = min(abs(side) for side in picture.extent)
    radii = np.geomspace(0.3 / picture.oversample, outer, RADII)
    out = {
        "oversample": rounded(picture.oversample), "center": rounded_all(picture.center, 8),
        "mixture": packed(picture.mixture, "f4"), "image": None, "radii": rounded_all(radii, 5),
        "energy": rounded_all(encircled(picture, picture.mixture, radii), 6),
    }  # fmt: skip
    if picture.image is not None:
        out["image"] = packed(picture.image, "f4")
        out["energy_image"] = rounded_all(encircled(picture, picture.image, radii), 6)
    return out


def _cut(image: np.ndarray, center):
    """The image about its centre, at most `LARGEST_SIDE` wide."""
    ny, nx = image.shape
    center = ((nx - 1) / 2, (ny - 1) / 2) if center is None else center
    half = LARGEST_SIDE // 2
    at = [int(round(c)) for c in center]
    x0, y0 = (max(a - half, 0) for a in at)
    cut = image[y0 : at[1] + half + 1, x0 : at[0] + half + 1]
    return cut, (center[0] - x0, center[1] - y0)
