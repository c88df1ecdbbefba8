"""What draws of several chains are worth: R-hat, effective sample sizes, energy diagnostics.

Rank-normalised split R-hat, bulk and tail effective sample size as Vehtari, Gelman, Simpson,
Carpenter & Buerkner (2021, Bayesian Analysis 16, 667) define them; the energy Bayesian fraction of
missing information of Betancourt (2016, arXiv:1604.00695).
"""

from typing import NamedTuple

import numpy as np
from scipy.special import ndtri
from scipy.stats import rankdata

LOW_EBFMI = 0.3
"""E-BFMI below which a chain does not explore its energies (Betancourt 2016)."""
TAILS = (0.05, 0.95)


class Worth(NamedTuple):
    """Diagnostics of every parameter, arrays [n]; NaN where all draws are the same.

    Attributes
    ----------
    rhat : rank-normalised split R-hat, the larger one of location and scale.
    bulk : effective sample size of the rank-normalised draws.
    tail : the smaller one of those of the 5 % and 95 % quantiles.
    """

    rhat: np.ndarray
    bulk: np.ndarray
    tail: np.ndarray

    @property
    def ess(self) -> np.ndarray:
        """The smaller one of bulk and tail."""
        return np.minimum(self.bulk, self.tail)


def diagnose(theta: np.ndarray) -> Worth:
    """R-hat and effective sample sizes of draws [chains, draws, n], four draws a chain at least."""
    whole = np.asarray(theta, np.float64)
    x = _split(whole)
    with np.errstate(all="ignore"):
        folded = np.abs(x - np.median(x, axis=(0, 1)))
        score = _normal_scores(x)
        rhat = np.maximum(_rhat(score), _rhat(_normal_scores(folded)))
        tail = [_ess((x <= np.quantile(whole, q, axis=(0, 1))).astype(float)) for q in TAILS]
        found = Worth(rhat, _ess(score), np.minimum(*tail))
    constant = np.ptp(whole, axis=(0, 1)) == 0
    return Worth(*(np.where(constant, np.nan, a) for a in found))


def mean_ess(theta: np.ndarray) -> np.ndarray:
    """Effective sample size [n] for the mean: its Monte-Carlo error is the standard deviation by
    the root of this."""
    with np.errstate(all="ignore"):
        return _ess(_split(np.asarray(theta, np.float64)))


def ebfmi(energy: np.ndarray) -> np.ndarray:
    """E-BFMI [chains] of total energies [chains, draws]; NaN for methods without energies."""
    energy = np.asarray(energy, np.float64)
    with np.errstate(all="ignore"):
        return (np.diff(energy, axis=1) ** 2).mean(1) / energy.var(1, ddof=1)


def _split(x):
    """Every chain as two halves; the middle draw of an odd number is left out."""
    half = x.shape[1] // 2
    return np.concatenate([x[:, :half], x[:, x.shape[1] - half :]])


def _normal_scores(x):
    """Ranks over all chains as quantiles of the unit normal (Blom 1958)."""
    flat = x.reshape(-1, x.shape[-1])
    return ndtri((rankdata(flat, axis=0) - 0.375) / (len(flat) + 0.25)).reshape(x.shape)


def _rhat(x):
    draws = x.shape[1]
    within, between = x.var(1, ddof=1).mean(0), x.mean(1).var(0, ddof=1)
    return np.sqrt((draws - 1) / draws + between / within)


def _ess(x):
    """Effective sample size [n] by Geyer's initial monotone sequence (1992), of half chains."""
    chains, draws, _ = x.shape
    centred = x - x.mean(1, keepdims=True)
    # by FFT, padded to twice the length: no wrapping round
    spectrum = np.fft.rfft(centred, 2 * draws, axis=1)
    covariance = np.fft.irfft(spectrum * spectrum.conj(), axis=1)[:, :draws] / draws
    mean = covariance.mean(0)
    within = mean[0] * draws / (draws - 1)
    total = mean[0] + (x.mean(1).var(0, ddof=1) if chains > 1 else 0.0)
    rho = 1.0 - (within - mean) / total
    rho[0] = 1.0
    even, odd = rho[0 : draws - draws % 2 : 2], rho[1::2]
    pairs = even + odd
    negative = pairs < 0
    # the last lags are sums of a few products only
    negative[(draws - 3) // 2 :] = True
    first = np.argmax(negative, axis=0)
    kept = np.arange(len(pairs))[:, None] < first
    # the even term of the pair that ends the sequence still counts where it is positive
    last = np.maximum(np.take_along_axis(even, first[None], 0)[0], 0.0)
    monotone = np.minimum.accumulate(np.where(kept, pairs, np.inf), axis=0)
    tau = -1.0 + 2.0 * np.where(kept, monotone, 0.0).sum(0) + last
    count = chains * draws
    # draws that alternate are worth more than as many independent ones, within limits
    return count / np.maximum(tau, 1.0 / np.log10(count))
