"""One data set: a truth from the priors, its image by our model or by GalSim, noise, and peaks."""

from dataclasses import dataclass, replace
from functools import cached_property

import jax.numpy as jnp
import numpy as np

from calibration import psfs
from calibration.scenes import SCALE, SCENES, Design, draw_design
from jaxpho.data.arrays import exposure_from_arrays, simple_wcs
from jaxpho.data.catalog import Peak
from jaxpho.data.pack import pack_patch
from jaxpho.fit.evaluate import problem_of
from jaxpho.fit.posterior import Static, model_of
from jaxpho.fit.priors import draw_prior

RENDERERS = ("model", "mixture", "galsim")
"""By our model; by GalSim through the mixture that the fit uses; by GalSim through the true PSF."""
GUESS = 1.5
"""Fluxes and sizes of the peak catalogue are off by up to this factor."""


@dataclass(frozen=True)
class DataSet:
    """What a fit is given, and what it is not.

    Attributes
    ----------
    packed : PackedPatch
    peaks : list of Peak
    labels : list of tuple
        Of the free parameters.
    truth : ndarray
        [parameters]
    design : Design
    sn : ndarray
        [sources] S/N of the true image of each source alone.
    """

    packed: object
    peaks: list
    labels: list
    truth: np.ndarray
    design: Design
    sn: np.ndarray


