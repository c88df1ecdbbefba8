"""Noise of an exposure as its blank pixels show it: scatter over quoted error, and correlation.

Resampled images (drizzle, coadds) have noise that is correlated between neighbours, and quoted
errors may be off by tens of per cent. Both are told by pixels without sources, in units of the
quoted errors: u = (data - background) / sigma (for the correlation, of the errors smoothed over a
few pixels: `jaxpho.core.noise`). The scatter is that of the lower half of u, which
faint sources do not widen. The autocovariance is taken over pairs of blank pixels after a running
mean is subtracted, relative to that at the largest lags: gradients and wings do not count.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from jaxpho.core.noise import error_texture
from jaxpho.data.sky import blank_pixels

log = logging.getLogger("jaxpho.noise")

MAX_LAG = 6
"""Pixels: the largest lag of the autocovariance along each axis."""
WINDOW = 1536
"""Pixels a side, about the middle of the image, that are looked at: millions tell no more."""
LEAST_PIXELS, LEAST_FRACTION = 1000, 0.2
"""Blank pixels, and their share of the usable ones, below which nothing is concluded."""
CLIP = 5.0
"""Pixels further from the background, in units of the scatter, are no noise."""
SIGNIFICANT, SINGLE = 3.0, 5.0
"""Standard errors by which a ring of lags, or one lag, must differ from zero to count."""
NOTABLE = 0.1
"""Departure of the scatter from the quoted errors that is worth a warning."""
LOWER_SIGMA = 0.15865525393145707


@dataclass
class NoiseStatistics:
    """The noise of one exposure.

    Attributes
    ----------
    ratio : scatter of single blank pixels over the quoted errors.
    ratio_error : its standard error, from the scatter between parts of the image.
    correlation : [2 L + 1, 2 L + 1] correlation of pixels by lag (y, x), 1 in the middle, 0
        beyond; None where no lag is significant.
    npix : blank pixels.
    fraction : of the usable pixels.
    """

    ratio: float
    ratio_error: float
    correlation: np.ndarray | None
    npix: int
    fraction: float

    @property
    def factor(self) -> float:
        """By what independent pixels of the same scatter make errors of smooth sources too small.

        The root of the sum of the correlation over lags.
        """
        if self.correlation is None:
            return 1.0
        return float(np.sqrt(max(self.correlation.sum(), 0.0)))

    @property
    def next_pixel(self) -> float:
        """Mean correlation with the four nearest pixels."""
        if self.correlation is None:
            return 0.0
        k = len(self.correlation) // 2
        c = self.correlation
        return float((c[k, k + 1] + c[k, k - 1] + c[k + 1, k] + c[k - 1, k]) / 4)

    def to_plain(self) -> dict:
        """Plain values for JSON."""
        rho = self.correlation
        rows = None if rho is None else [[round(float(v), 5) for v in row] for row in rho]
        return vars(self) | {"correlation": rows}

    @classmethod
    def from_plain(cls, values: dict) -> NoiseStatistics:
        """The statistics of `to_plain`."""
        rho = values["correlation"]
        return cls(**values | {"correlation": None if rho is None else np.array(rho)})


def measure_exposure(exposure) -> NoiseStatistics | None:
    """Noise of an exposure: what was noted when it was stored, or by its middle."""
    if hasattr(exposure, "noted_noise"):
        return exposure.noted_noise  # a store is not read for it: it may hold thousands
    ny, nx = exposure.shape
    y0, x0 = max(0, (ny - WINDOW) // 2), max(0, (nx - WINDOW) // 2)
    return measure_noise(*exposure.cutout(x0, min(nx, x0 + WINDOW), y0, min(ny, y0 + WINDOW)))


def tell_noise(exposures, inflation: str | float, correlation: str) -> None:
    """Measure the noise of exposures, in place, and say what follows from it.

    Parameters
    ----------
    exposures : their `noise` and `inflation` are set.
    inflation, correlation : `jaxpho.fit.options.NoiseOptions`.
    """
    few, off = [], []
    for exposure in exposures:
        found = exposure.noise = measure_exposure(exposure)
        if not isinstance(inflation, str):
            exposure.inflation = float(inflation)
        elif inflation == "blank" and found is not None:
            exposure.inflation = found.ratio
        if found is None:
            few.append(exposure.name)
            continue
        text = "independent pixels"
        if found.correlation is not None:
            text = (
                f"correlation with the next pixel {found.next_pixel:.2f}, errors of smooth sources "
                f"times {found.factor:.2f}"
            )
        log.info(
            "%s: scatter of %d blank pixels is %.3f +- %.3f of the quoted errors; %s%s",
            exposure.name, found.npix, found.ratio, found.ratio_error, text,
            f"; errors times {exposure.inflation:.3f}" if exposure.inflation != 1.0 else "",
        )  # fmt: skip
        remaining = found.ratio / exposure.inflation
        if abs(remaining - 1.0) > max(NOTABLE, SIGNIFICANT * found.ratio_error):
            off.append(remaining)
    if off and inflation != "residual":
        log.warning(
            "in %d of %d exposures the scatter of blank pixels is %.2f to %.2f times the errors: "
            "noise.inflation: blank corrects them", len(off), len(exposures), min(off), max(off),
        )  # fmt: skip
    factors = [e.noise.factor for e in exposures if e.noise is not None]
    if correlation == "none" and max(factors, default=1.0) > 1.0 + NOTABLE:
        log.warning(
            "the noise is correlated between pixels, errors are up to %.1f times too small: "
            "noise.correlation: inflate or covariance treats it", max(factors),
        )  # fmt: skip
    if few:
        what = [] if inflation != "blank" else ["errors are taken as quoted"]
        what += [] if correlation == "none" else ["pixels as independent"]
        log.info(
            "too few blank pixels (or stored without their noise): %s%s%s", ", ".join(few[:8]),
            f" and {len(few) - 8} more" if len(few) > 8 else "",
            f"; {' and '.join(what)}" if what else "",
        )  # fmt: skip


def measure_noise(data: np.ndarray, ierr: np.ndarray) -> NoiseStatistics | None:
    """Noise of an image by its blank pixels.

    Parameters
    ----------
    data, ierr : [ny, nx] pixels (any constant or slowly varying sky) and 1/sigma, 0 where masked.

    Returns
    -------
    NoiseStatistics, or None where too few pixels are blank.
    """
    good = ierr > 0
    if not good.any():
        return None
    texture = error_texture(ierr)
    u = np.where(good, data.astype(float) * ierr, 0.0)
    # steps of the weights must not look like sources, nor a level times a changing weight
    u -= np.where(good, np.median(data[good]) * ierr, 0.0)
    blank = blank_pixels(u, good, nsigma=3.0)
    return noise_of(u, blank, int(good.sum()), texture)


def noise_of(
    u: np.ndarray, blank: np.ndarray, usable: int, texture: np.ndarray | float = 1.0
) -> NoiseStatistics | None:
    """Noise of an image over given blank pixels; None where these are few.

    Parameters
    ----------
    u : [ny, nx] in units of its errors.
    blank : [ny, nx] bool
    usable : pixels that are not masked.
    texture : [ny, nx] errors over their smooth course, in units of which correlations are taken.
    """
    npix = int(blank.sum())
    if npix < LEAST_PIXELS or npix < LEAST_FRACTION * usable:
        return None
    box = int(np.clip(min(u.shape) // 2, 16, 64)) | 1
    rest = _without_mean(u, blank, box)
    scatter = _lower_scatter(rest[blank])
    if not scatter > 0:
        return None
    blank = blank & (np.abs(rest) < CLIP * scatter)
    rest = _without_mean(u, blank, box)
    scatter = _lower_scatter(rest[blank])
    covariance, pairs = autocovariance(rest * texture, blank, MAX_LAG)
    # what pixels far apart have in common is no noise of theirs: structure of the background, and
    # (negative) what the running mean took
    lag = np.arange(-MAX_LAG, MAX_LAG + 1)
    outer = np.maximum(abs(lag[:, None]), abs(lag)) == MAX_LAG
    common = float(covariance[outer].mean())
    correlation = _significant(covariance - common, pairs)
    total = 1.0 if correlation is None else max(float(correlation.sum()), 0.0)
    ratio = np.sqrt(max(scatter**2 - common, 0.1 * scatter**2))
    error = _ratio_error(rest, blank, ratio, total)
    return NoiseStatistics(float(ratio), error, correlation, npix, npix / max(usable, 1))


def _without_mean(u, blank, box):
    """u less its mean over the blank pixels of a box about each."""
    weight = ndimage.uniform_filter(blank.astype(float), box, mode="constant")
    total = ndimage.uniform_filter(np.where(blank, u, 0.0), box, mode="constant")
    return np.where(blank, u - total / np.maximum(weight, 1e-12), 0.0)


def _lower_scatter(values: np.ndarray) -> float:
    """Standard deviation by the quantiles of the lower half of a normal distribution."""
    low, middle = np.quantile(values, [LOWER_SIGMA, 0.5])
    return float(middle - low)


def autocovariance(u: np.ndarray, select: np.ndarray, lags: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean product of selected pixels by lag, and the number of pairs.

    Parameters
    ----------
    u : [ny, nx]
    select : [ny, nx] bool
    lags : largest lag L.

    Returns
    -------
    covariance, pairs : [2 L + 1, 2 L + 1] by lag in (y, x), lag 0 in the middle.
    """
    size = [int(2 ** np.ceil(np.log2(n + lags))) for n in u.shape]

    def correlate(image):
        power = np.abs(np.fft.rfft2(image, size)) ** 2
        full = np.fft.irfft2(power, size)
        return np.roll(full, (lags, lags), (0, 1))[: 2 * lags + 1, : 2 * lags + 1]

    pairs = np.rint(correlate(select.astype(float)))
    return correlate(np.where(select, u, 0.0)) / np.maximum(pairs, 1.0), pairs


