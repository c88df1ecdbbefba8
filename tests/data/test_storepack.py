"""Patches from stores: the same arrays as from the images, and only the pixels they need."""

import numpy as np
import pytest
from astropy.io import fits
from store_case import CENTRE, NSIDE, START, write_case

from jaxpho.data.arrays import exposure_from_arrays
from jaxpho.data.catalog import Peak
from jaxpho.data.ingest import read_images
from jaxpho.data.metastore import open_meta_store
from jaxpho.data.options import AstrometryOptions, ImageOptions, PSFOptions, SkyOptions
from jaxpho.data.packing import PackedPatch
from jaxpho.data.pixelstore import PixelStore
from jaxpho.data.psfmodel import PSF_DTYPE, PSFModel
from jaxpho.data.psfstore import read_psf_store, write_psf_store
from jaxpho.data.skyregion import Box, Circle, Polygon
from jaxpho.data.splinestore import read_spline_table
from jaxpho.data.storepack import read_stores, stored_exposures
from jaxpho.data.unpack import patch_from_arrays
from jaxpho.errors import InputError
from jaxpho.fit.options import FitOptions
from jaxpho.fit.posterior import model_of
from jaxpho.fit.problem import make_problem
from jaxpho.fit.start import source_starts

FLOAT32 = np.finfo(np.float32).eps


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    folder = tmp_path_factory.mktemp("case")
    write_case(folder)
    return folder


@pytest.fixture(scope="module")
def peaks():
    out = []
    for number, dra, ddec, q, pa, n, rhalf, blue, red in START:
        ra = CENTRE[0] + dra / 3600 / np.cos(np.deg2rad(CENTRE[1]))
        shape = {"q": q**2, "pa": 90 - np.rad2deg(pa), "sersic": n, "rhalf": rhalf}
        flux = {("flux", "blue"): blue, ("flux", "red"): red}
        out.append(Peak(number, "sersic", ra, CENTRE[1] + ddec / 3600, shape, flux))
    return out


def files(case):
    return case / "meta.json", case / "pixels.h5", case / "psf.h5"


def images(case):
    """The exposures of the case as arrays in memory."""
    meta, out = open_meta_store(case / "meta.json"), []
    with PixelStore(case / "pixels.h5") as store:
        for band, name in meta.keys:
            data, ierr = store.image(band, name)
            header = meta.header(band, name)
            error = np.where(ierr > 0, 1 / np.where(ierr > 0, ierr, 1), np.nan)
            data = np.where(ierr > 0, data - np.float32(header["TWEAKBKG"]), 0)
            psf = read_psf_store(case / "psf.h5", band)
            wcs = meta.wcs(band, name)
            made = exposure_from_arrays(
                data, error, psf, band=band, name=name, wcs=wcs, unit="image"
            )
            out.append(made)
    return out


def same(one, other):
    assert list(one) == list(other)
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_stores_and_images_give_the_same_arrays(case, peaks):
    options = {"bands": ["red", "blue"], "radii": [0.3, 0.2, 0.4]}
    stored = PackedPatch.from_stores(*files(case), peaks, tweak_background="TWEAKBKG", **options)
    direct = PackedPatch.from_arrays(images(case), peaks, **options)
    same(stored.to_numpy(), direct.to_numpy())
    assert stored.exposures == direct.exposures and stored.bands == ["red", "blue"]
    assert stored.unit == "count"
    whole = read_stores(*files(case), tweak_background="TWEAKBKG")
    for one, other in zip(whole, images(case), strict=True):
        assert one.shape == other.shape and one.band == other.band
        np.testing.assert_array_equal(one.data, other.data)
        np.testing.assert_allclose(one.ierr, other.ierr, rtol=2 * FLOAT32)
    same(PackedPatch.from_arrays(whole, peaks, **options).to_numpy(), direct.to_numpy())


