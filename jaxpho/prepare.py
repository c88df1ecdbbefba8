"""From the PSFs that a configuration names to mixtures, fitted once and kept in a store.

The only module that imports psfmix, and only when a PSF image or a PSFEx model asks for it.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxpho.data.exposure import Exposure, PSFInput
from jaxpho.data.fitsread import FitsFile
from jaxpho.data.options import PSFOptions
from jaxpho.data.psfex import PSFExModel, read_psfex
from jaxpho.data.psfinput import read_psf_input, rotate_model
from jaxpho.data.psfmodel import PSFModel
from jaxpho.data.psfstore import list_psf_groups, read_psf_store, write_psf_store
from jaxpho.data.units import number_or_key
from jaxpho.data.wcs import world_to_pixel
from jaxpho.errors import InputError
from jaxpho.schema import build

log = logging.getLogger("jaxpho.prepare")

NGAUSS = 4
MAX_POSITIONS = 16
"""PSFEx models are evaluated at every source up to this number, then on a 4 x 4 grid."""
POOR_RESIDUAL = 0.10
POOR_ENCIRCLED = 0.05
"""Sources of an exposure whose mixture is worse than this are flagged bad_psf."""
NOTABLE_RESIDUAL = 0.02
NOTABLE_ENCIRCLED = 0.01
"""Worse than this is worth a warning: fluxes are off by about as much as the encircled energy."""


@dataclass
class PSFQuality:
    """How well the mixtures of an exposure describe its PSF (worst over the detector)."""

    residual: float = np.nan
    ee_error: float = np.nan

    def __str__(self) -> str:
        return (
            f"residual {100 * self.residual:.2f} % of peak, encircled energy within "
            f"{100 * self.ee_error:.2f} % at 1-5 px"
        )

    @property
    def poor(self) -> bool:
        """Whether photometry with this PSF deserves a flag."""
        return self.residual > POOR_RESIDUAL or self.ee_error > POOR_ENCIRCLED

    @property
    def notable(self) -> bool:
        """Whether the user should hear that a better mixture may be had."""
        return self.residual > NOTABLE_RESIDUAL or self.ee_error > NOTABLE_ENCIRCLED


@dataclass
class _Job:
    """PSF images of one exposure (or shared by several) and how to fit them."""

    images: list[np.ndarray]
    locations: np.ndarray | None
    oversample: float
    includes_pixel: bool
    options: object
    group: str
    label: str


def prepare_psfs(
    exposures: Sequence[Exposure],
    peaks: Sequence,
    cache,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, PSFQuality]:
    """Replace the `PSFInput` of every exposure by a `PSFModel`.

    Parameters
    ----------
    exposures : changed in place: `psf`, and `notes["psf"]`.
    peaks : sources, with ra and dec in degrees; PSFEx models are evaluated at them.
    cache : HDF5 store of fitted mixtures, read and extended. Entries are named by a checksum of
        the PSF image and the options, so that a changed file or option is fitted anew.
    progress : called with (mixtures fitted, mixtures to fit).

    Returns
    -------
    exposure name -> PSFQuality (NaN for mixtures given by the user)

    Raises
    ------
    InputError
        For an exposure without PSF, or a PSF file that cannot be used.
    """
    cache = Path(cache)
    known = set(list_psf_groups(cache)) if cache.is_file() else set()
    quality, jobs = {}, {}
    for exposure in exposures:
        if isinstance(exposure.psf, PSFModel):
            quality[exposure.name] = PSFQuality()
        elif exposure.psf is None:
            raise InputError(
                f"exposure {exposure.name} (band {exposure.band}) has no PSF: "
                "give psf.store, psf.file or psf.psfex in its entry of `images`"
            )
        else:
            found = read_psf(exposure, peaks)
            if isinstance(found, PSFModel):
                exposure.psf = found
                quality[exposure.name] = PSFQuality()
            else:
                jobs[exposure.name] = found
    wanted = {job.group: job for job in jobs.values() if job.group not in known}
    if wanted:
        log.info("fitting PSF mixtures: %d of %d exposures", len(wanted), len(exposures))
    total = sum(len(job.images) for job in wanted.values())
    done = 0
    for job in wanted.values():
        fits = _fit_job(job)
        done += len(fits)
        if progress is not None:
            progress(done, total)
        write_psf_store(cache, job.group, _reduced(_model_of(job, fits), job.label))
    for exposure in exposures:
        if exposure.name in jobs:
            job = jobs[exposure.name]
            model = read_psf_store(cache, job.group)
            # bookkeeping of fits must not be turned twice: the angle is applied on reading
            exposure.psf = rotate_model(model, job.options.rotate)
            found = PSFQuality(*(float(model.attrs[k]) for k in ("residual", "ee_error")))
            quality[exposure.name] = found
            source = "cached" if job.group in known else "fitted"
            _report(exposure, job, found, source)
    return quality


def check_psfs(exposures: Sequence[Exposure], peaks: Sequence) -> None:
    """Read every PSF and raise InputError for the first that cannot be used; fits nothing."""
    for exposure in exposures:
        if isinstance(exposure.psf, PSFInput):
            read_psf(exposure, peaks)


def psf_from_image(
    image,
    *,
    oversample: float = 1.0,
    ngauss: int = NGAUSS,
    signed: bool = False,
    includes_pixel: bool | None = None,
    center: str = "peak",
    normalize: str = "unit",
    trim: int = 0,
) -> PSFModel:
    """The mixture of Gaussians that stands for a PSF image, for notebooks.

    Parameters
    ----------
    image : array
        [ny, nx] the PSF, of any sum.
    oversample : float
        Samples of `image` per pixel of the exposures.
    ngauss : int
        Gaussians: more describe the PSF better, and take longer to fit with.
    signed : bool
        Allow negative Gaussians: half the residual, for space telescopes.
    includes_pixel : bool, optional
        The image is already integrated over the exposures' pixel; default: yes at
        ``oversample=1``, else no.
    center : str
        What is put at a source's position: "peak" (fitted centre of the core), "stamp" (middle of
        the array) or "centroid".
    normalize : str
        Amplitudes sum to 1 ("unit") or to the sum of the image ("stamp").
    trim : int
        Samples cut off every side.

    Returns
    -------
    PSFModel
        ``attrs`` has `residual` (largest, of the peak) and `ee_error` (of the encircled energy at
        1-5 pixels); worse than 2 % or 1 % is warned about.

    Raises
    ------
    InputError
        For an image or an option that cannot be used.
    """
    image = np.asarray(image, float)
    if image.ndim != 2:
        raise InputError(f"PSF image: found {image.ndim} dimensions, expected 2")
    if not oversample > 0:
        raise InputError(f"PSF image: oversample is {oversample}, expected a value > 0")
    given = {"ngauss": ngauss, "signed": signed, "includes_pixel": includes_pixel, "trim": trim}
    given |= {"center": center, "normalize": normalize}
    options = build(PSFOptions, given, path="psf_from_image")
    includes = oversample == 1.0 if includes_pixel is None else includes_pixel
    job = _Job([image], None, float(oversample), includes, options, "", "PSF image")
    model = _reduced(_model_of(job, _fit_job(job)), job.label)
    found = PSFQuality(model.attrs["residual"], model.attrs["ee_error"])
    if found.notable:
        hint = "more Gaussians (ngauss) or signed=True may help"
        log.warning("PSF image: %d Gaussians, %s; %s", ngauss, found, hint)
    return model


def read_psf(exposure: Exposure, peaks: Sequence) -> PSFModel | _Job:
    """The mixture of a store, or what is to be fitted, checked; errors name file and exposure."""
    psf: PSFInput = exposure.psf
    try:
        return read_psf_input(psf) if psf.kind == "store" else _make_job(exposure, peaks)
    except InputError as error:
        text = str(error)
        where = "" if psf.path.name in text else f"PSF {psf.path}: "
        raise InputError(f"{where}{text} (exposure {exposure.name})") from None


def _report(exposure: Exposure, job: _Job, found: PSFQuality, source: str) -> None:
    text = f"{job.label}: {exposure.psf.ngauss} Gaussians ({source}), {found}"
    exposure.notes["psf"] = text
    say, hint = log.info, ""
    if found.notable:
        now = f"psf.ngauss is {exposure.psf.ngauss}"
        say, hint = log.warning, f"; more Gaussians ({now}) or psf.signed: true may help"
    say("%s: PSF %s%s", exposure.name, text, hint)


def _make_job(exposure: Exposure, peaks: Sequence) -> _Job:
    psf: PSFInput = exposure.psf
    options = psf.options
    if psf.kind == "psfex":
        model = _read_psfex(psf)
        locations = detector_positions(exposure, peaks, constant=model.degree == 0)
        unit = options.normalize == "unit"
        images = [model.image(x, y, normalize=unit) for x, y in locations]
        oversample, default = model.oversample, True
        locations = locations if len(locations) > 1 else None
    else:
        with FitsFile(psf.path) as f:
            index = f.index(psf.ext)
            images, header = [np.asarray(f.image(index), float)], f.header(index)
        locations, oversample = None, psf.oversample
        if psf.oversample_key is not None:
            where = f"PSF {psf.path}: oversample"
            oversample = float(number_or_key(psf.oversample_key, header, None, where))
        if not oversample > 0:
            raise InputError(f"PSF {psf.path}: oversample is {oversample}, expected a value > 0")
        default = oversample == 1.0
    includes = default if options.includes_pixel is None else options.includes_pixel
    from psfmix.convert import FIT_VERSION  # cached mixtures of another recipe are not used
    from psfmix.target import check_image

    for image in images:
        check_image(
            image,
            oversample=oversample,
            normalize=options.normalize,
            trim=options.trim,
            ngauss=options.ngauss or NGAUSS,
        )
        psf_center(image, options.center, options.trim)

    text = [FIT_VERSION, options.trim, options.center, options.normalize, options.ngauss or NGAUSS]
    text += [options.signed, includes, f"{oversample:.9g}"]
    digest = hashlib.sha256(repr(text).encode())
    for image in images:
        digest.update(str(image.shape).encode() + np.ascontiguousarray(image, "<f8").tobytes())
    if locations is not None:
        digest.update(np.round(locations, 1).tobytes())
    group = f"{psf.kind}/{digest.hexdigest()[:32]}"
    return _Job(images, locations, oversample, includes, options, group, psf.path.name)


def _read_psfex(psf: PSFInput) -> PSFExModel:
    chosen = {key.lower(): value for key, value in psf.rows.items()}
    unknown = sorted(set(chosen) - {"expnum", "ccdname"})
    if unknown:
        raise InputError(
            f"PSFEx file {psf.path}: a row is picked by expnum and ccdname, found '{unknown[0]}'"
        )
    return read_psfex(psf.path, psf.ext, **chosen)


def detector_positions(exposure: Exposure, peaks: Sequence, constant: bool = False) -> np.ndarray:
    """Pixels [n, 2] at which a varying PSF is wanted: the sources, or a grid over many.

    A source outside the image takes the nearest pixel inside, because the polynomial of a PSFEx
    model means nothing beyond the detector.
    """
    ny, nx = exposure.shape
    if constant or not len(peaks):
        return np.array([[(nx - 1) / 2, (ny - 1) / 2]])
    ra, dec = (np.array([getattr(p, k) for p in peaks], float) for k in ("ra", "dec"))
    xy = np.clip(world_to_pixel(exposure.wcs, ra, dec), 0, [nx - 1, ny - 1])
    xy = np.unique(np.round(xy[np.isfinite(xy).all(axis=1)], 1), axis=0)
    if len(xy) <= MAX_POSITIONS:
        return xy if len(xy) else np.array([[(nx - 1) / 2, (ny - 1) / 2]])
    side = int(np.sqrt(MAX_POSITIONS))
    axes = [np.linspace(xy[:, k].min(), xy[:, k].max(), side) for k in (0, 1)]
    return np.unique(np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2), axis=0)


def _fit_job(job: _Job) -> list:
    """The `MixtureFit` of each image; components of several correspond, to be interpolated."""
    from psfmix.corresponding import fit_corresponding
    from psfmix.fit import fit_mixture

    options = job.options
    centers = [psf_center(image, options.center, options.trim) for image in job.images]
    given = {
        "oversample": job.oversample,
        "ngauss": options.ngauss or NGAUSS,
        "signed": options.signed,
        "includes_pixel": job.includes_pixel,
        "normalize": options.normalize,
        "trim": options.trim,
    }
    if len(job.images) == 1:
        return [fit_mixture(job.images[0], center=centers[0], **given)]
    return fit_corresponding(job.images, job.locations, centers=centers, **given)


def _model_of(job: _Job, fits: list) -> PSFModel:
    attrs = {
        "residual": max(fit.residual for fit in fits),
        "ee_error": max(fit.ee_error for fit in fits),
        "centroid_error": max(fit.centroid_error for fit in fits),
        "shape_error": max(fit.shape_error for fit in fits),
        "source": job.label,
        "oversample": job.oversample,
        "center": job.options.center,
    }
    return PSFModel(
        np.stack([fit.parameters for fit in fits]),
        job.locations,
        job.includes_pixel,
        job.options.normalize,
        attrs,
    )


def _reduced(model: PSFModel, label: str) -> PSFModel:
    """The model with reduced mixtures for wide Gaussians (`jaxpho.fit.reduce` says where)."""
    from psfmix.reduced import reduce_model

    try:
        out = reduce_model(model)
    except (ArithmeticError, np.linalg.LinAlgError) as error:
        # they save time only: a fit goes on with the full mixture
        log.warning("%s: no reduced mixtures (%s)", label, error)
        return model
    log.debug("%s: %d reduced mixtures", label, len(out.reduced))
    return out


def psf_center(image: np.ndarray, how: str = "peak", trim: int = 0) -> tuple[float, float]:
    """The pixel (x, y) of a PSF image that is put at a source's position.

    Parameters
    ----------
    image : [ny, nx]
    how : "peak" (centroid in a Gaussian window of the core's own width, iterated), "stamp"
        (middle of the array) or "centroid" (of all its light).
    trim : pixels to leave out on every side.
    """
    ny, nx = image.shape
    if how == "stamp":
        return (nx - 1) / 2, (ny - 1) / 2
    inner = np.zeros(image.shape, bool)
    inner[trim : ny - trim, trim : nx - trim] = True
    light = np.where(inner & np.isfinite(image), image, 0.0)
    y, x = np.indices(image.shape)
    if not light.sum() > 0:
        raise InputError(f"PSF image of {nx} x {ny} pixels sums to {light.sum():.3g}, expected > 0")
    if how == "centroid":
        return tuple(float((light * axis).sum() / light.sum()) for axis in (x, y))
    cy, cx = (float(k) for k in np.unravel_index(np.argmax(light), light.shape))
    sigma = max(np.sqrt(np.count_nonzero(light > light.max() / 2) / np.pi), 1.0)
    for _ in range(50):
        window = light * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * sigma**2))
        # with a window as wide as the core, a step of twice the shift lands on the centre
        dx, dy = (float((window * (a - c)).sum() / window.sum()) for a, c in ((x, cx), (y, cy)))
        cx, cy = cx + 2 * dx, cy + 2 * dy
        if np.hypot(dx, dy) < 1e-6:
            break
    return cx, cy
