"""What is simulated: sources, exposures and priors; and what varies from data set to data set.

Priors are those of the fit, and truths are drawn from them. What else varies (noise, positions of
the peaks) is drawn without regard to the truth and known to the fit, so that calibrated errors are
calibrated at every value of it.
"""

from dataclasses import dataclass, field

import numpy as np

from jaxpho.core.sources import SOURCE_TYPES
from jaxpho.fit.options import FitOptions, PriorOptions

SCALE = 0.2
"""arcsec per pixel."""
FLUX = 400.0
"""Typical flux of a galaxy."""
AREA = 7.5
"""Error of the flux of a galaxy of half-light radius 2 pixels, of known shape, at unit noise."""


@dataclass(frozen=True)
class View:
    """One exposure: band, offset of its centre [pixels], angle [deg] of North, relative noise."""

    band: str
    dither: tuple[float, float] = (0.0, 0.0)
    rotation: float = 0.0
    noise: float = 1.0


@dataclass(frozen=True)
class Scene:
    """Sources and exposures.

    Attributes
    ----------
    types : tuple of str
        Types of the sources.
    views : tuple of View
    size : int
        Pixels a side.
    priors : dict
        As in the configuration of a fit; lengths in arcsec, positions from the peak.
    separation : tuple, optional
        Range of the distance between two peaks, in FWHM of the PSF.
    """

    types: tuple[str, ...]
    views: tuple[View, ...]
    size: int
    priors: dict = field(default_factory=dict)
    separation: tuple[float, float] | None = None

    @property
    def bands(self):
        """Bands in order."""
        return list(dict.fromkeys(view.band for view in self.views))

    @property
    def labels(self):
        """(source, parameter, band) of all free parameters, in the order of a fit."""
        return [
            (owner, name, band)
            for owner, kind in enumerate(self.types)
            for name in SOURCE_TYPES[kind].parameters
            for band in (self.bands if name in SOURCE_TYPES[kind].fluxes else ("",))
        ]

    @property
    def options(self):
        """`FitOptions` of the fit."""
        return FitOptions(priors=dict(self.priors))


SHAPES = {
    "rhalf": PriorOptions("log_uniform", low=0.2, high=0.8),
    "sersic": PriorOptions("uniform", low=0.6, high=5.0),
    "ellipticity": PriorOptions("uniform", high=0.6),
}
ALONE = SHAPES | {
    "flux": PriorOptions("normal", mean=FLUX, sigma=0.3 * FLUX),
    "position": PriorOptions("uniform", low=-0.3, high=0.3),
}
# fluxes a factor of up to ten apart; the peaks do not exchange their galaxies
BLENDED = SHAPES | {
    "flux": PriorOptions("log_uniform", low=FLUX / 10**0.5, high=FLUX * 10**0.5),
    "position": PriorOptions("uniform", low=-0.2, high=0.2),
}
ONE = (View("r"),)
SEVERAL = (
    View("g"),
    View("g", (0.4, 0.3), 30.0, 1.3),
    View("z", (0.2, -0.3), 0.0, 1.5),
    View("z", (-0.3, 0.1), -75.0, 1.2),
)
SCENES = {
    "galaxy": Scene(("sersic",), ONE, 24, ALONE),
    "bands": Scene(("sersic",), SEVERAL, 24, ALONE),
    "pair": Scene(("sersic", "sersic"), ONE, 32, BLENDED, (1.0, 3.0)),
    "galaxy_star": Scene(("sersic", "point"), ONE, 32, BLENDED, (1.0, 3.0)),
}


@dataclass(frozen=True)
class Design:
    """What the fit is told of one data set, drawn without regard to its truth.

    Attributes
    ----------
    sn : float
        Nominal S/N: of a galaxy of flux `FLUX` and half-light radius 2 pixels.
    noise : float
        Error of a pixel.
    peaks : ndarray
        [sources, 2] East and North of the peaks, arcsec.
    separation : float
        Between two peaks, in FWHM; 0 for one.
    """

    sn: float
    noise: float
    peaks: np.ndarray
    separation: float


def draw_design(rng, scene, fwhm, sn_range):
    """A `Design`; ``fwhm`` in pixels, ``sn_range`` the range of nominal S/N (log-uniform)."""
    sn = float(np.exp(rng.uniform(*np.log(sn_range))))
    peaks, separation = np.zeros((len(scene.types), 2)), 0.0
    if scene.separation is not None:
        separation = float(rng.uniform(*scene.separation))
        angle = rng.uniform(0.0, 2 * np.pi)
        arm = 0.5 * separation * fwhm * SCALE * np.array([np.cos(angle), np.sin(angle)])
        peaks = np.array([-arm, arm])
    return Design(sn, FLUX / (AREA * sn), peaks, separation)
