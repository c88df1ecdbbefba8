"""Fit problems on the patches of `synthetic_patch`, for the tests of jaxpho.fit.

Their shapes are few, so that most tests share compiled programs: by default one band, two
exposures, 24 x 24 pixels, the mixture k8.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from synthetic_patch import COS_DEC, Synthetic, make, oracle_model

from jaxpho.core.scene import NUISANCE
from jaxpho.core.sources import SOURCE_TYPES
from jaxpho.data.catalog import Peak
from jaxpho.data.packing import PackedPatch
from jaxpho.fit.optimize import optimize
from jaxpho.fit.options import FitOptions
from jaxpho.fit.posterior import Problem, to_unconstrained
from jaxpho.fit.problem import make_problem
from jaxpho.fit.start import source_starts

MIXTURE = "k8"
REFERENCE = (150.0, float(np.degrees(np.arccos(COS_DEC))))
BANDS = ("g", "r", "i")


class Case(NamedTuple):
    """A packed patch with the problem made from it.

    ``truth`` [n] holds the values that the data were drawn with, in the order of the problem's
    parameters, padded with zeros; ``linear`` [n] as the optimiser wants it.
    """

    synthetic: Synthetic
    packed: PackedPatch
    peaks: list
    problem: Problem
    table: object
    n: int
    truth: np.ndarray
    linear: np.ndarray

    def find(self, owner, name, band=""):
        """Entry of theta."""
        return self.table.labels.index((owner, name, band))

    def theirs(self, theta):
        """Values in the order of the synthetic patch's own theta, for the independent model.

        Nuisances that are not free have no effect.
        """
        known = {
            label: value if isinstance(label[0], int) else float(label[1] == "scale")
            for label, value in known_values(self.synthetic).items()
        }
        known |= {k: v for k, v in self.table.fixed.items() if k in known}
        known |= dict(zip(self.table.labels, np.asarray(theta, float), strict=False))
        return np.array([known[label] for label in known_values(self.synthetic)])

    def optimize(self, theta=None, problem=None, **kwargs):
        """The optimum from a starting theta (the truth by default)."""
        problem = self.problem if problem is None else problem
        theta = self.truth if theta is None else theta
        return optimize(z_of(theta, problem), problem, self.linear, **kwargs)

    def redraw(self, rng):
        """The problem with other noise; the data of `self` must be free of noise."""
        patch = self.problem.patch
        ierr = np.asarray(patch.ierr, float)
        good = ierr > 0
        noise = rng.standard_normal(ierr.shape) / np.where(good, ierr, 1.0) * good
        data = jnp.asarray(np.asarray(patch.data) + noise, patch.data.dtype)
        return self.problem._replace(patch=patch._replace(data=data))


def z_of(theta, problem):
    """Unconstrained parameters, float64 on the host."""
    z = to_unconstrained(jnp.asarray(theta, problem.patch.data.dtype), problem.transform)
    return np.asarray(z, np.float64)


def remake(s, rng=None, change=None, offsets=None):
    """The patch with new data: the independent model of its truth, plus noise if rng is given.

    ``change(e, tiles)`` may edit the tiles of an exposure; ``offsets`` [E, 2] shift the sources
    of each exposure, arcsec.
    """
    tiles = []
    for e, t in enumerate(s.tiles):
        theta = np.array(s.theta)
        if offsets is not None:
            for i, (owner, name, _) in enumerate(s.labels):
                if isinstance(owner, int) and name in ("ra", "dec"):
                    theta[i] += offsets[e][int(name == "dec")]
        data = oracle_model(s, theta, e)
        if rng is not None:
            sigma = 1.0 / np.where(t.ierr > 0, t.ierr, np.inf)
            data = data + sigma * rng.standard_normal(data.shape)
        t = t._replace(data=data)
        tiles.append(t if change is None else change(e, t))
    return s._replace(tiles=tiles).pack(np.asarray(s.patch.data).dtype)


def packed_patch(s, nuisances=None):
    """What `pack_patch` would give for a synthetic patch."""
    bands = list(BANDS[: int(s.exposure_band.max()) + 1])
    n_e = len(s.exposure_band)
    return PackedPatch(
        patch=jax.tree.map(jnp.asarray, s.patch),
        reference=REFERENCE,
        exposures=[f"e{e}" for e in range(n_e)],
        bands=bands,
        exposure_bands=[bands[b] for b in s.exposure_band],
        blocks=s.blocks,
        n_tiles=[len(t.x0) for t in s.tiles],
        n_sources=len(s.types),
        nuisances=[None] * n_e if nuisances is None else list(nuisances),
    )


def known_values(s):
    """(owner, name, band name or "") -> true value."""
    out = {}
    for (owner, name, band), value in zip(s.labels, s.theta, strict=True):
        owner = owner if isinstance(owner, int) else ("exposure", f"e{owner[1]}")
        out[owner, name, "" if band is None else BANDS[band]] = float(value)
    return out


def peaks_of(s, fixed=(), types=None, shapes=True):
    """Peaks at the points the astrometry was linearised at, up to .3 pixels from the truth.

    ``fixed`` has one collection of names per source. Held positions are the true ones.
    """
    known, out = known_values(s), []
    for k, kind in enumerate(types or s.types):
        held = frozenset(fixed[k]) if k < len(fixed) else frozenset()
        values = {
            name: known[k, name, ""]
            for name in SOURCE_TYPES[s.types[k]].shapes
            if shapes and (k, name, "") in known
        }
        flux = {(n, b): v for (o, n, b), v in known.items() if o == k and n.startswith("flux")}
        ra, dec = s.astrometry.crval[0, k]
        if held & {"position", "all", "ra", "dec"}:
            ra = known[k, "ra", ""] / 3600.0 / COS_DEC
            dec = known[k, "dec", ""] / 3600.0
        peak = Peak(f"s{k}", kind, REFERENCE[0] + ra, REFERENCE[1] + dec, values, flux, held)
        out.append(peak)
    return out


def make_case(s, fixed=(), options=None, nuisances=None, types=None):
    """Problem of a synthetic patch; ``fixed`` as in `peaks_of`."""
    options = options or FitOptions()
    packed = packed_patch(s, nuisances)
    peaks = peaks_of(s, fixed, types)
    starts = source_starts(peaks, packed.bands, REFERENCE, pixel_scale=0.1)
    problem, table, n = make_problem(packed, starts, options, MIXTURE)
    known = known_values(s)
    truth, linear = np.zeros(n), np.zeros(n, bool)
    neutral = {"scale": 1.0}
    for i, label in enumerate(table.labels):
        default = neutral.get(label[1], 0.0) if label[1] in NUISANCE else np.nan
        truth[i] = known.get(label, default)
    linear[: len(table.parameters)] = table.linear
    return Case(s, packed, peaks, problem, table, n, truth, linear)


def draw(seed=0, types=("sersic", "sersic"), **kwargs):
    """A synthetic patch of the default shapes, without nuisances or noise."""
    options = {
        "n_bands": 1, "exposures_per_band": 2, "shape": (24, 24), "nuisances": False,
        "spread": 0.5, "flux": 300.0, "mixture": MIXTURE,
    }  # fmt: skip
    return remake(make(seed, types, **options | kwargs))


def bad_start(case, rng):
    """Positions off by up to a pixel, wrong fluxes, sizes and indices, random ellipticities."""
    theta = case.truth.copy()
    for i, p in enumerate(case.table.parameters):
        if p.name in ("ra", "dec"):
            theta[i] += rng.uniform(-0.1, 0.1)
        elif p.name.startswith("flux"):
            theta[i] *= 2.0 ** rng.uniform(-1, 1)
        elif p.name.startswith("rhalf"):
            theta[i] *= 1.5 ** rng.uniform(-1, 1)
        elif p.name.startswith("sersic"):
            theta[i] = rng.uniform(0.7, 5.0)
        elif p.name.startswith("e1"):
            angle = rng.uniform(0, 2 * np.pi)
            e = np.hypot(theta[i], theta[p.partner])
            theta[i], theta[p.partner] = e * np.cos(angle), e * np.sin(angle)
    return theta
