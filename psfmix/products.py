"""What a fitted mixture leaves on disk beside the store: a FITS file for people, and its draws."""

import numpy as np
from astropy.io import fits
from astropy.table import Table

from jaxpho.files import ascii_text, replacing
from jaxpho.inference_data import Groups, scalars, write_groups
from psfmix.fit import render_parameters

UNITS = {
    "amp": "", "xcr": "pixel", "ycr": "pixel", "Cxx": "pixel2", "Cyy": "pixel2", "Cxy": "pixel2",
    "sersic_bin": "",
}  # fmt: skip


def write_fits(path, fit, image, provenance, ladder=None, background=0.0):
    """Target, model, residual and table of parameters as extensions of one FITS file.

    Parameters
    ----------
    path : path
        Replaced if it exists.
    fit : MixtureFit
    image : array (ny, nx)
        The trimmed image in the fit's units.
    provenance : dict
        Numbers and texts for the primary header; keys may be long.
    ladder : dict, optional
        Columns {name: (unit, values, format)} of a further table.
    background : float
        Per image pixel, in the image's unit; part of MODEL.
    """
    model = fit.render() + background
    primary = fits.PrimaryHDU()
    header = primary.header
    header["OVERSAMP"] = (fit.oversample, "image pixels per native pixel")
    header["NGAUSS"] = (len(fit.parameters), "Gaussians")
    header["RESIDUAL"] = (fit.residual, "max |model - image| / max image")
    if np.isfinite(fit.ee_error):
        header["EEERROR"] = (fit.ee_error, "encircled energy at 1-5 px / stamp")
    header["CENERROR"] = (fit.centroid_error, "largest error of weighted centroids, native px")
    header["SHERROR"] = (fit.shape_error, "largest error of weighted ellipticities")
    header["PIXINCL"] = (bool(fit.includes_pixel), "the mixture includes the native pixel")
    header["BACKGRND"] = (background, "constant of MODEL beside the mixture, per pixel")
    for key, value in provenance.items():
        header.add_history(ascii_text(f"{key} = {value}"))
    table = Table(
        {name: np.array(fit.parameters[name]) for name in fit.parameters.dtype.names}, units=UNITS
    )
    hdus = [primary]
    for name, picture in (("TARGET", image), ("MODEL", model), ("RESIDUAL", model - image)):
        hdu = fits.ImageHDU(np.asarray(picture, np.float32), name=name)
        hdu.header["OVERSAMP"] = header["OVERSAMP"]
        hdu.header["CRPIX1"] = (fit.center[0] + 1, "reference point of the mixture")
        hdu.header["CRPIX2"] = (fit.center[1] + 1, "reference point of the mixture")
        hdus.append(hdu)
    hdus.append(fits.BinTableHDU(table, name="PARAMETERS"))
    if ladder is not None:
        columns = Table(
            {name: values for name, (_, values, _) in ladder.items()},
            units={name: unit for name, (unit, _, _) in ladder.items()},
        )
        hdus.append(fits.BinTableHDU(columns, name="LADDER"))
    with replacing(path) as temporary:
        fits.HDUList(hdus).writeto(temporary, overwrite=True)


def write_grid_fits(path, model, images, oversample, provenance):
    """Targets, models, residuals and parameters of a varying PSF as one FITS file.

    TARGET, MODEL and RESIDUAL (model - target) are cubes with one plane a position, or one
    extension a position (EXTVER, from 1) where images differ in size; PARAMETERS has one row for
    each Gaussian of each position.

    Parameters
    ----------
    path : path
        Replaced if it exists.
    model : PSFModel
    images : list of (image, total)
        Trimmed images (ny, nx), and what they are divided by for amplitudes that sum to 1.
    oversample : float
        Image pixels per native pixel.
    provenance : dict
        Numbers and texts for the primary header; keys may be long.
    """
    primary = fits.PrimaryHDU()
    primary.header["OVERSAMP"] = (oversample, "image pixels per native pixel")
    primary.header["NGAUSS"] = (model.parameters.shape[1], "Gaussians")
    primary.header["PIXINCL"] = (
        bool(model.includes_pixel),
        "the mixture includes the native pixel",
    )
    for key, value in provenance.items():
        primary.header.add_history(ascii_text(f"{key} = {value}"))
    targets = [image / (total if model.amplitude_sum == "unit" else 1.0) for image, total in images]
    models = [
        render_parameters(p, target.shape, oversample, includes_pixel=model.includes_pixel)
        for p, target in zip(model.parameters, targets, strict=True)
    ]
    pictures = {
        "TARGET": targets,
        "MODEL": models,
        "RESIDUAL": [drawn - target for drawn, target in zip(models, targets, strict=True)],
    }
    hdus = [primary]
    alike = len({target.shape for target in targets}) == 1
    for name, planes in pictures.items():
        for k, plane in enumerate([np.array(planes)] if alike else planes):
            hdu = fits.ImageHDU(np.asarray(plane, np.float32), name=name, ver=k + 1)
            hdu.header["OVERSAMP"] = oversample
            hdus.append(hdu)
    hdus.append(fits.BinTableHDU(_parameter_table(model), name="PARAMETERS"))
    with replacing(path) as temporary:
        fits.HDUList(hdus).writeto(temporary, overwrite=True)


