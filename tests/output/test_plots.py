"""Pictures: what they draw, against numpy and the numbers that went in."""

import numpy as np
import pytest
from astropy.table import Table
from synthetic_result import REFERENCE, VALUES, make_result, make_wcses

from jaxpho.data.psfmodel import PSF_DTYPE, PSFModel
from jaxpho.errors import InputError
from jaxpho.output.catalog import make_table, rows_of_patch
from jaxpho.output.derived import SourceView
from jaxpho.output.plots import (
    flag_counts,
    flux_pulls,
    plot_corner,
    plot_flags,
    plot_flux_pulls,
    plot_movie,
    plot_patches,
    plot_profile,
    plot_psf,
    plot_ranks,
    plot_size_magnitude,
    plot_traces,
    write_figure,
)
from jaxpho.output.plots.posterior import contour_levels, ranks_of
from jaxpho.output.plots.seam import Figure
from jaxpho.output.profiles import ellipse_matrix, place_of, radial_profile, shapes_of
from jaxpho.output.psfshape import draw_psf, encircled, moments
from jaxpho.output.shown import shown_quantities, truth_of

SIGMA = 1.3


@pytest.fixture(scope="module")
def result():
    """A fit with draws, pixels, and the astrometry of its WCS."""
    found = make_result(np.random.default_rng(2), draws=200)
    cosine = np.cos(np.deg2rad(REFERENCE[1]))
    for name, wcs in make_wcses().items():
        d = 3600 * np.linalg.inv(3600 * np.array(wcs.wcs.cd)) / 3600
        x, y = wcs.world_to_pixel_values(*REFERENCE)
        s = len(found.source_ids)
        cw = 3600 * d @ np.diag([cosine, 1.0])
        found.astrometry[name] = {
            "D": np.tile(d, (s, 1, 1)), "CW": np.tile(cw, (s, 1, 1)),
            "crpix": np.tile([x, y], (s, 1)), "crval": np.zeros((s, 2)),
        }  # fmt: skip
    return found


@pytest.fixture(scope="module")
def table(result):
    return make_table(rows_of_patch(result), result.bands, result.unit)


def gaussian(sigma=SIGMA, **kwargs):
    """A PSF of one Gaussian, and a faint wide one."""
    rows = [(0.9, 0, 0, sigma**2, sigma**2, 0, -1), (0.1, 0, 0, 9, 9, 0, -1)]
    return PSFModel(np.array([rows], PSF_DTYPE), amplitude_sum="unit", **kwargs)


def texts(figure):
    """Every word of a figure."""
    found = [t.get_text() for a in figure.axes for t in (*a.texts, a.title, a.xaxis.label)]
    return found + [figure.get_suptitle() or ""]


def test_places_are_those_of_the_wcs(result):
    view = SourceView(result, 2)
    cosine = np.cos(np.deg2rad(REFERENCE[1]))
    ra = REFERENCE[0] + view.value("ra") / 3600 / cosine
    for name, wcs in make_wcses().items():
        place = place_of(result, 2, name)
        at = wcs.world_to_pixel_values(ra, REFERENCE[1] + view.value("dec") / 3600)
        np.testing.assert_allclose(place[:2], at, atol=1e-3)


def test_ellipses_have_the_area_and_direction_of_the_source(result):
    (rhalf, q, pa), *_ = shapes_of(result, 0)
    matrix = ellipse_matrix(rhalf, q, pa, np.diag([-1.0, 1.0]))  # 1 arcsec pixels, East left
    assert abs(np.linalg.det(matrix)) == pytest.approx(rhalf**2)
    along = matrix[:, 0] / np.hypot(*matrix[:, 0])
    assert np.hypot(*matrix[:, 0]) == pytest.approx(rhalf / np.sqrt(q))
    np.testing.assert_allclose(along, [-np.sin(np.deg2rad(pa)), np.cos(np.deg2rad(pa))])


def test_profiles_are_means_over_rings_without_pixels_of_neighbours(result):
    profile = radial_profile(result, 1, "g/1", gaussian())
    assert profile.npix.sum() > 300 and (np.diff(profile.radius) > 0).all()
    # a blob of exp(-r / s): the first ring against the blob itself, averaged over its pixels
    scale = (0.5 + 0.3) / 1.68
    peak = profile.model[0] / np.exp(-profile.radius[0] / scale)
    np.testing.assert_allclose(
        profile.model[1:4], peak * np.exp(-profile.radius[1:4] / scale), rtol=0.1
    )
    residual = (profile.data - profile.model) / profile.error
    assert np.nanstd(residual) < 2.0  # white noise, a dozen rings
    assert profile.psf[0] == pytest.approx(profile.model[0])
    sigma = np.hypot(SIGMA, 12**-0.5) * 0.3
    ratio = np.exp(-0.5 * (profile.radius[1] ** 2 - profile.radius[0] ** 2) / sigma**2)
    assert profile.psf[1] / profile.psf[0] == pytest.approx(ratio, rel=0.15)


def test_a_profile_is_drawn_for_each_band_and_without_pixels_says_so(result):
    figure = plot_profile(result, 0, {"g/1": gaussian()})
    assert isinstance(figure, Figure) and len(figure.axes) == 4
    labels = [line.get_label() for line in figure.axes[0].lines]
    assert {"model", "PSF"} <= set(labels)
    bare = make_result(np.random.default_rng(1), pixels=False)
    assert any("no pixels" in t.get_text() for t in plot_profile(bare).texts)


