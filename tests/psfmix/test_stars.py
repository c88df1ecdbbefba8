"""PSFs from stars, against the GalSim profiles that the stars were drawn from."""

import numpy as np
import pytest
from star_case import (
    BINARY,
    COSMIC,
    DETECTOR,
    GAIN,
    GALAXY,
    NEIGHBOUR,
    SATURATED,
    profile,
    scaled,
    stamps_of,
)

from jaxpho.errors import InputError
from psfmix.fit import render_parameters
from psfmix.model import AMP, to_raw
from psfmix.stamps import StarFlag, cut_stamps, make_stamps
from psfmix.starfigures import core_shape
from psfmix.starfit import minimise
from psfmix.starmodel import Field, Problem, evaluate, free_at, linear, star_derivatives
from psfmix.stars import fit_stars
from psfmix.starstack import stack

# Largest difference from the true, pixel-integrated PSF, of its peak. 30 stars with 4e5 electrons
# each in the mean know the peak to .05 %; four Gaussians describe a Moffat to .2 % and one per cent
# of the flux is not more than .3 % apart: the wings beyond the stamp pass for background.
RESIDUAL = 6e-3
FLUX = 4e-3
# The same where the PSF varies, at the corners of the detector, beyond the last stars; and the FWHM
# without the pixel there, and in the middle.
RESIDUAL_VARYING, FWHM_CORNER, FWHM_MIDDLE = 0.015, 0.025, 0.005
# Standard deviation of n pulls of a normal law: 1 within 3 / sqrt(2 n).
PULLS = 3 / np.sqrt(2)


def difference(parameters, true, **layout):
    """Largest |mixture - true image| of its peak."""
    drawn = render_parameters(parameters, true.shape, **layout)
    return np.abs(drawn - true).max() / true.max()


def image_of(psf, size=41, **draw):
    return psf.drawImage(nx=size, ny=size, dtype=float, **{"scale": 1.0, **draw}).array


@pytest.fixture(scope="module")
def spoiled():
    images, ivar, places, flux = stamps_of()
    stamps = make_stamps(images, ivar, places, gain=GAIN, detector=DETECTOR)
    return fit_stars(stamps, ngauss=4), places, flux


def test_mixture_is_the_psf(spoiled):
    fit, _, _ = spoiled
    parameters = fit.model().parameters[0]
    assert difference(parameters, image_of(profile())) < RESIDUAL
    # without the pixel: the profile itself, at three samples a pixel
    fine = image_of(profile(), 91, scale=1 / 3)
    assert difference(parameters, fine, oversample=3) < 2 * RESIDUAL
    assert not fit.includes_pixel and fit.residual < 0.01


def test_convention(spoiled):
    fit, _, _ = spoiled
    raw = fit.at(300.0, 400.0)
    assert raw[:, AMP].sum() == pytest.approx(1)
    np.testing.assert_allclose(raw[:, AMP] @ raw[:, 1:3], 0, atol=1e-12)
    model = fit.model()
    assert model.amplitude_sum == "unit" and model.locations is None


def test_outliers_are_found(spoiled):
    fit, _, _ = spoiled
    flags = np.asarray(fit.table["flag"])
    assert set(np.flatnonzero(flags)) == {BINARY, GALAXY, SATURATED}
    assert all(fit.table["reason"][k] for k in (BINARY, GALAXY, SATURATED))
    left_out = (~fit.used).sum((1, 2))
    # a cosmic ray of 3 pixels with the ring around it; a neighbour's disk
    assert all(9 <= left_out[k] <= 40 for k in COSMIC)
    assert left_out[NEIGHBOUR] > 100
    rest = np.setdiff1d(np.arange(len(flags)), [NEIGHBOUR, *COSMIC, *np.flatnonzero(flags)])
    assert left_out[rest].max() <= 25  # chance beyond five sigma


def test_fluxes_and_centres(spoiled):
    fit, places, flux = spoiled
    good, table = fit.accepted, fit.table
    ratio = table["flux"][good] / flux[good]
    weight = (flux[good] / table["flux_err"][good]) ** 2
    scale = np.average(ratio, weights=weight)
    assert abs(scale - 1) < FLUX
    n = good.sum()
    pulls = (table["flux"][good] - scale * flux[good]) / table["flux_err"][good]
    assert abs(pulls.std() - 1) < PULLS / np.sqrt(n) and abs(pulls.mean()) < 3 / np.sqrt(n)
    for column, name in enumerate("xy"):
        pulls = (table[name][good] - places[good, column]) / table[f"{name}_err"][good]
        assert abs(pulls.std() - 1) < PULLS / np.sqrt(n) and abs(pulls.mean()) < 3 / np.sqrt(n)
    pulls = table["background"][good] / table["background_err"][good]
    assert abs(np.median(pulls)) < 1
    chi2 = table["chi2"][good] / table["npix"][good]
    assert 0.9 < np.median(chi2) < 1.1


