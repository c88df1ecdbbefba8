"""Make the Sersic mixtures that come with the package: ``python -m jaxpho.core.tables.generate``.

The scheme: the widths ``ln s_k`` and the amplitudes ``a_k`` are Chebyshev series in
``u = 2 ln(n/0.5)/ln(16) - 1``; their coefficients minimise the worst difference from the exact
profile (`jaxpho.core.tables.exact`): surface brightness relative to the peak, after blurs from the
design blur upwards, the flux enclosed out to 40 rhalf, and the biases of fitted fluxes, indices
and sizes. Levenberg-Marquardt on sums of p-th
powers, with p raised in steps, approaches the minimum of the maximum. The sum of the amplitudes
is one by construction: the series of the last Gaussian is the complement of the others. All four
tables take a few minutes on one core; on another machine the coefficients may differ where
the last digits do not matter, the accuracy does not (`jaxpho.core.tables.accuracy`).
"""

import argparse
import os
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.polynomial.chebyshev import chebvander

from jaxpho.core.tables.exact import exact_mixture


class Design(NamedTuple):
    """How one table is made.

    `starts` are (ln s_min at n = .5, ln s_min at n = 8, ln s_max at n = 8): evenly spaced widths
    between them begin the search. Several starts guard against a poor local minimum.
    """

    components: int
    blur: float
    log_sigma_terms: int
    amplitude_terms: int
    starts: tuple


DESIGNS = {
    "k8": Design(8, 1 / 16, 5, 9, ((-2.4, -3.8, 5.0), (-3.0, -4.0, 5.0))),
    "k10": Design(10, 1 / 32, 5, 9, ((-2.7, -4.5, 5.0), (-2.0, -4.0, 4.0))),
    "k12": Design(12, 1 / 32, 5, 9, ((-2.7, -4.5, 5.0), (-3.0, -4.5, 4.0))),
    "k16": Design(16, 1 / 128, 5, 11, ((-3.5, -6.5, 5.0), (-3.3, -6.0, 5.0))),
}
BIAS_VIEWS = (
    *((2.0, field) for field in (16, 27, 40)),
    *((1.0, field) for field in (16, 27, 40)),
    *((blur, 27) for blur in (1.4, 0.5, 0.25, 0.125)),
)
"""Where fitted parameters should come out right: PSF sigma over rhalf, stamp radius in PSF sigma.

Small galaxies of high n depend on the stamp: their index is read off the faint wings."""
BIAS_WEIGHTS = (0.5, 0.1, 0.2)
"""Weights of biases in ln flux, n and ln rhalf, against 1 for a difference of one peak."""
POWERS = (2, 3, 4, 6, 8, 12, 16, 24, 32, 40)
ITERATIONS = 30
HIGH_N_WEIGHT = 0.7
"""Weight of n > 6, rare in nature and hard to fit, against 1 below."""
NEGATIVE_WEIGHT = 0.05
"""Weight of a negative amplitude: allowed where it helps, small otherwise."""
DECIMALS = 9


class Target(NamedTuple):
    """What a mixture has to reproduce at one Sersic index (units: rhalf = 1, flux = 1).

    Every entry of `radius`, `blur2`, `enclosed`, `value` is one quantity: surface brightness
    after a blur of variance `blur2`, or (where `enclosed`) the unblurred flux inside a radius.
    `operator` [rows, quantities] turns differences of them into the residuals to minimise.
    """

    u: float
    radius: np.ndarray
    blur2: np.ndarray
    enclosed: np.ndarray
    value: np.ndarray
    operator: np.ndarray


def to_u(n):
    """The variable of the Chebyshev series."""
    return 2 * np.log(np.asarray(n) / 0.5) / np.log(16.0) - 1


def nodes(count=33):
    """Sersic indices at which tables are fitted: Chebyshev nodes in u, with both ends.

    Between .5 and .505 the exact mixture needs too many Gaussians and differs little from its
    ends, so these nodes are left out.
    """
    u = -np.cos(np.pi * np.arange(count) / (count - 1))
    n = 0.5 * 16 ** ((u + 1) / 2)
    n[0], n[-1] = 0.5, 8.0
    return n[(n == 0.5) | (n >= 0.505)]


def aperture_weight(radius):
    """Weight of the flux inside a radius: 1 up to 4 rhalf, falling to .1 at 40."""
    return np.clip(4 / radius, 0.1, 1)


def gaussian_rows(var, radius, blur2, enclosed):
    """Value and d/d ln sigma of unit Gaussians [..., K] for every equation."""
    total = var + blur2[:, None]
    x = radius[:, None] ** 2 / (2 * total)
    g = np.exp(-x)
    value = np.where(enclosed[:, None], 1 - g, g / (2 * np.pi * total))
    slope = np.where(enclosed[:, None], -g * x, g * (x - 1) / (2 * np.pi * total)) / total
    return value, slope * 2 * var


