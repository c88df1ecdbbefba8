"""The only module of jaxpho that imports matplotlib, without its global state.

Figures are made and written here; the others draw on what they are handed.
"""

from __future__ import annotations

import io

import numpy as np
from matplotlib import patheffects
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PatchCollection
from matplotlib.colors import FuncNorm
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Ellipse

from jaxpho.files import replacing

COLORS = ("#00c2d1", "#ffb000", "#6fdc6f", "#ff7ab6", "#b9a4ff", "#ff8c5a")
"""Of sources, on dark images."""
INK = ("#1f5fa8", "#c2410c", "#2e7d32", "#8e3a9d", "#5d6d7e", "#b7791f")
"""Of bands and chains, on white."""
MASKED = "#8f8f8f"
TRUTH = "#d1495b"

__all__ = ["COLORS", "INK", "MASKED", "TRUTH", "Circle", "Ellipse", "Figure", "PanelFigure",
           "PatchCollection", "animation", "asinh_norm", "halo", "new_figure", "write_figure",
           "write_movie"]  # fmt: skip


class PanelFigure(Figure):
    """A figure that notebooks show without pyplot."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        FigureCanvasAgg(self).print_png(buffer)
        return buffer.getvalue()


def new_figure(width: float, height: float, layout: str | None = "constrained") -> PanelFigure:
    """An empty figure, of inches, that needs no display."""
    figure = PanelFigure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    return figure


def halo(width: float = 1.8):
    """The path effect of a black edge, which keeps marks readable on any image."""
    return [patheffects.withStroke(linewidth=width, foreground="black")]


def asinh_norm(soft: float, low: float, high: float) -> FuncNorm:
    """Values to colours: linear below `soft`, logarithmic above."""
    pair = (lambda v: np.arcsinh(v / soft), lambda t: np.sinh(t) * soft)
    return FuncNorm(pair, vmin=low, vmax=high)


def write_figure(path, figure: Figure, dpi: float = 110) -> None:
    """Write a figure in one step; its format is that of the file name's ending."""
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=dpi)


def animation(figure: Figure, draw, frames: int, milliseconds: int) -> FuncAnimation:
    """An animation of a figure; `draw(frame)` changes it."""
    return FuncAnimation(figure, draw, frames=frames, interval=milliseconds, blit=False)


def write_movie(path, movie: FuncAnimation, per_second: float, dpi: float = 80) -> None:
    """Write an animation as GIF, in one step."""
    with replacing(path) as temporary:
        movie.save(temporary, writer=PillowWriter(fps=per_second), dpi=dpi)
