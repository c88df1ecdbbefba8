"""Make the Sersic mixtures that come with the package: ``python -m jaxpho.core.tables.generate``.

The scheme: the widths ``ln s_k`` and the amplitudes ``a_k`` are Chebyshev series in
``u = 2 ln(n/0.5)/ln(16) - 1``; their coefficients minimise the worst difference from the exact
profile (`jaxpho.core.tables.exact`): surface brightness relative to the peak, after blurs from the
design blur upwards, the flux enclosed out to 40 rhalf, and the biases of fitted fluxes, indices
and sizes. Levenberg-Marquardt on sums of p-th
powers, with p raised in steps, approaches the minimum of the maximum. The sum of the amplitudes
is one by construction: the series of the last Gaussian is the complement of the others.

Below n = .5 a profile is flatter than a Gaussian. There a second pair of series of the same kind,
in ``2 ln(n/0.3)/ln(.5/.3) - 1`` and with amplitudes of both signs, carries the table on to n = .3;
at n = .5 it is fitted to the first one, so that the two meet.

All four tables take a few minutes on one core; on another machine the coefficients may differ where
the last digits do not matter, the accuracy does not (`jaxpho.core.tables.accuracy`).
"""

import argparse
import os
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.polynomial.chebyshev import chebval, chebvander

from jaxpho.core.tables.exact import exact_mixture


class Design(NamedTuple):
    """How one branch of a table is made.

    `starts` are (ln s_min at the lowest n, ln s_min and ln s_max at the highest n): evenly spaced
    widths between them, up to .85 at the lowest n, begin the search. Several starts guard against
    a poor local minimum.
    """

    components: int
    blur: float
    log_sigma_terms: int
    amplitude_terms: int
    starts: tuple
    low: float = 0.5
    high: float = 8.0

    @property
    def signed(self):
        """Whether amplitudes of both signs are what it takes."""
        return self.low < 0.5

    def to_u(self, n):
        """The variable of the Chebyshev series."""
        return 2 * np.log(np.asarray(n) / self.low) / np.log(self.high / self.low) - 1

    def nodes(self):
        """Sersic indices at which the branch is fitted: Chebyshev nodes in u, with both ends.

        Between .5 and .505 the exact mixture needs too many Gaussians and differs little from
        its ends, so these nodes are left out.
        """
        count = 13 if self.signed else 33
        u = -np.cos(np.pi * np.arange(count) / (count - 1))
        n = self.low * (self.high / self.low) ** ((u + 1) / 2)
        n[0], n[-1] = self.low, self.high
        return n[(n <= 0.5) | (n >= 0.505)]


DESIGNS = {
    "k8": Design(8, 1 / 16, 5, 9, ((-2.4, -3.8, 5.0), (-3.0, -4.0, 5.0))),
    "k10": Design(10, 1 / 32, 5, 9, ((-2.7, -4.5, 5.0), (-2.0, -4.0, 4.0))),
    "k12": Design(12, 1 / 32, 5, 9, ((-2.7, -4.5, 5.0), (-3.0, -4.5, 4.0))),
    "k16": Design(16, 1 / 128, 5, 11, ((-3.5, -6.5, 5.0), (-3.3, -6.0, 5.0))),
}


def flat_design(design):
    """The branch below n = .5 that belongs to one above."""
    starts = tuple((low, low, np.log(0.85)) for low in (-2.3, -1.9, -1.6))
    return design._replace(log_sigma_terms=3, amplitude_terms=6, starts=starts, low=0.3, high=0.5)


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
RIDGE = 3e-6
"""Weight of every amplitude where both signs are needed: keeps what cancels under about 30."""
SEAM_WEIGHT = 5.0
"""Weight of n = .5 in the branch below it, where it has to meet the one above."""
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


