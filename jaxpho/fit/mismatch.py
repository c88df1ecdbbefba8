"""Does the model describe the pixels of a source? A p value, and structure in the residuals.

The p value is that of chi2 within the source's area as a posterior predictive check (Gelman, Meng
& Stern 1996) whose distribution is known: chi2 of replicated data about their own fit has the mean
nu = pixels - parameters, and the variance 2 nu sum(rho^2) where the noise has the correlation rho
by lag, less what the fit takes of it, which there is more than one for each parameter (see
`jaxpho.fit.treatment.NoiseTreatment.absorbed`); for Student's t see `student_law`. What is
uncertain in the scale of the errors, s, adds (2 nu s)^2. A gamma distribution of this mean and
variance is exact for independent pixels. Where blank pixels tell the noise, it is the measure: the
question here is the model, not the quoted errors.

Structure: the largest sum of residuals, in sigma, weighted by a Gaussian as wide as the PSF. It
finds what chi2 of many pixels does not, a neighbour that is missing or a wrong profile.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.stats import gamma

from jaxpho.fit.sandwich import correlate_pixels

LEAST_P = 1e-4
"""p value below which a source is flagged."""
STRUCTURE = 6.0
"""Largest smoothed residual, in sigma, above which a source is flagged."""
LEAST_LEFT = 0.1
"""Share of the variance of chi2 that a fit leaves at the least."""
TRUNCATE = 3.0  # of the Gaussian, in its sigma


class Known(NamedTuple):
    """Noise of an exposure: blank pixels over their errors, its uncertainty, correlation by lag."""

    scale: float = 1.0
    scale_error: float = 0.0
    correlation: np.ndarray | None = None


@dataclass
class Mismatch:
    """Of each source, [S].

    Attributes
    ----------
    p_value : chance of a larger chi2 than the one found; NaN where parameters outnumber pixels.
    residual_peak : smoothed residual of the largest size, in sigma, with its sign.
    """

    p_value: np.ndarray
    residual_peak: np.ndarray

    @property
    def flagged(self) -> np.ndarray:
        """Whether either is beyond what noise makes."""
        return (self.p_value < LEAST_P) | (np.abs(self.residual_peak) > STRUCTURE)


def p_value(chi2, npix, n_parameters, variance, left=None):
    """Chance of a larger chi2 than one of a mean ``npix - n_parameters`` and a variance.

    The variance is that before a fit; what the fit leaves of it, ``left``, is by default the share
    that it leaves of chi2. ``n_parameters`` need not be whole.
    """
    nu = npix - n_parameters
    if nu < 1:
        return np.nan
    variance = variance * (nu / npix if left is None else max(left, LEAST_LEFT))
    return float(gamma.sf(chi2, nu**2 / variance, scale=variance / nu))


def student_law(nu: float) -> tuple[float, float]:
    """Of weighted squares of Student's t noise: variance of one, and what a parameter absorbs.

    The squares are v = (nu + 1) u^2 / (nu s^2 + u^2), u / s a variate of nu degrees of freedom: v /
    (nu + 1) has the beta distribution (1/2, nu/2), so that the mean is 1 and the variance
    2 nu / (nu + 3). The fit of the likelihood, whose score is psi = v / u, moves the mean by
    E[v' psi] / E[psi'] - E[v''] / (2 E[psi']) = (nu + 2) / (nu + 5) for each parameter. Both are
    2 and 1 for many degrees of freedom.
    """
    return 2.0 * nu / (nu + 3.0), (nu + 2.0) / (nu + 5.0)


def parameters_of(table, n_sources: int, weight: np.ndarray | None = None) -> np.ndarray:
    """Free parameters [S] of each source, each counted by its weight [n] where one is given."""
    out = np.zeros(n_sources)
    for i, p in enumerate(table.parameters):
        if isinstance(p.owner, int):
            out[p.owner] += 1.0 if weight is None else weight[i]
    return out


def source_mismatch(
    pixels: list[dict], centres, d, radii, widths, noise: list[Known], n_parameters,
    square: float = 2.0, n_squares=None,
) -> Mismatch:  # fmt: skip
    """How well the model describes each source.

    Parameters
    ----------
    pixels : list of dict
        Per exposure x, y, data, model, ierr.
    centres, d : ndarray
        [E, S, 2] pixel and [E, S, 2, 2] pixel/arcsec.
    radii : ndarray
        [S] arcsec.
    widths : ndarray
        [E] sigma of the Gaussian, pixels.
    noise : list of Known
        Of each exposure.
    n_parameters : ndarray
        [S] what the fit takes from the mean of chi2: free parameters, or as their noise has it.
    square : float
        Variance of the square of one pixel.
    n_squares : ndarray, optional
        [S] the same of the variance, in units of ``square``; default ``n_parameters``.
    """
    n = len(radii)
    peaks = np.full(n, np.nan)
    chi2, npix, variance, pairs = np.zeros((4, n))
    for p, centre, matrix, width, known in zip(pixels, centres, d, widths, noise, strict=True):
        smooth = smoothed_residual(p, width, known.correlation) / known.scale
        residual = (np.asarray(p["data"], float) - p["model"]) * p["ierr"] / known.scale
        for s, radius in enumerate(radii):
            offset = np.stack([p["x"] - centre[s, 0], p["y"] - centre[s, 1]])
            inside = (np.linalg.inv(matrix[s]) @ offset) ** 2
            inside = (inside.sum(0) <= radius**2) & (p["ierr"] > 0)
            count = int(inside.sum())
            if not count:
                continue
            chi2[s] += (residual[inside] ** 2).sum()
            npix[s] += count
            both = float(count)
            if known.correlation is not None:
                at = np.asarray(p["x"])[inside], np.asarray(p["y"])[inside]
                both = correlate_pixels(np.ones((1, count)), *at, known.correlation**2).sum()
            pairs[s] += both
            variance[s] += square * both + (2.0 * count * known.scale_error) ** 2
            best = smooth[inside][np.argmax(np.abs(smooth[inside]))]
            if not abs(peaks[s]) >= abs(best):
                peaks[s] = best
    taken = n_parameters if n_squares is None else n_squares
    left = 1.0 - taken / np.maximum(pairs, 1.0)
    found = [p_value(*a) for a in zip(chi2, npix, n_parameters, variance, left, strict=True)]
    return Mismatch(np.array(found), peaks)


def smoothed_residual(p: dict, width: float, rho: np.ndarray | None) -> np.ndarray:
    """Residuals weighted by a Gaussian about each pixel, over the noise of that sum."""
    x, y = np.asarray(p["x"]) - np.min(p["x"]), np.asarray(p["y"]) - np.min(p["y"])
    reach = int(np.ceil(TRUNCATE * width))
    edge = reach if rho is None else reach + len(rho)
    size = [int(v.max()) + 2 * edge + 2 for v in (y, x)]
    image, weight = np.zeros(size), np.zeros(size)
    ierr = np.asarray(p["ierr"], float)
    image[y, x] = (np.asarray(p["data"], float) - p["model"]) * ierr
    weight[y, x] = ierr > 0
    j, i = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    kernel = np.exp(-0.5 * (i**2 + j**2) / width**2)

    def smooth(values, kernel):
        whole = np.zeros(size)
        whole[: len(kernel), : len(kernel)] = kernel
        whole = np.roll(whole, (-(len(kernel) // 2),) * 2, (0, 1))
        return np.fft.irfft2(np.fft.rfft2(values) * np.fft.rfft2(whole), size)[y, x]

    variance = smooth(weight, kernel**2)
    for lag, value in [] if rho is None else _half_lags(rho):
        # pairs of pixels that are both there; the opposite lag has the same sum
        shift = tuple(-lag)
        pairs = weight * np.roll(weight, shift, (0, 1))
        variance = variance + 2.0 * value * smooth(pairs, kernel * _moved(kernel, lag))
    return smooth(image, kernel) / np.sqrt(np.maximum(variance, 1e-12))


def _half_lags(rho: np.ndarray):
    """Lags (y, x) of one half plane, and the correlation there."""
    reach = len(rho) // 2
    j, i = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    half = ((j > 0) | ((j == 0) & (i > 0))) & (rho != 0)
    return zip(np.stack([j[half], i[half]], -1), rho[half], strict=True)


def _moved(kernel: np.ndarray, lag) -> np.ndarray:
    """The kernel at o - lag; zero outside."""
    n = len(kernel)
    out = np.zeros_like(kernel)
    (j0, j1), (i0, i1) = ((max(0, v), min(n, n + v)) for v in lag)
    out[j0:j1, i0:i1] = kernel[j0 - lag[0] : j1 - lag[0], i0 - lag[1] : i1 - lag[1]]
    return out


def psf_widths(patch, n_exposures: int, n_sources: int) -> tuple[np.ndarray, np.ndarray]:
    """Width (sigma) of the PSF at each source in each exposure, [E, S]: pixels, and arcsec."""
    psf = patch.psf_point
    area = (np.asarray(psf.cxx) + np.asarray(psf.cyy)) / 2
    weight = np.maximum(np.asarray(psf.flux), 0.0)
    # all sources: one that an exposure's WCS cannot place has no PSF there
    at = (slice(n_exposures), slice(n_sources))
    width = np.sqrt((area * weight).sum(-1) / np.maximum(weight.sum(-1), 1e-9))[at]
    d = np.asarray(patch.d)[at]
    return width, width * np.abs(np.linalg.det(d)) ** -0.5


def known_noise(packed, correlations) -> list[Known]:
    """What is known of the noise of each exposure of a patch, in units of its weights."""
    out = []
    for e, rho in enumerate(correlations):
        found = packed.noise[e] if packed.noise else None
        if not hasattr(found, "ratio"):
            out.append(Known(correlation=rho))
            continue
        scale = found.ratio / (packed.inflation[e] if packed.inflation else 1.0)
        out.append(Known(scale, found.ratio_error / found.ratio, found.correlation))
    return out


def judge(fitter, optimum, pixels: list[dict]) -> Mismatch:
    """The mismatch of every source of a patch at an optimum (`jaxpho.fit.driver._Fitter`)."""
    packed, noise = fitter.packed, fitter.noise
    judged = [{**p, "ierr": noise.effective_ierr(p)} for p in pixels]
    known = known_noise(packed, noise.correlations)
    weights = noise.absorbed(optimum, fitter.problem, fitter.static) or (None, None)
    count, squares = (parameters_of(fitter.table, packed.n_sources, w) for w in weights)
    square = 2.0
    if noise.student:
        square, own = student_law(float(noise.noise.student[0]))
        count = count * own
    widths = np.maximum(np.median(fitter.psf_pixels, axis=1), 0.5)
    return source_mismatch(judged, *fitter.geometry(optimum), widths, known, count, square, squares)