def _significant(covariance, pairs) -> np.ndarray | None:
    """Correlation by lag, out to the last ring of lags that differs from zero."""
    lags = len(covariance) // 2
    variance = covariance[lags, lags]
    if not variance > 0:
        return None
    rho = covariance / variance
    y, x = np.indices(rho.shape) - lags
    ring = np.maximum(np.abs(x), np.abs(y))
    # each pair of pixels counts at a lag and at its opposite; products of a correlated field
    # scatter by sum(rho^2) more than those of an independent one
    spread = np.sqrt((rho**2).sum() / np.maximum(pairs, 1.0))
    reach = 0
    for r in range(1, lags):
        at = ring == r
        error = spread[at].mean() * np.sqrt(2.0 / at.sum())
        single = np.abs(rho[at]).max() > SINGLE * spread[at].mean()
        if abs(rho[at].mean()) <= SIGNIFICANT * error and not single:
            break
        reach = r
    if reach == 0:
        return None
    at = slice(lags - reach, lags + reach + 1)
    return positive_correlation(rho[at, at])


def positive_correlation(rho: np.ndarray, floor: float = 1e-3) -> np.ndarray:
    """The correlation with a spectrum of at least `floor`: measured ones may have none.

    Lags stay within [2 L + 1, 2 L + 1]; cutting them there leaves the spectrum positive only
    nearly, so the cut and the floor are repeated.
    """
    rho = (rho + rho[::-1, ::-1]) / 2
    reach = len(rho) // 2
    n = 16 * (reach + 1)
    for _ in range(50):
        whole = np.zeros((n, n))
        whole[: 2 * reach + 1, : 2 * reach + 1] = rho
        spectrum = np.fft.fft2(np.roll(whole, (-reach, -reach), (0, 1))).real
        if spectrum.min() >= floor:
            break
        # a little above, so that what the cut takes away leaves it positive
        back = np.fft.ifft2(np.maximum(spectrum, 2.0 * floor)).real
        rho = np.roll(back, (reach, reach), (0, 1))[: 2 * reach + 1, : 2 * reach + 1]
        rho = rho / rho[reach, reach]
    else:
        # white noise added on the diagonal always helps
        extra = max(floor - spectrum.min(), 0.0)
        rho = rho.copy()
        rho[reach, reach] += extra
        rho = rho / rho[reach, reach]
    return rho


def _ratio_error(rest, blank, ratio, total, box: int = 32) -> float:
    """Standard error of the ratio: between boxes, at least that of normal noise."""
    found = []
    for j in range(0, rest.shape[0], box):
        for i in range(0, rest.shape[1], box):
            inside = blank[j : j + box, i : i + box]
            if inside.sum() >= 0.25 * box * box:
                found.append(_lower_scatter(rest[j : j + box, i : i + box][inside]))
    # variance of the difference of the two quantiles of n normal deviates: 1.44 / n
    least = 1.2 * ratio * np.sqrt(max(total, 1.0) / blank.sum())
    if len(found) < 4:
        return float(least)
    return float(max(least, np.std(found, ddof=1) / np.sqrt(len(found))))
