"""Sersic tables against the exact profile and GalSim, and the exact profile against both.

Images are blurred by a Gaussian PSF of 1.5 pixels and integrated over pixels; the grid is n .5-6
(and 6-8), rhalf .5-8 PSF sigma, q 1, .5, .2. Nothing of the package's renderer is used.
"""

import numpy as np
import pytest
from scipy.special import gammainc

from jaxpho.core.sersic import load_mixture
from jaxpho.core.tables import accuracy
from jaxpho.core.tables.exact import exact_mixture, sersic_b, sersic_profile

# Measured by `python -m jaxpho.core.tables.accuracy` on the full grid, rounded up:
# residual/peak, flux in 2 rhalf, and biases of ln flux, n, ln rhalf, q.
LIMITS = {
    "k8": (2.3e-3, 1.0e-3, 3.6e-3, 0.032, 8.5e-3, 6.0e-4),
    "k10": (6.6e-4, 3.0e-4, 7.5e-4, 0.019, 1.8e-3, 2.2e-4),
    "k12": (2.2e-4, 1.1e-4, 2.3e-4, 1.9e-3, 6.0e-4, 3.4e-5),
    "k16": (7.5e-5, 3.1e-5, 4.5e-5, 5.4e-4, 1.4e-4, 1.4e-5),
}
HIGH_LIMITS = {
    "k8": (2.6e-3, 9.0e-4, 6.2e-3, 0.32, 1.2e-2, 2.5e-3),
    "k10": (8.4e-4, 2.7e-4, 1.1e-3, 0.018, 3.2e-3, 2.0e-4),
    "k12": (2.3e-4, 7.8e-5, 2.8e-4, 6.6e-3, 7.7e-4, 1.1e-4),
    "k16": (1.1e-4, 1.1e-5, 6.5e-5, 1.2e-3, 1.7e-4, 2.7e-5),
}
FLAT_LIMITS = {
    "k8": (7.4e-4, 3.3e-4, 4.8e-4, 4.3e-3, 1.2e-3, 5.5e-5),
    "k10": (7.3e-4, 3.8e-4, 3.0e-4, 4.3e-3, 1.2e-3, 5.3e-5),
    "k12": (4.2e-4, 2.6e-4, 3.0e-4, 3.2e-3, 9.5e-4, 4.1e-5),
    "k16": (3.6e-4, 1.7e-4, 1.7e-4, 2.5e-3, 6.5e-4, 3.3e-5),
}
EXACT_TOLERANCE = 1e-6
SIZES, AXIS_RATIOS = (0.5, 2.0, 8.0), (1.0, 0.2)


@pytest.mark.parametrize(
    "n",
    [0.27, 0.3, 0.37, 0.45, 0.499, 0.5, 0.505, 0.51, 0.55, 0.61, 0.7, 0.76, 1, 1.5, 2.5, 4, 6, 8],
)
def test_exact_mixture_is_the_sersic_profile(n):
    amp, var = exact_mixture(n)
    assert n < 0.5 or (amp > 0).all()
    assert abs(amp.sum() - 1) < EXACT_TOLERANCE
    r = np.geomspace(1e-3, 20, 50)
    x = r[:, None] ** 2 / (2 * var)
    profile = sersic_profile(n, r)
    difference = np.exp(-x) @ (amp / (2 * np.pi * var)) - profile
    assert np.abs(difference).max() < EXACT_TOLERANCE * profile.max()
    flux = gammainc(2 * n, sersic_b(n) * r ** (1 / n))
    assert np.abs(-np.expm1(-x) @ amp - flux).max() < EXACT_TOLERANCE


def test_exact_mixture_refuses_small_indices():
    with pytest.raises(ValueError, match="0.2 is below 0.27"):
        exact_mixture(0.2)


@pytest.mark.parametrize("name", ["k8", "k10", "k12", "k16"])
def test_tables_over_the_grid(name):
    mixture = load_mixture(name)
    ranges = (
        (FLAT_LIMITS, accuracy.FLAT_N),
        (LIMITS, accuracy.LOW_N),
        (HIGH_LIMITS, accuracy.HIGH_N),
    )
    for limits, indices in ranges:
        # Every index, a third of the shapes: the extremes of the full grid.
        errors = accuracy.measure(mixture, indices[::2] + indices[-1:], SIZES, AXIS_RATIOS)
        assert all(np.array(errors) <= limits[name]), (name, errors)


def test_default_table_meets_its_promise():
    errors = accuracy.measure(load_mixture("k12"), biases=False)
    assert errors.residual <= 3e-4


# (n, rhalf in pixels, q); GalSim and the exact profile were found to agree to 2e-7 of the peak.
GALSIM_CASES = [
    (0.3, 3.0, 0.5),
    (0.37, 2.0, 1.0),
    (0.45, 6.0, 0.2),
    (0.7, 3.0, 0.2),
    (1.0, 6.0, 0.5),
    (2.5, 1.5, 1.0),
    (4.0, 4.0, 0.5),
    (6.0, 2.0, 1.0),
]
GALSIM_TOLERANCE = 1e-6


@pytest.mark.parametrize(("n", "rhalf", "q"), GALSIM_CASES)
def test_against_galsim(n, rhalf, q):
    galsim = pytest.importorskip("galsim")
    params = galsim.GSParams(
        folding_threshold=1e-5,
        stepk_minimum_hlr=20,
        maxk_threshold=1e-6,
        kvalue_accuracy=1e-8,
        maximum_fft_size=16384,
    )
    galaxy = galsim.Sersic(n, half_light_radius=rhalf, gsparams=params).shear(
        q=q, beta=0 * galsim.degrees
    )
    psf = galsim.Gaussian(sigma=accuracy.PSF_SIGMA, gsparams=params)
    offset = galsim.PositionD(*accuracy.CENTRE)
    scene = galsim.Convolve(galaxy, psf, gsparams=params)
    image = scene.drawImage(nx=65, ny=65, scale=1.0, offset=offset, dtype=float).array
    x = np.arange(-32.0, 33.0)
    peak = image.max()
    exact_amp, exact_var = exact_mixture(n)
    exact = accuracy.pixel_image(exact_amp, exact_var * rhalf**2, q, x)
    assert np.abs(exact - image).max() < GALSIM_TOLERANCE * peak
    amp, var = (np.asarray(a, float) for a in load_mixture("k12").evaluate(n, rhalf))
    assert np.abs(accuracy.pixel_image(amp, var, q, x) - image).max() < 3e-4 * peak
