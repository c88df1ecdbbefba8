"""Coverage, uniformity of ranks and bias of many fits whose truths are known.

Of every fit and parameter two numbers serve: the share of the draws below the truth (its rank), and
the distance of the truth from the mean of the draws, in their standard deviations. If the draws
are those of the posterior and the truth is one of the prior, the first is uniform and the second
has mean zero, in any selection by what was measured (Cook, Gelman & Rubin 2006; Talts et al. 2018,
arXiv:1804.06788). Both hold on average over the prior, not at every truth.
"""

import numpy as np
from scipy.stats import binom, chi2

BINS = 20
"""Of the rank histograms."""
SHARES = (0.5, 0.68, 0.95)
"""Central intervals whose coverage is told."""


def uniformity(ranks, bins=BINS):
    """p value [parameters] that ranks are uniform, by chi2 over bins.

    Parameters
    ----------
    ranks : ndarray
        [number, parameters] shares of the draws below the truth.
    bins : int
    """
    out = []
    for column in np.asarray(ranks).T:
        found, _ = np.histogram(column, bins, (0.0, 1.0))
        expected = len(column) / bins
        out.append(chi2.sf(((found - expected) ** 2 / expected).sum(), bins - 1))
    return np.array(out)


def corrected(p):
    """Smallest of several p values, corrected for their number (Bonferroni)."""
    return min(1.0, float(np.min(p)) * len(p))


def coverage(ranks, share):
    """Fraction [parameters] of truths within the central interval of a share."""
    low = (1.0 - share) / 2.0
    return ((ranks > low) & (ranks < 1.0 - low)).mean(0)


def coverage_error(share, number):
    """Standard error of a coverage if it is right."""
    return float(np.sqrt(share * (1.0 - share) / max(number, 1)))


def bias(pulls):
    """Mean of (posterior mean - truth) / posterior sd, [parameters], and its standard error."""
    pulls = np.asarray(pulls)
    number = max(len(pulls), 1)
    return pulls.mean(0), pulls.std(0, ddof=min(1, number - 1)) / np.sqrt(number)


def band(number, bins=BINS, share=0.99):
    """Range in which a share of the bins of uniform ranks lies."""
    tail = (1.0 - share) / 2.0
    return binom.ppf([tail, 1.0 - tail], number, 1.0 / bins)


def quantile_edges(values, edges):
    """Consecutive (low, high) of edges that have a value between them."""
    values = np.asarray(values)
    pairs = zip(edges[:-1], edges[1:], strict=True)
    return [(a, b) for a, b in pairs if ((values >= a) & (values < b)).any()]
