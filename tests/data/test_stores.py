"""Stores: round trips, forcepho's own files, the index, and what is refused."""

import json
import os

import h5py
import numpy as np
import pytest
from astropy.io import fits
from store_case import BANDS, NSIDE, case_wcs, write_case

from jaxpho.data import metastore
from jaxpho.data.metaindex import index_path
from jaxpho.data.metastore import open_meta_store, write_meta_store
from jaxpho.data.pixelstore import PixelStore, write_pixel_store
from jaxpho.data.psfstore import list_psf_groups, read_psf_store, write_psf_store
from jaxpho.data.splinestore import read_spline_table, write_spline_table
from jaxpho.errors import InputError


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    folder = tmp_path_factory.mktemp("case")
    write_case(folder)
    return folder


def datasets(path):
    """Every data set of a file."""
    out = {}
    with h5py.File(path) as f:
        f.visititems(lambda n, o: out.update({n: o[()]}) if isinstance(o, h5py.Dataset) else None)
        return out, {k: np.asarray(v).tolist() for k, v in f.attrs.items()}


def same_datasets(one, other):
    (a, attrs_a), (b, attrs_b) = datasets(one), datasets(other)
    assert list(a) == list(b)
    for name in a:
        assert a[name].dtype == b[name].dtype, name
        assert np.array_equal(a[name], b[name]), name
    assert attrs_a == attrs_b


def rewrite(folder, files, out):
    """Read all stores of a case and write them again."""
    meta, pixels, psf, splines = files
    with PixelStore(folder / pixels) as store:
        images = {key: (*store.image(*key), store.attrs(*key)) for key in store.exposures()}
        write_pixel_store(out / pixels, images, store.nside_full)
    store = open_meta_store(folder / meta)
    headers = {band: {} for band in store.bands}
    for band, name in store.keys:
        headers[band][name] = store.text(band, name)
    write_meta_store(out / meta, headers)
    for group in list_psf_groups(folder / psf):
        write_psf_store(out / psf, group, read_psf_store(folder / psf, group), forcepho=True)
    write_spline_table(out / splines, read_spline_table(folder / splines))
    for name in (pixels, psf, splines):
        same_datasets(folder / name, out / name)
    assert json.loads((folder / meta).read_text()) == json.loads((out / meta).read_text())


def test_rewritten_stores_are_equal(case, tmp_path):
    rewrite(case, ("meta.json", "pixels.h5", "psf.h5", "splines.h5"), tmp_path)


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["case1", "case2"])
def test_forcephos_stores_rewritten_are_equal(data_dir, name, tmp_path):
    files = ("meta.json", "pixels.h5", "psf_store.h5", "sersic_splines.h5")
    rewrite(data_dir / "forcepho_format" / name, files, tmp_path)


