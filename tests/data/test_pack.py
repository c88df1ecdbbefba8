"""From exposures and peaks to a patch: pixels, astrometry, PSFs, and what is left out."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from astropy.wcs import WCS
from synthetic_result import REFERENCE, make_wcs

from jaxpho.data.catalog import Peak
from jaxpho.data.exposure import Exposure, Nuisance
from jaxpho.data.pack import pack_patch, select_pixels
from jaxpho.data.psfmodel import PSF_DTYPE, PSFModel
from jaxpho.errors import InputError
from jaxpho.fit.options import FitOptions
from jaxpho.fit.posterior import model_of
from jaxpho.fit.problem import make_problem
from jaxpho.fit.start import source_starts

SCALE = 0.25  # arcsec per pixel
# float32 positions: 1e-6 of the distance to the patch's own corner
PIXEL_TOL = 2e-4


def mixture(*sigmas, amp=None):
    p = np.zeros(len(sigmas), PSF_DTYPE)
    p["amp"] = amp or np.full(len(sigmas), 1 / len(sigmas))
    p["Cxx"] = p["Cyy"] = np.square(sigmas)
    p["sersic_bin"] = -1
    return p


def exposure(name="e", band="g", shape=(50, 60), angle=20.0, **kwargs):
    rng = np.random.default_rng(len(name))
    wcs = kwargs.pop("wcs", None) or make_wcs(SCALE, angle, (shape[1] / 2, shape[0] / 2))
    data = rng.normal(0, 1, shape).astype(np.float32)
    ierr = np.full(shape, 0.5, np.float32)
    values = {"unit": "nJy", "header": {}, "psf": PSFModel(mixture(1.5)[None])}
    return Exposure(name, band, data, ierr, wcs, **values | kwargs)


def sky(dra, ddec, reference=REFERENCE):
    """Position at an offset in arcsec."""
    cosd = np.cos(np.deg2rad(reference[1]))
    return (reference[0] + dra / 3600 / cosd) % 360.0, reference[1] + ddec / 3600


def peak(dra=0.0, ddec=0.0, kind="point", **kwargs):
    return Peak(f"{dra},{ddec}", kind, *sky(dra, ddec), **kwargs)


def pack(exposures, peaks, **kwargs):
    bands = kwargs.pop("bands", ["g", "r"])
    return pack_patch(exposures, peaks, bands=bands, n_radii=8, **kwargs)


# ------------------------------------------------------------------ pixels


def test_every_pixel_lands_in_its_place():
    e = exposure(shape=(43, 61))
    e.ierr[5, 7] = 0.0
    packed = pack([e], [peak()])
    p = packed.pixels(0)
    inside = (p["x"] < 61) & (p["y"] < 43)
    assert inside.sum() == 43 * 61 and (p["ierr"][~inside] == 0).all()
    x, y = p["x"][inside], p["y"][inside]
    np.testing.assert_array_equal(p["ierr"][inside], e.ierr[y, x])
    good = e.ierr[y, x] > 0
    np.testing.assert_array_equal(p["data"][inside][good], e.data[y, x][good])
    assert (~good).sum() == 1 and (p["data"][inside][~good] == 0).all()


@pytest.mark.parametrize("radius", [1.0, 3.0])
def test_pixels_around_the_sources(radius):
    """Whole tiles, but no tile without a pixel within the radius on the sky."""
    e, peaks = exposure(angle=35.0), [peak(-3.0, 2.0), peak(4.0, -1.0), peak(0.0, 5.0)]
    radii = [radius, 0.0, radius]
    packed = pack([e], peaks, radii=radii)
    y, x = np.indices(e.data.shape)
    near = np.zeros(e.data.shape, bool)
    ra, dec = e.wcs.pixel_to_world_values(x, y)
    for p, r in zip(peaks, radii, strict=True):
        cosd = np.cos(np.deg2rad(p.dec))
        near |= np.hypot((ra - p.ra) * cosd, dec - p.dec) * 3600 < r
    expected = set(zip(*(np.argwhere(near) // 8).T[::-1], strict=True))
    found = packed.pixels(0)
    assert set(zip(found["x"] // 8, found["y"] // 8, strict=True)) == expected


def test_selection_is_a_circle_on_the_sky():
    """Under a map that stretches one axis and turns."""
    e = exposure(shape=(80, 90))
    turn = np.array([[0.8, -0.6], [0.6, 0.8]])
    matrix = turn @ np.diag([8.0, 3.0])
    found = select_pixels(e, np.array([[40.0, 35.0]]), matrix[None], np.array([2.0]))
    y, x = np.indices(found.shape)
    offset = np.linalg.solve(matrix, np.stack([x.ravel() - 40.0, y.ravel() - 35.0]))
    np.testing.assert_array_equal(found.ravel(), np.hypot(*offset) <= 2.0)
    assert found.sum() == pytest.approx(np.pi * 16 * 6, rel=0.03)
    # partly and wholly off the image
    found = select_pixels(e, np.array([[-2.0, 84.0]]), matrix[None], np.array([2.0]))
    assert 0 < found.sum() < 150 and not found[:60].any()
    assert not select_pixels(e, np.array([[900.0, -90.0]]), matrix[None], np.array([2.0])).any()


def test_exposures_without_a_pixel_are_dropped():
    near, far = exposure("near"), exposure("far")
    far.ierr[:] = 0.0
    packed = pack([far, near], [peak()])
    assert packed.exposures == ["near"]
    beside = exposure("beside")
    packed = pack([beside, near], [peak(300.0)], radii=[900.0])
    assert packed.exposures == ["beside", "near"]
    with pytest.raises(InputError, match="no exposure has an unmasked pixel near ra = 150.0"):
        pack([far], [peak()])
    with pytest.raises(InputError, match="no exposure"):
        pack([near], [peak(300.0)], radii=[2.0])


def test_order_and_bookkeeping():
    nuisance = {k: Nuisance(offset_sigma=i / 10) for i, k in enumerate("abc")}
    exposures = [
        exposure("a", "r", nuisance=nuisance["a"]),
        exposure("b", "g", nuisance=nuisance["b"]),
        exposure("c", "r", nuisance=nuisance["c"], psf=PSFModel(mixture(1.0)[None], None, True)),
    ]
    packed = pack(exposures, [peak(), peak(1.0)])
    assert packed.exposures == ["b", "a", "c"]
    assert packed.exposure_bands == ["g", "r", "r"] and packed.bands == ["g", "r"]
    assert packed.nuisances == [nuisance[k] for k in "bac"]
    assert packed.n_sources == 2 and packed.unit == "nJy"
    np.testing.assert_array_equal(packed.patch.exposure_band[:3], [0, 1, 1])
    # a PSF that contains the pixel is not integrated again
    np.testing.assert_array_equal(packed.patch.pixel_term[:3], [1, 1, 0])
    with pytest.raises(InputError, match="different units: counts, nJy"):
        pack([exposures[0], exposure("d", unit="counts")], [peak()])


def test_fluxes_beyond_single_precision(x64):
    """erg/s/cm2/A, say: a sentence, and a way out."""
    unit = 1e-19
    e = exposure("hst", unit="flam")
    e.data, e.ierr = e.data * np.float32(unit), e.ierr / np.float32(unit)
    with pytest.raises(InputError, match=r"hst: pixel errors of 2e-19 flam .* float64"):
        pack([e], [peak()])
    assert np.isfinite(pack([e], [peak()], dtype=np.float64).patch.ierr).all()


def test_padding_and_precision():
    e, peaks = exposure(), [peak(float(k)) for k in range(5)]
    plain, padded = pack([e], peaks, pad=False), pack([e], peaks)
    assert plain.patch.d.shape[:2] == (1, 5) and padded.patch.d.shape[1] > 5
    for a, b in zip(plain.pixels(0).values(), padded.pixels(0).values(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert padded.patch.data.dtype == jnp.float32


# ------------------------------------------------------------------ astrometry


def test_local_maps():
    e, peaks = exposure(angle=-70.0), [peak(-3.0, 2.0), peak(4.0, -1.0)]
    packed = pack([e], peaks)
    p = packed.patch
    for s, one in enumerate(peaks):
        expected = e.wcs.world_to_pixel_values(one.ra, one.dec)
        found = np.asarray(p.crpix[0, s]) + np.asarray(p.pix0[0])
        np.testing.assert_allclose(found, expected, atol=PIXEL_TOL)
        # a step of an arcsec, in both units
        step = np.array([0.6, -0.8])
        cosd = np.cos(np.deg2rad(one.dec))
        moved = one.ra + step[0] / 3600 / cosd, one.dec + step[1] / 3600
        shift = np.array(e.wcs.world_to_pixel_values(*moved)) - expected
        np.testing.assert_allclose(np.asarray(p.d[0, s]) @ step, shift, atol=1e-4)
        degrees = np.array([moved[0] - one.ra, moved[1] - one.dec])
        np.testing.assert_allclose(np.asarray(p.cw[0, s]) @ degrees, shift, atol=1e-4)
        offset = np.array([one.ra - packed.reference[0], one.dec - packed.reference[1]])
        np.testing.assert_allclose(p.crval[0, s], offset, atol=1e-9)


def test_reference_is_the_middle():
    assert pack([exposure()], [peak(0.0), peak(1.0), peak(50.0)]).reference == pytest.approx(
        sky(1.0, 0.0), abs=1e-9
    )
    assert pack([exposure()], [peak(3.0)], reference=REFERENCE).reference == REFERENCE


def test_right_ascensions_on_both_sides_of_zero():
    """The reference lies between them and offsets are small, whatever side a source is on."""
    wcs = make_wcs(SCALE, 0.0, (30.0, 25.0))
    wcs.wcs.crval = (0.0, 10.0)
    e = exposure(wcs=wcs)
    peaks = [Peak(k, "point", *sky(x, 0.0, (0.0, 10.0))) for k, x in enumerate((-2.0, 1.0))]
    assert peaks[0].ra > 359
    packed = pack([e], peaks)
    assert min(packed.reference[0], 360 - packed.reference[0]) < 1 / 3600
    assert np.abs(packed.patch.crval).max() < 3 / 3600
    star = rendered(packed, peaks, flux=1000.0)[0]
    x, y = e.wcs.world_to_pixel_values([p.ra for p in peaks], [p.dec for p in peaks])
    assert centroid(packed, star) == pytest.approx([np.mean(x), np.mean(y)], abs=2e-3)


# ------------------------------------------------------------------ PSFs


def rendered(packed, peaks, flux=1000.0, shift=(0.0, 0.0)):
    """Model of each exposure with every source at this flux, moved by an offset in arcsec."""
    peaks = [Peak(p.id, p.type, p.ra, p.dec, p.values) for p in peaks]
    starts = source_starts(peaks, packed.bands, packed.reference, pixel_scale=SCALE)
    problem, table, n = make_problem(packed, starts, FitOptions(), "k8")
    theta = table.start(n, np.float64)
    for i, (_, name, _) in enumerate(table.labels):
        theta[i] = flux if name == "flux" else theta[i]
        theta[i] += {"ra": shift[0], "dec": shift[1]}.get(name, 0.0)
    model = model_of(jnp.asarray(theta, packed.patch.data.dtype), problem)
    return [packed.pixels(e, model=model)["model"] for e in range(len(packed.exposures))]


def centroid(packed, model, e=0):
    p = packed.pixels(e)
    return [float((model * p[k]).sum() / model.sum()) for k in ("x", "y")]


def test_a_star_appears_where_the_wcs_puts_it():
    """With the PSF's own width and flux, in exposures turned by any angle, also after a move."""
    exposures = [exposure("a", angle=0.0), exposure("b", "r", angle=115.0)]
    one = peak(1.3, -0.7)
    packed = pack(exposures, [one])
    for shift in ((0.0, 0.0), (0.3, -0.2)):
        models = rendered(packed, [one], 500.0, shift)
        moved = sky(*shift, (one.ra, one.dec))
        for e, model in enumerate(models):
            wcs = exposures[e].wcs  # g before r, as given
            x0, y0 = (float(v) for v in wcs.world_to_pixel_values(*moved))
            assert centroid(packed, model, e) == pytest.approx([x0, y0], abs=2e-3)
            assert model.sum() == pytest.approx(500.0, rel=1e-4)
            p = packed.pixels(e)
            variance = (model * (p["x"] - x0) ** 2).sum() / model.sum()
            assert variance == pytest.approx(1.5**2 + 1 / 12, rel=2e-3)


