"""Which pixels and which stars speak for the PSF: errors of the model, clipping, rejection."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from psfmix.stamps import StarFlag
from psfmix.starmodel import star_derivatives

# Errors of the model: at least this part of the model in every pixel (PSFEx's PSF_ACCURACY), and
# the same in all pixels of the core, in units of the star's peak, as the cores of the bright stars
# show it: a mixture that cannot follow the spikes of a space telescope would give its core away for
# them, because the noise is low there. Of the absolute residuals this quantile counts, in sigmas.
ACCURACY = 0.01
_QUANTILE, _QUANTILE_SIGMAS = 0.9, 1.645
# Beyond the core it is the scatter of the residuals there, but at least this part of the core's:
# faint wings and background could be anything otherwise, and with less the core gives way to them.
_WINGS = 0.1
# The rest is measured in rings of at least so many pixels of the brightest third of the stars.
_RING, _BRIGHT, _FEWEST = 30, 3, 5
# A ring's scatter has to exceed the noise by this many standard errors to count.
_SIGNIFICANT = 2.0
_MAD = 1.4826
# Radii in units of the FWHM: of the core, of the part of a star whose chi2 is judged.
_CORE, _JUDGED = 0.75, 1.5
# Part of the core that may be unusable or clipped.
_CORE_BAD = 0.25
# Pixels that a star's own numbers (centre, flux, background, shape) need.
_LEAST = 12
# Stars are rejected beyond so many standard deviations from the others, which scatter by at least
# this: relative variance of the PSF (shape), logarithm of chi2 per pixel.
_SIGMAS, _SHAPE_SCATTER, _CHI2_SCATTER = 5.0, 0.02, 0.1
_CENTER_FWHM, _CENTER_PIXELS = 1.0, 2.0


class Errors(NamedTuple):
    """Standard deviations of the pixels, arrays (nstar, npixel).

    Attributes
    ----------
    noise : infinite in unusable pixels
    floor : the least error of the model, a part of it and of its peak; with the noise it weighs
        the pixels of the fit
    model : error of the model as its residuals show it; with the noise it says what is an outlier

    A fit weighted with the last could settle for any core: the worse a ring, the less it counts.
    """

    noise: np.ndarray
    floor: np.ndarray
    model: np.ndarray

    @property
    def weight(self):
        """Inverse variance of the fit."""
        return 1 / (self.noise**2 + self.floor**2)

    @property
    def variance(self):
        """Of noise and model."""
        return self.noise**2 + self.model**2


class Verdict(NamedTuple):
    """Arrays (nstar, ...) of what was decided.

    Attributes
    ----------
    flags : int array
    chi2 : array
        Per pixel of the star's middle, with the model's errors.
    shape : array (nstar, 3)
        Covariance (Cxx = Cyy, Cxx = -Cyy, Cxy) that the star lacks, in units of the PSF's variance.
    shape_error : array (nstar, 3)
    """

    flags: np.ndarray
    chi2: np.ndarray
    shape: np.ndarray
    shape_error: np.ndarray


def _radius(problem, state):
    return np.hypot(problem.x[None] - state.center[:, :1], problem.y[None] - state.center[:, 1:])


def errors_of(problem, state, ivar, gain, stars, fwhm, accuracy=ACCURACY):
    """Noise of every pixel, and how wrong the model is there.

    The second is what the residuals of the bright stars scatter more than their noise, as a
    fraction of the flux, in rings around the star: a mixture of few Gaussians, or one PSF for a
    detector over which it varies, is wrong by the same fraction for all stars.

    Parameters
    ----------
    problem : Problem
        Its weights are 0 in pixels that are clipped so far.
    state : State
    ivar : array (nstar, npixel)
    gain : float or None
    stars : int array
        Those that are used.
    fwhm : float
        Native px.
    accuracy : float
        Least error of the model for outliers, as a part of it.

    Returns
    -------
    Errors
    """
    signal = state.flux[:, None] * state.profile
    with np.errstate(divide="ignore"):
        variance = np.where(ivar > 0, 1 / ivar, np.inf)
    if gain is not None:
        variance = variance + np.maximum(signal, 0.0) / gain
    radius = _radius(problem, state)
    bright = _bright(state, stars)
    part = _ring_errors(problem, state, variance, radius, bright)
    level = _core_error(problem, state, variance, radius < _JUDGED * fwhm, bright)
    flux = np.maximum(state.flux, 0.0)[:, None]
    size, even = np.abs(signal), level * np.abs(signal).max(axis=1, keepdims=True)
    usable = np.isfinite(variance)
    # beyond the core what is seen there, or the sum of many faint pixels would count for nothing
    wings = np.where(radius > _JUDGED * fwhm, np.clip(flux * part, _WINGS * even, even), even)
    floor = np.hypot(ACCURACY * size, wings)
    model = np.sqrt((accuracy * size) ** 2 + even**2 + (flux * part) ** 2)
    return Errors(np.sqrt(variance), np.where(usable, floor, 0.0), np.where(usable, model, 0.0))


def _bright(state, stars):
    """The brightest third of the stars: the others' noise says nothing about the model."""
    bright = stars[np.argsort(-state.flux[stars])[: max(_FEWEST, len(stars) // _BRIGHT)]]
    return bright[state.flux[bright] > 0]


def _core_error(problem, state, variance, core, bright):
    """Error of the model in the cores of bright stars, in units of their peaks."""
    used = core[bright] & np.isfinite(variance[bright])
    if not used.any():
        return 0.0
    peak = state.flux[bright][:, None] * state.profile[bright].max(axis=1, keepdims=True)
    residual = (np.abs((problem.images - state.model)[bright]) / peak)[used]
    noise = (variance[bright] / peak**2)[used]
    scatter = (np.quantile(residual, _QUANTILE) / _QUANTILE_SIGMAS) ** 2
    return np.sqrt(max(scatter - np.mean(noise), 0.0))


def _ring_errors(problem, state, variance, radius, bright):
    """Error of the model in units of the flux, at every radius."""
    used = (problem.weight[bright] > 0) & np.isfinite(variance[bright])
    if not used.any():
        return np.zeros_like(radius)
    scale = state.flux[bright][:, None]
    residual = ((problem.images - state.model)[bright] / scale)[used]
    noise = (variance[bright] / scale**2)[used]
    where = radius[bright][used]
    order = np.argsort(where)
    rings = np.array_split(order, max(1, len(order) // _RING))
    middle, size = [], []
    for ring in rings:
        scatter = (_MAD * np.median(np.abs(residual[ring]))) ** 2
        # Half of the sample lies below the median: the noise of that half is what it tells of.
        expected = np.median(noise[ring])
        doubt = 1 + _SIGNIFICANT * 1.65 / np.sqrt(len(ring))
        middle.append(np.mean(where[ring]))
        size.append(np.sqrt(max(scatter - expected, 0.0)) if scatter > doubt * expected else 0.0)
    return np.interp(radius, middle, size)


def clip_pixels(problem, state, errors, clip, shape):
    """Pixels that agree with the model, bool array (nstar, npixel).

    A pixel is left out when it, or the mean of the 3 x 3 pixels around it, is `clip` standard
    deviations off, or when a neighbour is.
    """
    good = np.isfinite(errors.noise)
    residual = np.where(good, problem.images - state.model, 0.0)
    noise = np.where(good, errors.noise, 0.0)
    single = np.abs(residual) > clip * np.sqrt(noise**2 + errors.model**2)
    # Noise is independent between pixels, errors of the model are not.
    sums = [_box(a, shape) for a in (residual, noise**2, errors.model)]
    mean = np.abs(sums[0]) > clip * np.sqrt(sums[1] + sums[2] ** 2)
    return good & ~(_box(single * 1.0, shape) > 0.5) & ~((_box(mean * 1.0, shape) > 0.5) & good)


def _box(values, shape):
    """Sum over 3 x 3 pixels of arrays (nstar, npixel)."""
    cube = np.pad(values.reshape(-1, *shape), ((0, 0), (1, 1), (1, 1)))
    rows = cube[:, :-2] + cube[:, 1:-1] + cube[:, 2:]
    return (rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]).reshape(values.shape)


def judge(problem, state, errors, good, start, fixed, stars, fwhm, min_snr):
    """Which stars are like the others.

    Parameters
    ----------
    problem, state, errors
    good : bool array (nstar, npixel)
        From `clip_pixels`.
    start : array (nstar, 2)
        First centres.
    fixed : int array (nstar,)
        Flags that are known before.
    stars : int array
        Those that the mixture was fitted to: the others are compared with these.
    fwhm : float
        Native px.
    min_snr : float

    Returns
    -------
    Verdict
    """
    nstar = len(start)
    flags = np.array(fixed)
    chi2 = np.full(nstar, np.nan)
    shape, shape_error = np.full((nstar, 3), np.nan), np.full((nstar, 3), np.nan)
    radius = _radius(problem, state)
    usable = np.isfinite(errors.noise)
    npixel = np.zeros(nstar)
    for k in np.flatnonzero(flags == 0):
        core = radius[k] < max(_CORE * fwhm, 1.0)
        near = good[k] & (radius[k] < max(_JUDGED * fwhm, 2.5))
        npixel[k] = near.sum()
        if not core.any() or np.mean(usable[k][core]) < 1 - _CORE_BAD:
            flags[k] |= StarFlag.UNUSABLE
        elif np.mean(good[k][core]) < (1 - _CORE_BAD) * np.mean(usable[k][core]):
            flags[k] |= StarFlag.CLIPPED
        if npixel[k] < _LEAST:
            flags[k] |= 0 if flags[k] else StarFlag.CLIPPED
            continue
        if np.hypot(*(state.center[k] - start[k])) > max(_CENTER_FWHM * fwhm, _CENTER_PIXELS):
            flags[k] |= StarFlag.ASTRAY
        error = own_errors(problem, state, errors, k)[2]
        if not state.flux[k] > min_snr * error:
            flags[k] |= StarFlag.FAINT
        residual = problem.images[k] - state.model[k]
        chi2[k] = np.mean((residual**2 / errors.variance[k])[near])
        shape[k], shape_error[k] = _lacking(problem, state, errors, k)
    variance = (fwhm / np.sqrt(8 * np.log(2))) ** 2
    shape, shape_error = shape / variance, shape_error / variance
    sure = np.intersect1d(stars, np.flatnonzero((flags == 0) & np.isfinite(chi2)))
    if len(sure):
        _compare(flags, sure, chi2, npixel, shape, shape_error)
    return Verdict(flags, chi2, shape, shape_error)


def _compare(flags, sure, chi2, npixel, shape, shape_error):
    """Flag what differs from the stars that are `sure`."""
    # Few stars say little about their own scatter.
    doubt = 1 + 2 / np.sqrt(len(sure))
    size = np.log(np.maximum(chi2, 1e-6))
    middle = np.median(size[sure])
    scatter = max(_CHI2_SCATTER, _MAD * np.median(np.abs(size[sure] - middle)))
    limit = middle + _SIGMAS * doubt * np.hypot(scatter, np.sqrt(2 / np.maximum(npixel, 1)))
    # chi2 per pixel below this is no reason, whatever the others have.
    high = np.isfinite(chi2) & (size > np.maximum(limit, 0.0))
    flags[high] |= StarFlag.MISFIT
    middle = np.median(shape[sure], axis=0)
    offset = np.abs(shape - middle)
    scatter = np.maximum(_SHAPE_SCATTER, _MAD * np.median(offset[sure], axis=0)) * doubt
    other = np.isfinite(shape).all(axis=1) & (
        offset > _SIGMAS * np.hypot(scatter, shape_error)
    ).any(axis=1)
    flags[other] |= StarFlag.SHAPE


def own_errors(problem, state, errors, k):
    """Standard errors of a star's centre x, y, flux and background, the mixture held.

    The weights contain the model's errors, the errors quoted only the noise.
    """
    _, own, _ = star_derivatives(problem, state, k)
    prior = [0.0, 0.0, 0.0, problem.background_ivar]
    covariance = _sandwich(own, problem.weight[k], errors.noise[k], prior)
    return np.sqrt(np.maximum(np.diag(covariance), 0.0))


def _sandwich(design, weight, noise, prior):
    """Covariance of coefficients with a normal prior of inverse variances `prior` each."""
    used = weight > 0
    design, weight = design[:, used], weight[used]
    matrix = (design * weight) @ design.T + np.diag(prior)
    unit = 1 / np.sqrt(np.maximum(np.diag(matrix), 1e-300))
    bread = np.linalg.pinv(matrix * np.outer(unit, unit), hermitian=True) * np.outer(unit, unit)
    return bread @ ((design * (weight * noise[used]) ** 2) @ design.T) @ bread


def _lacking(problem, state, errors, k):
    """Covariance that a star has beyond the mixture's (3,) and its error, native px^2."""
    _, own, shape = star_derivatives(problem, state, k)
    design = np.concatenate([shape, own])
    weight = problem.weight[k]
    residual = problem.images[k] - state.model[k]
    prior = [0.0] * (len(design) - 1) + [problem.background_ivar]
    inverse = np.linalg.pinv((design * weight) @ design.T + np.diag(prior), hermitian=True)
    found = inverse @ ((design * weight) @ residual)
    cov = _sandwich(design, weight, errors.noise[k], prior)
    return found[:3], np.sqrt(np.maximum(np.diag(cov)[:3], 0.0))