def test_superpixel_order(tmp_path):
    """Every pixel where the format says, for an image of odd size and an id with a slash."""
    ny, nx = 19, 30
    image = np.arange(ny * nx, dtype=np.float32).reshape(ny, nx)
    write_pixel_store(tmp_path / "p.h5", {("r", "a/b"): (image, np.ones_like(image), {})})
    with h5py.File(tmp_path / "p.h5") as f:
        data = f["r/a/b/data"][()]
        assert data.shape == (4, 3, 128) and data.dtype == np.float32
        assert f.attrs["nside_full"].tolist() == [32, 24]
    for x, y in ((0, 0), (7, 8), (29, 18), (13, 5)):
        k = 8 * (x % 8) + y % 8
        assert data[x // 8, y // 8, k] == image[y, x]
        assert data[x // 8, y // 8, 64 + k] == 1.0
    assert data[..., 64:].sum() == nx * ny  # padding has no weight
    with PixelStore(tmp_path / "p.h5") as store:
        assert store.size("r", "a/b") == (nx, ny)
        back, ierr = store.image("r", "a/b")
        assert np.array_equal(back, image) and (ierr == 1).all()
        flux, _ = store.superpixels("r", "a/b", [3, 0, 1], [2, 0, 1])
        assert np.array_equal(flux, data[[3, 0, 1], [2, 0, 1], :64])


def test_exposures_are_those_written(tmp_path):
    """Nested ids, one with a part that is called data."""
    ones = np.ones((8, 8), np.float32)
    keys = [("g", "a"), ("g", "b/data/c"), ("g", "b/d"), ("r", "data/x"), ("r", "visit/a")]
    write_pixel_store(tmp_path / "p.h5", {key: (ones, ones, {}) for key in keys})
    with PixelStore(tmp_path / "p.h5") as store:
        assert sorted(store.exposures()) == sorted(keys)


def test_sparse_selections_read_the_same(tmp_path):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(200, 240)).astype(np.float32)
    write_pixel_store(tmp_path / "p.h5", {("r", "e"): (image, np.ones_like(image), {})})
    column, row = rng.integers(0, 30, 12), rng.integers(0, 25, 12)
    with PixelStore(tmp_path / "p.h5") as store:
        flux, _ = store.superpixels("r", "e", column, row)
        assert store.superpixels("r", "e", [], [])[0].shape == (0, 64)
    for f, i, j in zip(flux, column, row, strict=True):
        expected = image[8 * j : 8 * j + 8, 8 * i : 8 * i + 8].T.reshape(-1)
        assert np.array_equal(f, expected)


def test_images_of_different_sizes(tmp_path):
    images = {
        ("r", "small"): (np.ones((10, 20), "f4"), np.ones((10, 20), "f4"), {}),
        ("r", "large"): (np.ones((40, 30), "f4"), np.ones((40, 30), "f4"), {}),
    }
    write_pixel_store(tmp_path / "p.h5", images)
    with PixelStore(tmp_path / "p.h5") as store:
        assert store.size("r", "small") == (20, 10)
        assert store.image("r", "large")[0].shape == (40, 30)


def test_meta_store_opens_by_its_index(case, tmp_path, monkeypatch):
    path = tmp_path / "meta.json"
    path.write_bytes((case / "meta.json").read_bytes())
    plain = open_meta_store(path)
    assert not index_path(path).exists()  # a small store needs none
    monkeypatch.setattr(metastore, "INDEX_FROM", 1)
    open_meta_store(path)
    assert index_path(path).exists()

    def never(*_):
        raise AssertionError("the JSON was read in spite of the index")

    with monkeypatch.context() as m:
        m.setattr(metastore, "_read_json", never)
        indexed = open_meta_store(path)
    assert indexed.keys == plain.keys and indexed.bands == list(BANDS)
    for key in plain.keys:
        assert indexed.text(*key) == plain.text(*key)
        assert indexed.nside(*key) == NSIDE
    assert np.array_equal(indexed.footprints.matrix, plain.footprints.matrix)
    headers = json.loads(path.read_text())
    del headers["red"]
    path.write_text(json.dumps(headers))
    os.utime(path, ns=(1, 1))  # even a file that got older is another file
    assert open_meta_store(path).bands == ["blue"]
    index_path(path).write_bytes(b"not HDF5")
    assert open_meta_store(path).bands == ["blue"]


def test_an_index_of_a_store_that_was_replaced_while_it_was_read(case, tmp_path, monkeypatch):
    path = tmp_path / "meta.json"
    path.write_bytes((case / "meta.json").read_bytes())
    monkeypatch.setattr(metastore, "INDEX_FROM", 1)
    headers = json.loads(path.read_text())

    def read(path):
        found = json.loads(path.read_text())
        path.write_text(json.dumps({"blue": headers["blue"]}))  # by another process, meanwhile
        return found

    with monkeypatch.context() as m:
        m.setattr(metastore, "_read_json", read)
        assert set(open_meta_store(path).bands) == {"red", "blue"}
    assert open_meta_store(path).bands == ["blue"]


def test_a_file_that_this_process_has_open(case, tmp_path):
    """In a notebook: with other locks, which HDF5 refuses to mix."""
    for name, read in (
        ("pixels.h5", lambda path: PixelStore(path).close()), ("psf.h5", list_psf_groups),
    ):  # fmt: skip
        with h5py.File(case / name, "r"):
            read(case / name)


def test_footprints_find_every_overlap(case):
    """Against the WCS: a circle whose edge pixels fall on the image must be found."""
    store = open_meta_store(case / "meta.json")
    rng = np.random.default_rng(5)
    phase = np.linspace(0, 2 * np.pi, 60)
    for _ in range(40):
        dra, ddec, radius = rng.uniform(-2, 2), rng.uniform(-2, 2), rng.uniform(0.05, 1.5)
        ra, dec = 150.1 + dra / 3600, 2.2 + ddec / 3600
        found = store.near(ra, dec, radius)
        for key in store.keys:
            wcs = store.wcs(*key)
            rim = (
                ra + radius * np.append(np.cos(phase), 0) / 3600 / np.cos(np.deg2rad(dec)),
                dec + radius * np.append(np.sin(phase), 0) / 3600,
            )
            x, y = wcs.world_to_pixel_values(*rim)
            inside = (x > -0.5) & (x < NSIDE[0] - 0.5) & (y > -0.5) & (y < NSIDE[1] - 0.5)
            if inside.any():
                assert key in found
    assert store.near(150.1, 2.2 + 20 / 3600, 1.0) == []
    assert store.near(330.1, -2.2, 1.0) == []  # the other side of the sky
    # a circle that contains the whole image has no corner in it
    assert len(store.near(150.1, 2.2, 100.0)) == 6
    assert store.near(150.1, 2.2, 1.0, ["red"]) == [k for k in store.keys if k[0] == "red"]


def header(band="r", **cards):
    out = case_wcs(0.1, 10.0, (0, 0)).to_header()
    out["FILTER"], out["NAXIS1"], out["NAXIS2"] = band, 32, 24
    for key, value in cards.items():
        if value is None:
            del out[key]
        else:
            out[key] = value
    return out


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({"r": {"a": header(FILTER=None)}}, "r/a: the header has no FILTER"),
        ({"r": {"a": header(FILTER="g")}}, "r/a: FILTER is 'g', expected 'r'"),
        ({"r": {"a": header(NAXIS2=None)}}, r"r/a: NAXIS1, NAXIS2 are \[32, None\]"),
        ({"r": {"a": header(CTYPE1=None)}}, "r/a: the header has no celestial WCS"),
        ({"r": {"a": header(CRVAL1="x")}}, "r/a: header card CRVAL1"),
        ({"r": {"a": header(), "a/b": header()}}, "r/a: .*beginning of the path of 'a/b'"),
        ({"r": {"a//b": header()}}, "a//b: the exposure id has an empty part"),
        ({"r": {"a": "SIMPLE"}}, "r/a: not a FITS header"),
    ],
)
def test_bad_headers_are_refused(headers, message, tmp_path):
    path = tmp_path / "meta.json"
    with pytest.raises(InputError, match=message):
        write_meta_store(path, headers)
    assert not path.exists()
    texts = {
        b: {n: h.tostring() if isinstance(h, fits.Header) else h for n, h in g.items()}
        for b, g in headers.items()
    }
    path.write_text(json.dumps(texts))
    with pytest.raises(InputError, match=message) as error:
        open_meta_store(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"r": {"a": ', "line 1: not readable as JSON"),
        ('{"r": {"a": "x", "a": "y"}}', "'a' occurs twice"),
        ('["r"]', "found a list, expected bands"),
        ('{"r": ["a"]}', "r: expected a mapping"),
        ('{"r": {"a": 3}}', "r/a: expected the text"),
    ],
)
def test_bad_json_is_refused(content, message, tmp_path):
    path = tmp_path / "meta.json"
    path.write_text(content)
    with pytest.raises(InputError, match=message) as error:
        open_meta_store(path)
    assert str(path) in str(error.value)
    with pytest.raises(InputError, match="does not exist"):
        open_meta_store(tmp_path / "other.json")