def _parameter_table(model):
    """One row for each Gaussian of each position of a `PSFModel`."""
    nloc, ngauss = model.parameters.shape
    columns = {"location": np.repeat(np.arange(nloc), ngauss)}
    if model.locations is not None:
        columns["x"], columns["y"] = np.repeat(model.locations, ngauss, axis=0).T
    columns |= {name: model.parameters[name].ravel() for name in model.parameters.dtype.names}
    units = {name: unit for name, unit in UNITS.items() if unit} | {"x": "pixel", "y": "pixel"}
    return Table(columns, units={name: unit for name, unit in units.items() if name in columns})


def draws_of(posterior, provenance=None):
    """Draws and statistics of a mixture as plain arrays for `jaxpho.inference_data`.

    Parameters
    ----------
    posterior : psfmix.posterior.MixturePosterior
    provenance : dict, optional
        Numbers and texts for the attributes.

    Returns
    -------
    Groups
        `posterior`: amp, x, y, Cxx, Cyy, Cxy [chain, draw, component], native pixels, components
        as sampled (see `MixturePosterior.ordered`), and background [chain, draw] where it was
        fitted; `sample_stats`: lp (log likelihood), diverging, n_steps, acceptance_rate.
    """
    arrays = dict(posterior.draws)
    dims = {name: ["component"] for name, values in arrays.items() if np.ndim(values) == 3}
    units = {"x": "pixel", "y": "pixel", "Cxx": "pixel2", "Cyy": "pixel2", "Cxy": "pixel2"}
    statistics = {"lp": posterior.log_likelihood} | posterior.statistics
    return Groups(
        {"posterior": arrays, "sample_stats": statistics},
        dims,
        {"component": list(range(posterior.ngauss))},
        scalars({"creation_library": "psfmix"} | (provenance or {})),
        units,
    )


def write_draws(path, posterior, provenance=None):
    """Write `draws_of` as ArviZ InferenceData, .nc or .zarr, in one step; needs arviz."""
    write_groups(path, draws_of(posterior, provenance), "--arviz")


def write_star_fits(path, fit, model, provenance):
    """What a fit to stars found as extensions of one FITS file.

    STACK, MODEL, RESIDUAL (star - model) and SIGMA are stacks of all stars that were used, scaled
    to flux 1; STARS is the table of all stars, RESIDUALS their (star - model) / sigma, CLIPPED 1
    where a pixel was left out; PARAMETERS the mixture at every position of the store.

    Parameters
    ----------
    path : path
        Replaced if it exists.
    fit : psfmix.stars.StarFit
    model : PSFModel
    provenance : dict
        Numbers and texts for the primary header; keys may be long.
    """
    primary = fits.PrimaryHDU()
    primary.header["NGAUSS"] = (model.parameters.shape[1], "Gaussians")
    primary.header["NSTAR"] = (int(fit.accepted.sum()), "stars that were used")
    primary.header["ORDER"] = (fit.field.order, "of the polynomials of the position")
    primary.header["PIXINCL"] = (bool(fit.includes_pixel), "the mixture includes the native pixel")
    for key, value in provenance.items():
        primary.header.add_history(ascii_text(f"{key} = {value}"))
    star, stacked, sigma = fit.stacks()
    with np.errstate(invalid="ignore"):
        residuals = np.where(
            np.isfinite(fit.sigma), (fit.stamps.images - fit.models) / fit.sigma, np.nan
        )
    pictures = {
        "STACK": star, "MODEL": stacked, "RESIDUAL": star - stacked, "SIGMA": sigma,
        "RESIDUALS": residuals,
    }  # fmt: skip
    hdus = [primary]
    hdus += [fits.ImageHDU(np.asarray(v, np.float32), name=k) for k, v in pictures.items()]
    hdus.append(fits.ImageHDU((~fit.used).astype(np.uint8), name="CLIPPED"))
    hdus.append(fits.BinTableHDU(fit.table, name="STARS"))
    hdus.append(fits.BinTableHDU(_parameter_table(model), name="PARAMETERS"))
    with replacing(path) as temporary:
        fits.HDUList(hdus).writeto(temporary, overwrite=True)
