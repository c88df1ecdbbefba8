"""Does a joint fit find the same minimum from any reasonable start, and how fast?

Fifteen sources in three bands of 128 x 128 pixels: 5 stars, 4 exponential and 2 de Vaucouleurs
galaxies and 4 of free Sersic index, 109 parameters, 3 PSF Gaussians a band, four pairs closer than
2 FWHM, the faintest source at S/N 10. Starts: positions +- 1 pixel, fluxes x .5-2, rhalf x .67-1.5,
n .7-5, any orientation. Times are processor and wall seconds of warm programs, and a multiple of
one pass of the Fisher matrix.

    taskset -c 0 python benchmarks/joint_scene.py [--starts 20]
"""

import time
from dataclasses import replace
from typing import NamedTuple

import common
import jax.numpy as jnp
import numpy as np

from jaxpho.data.arrays import exposure_from_arrays
from jaxpho.data.catalog import Peak
from jaxpho.data.pack import pack_patch
from jaxpho.data.psfmodel import PSFModel
from jaxpho.fit.driver import fit_patch
from jaxpho.fit.evaluate import problem_of
from jaxpho.fit.options import FitOptions, PriorOptions, SampleOptions
from jaxpho.fit.posterior import Static, evaluate, model_of, to_unconstrained
from psfmix.fit import from_array

SIZE, SCALE, BANDS = 128, 0.2, ("g", "r", "z")
SEED = 20261124
FWHM = {"g": 4.4, "r": 4.0, "z": 3.6}  # pixels
KINDS = ("point",) * 5 + ("exp",) * 4 + ("dev",) * 2 + ("sersic",) * 4
COLOUR = {"g": 0.6, "r": 1.0, "z": 1.5}
# flux and S/N are set by the noise below; each pair shares a neighbourhood
PAIRS = ((0, 5), (1, 11), (6, 12), (9, 13))
SEPARATION = 1.5  # PSF FWHM of r
FREE = {"position": PriorOptions("uniform", low=-0.6, high=0.6)}


class Case(NamedTuple):
    """A simulated scene: images [3, SIZE, SIZE] of unit noise, true peaks."""

    data: np.ndarray
    truth: list


def psf_of(band):
    """Three Gaussians of total 1, off-centre and elliptical, with wings."""
    s = (FWHM[band] / 2.355) ** 2
    return np.array(
        [
            [0.70, 0.00, 0.00, s, 0.95 * s, 0.04 * s],
            [0.25, 0.03, -0.02, 2.6 * s, 2.8 * s, 0.0],
            [0.05, 0.00, 0.05, 9.0 * s, 9.0 * s, 0.0],
        ]
    )


def make_case(seed=SEED):
    """The scene, the same for the same seed."""
    rng = np.random.default_rng(seed)
    n = len(KINDS)
    grid = np.array([(x, y) for x in range(4) for y in range(4)], float)[:n]
    place = (grid - 1.5) * 28 + rng.uniform(-5, 5, (n, 2))
    for a, b in PAIRS:
        angle = rng.uniform(0, 2 * np.pi)
        step = SEPARATION * FWHM["r"] * np.array([np.cos(angle), np.sin(angle)])
        place[b] = place[a] + step
    values, fluxes = [], []
    for kind in KINDS:
        shape = {}
        if kind != "point":
            shape["rhalf"] = SCALE * rng.uniform(1.5, 6.0)
            shape["q"], shape["pa"] = rng.uniform(0.3, 0.95), rng.uniform(0, 180)
        if kind == "sersic":
            shape["sersic"] = rng.uniform(0.8, 4.5)
        values.append(shape)
        fluxes.append(300.0 * 10 ** rng.uniform(0, 1.5))
    peaks = [
        Peak(
            f"{kind}-{i}", kind, -x * SCALE / 3600, y * SCALE / 3600, dict(shape),
            {("flux", b): f * COLOUR[b] for b in BANDS},
        )
        for i, (kind, (x, y), shape, f) in enumerate(
            zip(KINDS, place, values, fluxes, strict=True)
        )
    ]  # fmt: skip
    blank = pack(np.zeros((3, SIZE, SIZE)), peaks)
    unit = [snr_of(blank, peaks, i) for i in range(n)]
    # fluxes are in units of the noise: the faintest source has S/N 10
    factor = 10.0 / min(unit)
    peaks = [with_flux(p, factor) for p in peaks]
    image = images_of(blank, peaks)
    return Case(image + rng.standard_normal(image.shape), peaks)


def with_flux(peak, factor):
    """A peak with its fluxes multiplied."""
    return replace(peak, flux={k: v * factor for k, v in peak.flux.items()})