def half_masked():
    """Fluxes that are fine with inverse errors that are not."""
    out = np.ones((2, 2, 128), np.float32)
    out[..., 64:] = np.inf
    return out


def replace_data(f, data):
    del f["r/e/data"]
    f["r/e/data"] = data


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.attrs.pop("nside_full"), "lacks the attribute 'nside_full'"),
        (lambda f: f.attrs.update(nside_full="big"), "'nside_full' is 'big', expected whole"),
        (lambda f: f.attrs.update(super_pixel_size=4), "super_pixel_size is 4, expected 8"),
        (lambda f: replace_data(f, np.ones((2, 2, 128))), "r/e/data: dtype is float64"),
        (lambda f: replace_data(f, np.ones((2, 2, 64), "f4")), r"r/e/data: shape is \(2, 2, 64\)"),
        (lambda f: replace_data(f, np.ones((3, 2, 128), "f4")), r"expected \(2, 2, 128\) for nsi"),
        (lambda f: f["r/e/data"].write_direct(np.full((2, 2, 128), np.nan, "f4")), "x = 0, y = 0"),
        (lambda f: f["r/e/data"].write_direct(np.full((2, 2, 128), -1, "f4")), "negative inverse"),
        (lambda f: f["r/e/data"].attrs.update(nside="big"), "r/e/data: attribute 'nside' is 'big'"),
        (lambda f: f["r/e/data"].attrs.update(nside=[16]), r"'nside' is \[16\], expected two"),
        (lambda f: f["r/e/data"].write_direct(half_masked()), "inverse error that is not finite"),
        (lambda f: f.move("r/e", "r/other"), "r/e/data: the pixel store has no such exposure"),
        (lambda f: (f.move("r/e/data", "r/x"), f.create_group("r/e/data")), "expected a data set"),
    ],
)
def test_bad_pixel_stores_are_refused(change, message, tmp_path):
    path = tmp_path / "pixels.h5"
    ones = np.ones((16, 16), np.float32)
    write_pixel_store(path, {("r", "e"): (ones, ones, {})})
    with h5py.File(path, "a") as f:
        del f["r/e/data"].attrs["nside"]
        change(f)
    with pytest.raises(InputError, match=message) as error, PixelStore(path) as store:
        store.size("r", "e")
        store.image("r", "e")
    assert str(path) in str(error.value)