def bias_operator(n, blur, radius):
    """Biases of ln flux, n and ln rhalf from differences in brightness, as a matrix [3, radii].

    One Gauss-Newton step of a least-squares fit to a round galaxy seen with this blur, with the
    same noise in every pixel.
    """
    zeros = np.zeros(radius.size)

    def brightness(n, scale):
        amp, var = exact_mixture(n)
        blur2 = zeros + blur**2
        return gaussian_rows(var * scale**2, radius, blur2, zeros.astype(bool))[0] @ amp

    centre, step = brightness(n, 1.0), 0.01
    slopes = np.stack(
        [
            centre,
            (brightness(n + step, 1.0) - centre) / step,
            (brightness(n, np.exp(step)) - brightness(n, np.exp(-step))) / (2 * step),
        ]
    )
    weighted = slopes * radius * np.gradient(radius)
    return np.linalg.solve(weighted @ slopes.T, weighted)


def make_target(n, blur0):
    """Equations for one Sersic index.

    Brightness relative to the peak at blurs blur0 * 2**i and 20 radii each, flux in 30
    apertures, and the three biases at `BIAS_VIEWS`.
    """
    amp, var = exact_mixture(n)
    blurs = blur0 * 2.0 ** np.arange(12)
    blurs = blurs[blurs < 2.5]
    # Radii in units of the blur, out to where nothing matters relative to the peak.
    shape = np.concatenate([[0.0], np.geomspace(0.4, 40.0, 19)])
    apertures = np.geomspace(0.02, 40.0, 30)
    # Out to 8 rhalf, or the whole stamp where that is larger.
    fields = [np.geomspace(0.05 * b, max(8.0, f * b), 60) for b, f in BIAS_VIEWS]
    radius = np.concatenate([(shape * blurs[:, None]).ravel(), apertures, *fields])
    blur2 = np.concatenate(
        [
            np.repeat(blurs**2, shape.size),
            np.zeros(apertures.size),
            *(np.full(60, b**2) for b, _ in BIAS_VIEWS),
        ]
    )
    bright, direct = blurs.size * shape.size, blurs.size * shape.size + apertures.size
    enclosed = (np.arange(radius.size) >= bright) & (np.arange(radius.size) < direct)
    value = gaussian_rows(var, radius, blur2, enclosed)[0] @ amp
    peak = np.repeat(value[: bright : shape.size], shape.size)
    operator = np.zeros((direct + 3 * len(fields), radius.size))
    operator[:direct, :direct] = np.diag(np.concatenate([1 / peak, aperture_weight(apertures)]))
    for i, ((blur, _), field) in enumerate(zip(BIAS_VIEWS, fields, strict=True)):
        rows = slice(direct + 3 * i, direct + 3 * i + 3)
        columns = slice(direct + 60 * i, direct + 60 * i + 60)
        weights = np.array(BIAS_WEIGHTS)[:, None]
        operator[rows, columns] = weights * bias_operator(n, blur, field)
    operator *= HIGH_N_WEIGHT if n > 6 else 1.0
    return Target(float(to_u(n)), radius, blur2, enclosed, value, operator)


