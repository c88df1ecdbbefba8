"""Mixtures turned, rescaled, gathered into PSF models, and named for a cache."""

import hashlib
import json

import numpy as np

from jaxpho.data.psfmodel import PSFModel
from jaxpho.errors import InputError
from psfmix.corresponding import fit_corresponding
from psfmix.fit import fit_mixture

# Part of every cache key: raise it when the fit changes.
FIT_VERSION = 9


def rotate_parameters(parameters, degrees):
    """A mixture turned counter-clockwise (from +x towards +y) about its reference point.

    Parameters
    ----------
    parameters : structured array of `PSF_DTYPE`, any shape
    degrees : float
        For a PSF in the detector frame used on a mosaic: the angle of the detector's x axis
        measured from the mosaic's x axis towards its y axis.

    Returns
    -------
    structured array, same shape
        Amplitudes (and so the total flux) are unchanged.
    """
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return transform_parameters(parameters, np.array([[cos, -sin], [sin, cos]]))


def rescale_parameters(parameters, factor):
    """A mixture on another pixel scale; amplitudes are fluxes and stay.

    Parameters
    ----------
    parameters : structured array of `PSF_DTYPE`, any shape
    factor : float
        Old pixel size divided by the new one: lengths are multiplied by it.

    Returns
    -------
    structured array, same shape
    """
    if not (np.isfinite(factor) and factor > 0):
        raise InputError(f"PSF pixel scale factor is {factor}; expected a positive number")
    return transform_parameters(parameters, factor * np.eye(2))


def transform_parameters(parameters, matrix):
    """A mixture under the linear map `matrix` (2, 2) of pixel offsets; amplitudes stay."""
    matrix = np.asarray(matrix, dtype=float)
    out = parameters.copy()
    x, y = (np.asarray(parameters[name], dtype=float) for name in ("xcr", "ycr"))
    cxx, cyy, cxy = (np.asarray(parameters[name], dtype=float) for name in ("Cxx", "Cyy", "Cxy"))
    (a, b), (c, d) = matrix
    out["xcr"], out["ycr"] = a * x + b * y, c * x + d * y
    out["Cxx"] = a * a * cxx + 2 * a * b * cxy + b * b * cyy
    out["Cyy"] = c * c * cxx + 2 * c * d * cxy + d * d * cyy
    out["Cxy"] = a * c * cxx + (a * d + b * c) * cxy + b * d * cyy
    return out


def fit_grid(images, locations=None, progress=False, **options):
    """Mixtures at several detector positions, components in correspondence.

    The image nearest the middle of the locations is searched for a mixture; all others are tied to
    it, so that components keep their meaning and interpolation between locations is good: see
    `psfmix.corresponding`.

    Parameters
    ----------
    images : sequence of array (ny, nx)
    locations : array (nloc, 2), optional
        x, y pixel of each image; needed when there are several.
    progress : bool
        Show a progress bar on standard error.
    **options
        Of `psfmix.fit.fit_mixture`, ``start`` apart.

    Returns
    -------
    PSFModel
    list of MixtureFit
        In the order of the images.
    """
    images = list(images)
    if not images:
        raise InputError("no PSF image to fit")
    if locations is None and len(images) > 1:
        raise InputError(f"{len(images)} PSF images need {len(images)} detector locations")
    places = np.zeros((1, 2)) if locations is None else np.asarray(locations, dtype=float)
    if places.shape != (len(images), 2):
        raise InputError(
            f"PSF locations have shape {places.shape}; expected ({len(images)}, 2): x, y per image"
        )
    if len(images) == 1:
        fits = [fit_mixture(images[0], **options)]
    else:
        fits = fit_corresponding(images, places, progress=progress, **options)
    model = PSFModel(
        parameters=np.stack([fit.parameters for fit in fits]),
        locations=places if len(images) > 1 else None,
        includes_pixel=fits[0].includes_pixel,
        amplitude_sum=fits[0].amplitude_sum,
        attrs={
            "residual": max(fit.residual for fit in fits),
            "ee_error": max(fit.ee_error for fit in fits),
            "centroid_error": max(fit.centroid_error for fit in fits),
            "shape_error": max(fit.shape_error for fit in fits),
        },
    )
    return model, fits


def cache_key(image, **options):
    """Hex digest that names the mixture of an image under these options of the fit.

    Parameters
    ----------
    image : array
        Its values, shape and precision count.
    **options
        Numbers, strings, booleans, None, sequences and arrays.

    Returns
    -------
    str
        32 hexadecimal digits.
    """
    image = np.ascontiguousarray(image)
    # Byte order depends on the file, not on the PSF.
    image = image.astype(image.dtype.newbyteorder("="), copy=False)
    digest = hashlib.sha256(f"{FIT_VERSION} {image.dtype.str} {image.shape}".encode())
    digest.update(image.tobytes())
    for name in sorted(options):
        value = options[name]
        digest.update(name.encode())
        if isinstance(value, np.ndarray):
            digest.update(f"{value.dtype.str} {value.shape}".encode())
            digest.update(np.ascontiguousarray(value).tobytes())
        else:
            digest.update(json.dumps(value, default=float).encode())
    return digest.hexdigest()[:32]
