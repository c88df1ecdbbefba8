"""Fit a Gaussian mixture to a PSF image by Levenberg-Marquardt."""

import logging
from dataclasses import dataclass, field

import numpy as np

from jaxpho.data.psfmodel import PSF_DTYPE
from jaxpho.errors import InputError
from psfmix.centroid import moment_rows, shape_rows, weight_widths
from psfmix.lm import Options, minimise
from psfmix.model import AMP, CXX, CYY, brightness, to_free
from psfmix.search import polish, search
from psfmix.target import build_target

log = logging.getLogger("psfmix.fit")

# Smallest sigma (native px): narrower components would make the renderer's pixel term inaccurate.
# Of a PSF whose core is narrower still, this part of the core's sigma.
FLOOR, FLOOR_CORE = 0.4, 0.75
_MAX_STEPS = 150
FWHM = np.sqrt(8 * np.log(2))
# Blocks of the target and of its coarse twin: the FWHM stays this many blocks wide.
_FINE, _COARSE = 5.5, 3.5


@dataclass(frozen=True)
class MixtureFit:
    """A mixture and how well it describes its image.

    Attributes
    ----------
    parameters : structured array of `PSF_DTYPE`, shape (ngauss,)
        Native pixels, widest amplitude first; ``sersic_bin`` is -1.
    residual : float
        max |model - image| / max image, on the input sampling.
    ee_error : float
        Largest |encircled energy error| at 1-5 native px, relative to the stamp's sum.
    ee_radii, ee_errors : arrays
        The same (signed) at every radius of the fit, native px; the last is the whole stamp.
    centroid_error : float
        Largest distance, native px, between the centroids of model and image under Gaussian
        weights of sigma .5, 1, 2 and 4 times the image's FWHM (those within half of the stamp's
        half width), which is how far galaxies of those widths are misplaced: `psfmix.centroid`.
    shape_error : float
        Largest error of the ellipticity ((xx - yy, 2 xy) over xx + yy) under the same weights.
    includes_pixel, oversample, amplitude_sum, signed
        As the fit was asked.
    center : (x, y)
        Reference point in pixels of the (trimmed) image.
    shape : (ny, nx) of the (trimmed) image
    steps : int
        Levenberg-Marquardt iterations spent.
    """

    parameters: np.ndarray
    residual: float
    ee_error: float
    ee_radii: np.ndarray
    ee_errors: np.ndarray
    centroid_error: float
    shape_error: float
    includes_pixel: bool
    oversample: float
    amplitude_sum: str
    signed: bool
    center: tuple[float, float]
    shape: tuple[int, int]
    steps: int = 0
    cost: float = field(default=np.nan)

    def render(self, shape=None, oversample=None, center=None):
        """The mixture as an image in the units of the fitted one.

        Parameters
        ----------
        shape : (ny, nx), optional
            The fitted image's by default.
        oversample : float, optional
            Image pixels per native pixel, the fitted image's by default.
        center : (x, y), optional
            Pixel of the reference point; the fitted one, or the geometric centre of `shape`.

        Returns
        -------
        array (ny, nx)
        """
        sampling = self.oversample if oversample is None else oversample
        if center is None and shape is None and oversample is None:
            center = self.center
        return render_parameters(
            self.parameters,
            self.shape if shape is None else shape,
            sampling,
            includes_pixel=self.includes_pixel,
            center=center,
        )


def render_parameters(parameters, shape, oversample=1.0, *, includes_pixel=False, center=None):
    """Image of a mixture of `PSF_DTYPE`: pixel-integrated unless it includes the pixel.

    Parameters
    ----------
    parameters : structured array (ngauss,)
    shape : (ny, nx)
    oversample : float
        Image pixels per native pixel.
    includes_pixel : bool
    center : (x, y), optional
        Pixel of the reference point, the geometric centre by default.

    Returns
    -------
    array (ny, nx), float64
        Flux per image pixel: sums to the amplitudes' sum where the image is large enough.
    """
    ny, nx = shape
    cx, cy = ((nx - 1) / 2, (ny - 1) / 2) if center is None else center
    gx, gy = np.meshgrid((np.arange(nx) - cx) / oversample, (np.arange(ny) - cy) / oversample)
    pixel = 0.0 if includes_pixel else 1 / (12 * oversample**2)
    return brightness(to_array(parameters), gx, gy, pixel, pixel) / oversample**2


def to_array(parameters):
    """Structured `PSF_DTYPE` [ngauss] as float64 [ngauss, 6]."""
    names = ("amp", "xcr", "ycr", "Cxx", "Cyy", "Cxy")
    return np.stack([np.asarray(parameters[name], dtype=float) for name in names], axis=-1)


def from_array(raw):
    """Float [ngauss, 6] as structured `PSF_DTYPE` [ngauss], for all Sersic radii."""
    out = np.zeros(len(raw), dtype=PSF_DTYPE)
    for column, name in enumerate(("amp", "xcr", "ycr", "Cxx", "Cyy", "Cxy")):
        out[name] = raw[:, column]
    out["sersic_bin"] = -1
    return out