class Simulator:
    """Data sets of one kind; number i of a seed is the same whatever came before it.

    Parameters
    ----------
    scene : str
        Key of `SCENES`.
    psf : str
        One of `psfs.KINDS`.
    renderer : str
        One of `RENDERERS`.
    sn_range : tuple
        Nominal S/N, see `scenes.Design`.
    folder : Path, optional
        Where PSF mixtures are kept.
    """

    def __init__(self, scene, psf, renderer, sn_range, folder=None):
        self.scene, self.renderer, self.sn_range = SCENES[scene], renderer, sn_range
        self.fwhm = psfs.FWHM[psf]
        self.model = psfs.mixture(psf, folder)
        self.psf = psf

    @cached_property
    def profile(self):
        """GalSim's profile of the PSF."""
        if self.renderer == "mixture":
            return psfs.mixture_profile(self.model.parameters[0])
        return psfs.profile(self.psf)

    @cached_property
    def template(self):
        """Parameter table and its padded length, for peaks at the origin."""
        peaks = [Peak(str(i), kind, 0.0, 0.0) for i, kind in enumerate(self.scene.types)]
        _, table, n = self.problem(self.pack(self.images(), 1.0, peaks), peaks)
        return table, n

    def problem(self, packed, peaks):
        """Problem, table and padded length."""
        return problem_of(packed, peaks, self.scene.options)

    def images(self):
        """Empty images, one a view."""
        size = self.scene.size
        return [np.zeros((size, size)) for _ in self.scene.views]

    def wcs(self, view):
        """WCS of a view: the origin is at its centre, but for the dither."""
        wcs = simple_wcs((self.scene.size, self.scene.size), SCALE, rotation=view.rotation)
        wcs.wcs.crpix = wcs.wcs.crpix + np.array(view.dither)
        return wcs

    def pack(self, images, noise, peaks):
        """The patch that the fit sees."""
        exposures = [
            exposure_from_arrays(
                image, noise * view.noise, self.model, band=view.band, name=f"{view.band}{e}",
                wcs=self.wcs(view),
            )
            for e, (view, image) in enumerate(zip(self.scene.views, images, strict=True))
        ]  # fmt: skip
        return pack_patch(exposures, peaks, bands=self.scene.bands, reference=(0.0, 0.0))

    def draw(self, seed, number):
        """Data set ``number`` of a seed, a `DataSet`."""
        rng = np.random.default_rng([seed, number])
        design = draw_design(rng, self.scene, self.fwhm, self.sn_range)
        table, n = self.template
        truth = draw_prior(rng, table, n)
        for i, (owner, name, _) in enumerate(table.labels):
            if name in ("ra", "dec"):
                truth[i] += design.peaks[owner, int(name == "dec")]
        peaks = self._peaks(rng, table.labels, truth, design)
        images = [
            design.noise * view.noise * rng.standard_normal(image.shape)
            for view, image in zip(self.scene.views, self.images(), strict=True)
        ]
        if self.renderer == "model":
            packed = self.pack(images, design.noise, peaks)
            packed, sn = self._add_model(packed, peaks, truth)
        else:
            sn = self._add_galsim(images, table.labels, truth, design.noise)
            packed = self.pack(images, design.noise, peaks)
        return DataSet(packed, peaks, table.labels, truth[: len(table.labels)], design, sn)

    def _peaks(self, rng, labels, truth, design):
        """The catalogue: positions of the design, fluxes and sizes off, no other shape."""
        peaks = []
        for owner, kind in enumerate(self.scene.types):
            values, flux = {}, {}
            for i, (who, name, band) in enumerate(labels):
                if who != owner or name not in ("flux", "rhalf"):
                    continue
                guess = float(truth[i] * GUESS ** rng.uniform(-1.0, 1.0))
                if name == "flux":
                    flux["flux", band] = guess
                else:
                    values[name] = guess
            ra, dec = design.peaks[owner] / 3600.0
            peaks.append(Peak(str(owner), kind, float(ra), float(dec), values, flux))
        return peaks

    def _add_model(self, packed, peaks, truth):
        """The patch with our model added to its noise, and S/N of the sources."""
        problem, table, _ = self.problem(packed, peaks)
        ierr = np.asarray(packed.patch.ierr, np.float64)

        def image(theta):
            return np.asarray(
                model_of(jnp.asarray(theta, jnp.float32), problem, Static("fourth", 1))
            )

        sn = []
        for owner in range(len(peaks)):
            alone = truth.copy()
            for i, (who, name, _) in enumerate(table.labels):
                if who != owner and name == "flux":
                    alone[i] = 0.0
            sn.append(np.sqrt(((image(alone) * ierr) ** 2).sum()))
        data = np.asarray(packed.patch.data) + np.where(ierr > 0, image(truth), 0.0)
        patch = packed.patch._replace(data=jnp.asarray(data, jnp.float32))
        return replace(packed, patch=patch), np.array(sn)

    def _add_galsim(self, images, labels, truth, noise):
        """Add GalSim's images of the sources in place; returns their S/N."""
        power = np.zeros(len(self.scene.types))
        value = {label: float(t) for label, t in zip(labels, truth, strict=False)}
        for view, image in zip(self.scene.views, images, strict=True):
            for owner, kind in enumerate(self.scene.types):
                shape = {k: value.get((owner, k, "")) for k in ("rhalf", "sersic", "e1", "e2")}
                place = value[owner, "ra", ""], value[owner, "dec", ""]
                drawn = value[owner, "flux", view.band] * self.draw_source(kind, shape, place, view)
                power[owner] += ((drawn / (noise * view.noise)) ** 2).sum()
                image += drawn
        return np.sqrt(power)

    def draw_source(self, kind, shape, place, view):
        """GalSim's image of unit flux, integrated over pixels.

        Parameters
        ----------
        kind : str
            "sersic" or "point".
        shape : dict
            rhalf [arcsec, circularised], sersic, e1, e2.
        place : tuple
            East and North, arcsec.
        view : View
        """
        import galsim

        angle, size = np.radians(view.rotation), self.scene.size
        # pixel/arcsec of (East, North), from the definition of the views and nothing of jaxpho
        matrix = np.array(
            [[-np.cos(angle), -np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
        ) / SCALE  # fmt: skip
        centre = (size + 1) / 2 + np.array(view.dither) + matrix @ np.array(place)
        source = self.profile
        if kind == "sersic":
            e = np.hypot(shape["e1"], shape["e2"])
            pa = 0.5 * np.arctan2(shape["e2"], shape["e1"])  # East of North
            galaxy = galsim.Sersic(
                shape["sersic"], half_light_radius=shape["rhalf"], gsparams=psfs.accuracy()
            ).shear(q=(1.0 - e) / (1.0 + e), beta=(0.5 * np.pi - pa) * galsim.radians)
            # from (East, North) to pixels, at the same flux
            galaxy = galaxy.transform(*matrix.ravel()) / abs(np.linalg.det(matrix))
            source = galsim.Convolve(galaxy, source, gsparams=psfs.accuracy())
        # an image made beforehand: with nx and ny alone GalSim puts the source at its middle
        drawn = galsim.ImageD(size, size, scale=1.0)
        source.drawImage(drawn, center=galsim.PositionD(*centre))
        return drawn.array
