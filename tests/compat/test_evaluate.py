"""Agreement with forcepho number by number, and with its formulas in plain float64."""

import jax
import numpy as np
import pytest
import yaml
from astropy.wcs import WCS
from forcepho_oracle import Amplitudes, chi2, gradient, model
from store_case import BANDS, CENTRE, NSIDE, START, catalog, write_case

from jaxpho.compat.catalog import read_catalog
from jaxpho.compat.config import parse_config
from jaxpho.compat.evaluate import Request, evaluate_patch
from jaxpho.compat.model import evaluate, patch_of
from jaxpho.data.forcepho import Circle, find_exposures
from jaxpho.data.metastore import open_meta_store
from jaxpho.data.pixelstore import PixelStore
from jaxpho.data.psfstore import read_psf_store
from jaxpho.data.splinestore import read_spline_table
from jaxpho.errors import InputError

CHI2_RTOL = 1e-6
GRADIENT_TOL = 2e-4  # of the largest gradient of that parameter type
RESIDUAL_TOL = 2e-5  # of the model's peak
LNP_RTOL = 1e-6
MATRIX_TOL = 1e-6  # of the largest element of D or CW
FLOAT32 = np.finfo(np.float32).eps
CHI2_RTOL_64, GRADIENT_TOL_64 = 1e-7, 1e-6
EXACT = (
    "xpix", "ypix", "ierr", "data_before_fixed", "G", "rad2", "band_start", "band_N", "bands",
    "exposure_start", "exposure_N", "n_psf_per_source", "psfgauss_start", "epaths", "bandlist",
    "psfgauss_amp", "psfgauss_xcen", "psfgauss_ycen", "psfgauss_Cxx", "psfgauss_Cyy",
    "psfgauss_Cxy", "psfgauss_sersic_bin", "n_sources", "n_radii", "reference_coordinates",
)  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def forget_programs():
    yield
    jax.clear_caches()


def load(folder, name="config.yml"):
    return parse_config(yaml.safe_load((folder / name).read_text()), name, folder)


def gradient_error(found, expected, n_source):
    found, expected = (np.reshape(a, (n_source, -1)) for a in (found, expected))
    return (np.abs(found - expected).max(0) / np.abs(expected).max(0)).max()


@pytest.mark.realdata
@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("case", ["case1", "case2"])
def test_agrees_with_forcepho(data_dir, case, which, tmp_path):
    folder = data_dir / "forcepho_format" / case
    expected = np.load(folder / "expected.npz")
    np.save(tmp_path / "p.npy", expected["params"][which])
    fixed = folder / "fixed_catalog.fits"
    request = Request(
        catalog=folder / "truth_catalog.fits",
        start=folder / "peak_catalog.fits",
        fixed=fixed if fixed.exists() else None,
        params=tmp_path / "p.npy",
    )
    found = evaluate_patch(load(folder), request)
    for name in EXACT:
        assert np.array_equal(found[name], expected[name]), name
        if found[name].dtype.kind != "U":
            assert found[name].dtype == expected[name].dtype, name
    for name in ("D", "CW"):
        atol = MATRIX_TOL * np.abs(expected[name]).max((-1, -2), keepdims=True)
        assert (np.abs(found[name] - expected[name]) <= atol).all()
    for name in ("crpix", "crval"):
        np.testing.assert_allclose(found[name], expected[name], rtol=FLOAT32, atol=1e-12)
    np.testing.assert_allclose(found["chi2"], expected["chi2"][which], rtol=CHI2_RTOL)
    np.testing.assert_allclose(found["lnlike"], expected["lnlike"][which], rtol=CHI2_RTOL)
    n = int(expected["n_sources"])
    error = gradient_error(found["lnlike_grad"], expected["lnlike_grad"][which], n)
    assert error < GRADIENT_TOL
    peak = np.abs(expected["data"] - expected["residual"][which]).max()
    assert np.abs(found["data"] - expected["data"]).max() < RESIDUAL_TOL * peak
    assert np.abs(found["residual"] - expected["residual"][which]).max() < RESIDUAL_TOL * peak
    assert list(found["param_names"]) == list(expected["param_names"])
    for name in ("bounds_lower", "bounds_upper"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-12, atol=1e-14)
    if which == 0:
        np.testing.assert_allclose(found["z"], expected["z_start"], atol=1e-12)
        np.testing.assert_allclose(found["bounded_lnp"], expected["bounded_lnp"], rtol=LNP_RTOL)
        error = gradient_error(found["bounded_lnp_grad"], expected["bounded_lnp_grad"], n)
        assert error < GRADIENT_TOL


