"""A PSF mixture: image, mixture, residual, its Gaussians, encircled energy."""

from __future__ import annotations

import numpy as np

from jaxpho.data.psfmodel import PSFModel
from jaxpho.output.plots.seam import COLORS, INK, Ellipse, Figure, asinh_norm, new_figure
from jaxpho.output.psfshape import PSFPicture, draw_psf, encircled

LINEAR = 1e-4
"""The stretch is linear below this part of the peak."""
LEAST = 1e-3
"""Residuals are shown to at least this part of the peak."""


def plot_psf(
    model: PSFModel, location: int = 0, image=None, oversample: float = 1.0, center=None,
    title: str = "",
) -> Figure:  # fmt: skip
    """The mixture with the ellipses of its Gaussians (1 sigma), beside what it stands for.

    Parameters
    ----------
    model : PSFModel
    location : which of its mixtures.
    image : [ny, nx] the PSF image, optional; without, no residual is shown.
    oversample : samples of the image per native pixel.
    center : (x, y) of the image at the source; default its middle.
    title : of the figure.
    """
    picture = draw_psf(model, location, image, oversample, center)
    known = picture.image is not None
    figure = new_figure(13.5 if known else 9.5, 7.2 if known else 4.2)
    axes = figure.subplots(2, 3) if known else figure.subplots(1, 2)[None]
    shown = [("mixture", picture.mixture)]
    if known:
        shown.insert(0, ("PSF image", picture.image))
    peak = float(np.nanmax(picture.mixture))
    norm = asinh_norm(LINEAR * peak, -LINEAR * peak, peak)
    common = {"origin": "lower", "extent": picture.extent, "interpolation": "nearest"}
    for axis, (name, values) in zip(axes[0], shown, strict=False):
        axis.imshow(values, cmap="magma", norm=norm, **common)
        axis.set(title=name, xlabel="x [native pixel]")
    axes[0, 0].set_ylabel("y [native pixel]")
    _ellipses(axes[0, len(shown) - 1], model.parameters[location], picture.extent)
    if known:
        _residual(figure, axes[0, 2], picture, peak, common)
        _components(axes[1, 1], model.parameters[location])
        _energy(axes[1, 0], axes[1, 2], picture)
    else:
        _energy(axes[0, 1], None, picture)
    if title:
        figure.suptitle(title, fontsize=11, parse_math=False)
    return figure


def _ellipses(axis, mixture, extent) -> None:
    for k, p in enumerate(mixture):
        if p["amp"] == 0:
            continue
        matrix = np.array([[p["Cxx"], p["Cxy"]], [p["Cxy"], p["Cyy"]]], float)
        value, vector = np.linalg.eigh(matrix)
        width, height = 2 * np.sqrt(np.maximum(value, 0))
        angle = np.degrees(np.arctan2(vector[1, 0], vector[0, 0]))
        axis.add_patch(
            Ellipse((p["xcr"], p["ycr"]), width, height, angle=angle, fill=False, lw=1,
                    color=COLORS[k % len(COLORS)], ls="-" if p["amp"] > 0 else "--")
        )  # fmt: skip
    axis.set(xlim=extent[:2], ylim=extent[2:])


def _residual(figure, axis, picture: PSFPicture, peak: float, common) -> None:
    residual = 100 * (picture.mixture - picture.image) / peak
    worst = float(np.nanmax(np.abs(residual)))
    limit = max(worst, 100 * LEAST)
    shown = axis.imshow(residual, cmap="RdBu_r", vmin=-limit, vmax=limit, **common)
    figure.colorbar(shown, ax=axis, shrink=0.85, label="(mixture - image) / peak [%]")
    axis.set(title=f"residual: at most {worst:.2f} % of the peak", xlabel="x [native pixel]")


def _components(axis, mixture) -> None:
    """Amplitude against width."""
    used = mixture[mixture["amp"] != 0]
    area = used["Cxx"].astype(float) * used["Cyy"] - used["Cxy"].astype(float) ** 2
    total = float(np.abs(used["amp"]).sum())
    for k, (sigma, p) in enumerate(zip(area**0.25, used, strict=True)):
        color = COLORS[k % len(COLORS)]
        axis.plot(sigma, abs(p["amp"]) / total, "o" if p["amp"] > 0 else "x", color=color, ms=8,
                  mec="0.3")  # fmt: skip
    axis.set(xscale="log", yscale="log", xlabel="sigma [native pixel]",
             ylabel="|amplitude| / their sum", title="Gaussians (x: negative)")  # fmt: skip


def _energy(axis, error, picture: PSFPicture) -> None:
    outer = min(abs(side) for side in picture.extent)
    radii = np.geomspace(0.3 / picture.oversample, outer, 120)
    mixture = encircled(picture, picture.mixture, radii)
    axis.plot(radii, mixture, color=INK[0], lw=2, label="mixture")
    axis.set(xscale="log", xlabel="radius [native pixel]", ylabel="flux inside",
             title="encircled energy")  # fmt: skip
    if picture.image is not None:
        image = encircled(picture, picture.image, radii)
        axis.plot(radii, image, color="#222222", ls="--", lw=1.4, label="PSF image")
        error.axhline(0, color="0.6", lw=0.8)
        error.plot(radii, 100 * (mixture - image), color=INK[1])
        error.set(xscale="log", xlabel="radius [native pixel]", ylabel="mixture - image [%]",
                  title="its error")  # fmt: skip
    axis.legend(frameon=False, loc="lower right")