def test_far_from_the_corner_of_a_large_image():
    """float32 positions are relative to the patch: x = 12000 is as good as 30."""
    shape = (40, 40)
    wcs = make_wcs(SCALE, 10.0, (20.0, 20.0))
    big = Exposure("big", "g", *np.zeros((2, 64, 12100), np.float32),
                   make_wcs(SCALE, 10.0, (12020.0, 20.0)), "nJy", {},
                   psf=PSFModel(mixture(1.5)[None]))  # fmt: skip
    big.ierr[:40, 12000:12040] = 1.0
    small = exposure(shape=shape, wcs=wcs)
    one = peak(0.5, 0.5)
    images = []
    for e, x0 in ((small, 0), (big, 12000)):
        packed = pack([e], [one])
        p, model = packed.pixels(0), rendered(packed, [one])[0]
        image, inside = np.zeros(shape), (p["x"] - x0 < 40) & (p["y"] < 40) & (p["x"] >= x0)
        image[p["y"][inside], p["x"][inside] - x0] = model[inside]
        images.append(image)
    np.testing.assert_allclose(images[1], images[0], atol=1e-5 * images[0].max())


def test_psf_of_each_place():
    """Interpolated between locations at each source, or the nearest one's."""
    parameters = np.stack([mixture(1.0, 3.0, amp=[0.9, 0.1]), mixture(2.0, 4.0, amp=[0.7, 0.3])])
    psf = PSFModel(parameters, np.array([[10.0, 25.0], [50.0, 25.0]]))
    e = exposure(angle=0.0, psf=psf)
    ra, dec = e.wcs.pixel_to_world_values([10.0, 30.0, 20.0], [25.0, 25.0, 25.0])
    peaks = [Peak(k, "point", *place) for k, place in enumerate(zip(ra, dec, strict=True))]
    packed = pack([e], peaks)
    variance = np.asarray(packed.patch.psf_point.cxx)[0, :3, :2]
    np.testing.assert_allclose(variance[0], [1.0, 9.0], rtol=1e-3)
    # sizes are interpolated, not variances
    np.testing.assert_allclose(variance[1], [1.5**2, 3.5**2], rtol=1e-3)
    nearest = pack([e], peaks, psf_method="nearest")
    variance = np.asarray(nearest.patch.psf_point.cxx)[0, :3, :2]
    np.testing.assert_allclose(variance[2], [1.0, 9.0], rtol=1e-3)
    # once for every Gaussian of the Sersic mixture
    assert packed.patch.psf_bin.shape[1] == 2 * 8
    np.testing.assert_array_equal(np.bincount(packed.patch.psf_bin[0]), np.full(8, 2))


