"""From arrays to a table in one call: sources, names and options, against a GalSim galaxy."""

import logging
from dataclasses import replace

import galsim
import numpy as np
import pytest
from synthetic_result import make_result

import jaxpho
from jaxpho.errors import InputError
from jaxpho.output.catalog import rows_of_patch
from jaxpho.output.summary import draws_by_name, summary_table

SCALE, SIZE, NOISE = 0.2, 40, 2.0
PSF = galsim.Moffat(beta=3.0, fwhm=0.7)
FLUX, RHALF, SERSIC, Q, PA = 20000.0, 0.8, 1.5, 0.6, 30.0
# a value may be off by this many of its errors: 8 quantities, chance of failure 3e-4
MAX_PULL = 4.0


@pytest.fixture(scope="module")
def psf():
    star = PSF.drawImage(nx=35, ny=35, scale=SCALE).array
    return jaxpho.psf_from_image(star, ngauss=3)


@pytest.fixture(scope="module")
def exposures(psf):
    """A galaxy at pixel (24, 18); East is to the left, so that its angle is mirrored."""
    galaxy = galsim.Sersic(SERSIC, half_light_radius=RHALF, flux=FLUX)
    galaxy = galaxy.shear(q=Q, beta=(90 + PA) * galsim.degrees)
    middle = (SIZE - 1) / 2
    galaxy = galaxy.shift((24 - middle) * SCALE, (18 - middle) * SCALE)
    image = galsim.Convolve(galaxy, PSF).drawImage(nx=SIZE, ny=SIZE, scale=SCALE).array
    rng = np.random.default_rng(3)
    return [
        jaxpho.exposure_from_arrays(
            image + rng.normal(0, NOISE, image.shape), NOISE, psf, band="r", pixel_scale=SCALE,
            ra=150.0, dec=2.0, unit="nJy",
        )
        for _ in range(2)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def fit(exposures):
    return jaxpho.fit_images(exposures, xy=[24, 18], sample="none", mixture="k8")


def test_a_galaxy_is_measured(fit):
    truth = {"flux": FLUX, "rhalf": RHALF, "sersic": SERSIC, "q": Q, "pa": PA}
    truth |= {"rhalf_major": RHALF / Q**0.5, "ra offset": 0.0, "dec offset": 0.0}
    rows = {row["quantity"]: row for row in fit.summary}
    assert set(rows) == set(truth)
    for name, value in truth.items():
        assert abs(rows[name]["value"] - value) < MAX_PULL * rows[name]["error"], name
    units = {name: rows[name]["unit"] for name in ("flux", "rhalf", "pa", "q", "ra offset")}
    assert list(units.values()) == ["nJy", "arcsec", "deg", "", "arcsec"]
    assert fit.table["flux_r"].unit == "nJy" and fit.table["npix"][0] <= 2 * SIZE**2
    assert fit.result.exposures == ["r_1", "r_2"]
    assert "flux" in str(fit) and "chi2" in fit._repr_html_()


def test_residuals_are_noise(fit):
    images = fit.images("r_2")
    assert images["chi"].shape == (SIZE, SIZE)
    # 1600 pixels: the standard deviation is known to 1.8 %
    assert np.std(images["chi"]) == pytest.approx(1.0, abs=0.07)
    np.testing.assert_allclose(images["chi"] * NOISE, images["data"] - images["model"], atol=1e-3)
    assert [axis.get_title() for axis in fit.plot().axes[:2]] == ["data", "model"]
    with pytest.raises(InputError, match="no exposure is named 'x', expected one of r_1, r_2"):
        fit.images("x")


def test_draws_as_a_film(fit):
    theta = fit.result.theta
    brighter = theta * np.where([name == "flux" for _, name, _ in fit.result.labels], 2.0, 1.0)
    # chains of two draws: the optimum, and the same at twice the flux
    drawn = replace(fit, result=replace(fit.result, samples=np.array([[theta, brighter]])))
    movie = drawn.movie()
    optimum = fit.images("r_1")["model"]
    shown = [movie.show(k).axes[1].images[0].get_array() for k in range(movie.frames)]
    np.testing.assert_allclose(shown[0], optimum, rtol=1e-4, atol=1e-4 * optimum.max())
    np.testing.assert_allclose(shown[1], 2 * optimum, rtol=1e-4, atol=1e-4 * optimum.max())
    with pytest.raises(InputError, match="no movie"):
        fit.movie()


def test_it_is_a_numpyro_model(fit):
    model = fit.model()
    values = model.values(fit.result.theta)
    assert [s.name for s in model.sites] == list(values)
    np.testing.assert_allclose(values["flux"], [[fit.table["flux_r"][0]]], rtol=1e-5)


def test_draws_need_a_sampler(fit):
    with pytest.raises(InputError, match="has no draws"):
        _ = fit.draws
    with pytest.raises(InputError, match="has no draws"):
        fit.to_inference_data()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"xy": [40.0, 3.0]}, "x, y = 40, 3 is outside exposure r_1 of 40 x 40 pixels"),
        ({"xy": [[1, 2, 3]]}, "xy has shape"),
        ({"xy": [3, 3], "type": "galaxy"}, "unknown type 'galaxy'"),
        ({"xy": [3, 3], "type": ["exp", "dev"]}, "2 types for 1 positions"),
        ({"xy": [3, 3], "sources": []}, "both sources and xy"),
        ({"sources": []}, "peaks is empty"),
        ({"sample": "nust"}, "sample.method"),
        ({"mixture": "k9"}, "mixture is 'k9'"),
    ],
)
def test_bad_input_is_named(exposures, change, complaint):
    with pytest.raises(InputError, match=complaint):
        jaxpho.fit_images(exposures, **change)