REGIONS = {
    "circle": Circle(*CENTRE, 0.4),
    "box": Box(CENTRE[0], CENTRE[1] + 0.1 / 3600, 0.9, 0.3, 25.0),
    "polygon": Polygon(
        [(CENTRE[0] + x / 3600, CENTRE[1] + y / 3600) for x, y in
         ((-0.4, -0.4), (0.4, -0.4), (0.1, 0.0), (0.5, 0.4), (-0.4, 0.3))]
    ),
}  # fmt: skip


def inside(name, dra, ddec):
    """Whether offsets in arcsec are in a region, from its definition."""
    if name == "circle":
        return np.hypot(dra, ddec) <= 0.4
    if name == "box":
        angle = np.deg2rad(25.0)
        north = ddec - 0.1
        along = dra * np.sin(angle) + north * np.cos(angle)
        across = dra * np.cos(angle) - north * np.sin(angle)
        return (np.abs(along) <= 0.15) & (np.abs(across) <= 0.45)
    from matplotlib.path import Path

    scale = np.cos(np.deg2rad(CENTRE[1]))
    corners = [(-0.4, -0.4), (0.4, -0.4), (0.1, 0.0), (0.5, 0.4), (-0.4, 0.3)]
    path = Path([(x * scale, y) for x, y in corners])
    return path.contains_points(np.stack([dra.ravel(), ddec.ravel()], -1)).reshape(dra.shape)


