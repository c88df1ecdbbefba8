"""PSFs with reduced mixtures, and patches of one source that is seen through them."""

from dataclasses import replace
from functools import cache

import numpy as np
from synthetic_result import REFERENCE as PLACE
from synthetic_result import make_wcs

from jaxpho.data.catalog import Peak
from jaxpho.data.exposure import Exposure
from jaxpho.data.pack import pack_patch
from jaxpho.data.psfmodel import PSFModel
from jaxpho.fit.evaluate import problem_of
from jaxpho.fit.options import FitOptions
from jaxpho.fit.posterior import model_of
from jaxpho.fit.reduce import reduce_problem, shape_limits
from jaxpho.fit.start import source_starts
from psfmix.fit import fit_mixture, from_array
from psfmix.reduced import reduce_model

SCALE = 0.1  # arcsec per pixel

# A core within a negative ring, six-fold wings off the centre, a halo: as of a segmented mirror.
SIGNED = np.array(
    [
        [1.30, 0.01, -0.02, 0.55, 0.58, 0.01],
        [-0.75, 0.02, -0.01, 1.05, 1.00, -0.02],
        [0.25, -0.05, 0.04, 2.80, 2.50, -0.20],
        [0.06, 1.80, 0.40, 9.00, 1.50, 0.60],
        [0.06, -1.70, -0.50, 8.50, 1.60, 0.40],
        [0.05, 0.30, 0.20, 14.0, 15.0, 1.00],
        [0.03, 0.30, -0.20, 260.0, 240.0, 9.00],
    ]
)
POSITIVE = np.array(
    [
        [0.55, 0.02, -0.01, 0.70, 0.72, 0.01],
        [0.20, -0.05, 0.05, 2.50, 2.20, -0.20],
        [0.15, 0.10, 0.00, 12.0, 13.0, 1.00],
        [0.10, 0.30, -0.20, 90.0, 80.0, 5.00],
    ]
)


def moffat(fwhm=3.0, beta=3.0, ngauss=6):
    """A mixture fitted to a Moffat profile."""
    n, over = 241, 3
    y, x = np.indices((n, n)) - (n - 1) / 2
    alpha = fwhm * over / (2 * np.sqrt(2 ** (1 / beta) - 1))
    image = (1 + (x**2 + y**2) / alpha**2) ** -beta
    return fit_mixture(image / image.sum(), oversample=over, ngauss=ngauss).parameters


@cache
def psf_model(name):
    """A model with its ladders: "signed", "positive" or "moffat"."""
    arrays = {"signed": SIGNED, "positive": POSITIVE}
    mixture = from_array(arrays[name]) if name in arrays else moffat()
    return reduce_model(PSFModel(mixture[None]))


def make_exposure(model, size=96, name="e", band="g", scale=SCALE, noise=1.0, seed=0):
    """A square image of noise about `PLACE`."""
    wcs = make_wcs(scale, 25.0, ((size + 1) / 2, (size + 1) / 2))
    data = np.random.default_rng(seed).normal(0, noise, (size, size)).astype(np.float32)
    ierr = np.full((size, size), 1 / noise, np.float32)
    return Exposure(name, band, data, ierr, wcs, unit="nJy", header={}, psf=model)


def make_peak(kind="sersic", fixed=("shape",), dra=0.0, flux=1000.0, **values):
    """A source near `PLACE`; rhalf in arcsec."""
    ra = PLACE[0] + dra / 3600 / np.cos(np.deg2rad(PLACE[1]))
    return Peak(
        "1", kind, ra, PLACE[1], values=values, flux={("flux", "g"): flux}, fixed=frozenset(fixed)
    )


class Pair:
    """The problem of a patch with full and with reduced PSF mixtures."""

    def __init__(self, exposures, peaks, options=None, mixture="k12", dtype=np.float32):
        self.options = options or FitOptions()
        self.packed = pack_patch(
            exposures, peaks, bands=["g"], n_radii=int(mixture[1:]), dtype=dtype
        )
        self.full, self.table, self.n = problem_of(self.packed, peaks, self.options, mixture)
        starts = source_starts(
            peaks, ["g"], self.packed.reference, pixel_scale=SCALE, q_min=self.options.q_min
        )
        self.starts, self.limits = starts, shape_limits(self.table, starts)
        self.reduced, self.text = reduce_problem(self.packed, self.full, self.limits, 0.0)

    def theta(self, **values):
        """Starting parameters, some replaced (those of the first source)."""
        out = self.table.start(self.n)
        for name, value in values.items():
            out[self.table.labels.index((0, name, ""))] = value
        return out

    def error(self, theta=None):
        """max |reduced - full| / max full of the image."""
        theta = self.theta() if theta is None else theta
        a, b = (np.asarray(model_of(theta, p), float) for p in (self.reduced, self.full))
        used = np.asarray(self.packed.patch.ierr) > 0
        return np.abs(a - b)[used].max() / b[used].max()

    @property
    def gaussians(self):
        """Gaussians of galaxies with a flux, in the reduced problem's first exposure."""
        terms = self.reduced.patch.terms
        flux = self.full.patch.psf.flux if terms is None else terms.psf.flux
        return int((np.asarray(flux[0]) != 0).sum())


def without_ladder(model):
    """The same PSF without reduced mixtures."""
    return replace(model, reduced=())