class Problem:
    """Residuals of a table and their derivatives with respect to its coefficients."""

    def __init__(self, design):
        targets = [make_target(n, design.blur) for n in nodes()]
        self.design = design
        self.targets = targets
        terms = max(design.log_sigma_terms, design.amplitude_terms)
        basis = chebvander(np.array([t.u for t in targets]), terms - 1)
        self.basis_s = basis[:, : design.log_sigma_terms]
        self.basis_a = basis[:, : design.amplitude_terms]

    def unpack(self, x):
        """Coefficients (log_sigma [nc, K], amplitude [nd, K]) from the free ones."""
        k = self.design.components
        split = self.basis_s.shape[1] * k
        free = x[split:].reshape(-1, k - 1)
        last = -free.sum(axis=1, keepdims=True)
        last[0] += 1.0
        return x[:split].reshape(-1, k), np.concatenate([free, last], axis=1)

    def residuals(self, x, jacobian=False):
        """Weighted residuals [rows], and d/dx [rows, size] when asked for."""
        log_sigma, amplitude = self.unpack(x)
        amp, var = self.basis_a @ amplitude, np.exp(2 * (self.basis_s @ log_sigma))
        rows, slopes = [], []
        for t, a, v, bs, ba in zip(self.targets, amp, var, self.basis_s, self.basis_a, strict=True):
            value, slope = gaussian_rows(v, t.radius, t.blur2, t.enclosed)
            rows += [t.operator @ (value @ a - t.value), NEGATIVE_WEIGHT * np.minimum(a, 0)]
            if not jacobian:
                continue
            # The last amplitude is one minus the others: differences to it are what counts.
            below = np.diag(NEGATIVE_WEIGHT * (a < 0))
            d_amp = np.concatenate([t.operator @ value, below])
            d_amp = d_amp[:, :-1] - d_amp[:, -1:]
            d_sig = np.concatenate([(t.operator @ slope) * a, np.zeros_like(below)])
            slopes.append(
                np.concatenate(
                    [
                        (bs[:, None] * d_sig[:, None, :]).reshape(len(d_sig), -1),
                        (ba[:, None] * d_amp[:, None, :]).reshape(len(d_amp), -1),
                    ],
                    axis=1,
                )
            )
        residual = np.concatenate(rows)
        return (residual, np.concatenate(slopes)) if jacobian else residual

    def start(self, low, low_end, high_end):
        """Evenly spaced widths (the widest at n = .5 is the exact one), linear amplitudes."""
        k = np.linspace(0, 1, self.design.components)
        first = low + (np.log(0.85) - low) * k
        last = low_end + (high_end - low_end) * k
        log_sigma = np.zeros((self.basis_s.shape[1], k.size))
        log_sigma[:2] = (first + last) / 2, (last - first) / 2
        amplitude = np.zeros((self.basis_a.shape[1], k.size - 1))
        amplitude[0] = 1 / k.size
        x = np.concatenate([log_sigma.ravel(), amplitude.ravel()])
        for _ in range(3):
            residual, slope = self.residuals(x, jacobian=True)
            slope = slope[:, log_sigma.size :]
            normal = slope.T @ slope
            normal += 1e-10 * np.trace(normal) / len(normal) * np.eye(len(normal))
            x[log_sigma.size :] -= np.linalg.solve(normal, slope.T @ residual)
        return x


def minimise(problem, x, power, iterations=ITERATIONS):
    """Levenberg-Marquardt on the sum of |residual|**power."""
    damping = 1e-3
    residual, slope = problem.residuals(x, jacobian=True)
    for _ in range(iterations):
        scale = np.abs(residual).max()
        relative = np.abs(residual) / scale
        cost = np.sum(relative**power)
        weight = relative ** (power - 2)
        gradient = slope.T @ (weight * residual)
        normal = (slope * weight[:, None]).T @ slope
        diagonal = np.diag(normal) + 1e-10 * np.diag(normal).max()
        for _ in range(12):
            step = np.linalg.solve(normal + damping * np.diag(diagonal), gradient)
            trial = x - step / (power - 1)
            with np.errstate(over="ignore"):
                trial_cost = np.sum((np.abs(problem.residuals(trial)) / scale) ** power)
            if trial_cost < cost:
                break
            damping *= 4
        else:
            break
        x, damping = trial, max(damping / 3, 1e-12)
        if (trial_cost / cost) ** (1 / power) > 1 - 1e-6:
            break
        residual, slope = problem.residuals(x, jacobian=True)
    return x


def make_table(design):
    """Coefficients (log_sigma [nc, K], amplitude [nd, K]) and the worst weighted residual."""
    problem = Problem(design)
    results = []
    for start in design.starts:
        x = problem.start(*start)
        for power in POWERS:
            x = minimise(problem, x, power)
        results.append((np.abs(problem.residuals(x)).max(), x))
    worst, x = min(results, key=lambda pair: pair[0])
    log_sigma, amplitude = problem.unpack(x)
    order = np.argsort(log_sigma[0])
    log_sigma, amplitude = log_sigma[:, order].round(DECIMALS), amplitude[:, order].round(DECIMALS)
    # Rounding must not touch the total: the largest amplitude takes what is left over.
    largest = np.argmax(amplitude[0])
    amplitude[:, largest] -= amplitude.sum(axis=1)
    amplitude[0, largest] += 1.0
    return log_sigma, amplitude, worst


def main(arguments=None):
    """Write the tables; prints the worst weighted residual of each."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="tables to make (default: all)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder")
    options = parser.parse_args(arguments)
    for name in options.names or DESIGNS:
        begun = time.perf_counter()
        log_sigma, amplitude, worst = make_table(DESIGNS[name])
        temporary = options.out / f".{name}.tmp.npz"
        np.savez(temporary, log_sigma=log_sigma, amplitude=amplitude)
        os.replace(temporary, options.out / f"{name}.npz")
        print(f"{name}: worst weighted residual {worst:.2e}, {time.perf_counter() - begun:.0f} s")


if __name__ == "__main__":
    main()
