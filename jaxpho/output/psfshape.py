"""What pictures show of a PSF mixture: its samples, encircled energy, width and shape."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxpho.data.psfmodel import PSFModel


class PSFPicture(NamedTuple):
    """A mixture beside the image that it stands for.

    Attributes
    ----------
    mixture : [ny, nx] flux per sample.
    image : the PSF image, of the mixture's sum, or None where it is not known.
    center : (x, y) of the source, samples.
    oversample : samples per native pixel.
    """

    mixture: np.ndarray
    image: np.ndarray | None
    center: tuple[float, float]
    oversample: float

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Left, right, bottom, top, native pixels from the source."""
        ny, nx = self.mixture.shape
        (cx, cy), n = self.center, self.oversample
        sides = (-0.5 - cx, nx - 0.5 - cx, -0.5 - cy, ny - 0.5 - cy)
        return tuple(side / n for side in sides)


def draw_psf(
    model: PSFModel, location: int = 0, image=None, oversample: float = 1.0, center=None
) -> PSFPicture:
    """The mixture at one of its locations, on the samples of an image.

    Parameters
    ----------
    model : PSFModel
    location : which of its mixtures.
    image : [ny, nx] what it was fitted to, optional; default a square of about 5 sigma of the
        widest Gaussian that matters, at most 101 pixels.
    oversample : samples of the image per native pixel.
    center : (x, y) of the image at the source; default its middle.
    """
    mixture = model.parameters[location]
    if image is None:
        half = _reach(mixture)
        oversample = 1.0 if half > 20 else 3.0
        n = 2 * int(np.ceil(half * oversample)) + 1
        shape = n, n
    else:
        image = np.asarray(image, float)
        shape = image.shape
    if center is None:
        center = (shape[1] - 1) / 2, (shape[0] - 1) / 2
    y, x = np.indices(shape, float)
    variance = 0.0 if model.includes_pixel else oversample**-2 / 12
    offsets = (x - center[0]) / oversample, (y - center[1]) / oversample
    drawn = density(mixture, *offsets, variance) / oversample**2
    if image is not None and model.amplitude_sum == "unit":
        total = np.nansum(image)
        image = image / total if total > 0 else image
    return PSFPicture(drawn, image, tuple(map(float, center)), float(oversample))


def density(mixture, x, y, variance: float) -> np.ndarray:
    """Flux per square native pixel of a mixture, [shape of x].

    Parameters
    ----------
    mixture : structured array of `PSF_DTYPE`, [ngauss]
    x, y : offsets from the source, native pixels.
    variance : added to Cxx and Cyy: of a pixel or sample, to second order.
    """
    out = np.zeros(np.shape(x))
    for p in mixture[mixture["amp"] != 0]:
        xx, yy, xy = float(p["Cxx"]) + variance, float(p["Cyy"]) + variance, float(p["Cxy"])
        det = xx * yy - xy * xy
        u, v = x - float(p["xcr"]), y - float(p["ycr"])
        form = (yy * u * u - 2 * xy * u * v + xx * v * v) / det
        out += float(p["amp"]) / (2 * np.pi * np.sqrt(det)) * np.exp(-0.5 * form)
    return out


def _reach(mixture, most: float = 50.0) -> float:
    """Native pixels within which nearly all light of a mixture lies."""
    heavy = mixture[np.abs(mixture["amp"]) > 1e-3 * np.abs(mixture["amp"]).sum()]
    width = np.sqrt(np.maximum(heavy["Cxx"], heavy["Cyy"]).max())
    return float(np.clip(5.0 * width, 6.0, most))


def encircled(picture: PSFPicture, image: np.ndarray, radii) -> np.ndarray:
    """Flux of an image of a picture within circles [native pixels] about the source.

    Samples at the edge count by the part of a small grid of theirs that is inside.
    """
    ny, nx = image.shape
    steps = (np.arange(5) - 2) / 5
    y, x = np.indices((ny, nx), float)
    x, y = x - picture.center[0], y - picture.center[1]
    radius = np.stack([np.hypot(x + a, y + b) for a in steps for b in steps]) / picture.oversample
    order = np.argsort(radius, axis=None)
    light = np.where(np.isfinite(image), image, 0.0)
    total = np.concatenate([[0.0], np.cumsum(np.broadcast_to(light, radius.shape).ravel()[order])])
    return total[np.searchsorted(radius.ravel()[order], radii, side="right")] / len(radius)


def moments(mixture) -> dict[str, float]:
    """Sum of the amplitudes of a mixture, and the contour at half of its central brightness.

    Returns
    -------
    dict
        sum; fwhm [native pixel], mean over directions; e1, e2: ellipticity (1 - q) / (1 + q) of
        the contour, along x and along the diagonal.
    """
    angle = np.linspace(0, np.pi, 24, endpoint=False)
    radius = np.geomspace(1e-2, 60.0, 500)
    x, y = np.outer(np.cos(angle), radius), np.outer(np.sin(angle), radius)
    centre = float(density(mixture, np.zeros(1), np.zeros(1), 0.0)[0])
    both = 0.5 * (density(mixture, x, y, 0.0) + density(mixture, -x, -y, 0.0))
    below = both < 0.5 * centre
    at = np.clip(np.where(below.any(1), below.argmax(1), len(radius) - 1), 1, None)
    outer, inner = (np.take_along_axis(both, k[:, None], 1)[:, 0] for k in (at, at - 1))
    part = np.clip((inner - 0.5 * centre) / np.maximum(inner - outer, 1e-300), 0, 1)
    half = radius[at - 1] + part * (radius[at] - radius[at - 1])
    square = half**2
    e1 = 2 * np.mean(square * np.cos(2 * angle)) / np.mean(square)
    e2 = 2 * np.mean(square * np.sin(2 * angle)) / np.mean(square)
    # r^2 of an ellipse of small e goes as 1 + 2 e cos 2(t - t0)
    return {"sum": float(mixture["amp"].sum()), "fwhm": 2 * float(np.sqrt(np.mean(square))),
            "e1": float(e1) / 2, "e2": float(e2) / 2}  # fmt: skip
