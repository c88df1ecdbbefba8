"""Fitted mixtures: recovery of exact ones, GalSim's PSFs, and the JWST file with its model."""

import time

import galsim
import numpy as np
import pytest
from astropy.io import fits

from jaxpho.data.psfex import read_psfex
from jaxpho.data.psfmodel import PSF_DTYPE
from jaxpho.errors import InputError
from psfmix.centroid import moment_rows, shape_rows, weight_widths
from psfmix.fit import fit_mixture, from_array, render_parameters
from psfmix.ladder import fit_ladder

# An image that is a mixture is reproduced up to where the minimiser stops.
EXACT_RESIDUAL = 2e-4
MASKED_RESIDUAL = 1e-2
# Largest residual over peak that is asked for.
KOLMOGOROV = {3: 2e-3, 6: 3e-4}
MOFFAT = {4: 2e-3, 6: 3e-4}
JWST = {(4, False): 0.043, (4, True): 0.02, (8, True): 0.009}
JWST_EE8 = 3e-3
# Weighted centroids, native pixels.
CENTROID = 0.01
# Weighted ellipticities of four positive Gaussians: .042 here, .45 without rows for them.
SHAPE = 0.1
# The same of the F200W image: .038, .009 and .002.
JWST_SHAPE = {(4, False): 0.06, (4, True): 0.02, (8, True): 0.01}
# The PSFEx models of the two surveys with four signed components, residual and encircled energy.
PSFEX_RESIDUAL, PSFEX_EE = 0.02, 4e-3
# float32 storage of forcepho's parameters and model.
FORCEPHO_RENDER = 1e-6
# CPU seconds on a free core; generous where other work shares it.
SECONDS_GROUND, SECONDS_JWST = 30.0, 60.0

TRUE = np.array([[0.6, 0.05, -0.1, 1.0, 1.3, 0.2], [0.4, -0.2, 0.1, 5.0, 4.0, -0.8]])


def draw(profile, n=121, oversample=4):
    image = profile.drawImage(nx=n, ny=n, scale=1 / oversample, method="auto")
    return image.array.astype(float)


@pytest.mark.parametrize(("oversample", "includes"), [(3.0, False), (1.0, True), (1.6, True)])
def test_recovers_an_exact_mixture(oversample, includes):
    truth = from_array(TRUE)
    image = render_parameters(truth, (60, 65), oversample, includes_pixel=includes)
    fit = fit_mixture(
        image, oversample=oversample, ngauss=2, includes_pixel=includes, normalize="stamp"
    )
    assert fit.residual < EXACT_RESIDUAL
    for name in PSF_DTYPE.names[:-1]:
        assert np.allclose(fit.parameters[name], truth[name], atol=0.03), name
    assert np.allclose(fit.render(), image, rtol=0, atol=EXACT_RESIDUAL * image.max())


def test_core_narrower_than_the_usual_floor():
    """A detector that undersamples its PSF: sigma = .25 native pixels."""
    narrow = TRUE.copy()
    narrow[0, 3:] = 0.0625, 0.075, 0.01
    image = render_parameters(from_array(narrow), (121, 121), 4.0)
    assert fit_mixture(image, oversample=4.0, ngauss=2).residual < EXACT_RESIDUAL
    assert fit_mixture(image, oversample=4.0, ngauss=2, floor=0.4).residual > 0.1


def test_normalisation_trim_and_centre():
    image = 250 * render_parameters(from_array(TRUE), (61, 61), 2.0, includes_pixel=True)
    common = {"oversample": 2.0, "ngauss": 2, "includes_pixel": True}
    unit = fit_mixture(image, normalize="unit", **common)
    stamp = fit_mixture(image, normalize="stamp", **common)
    assert unit.parameters["amp"].sum(dtype=float) == pytest.approx(1, abs=1e-6)
    assert stamp.parameters["amp"].sum(dtype=float) == pytest.approx(image.sum(), rel=1e-6)
    padded = np.pad(image, ((5, 5), (5, 5)), constant_values=1e6)
    trimmed = fit_mixture(padded, trim=5, **common)
    assert np.array_equal(trimmed.parameters, unit.parameters)
    moved = fit_mixture(image, center=(31.0, 29.0), **common)
    shift = moved.parameters["xcr"] - unit.parameters["xcr"]
    assert np.allclose(shift, -0.5, atol=0.01)
    assert np.allclose(moved.parameters["ycr"] - unit.parameters["ycr"], 0.5, atol=0.01)


def test_more_gaussians_are_never_worse():
    """Of a telescope's PSF, without and with the ladder: the same."""
    psf = galsim.OpticalPSF(lam_over_diam=2.0, obscuration=0.3, coma1=0.1, trefoil2=0.1)
    image = draw(psf, 41, 2)
    rungs = list(fit_ladder(image, range(1, 4), oversample=2, signed=True))
    errors = [np.hypot(rung.fit.residual, rung.fit.ee_error) for rung in rungs]
    assert errors == sorted(errors, reverse=True)
    alone = fit_mixture(image, oversample=2, ngauss=2, signed=True)
    assert np.array_equal(alone.parameters, rungs[1].fit.parameters)


