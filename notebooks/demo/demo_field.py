"""The sky and the camera of the demo: what is there, and how each exposure looks at it.

Everything follows from the seed. Angles on the sky are arcsec from ``CENTRE`` with x to the
East (RA times cos dec) and y to the North, so that a table of sources reads like a finding chart.
"""

from dataclasses import dataclass, field

import galsim
import numpy as np
from astropy.io import fits

CENTRE = (150.1163, 2.2058)  # deg
N_GALAXIES, N_STARS = 14, 3
GRID, SPACING, JITTER = 4, 9.0, 0.7  # sites per side, arcsec, arcsec
SN_RANGE = (10.0, 300.0)  # in the better band
SERSIC_RANGE = (0.7, 5.0)
RHALF_RANGE = (0.2, 0.9)  # arcsec, circularised
Q_RANGE = (0.3, 0.95)
PAIR_FWHM = (1.3, 2.4)  # separation of a blended pair in units of the mean PSF FWHM
MEAN_FWHM = 0.7  # arcsec
OVERSAMPLE = 4  # PSF image pixels per detector pixel
PSF_HALF = 26  # half-width of a PSF image, detector pixels
GSPARAMS = galsim.GSParams(
    folding_threshold=1e-4, maxk_threshold=1e-4, kvalue_accuracy=1e-6, maximum_fft_size=16384
)


@dataclass(frozen=True)
class Band:
    """One filter and its camera."""

    name: str
    scale: float  # arcsec per pixel
    npix: int
    sky: float  # noise of the sky, nJy per pixel
    gain: float  # electrons per count
    zero_point: float  # AB magnitude of one count


BANDS = (
    Band("g", 0.20, 232, 25.0, 4.0, 27.2),
    Band("z", 0.26, 180, 60.0, 2.0, 26.1),
)


@dataclass
class Source:
    """One true source. ``flux`` is the total of the untruncated profile, nJy by band."""

    id: int
    type: str
    x: float
    y: float
    sn: float
    colour: float  # flux ratio z / g
    rhalf: float = 0.0
    sersic: float = 0.0
    q: float = 1.0
    pa: float = 0.0  # deg, East of North
    pair: int = -1
    flux: dict = field(default_factory=dict)
    sn_band: dict = field(default_factory=dict)

    @property
    def shape(self):
        """(e1, e2) with e = (1-q)/(1+q), e1 = e cos 2pa, e2 = e sin 2pa."""
        e, angle = (1 - self.q) / (1 + self.q), 2 * np.radians(self.pa)
        return e * np.cos(angle), e * np.sin(angle)

    @property
    def sky(self):
        """(ra, dec) in deg, by the exact inverse gnomonic projection about ``CENTRE``."""
        centre = galsim.CelestialCoord(CENTRE[0] * galsim.degrees, CENTRE[1] * galsim.degrees)
        coord = centre.deproject(-self.x * galsim.arcsec, self.y * galsim.arcsec)
        return coord.ra / galsim.degrees, coord.dec / galsim.degrees


def spread(rng, n, low, high, log=False):
    """``n`` values, one in each of ``n`` equal strata of the range, in random order."""
    u = rng.permutation((np.arange(n) + rng.uniform(size=n)) / n)
    return low * (high / low) ** u if log else low + (high - low) * u


