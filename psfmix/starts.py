"""Starting mixtures from the azimuthally averaged profile, where many trials are cheap."""

import numpy as np
from scipy.optimize import least_squares, nnls

from psfmix.model import AMP, densities

_BINS = 90
_TRIALS = 24
_SEED = 20
# Star starts: major-axis sigma in units of the FWHM, axis ratios, and orientations in 60 degrees.
_STAR_SIGMA, _STAR_RATIO, _STAR_ANGLES = (0.55, 0.9, 1.4, 2.3), (1.5, 2.5, 4.0), 4


def radial_starts(target, ngauss, options, count):
    """Round, concentric mixtures that fit the radial profile, best first.

    The amplitudes are eliminated (variable projection), so only the widths are searched, from
    log-spaced and random widths with a fixed seed.

    Parameters
    ----------
    target : psfmix.target.Target
    ngauss : int
    options : psfmix.lm.Options
    count : int
        How many distinct solutions to return at most.

    Returns
    -------
    list of array (ngauss, 6)
        Raw parameters.
    """
    profile = _Profile(target, options)
    rng = np.random.default_rng(_SEED)
    low = np.log(max(0.25 * target.fwhm, 1.02 * options.floor))
    high = np.log(max(0.5 * target.halfsize, 3 * np.exp(low)))
    found = []
    for trial in range(_TRIALS if ngauss > 1 else 2):
        if trial == 0:
            widths = np.linspace(low, low + 0.8 * (high - low), ngauss)
        else:
            # The core deserves most components: widths crowd towards the narrow end.
            widths = low + (high - low) * np.sort(rng.uniform(size=ngauss)) ** rng.uniform(1, 2.5)
        fit = least_squares(
            profile.residual,
            np.clip(widths, low + 1e-3, high - 1e-3),
            bounds=(low, high),
            max_nfev=40,
            ftol=1e-4,
            xtol=1e-4,
        )
        found.append((fit.cost, np.sort(fit.x)))
    found.sort(key=lambda pair: pair[0])
    kept = []
    for _, widths in found:
        if all(np.max(np.abs(widths - other)) > 0.1 for other in kept):
            kept.append(widths)
        if len(kept) == count:
            break
    return [profile.mixture(widths) for widths in kept]


class _Profile:
    """Radial profile of a target and the linear problem for amplitudes at given widths."""

    def __init__(self, target, options):
        x, y = target.x - target.ee_center[0], target.y - target.ee_center[1]
        radius2 = x**2 + y**2
        order = np.argsort(radius2)
        # Equal steps in log(1 + r / FWHM) resolve the core and the wings alike.
        scale = np.log1p(np.sqrt(radius2[order]) / target.fwhm)
        labels = np.minimum((_BINS * scale / scale[-1]).astype(int), _BINS - 1)
        _, labels = np.unique(labels, return_inverse=True)
        weight2 = target.weight[order] ** 2
        total = np.bincount(labels, weight2)
        self.radius2 = np.bincount(labels, weight2 * radius2[order]) / total
        self.value = np.bincount(labels, weight2 * target.value[order]) / total / target.peak
        self.weight = np.sqrt(total)
        self.peak = target.peak
        middle = np.argmin(radius2)
        self.variance = next(v for rows, v in target.groups if rows.start <= middle < rows.stop)
        self.flux = options.ee_weight / target.total
        self.ee2 = target.ee_radii**2
        self.ee_value = target.energies(target.value)[: len(target.ee_radii)]
        self.ridge = options.ridge / target.total
        self.signed = options.signed
        self.center = target.ee_center
        self.total = target.total

    def _solve(self, widths):
        s2 = np.exp(2 * widths)
        wide = s2 + self.variance
        basis = np.exp(-0.5 * self.radius2[:, None] / wide) / (2 * np.pi * wide * self.peak)
        inside = 1 - np.exp(-0.5 * self.ee2[:, None] / wide)
        matrix = np.concatenate(
            [basis * self.weight[:, None], inside * self.flux, self.ridge * np.eye(len(s2))]
        )
        vector = np.concatenate(
            [self.value * self.weight, self.ee_value * self.flux, np.zeros(len(s2))]
        )
        if self.signed:
            amplitude = np.linalg.lstsq(matrix, vector, rcond=None)[0]
        else:
            amplitude = nnls(matrix, vector)[0]
        return amplitude, matrix @ amplitude - vector

    def residual(self, widths):
        return self._solve(widths)[1]

    def mixture(self, widths):
        amplitude, _ = self._solve(widths)
        if not self.signed:
            amplitude = np.maximum(amplitude, 1e-3 * self.total)
        raw = np.zeros((len(widths), 6))
        raw[:, 0] = amplitude
        raw[:, 1], raw[:, 2] = self.center
        raw[:, 3] = raw[:, 4] = np.exp(2 * widths)
        return raw


def star_starts(target, ngauss, options, count):
    """Round components plus three elongated ones 60 degrees apart, best linear fits first.

    Segmented and three-legged mirrors have six-fold PSFs that no round component describes.

    Returns
    -------
    list of array (ngauss, 6)
        Raw parameters.
    """
    trials = []
    for base in radial_starts(target, ngauss - 3, options, 2):
        for sigma in _STAR_SIGMA:
            for ratio in _STAR_RATIO:
                major, minor = sigma * target.fwhm, sigma * target.fwhm / ratio
                if minor < 1.05 * options.floor:
                    continue
                turned = []
                for angle in np.arange(_STAR_ANGLES) * np.pi / (3 * _STAR_ANGLES):
                    legs = _legs(target.ee_center, major, minor, angle)
                    raw = with_amplitudes(np.concatenate([base, legs]), target, options)
                    model = raw[:, AMP] @ densities(raw, target)
                    cost = np.sum(((model - target.value) * target.weight) ** 2)
                    turned.append((cost, raw))
                trials.append(min(turned, key=lambda trial: trial[0]))
    trials.sort(key=lambda trial: trial[0])
    return [raw for _, raw in trials[:count]]


def _legs(center, major, minor, angle):
    out = np.zeros((3, 6))
    theta = angle + np.arange(3) * np.pi / 3
    cos, sin = np.cos(theta), np.sin(theta)
    out[:, 1], out[:, 2] = center
    out[:, 3] = (major * cos) ** 2 + (minor * sin) ** 2
    out[:, 4] = (major * sin) ** 2 + (minor * cos) ** 2
    out[:, 5] = (major**2 - minor**2) * cos * sin
    return out


def with_amplitudes(raw, target, options):
    """Raw parameters with amplitudes replaced by the (non-negative) linear solution."""
    raw = raw.copy()
    raw[:, AMP] = 1.0
    basis = densities(raw, target)
    pixels = basis * (target.weight / target.peak)
    flux = options.ee_weight / target.total
    circles = slice(len(target.ee_radii))
    inside = flux * target.energies(basis)[:, circles]
    ridge = options.ridge / target.total
    normal = pixels @ pixels.T + inside @ inside.T + ridge**2 * np.eye(len(raw))
    vector = pixels @ (target.value * target.weight / target.peak)
    vector += inside @ (flux * target.energies(target.value)[circles])
    if options.signed:
        raw[:, AMP] = np.linalg.solve(normal, vector)
    else:
        # The same least squares through a Cholesky factor, far smaller than the pixel rows.
        factor = np.linalg.cholesky(normal)
        amplitude, _ = nnls(factor.T, np.linalg.solve(factor, vector))
        raw[:, AMP] = np.maximum(amplitude, 1e-3 * target.total)
    return raw