def test_the_pixel_may_stay():
    images, ivar, places, _ = stamps_of(n=16, seed=4, spoiled=False)
    stamps = make_stamps(images, ivar, places, gain=GAIN)
    fit = fit_stars(stamps, ngauss=3, includes_pixel=True)
    model = fit.model()
    assert model.includes_pixel
    true = image_of(profile())
    assert difference(model.parameters[0], true, includes_pixel=True) < 1.5 * RESIDUAL


def test_an_undersampled_psf():
    """FWHM 1.6 native pixels: what is stored is the PSF without the pixel."""
    psf = {"kind": "kolmogorov", "fwhm": 1.6}
    images, ivar, places, flux = stamps_of(n=40, seed=5, spoiled=False, **psf)
    stamps = make_stamps(images, ivar, places, gain=GAIN)
    fit = fit_stars(stamps, ngauss=3)
    assert fit.accepted.all()
    true = image_of(profile(**psf), 91, scale=1 / 3)
    # the pixel widens the FWHM to 1.8; a fit that forgot it would be off by 20 % of the peak
    assert difference(fit.model().parameters[0], true, oversample=3) < 0.02
    assert difference(fit.model().parameters[0], image_of(profile(**psf))) < 0.01


def test_a_background_that_is_held_or_known():
    """0 holds it there, and gives the far wings to the star; a prior is one more datum."""
    psf = {"kind": "kolmogorov"}
    images, ivar, places, flux = stamps_of(n=16, seed=6, spoiled=False, **psf)
    scale = {}
    for sigma in (None, 0.0, 0.5):
        fit = fit_stars(
            make_stamps(images, ivar, places, gain=GAIN), ngauss=4, background_sigma=sigma
        )
        good, table = fit.accepted, fit.table
        scale[sigma] = np.average(table["flux"][good] / flux[good], weights=flux[good])
        largest = np.abs(table["background"][good]).max()
        if sigma == 0.0:
            assert largest < 1e-3 and table["background_err"][good].max() < 1e-3
        elif sigma:
            assert 1e-3 < largest < 4 * sigma
    assert abs(scale[0.0] - 1) < abs(scale[None] - 1)


def test_flux_and_background_are_those_of_dense_least_squares():
    rng = np.random.default_rng(0)
    values, image, weight = rng.uniform(size=(3, 30))
    design = np.stack([values, np.ones(30)], axis=1) * np.sqrt(weight)[:, None]
    design = np.vstack([design, [0.0, np.sqrt(7.0)]])  # the background is 0 within 7^-1/2
    target = np.append(image * np.sqrt(weight), 0.0)
    expected, cost, *_ = np.linalg.lstsq(design, target, rcond=None)
    np.testing.assert_allclose(linear(values, image, weight, 7.0), [*expected, *cost], rtol=1e-10)


def test_signed_amplitudes():
    images, ivar, places, _ = stamps_of(n=16, seed=6, spoiled=False)
    fit = fit_stars(make_stamps(images, ivar, places, gain=GAIN), ngauss=3, signed=True)
    assert difference(fit.model().parameters[0], image_of(profile())) < 1.5 * RESIDUAL


def test_position_dependence():
    """FWHM from 90 to 110 % along x, ellipticity along y."""
    psf = {"vary": 0.1}
    images, ivar, places, flux = stamps_of(n=50, seed=7, spoiled=True, size=35, **psf)
    stamps = make_stamps(images, ivar, places, gain=GAIN, detector=DETECTOR)
    fit = fit_stars(stamps, ngauss=4, order=1)
    rejected = set(np.flatnonzero(~fit.accepted))
    assert {BINARY, GALAXY, SATURATED} <= rejected and len(rejected) <= 5
    nodes = np.array([[0, 0], [1999, 0], [999.5, 799.5], [0, 1599], [1999, 1599]])
    model = fit.model(nodes)
    assert model.locations.shape == (5, 2)
    for (x, y), parameters in zip(nodes, model.parameters, strict=True):
        u, v = scaled(x, y)
        true = profile(u=u, v=v, **psf)
        assert difference(parameters, image_of(true)) < RESIDUAL_VARYING
        assert parameters["amp"].sum() == pytest.approx(1, abs=1e-6)
        raw = fit.at(x, y)
        # on a fine grid, without pixel, as GalSim has it
        measured, expected = core_shape(raw)[0], true.original.fwhm
        limit = FWHM_MIDDLE if u == v == 0 else FWHM_CORNER
        assert measured == pytest.approx(expected, rel=limit)
    # components stay in correspondence: the same order of widths everywhere
    size = model.parameters["Cxx"] + model.parameters["Cyy"]
    assert (np.argsort(size, axis=1) == np.argsort(size[2])).all()
    good = fit.accepted
    pulls = (fit.table["flux"] / flux - 1)[good] * (flux / fit.table["flux_err"])[good]
    assert (pulls - np.median(pulls)).std() < 1.6


