"""Sersic profiles as an exact, continuous mixture of Gaussians: the reference for the tables.

For n >= 1/2 the function ``exp(-b x**(1/n))`` is the Laplace transform, in x**2, of the one-sided
alpha-stable density with alpha = 1/(2n) (Pollard 1946; Zolotarev's integral for the density), so
the profile is a positive mixture of Gaussians of every width. The trapezoid rule in ln sigma
turns it into a few dozen to a few thousand Gaussians, to better than 1e-6 of the peak. Blurred by
a Gaussian PSF of variance s0**2 it stays a mixture: every variance grows by s0**2.

For n < 1/2 the profile is flatter than a Gaussian and no positive mixture exists. A signed one
does: 91 Gaussians on a logarithmic grid of widths, solved for by least squares in float64,
reproduce brightness and enclosed flux to about 1e-7 for n >= .27.
"""

from functools import lru_cache

import numpy as np
from scipy.special import gamma, gammainc, gammaincinv, gammaln, roots_legendre

_LOWEST = 1e-22
"""Weights below this fraction of the total flux are dropped."""

N_SIGNED = 0.27
"""Smallest index of the signed mixtures."""


def sersic_b(n):
    """The constant b of ``exp(-b x**(1/n))`` that puts half of the light inside x = 1."""
    return gammaincinv(2 * np.asarray(n, dtype=float), 0.5)


def sersic_profile(n, r):
    """Surface brightness of the Sersic profile with rhalf = 1 and total flux 1 (untruncated)."""
    b = sersic_b(n)
    norm = b ** (2 * n) / (2 * np.pi * n * gamma(2 * n))
    return norm * np.exp(-b * np.asarray(r, dtype=float) ** (1 / n))


def default_step(n):
    """Step in ln sigma that keeps the trapezoid error under 1e-6 of the peak."""
    for limit, step in ((0.505, 0.0004), (0.515, 0.002), (0.6, 0.01), (0.75, 0.04)):
        if n < limit:
            return step
    return 0.1


def stable_density(alpha, t):
    """Density of the one-sided stable law whose Laplace transform is ``exp(-s**alpha)``.

    Zolotarev's integral over phi in (0, pi) by Gauss-Legendre; where t is large its integrand
    shrinks to a spike at phi = pi, and the convergent series in t**-alpha takes over.

    Parameters
    ----------
    alpha : float
        In (0, 1).
    t : array
        Positive.
    """
    t = np.asarray(t, dtype=float)
    power = t**-alpha
    k = np.arange(1, 61)
    series = np.exp(gammaln(1 + k * alpha) - gammaln(1 + k)) * np.sin(np.pi * k * alpha)
    series *= np.where(k % 2, 1, -1) / np.pi
    tail = np.sum(series * np.minimum(power, 0.5)[..., None] ** k, axis=-1) / t
    x, w = roots_legendre(400 if alpha < 0.9 else 2000)
    phi, w = 0.5 * np.pi * (x + 1), 0.5 * np.pi * w
    rest = 1 - alpha
    log_a = (
        alpha * np.log(np.sin(alpha * phi))
        + rest * np.log(np.sin(rest * phi))
        - np.log(np.sin(phi))
    ) / rest
    log_z = -alpha / rest * np.log(t)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        exponent = log_a - np.exp(log_a + log_z[..., None])
        integral = np.sum(w * np.exp(exponent), axis=-1)
        body = alpha / (np.pi * rest) * np.exp(-np.log(t) / rest) * integral
    return np.where(power < 0.5, tail, body)


@lru_cache(maxsize=256)
def _mixture(n, step):
    if n == 0.5:
        # exp(-b x^2) is one Gaussian.
        return np.ones(1), np.array([1 / (2 * sersic_b(0.5))])
    b, alpha = sersic_b(n), 1 / (2 * n)
    # x^2 = r^2 and exp(-(b^(2n) x^2)^alpha) = E exp(-b^(2n) x^2 t): sigma^2 = 1/(2 t b^(2n)).
    # Towards small widths the weight falls as sigma^(2 + 1/n), beyond +12 as exp(-b sigma^(1/n)).
    log_sigma = np.arange(np.log(_LOWEST) / (2 + 1 / n) - 1, 12.0, step)
    with np.errstate(over="ignore", divide="ignore"):
        log_t = -2 * log_sigma - np.log(2) - 2 * n * np.log(b)
        keep = np.abs(log_t) < 600
        log_sigma, log_t = log_sigma[keep], log_t[keep]
        t = np.exp(log_t)
        # flux of a Gaussian of height f(t) dt: 2 pi sigma^2; dt = 2 t dln sigma.
        weight = stable_density(alpha, t) * 2 * t * step * 2 * np.pi * np.exp(2 * log_sigma)
    weight *= b ** (2 * n) / (2 * np.pi * n * gamma(2 * n))
    keep = np.isfinite(weight) & (weight > _LOWEST)
    return weight[keep], np.exp(2 * log_sigma[keep])


@lru_cache(maxsize=256)
def _signed_mixture(n):
    sigma = np.exp(np.arange(np.log(0.004), np.log(0.93), 0.06))
    r = np.concatenate([[0.0], np.geomspace(1e-3, 0.3, 150), np.linspace(0.3, 4.0, 500)])
    aperture = np.concatenate([np.linspace(0.05, 3.0, 100), [10.0]])
    peak = sersic_profile(n, 0.0)
    # Unknowns are the central brightnesses, relative to the peak: columns of one size.
    flux = 2 * np.pi * sigma**2 * peak
    rows = np.concatenate(
        [
            np.exp(-(r[:, None] ** 2) / (2 * sigma**2)),
            -np.expm1(-(aperture[:, None] ** 2) / (2 * sigma**2)) * flux,
        ]
    )
    inside = gammainc(2 * n, sersic_b(n) * aperture ** (1 / n))
    values = np.concatenate([sersic_profile(n, r) / peak, inside])
    return np.linalg.lstsq(rows, values, rcond=1e-15)[0] * flux, sigma**2


def exact_mixture(n, step=None):
    """Gaussians whose sum is the Sersic profile with rhalf = 1 and total flux 1.

    Parameters
    ----------
    n : float
        Sersic index, at least `N_SIGNED`.
    step : float, optional
        Step in ln sigma; `default_step` when not given. Not used for n < 0.5.

    Returns
    -------
    amp : array [M]
        Fluxes; positive for n >= 0.5, of both signs and cancelling (float64) below.
    var : array [M]
        Variances, in units of rhalf squared.

    Raises
    ------
    ValueError
        n below `N_SIGNED`, where the signed mixture loses its accuracy.
    """
    if n < N_SIGNED:
        raise ValueError(f"Sersic index {n} is below {N_SIGNED}")
    if n < 0.5:
        amp, var = _signed_mixture(float(n))
    else:
        amp, var = _mixture(float(n), float(step or default_step(n)))
    return amp.copy(), var.copy()