@pytest.mark.parametrize("ngauss", [3, 6])
def test_kolmogorov(ngauss):
    begin = time.process_time()
    fit = fit_mixture(draw(galsim.Kolmogorov(fwhm=3.0)), oversample=4, ngauss=ngauss)
    assert fit.residual < KOLMOGOROV[ngauss]
    assert time.process_time() - begin < SECONDS_GROUND


@pytest.mark.parametrize("ngauss", [4, 6])
@pytest.mark.parametrize("beta", [2.5, 3.5])
def test_moffat(ngauss, beta):
    fit = fit_mixture(draw(galsim.Moffat(beta=beta, fwhm=3.0)), oversample=4, ngauss=ngauss)
    assert fit.residual < MOFFAT[ngauss] and fit.ee_error < MOFFAT[ngauss]


def test_mixture_without_pixel_is_the_profile_itself():
    """The fitted image pixel is removed: the mixture equals GalSim's profile at a point."""
    profile = galsim.Moffat(beta=3.5, fwhm=3.0)
    fit = fit_mixture(draw(profile, oversample=2), oversample=2, ngauss=4)
    point = fit.render((41, 41), 3.0)
    exact = render_parameters(fit.parameters, (41, 41), 3.0, includes_pixel=True)
    truth = profile.drawImage(nx=41, ny=41, scale=1 / 3, method="no_pixel").array
    # 0.5 % : the stamp holds less than all of a Moffat's flux, and the fit's own residual.
    assert np.max(np.abs(exact - truth)) < 5e-3 * truth.max()
    assert point.max() < exact.max()


def test_rows_of_moments_are_shifts():
    """An image less itself shifted by a little: under every weight that shift."""
    step, shift = 0.25, (0.02, -0.03)
    profile = galsim.Moffat(beta=3.5, fwhm=3.0).shear(g1=0.1)
    image, moved = draw(profile), draw(profile.shift(*shift))
    x, y = np.meshgrid(*[step * (np.arange(121) - 60.0)] * 2)
    widths = weight_widths(3.0, 15.0)
    assert list(widths) == [1.5, 3.0, 6.0]
    rows = moment_rows(x.ravel(), y.ravel(), step**2, image.ravel(), widths)
    found = rows @ (moved - image).ravel()
    # the response is a mean of x and y: 7 % off for this ellipticity
    assert np.allclose(found, np.array(shift)[:, None], rtol=0.1, atol=0)


@pytest.mark.parametrize("shear", [(0.01, 0.0), (-0.004, 0.007)])
def test_rows_of_shapes_are_ellipticities(shear):
    """A round Gaussian sheared a little: the ellipticity of the product of it and the weight."""
    step, sigma = 0.25, 1.3
    axis = step * (np.arange(161) - 80.0)
    x, y = (grid.ravel() for grid in np.meshgrid(axis, axis))
    widths = np.array([0.7, 1.5, 3.0, 6.0])
    stretch = np.array([[1 + shear[0], shear[1]], [shear[1], 1 - shear[0]]])
    covariance = sigma**2 * stretch @ stretch

    def gaussian(c):
        inverse = np.linalg.inv(c)
        form = inverse[0, 0] * x**2 + 2 * inverse[0, 1] * x * y + inverse[1, 1] * y**2
        return np.exp(-form / 2) / (2 * np.pi * np.sqrt(np.linalg.det(c)))

    round_image = gaussian(sigma**2 * np.eye(2))
    rows = shape_rows(x, y, step**2, round_image, widths)
    found = rows @ (gaussian(covariance) - round_image)
    for k, width in enumerate(widths):
        product = np.linalg.inv(np.linalg.inv(covariance) + np.eye(2) / width**2)
        expected = np.array([product[0, 0] - product[1, 1], 2 * product[0, 1]]) / product.trace()
        # first order in the shear
        assert np.allclose(found[:, k], expected, rtol=0, atol=3 * (shear[0] ** 2 + shear[1] ** 2))
        assert np.hypot(*expected) > 0.002


def test_rows_of_a_point_are_finite():
    """All light in the middle pixel has no extent that ellipticities could refer to."""
    x, y = (grid.ravel() for grid in np.meshgrid(np.arange(-5.0, 6), np.arange(-5.0, 6)))
    rows = shape_rows(x, y, 1.0, 1.0 * (np.hypot(x, y) == 0), np.array([0.5, 1.0]))
    assert np.all(np.isfinite(rows))


