"""Images to results in one call, for notebooks: what a run does for a field, without files."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import jax
import numpy as np

from jaxpho.core.sources import SOURCE_TYPES
from jaxpho.data.catalog import Peak
from jaxpho.data.exposure import Exposure
from jaxpho.data.pack import N_RADII, pack_patch
from jaxpho.data.packing import PackedPatch
from jaxpho.errors import InputError
from jaxpho.fit.driver import fit_patch
from jaxpho.fit.evaluate import models_of_draws
from jaxpho.fit.flags import decode
from jaxpho.fit.models import scene_model
from jaxpho.fit.options import FitOptions, SampleOptions
from jaxpho.fit.result import PatchResult
from jaxpho.output.catalog import make_table, rows_of_patch
from jaxpho.output.inference import to_inference_data
from jaxpho.output.plots import SampleMovie, plot_movie, plot_patch, stamp
from jaxpho.output.summary import draws_by_name, summary_table
from jaxpho.schema import build

log = logging.getLogger("jaxpho.imagefit")

MIXTURE = "k12"


@dataclass(repr=False)
class ImageFit:
    """The joint fit of sources in exposures.

    Attributes
    ----------
    result : PatchResult
        Everything that was found, by parameter.
    exposures : list of Exposure
        As fitted, with unique names.
    sources : list of Peak
    patch : PackedPatch
        What the compiled functions see; `jaxpho.fit` takes it.
    options : FitOptions
        Priors and the optimiser, as used.
    """

    result: PatchResult
    exposures: list[Exposure]
    sources: list[Peak]
    patch: PackedPatch
    options: FitOptions

    @cached_property
    def table(self):
        """The catalogue as an astropy Table: one row per source, units and meanings."""
        return make_table(rows_of_patch(self.result), self.result.bands, self.result.unit)

    @cached_property
    def summary(self):
        """Value, error and unit of every quantity, one per row: an astropy Table."""
        return summary_table(self.result)

    @cached_property
    def draws(self) -> dict[str, np.ndarray]:
        """Name -> posterior draws [chain, draw, source], fluxes [chain, draw, source, band].

        With q and pa (deg, East of North); ra and dec are offsets in arcsec from
        ``result.reference``, rhalf is in arcsec, fluxes in ``result.unit``.
        """
        return draws_by_name(self.result)

    def images(self, exposure: str | None = None) -> dict[str, np.ndarray]:
        """Pixels of an exposure as images [ny, nx], NaN where masked or not fitted.

        Parameters
        ----------
        exposure : str, optional
            Its name; default the first.

        Returns
        -------
        dict
            data, model, sigma (in ``result.unit`` per pixel) and chi, (data - model) / sigma.

        Raises
        ------
        InputError
            For a name that no exposure has.
        """
        known = self.result.exposures
        name = known[0] if exposure is None else exposure
        if name not in known:
            raise InputError(f"no exposure is named '{name}', expected one of {', '.join(known)}")
        return stamp(self.result.pixels[name])[0]

    def plot(self, per_band: int = 2):
        """Data, model and residual / sigma: a matplotlib Figure.

        Parameters
        ----------
        per_band : int
            Exposures shown per band.
        """
        return plot_patch(self.result, {e.name: e.wcs for e in self.exposures}, per_band)

    def movie(self, frames: int = 20, per_band: int = 1) -> SampleMovie:
        """Data, model and residual of draws of the posterior; `save("draws.gif")` writes them.

        Parameters
        ----------
        frames : int
            Draws, evenly spaced through the chains.
        per_band : int
            Exposures shown per band.

        Raises
        ------
        InputError
            Without draws.
        """
        samples = self.result.samples
        if samples is None:
            raise InputError("there are no draws (sample='none'): no movie")
        flat = samples.reshape(-1, samples.shape[-1])
        chosen = flat[np.linspace(0, len(flat) - 1, min(frames, len(flat))).astype(int)]
        mixture = self.result.diagnostics["mixture"]
        models = models_of_draws(self.patch, self.sources, chosen, self.options, mixture)
        return plot_movie(self.result, models, per_band)

    def model(self, **options):
        """The posterior as a numpyro model, to condition, to extend and to sample.

        Parameters
        ----------
        **options
            Those of `jaxpho.SceneModel`: ``priors``, ``image``, ``twice``.

        Returns
        -------
        SceneModel
        """
        mixture = self.result.diagnostics["mixture"]
        return scene_model(self.patch, self.sources, self.options, mixture, **options)

    def to_inference_data(self, **options):
        """The draws for ArviZ; see `jaxpho.to_inference_data`."""
        return to_inference_data(self.result, **options)

    def __str__(self) -> str:
        lines = self.summary.pformat(max_lines=-1, max_width=-1)
        return "\n".join([*lines, self._headline()])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return self.summary._repr_html_() + f"<p>{self._headline()}</p>"

    def _headline(self) -> str:
        r = self.result
        text = f"chi2 {r.chi2.sum():.1f} for {r.npix.sum()} pixels"
        if r.samples is None:
            text += "; Laplace errors"
        else:
            text += f"; {r.samples.shape[0]} chains of {r.samples.shape[1]} draws"
        for name, mask in zip(r.source_ids, r.flags, strict=True):
            if mask:
                text += f"; {name}: {', '.join(decode(int(mask)))}"
        return text


def fit_images(
    exposures: Exposure | Sequence[Exposure],
    sources: Peak | Sequence[Peak] | None = None,
    *,
    xy=None,
    type: str | Sequence[str] = "sersic",
    sample: str | SampleOptions = "nuts",
    options: FitOptions | None = None,
    seed: int = 0,
    mixture: str = "auto",
    radii: Sequence[float] | None = None,
) -> ImageFit:
    """Fit sources jointly in all exposures of all bands.

    Parameters
    ----------
    exposures : Exposure or sequence of Exposure
        See `jaxpho.exposure_from_arrays`. Those that share a name are numbered.
    sources : Peak or sequence of Peak, optional
        Default: one source in the middle of the first exposure.
    xy : array, optional
        [S, 2] positions x, y of the sources in pixels of the first exposure (0-indexed, the
        integer is the pixel's centre), instead of `sources`. Their ids count from 1.
    type : str or sequence of str
        Type of the sources that `xy` gives: sersic, exp, dev, point, bulge_disk, sersic_point.
    sample : str or SampleOptions
        Sampler by name ("nuts", "marginal"), or "none" for the optimum and Laplace errors.
    options : FitOptions, optional
        Priors and the optimiser.
    seed : int
        Of the sampler: the same seed gives the same draws.
    mixture : str
        Sersic mixture; "auto" takes 12 Gaussians, or 16 where a large cuspy galaxy needs them.
    radii : sequence of float, optional
        [S] arcsec: pixels within these distances of the sources are fitted; default all pixels.

    Returns
    -------
    ImageFit

    Raises
    ------
    InputError
        For sources or options that cannot be used, positions outside the first exposure, units
        that differ between exposures.
    """
    exposures, options = _named(exposures), options or FitOptions()
    peaks = _peaks(exposures[0], sources, xy, type)
    if isinstance(sample, str):
        sample = build(SampleOptions, {"method": sample}, path="sample")
    bands = list(dict.fromkeys(e.band for e in exposures))
    auto, key = mixture == "auto", jax.random.PRNGKey(seed)
    mixture = MIXTURE if auto else mixture
    if mixture not in N_RADII:
        raise InputError(f"mixture is '{mixture}', expected auto or one of {', '.join(N_RADII)}")

    def fit(mixture: str, stop: bool):
        packed = pack_patch(exposures, peaks, bands=bands, radii=radii, n_radii=N_RADII[mixture])
        common = {"mixture": mixture, "key": key, "stop_if_coarse": stop}
        return packed, fit_patch(packed, peaks, options, sample, **common)

    packed, result = fit(mixture, auto)
    needed = result.diagnostics["needed"]
    if auto and needed != mixture:
        log.info("fitted again with Sersic mixture %s", needed)
        packed, result = fit(needed, False)
    return ImageFit(result, exposures, peaks, packed, options)


def _named(exposures) -> list[Exposure]:
    """A list of them with unique names."""
    exposures = [exposures] if isinstance(exposures, Exposure) else list(exposures)
    if not exposures:
        raise InputError("fit_images: no exposure is given, expected at least one")
    for e in exposures:
        if not isinstance(e, Exposure):
            raise InputError(
                f"fit_images: expected exposures, found {e.__class__.__name__}; "
                "jaxpho.exposure_from_arrays makes one of an image"
            )
    count, seen, out = Counter(e.name for e in exposures), Counter(), []
    for e in exposures:
        if count[e.name] > 1:
            seen[e.name] += 1
            e = dataclasses.replace(e, name=f"{e.name}_{seen[e.name]}")
        out.append(e)
    return out


def _peaks(exposure: Exposure, sources, xy, type) -> list[Peak]:
    """The sources as a list."""
    if sources is not None:
        if xy is not None:
            raise InputError("fit_images: both sources and xy are given, expected one of them")
        return [sources] if isinstance(sources, Peak) else list(sources)
    ny, nx = exposure.shape
    xy = [[(nx - 1) / 2, (ny - 1) / 2]] if xy is None else xy
    xy = np.atleast_2d(np.asarray(xy, float))
    if xy.ndim != 2 or xy.shape[1] != 2:
        raise InputError(f"fit_images: xy has shape {xy.shape}, expected (sources, 2)")
    types = [type] * len(xy) if isinstance(type, str) else list(type)
    if len(types) != len(xy):
        raise InputError(f"fit_images: {len(types)} types for {len(xy)} positions")
    for kind in types:
        if kind not in SOURCE_TYPES:
            raise InputError(
                f"fit_images: unknown type '{kind}', expected one of {', '.join(SOURCE_TYPES)}"
            )
    outside = ~((xy > -0.5) & (xy < [nx - 0.5, ny - 0.5])).all(1)
    if outside.any():
        x, y = xy[outside][0]
        raise InputError(
            f"fit_images: the position x, y = {x:g}, {y:g} is outside exposure {exposure.name} of "
            f"{nx} x {ny} pixels"
        )
    sky = zip(*exposure.wcs.pixel_to_world_values(xy[:, 0], xy[:, 1]), strict=True)
    return [
        Peak(str(i), kind, float(ra) % 360.0, float(dec))
        for i, (kind, (ra, dec)) in enumerate(zip(types, sky, strict=True), start=1)
    ]
