"""galfit_reference_renders: Sersic profiles drawn by GALFIT, alone and through a PSF image.

GALFIT integrates the profile over pixels, then convolves with the PSF's samples. Its own distance
from an exact integration is in the README of the data set: up to .19 % of peak (.94 % at n = 6.5)
in the central pixels, .12 % beyond 3 px, .22 % in flux.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from astropy.io import fits

from jaxpho.core.gaussians import Gaussians, convolve, shape_matrix, transform_covariance
from jaxpho.core.render import render_image
from jaxpho.core.sersic import load_mixture
from jaxpho.fit.start import ellipticity
from psfmix.fit import fit_mixture

pytestmark = pytest.mark.realdata
FOLDER = "galfit_reference_renders"
UNCONVOLVED = [*(f"gfsim_n{n}" for n in ("0.5", "1.0", "3.1", "4.0", "6.5")), "galfit_n4_psf0"]
PEAK = 2e-3  # of the image's peak; beyond 1 px for every n, everywhere for n <= 4
PEAK_CUSP = 1e-2  # the four central pixels at n = 6.5, where GALFIT itself is .94 % off
FLUX = 3e-3
PEAK_PSF = 1.5e-2
# Without a PSF the narrowest Gaussians of a cuspy profile are .01 to .1 px wide, out of reach of
# the cumulants of a pixel: pixels this much finer are drawn, and added up.
OVERSAMPLE = 16
NGAUSS = 8
PSF_CENTRE = (25, 25)  # GALFIT's, for an even number of pixels


def read(folder, name):
    """Image, and GALFIT's parameters of its only component (0-indexed pixels)."""
    image, header = fits.getdata(folder / FOLDER / f"{name}.fits.gz", header=True)
    keys = {"x": "XC", "y": "YC", "mag": "MAG", "re": "RE", "sersic": "N", "q": "AR", "pa": "PA"}
    text = {k: header[f"1_{card}"].split("+/-")[0].strip(" []") for k, card in keys.items()}
    value = {k: float(v) for k, v in text.items()}
    value["x"], value["y"] = value["x"] - 1, value["y"] - 1
    value["flux"] = 10 ** (-0.4 * (value["mag"] - header["MAGZPT"]))
    return image.astype(float), value


def galaxy(value, mixture) -> Gaussians:
    """The profile's Gaussians in pixels."""
    amplitude, variance = mixture.evaluate(value["sersic"], value["re"] * np.sqrt(value["q"]))
    # position angles count from +y counter-clockwise: North up, East to the left
    east_left = jnp.array([[-1.0, 0.0], [0.0, 1.0]])
    shape = shape_matrix(*map(jnp.asarray, ellipticity(value["q"], value["pa"])))
    covariance = [variance * c for c in transform_covariance(east_left, *shape)]
    return Gaussians(value["flux"] * amplitude, value["x"], value["y"], *covariance)


@jax.jit
def draw_fine(g: Gaussians):
    """200 x 200 pixels, each the sum of finer ones."""
    f, n = OVERSAMPLE, 200
    x, y = ((a + 0.5) * f - 0.5 for a in (g.x, g.y))
    fine = Gaussians(g.flux, x, y, *(c * f**2 for c in g[3:]))
    image = render_image(fine, (n * f, n * f), "sixth")
    return image.reshape(n, f, n, f).sum((1, 3))


def compare(model, image, value):
    """Largest differences in units of the peak within 1 px and beyond, and the flux's."""
    y, x = np.indices(image.shape)
    centre = np.hypot(x - value["x"], y - value["y"]) <= 1.0
    difference = np.abs(model - image) / image.max()
    return difference[centre].max(), difference[~centre].max(), model.sum() / image.sum() - 1


@pytest.mark.parametrize("name", UNCONVOLVED)
def test_unconvolved(name, data_dir):
    image, value = read(data_dir, name)
    drawn = np.asarray(draw_fine(galaxy(value, load_mixture("k16"))), float)
    centre, beyond, flux = compare(drawn[: len(image), : len(image)], image, value)
    assert beyond < PEAK
    assert centre < (PEAK_CUSP if value["sersic"] > 4 else PEAK)
    assert abs(flux) < FLUX


@pytest.mark.parametrize("name", UNCONVOLVED)
def test_native_sampling_is_enough_beyond_the_centre(name, data_dir):
    """The default mode, as in a fit: only the central pixels of a bare cusp need finer ones."""
    image, value = read(data_dir, name)
    drawn = render_image(galaxy(value, load_mixture("k16")), image.shape, "fourth")
    assert compare(np.asarray(drawn, float), image, value)[1] < PEAK


@pytest.mark.parametrize(("name", "oversample"), [("galfit_n4_psf1", 1), ("galfit_n4_psf4", 4)])
def test_through_psf_mixture(name, oversample, data_dir):
    psf = fits.getdata(data_dir / FOLDER / "f105w_psf.fits.gz").astype(float)
    image, value = read(data_dir, name)
    # The samples multiply a profile that is integrated over pixels already: the mixture describes
    # the samples as they are (nothing removed), and the pixel is integrated in the rendering.
    fitted = fit_mixture(
        psf, oversample=oversample, ngauss=NGAUSS, includes_pixel=True, center=PSF_CENTRE
    )
    names = ("amp", "xcr", "ycr", "Cxx", "Cyy", "Cxy")
    psf = Gaussians(*(jnp.asarray(fitted.parameters[k])[:, None] for k in names))
    both = convolve(galaxy(value, load_mixture("k16")), psf)
    both = Gaussians(*(a.ravel() for a in jnp.broadcast_arrays(*both)))
    drawn = np.asarray(render_image(both, image.shape, "fourth"), float)
    centre, beyond, flux = compare(drawn, image, value)
    assert max(centre, beyond) < PEAK_PSF
    assert abs(flux) < FLUX
