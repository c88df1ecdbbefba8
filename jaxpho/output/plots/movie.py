"""A movie of posterior samples: data, the model of each draw, and what it leaves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from jaxpho.errors import InputError
from jaxpho.fit.result import PatchResult
from jaxpho.output.plots.patch import CHI_LIMIT, chosen_exposures, stamp, stretch
from jaxpho.output.plots.seam import MASKED, Figure, animation, new_figure, write_movie


@dataclass
class SampleMovie:
    """Frames of a movie; `figure` shows the one that was drawn last.

    Attributes
    ----------
    figure : Figure
    frames : how many.
    """

    figure: Figure
    frames: int
    _draw: object

    def show(self, frame: int) -> Figure:
        """Draw one frame."""
        self._draw(frame)
        return self.figure

    def save(self, path, per_second: float = 4.0) -> None:
        """Write all frames as a GIF."""
        movie = animation(self.figure, self._draw, self.frames, int(1000 / per_second))
        write_movie(path, movie, per_second)

    def _repr_png_(self) -> bytes:
        return self.figure._repr_png_()


def plot_movie(
    result: PatchResult, models: Mapping[str, np.ndarray], per_band: int = 1
) -> SampleMovie:
    """Data, model and residual of draws of the posterior.

    Parameters
    ----------
    result : PatchResult
        With pixels.
    models : exposure name -> [draw, pixel] models (`jaxpho.fit.evaluate.models_of_draws`).
    per_band : exposures shown per band.

    Raises
    ------
    InputError
        When no exposure has both pixels and models, or they do not fit together.
    """
    names = [result.exposures[e] for e in chosen_exposures(result, per_band)]
    names = [name for name in names if name in models]
    if not names:
        raise InputError("movie: no exposure of the patch has both pixels and models")
    for name in names:
        found, wanted = np.shape(models[name])[-1], len(result.pixels[name]["data"])
        if found != wanted:
            raise InputError(
                f"movie: the models of exposure {name} have {found} pixels, expected {wanted}"
            )
    count = min(len(models[name]) for name in names)
    figure = new_figure(9.6, 2.9 * len(names) + 0.6)
    axes = figure.subplots(len(names), 3, squeeze=False)
    pictures = []
    for row, name in zip(axes, names, strict=True):
        image, _ = stamp(result.pixels[name])
        norm = stretch(image)
        common = {"origin": "lower", "interpolation": "nearest"}
        for axis in row:
            axis.set_facecolor(MASKED)
            axis.set(xticks=[], yticks=[])
        row[0].imshow(image["data"], cmap="magma", norm=norm, **common)
        model = row[1].imshow(image["model"], cmap="magma", norm=norm, **common)
        chi = row[2].imshow(image["chi"], cmap="RdBu_r", vmin=-CHI_LIMIT, vmax=CHI_LIMIT, **common)
        band = result.exposure_bands[result.exposures.index(name)]
        row[0].set_ylabel(band, parse_math=False)
        pictures.append((name, model, chi))
    for axis, title in zip(axes[0], ("data", "model of a draw", "residual / sigma"), strict=True):
        axis.set_title(title, fontsize=10)
    heading = figure.suptitle("", fontsize=10)

    def draw(frame: int):
        for name, model, chi in pictures:
            pixels = {**result.pixels[name], "model": models[name][frame]}
            image, _ = stamp(pixels)
            model.set_data(image["model"])
            chi.set_data(image["chi"])
        heading.set_text(f"patch {result.patch_id}, draw {frame + 1} of {count}")
        return [heading]

    draw(0)
    return SampleMovie(figure, count, draw)
