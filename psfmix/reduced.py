"""Smaller mixtures for what is already smooth: a PSF convolved with a wide Gaussian needs few.

A Gaussian of a galaxy of width s sees the PSF smoothed by s. A mixture with fewer components that
describes the smoothed PSF, with s^2 taken off its covariances, serves that Gaussian as well as the
full one does. It must go on to do so for every wider Gaussian, round or elongated: the error is
therefore the largest over all of them.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from jaxpho.data.psfmodel import PSFModel, ReducedPSF, mean_mixture
from jaxpho.errors import InputError
from psfmix.elimination import Rows, fit_smaller, without_one
from psfmix.fit import from_array, to_array
from psfmix.model import AMP, brightness
from psfmix.smoothing import largest_difference, points, sigmas, smoothed, smoothings

TOLERANCE = 1e-4
"""Largest difference between reduced and full smoothed PSF, of the latter's peak.

A galaxy is a sum of Gaussians with positive amplitudes (n >= .5): its error is a mean of theirs.
"""
TOLERANCES = (1e-4, 5e-4, 2.5e-3)
"""Those of a stored ladder. The widest Gaussians of a galaxy add so little to its peak that larger
errors of theirs are as small a part of it."""
# Ratio of successive widths of a ladder, the least ones in the narrowest component's sigma, and the
# largest in the widest's.
_RUNGS, _FIRST, _LAST = np.sqrt(2), (0.1, 0.2, 0.35, 0.5), 4.0
# What a smaller mixture is fitted to: ratio of smoothings, circles in sigma, points on each.
_FIT_RATIO, _FIT_CIRCLES, _FIT_ANGLES = 2.0, np.arange(0.0, 4.6, 0.75), 10
# Widths of components are not taken to zero: a stored covariance is positive definite.
_LEAST = 1e-3


class Reduced(NamedTuple):
    """A smaller mixture.

    Attributes
    ----------
    width : float
        Smoothing (sigma of the minor axis, native pixels) from which on it may be used.
    parameters : structured array of `PSF_DTYPE`, shape (ngauss,)
    error : float
        max |reduced - full| / max full, both smoothed, over positions and over all smoothings of
        `width` and more.
    """

    width: float
    parameters: np.ndarray
    error: float

    @property
    def ngauss(self):
        """Number of Gaussians."""
        return len(self.parameters)


def default_widths(parameters):
    """Widths at which a ladder may change its size, native pixels."""
    narrow, wide = sigmas(parameters)
    first, last = _FIRST[-1] * narrow, _LAST * wide
    steps = np.arange(np.ceil(np.log(last / first) / np.log(_RUNGS)) + 1)
    return np.concatenate([narrow * np.array(_FIRST[:-1]), first * _RUNGS**steps])


def reduce_mixture(parameters, width, tolerance=TOLERANCE):
    """The smallest mixture found that serves for Gaussians of sigma `width` and wider.

    Parameters
    ----------
    parameters : structured array of `PSF_DTYPE`, shape (ngauss,)
    width : float
        Native pixels.
    tolerance : float
        See `TOLERANCE`.

    Returns
    -------
    Reduced
        The mixture itself, with error 0, where no smaller one is good enough.

    Raises
    ------
    InputError
        The width or the tolerance is not a positive number.
    """
    return reduced_ladder(parameters, [width], tolerance)[-1]._replace(width=float(width))


def reduced_ladder(parameters, widths=None, tolerance=TOLERANCE):
    """Reduced mixtures for ascending widths: each size once, at the least width that it serves.

    Parameters
    ----------
    parameters : structured array of `PSF_DTYPE`, shape (ngauss,)
    widths : floats, optional
        Native pixels; default those of `default_widths`.
    tolerance : float
        See `TOLERANCE`.

    Returns
    -------
    list of Reduced
        Sizes fall with the width; the first is the mixture itself, at width 0.

    Raises
    ------
    InputError
        A width or the tolerance is not a positive number.
    """
    full = np.asarray(parameters)
    found = _ladder(PSFModel(full[None]), widths, tolerance, lambda: None)
    rungs = [Reduced(0.0, full.copy(), 0.0)]
    return rungs + [Reduced(r.width, r.parameters[0], r.error) for r in found]


def reduce_model(model, widths=None, tolerances=TOLERANCES, progress=None):
    """A PSF model with ladders of reduced mixtures.

    Parameters
    ----------
    model : PSFModel
        One mixture for all Sersic radii.
    widths : floats, optional
        Native pixels; default those of `default_widths`.
    tolerances : floats
        One ladder for each.
    progress : callable, optional
        Called with (steps done, steps to do).

    Returns
    -------
    PSFModel
        The model with ``reduced``, by width. Sizes and widths are the same at all locations, and
        components correspond: each location starts from its nearest neighbour. Errors are the
        largest over the locations and the points halfway to their neighbours, as mixtures are
        interpolated between them.

    Raises
    ------
    InputError
        A width or a tolerance is not a positive number, or the model has different mixtures for
        different Sersic radii.
    """
    single = model.collapsed()
    if single is None:
        raise InputError("this PSF has mixtures of its own for every Sersic radius; expected one")
    widths = default_widths(single.parameters.ravel()) if widths is None else list(widths)
    count = iter(range(1, len(widths) * len(tolerances) + 1))

    def step():
        if progress is not None:
            progress(next(count), len(widths) * len(tolerances))

    rungs = [r for t in sorted(tolerances) for r in _ladder(single, widths, t, step)]
    kept = []
    for r in sorted(rungs, key=lambda r: (r.width, r.error)):
        # of use only if nothing as small serves narrower Gaussians as well
        if all(k.parameters.shape[1] > r.parameters.shape[1] or k.error > r.error for k in kept):
            kept.append(r)
    return model.with_reduced(kept)


def _ladder(model, widths, tolerance, step):
    """`ReducedPSF` of ascending width and falling size; `step` is called after each width."""
    widths = default_widths(model.parameters.ravel()) if widths is None else widths
    for name, value in [("tolerance", tolerance), *(("smoothing width", w) for w in widths)]:
        if not (np.isfinite(value) and value > 0):
            raise InputError(f"{name} is {value}; expected a positive number")
    order, parents = _tour(model.locations)
    full = [to_array(p) for p in model.parameters]
    current, rungs = full, []
    failed: list = [None] * len(full)
    for width in sorted(set(map(float, widths))):
        rows = [_rows(f, width) for f in full]
        found = None
        while len(current[0]) > 1:
            smaller, error, failed = _smaller(
                current, failed, rows, full, width, tolerance, order, parents
            )
            if smaller is None:
                break
            current, found, failed = smaller, (smaller, error), [None] * len(full)
        if found is not None:
            parameters = np.stack([from_array(raw) for raw in found[0]])
            error = max(found[1], _between(parameters, model, width, tolerance))
            if error <= tolerance:
                rungs.append(ReducedPSF(width, parameters, error))
            else:  # fine at the locations, not between them: the next width tries again
                current = full if not rungs else [to_array(p) for p in rungs[-1].parameters]
        step()
    return rungs


def _smaller(current, failed, rows, full, width, tolerance, order, parents):
    """Mixtures of one component less at all locations: (mixtures or None, error, attempts)."""
    out, attempts, worst = [None] * len(full), list(failed), 0.0
    for k in order:
        near = None if parents[k] is None else out[parents[k]]
        if near is not None:
            starts = [near]
        else:
            starts = without_one(current[k], rows[k])
            starts = starts if failed[k] is None else [failed[k], *starts]

        def check(raw, k=k):
            return largest_difference(_stored(raw), full[k], width, tolerance)

        attempts[k], error = fit_smaller(starts, rows[k], tolerance, check)
        if error > tolerance:
            return None, error, attempts
        out[k], worst = _stored(attempts[k]), max(worst, error)
    return out, worst, attempts


def _stored(raw):
    """A mixture as it is after a store: single precision."""
    return to_array(from_array(raw))


def _rows(full, width):
    """What a smaller mixture is fitted to: the full one under several smoothings."""
    x, y, value, weight, groups, start = [], [], [], [], [], 0
    for w in smoothings(full, width, _FIT_RATIO):
        raw = smoothed(full, w)
        gx, gy = points(raw, _FIT_CIRCLES, _FIT_ANGLES)
        image = brightness(raw, gx, gy)
        groups.append((slice(start, start + len(gx)), w**2))
        start += len(gx)
        for a, b in zip((x, y, value, weight), (gx, gy, image, 1 / np.max(image)), strict=True):
            a.append(np.broadcast_to(b, gx.shape))
    arrays = (np.concatenate(a) for a in (x, y, value, weight))
    narrow, wide = sigmas(full)
    # what is integrated over pixels stays as wide as the full mixture, or the width
    floor = np.sqrt(max(narrow**2 - width**2, _LEAST**2))
    return Rows(*arrays, groups, full[:, AMP].sum(), 12 * wide, floor)


def _tour(locations):
    """Order of the locations, from the middle outwards, and where each starts from."""
    if locations is None:
        return [0], [None]
    left = list(range(len(locations)))
    first = int(np.argmin(np.sum((locations - locations.mean(0)) ** 2, 1)))
    order, parents = [first], [None] * len(locations)
    left.remove(first)
    while left:
        separation = np.sum((locations[left][:, None] - locations[order][None]) ** 2, -1)
        row, column = np.unravel_index(np.argmin(separation), separation.shape)
        parents[left[row]] = order[column]
        order.append(left.pop(row))
    return order, parents


def _between(parameters, model, width, tolerance):
    """Largest error halfway between locations that start from one another."""
    if model.locations is None:
        return 0.0
    worst = 0.0
    for k, parent in enumerate(_tour(model.locations)[1]):
        if parent is not None:
            pair = [k, parent]
            a, b = (mean_mixture(p[pair], [0.5, 0.5]) for p in (parameters, model.parameters))
            worst = max(worst, largest_difference(a, b, width, tolerance))
    return worst


def rung_for(rungs, width):
    """The smallest mixture of a ladder that serves Gaussians of sigma `width`, native pixels."""
    return [rung for rung in rungs if rung.width <= width][-1]


def per_radius(parameters, radii, tolerance=TOLERANCE):
    """A mixture for each radius of a fixed-radii Sersic table, in one ragged list.

    Parameters
    ----------
    parameters : structured array of `PSF_DTYPE`, shape (ngauss,)
    radii : array (nradii,)
        Sigmas of the table's Gaussians in native pixels; a radius of 0 keeps the full mixture.
    tolerance : float

    Returns
    -------
    structured array of `PSF_DTYPE`, shape (n_psf_per_source,)
        ``sersic_bin`` says which radius each Gaussian belongs to. An elongated galaxy is narrower
        than its radius along one axis: give the radii times the square root of the least axis
        ratio b/a.

    Raises
    ------
    InputError
        Radii that are not numbers from 0 on.
    """
    return per_radius_model(PSFModel(np.asarray(parameters)[None]), radii, tolerance).parameters[0]


def per_radius_model(model, radii, tolerance=TOLERANCE):
    """`per_radius` for all locations of a PSFModel: the model with the ragged mixtures."""
    radii = np.asarray(radii, float)
    if not (radii.ndim == 1 and len(radii) and np.all(np.isfinite(radii) & (radii >= 0))):
        raise InputError(f"radii are {radii}; expected a list of numbers from 0 on")
    single = model.collapsed()
    if single is None:
        raise InputError("this PSF has mixtures of its own for every Sersic radius; expected one")
    rungs = [Reduced(0.0, single.parameters, 0.0)]
    if np.any(radii > 0):
        rungs += _ladder(single, radii[radii > 0], tolerance, lambda: None)
    parts = []
    for k, radius in enumerate(radii):
        parts.append(rung_for(rungs, radius).parameters.copy())
        parts[-1]["sersic_bin"] = k
    return replace(single, parameters=np.concatenate(parts, axis=1), reduced=())


def cost(parameters, radii):
    """Gaussians per source of a ragged list relative to the full mixture for every radius."""
    return len(parameters) / (np.count_nonzero(parameters["sersic_bin"] == 0) * len(radii))
