"""A configuration's exposures around given sources, packed: what evaluate and render start from."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from jaxpho.compat.config import is_forcepho, parse_config
from jaxpho.compat.evaluate import read_params
from jaxpho.config import Config, load_config, read_yaml
from jaxpho.data.catalog import Peak, read_catalog
from jaxpho.data.ingest import ImageSet, read_images
from jaxpho.data.pack import pack_patch
from jaxpho.data.packing import PackedPatch
from jaxpho.data.peaktable import is_own, own_layout
from jaxpho.data.skyregion import Circle, Region
from jaxpho.data.tables import read_table
from jaxpho.errors import InputError
from jaxpho.fit.evaluate import evaluate_patch, problem_of
from jaxpho.fit.posterior import Static, model_of
from jaxpho.prepare import prepare_psfs
from jaxpho.run.evaluate import existing, parse_region
from jaxpho.run.field import first_mixture, influence_radius, n_radii

log = logging.getLogger("jaxpho.scene")


@dataclass
class PackedScene:
    """Sources and the patch around them.

    Attributes
    ----------
    config : Config
    images : ImageSet
    packed : PackedPatch
        Of the active sources; ``data`` has the fixed ones subtracted.
    peaks : list of Peak
        Active sources with the values to evaluate at.
    before : list of ndarray
        Data of each exposure before the fixed sources were subtracted.
    """

    config: Config
    images: ImageSet
    packed: PackedPatch
    peaks: list[Peak]
    before: list[np.ndarray]

    def evaluate(self, params=None) -> dict[str, np.ndarray]:
        """Numbers and packed arrays; see `jaxpho.fit.evaluate.evaluate_patch`."""
        options, mixture = self.config.fit, first_mixture(self.config)
        if params is not None:
            _, table, _ = problem_of(self.packed, self.peaks, options, mixture)
            params = read_params(params, len(table.parameters))
        found = evaluate_patch(self.packed, self.peaks, options, mixture, params)
        arrays = self.packed.to_numpy()
        arrays |= {"crpix": arrays.pop("CRPIX"), "crval": arrays.pop("CRVAL")}
        arrays |= {name: np.int64(arrays[name][0]) for name in ("n_sources", "n_radii")}
        packed = self.packed
        return (
            arrays
            | found
            | {
                "data_before_fixed": np.concatenate(self.before),
                "bands": np.array(packed.exposure_bands),
                "bandlist": np.array(packed.bands),
                "epaths": np.array(
                    [
                        f"{b}/{n}"
                        for b, n in zip(packed.exposure_bands, packed.exposures, strict=True)
                    ]
                ),
                "reference_coordinates": np.array(packed.reference, float),
            }
        )


@dataclass
class Inputs:
    """What the arguments of `evaluate` and `render` name, read; PSFs are mixtures."""

    config: Config
    images: ImageSet
    start: list[Peak]
    peaks: list[Peak]
    fixed: list[Peak]
    region: Region | None


def read_inputs(args) -> Inputs:
    """Read configuration, images and catalogues.

    Parameters
    ----------
    args : has config, catalog, catalog_format, start, fixed, region.

    Raises
    ------
    InputError
        For a configuration, catalogue, image or region that cannot be used.
    """
    config = load_config(args.config)
    region = parse_region(args.region) or _region_of(args.config)
    images = read_images(
        config.images, config.root, config.bands, unit=config.unit, require_psf=True
    )
    layout = args.catalog_format
    start = _peaks(config, images, existing(args.start, "--start"), layout)
    catalog = existing(args.catalog, "--catalog")
    peaks = _peaks(config, images, catalog, layout) if catalog else start
    if len(peaks) != len(start):
        raise InputError(
            f"{catalog} has {len(peaks)} sources, the starting positions are {len(start)}: "
            "expected the same sources in both"
        )
    fixed = []
    if args.fixed:
        found = _peaks(config, images, existing(args.fixed, "--fixed"), layout)
        fixed = [replace(peak, fixed=frozenset({"all"})) for peak in found]
    cache = config.psf_cache or Path(config.output) / "psf_mixtures.h5"
    prepare_psfs(images.exposures, start + fixed, cache)
    return Inputs(config, images, start, peaks, fixed, region)


def read_scene(args) -> PackedScene:
    """Read what the arguments of `evaluate` name, and pack the patch; see `read_inputs`."""
    found = read_inputs(args)
    return _subtract(found, _pack(found))


def _region_of(path) -> Region | None:
    """The region in a configuration of forcepho."""
    values = read_yaml(path)
    if not is_forcepho(values):
        return None
    region = parse_config(values, Path(path).name, Path(path).absolute().parent).region
    return None if region is None else Circle(region.ra, region.dec, region.radius_arcsec)


def _peaks(config: Config, images: ImageSet, path, layout: str | None) -> list[Peak]:
    """The configuration's sources, or those of a file that the command names."""
    options = config.peaks
    if path is not None:
        options = replace(options, file=str(path), positions=None, detect=False)
        if is_own(read_table(path)):
            options = own_layout(options)
        elif layout is not None:
            options = replace(options, format=layout, columns=None, flux_unit=None)
    return read_catalog(options, config.bands, images.unit, config.sources.type)


def reference_of(peaks: list[Peak]) -> tuple[float, float]:
    """Median position; right ascensions may lie on both sides of zero."""
    ra = np.array([p.ra for p in peaks])
    near = (ra - ra[0] + 180.0) % 360.0 - 180.0
    return float((ra[0] + np.median(near)) % 360.0), float(np.median([p.dec for p in peaks]))


def _pack(found: Inputs) -> PackedPatch:
    config, start = found.config, found.start
    radii = [influence_radius(peak, config.patches) for peak in start] + [0.0] * len(found.fixed)
    if found.region is not None or config.patches.pixels == "all":
        radii = None
    return pack_patch(
        found.images.exposures,
        start + found.fixed,
        bands=config.bands,
        reference=reference_of(start),
        radii=radii,
        region=found.region,
        n_radii=n_radii(first_mixture(config)),
        pad=False,
        dtype=np.dtype(config.precision),
    )


def _subtract(found: Inputs, packed: PackedPatch) -> PackedScene:
    config, peaks, fixed = found.config, found.peaks, found.fixed
    before = [packed.pixels(e)["data"] for e in range(len(packed.exposures))]
    if fixed:
        dark = [replace(p, fixed=frozenset({"all"}), flux={}) for p in peaks]
        options = replace(config.fit, priors={})
        problem, table, n = problem_of(packed, dark + fixed, options, first_mixture(config))
        model = _model(problem, table, n, packed, config)
        good = packed.patch.ierr > 0
        packed.patch = packed.patch._replace(data=packed.patch.data - model * good)
    packed.n_sources = len(peaks)
    return PackedScene(config, found.images, packed, peaks, before)


def _model(problem, table, n, packed, config):
    theta = jnp.asarray(table.start(n), packed.patch.data.dtype)
    return model_of(theta, problem, Static(config.fit.pixel_mode))