def test_what_is_no_exposure_or_psf_is_named(exposures):
    with pytest.raises(InputError, match="exposure_from_arrays makes one of an image"):
        jaxpho.fit_images([exposures[0].data])
    with pytest.raises(InputError, match="psf_from_image makes one of an image"):
        jaxpho.exposure_from_arrays(np.ones((9, 9)), 1.0, np.ones((9, 9)), pixel_scale=0.2)
    with pytest.raises(InputError, match="no exposure is given"):
        jaxpho.fit_images([])


def test_psf_images(psf, caplog):
    assert psf.includes_pixel and psf.reduced
    assert psf.attrs["residual"] < 0.01
    # a square is poorly described by a Gaussian
    square = np.zeros((21, 21))
    square[7:14, 7:14] = 1.0
    with caplog.at_level(logging.WARNING, "jaxpho.prepare"):
        poor = jaxpho.psf_from_image(square, oversample=2, ngauss=1)
    assert not poor.includes_pixel and "more Gaussians (ngauss)" in caplog.text
    with pytest.raises(InputError, match="found 3 dimensions"):
        jaxpho.psf_from_image(np.ones((2, 5, 5)))
    with pytest.raises(InputError, match="oversample is 0"):
        jaxpho.psf_from_image(square, oversample=0)
    with pytest.raises(InputError, match="psf_from_image.ngauss"):
        jaxpho.psf_from_image(square, ngauss=0)


# ------------------------------------------------------------------ tables of any result


def test_summary_agrees_with_the_catalogue():
    result = make_result(np.random.default_rng(2), draws=300, pixels=False)
    result.labels[-1] = (("exposure", "g/1"), "sky", "")
    rows, table = rows_of_patch(result), summary_table(result)
    found = {(r["source"], r["quantity"], r["band"]): r for r in table}
    assert len(found) == len(table)
    for s, row in enumerate(rows):
        name = str(result.source_ids[s])
        for quantity, band, column in (
            ("flux", "r", "flux_r"), ("flux_bulge", "g", "flux_bulge_g"), ("q_disk", "", "q_disk"),
            ("pa", "", "pa"), ("rhalf_major", "", "rhalf_major"),
        ):  # fmt: skip
            if column in row:
                own = found[name, quantity, band]
                for key, end in (("value", ""), ("error", "_err"), ("p16", "_p16")):
                    assert own[key] == pytest.approx(row[column + end], rel=1e-6), (column, key)
    sky = found["g/1", "sky", ""]
    assert sky["unit"] == result.unit and sky["error"] == pytest.approx(
        result.samples[..., -1].std(), rel=1e-6
    )


def test_draws_have_names():
    result = make_result(np.random.default_rng(2), draws=30, pixels=False)
    draws = draws_by_name(result)
    i = result.index(0, "flux", "r")
    np.testing.assert_array_equal(draws["flux"][..., 0, 1], result.samples[..., i])
    e1, e2 = (draws[k][..., 0] for k in ("e1", "e2"))
    q, pa = draws["q"][..., 0], np.radians(draws["pa"][..., 0])
    np.testing.assert_allclose((1 - q) / (1 + q) * np.exp(2j * pa), e1 + 1j * e2, rtol=1e-6)
    assert draws["q_bulge"].shape == (4, 30, 3)