def make_target(design, n, mixture=None):
    """Equations for one Sersic index.

    Brightness relative to the peak at blurs ``design.blur`` 2**i and 20 radii each, flux in 30
    apertures, and the three biases at `BIAS_VIEWS`. `mixture` (amp, var) replaces the exact one.
    """
    amp, var = exact_mixture(n) if mixture is None else mixture
    blur0 = design.blur
    blurs = blur0 * 2.0 ** np.arange(12)
    blurs = blurs[blurs < 2.5]
    # Radii in units of the blur, out to where nothing matters relative to the peak.
    bright_radius = np.concatenate([[0.0], np.geomspace(0.4, 40.0, 19)]) * blurs[:, None]
    if design.signed:
        # Signed sums can ripple where the profile falls, however small the blur.
        falling = np.tile(np.linspace(0.06, 1.8, 30), (blurs.size, 1))
        bright_radius = np.concatenate([bright_radius, falling], axis=1)
    per_blur = bright_radius.shape[1]
    apertures = np.geomspace(0.02, 40.0, 30)
    # Out to 8 rhalf, or the whole stamp where that is larger.
    fields = [np.geomspace(0.05 * b, max(8.0, f * b), 60) for b, f in BIAS_VIEWS]
    radius = np.concatenate([bright_radius.ravel(), apertures, *fields])
    blur2 = np.concatenate(
        [
            np.repeat(blurs**2, per_blur),
            np.zeros(apertures.size),
            *(np.full(60, b**2) for b, _ in BIAS_VIEWS),
        ]
    )
    bright, direct = bright_radius.size, bright_radius.size + apertures.size
    enclosed = (np.arange(radius.size) >= bright) & (np.arange(radius.size) < direct)
    value = gaussian_rows(var, radius, blur2, enclosed)[0] @ amp
    peak = np.repeat(value[:bright:per_blur], per_blur)
    operator = np.zeros((direct + 3 * len(fields), radius.size))
    operator[:direct, :direct] = np.diag(np.concatenate([1 / peak, aperture_weight(apertures)]))
    for i, ((blur, _), field) in enumerate(zip(BIAS_VIEWS, fields, strict=True)):
        rows = slice(direct + 3 * i, direct + 3 * i + 3)
        columns = slice(direct + 60 * i, direct + 60 * i + 60)
        weights = np.array(BIAS_WEIGHTS)[:, None]
        operator[rows, columns] = weights * bias_operator(n, blur, field)
    operator *= SEAM_WEIGHT if mixture is not None else HIGH_N_WEIGHT if n > 6 else 1.0
    return Target(float(design.to_u(n)), radius, blur2, enclosed, value, operator)


class Problem:
    """Residuals of a table and their derivatives with respect to its coefficients.

    `seam`, a mixture (amp, var), is what the branch has to be at n = .5.
    """

    def __init__(self, design, seam=None):
        targets = [make_target(design, n, seam if n == 0.5 else None) for n in design.nodes()]
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
            penalty = np.where(a < 0, NEGATIVE_WEIGHT, 0.0)
            if self.design.signed:
                penalty = np.full_like(a, RIDGE)
            rows += [t.operator @ (value @ a - t.value), penalty * a]
            if not jacobian:
                continue
            # The last amplitude is one minus the others: differences to it are what counts.
            penalty = np.diag(penalty)
            d_amp = np.concatenate([t.operator @ value, penalty])
            d_amp = d_amp[:, :-1] - d_amp[:, -1:]
            d_sig = np.concatenate([(t.operator @ slope) * a, np.zeros_like(penalty)])
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
        """Evenly spaced widths (the widest at n = .5 is the exact one's), linear amplitudes."""
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


def make_branch(design, seam=None):
    """Coefficients (log_sigma [nc, K], amplitude [nd, K]) and the worst weighted residual."""
    problem = Problem(design, seam)
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


def make_table(design):
    """Arrays of a table by name, and the worst weighted residual of each of its branches."""
    log_sigma, amplitude, worst = make_branch(design)
    seam = chebval(-1.0, amplitude), np.exp(2 * chebval(-1.0, log_sigma))
    log_sigma_flat, amplitude_flat, worst_flat = make_branch(flat_design(design), seam)
    arrays = {
        "log_sigma": log_sigma,
        "amplitude": amplitude,
        "log_sigma_flat": log_sigma_flat,
        "amplitude_flat": amplitude_flat,
    }
    return arrays, worst, worst_flat


def main(arguments=None):
    """Write the tables; prints the worst weighted residual of each."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="tables to make (default: all)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder")
    options = parser.parse_args(arguments)
    for name in options.names or DESIGNS:
        begun = time.perf_counter()
        arrays, worst, worst_flat = make_table(DESIGNS[name])
        temporary = options.out / f".{name}.tmp.npz"
        np.savez(temporary, **arrays)
        os.replace(temporary, options.out / f"{name}.npz")
        spent = time.perf_counter() - begun
        print(
            f"{name}: worst weighted residual {worst:.2e}, n < .5 {worst_flat:.2e}, {spent:.0f} s"
        )


if __name__ == "__main__":
    main()