def make_sources(rng):
    """14 Sersic galaxies and 3 stars; one galaxy-galaxy and one galaxy-star blend."""
    axis = (np.arange(GRID) - (GRID - 1) / 2) * SPACING
    sites = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    sites = sites + rng.uniform(-JITTER, JITTER, sites.shape)
    sites = rng.permutation(sites)

    # The power .6 puts more galaxies at high S/N, where the shapes are measurable at all.
    u = (np.arange(N_GALAXIES) + rng.uniform(size=N_GALAXIES)) / N_GALAXIES
    sn = SN_RANGE[0] * (SN_RANGE[1] / SN_RANGE[0]) ** (u**0.6)
    sn = np.concatenate([sn[rng.permutation(N_GALAXIES)], rng.permutation([14.0, 60.0, 280.0])])
    # Blends are of well detected sources: the second half of the ranks.
    ranks = np.argsort(sn[:N_GALAXIES])
    pairs = [(ranks[-5], ranks[-8]), (ranks[-6], N_GALAXIES + int(np.argmax(sn[N_GALAXIES:])))]

    rhalf = spread(rng, N_GALAXIES, *RHALF_RANGE, log=True)
    # The smallest galaxies get the highest S/N more often than chance: sort half of them.
    picked = rng.choice(N_GALAXIES, N_GALAXIES // 2, replace=False)
    order = picked[np.argsort(sn[picked])]
    rhalf[order] = np.sort(rhalf[picked])[::-1]
    sersic = spread(rng, N_GALAXIES, *SERSIC_RANGE)
    q = spread(rng, N_GALAXIES, *Q_RANGE)
    pa = spread(rng, N_GALAXIES, 0.0, 180.0)
    colour = spread(rng, N_GALAXIES + N_STARS, 1.0, 4.0, log=True)

    partner = {int(b): (k, int(a)) for k, (a, b) in enumerate(pairs)}
    sources, free = [], list(sites)
    for i in range(N_GALAXIES + N_STARS):
        x, y = (0.0, 0.0) if i in partner else free.pop()
        source = Source(i + 1, "point", x, y, float(sn[i]), float(colour[i]))
        if i < N_GALAXIES:
            source.type = "sersic"
            source.rhalf, source.sersic = float(rhalf[i]), float(sersic[i])
            source.q, source.pa = float(q[i]), float(pa[i])
        sources.append(source)
    for b, (k, a) in partner.items():
        angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(*PAIR_FWHM) * MEAN_FWHM
        sources[b].x = sources[a].x + distance * np.cos(angle)
        sources[b].y = sources[a].y + distance * np.sin(angle)
        sources[a].pair = sources[b].pair = k
    return sources


def make_header(rng, band, number):
    """A header with a rotated, dithered TAN projection and third-order SIP distortion."""
    rotation = np.radians(90.0 * rng.integers(0, 4) + rng.uniform(-15, 15))
    cos, sin, scale = np.cos(rotation), np.sin(rotation), band.scale / 3600
    dither = rng.uniform(-2.0, 2.0, 2) / 3600
    header = fits.Header()
    header["CTYPE1"], header["CTYPE2"] = "RA---TAN-SIP", "DEC--TAN-SIP"
    header["CUNIT1"], header["CUNIT2"] = "deg", "deg"
    header["RADESYS"] = "ICRS"
    header["CRVAL1"] = CENTRE[0] + dither[0] / np.cos(np.radians(CENTRE[1]))
    header["CRVAL2"] = CENTRE[1] + dither[1]
    header["CRPIX1"], header["CRPIX2"] = (band.npix + 1) / 2 + rng.uniform(-0.5, 0.5, 2)
    header["CD1_1"], header["CD1_2"] = -scale * cos, scale * sin
    header["CD2_1"], header["CD2_2"] = scale * sin, scale * cos
    header["A_ORDER"], header["B_ORDER"] = 3, 3
    half = band.npix / 2
    for letter in "AB":
        for p, q in ((2, 0), (1, 1), (0, 2)):
            header[f"{letter}_{p}_{q}"] = rng.uniform(-0.5, 0.5) / half**2
        for p, q in ((3, 0), (2, 1), (1, 2), (0, 3)):
            header[f"{letter}_{p}_{q}"] = rng.uniform(-0.2, 0.2) / half**3
    header["FILTER"] = band.name
    header["EXPID"] = f"{band.name}{number}"
    header["BUNIT"] = "count"
    header["MAGZPT"] = (band.zero_point + rng.uniform(-0.1, 0.1), "AB magnitude of 1 count")
    header["GAIN"] = (band.gain, "electrons per count")
    return header


def make_psf(rng, band, number):
    """A slightly elliptical PSF in pixel coordinates, without the pixel.

    The PSF is constant in pixels over the exposure. Moffat and an atmosphere-like sum of two
    Moffats alternate; less than 3e-4 of the light falls outside the PSF image. At beta = 3.5
    GalSim has a closed form of the Fourier transform, which makes the demo twice as fast.
    """
    fwhm = rng.uniform(0.6, 0.8) / band.scale
    if number % 2:
        psf = galsim.Moffat(beta=3.5, fwhm=fwhm, gsparams=GSPARAMS)
    else:
        core = galsim.Moffat(beta=3.5, fwhm=0.96 * fwhm, gsparams=GSPARAMS)
        halo = galsim.Moffat(beta=3.5, fwhm=1.6 * fwhm, gsparams=GSPARAMS)
        psf = 0.9 * core + 0.1 * halo
    g, angle = rng.uniform(0.01, 0.05), rng.uniform(0, 180)
    return psf.shear(g=g, beta=angle * galsim.degrees)


@dataclass
class Exposure:
    """One exposure before any noise."""

    name: str
    band: Band
    header: fits.Header
    wcs: galsim.GSFitsWCS
    psf: galsim.GSObject
    to_njy: float  # nJy per count
    sky: float  # counts per pixel

    def profile(self, source, rhalf=None, sersic=None, e=None, gsparams=GSPARAMS):
        """The source of unit flux as this camera's pixels see it, before the pixel itself."""
        psf = self.psf.withGSParams(gsparams)
        if source.type == "point":
            return psf
        e1, e2 = source.shape if e is None else e
        galaxy = galsim.Sersic(
            n=source.sersic if sersic is None else sersic,
            half_light_radius=source.rhalf if rhalf is None else rhalf,
            trunc=0.0,
            gsparams=gsparams,
        )
        # GalSim's (u, v) of a celestial WCS are (West, North): angles are 90 deg + pa.
        galaxy = galaxy.shear(g1=-e1, g2=-e2)
        local = self.wcs.local(self.position(source))
        return galsim.Convolve([local.profileToImage(galaxy), psf])

    def position(self, source):
        """The source's 1-indexed pixel position, as GalSim counts."""
        ra, dec = source.sky
        return self.wcs.toImage(galsim.CelestialCoord(ra * galsim.degrees, dec * galsim.degrees))

    def draw(self, profile, position, bounds=None):
        """Pixel-integrated image of a unit-flux profile, float64 [ny, nx] over ``bounds``."""
        n = self.band.npix
        image = galsim.ImageD(bounds or galsim.BoundsI(1, n, 1, n), scale=1.0)
        return profile.drawImage(image=image, center=position, method="auto").array.copy()


def make_exposures(rng, per_band=4):
    """``per_band`` exposures in each band."""
    exposures = []
    for band in BANDS:
        for number in range(per_band):
            header = make_header(rng, band, number)
            to_njy = 10 ** (-0.4 * (header["MAGZPT"] - 31.4))
            exposures.append(
                Exposure(
                    name=header["EXPID"],
                    band=band,
                    header=header,
                    wcs=galsim.GSFitsWCS(header=galsim.FitsHeader(dict(header))),
                    psf=make_psf(rng, band, number),
                    to_njy=to_njy,
                    sky=band.sky * rng.uniform(0.9, 1.15) / to_njy,
                )
            )
    return exposures
