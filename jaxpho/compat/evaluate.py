"""One evaluation of a patch from stores, written under the names of forcepho's arrays."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxpho.compat.bounds import bounded_posterior, make_bounds
from jaxpho.compat.catalog import Catalog, parameter_names, read_catalog
from jaxpho.compat.config import ForcephoConfig
from jaxpho.compat.model import evaluate, model_pixels, patch_of
from jaxpho.data import forcepho
from jaxpho.data.hdf5 import writing
from jaxpho.data.metastore import open_meta_store
from jaxpho.data.pixelstore import PixelStore
from jaxpho.data.splinestore import read_spline_table
from jaxpho.data.storepack import check_pair
from jaxpho.errors import InputError


@dataclass
class Request:
    """What is asked for.

    Attributes
    ----------
    catalog : file with the parameters.
    start : file with the starting positions; default the configuration's `raw_catalog`.
    fixed : file with sources that are rendered and subtracted first.
    params : .npy file that overrides the parameters.
    region : Circle; default the configuration's.
    splines : "rectangular" or "smooth", see `load_splines`.
    """

    catalog: Path | None = None
    start: Path | None = None
    fixed: Path | None = None
    params: Path | None = None
    region: forcepho.Circle | None = None
    splines: str = "rectangular"


def evaluate_patch(config: ForcephoConfig, request: Request) -> dict[str, np.ndarray]:
    """Pack a patch as forcepho does and evaluate it at one set of parameters.

    Parameters
    ----------
    config : ForcephoConfig
    request : Request

    Returns
    -------
    dict
        chi2 [band], lnlike, lnlike_grad, params and param_names [npar], bounds_lower,
        bounds_upper, z, bounded_lnp, bounded_lnp_grad, residual [pixel], and all packed arrays.

    Raises
    ------
    InputError
        For stores, catalogues or parameters that cannot be used.
    """
    region = _region(config, request)
    start = read_catalog(_needed(request.start or config.raw_catalog, "raw_catalog or --start"))
    truth = read_catalog(request.catalog) if request.catalog else start
    if len(truth) != len(start):
        raise InputError(
            f"{truth.path} has {len(truth)} sources, {start.path} has {len(start)}: expected the "
            "same sources in both"
        )
    if config.metastorefile is None or config.pixelstorefile is None:
        raise InputError(
            "--compat forcepho reads a meta and a pixel store: metastorefile and pixelstorefile "
            "are missing (fitsfiles are for fits, and for evaluate without --compat)"
        )
    table = read_spline_table(_needed(config.splinedatafile, "splinedatafile"))
    splines = table.splines(kind=request.splines)
    meta = open_meta_store(config.metastorefile)
    with PixelStore(config.pixelstorefile) as pixels:
        check_pair(meta, pixels)
        exposures = forcepho.find_exposures(meta, pixels, region, config.bandlist)
        arrays = forcepho.pack_pixels(
            pixels, exposures, config.tweak_background, config.max_snr or None, config.background
        )
    scene = _scene(config, exposures, table, start)
    arrays["data_before_fixed"] = arrays["data"]
    if request.fixed:
        others = read_catalog(request.fixed)
        arrays["data"] = subtract(config, exposures, table, splines, arrays, others)
    arrays |= scene
    bands = [str(band) for band in arrays["bandlist"]]
    reference = arrays["reference_coordinates"]
    params = truth.vector(bands, reference)
    if request.params:
        params = read_params(request.params, len(params))
    values = evaluate(params, patch_of(arrays), splines)
    low, high = make_bounds(
        start, bands, reference, config.bounds_kwargs, config.minflux, config.maxfluxfactor
    )
    z, lnp, lnp_gradient = bounded_posterior(params, values.lnlike, values.gradient, low, high)
    return arrays | {
        "chi2": values.chi2,
        "lnlike": np.float64(values.lnlike),
        "lnlike_grad": values.gradient,
        "params": params,
        "param_names": np.array(parameter_names(bands, len(start))),
        "bounds_lower": low,
        "bounds_upper": high,
        "z": z,
        "bounded_lnp": np.float64(lnp),
        "bounded_lnp_grad": lnp_gradient,
        "residual": (arrays["data"] - values.model).astype(np.float32),
    }


def subtract(config, exposures, table, splines, arrays, sources: Catalog) -> np.ndarray:
    """Data [npix] with the models of sources subtracted, in blocks as large as a patch's scene."""
    data = arrays["data"]
    bands = [str(band) for band in arrays["bandlist"]]
    for first in range(0, len(sources), config.maxactive_per_patch):
        at = slice(first, first + config.maxactive_per_patch)
        block = Catalog(
            sources.path, sources.shapes[at], {b: f[at] for b, f in sources.flux.items()}
        )
        scene = arrays | _scene(config, exposures, table, block)
        params = block.vector(bands, scene["reference_coordinates"])
        data = data - model_pixels(params, patch_of(scene), splines).astype(np.float32)
    return data


def _scene(config, exposures, table, sources: Catalog) -> dict[str, np.ndarray]:
    return forcepho.pack_scene(exposures, config.psfstorefile, table.radii, sources.ra, sources.dec)


def _needed(value, name: str):
    if value is None:
        raise InputError(f"{name} is missing")
    return value


def _region(config: ForcephoConfig, request: Request) -> forcepho.Circle:
    if request.region is not None:
        return request.region
    if config.region is None:
        raise InputError("no region: give --region ra,dec,radius_arcsec, or `region` in the file")
    return forcepho.Circle(config.region.ra, config.region.dec, config.region.radius_arcsec)


def read_params(path, n: int) -> np.ndarray:
    """A vector of n parameters from a .npy file; InputError when it is something else."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: the file of parameters does not exist")
    try:
        found = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{path}: not a readable .npy array ({error})") from None
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "iuf":
        raise InputError(f"{path}: expected one array of numbers")
    if found.shape != (n,):
        raise InputError(f"{path}: the parameters have shape {found.shape}, expected ({n},)")
    if not np.isfinite(found).all():
        raise InputError(f"{path}: parameter {int(np.argmin(np.isfinite(found)))} is not finite")
    return found.astype(float)


def write_arrays(path, arrays: dict[str, np.ndarray]) -> None:
    """Write named arrays as one .npz file, in one step."""
    path = Path(path)
    if path.suffix != ".npz":
        raise InputError(f"{path}: expected a file name that ends in .npz")
    with writing(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)
