"""Simulated stars: GalSim profiles, Poisson and read noise, and what spoils stars."""

import galsim
import numpy as np

GAIN, READ, SKY = 2.0, 4.0, 100.0
DETECTOR = (2000, 1600)
NEIGHBOUR, BINARY, GALAXY, SATURATED, COSMIC = 3, 5, 7, 9, (11, 12)


def profile(kind="moffat", fwhm=3.2, u=0.0, v=0.0, vary=0.0):
    """The PSF at a scaled position: FWHM along u, ellipticity along v."""
    width = fwhm * (1 + vary * u)
    psf = (
        galsim.Kolmogorov(fwhm=width)
        if kind == "kolmogorov"
        else galsim.Moffat(beta=3.5, fwhm=width)
    )
    return psf.shear(g1=0.04 + 0.2 * vary * v, g2=0.02)


def scaled(x, y):
    """Position scaled to -1 ... 1."""
    return 2 * x / (DETECTOR[0] - 1) - 1, 2 * y / (DETECTOR[1] - 1) - 1


def stamps_of(n=30, seed=1, size=41, spoiled=True, flux=(5e3, 3e5), level=None, **psf):
    """Stars of log-uniform flux at random places.

    Returns
    -------
    images, ivar : arrays (n, size, size); the weights lack the stars' shot noise
    places : array (n, 2)
    flux : array (n,)
    """
    rng = np.random.default_rng(seed)
    places = rng.uniform(30, np.array(DETECTOR) - 30, (n, 2))
    flux = np.exp(rng.uniform(*np.log(flux), n))
    if spoiled:
        flux[[BINARY, GALAXY, SATURATED]] = 6e4, 1e5, 2e5
    images = []
    for k, (x, y) in enumerate(places):
        u, v = scaled(x, y)
        shape = profile(u=u, v=v, **psf)
        draw = {"nx": size, "ny": size, "scale": 1.0, "dtype": float}
        star = shape.shift(*(places[k] - np.rint(places[k])))
        mean = star.withFlux(flux[k]).drawImage(**draw).array
        if spoiled and k == NEIGHBOUR:
            mean = mean + shape.withFlux(2 * flux[k]).shift(11, 6).drawImage(**draw).array
        if spoiled and k == BINARY:
            mean = mean + shape.withFlux(0.4 * flux[k]).shift(1.9, 1.1).drawImage(**draw).array
        if spoiled and k == GALAXY:
            disk = galsim.Convolve(shape, galsim.Exponential(half_light_radius=1.2))
            mean = disk.withFlux(flux[k]).drawImage(**draw).array
        image = rng.poisson((mean + SKY) * GAIN) / GAIN - SKY
        image += rng.normal(0, READ / GAIN, image.shape)
        if spoiled and k == SATURATED:
            image = np.minimum(image, 0.5 * mean.max())
        if spoiled and k in COSMIC:
            at = rng.integers(8, size - 8, 2)
            image[at[0], at[1] : at[1] + 3] += 3000
        images.append(image)
    ivar = np.full((n, size, size), 1 / (SKY / GAIN + (READ / GAIN) ** 2))
    return np.array(images), ivar, places, flux