@pytest.mark.realdata
def test_catalogue_gives_forcephos_parameters(data_dir):
    folder = data_dir / "forcepho_format" / "case2"
    expected = np.load(folder / "expected.npz")
    reference = expected["reference_coordinates"]
    for which, name in enumerate(("peak", "truth")):
        found = read_catalog(folder / f"{name}_catalog.fits").vector(
            expected["bandlist"], reference
        )
        np.testing.assert_allclose(found, expected["params"][which], rtol=1e-12, atol=1e-14)


@pytest.mark.realdata
@pytest.mark.parametrize("case", ["case1", "case2"])
def test_float64_agrees_with_independent_float64(data_dir, case, x64):
    """Fed with the packed arrays, without the cut; gradients of the three sets together."""
    folder = data_dir / "forcepho_format" / case
    expected = np.load(folder / "expected.npz")
    reference = np.load(folder / "float64_reference.npz")
    splines = read_spline_table(folder / "sersic_splines.h5").splines(np.float64)
    packed = patch_of(expected, np.float64)
    error, scale = [], []
    for which in range(3):
        found = evaluate(expected["params"][which], packed, splines, "second_order")
        np.testing.assert_allclose(found.chi2, reference["chi2_H"][which], rtol=CHI2_RTOL_64)
        theirs = reference["grad_H"][which].reshape(packed.n_sources, -1)
        error.append(np.abs(-2.0 * found.gradient.reshape(theirs.shape) - theirs).max(0))
        scale.append(np.abs(theirs).max(0))
    assert (np.max(error, 0) / np.max(scale, 0)).max() < GRADIENT_TOL_64


REGION = Circle(*CENTRE, 0.5)


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    folder = tmp_path_factory.mktemp("case")
    write_case(folder)
    return folder


@pytest.fixture(scope="module")
def found(case):
    request = Request(case / "truth.fits", fixed=case / "fixed.fits", region=REGION)
    return evaluate_patch(load(case), request)