@pytest.mark.parametrize("name", list(REGIONS))
def test_regions(case, peaks, name):
    """Every super-pixel with an unmasked pixel that has a pixel centre inside, by the WCS."""
    packed = PackedPatch.from_stores(*files(case), peaks, region=REGIONS[name])
    arrays = packed.to_numpy()
    meta = open_meta_store(case / "meta.json")
    y, x = np.indices(NSIDE[::-1])
    for e, (band, key) in enumerate(zip(packed.exposure_bands, packed.exposures, strict=True)):
        ra, dec = meta.wcs(band, key).pixel_to_world_values(x, y)
        dra = (ra - CENTRE[0]) * 3600 * np.cos(np.deg2rad(CENTRE[1]))
        tiles = inside(name, dra, (dec - CENTRE[1]) * 3600)
        tiles = tiles.reshape(NSIDE[1] // 8, 8, NSIDE[0] // 8, 8).any((1, 3))
        at = slice(arrays["exposure_start"][e], None)
        at = slice(at.start, at.start + arrays["exposure_N"][e])
        found = np.zeros_like(tiles)
        found[arrays["ypix"][at].astype(int) // 8, arrays["xpix"][at].astype(int) // 8] = True
        assert np.array_equal(found, tiles)
        assert not tiles.all()


def test_any_overlap_counts(case, peaks):
    """Unlike forcepho's test of corners: here the region contains every image."""
    packed = PackedPatch.from_stores(*files(case), peaks, region=Circle(*CENTRE, 60.0))
    assert len(packed.exposures) == 6
    assert (packed.to_numpy()["exposure_N"] == NSIDE[0] * NSIDE[1]).all()
    with pytest.raises(InputError, match="no exposure of blue, red"):
        PackedPatch.from_stores(*files(case), peaks, region=Circle(CENTRE[0], -5.0, 1.0))
    with pytest.raises(InputError, match="needs a region, or radii"):
        PackedPatch.from_stores(*files(case), peaks)


def test_only_the_pixels_of_the_patch_are_read(case, peaks, monkeypatch):
    asked = []
    read = PixelStore.superpixels

    def counting(self, band, name, column, row):
        asked.append(len(column))
        return read(self, band, name, column, row)

    monkeypatch.setattr(PixelStore, "superpixels", counting)
    packed = PackedPatch.from_stores(*files(case), peaks[:1], radii=[0.1], bands=["blue"])
    assert len(asked) == 3 and max(asked) <= 9
    assert len(packed.exposures) == 3


def test_saved_patches_are_the_same(case, peaks, tmp_path):
    packed = PackedPatch.from_stores(*files(case), peaks, region=REGIONS["circle"])
    packed.save(tmp_path / "patch.npz")
    back = PackedPatch.load(tmp_path / "patch.npz")
    same(back.to_numpy(), packed.to_numpy())
    for name in ("reference", "exposures", "bands", "exposure_bands", "n_sources", "unit"):
        assert getattr(back, name) == getattr(packed, name), name
    names = set(np.load(tmp_path / "patch.npz").files)
    assert {"D", "CW", "CRPIX", "CRVAL", "G", "xpix", "band_start", "psfgauss_start"} <= names
    arrays = dict(np.load(tmp_path / "patch.npz"))
    for name, shape in (("G", (2,)), ("CRPIX", (6, 5)), ("psfgauss_amp", (4,))):
        with pytest.raises(InputError, match=f"'{name}'|psfgauss"):
            patch_from_arrays(arrays | {name: np.zeros(shape)})
    with pytest.raises(InputError, match="'xpix' is missing"):
        patch_from_arrays({k: v for k, v in arrays.items() if k != "xpix"})
    (tmp_path / "bad.npz").write_bytes(b"hello")
    with pytest.raises(InputError, match="not a readable .npz"):
        PackedPatch.load(tmp_path / "bad.npz")


def test_one_linearisation_point_per_exposure(case, peaks):
    """CRPIX, CRVAL as [E, 2]: without distortion the models agree to the curvature of the sky."""
    options = {"region": REGIONS["circle"], "bands": ["blue"]}
    packed = [
        PackedPatch.from_stores(*files(case), peaks, linearisation=kind, **options)
        for kind in ("source", "exposure")
    ]
    each, shared = (p.to_numpy() for p in packed)
    assert np.ptp(shared["CRPIX"], axis=1).max() == 0 and (shared["CRVAL"] == 0).all()
    short = shared | {"CRPIX": shared["CRPIX"][:, 0], "CRVAL": shared["CRVAL"][:, 0]}
    same(patch_from_arrays(short).to_numpy(), shared)
    models = []
    for p in packed:
        starts = source_starts(peaks, p.bands, p.reference, pixel_scale=0.03, q_min=0.1)
        problem, table, n = make_problem(p, starts, FitOptions(), "k12")
        model = np.asarray(model_of(table.start(n), problem))
        models.append(np.concatenate([p.pixels(e, m=model)["m"] for e in range(2)]))
    assert np.abs(models[0] - models[1]).max() < 1e-5 * np.abs(models[0]).max()
    assert each["CRVAL"].any()
    with pytest.raises(InputError, match="'source' or 'exposure'"):
        PackedPatch.from_stores(*files(case), peaks, linearisation="patch", **options)


def test_forcephos_rules_on_request(case, peaks):
    radii = read_spline_table(case / "splines.h5").radii
    packed = PackedPatch.from_stores(
        *files(case), peaks, compat="forcepho", radii=radii, region=Circle(*CENTRE, 0.5),
        tweak_background="TWEAKBKG",
    )  # fmt: skip
    assert (np.asarray(packed.patch.pix0) == 0).all()
    psf = np.asarray(packed.patch.psf.flux)
    assert (psf == psf[:, :1]).all()  # the first source's, for all
    assert packed.to_numpy()["n_psf_per_source"].tolist() == [18, 15]
    with pytest.raises(InputError, match="expected None or 'forcepho'"):
        PackedPatch.from_stores(*files(case), peaks, compat="tractor", region=REGIONS["box"])


def test_forcephos_arguments(case, peaks, tmp_path):
    """The radii of the table from its file; what is missing or wrong is one sentence."""
    options = {"compat": "forcepho", "region": Circle(*CENTRE, 0.5)}
    radii = read_spline_table(case / "splines.h5").radii
    for given in (radii, case / "splines.h5"):
        packed = PackedPatch.from_stores(*files(case), peaks, radii=given, **options)
        found = packed.to_numpy()
        np.testing.assert_allclose(found["rad2"], radii**2, rtol=FLOAT32)
        assert found["n_radii"] == len(radii)
    packed.save(tmp_path / "p.npz")
    again = PackedPatch.load(tmp_path / "p.npz", first_psf=True).to_numpy()
    np.testing.assert_array_equal(again["rad2"], found["rad2"])
    for change, words in (
        ({}, "radii is missing, expected the radii of the Sersic table"),
        ({"radii": [np.nan]}, "expected the radii of the Sersic table"),
        ({"radii": radii, "region": Box(*CENTRE, 1.0, 1.0)}, "region is Box, expected a Circle"),
        ({"radii": radii, "region": None}, "region is none, expected a Circle"),
        ({"radii": case / "none.h5"}, "none.h5 does not exist"),
    ):
        with pytest.raises(InputError, match=words):
            PackedPatch.from_stores(*files(case), peaks, **options | change)
    with pytest.raises(InputError, match="at least one source"):
        PackedPatch.from_stores(*files(case), [], radii=radii, **options)


def test_patches_need_sources_and_lengths(case, peaks):
    exposures = images(case)
    for pack in (
        lambda p, **o: PackedPatch.from_stores(*files(case), p, **o),
        lambda p, **o: PackedPatch.from_arrays(exposures, p, **o),
    ):
        with pytest.raises(InputError, match="at least one source"):
            pack([], region=Circle(*CENTRE, 0.5))
        with pytest.raises(InputError, match="at least one source"):
            pack([], radii=[])
        with pytest.raises(InputError, match=r"radii has shape \(1,\), expected one for each"):
            pack(peaks, radii=[1.0])
        with pytest.raises(InputError, match=r"radii\[1\] is nan arcsec"):
            pack(peaks, radii=[1.0, np.nan] + [0.0] * (len(peaks) - 2))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Circle(1.0, 2.0, -1.0), "circle: radius is -1.0 arcsec, expected more than 0"),
        (lambda: Circle(1.0, 2.0, np.nan), "circle: radius is nan, expected a finite number"),
        (lambda: Circle(np.nan, 2.0, 1.0), "circle: ra is nan, expected a finite number"),
        (lambda: Circle(1.0, 91.0, 1.0), "circle: dec is 91.0 deg, expected within -90 to 90"),
        (lambda: Circle("x", 91.0, 1.0), "circle: ra is 'x', expected a finite number"),
        (lambda: Box(1.0, 2.0, 1.0, 0.0), "box: height is 0.0 arcsec, expected more than 0"),
        (lambda: Box(1.0, 2.0, 1.0, 1.0, np.inf), "box: angle is inf, expected a finite number"),
    ],
)
def test_bad_regions(make, words):
    with pytest.raises(InputError, match=words):
        make()