STARS = 8


def make_problem(order, signed):
    rng = np.random.default_rng(2)
    y, x = (a.ravel().astype(float) for a in np.indices((11, 11)))
    places = rng.uniform(0, 100, (STARS, 2))
    field = Field(order, (50.0, 50.0), (50.0, 50.0))
    problem = Problem(
        images=np.zeros((STARS, 121)), weight=rng.uniform(0.5, 1, (STARS, 121)), x=x, y=y,
        terms=field.terms(places), floor=0.4, signed=signed, pixel_variance=1 / 12, widest=4.0,
    )  # fmt: skip
    free = np.array([[-0.3, 0.1, 0.0, 0.1, 0.1, 0.0], [-1.4, -0.1, 0.2, 0.9, 0.0, 0.8]])
    if signed:
        free[:, 0] = 0.9, 0.1
    coef = np.concatenate([free[None], rng.normal(0, 0.05, (field.nterm - 1, 2, 6))])
    center = 5 + rng.uniform(-0.5, 0.5, (STARS, 2))
    flux, background = rng.uniform(5e3, 1e4, STARS), rng.normal(0, 1, STARS)
    state = evaluate(problem, coef, center)
    images = flux[:, None] * state.profile + background[:, None]
    return Problem(**{**vars(problem), "images": images}), coef, center, flux, background


@pytest.mark.parametrize("signed", [False, True])
def test_derivatives_against_finite_differences(signed):
    problem, coef, center, *_ = make_problem(1, signed)
    # the pixel's fourth cumulant is not differentiated, hence a looser tolerance in its columns
    problem = Problem(**{**vars(problem), "pixel_variance": 0.0})
    state = evaluate(problem, coef, center)
    k, step = 2, 1e-5
    mixture, own, shape = star_derivatives(problem, state, k)
    free = free_at(coef, problem.terms[k])

    def model(free, center):
        coef_k = np.zeros_like(coef)
        coef_k[0] = free
        one = Problem(**{**vars(problem), "terms": np.eye(1, coef.shape[0]).repeat(STARS, 0)})
        return state.flux[k] * evaluate(one, coef_k, center, [k]).profile[k]

    for j in range(free.size):
        moved = np.zeros(free.size)
        moved[j] = step
        moved = moved.reshape(free.shape)
        numeric = (model(free + moved, center) - model(free - moved, center)) / (2 * step)
        np.testing.assert_allclose(mixture[j], numeric, atol=1e-6 * np.abs(mixture).max())
    for axis in range(2):
        moved = np.zeros_like(center)
        moved[k, axis] = step
        numeric = (model(free, center + moved) - model(free, center - moved)) / (2 * step)
        np.testing.assert_allclose(own[axis], numeric, atol=1e-6 * np.abs(own).max())
    np.testing.assert_allclose(own[2], state.profile[k])


@pytest.mark.parametrize("order", [0, 1])
def test_noiseless_stars_are_recovered(order):
    """Started off the truth the minimum is the truth, the degeneracies of the convention apart."""
    problem, coef, center, flux, background = make_problem(order, False)
    rng = np.random.default_rng(8)
    start = coef.copy()
    start[0] += rng.normal(0, 0.05, start[0].shape)
    state = evaluate(problem, start, center + rng.normal(0, 0.1, center.shape))
    state = minimise(problem, state, np.arange(STARS), 300, 1e-12)
    assert np.abs(state.model - problem.images).max() < 1e-3 * problem.images.max()
    np.testing.assert_allclose(state.background, background, atol=0.1)
    totals = [
        to_raw(free_at(c, problem.terms[k]), 0.4, False)[:, AMP].sum()
        for c in (state.coef, coef)
        for k in range(STARS)
    ]
    ratio = state.flux * totals[:STARS] / (flux * totals[STARS:])
    np.testing.assert_allclose(ratio, 1, atol=0.01)


def test_stack_is_the_mean_profile():
    images, ivar, places, flux = stamps_of(n=8, seed=9, spoiled=False, flux=(1e6, 2e6))
    stamps = make_stamps(images, ivar, places)
    layout = (stamps.centers(), flux, np.zeros(8), np.ones(8, bool))
    for robust in (True, False):
        value, sigma = stack(images, ivar, *layout, robust=robust)
        assert value.shape == (41, 41) and value.sum() == pytest.approx(1, abs=0.02)
        assert np.nanmax(sigma) < 1e-4