def test_pixels_are_those_of_the_images(case, found):
    """Every super-pixel with a corner pixel in the circle, in C order, and its values."""
    meta = open_meta_store(case / "meta.json")
    assert [str(p) for p in found["epaths"]] == [f"{b}/{n}" for b, n in meta.keys]
    with PixelStore(case / "pixels.h5") as store:
        for e, key in enumerate(meta.keys):
            wcs = WCS(meta.header(*key))
            x0, y0 = wcs.all_world2pix(REGION.ra, REGION.dec, 0)
            xn, yn = wcs.all_world2pix(REGION.ra, REGION.dec + REGION.radius / 3600, 0)
            radius = np.hypot(xn - x0, yn - y0)
            expected = []
            for i in range(NSIDE[0] // 8):
                for j in range(NSIDE[1] // 8):
                    ends = [(8 * i + a, 8 * j + b) for a in (0, 7) for b in (0, 7)]
                    if any(np.hypot(x - x0, y - y0) < radius for x, y in ends):
                        expected += [(8 * i + a, 8 * j + b) for a in range(8) for b in range(8)]
            at = slice(found["exposure_start"][e], None)
            at = slice(at.start, at.start + found["exposure_N"][e])
            x, y = found["xpix"][at].astype(int), found["ypix"][at].astype(int)
            assert list(zip(x, y, strict=True)) == expected
            assert len(expected) < NSIDE[0] * NSIDE[1]
            flux, ierr = store.image(*key)
            level = np.float32(meta.header(*key)["TWEAKBKG"])
            assert np.array_equal(found["data_before_fixed"][at], flux[y, x] - level)
            assert np.array_equal(found["ierr"][at], ierr[y, x])


def test_astrometry_is_the_derivative_of_the_wcs(case, found):
    """Exact for plain projections to their curvature; to the distortion's slope with SIP."""
    meta = open_meta_store(case / "meta.json")
    start = read_catalog(case / "peaks.fits")
    np.testing.assert_allclose(
        found["reference_coordinates"], [np.median(start.ra), np.median(start.dec)], rtol=1e-15
    )
    h = 1e-6
    for e, key in enumerate(meta.keys):
        wcs = WCS(meta.header(*key))
        for s, (ra, dec) in enumerate(zip(start.ra, start.dec, strict=True)):
            pixel = np.array(wcs.all_world2pix(ra, dec, 0))
            np.testing.assert_allclose(found["crpix"][e, s], pixel, rtol=FLOAT32)
            cw = np.stack(
                [
                    np.subtract(
                        wcs.all_world2pix(ra + dx, dec + dy, 0, tolerance=1e-9),
                        wcs.all_world2pix(ra - dx, dec - dy, 0, tolerance=1e-9),
                    )
                    / (2 * h)
                    for dx, dy in ((h, 0), (0, h))
                ],
                -1,
            )
            tolerance = 2e-4 if wcs.has_distortion else MATRIX_TOL
            assert np.abs(found["CW"][e, s] - cw).max() < tolerance * np.abs(cw).max()
            d = cw / 3600 / [np.cos(np.deg2rad(dec)), 1]
            assert np.abs(found["D"][e, s] - d).max() < tolerance * np.abs(d).max()


def test_psfs_are_those_of_the_nearest_location(case, found):
    """Blue has two locations, whose amplitudes differ; red has fewer Gaussians for large radii."""
    assert found["n_psf_per_source"].tolist() == [18, 15]
    model = read_psf_store(case / "psf.h5", "blue")
    chosen = set()
    for e in range(3):
        for s in range(3):
            distance = np.hypot(*(model.locations - found["crpix"][e, s]).T)
            k = int(np.argmin(distance))
            chosen.add(k)
            at = found["psfgauss_start"][e] + 18 * s
            expected = model.parameters[k]["amp"]
            assert np.array_equal(found["psfgauss_amp"][at : at + 18], expected)
    assert chosen == {0, 1}
    assert len(found["psfgauss_amp"]) == 3 * 3 * (18 + 15)


STEPS = (1e-2, 1e-2, 2e-8, 2e-8, 2e-3, 2e-3, 1e-3, 1e-4)


@pytest.mark.parametrize("which", ["peaks", "truth", "random"])
def test_numbers_agree_with_the_formulas(case, which, tmp_path, found):
    request = Request(case / f"{which}.fits", fixed=case / "fixed.fits", region=REGION)
    if which == "random":
        rng = np.random.default_rng(3)
        params = found["params"].reshape(3, 8) * rng.uniform(0.9, 1.1, (3, 8))
        params[:, 2:4] += rng.normal(0, 1e-5 / 3.6, (3, 2))
        np.save(tmp_path / "p.npy", params.reshape(-1))
        request.catalog, request.params = case / "truth.fits", tmp_path / "p.npy"
    a = evaluate_patch(load(case), request)
    amplitudes = Amplitudes(case / "splines.h5")
    params = a["params"]
    image = model(a, params, amplitudes)
    peak = np.abs(image).max()
    assert np.abs(a["data"] - a["residual"] - image).max() < RESIDUAL_TOL * peak
    np.testing.assert_allclose(a["chi2"], chi2(a, params, amplitudes), rtol=CHI2_RTOL)
    slopes = gradient(a, params, amplitudes, STEPS * 3, cut=np.inf)
    assert gradient_error(a["lnlike_grad"], slopes, 3) < GRADIENT_TOL
    # the posterior in z is that of theta(z) with the volume of the map
    low, high, z = a["bounds_lower"], a["bounds_upper"], a["z"]
    assert np.isfinite(z).all()
    theta = low + (high - low) / (1 + np.exp(-z))
    np.testing.assert_allclose(theta, params, rtol=1e-10, atol=1e-15)

    def posterior(z):
        y = 1 / (1 + np.exp(-z))
        volume = np.log((high - low) * y * (1 - y)).sum()
        return -0.5 * chi2(a, low + (high - low) * y, amplitudes, cut=np.inf).sum() + volume

    np.testing.assert_allclose(a["bounded_lnp"], posterior(z), rtol=LNP_RTOL)
    h, slope = 1e-4, np.zeros(len(z))
    for i in range(len(z)):
        step = np.where(np.arange(len(z)) == i, h, 0)
        slope[i] = (posterior(z + step) - posterior(z - step)) / (2 * h)
    assert gradient_error(a["bounded_lnp_grad"], slope, 3) < GRADIENT_TOL


def test_fixed_sources_are_subtracted(case, found):
    """Their own scene: own reference, own PSFs; masked pixels, too."""
    plain = evaluate_patch(load(case), Request(case / "truth.fits", region=REGION))
    assert np.array_equal(plain["data"], found["data_before_fixed"])
    other = load(case)
    other.raw_catalog = str(case / "fixed.fits")
    scene = evaluate_patch(other, Request(region=REGION))
    removed = found["data_before_fixed"] - found["data"]
    image = scene["data"] - scene["residual"]
    np.testing.assert_allclose(removed, image, atol=1e-6 * image.max())
    assert image.max() > 0.05


def test_blocks_of_fixed_sources(case, tmp_path):
    """Sources are subtracted in blocks; here one for each, with its own first PSF."""
    config = load(case)
    config.maxactive_per_patch = 1
    request = Request(case / "truth.fits", fixed=case / "peaks.fits", region=REGION)
    a = evaluate_patch(config, request)
    total = 0.0
    for s in range(3):
        alone = load(case)
        alone.raw_catalog = str(tmp_path / f"{s}.fits")
        catalog(START[s : s + 1]).writeto(alone.raw_catalog)
        b = evaluate_patch(alone, Request(region=REGION))
        total = total + (b["data"] - b["residual"])
    np.testing.assert_allclose(a["data_before_fixed"] - a["data"], total, atol=2e-6)


def test_exposures_are_found_by_the_corners_of_the_box(case):
    """forcepho's rule: a region that contains an image entirely has no corner on it."""
    meta = open_meta_store(case / "meta.json")
    with PixelStore(case / "pixels.h5") as pixels:
        with pytest.raises(InputError, match="has a corner of the region"):
            find_exposures(meta, pixels, Circle(*CENTRE, 60.0), BANDS)
        # of the small images one is turned so that no corner of this box is on it
        chosen = find_exposures(meta, pixels, Circle(*CENTRE, 0.62), BANDS)
    assert {e.name for e in chosen} == {n for _, n in meta.keys} - {"visit1/blue_1"}


def test_parameters_outside_the_bounds(case, tmp_path, found):
    params = found["params"].copy()
    params[6] = 5.5  # the Sersic index runs to 5
    np.save(tmp_path / "p.npy", params)
    a = evaluate_patch(load(case), Request(params=tmp_path / "p.npy", region=REGION))
    assert a["bounded_lnp"] == -np.inf and a["z"][6] == np.inf
    assert np.isnan(a["bounded_lnp_grad"][6]) and np.isfinite(a["bounded_lnp_grad"][5])