def test_wings_of_a_telescope_lie_to_all_sides():
    """Four positive Gaussians cannot show spikes, but must not put all wings into one."""
    psf = galsim.OpticalPSF(
        lam_over_diam=2.0, obscuration=0.3, nstruts=3, strut_thick=0.05,
        strut_angle=20 * galsim.degrees, defocus=0.05, astig1=0.04, coma1=0.05, trefoil2=0.05,
    )  # fmt: skip
    image = draw(psf, 81, 2)
    fit = fit_mixture(image, oversample=2, ngauss=4)
    assert fit.shape_error < SHAPE
    # the same by its definition, under the widest weight
    axis = (np.arange(81) - 40) / 2
    x, y = np.meshgrid(axis, axis)
    weight = np.exp(-(x**2 + y**2) / (2 * 4.0**2))
    e = [
        np.array([np.sum(weight * i * (x**2 - y**2)), np.sum(weight * i * 2 * x * y)])
        / np.sum(weight * i * (x**2 + y**2))
        for i in (fit.render(), image)
    ]
    assert np.hypot(*(e[0] - e[1])) < SHAPE


def test_centroid_of_a_lopsided_psf():
    """Two Gaussians cannot follow the lobe, but put the light, and so galaxies, in its place."""
    lobes = [galsim.Gaussian(sigma=s).shift(d, 0.3 * d) for s, d in ((1, 0), (1.3, 2), (1.8, 4))]
    image = draw(0.7 * lobes[0] + 0.2 * lobes[1] + 0.1 * lobes[2])
    fit = fit_mixture(image, oversample=4, ngauss=2)
    assert fit.residual > CENTROID and fit.centroid_error < CENTROID


def test_warm_start_keeps_components_in_order():
    first = fit_mixture(draw(galsim.Moffat(beta=3.5, fwhm=3.0), 81), oversample=4, ngauss=3)
    image = draw(galsim.Moffat(beta=3.5, fwhm=3.1).shear(g1=0.02), 81)
    warm = fit_mixture(image, oversample=4, ngauss=3, start=first)
    cold = fit_mixture(image, oversample=4, ngauss=3)
    assert warm.residual < max(2 * cold.residual, 3e-3) and warm.steps < cold.steps
    assert np.allclose(warm.parameters["amp"], first.parameters["amp"], atol=0.1)
    with pytest.raises(InputError, match="the start has 3 Gaussians; 4 were asked for"):
        fit_mixture(image, oversample=4, ngauss=4, start=first)


def test_masked_pixels_are_ignored():
    image = render_parameters(from_array(TRUE), (61, 61), 2.0, includes_pixel=True)
    bad = image.copy()
    bad[30, 33:36] = np.nan
    bad[10:20, 40] = np.nan
    fit = fit_mixture(bad, oversample=2.0, ngauss=2, includes_pixel=True, normalize="stamp")
    # Bad pixels lend the total from their mirror images, here right to 1 % of the peak.
    assert np.max(np.abs(fit.render() - image)) < MASKED_RESIDUAL * image.max()


def test_too_many_gaussians():
    with pytest.raises(InputError, match="9 Gaussians"):
        fit_mixture(np.ones((5, 5)) + np.eye(5), ngauss=9)


@pytest.fixture(scope="module")
def f200w(data_dir):
    folder = data_dir / "psf_images" / "jwst_nircam_webbpsf"
    with fits.open(folder / "psf_jwst_oct21_ng4m0_f200w.fits") as hdus:
        return hdus[1].data.astype(float), hdus[2].data, np.array(hdus[3].data)


def test_forcepho_table_renders_its_image(f200w):
    _, model, table = f200w
    parameters = np.zeros(len(table), PSF_DTYPE)
    for name in PSF_DTYPE.names:
        parameters[name] = table[name]
    # forcepho samples its mixture at pixel centres.
    ours = render_parameters(parameters, model.shape, 4.0, includes_pixel=True)
    assert np.max(np.abs(ours - model)) < FORCEPHO_RENDER * model.max()


@pytest.mark.parametrize(
    ("ngauss", "signed"),
    [(4, False), (4, True), pytest.param(8, True, marks=pytest.mark.realdata)],
)
def test_jwst(f200w, ngauss, signed):
    begin = time.process_time()
    fit = fit_mixture(f200w[0], oversample=4, ngauss=ngauss, signed=signed)
    assert fit.residual < JWST[ngauss, signed]
    if ngauss == 8:
        assert fit.ee_error < JWST_EE8
    assert fit.centroid_error < CENTROID
    assert fit.shape_error < JWST_SHAPE[ngauss, signed]
    assert np.all(fit.parameters["amp"] > 0) or signed
    assert time.process_time() - begin < SECONDS_JWST


def test_survey_psfex(data_dir):
    for name in ("ksb_170430*-psfex.fits", "c4d_180518*-psfex.fits"):
        path = next(data_dir.glob(f"*/calib/psfex-single/**/{name}"))
        image = read_psfex(path).image(20, 25)
        fit = fit_mixture(image, ngauss=4, signed=True, includes_pixel=True)
        assert fit.residual < PSFEX_RESIDUAL and fit.ee_error < PSFEX_EE
