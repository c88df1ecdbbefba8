"""Sersic components times a PSF image, by Fourier transform: an exact fit without Gaussians.

Independent of jaxpho: numpy and scipy only. A component is (Re semi-major [arcsec], n, q, position
angle counter-clockwise from +y [rad], x and y offset [arcsec, pixel axes]); every exposure has its
own shift (pixels) and, per component, its own flux.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.special import gamma, gammaincinv, j0

NPAR = 6
STEP = np.array([1e-3, 1e-3, 1e-3, 1e-3, 1e-4, 1e-4])  # of the derivatives; Re: relative
LOW = np.array([0.01, 0.3, 0.1, -np.inf, -np.inf, -np.inf])
HIGH = np.array([3.0, 6.0, 1.0, np.inf, np.inf, np.inf])
K_MAX = 400.0  # highest frequency times Re


class Exposure:
    """One image: data [ny, nx], weight 1/sigma (0 = masked), PSF image, pixel scale [arcsec]."""

    def __init__(self, data, weight, psf, scale, zero_point):
        self.data, self.weight = np.where(weight > 0, data, 0.0), weight
        self.scale, self.zero_point = scale, zero_point
        self.size = n = data.shape[0] + psf.shape[0]
        padded = np.zeros((n, n))
        padded[: psf.shape[0], : psf.shape[1]] = psf / psf.sum()
        middle = psf.shape[0] // 2
        self.psf = np.fft.rfft2(np.roll(padded, (-middle, -middle), (0, 1)))
        self.kx = 2 * np.pi * np.fft.rfftfreq(n)[None, :]
        self.ky = 2 * np.pi * np.fft.fftfreq(n)[:, None]

    def transform(self, component, shift):
        """Fourier transform of a component of unit flux, through the PSF."""
        re, n, q, angle, x, y = component
        centre = (self.data.shape[0] - 1) / 2 + shift + np.array([x, y]) / self.scale
        major = -self.kx * np.sin(angle) + self.ky * np.cos(angle)
        minor = self.kx * np.cos(angle) + self.ky * np.sin(angle)
        k = np.hypot(major, q * minor) * re / self.scale
        value = profile_transform(round(n, 9))(np.log(np.clip(k, 1e-3, K_MAX)))
        return value * self.psf * np.exp(-1j * (self.kx * centre[0] + self.ky * centre[1]))

    def image(self, transform):
        """Image [ny, nx] of a Fourier transform."""
        ny, nx = self.data.shape
        return np.fft.irfft2(transform, s=(self.size, self.size))[:ny, :nx]

    def weighted(self, transform):
        """The same times 1/sigma, flat."""
        return (self.image(transform) * self.weight).ravel()


@lru_cache(maxsize=64)
def profile_transform(n):
    """Hankel transform of the untruncated Sersic law of unit flux and Re = 1, over ln k."""
    b = gammaincinv(2 * n, 0.5)
    t = np.linspace(-16, np.log((45 / b) ** n), 6000)
    r = np.exp(t)
    light = r**2 * np.exp(-b * r ** (1 / n)) * b ** (2 * n) / (n * gamma(2 * n)) * (t[1] - t[0])
    k = np.geomspace(1e-3, K_MAX, 500)
    return CubicSpline(np.log(k), [(light * j0(one * r)).sum() / light.sum() for one in k])


@dataclass
class Solution:
    """Components [n, 6], shifts [E, 2] pixels, magnitudes [E, n] and totals [E], chi2."""

    components: np.ndarray
    shifts: np.ndarray
    mag: np.ndarray
    total: np.ndarray
    chi2: float


def _linear(exposure, components, shift):
    """Component images times 1/sigma, best fluxes, residual / sigma."""
    transforms = [exposure.transform(c, shift) for c in components]
    images = np.array([exposure.weighted(t) for t in transforms])
    data = (exposure.data * exposure.weight).ravel()
    flux = np.linalg.solve(images @ images.T, images @ data)
    return transforms, images, flux, data - flux @ images


def _normal(exposure, components, shift, free):
    """J^T J, J^T r and chi2 with the fluxes projected out (Kaufman)."""
    transforms, images, flux, residual = _linear(exposure, components, shift)
    rows = []
    for i, component in enumerate(components):
        for j in range(NPAR):
            step = STEP[j] * (component[0] if j == 0 else 1.0)
            moved = component + step * (np.arange(NPAR) == j)
            row = np.zeros_like(residual)
            if free[i, j]:
                row = exposure.weighted(exposure.transform(moved, shift)) - images[i]
            rows.append(flux[i] * row / step)
    whole = sum(f * t for f, t in zip(flux, transforms, strict=True))
    rows += [exposure.weighted(-1j * k * whole) for k in (exposure.kx, exposure.ky)]
    jacobian = np.array(rows)
    jacobian -= np.linalg.solve(images @ images.T, images @ jacobian.T).T @ images
    return jacobian @ jacobian.T, jacobian @ residual, residual @ residual


def fit(exposures, components, free, tolerance=0.05, max_steps=60):
    """Least squares over all pixels by Levenberg-Marquardt.

    Parameters
    ----------
    exposures : list of Exposure
    components : array [n, 6]
        Start.
    free : bool array [n, 6]
        Which of these to fit; shifts and fluxes of every exposure are always free.

    Returns
    -------
    Solution
    """
    components, free = np.array(components, float), np.asarray(free, bool)
    shifts, ns = np.zeros((len(exposures), 2)), components.size
    which = np.concatenate([free.ravel(), np.ones(shifts.size, bool)])
    damping = 1e-4
    for _ in range(max_steps):
        matrix, vector, chi2 = np.zeros((len(which),) * 2), np.zeros(len(which)), 0.0
        for e, (exposure, shift) in enumerate(zip(exposures, shifts, strict=True)):
            a, b, c = _normal(exposure, components, shift, free)
            at = np.r_[np.arange(ns), ns + 2 * e, ns + 2 * e + 1]
            matrix[np.ix_(at, at)] += a
            vector[at] += b
            chi2 += c
        matrix, vector = matrix[np.ix_(which, which)], vector[which]
        while damping < 1e4:
            step = np.zeros(len(which))
            damped = matrix + damping * np.diag(np.diag(matrix))
            step[which] = np.linalg.solve(damped, vector)
            trial = np.clip(components + step[:ns].reshape(-1, NPAR), LOW, HIGH)
            moved = shifts + step[ns:].reshape(-1, 2)
            parts = [_linear(x, trial, s)[3] for x, s in zip(exposures, moved, strict=True)]
            new = sum(float(r @ r) for r in parts)
            if new < chi2:
                components, shifts = trial, moved
                damping = max(damping / 10, 1e-7)
                break
            damping *= 10
        if chi2 - new < tolerance:
            break
    flux = np.array([_linear(x, components, s)[2] for x, s in zip(exposures, shifts, strict=True)])
    zero = np.array([x.zero_point for x in exposures])
    mag, total = zero[:, None] - 2.5 * np.log10(flux), zero - 2.5 * np.log10(flux.sum(1))
    return Solution(components, shifts, mag, total, min(chi2, new))