def test_corner_traces_and_ranks_show_the_draws(result):
    shown = shown_quantities(SourceView(result, 0))
    assert [q.name for q in shown] == [
        "flux_g", "flux_r", "ra", "dec", "rhalf", "sersic", "e1", "e2"
    ]  # fmt: skip
    column = result.index(0, "dec")
    np.testing.assert_allclose(
        shown[3].draws, 1e3 * (result.samples[..., column] - result.theta[column])
    )
    truth = {"flux_g": VALUES["flux"], "rhalf": 1.2, "dec": REFERENCE[1] + 2.0 / 3600}
    true = truth_of(truth, shown, REFERENCE[0], REFERENCE[1] + 2.0 / 3600)
    assert true == {"flux_g": VALUES["flux"], "rhalf": 1.2, "dec": pytest.approx(0.0)}
    figure = plot_corner(result, 0, truth, names=("flux_g", "rhalf", "dec"))
    assert len(figure.axes) == 9 and "truth" in figure.get_suptitle()
    assert len(plot_traces(result, 2).axes) == len(shown_quantities(SourceView(result, 2)))
    assert len(plot_ranks(result, 1).axes) == 6
    ranks = ranks_of(shown[0].draws)
    assert sorted(ranks.ravel()) == list(range(1, 801))


def test_contours_hold_their_part_of_a_normal_distribution():
    x, y = np.meshgrid(np.linspace(-4, 4, 81), np.linspace(-4, 4, 81))
    density = np.exp(-0.5 * (x**2 + y**2))
    outer, inner = contour_levels(density)
    # of a plane normal distribution exp(-r^2 / 2) is outside r
    assert outer == pytest.approx(1 - 0.95, rel=0.05) and inner == pytest.approx(0.32, rel=0.05)


def test_pictures_of_draws_need_draws():
    bare = make_result(np.random.default_rng(1), pixels=False)
    for plot in (plot_corner, plot_traces, plot_ranks):
        with pytest.raises(InputError, match="no draws"):
            plot(bare)


def test_populations(table):
    truth = Table({"id": table["id"], "flux_g": np.asarray(table["flux_g"]) - 10})
    (pull, ratio) = flux_pulls(table, truth, flagged=True)["g"]
    np.testing.assert_allclose(pull, 10 / np.asarray(table["flux_g_err"]))
    np.testing.assert_allclose(ratio, np.asarray(table["flux_g"]) / table["flux_g_err"])
    assert len(flux_pulls(table, truth)["g"][0]) == 2  # without the flagged one
    with pytest.raises(InputError, match="shares no source"):
        flux_pulls(table, Table({"id": ["x"], "flux_g": [1.0]}))
    assert flag_counts(table["flags"]) == {"at_bound": 1}
    words = texts(plot_flags(table))
    assert "2 of 3 sources without flags" in words
    assert "AB magnitude in r" in texts(plot_size_magnitude(table, "r"))
    assert len(plot_flux_pulls(table, truth, flagged=True).axes) == 2
    figure = plot_patches(table, {3: (150.0, 2.0, 20.0)})
    assert "3 sources in 1 patches" in texts(figure)


def test_a_psf_is_drawn_as_its_gaussians(tmp_path):
    model = gaussian()
    y, x = np.indices((61, 61)) - 30.0
    total = SIGMA**2 + 1 / 12 / 9
    image = sum(
        a * np.exp(-0.5 * (x**2 + y**2) / 9 / v) / (2 * np.pi * v) / 9
        for a, v in ((0.9, total), (0.1, 9 + 1 / 12 / 9))
    )
    picture = draw_psf(model, image=image * 7, oversample=3)
    np.testing.assert_allclose(picture.mixture, image, atol=1e-7)
    np.testing.assert_allclose(picture.image, image / image.sum())
    inside = encircled(picture, picture.mixture, [2.0, 9.0])
    # both of the mean over a sample and of counting it by its parts the square is in the width
    by_hand = 1 - 0.9 * np.exp(-2 / (total + 1 / 108)) - 0.1 * np.exp(-2 / (9 + 1 / 54))
    assert inside[0] == pytest.approx(by_hand, abs=2e-3)
    one = np.array([(1, 0, 0, 4.41, 3.61, 0, -1)], PSF_DTYPE)  # sigmas of 2.1 and 1.9
    found = moments(one)
    assert found["fwhm"] == pytest.approx(2.3548 * 2, rel=5e-3)
    assert found["e1"] == pytest.approx(0.2 / 4, rel=0.05) and abs(found["e2"]) < 1e-6
    figure = plot_psf(model, image=image, oversample=3, title="<b>")
    assert len(figure.axes) == 7
    assert len(plot_psf(model).axes) == 2
    write_figure(tmp_path / "psf.png", figure)
    assert (tmp_path / "psf.png").read_bytes()[:4] == b"\x89PNG"


def test_a_movie_has_a_frame_for_each_draw(result, tmp_path):
    models = {n: np.stack([p["model"], 2 * p["model"]]) for n, p in result.pixels.items()}
    movie = plot_movie(result, models)
    assert movie.frames == 2
    first = movie.figure.axes[1].images[0].get_array().max()
    movie.show(1)
    assert movie.figure.axes[1].images[0].get_array().max() == pytest.approx(2 * first)
    movie.save(tmp_path / "draws.gif")
    content = (tmp_path / "draws.gif").read_bytes()
    assert content[:3] == b"GIF" and len(content) > 5000
    with pytest.raises(InputError, match="expected 6300"):
        plot_movie(result, {n: m[:, :5] for n, m in models.items()})
