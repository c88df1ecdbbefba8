"""When a galaxy needs a finer Sersic mixture."""

import numpy as np
import pytest

import jaxpho
from jaxpho.core.sersic import DESIGN_BLUR
from jaxpho.data.psfmodel import PSF_DTYPE, PSFModel
from jaxpho.fit.blur import mixture_needed, sharpest_psf, too_coarse

SCALE = 0.25


@pytest.fixture(scope="module")
def patch():
    """One exposure with a PSF of a narrow and a (faint) narrower component."""
    psf = np.zeros((1, 2), PSF_DTYPE)
    psf["amp"], psf["sersic_bin"] = [[0.97, 0.03]], -1
    psf["Cxx"], psf["Cyy"] = [[4.0, 0.01]], [[9.0, 0.01]]
    exposure = jaxpho.exposure_from_arrays(
        np.zeros((32, 32)), 1.0, PSFModel(psf, None, False), pixel_scale=SCALE
    )
    return jaxpho.Patch.from_arrays([exposure], [jaxpho.Peak(1, "sersic", 0.0, 0.0)]).patch


def shape(rhalf, sersic=4.0, e1=0.0):
    return [(0, {"rhalf": rhalf, "sersic": sersic, "e1": e1, "e2": 0.0})]


def test_width_is_that_of_the_narrow_side_with_the_pixel(patch):
    assert sharpest_psf(patch, 1, 0) == pytest.approx(SCALE * np.sqrt(4.0 + 1 / 12), rel=1e-5)


def test_large_cuspy_galaxies_need_more_gaussians(patch):
    width = sharpest_psf(patch, 1, 0)
    edge = width / DESIGN_BLUR["k12"]
    assert mixture_needed(patch, 1, shape(0.9 * edge), "k12")[0] == "k12"
    assert mixture_needed(patch, 1, shape(1.1 * edge), "k12")[0] == "k16"
    # an elongated galaxy is sharper along its minor axis: q = 1/3 has e = 1/2
    assert mixture_needed(patch, 1, shape(0.9 * edge, e1=0.5), "k12")[0] == "k16"
    # without a cusp there is nothing to soften
    assert mixture_needed(patch, 1, shape(1.1 * edge, sersic=1.0), "k12")[0] == "k12"


def test_says_when_even_the_largest_is_too_coarse(patch):
    huge = 1.1 * sharpest_psf(patch, 1, 0) / DESIGN_BLUR["k16"]
    name, blur = mixture_needed(patch, 1, shape(huge), "k12")
    assert name == "k16"
    assert too_coarse(name, blur)