def test_patches_from_fits(tmp_path, case, peaks):
    psf = np.zeros((1, 2), PSF_DTYPE)
    psf["amp"], psf["Cxx"], psf["Cyy"], psf["sersic_bin"] = [0.7, 0.3], [1.5, 6], [1.5, 6], -1
    write_psf_store(tmp_path / "psf.h5", "blue", PSFModel(psf))
    exposures = [e for e in images(case) if e.band == "blue"]
    meta = open_meta_store(case / "meta.json")
    for e in exposures:
        header = meta.header("blue", e.name)
        del header["NAXIS*"]
        error = np.where(e.ierr > 0, 1 / np.where(e.ierr > 0, e.ierr, 1), np.nan)
        hdus = [fits.PrimaryHDU(), fits.ImageHDU(e.data, header, "SCI")]
        hdus.append(fits.ImageHDU(error.astype("f4"), name="ERR"))
        fits.HDUList(hdus).writeto(tmp_path / f"{e.name[-1]}.fits")
        e.psf = PSFModel(psf)
    options = ImageOptions(
        band="blue", files="*.fits", science="SCI", error="ERR", unit="count",
        psf=PSFOptions(store="psf.h5"),
    )  # fmt: skip
    found = PackedPatch.from_fits([options], peaks, base_dir=tmp_path, region=REGIONS["circle"])
    expected = PackedPatch.from_arrays(exposures, peaks, region=REGIONS["circle"])
    one, other = found.to_numpy(), expected.to_numpy()
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=4 * FLOAT32, err_msg=name)
    with pytest.raises(InputError, match="give bands"):
        PackedPatch.from_fits([ImageOptions(files="*.fits")], peaks, base_dir=tmp_path)
    options.psf = PSFOptions(file="0.fits")
    with pytest.raises(InputError, match="expected a store of PSF mixtures"):
        PackedPatch.from_fits([options], peaks, base_dir=tmp_path)