def test_stars_that_are_left_out():
    images, ivar, places, flux = stamps_of(n=18, seed=10, spoiled=False)
    images[0] = np.random.default_rng(1).normal(0, 7, images[0].shape)  # nothing there
    ivar[1, 17:24, 17:24] = 0  # a hole in the core
    ivar[2, :25] = 0  # more than half of the stamp
    places[3] = np.nan
    images[4, 20, 20] = 1e9
    images[5, :4] = np.nan  # a part beyond an edge is no reason
    stamps = make_stamps(images, ivar, places, gain=GAIN, saturation=5e8)
    fit = fit_stars(stamps, ngauss=3)
    flags = np.asarray(fit.table["flag"])
    assert flags[0] & StarFlag.FAINT
    assert flags[1] & StarFlag.UNUSABLE and flags[2] & StarFlag.UNUSABLE
    assert flags[3] & StarFlag.OUTSIDE and np.isnan(fit.table["flux"][3])
    assert flags[4] & StarFlag.SATURATED
    assert not flags[5:].any()


def test_one_star_is_enough():
    images, ivar, places, flux = stamps_of(n=1, seed=12, spoiled=False, flux=(1e6, 1e6))
    fit = fit_stars(make_stamps(images, ivar, places, gain=GAIN), ngauss=3)
    assert fit.accepted.all()
    # a star of 2e6 electrons knows its own peak to .5 %, three Gaussians to .6 %
    assert difference(fit.model().parameters[0], image_of(profile())) < 4 * RESIDUAL


def test_cutting():
    image = np.arange(60.0 * 50).reshape(60, 50)
    ivar = np.ones_like(image)
    places = [[25.2, 30.4], [2.0, 3.0], [49.4, 10.0], [50.1, 10.0], [np.nan, 4.0]]
    stamps = cut_stamps(image, ivar, places, 11)
    assert stamps.detector == (50, 60)
    np.testing.assert_array_equal(stamps.images[0], image[25:36, 20:31])
    np.testing.assert_allclose(stamps.centers()[0], [5.2, 5.4])
    assert (stamps.ivar[1] > 0).sum() == 8 * 9 and stamps.images[1][2, 3] == image[0, 0]
    assert list(stamps.flags[3:]) == [StarFlag.OUTSIDE] * 2
    assert stamps.flags[0] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((3, 21))}, r"shape \(3, 21\); expected \(nstar, ny, nx\)"),
        ({"images": np.zeros((0, 21, 21))}, "expected"),
        ({"images": np.zeros((3, 5, 5)), "ivar": np.zeros((3, 5, 5))}, "expected at least 9 x 9"),
        ({"ivar": np.ones((3, 21, 20))}, "weights have shape"),
        ({"positions": np.zeros((2, 2))}, "3 star stamps and 2 positions"),
        ({"gain": -1.0}, "gain of the stars is -1.0"),
        ({"saturation": np.nan}, "saturation level"),
    ],
)
def test_bad_stamps(change, message):
    given = {
        "images": np.zeros((3, 21, 21)), "ivar": np.ones((3, 21, 21)), "positions": np.ones((3, 2)),
    }  # fmt: skip
    given |= change
    with pytest.raises(InputError, match=message):
        make_stamps(given.pop("images"), given.pop("ivar"), given.pop("positions"), **given)


def test_nothing_to_fit():
    images, ivar, places, _ = stamps_of(n=4, seed=11, spoiled=False, size=21)
    good = make_stamps(images, ivar, places, gain=GAIN)
    with pytest.raises(InputError, match="4 usable stars for polynomials of order 2.* 6 terms"):
        fit_stars(good, order=2)
    with pytest.raises(InputError, match="expected 0, 1 or 2"):
        fit_stars(good, order=3)
    with pytest.raises(InputError, match="Gaussians of 6 parameters"):
        fit_stars(good, ngauss=400)
    none = make_stamps(images, 0 * ivar, places)
    with pytest.raises(InputError, match="none of the 4 stars is usable: 4 core or half"):
        fit_stars(none)
    with pytest.raises(InputError, match="all of the 4 stars were rejected: 4 faint"):
        fit_stars(good, ngauss=2, min_snr=1e6)
    with pytest.raises(InputError, match="none of the 4 stars is usable: 4 position"):
        fit_stars(good.on((10, 10)))
    with pytest.raises(InputError, match="none of the 2 stars lies inside"):
        cut_stamps(np.zeros((50, 50)), np.ones((50, 50)), [[-9, 3], [70, 3]], 21)