def pack(data, peaks):
    """Packed patch of images [3, SIZE, SIZE] of unit noise."""
    exposures = [
        exposure_from_arrays(
            d, 1.0, PSFModel(from_array(psf_of(b))[None]), band=b, pixel_scale=SCALE
        )
        for b, d in zip(BANDS, data, strict=True)
    ]
    return pack_patch(exposures, peaks, bands=list(BANDS))


def images_of(packed, peaks):
    """Noiseless images of peaks."""
    problem, table, n = problem_of(packed, peaks, FitOptions(priors=FREE))
    theta = jnp.asarray(table.start(n, np.float32))
    model = np.asarray(model_of(theta, problem, Static("fourth")))
    out = np.zeros((len(BANDS), SIZE, SIZE))
    for e in range(len(BANDS)):
        found = packed.pixels(e, model=model)
        x, y = (np.asarray(found[k]).astype(int) for k in ("x", "y"))
        out[e, y, x] = found["model"]
    return out


def snr_of(packed, peaks, i):
    """S/N over all bands of one source alone at unit noise."""
    alone = [p if j == i else with_flux(p, 0.0) for j, p in enumerate(peaks)]
    return float(np.sqrt((images_of(packed, alone) ** 2).sum()))


def starting_peaks(truth, start):
    """The catalogue that fit number `start` begins from."""
    rng = np.random.default_rng([SEED, start])
    out = []
    for peak in truth:
        dx, dy = rng.uniform(-1, 1, 2) * SCALE / 3600
        values = {}
        if "rhalf" in peak.values:
            values["rhalf"] = peak.values["rhalf"] * 1.5 ** rng.uniform(-1, 1)
            values["q"], values["pa"] = rng.uniform(0.3, 1.0), rng.uniform(0, 180)
        if "sersic" in peak.values:
            values["sersic"] = rng.uniform(0.7, 5.0)
        flux = {k: v * 2.0 ** rng.uniform(-1, 1) for k, v in peak.flux.items()}
        out.append(replace(peak, ra=peak.ra + dx, dec=peak.dec + dy, values=values, flux=flux))
    return out


def timed(call):
    """Result, processor seconds and wall seconds of a call."""
    cpu, wall = time.process_time(), time.perf_counter()
    out = call()
    return out, time.process_time() - cpu, time.perf_counter() - wall


def passes(case, repeats):
    """Processor seconds of one pass of the Fisher matrix, and of the linear parameters alone."""
    packed = pack(case.data, case.truth)
    problem, table, n = problem_of(packed, case.truth, FitOptions(priors=FREE))
    z = to_unconstrained(jnp.asarray(table.start(n, np.float32)), problem.transform)
    calls = {
        "fisher": lambda: evaluate(z, problem, problem.patch.data),
        "linear": lambda: evaluate(z, problem, problem.patch.data, linear_only=True),
    }
    return {k: v["cpu"][1] for k, v in common.measure(calls, repeats).items()}


def main():
    """Command line."""
    p = common.parser(__doc__.splitlines()[0])
    p.add_argument("--starts", type=int, default=20, help="number of starts (default 20)")
    args = p.parse_args()
    case = make_case()
    options, none = FitOptions(priors=FREE), SampleOptions(method="none")
    # from the truth: compiles, and gives the minimum that the others should find
    best = fit_patch(pack(case.data, case.truth), case.truth, options, none)
    rows = []
    for start in range(args.starts):
        peaks = starting_peaks(case.truth, start)
        packed = pack(case.data, peaks)
        found, cpu, wall = timed(lambda k=peaks, a=packed: fit_patch(a, k, options, none))
        worse = float(found.chi2.sum() - best.chi2.sum())
        steps = found.diagnostics["iterations"], found.diagnostics["evaluations"]
        rows.append([start, f"{worse:+.4f}", *steps, cpu, wall])
    header = ("start", "chi2 - that from the truth", "steps", "evaluations", "CPU [s]", "wall [s]")
    print(common.table(header, rows))
    same = sum(abs(float(row[1])) < 1 for row in rows)
    cpu = float(np.median([row[4] for row in rows]))
    one = passes(case, args.repeats)
    print(
        f"\n{len(best.theta)} parameters; {same} of {len(rows)} starts found the minimum (chi2 "
        f"within 1); median {cpu:.2f} s of CPU, {cpu / one['fisher']:.1f} passes of the Fisher "
        f"matrix ({1e3 * one['fisher']:.0f} ms; {1e3 * one['linear']:.0f} ms of fluxes alone)"
    )
    print(f"environment: {common.environment()}")
    common.finish(args, {"starts": rows, "passes": one})


if __name__ == "__main__":
    main()