def test_exposures_missing_from_a_store(case, tmp_path, peaks):
    import h5py

    path = tmp_path / "pixels.h5"
    path.write_bytes((case / "pixels.h5").read_bytes())
    with h5py.File(path, "a") as f:
        del f["red/visit1"]
    meta, _, psf = files(case)
    with pytest.raises(InputError, match="red/visit1/red_1/data: the pixel store has no such"):
        PackedPatch.from_stores(meta, path, psf, peaks, region=Circle(*CENTRE, 1.0))
    with pytest.raises(InputError, match="has no exposure of band green"):
        read_stores(*files(case), bands=["green"])
    with pytest.raises(InputError, match="no group 'red'"):
        psf = tmp_path / "psf.h5"
        write_psf_store(psf, "blue", read_psf_store(case / "psf.h5", "blue"))
        with PixelStore(case / "pixels.h5") as store:
            stored_exposures(open_meta_store(meta), store, psf)
    with h5py.File(path, "a") as f:
        f["red/visit2/red_2/data"].attrs["nside"] = [55, 48]
    with pytest.raises(InputError, match=r"the image is \(55, 48\) pixels, its header says"):
        with PixelStore(path) as store:
            stored_exposures(open_meta_store(meta), store, keys=[("red", "visit2/red_2")])[
                0
            ].tiles()


def test_stores_as_an_entry_of_images(case):
    """Beside the same images read as files would be; nuisances, sky and PSFs as for these."""
    entry = ImageOptions(
        meta="meta.json", pixels="pixels.h5", psf=PSFOptions(store="psf.h5", method="nearest"),
        sky=SkyOptions(subtract="value", value="TWEAKBKG"),
        astrometry=AstrometryOptions(offset_sigma=0.01), flux_scale_sigma=0.02,
    )  # fmt: skip
    found = read_images([entry], case, ["red", "blue"], require_psf=True)
    assert [e.band for e in found.exposures] == ["red"] * 3 + ["blue"] * 3
    assert found.unit == "count" and not found.skipped
    expected = {e.name: e for e in images(case)}
    for e in found.exposures:
        np.testing.assert_array_equal(e.data, expected[e.name].data)
        assert e.nuisance.offset_sigma == 0.01 and e.nuisance.scale_sigma == 0.02
        assert e.psf.kind == "store" and e.psf.group == e.band
    entry.name = "{band}-{base}"
    names = [e.name for e in read_images([entry], case, ["blue"]).exposures]
    assert names == ["blue-blue_0", "blue-blue_1", "blue-blue_2"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pixels": None}, "images.0: 'pixels' is missing"),
        ({"error": "ERR"}, "images.0.error: not for exposures of stores"),
        ({"sky": SkyOptions(subtract="estimate")}, "images.0.sky.subtract: expected none or"),
        ({"error_scale": 2.0}, "images.0.error_scale: expected 1"),
        ({"meta": "none.json"}, "none.json does not exist"),
        ({"band": "green"}, "band red has no usable exposure"),
    ],
)
def test_bad_entries_of_stores(case, change, message):
    entry = ImageOptions(meta="meta.json", pixels="pixels.h5")
    for name, value in change.items():
        setattr(entry, name, value)
    with pytest.raises(InputError, match=message):
        read_images([entry], case, ["red"])
    with pytest.raises(InputError, match="exposure name 'visit0/red_0' is used twice"):
        read_images([ImageOptions(meta="meta.json", pixels="pixels.h5")] * 2, case, ["red"])