def fit_mixture(
    image,
    *,
    oversample=1.0,
    ngauss=4,
    signed=False,
    includes_pixel=False,
    normalize="unit",
    trim=0,
    center=None,
    weight=None,
    start=None,
    floor=None,
    max_steps=_MAX_STEPS,
):
    """Fit a mixture of `ngauss` Gaussians to a PSF image.

    Parameters
    ----------
    image : array (ny, nx)
        The PSF; pixels that are not finite are ignored.
    oversample : float
        Image pixels per native detector pixel.
    ngauss : int
        Number of components.
    signed : bool
        Let amplitudes be negative: half the residual, at the price of components that cancel.
    includes_pixel : bool
        The image is the effective PSF (already convolved with the native pixel: PSFEx, drizzled
        or native-sampled stars). The mixture is then its value at pixel centres. Otherwise the
        image pixel is taken as an integration over 1/oversample native pixels and removed.
    normalize : {"unit", "stamp"}
        Amplitudes sum to 1 (the stamp's flux counts as all of it) or to the stamp's sum.
    trim : int
        Image pixels removed on every side first.
    center : (x, y), optional
        Pixel of the reference point in the untrimmed image; default the geometric centre
        ((nx-1)/2, (ny-1)/2) of the trimmed one.
    weight : array (ny, nx), optional
        Relative inverse variance of the pixels.
    start : structured array or MixtureFit, optional
        Start here instead of searching: components keep their order and meaning.
    floor : float, optional
        Smallest sigma, native px; default .4, or three quarters of FWHM / 2.355 where that is less.
    max_steps : int
        Limit on the iterations of the final minimisation.

    Returns
    -------
    MixtureFit

    Raises
    ------
    InputError
        The image or an option cannot be used.
    """
    target, coarse = build_targets(
        image,
        oversample=float(oversample),
        includes_pixel=includes_pixel,
        normalize=normalize,
        trim=trim,
        center=center,
        weight=weight,
    )
    check_size(ngauss, target)
    floor = floor_of(target) if floor is None else floor
    options = Options(floor=floor, signed=signed)
    if start is not None:
        raw = to_array(getattr(start, "parameters", start)).copy()
        if len(raw) != ngauss:
            raise InputError(f"the start has {len(raw)} Gaussians; {ngauss} were asked for")
        raw[:, AMP] *= target.total / raw[:, AMP].sum()
        best = minimise(to_free(raw, floor, signed), target, options, max_steps)
        best = polish(best, target, options)
    else:
        best = search(target, coarse, ngauss, options, max_steps)
    return finish(best, target, options, includes_pixel, normalize, in_order=start is not None)


def floor_of(target):
    """Smallest sigma (native px) that suits a PSF."""
    return min(FLOOR, FLOOR_CORE * target.fwhm / FWHM)


def check_size(ngauss, target):
    """Raise InputError when a target has too few samples for so many Gaussians."""
    if ngauss < 1 or 6 * ngauss > len(target.x):
        raise InputError(f"{ngauss} Gaussians for a PSF image with {len(target.x)} usable samples")


def finish(best, target, options, includes_pixel, normalize, in_order=False):
    """The `MixtureFit` of a minimiser's state; components by size unless they are `in_order`."""
    raw = best.raw.copy()
    raw[:, AMP] *= target.total / raw[:, AMP].sum()
    if not in_order:
        raw = raw[np.argsort(raw[:, CXX] + raw[:, CYY], kind="stable")]
    return measure(
        from_array(raw),
        target,
        includes_pixel,
        normalize,
        options.signed,
        steps=best.steps,
        cost=best.cost,
    )


def build_targets(image, **layout):
    """`psfmix.target.build_target` twice: for the fit, and coarser for its first stages."""
    target = build_target(image, **layout)
    pixels = target.fwhm * target.oversample
    coarse = target
    if pixels >= 2 * _COARSE:
        coarse = build_target(image, **layout, smallest=pixels / _COARSE)
    if pixels >= 2 * _FINE:
        target = build_target(image, **layout, smallest=pixels / _FINE)
    return target, coarse


def measure(parameters, target, includes_pixel, normalize, signed, steps=0, cost=np.nan):
    """The `MixtureFit` of a stored (float32) mixture, measured on its target's image."""
    image = target.image
    model = render_parameters(
        parameters,
        image.shape,
        target.oversample,
        includes_pixel=includes_pixel,
        center=target.center,
    )
    good = np.isfinite(image)
    difference = np.where(good, model - image, 0.0)
    gx, gy = target.grid()
    gx, gy = gx - target.ee_center[0], gy - target.ee_center[1]
    distance = np.hypot(gx, gy)
    total = np.sum(image[good])
    errors = np.array([difference[distance <= r].sum() / total for r in target.ee_radii])
    reported = errors[target.ee_reported]
    widths = weight_widths(target.fwhm, target.halfsize)
    rows = moment_rows(gx[good], gy[good], 1.0, image[good], widths)
    shifts = np.hypot(*(rows @ difference[good]))
    rows = shape_rows(gx[good], gy[good], 1.0, image[good], widths)
    shapes = np.hypot(*(rows @ difference[good]))
    fit = MixtureFit(
        parameters=parameters,
        residual=float(np.max(np.abs(difference)) / np.max(image[good])),
        ee_error=float(np.max(np.abs(reported))) if len(reported) else float("nan"),
        ee_radii=target.ee_radii,
        ee_errors=errors,
        centroid_error=float(shifts.max()),
        shape_error=float(shapes.max()),
        includes_pixel=includes_pixel,
        oversample=target.oversample,
        amplitude_sum=normalize,
        signed=signed,
        center=target.center,
        shape=image.shape,
        steps=steps,
        cost=cost,
    )
    log.info(
        "PSF mixture: %d Gaussians%s, residual %.2f%% of peak, encircled energy within %.2f%% "
        "at 1-5 px, centroids within %.3f px, ellipticities within %.3f",
        len(parameters),
        " (signed)" if signed else "",
        100 * fit.residual,
        100 * fit.ee_error,
        fit.centroid_error,
        fit.shape_error,
    )
    return fit