class HalfSky:
    """A WCS that knows one hemisphere only, like a distortion that does not invert."""

    def __init__(self, wcs: WCS):
        self.wcs = wcs

    def pixel_to_world_values(self, x, y):
        return self.wcs.pixel_to_world_values(x, y)

    def world_to_pixel_values(self, ra, dec):
        x, y = (np.array(v, float) for v in self.wcs.world_to_pixel_values(ra, dec))
        hidden = np.asarray(ra) > REFERENCE[0] + 1e-6
        return np.where(hidden, np.nan, x), np.where(hidden, np.nan, y)


def test_source_that_a_wcs_cannot_place():
    """It has no flux there, elsewhere it is itself, and the PSF model stays as it was."""
    e = exposure("half", wcs=HalfSky(make_wcs(SCALE, 0.0, (30.0, 25.0))))
    whole = exposure("whole", angle=0.0)
    before = e.psf.parameters.copy()
    peaks = [peak(-2.0), peak(2.0)]
    packed = pack([e, whole], peaks, radii=[1.0, 2.0])
    np.testing.assert_array_equal(e.psf.parameters, before)
    assert all(np.isfinite(np.asarray(a)).all() for a in packed.patch[:4])
    amplitude = np.asarray(packed.patch.psf_point.flux)[:2, :2, 0]
    np.testing.assert_array_equal(amplitude, [[1, 0], [1, 1]])
    assert np.isfinite(np.asarray(packed.patch.crpix)).all()
    # its pixels are not selected where it cannot be
    counts = [int((packed.pixels(k)["ierr"] > 0).sum()) for k in (0, 1)]
    assert counts[0] < counts[1]


def test_psf_options_object_is_not_needed():
    """Anything with `at` and `includes_pixel` will do as a PSF."""
    psf = SimpleNamespace(at=lambda x, y, method: mixture(1.0), includes_pixel=True)
    packed = pack([exposure(psf=psf)], [peak()])
    assert packed.patch.pixel_term[0] == 0