def test_files_that_are_not_hdf5_are_refused(case, tmp_path):
    for name, reader in (("pixels.h5", PixelStore), ("splines.h5", read_spline_table)):
        whole = (case / name).read_bytes()
        for label, content in (("cut", whole[: len(whole) // 2]), ("text", b"hello")):
            path = tmp_path / f"{label}_{name}"
            path.write_bytes(content)
            with pytest.raises(InputError, match="not a readable HDF5 file") as error:
                reader(path)
            assert str(path) in str(error.value)
        with pytest.raises(InputError, match="does not exist"):
            reader(tmp_path / "none.h5")
        with pytest.raises(InputError, match="is a folder"):
            reader(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.pop("rh"), "no data set 'rh'"),
        (lambda f: (f.pop("rh"), f.update(rh=np.ones(3))), r"'rh' has shape \(3,\)"),
        (lambda f: f["radii"].write_direct(np.full(6, np.nan)), "'radii' holds values that are"),
        (lambda f: (f.pop("radii"), f.update(radii=b"x")), "'radii' has dtype"),
        (lambda f: f.scale("rh", 5, 1.01), "different rh, expected a full regular grid"),
        (lambda f: f.scale("nsersic", 5, 1.01), "different rh, expected a full regular grid"),
    ],
)
def test_bad_spline_tables_are_refused(case, change, message, tmp_path):
    path = tmp_path / "splines.h5"
    path.write_bytes((case / "splines.h5").read_bytes())
    with h5py.File(path, "a") as f:
        change(Editable(f))
    with pytest.raises(InputError, match=message) as error:
        read_spline_table(path).splines()
    assert str(path) in str(error.value)


class Editable:
    """An open file whose data sets are removed and added as entries of a dictionary are."""

    def __init__(self, file):
        self.file = file

    def scale(self, name, row, factor):
        """Multiply one entry of a data set."""
        self.file[name][row] *= np.float32(factor)

    def __getitem__(self, name):
        return self.file[name]

    def pop(self, name):
        del self.file[name]

    def update(self, **entries):
        for name, value in entries.items():
            self.file[name] = value


@pytest.mark.parametrize(
    ("exposures", "message"),
    [
        (("a", "a"), None),
        (("a", "a/b"), "'a' is the beginning of the path of 'a/b'"),
        (("a/b", "a"), "'a' is the beginning of the path of 'a/b'"),
        (("a", "/b"), "an empty part"),
    ],
)
def test_ids_that_exclude_each_other(exposures, message, tmp_path):
    ones = np.ones((8, 8), np.float32)
    entries = {("r", name): (ones, ones, {}) for name in exposures}
    if message is None:
        write_pixel_store(tmp_path / "p.h5", entries)
        return
    with pytest.raises(InputError, match=message):
        write_pixel_store(tmp_path / "p.h5", entries)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("value", "inverse"), [(np.nan, 1.0), (1.0, -1.0), (1.0, np.inf)])
def test_bad_pixels_are_not_written(value, inverse, tmp_path):
    data, ierr = np.ones((8, 8), np.float32), np.ones((8, 8), np.float32)
    data[2, 3], ierr[2, 3] = value, inverse
    with pytest.raises(InputError, match="r/e: 1 pixels have"):
        write_pixel_store(tmp_path / "p.h5", {("r", "e"): (data, ierr, {})})
