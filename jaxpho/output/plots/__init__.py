"""Pictures of fits, catalogues and PSFs: each function returns its matplotlib Figure."""

from jaxpho.output.plots.movie import SampleMovie, plot_movie
from jaxpho.output.plots.patch import (
    chosen_exposures,
    plot_patch,
    source_outlines,
    stamp,
    write_patch_plot,
)
from jaxpho.output.plots.population import (
    flag_counts,
    flux_pulls,
    plot_flags,
    plot_flux_pulls,
    plot_size_magnitude,
)
from jaxpho.output.plots.posterior import plot_corner, plot_ranks, plot_traces
from jaxpho.output.plots.profile import plot_profile
from jaxpho.output.plots.psf import plot_psf
from jaxpho.output.plots.seam import write_figure
from jaxpho.output.plots.sky import plot_patches

__all__ = [
    "SampleMovie", "chosen_exposures", "flag_counts", "flux_pulls", "plot_corner", "plot_flags",
    "plot_flux_pulls", "plot_movie", "plot_patch", "plot_patches", "plot_profile", "plot_psf",
    "plot_ranks", "plot_size_magnitude", "plot_traces", "source_outlines", "stamp",
    "write_figure", "write_patch_plot",
]  # fmt: skip
