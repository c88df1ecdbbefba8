"""PSFs that vary over a detector: mixtures on a grid of positions, and their interpolation."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxpho.data.psfex import read_psfex
from jaxpho.data.psfmodel import PSFModel
from jaxpho.data.tables import read_table
from jaxpho.errors import InputError
from psfmix.convert import fit_grid
from psfmix.fit import render_parameters
from psfmix.inputs import checksum_of, read_psf_cube, read_psf_image
from psfmix.interior import interior_positions
from psfmix.provenance import grid_provenance, model_provenance
from psfmix.target import check_image

log = logging.getLogger("psfmix.varying")

# Error between positions over that at them from which on a warning is due.
_LEFT_OUT = 1.5


class PSFGrid(NamedTuple):
    """PSF images at several detector positions.

    Attributes
    ----------
    images : list of array (ny, nx)
    locations : array (nloc, 2)
        x, y pixel, 0-indexed.
    oversample : float
        Image pixels per native pixel.
    includes_pixel : bool or None
        None where the source does not say.
    provenance : dict
        Attributes of the stored group: extension, checksum, where the oversampling came from.
    """

    images: list
    locations: np.ndarray
    oversample: float
    includes_pixel: bool | None = None
    provenance: dict = {}


def read_grid(images, locations, ext=None, oversample=None, sci_pix_scale=None):
    """PSF images of a cube or of a folder, with a table of their positions.

    Parameters
    ----------
    images : path
        FITS cube (nloc, ny, nx), or a folder.
    locations : path
        Table (FITS, ECSV, CSV) with columns ``x``, ``y`` (detector pixel, 0-indexed), one row per
        plane of the cube; for a folder also ``file``.
    ext, oversample, sci_pix_scale
        See `psfmix.inputs.read_psf_image`.

    Returns
    -------
    PSFGrid

    Raises
    ------
    InputError
        Missing columns or files, numbers of rows and images or oversamplings that differ.
    """
    images = Path(images)
    table = read_table(locations)
    wanted = ["x", "y", "file"] if images.is_dir() else ["x", "y"]
    missing = [name for name in wanted if name not in table.colnames]
    if missing:
        raise InputError(
            f"{locations}: no column {missing[0]!r}; expected {', '.join(wanted)}, found "
            + ", ".join(table.colnames)
        )
    try:
        places = np.array([np.asarray(table[name], float) for name in ("x", "y")]).T
    except ValueError:
        raise InputError(f"{locations}: columns x and y must be numbers") from None
    if images.is_dir():
        found = [
            read_psf_image(images / str(name), ext, oversample, sci_pix_scale)
            for name in table["file"]
        ]
    else:
        found = read_psf_cube(images, ext, oversample, sci_pix_scale)
        if len(found) != len(table):
            raise InputError(
                f"{images} holds {len(found)} images and {locations} {len(table)} positions"
            )
    factors = {image.oversample for image in found}
    if len(factors) > 1:
        raise InputError(f"{images}: PSF images have different oversamplings {sorted(factors)}")
    provenance = grid_provenance(found) | {"locations_sha256": checksum_of(locations)}
    return PSFGrid([image.image for image in found], places, factors.pop(), provenance=provenance)


def psfex_grid(path, shape, number, ext=None):
    """A PSFEx model evaluated on a regular grid of a detector.

    Parameters
    ----------
    path : path
    shape : (nx, ny)
        Size of the detector, pixels.
    number : int
        Positions along each side, edges included.
    ext : int or str, optional

    Returns
    -------
    PSFGrid
    """
    places = grid_places(shape, number)
    model = read_psfex(path, ext)
    images = [model.image(*place) for place in places]
    provenance = model_provenance(path, ext, "PSFEx model")
    return PSFGrid(images, places, model.oversample, model.includes_pixel, provenance)


def grid_places(shape, number):
    """Array (number^2, 2): x, y of a regular grid over a detector of (nx, ny), edges included."""
    if number < 2:
        raise InputError(f"a grid of {number} positions a side; expected at least 2")
    x, y = np.meshgrid(*(np.linspace(0, side - 1, number) for side in shape))
    return np.stack([x.ravel(), y.ravel()], -1)


class Interpolation(NamedTuple):
    """How well a model describes images at positions that were left out.

    Attributes
    ----------
    at_nodes : array (nloc,)
        max |model - image| / max image of the mixture fitted there.
    left_out : array (nloc,)
        The same of the mixture interpolated from the other positions; NaN at positions that are
        not inside the hull of the others, where nothing is interpolated.
    """

    at_nodes: np.ndarray
    left_out: np.ndarray


def fit_varying(grid, progress=False, **options):
    """Mixtures at every position of a grid, components in correspondence.

    Parameters
    ----------
    grid : PSFGrid
    progress : bool
        Show a progress bar on standard error.
    **options
        Of `psfmix.fit.fit_mixture`, ``oversample`` apart.

    Returns
    -------
    PSFModel
        With ``residual``, ``ee_error`` and, where there are interior positions, ``left_out``
        (largest residual over peak at a position that is left out) among its attributes.
    Interpolation
    """
    options = {"oversample": grid.oversample, **options}
    if grid.includes_pixel is not None:
        options["includes_pixel"] = grid.includes_pixel
    model, fits_ = fit_grid(grid.images, grid.locations, progress=progress, **options)
    found = Interpolation(
        np.array([fit.residual for fit in fits_]), leave_one_out(model, grid, options)
    )
    attrs = dict(model.attrs)
    if np.any(np.isfinite(found.left_out)):
        attrs["left_out"] = float(np.nanmax(found.left_out))
    log.info(
        "%d positions: residual %.2f to %.2f %% of peak at the positions, up to %.2f %% where an "
        "interior one is left out",
        len(fits_),
        100 * found.at_nodes.min(),
        100 * found.at_nodes.max(),
        100 * attrs.get("left_out", np.nan),
    )
    if attrs.get("left_out", 0.0) > _LEFT_OUT * found.at_nodes.max():
        log.warning(
            "between the positions the mixtures are up to %.2f %% of peak off, more than %g times "
            "the error at them: the PSF changes much from one position to the next, more positions "
            "or fewer Gaussians are needed",
            100 * attrs["left_out"], _LEFT_OUT,
        )  # fmt: skip
    return replace(model, attrs=attrs), found


def leave_one_out(model, grid, options):
    """Residual over peak of each image and the mixture interpolated from all others."""
    out = np.full(len(grid.images), np.nan)
    for k in interior_positions(grid.locations):
        place, image = grid.locations[k], grid.images[k]
        others = np.arange(len(out)) != k
        rest = PSFModel(model.parameters[others], grid.locations[others])
        layout = {
            name: options[name] for name in ("normalize", "trim", "center") if name in options
        }
        image, _, center, valid, total = check_image(
            image, oversample=options["oversample"], **layout
        )
        scale = total if options.get("normalize", "unit") == "unit" else 1.0
        drawn = scale * render_parameters(
            rest.at(*place),
            image.shape,
            options["oversample"],
            includes_pixel=options.get("includes_pixel", False),
            center=center,
        )
        out[k] = np.max(np.abs(drawn - image)[valid]) / np.max(image[valid])
    return out
