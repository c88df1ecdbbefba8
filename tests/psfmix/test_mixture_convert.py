"""Turning, rescaling and gathering mixtures; cache keys."""

import galsim
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxpho.errors import InputError
from psfmix.convert import cache_key, fit_grid, rescale_parameters, rotate_parameters
from psfmix.fit import from_array, render_parameters

# Structured parameters are float32.
FLOAT32_ATOL = 2e-6
# Interpolated against fitted PSF at a left-out position, relative to the peak.
LEFT_OUT = 0.01

MIXTURE = from_array(np.array([[0.7, 0.4, -0.2, 1.2, 0.9, 0.3], [0.5, -0.4, 0.3, 6.0, 9.0, -2.0]]))


def invariants(p):
    trace, det = p["Cxx"] + p["Cyy"], p["Cxx"] * p["Cyy"] - p["Cxy"] ** 2
    return np.concatenate([p["amp"], trace, np.sqrt(det), np.hypot(p["xcr"], p["ycr"])])


@given(st.floats(-720, 720), st.floats(-720, 720))
@settings(max_examples=50, deadline=None)
def test_rotations_compose_and_keep_invariants(first, second):
    turned = rotate_parameters(MIXTURE, first)
    assert np.allclose(invariants(turned), invariants(MIXTURE), atol=1e-4)
    both, once = rotate_parameters(turned, second), rotate_parameters(MIXTURE, first + second)
    for name in ("xcr", "ycr", "Cxx", "Cyy", "Cxy"):
        assert np.allclose(both[name], once[name], atol=2e-5)


def test_quarter_turn_is_a_turned_image():
    image = render_parameters(MIXTURE, (41, 41), 1.0, includes_pixel=True)
    turned = render_parameters(rotate_parameters(MIXTURE, 90), (41, 41), includes_pixel=True)
    # From +x towards +y: what lay at (x, y) lies at (-y, x); with [y, x] arrays that is a
    # clockwise rot90.
    assert np.allclose(turned, np.rot90(image, -1), atol=FLOAT32_ATOL)


@given(st.floats(0.1, 10))
@settings(max_examples=30, deadline=None)
def test_rescaling_is_undone_by_its_inverse(factor):
    back = rescale_parameters(rescale_parameters(MIXTURE, factor), 1 / factor)
    for name in MIXTURE.dtype.names:
        assert np.allclose(back[name], MIXTURE[name], rtol=1e-5)


def test_rescaled_mixture_has_the_same_shape_on_finer_pixels():
    coarse = render_parameters(MIXTURE, (21, 21), 2.0, includes_pixel=True)
    fine = render_parameters(rescale_parameters(MIXTURE, 2.0), (21, 21), 1.0, includes_pixel=True)
    assert np.allclose(coarse, fine, atol=FLOAT32_ATOL)
    with pytest.raises(InputError, match="positive number"):
        rescale_parameters(MIXTURE, -1)


def test_grid_interpolates_between_positions():
    places = np.array([[0, 0], [1000, 0], [0, 1000], [1000, 1000], [500, 500.0]])

    def image(x, y):
        profile = galsim.Moffat(beta=3.5, fwhm=2.8 * (1 + 0.1 * x / 1000)).shear(g1=0.05 * y / 1000)
        return profile.drawImage(nx=61, ny=61, scale=0.5, method="auto").array.astype(float)

    images = [image(x, y) for x, y in places]
    model, fits = fit_grid(images, places, oversample=2, ngauss=3)
    assert model.parameters.shape == (5, 3) and model.amplitude_sum == "unit"
    assert fits[0].residual < LEFT_OUT
    truth = image(300, 600)
    ours = render_parameters(model.at(300, 600), truth.shape, 2.0)
    assert np.max(np.abs(ours - truth / truth.sum())) < LEFT_OUT * truth.max()
    with pytest.raises(InputError, match="need 5 detector locations"):
        fit_grid(images, ngauss=3)
    with pytest.raises(InputError, match="no PSF image"):
        fit_grid([])


def test_cache_key_follows_image_and_options():
    image = np.arange(12.0).reshape(3, 4)
    key = cache_key(image, ngauss=4, center=(1.0, 2.0), weight=None)
    assert key == cache_key(image.astype(">f8"), weight=None, center=(1.0, 2.0), ngauss=4)
    others = [
        cache_key(image.T, ngauss=4, center=(1.0, 2.0), weight=None),
        cache_key(image + 1e-12, ngauss=4, center=(1.0, 2.0), weight=None),
        cache_key(image, ngauss=5, center=(1.0, 2.0), weight=None),
        cache_key(image, ngauss=4, center=(1.0, 2.0), weight=np.ones(3)),
    ]
    assert len({key, *others}) == 5
