"""Where the chains that sample a mixture start: the mode to trust, and its scales."""

import logging

import numpy as np

from psfmix.lm import Options
from psfmix.model import to_free
from psfmix.starts import radial_starts

log = logging.getLogger("psfmix.nuts")

# Round mixtures that other modes are sought from, and how much more of the posterior, in logarithm,
# one of those must hold for the chains to start there.
_OTHER_STARTS, _MUCH_MORE = 2, 5.0


def start_mode(optimum, density, judge):
    """The mode that chains start at.

    Parameters
    ----------
    optimum : array (ngauss, 6)
        Amplitudes relative to the stamp's sum.
    density : psfmix.density.Density
    judge : psfmix.target.Target
        The image as the optimiser sees it.

    Returns
    -------
    z : array (layout.size,)
        Free parameters of the mode nearest to the optimum, or of one near round mixtures where
        that holds `_MUCH_MORE` of the posterior.
    curvature : array (layout.size, layout.size)
        Of the negative logarithm of the posterior, there.
    """
    best = density.mode(free_of(optimum, density))
    if density.layout.fix_amplitude:
        return best
    first = most = _evidence(density, *best)
    options = Options(floor=density.floor, signed=density.layout.signed)
    for raw in radial_starts(judge, len(optimum), options, _OTHER_STARTS):
        mode = density.mode(free_of(raw, density))
        evidence = _evidence(density, *mode)
        if evidence > max(most, first + _MUCH_MORE):
            best, most = mode, evidence
    if most > first:
        log.info(
            "the mode next to the optimum holds e^%.0f times less of the posterior than one next "
            "to round mixtures: chains start there",
            most - first,
        )
    return best


def _evidence(density, z, curvature):
    """Logarithm of the posterior's part that a mode holds, by Laplace's approximation."""
    return density.evaluate(z)[0] - 0.5 * np.linalg.slogdet(curvature)[1]


def free_of(optimum, density):
    """Free parameters (layout.size,) of a mixture (ngauss, 6) and the background that suits it."""
    layout = density.layout
    free = to_free(optimum, density.floor, layout.signed)
    free = free[:, int(layout.fix_amplitude) :].ravel()
    return np.append(free, density.best_background(optimum)) if layout.fit_bg else free


def whitening(curvature):
    """Symmetric W [n, n], W W^T the inverse of a curvature [n, n]; stable for any scaling."""
    scale = 1 / np.sqrt(np.diag(curvature))
    value, basis = np.linalg.eigh(curvature * np.outer(scale, scale))
    value = np.maximum(value, 1e-8 * value.max())
    return scale[:, None] * ((basis / np.sqrt(value)) @ basis.T)
