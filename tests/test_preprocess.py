"""`jaxpho preprocess`: what is stored, what is kept, what fails, and what a kill leaves behind."""

import os

import h5py
import numpy as np
import pytest
import yaml
from astropy.io import fits
from astropy.table import Table
from fits_images import DEC, RA, SCALE, image_data, tan_header, write_mef
from gwcs_case import asdf_extension, make_gwcs
from store_images import (
    KEYS,
    SHAPES,
    check_stores,
    command,
    configuration,
    contents,
    write_images,
)

from jaxpho import cli
from jaxpho.config import ImageOptions
from jaxpho.data.catalog import Peak
from jaxpho.data.gwcsfile import GWCSAdaptor
from jaxpho.data.ingest import read_images
from jaxpho.data.metastore import open_meta_store
from jaxpho.data.pack import pack_patch
from jaxpho.data.pixelstore import PixelStore
from jaxpho.data.psfmodel import PSF_DTYPE, PSFModel
from jaxpho.data.psfstore import write_psf_store
from jaxpho.data.storepack import read_stores
from jaxpho.data.wcs import world_to_pixel
from jaxpho.schema import build

FLOAT32 = np.finfo(np.float32).eps


@pytest.fixture
def config(tmp_path):
    write_images(tmp_path)
    return configuration(tmp_path)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The stores of the images; not to be changed."""
    folder = tmp_path_factory.mktemp("made")
    write_images(folder)
    assert command(configuration(folder), "--workers", 1, "-q") == 0
    return folder


def direct(folder):
    """The exposures as jaxpho-fit reads them from the same entries."""
    values = yaml.safe_load((folder / "config.yml").read_text())
    options = [build(ImageOptions, entry) for entry in values["images"]]
    return read_images(options, folder, values["bands"]).exposures


def test_stores_hold_what_a_fit_would_read(made):
    stored = read_stores(made / "stores" / "meta.json", made / "stores" / "pixels.h5")
    expected = direct(made)
    assert [(e.band, e.id) for e in stored] == [(e.band, e.name) for e in expected] == KEYS
    shapes = dict(zip(KEYS, SHAPES.values(), strict=True))
    for one, other in zip(stored, expected, strict=True):
        assert one.shape == other.shape == shapes[one.band, one.id] and one.unit == "nJy"
        np.testing.assert_array_equal(one.ierr, other.ierr)
        np.testing.assert_array_equal(one.data, np.where(other.ierr > 0, other.data, 0))
        x, y = np.array([0.0, 20.2, 10.0]), np.array([0.0, 3.0, 15.7])
        back = world_to_pixel(one.wcs, *other.wcs.pixel_to_world_values(x, y))
        np.testing.assert_allclose(back, np.stack([x, y], -1), atol=1e-6)
        assert one.header["FILTER"] == one.band and one.header["BUNIT"] == "nJy"
    with h5py.File(made / "stores" / "pixels.h5", locking=False) as f:
        assert f.attrs["nside_full"].tolist() == [56, 40] and f.attrs["super_pixel_size"] == 8
        attrs = f["f200w/a_cal/data"].attrs
        assert attrs["counts_to_flux"] == pytest.approx(20.0) and attrs["flux_units"] == "nJy"
        assert attrs["image_name"] == "a_cal.fits" and attrs["bitmask_applied"] == 1
        assert f["r/deep/d/data"].shape == (7, 5, 128)
    assert (stored[0].ierr == 0).sum() == 1  # DO_NOT_USE alone


def test_packed_arrays_agree(made, tmp_path):
    psf = np.zeros((1, 2), PSF_DTYPE)
    psf["amp"], psf["Cxx"], psf["Cyy"], psf["sersic_bin"] = [0.7, 0.3], [1.5, 6], [1.5, 6], -1
    for band in ("f200w", "r"):
        write_psf_store(tmp_path / "psf.h5", band, PSFModel(psf))
    peaks = [Peak(k, "sersic", RA + k * 1e-4, DEC - k * 2e-4, {"rhalf": 0.3}) for k in range(3)]
    stored = read_stores(
        made / "stores" / "meta.json", made / "stores" / "pixels.h5", tmp_path / "psf.h5"
    )
    expected = direct(made)
    for exposure in expected:
        exposure.psf = PSFModel(psf)
    one, other = (
        pack_patch(e, peaks, bands=["f200w", "r"], radii=[1.0, 2.0, 1.0]).to_numpy()
        for e in (stored, expected)
    )
    for name in other:
        # positions of 50 pixels; matrices of 5 pixels per arcsec
        np.testing.assert_allclose(
            one[name], other[name], rtol=4 * FLOAT32, atol=1e-6, err_msg=name
        )
        if name in ("data", "ierr", "xpix", "ypix"):
            np.testing.assert_array_equal(one[name], other[name])


def test_the_table_of_exposures(made, capsys):
    table = Table.read(made / "stores" / "exposures.ecsv")
    assert [(str(r["band"]), str(r["exposure"])) for r in table] == KEYS
    assert table["ra"].unit == "deg" and table["scale"].unit == "arcsec"
    assert table["error"].unit == "nJy" and table["depth"].unit == "mag"
    np.testing.assert_allclose(table["scale"][:2], SCALE, rtol=1e-6)
    np.testing.assert_allclose(table["ra"][0], RA, atol=1e-7)
    # sigma = 2 MJy/sr x 2e-14 sr = 40 nJy per pixel of .04 arcsec^2
    np.testing.assert_allclose(table["error"][0], 40.0, rtol=1e-6)
    expected = 31.4 - 2.5 * np.log10(5 * 40 / SCALE)
    np.testing.assert_allclose(table["depth"][0], expected, rtol=1e-6)
    masked = {"f200w/a_cal": 1, "r/deep/c": 6, "r/deep/d": 3}
    for row in table:
        n = masked.get(f"{row['band']}/{row['exposure']}", 0)
        assert row["masked"] == pytest.approx(n / (row["nx"] * row["ny"])) or n == 0
        assert row["wcs_error"] < 1e-6 and row["state"] == "stored"
    sky = table["sky"][2]
    assert sky == pytest.approx(7.0 * 10 ** (0.4 * 1.4)) and "c_sky" in table["sky_from"][2]
    assert "ABMAG" in table["unit_from"][4]
    assert command(made / "config.yml", "--workers", 1) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 7 and "kept" in lines[1] and "deep/c" in lines[3]


def test_any_number_of_workers_writes_the_same(made, tmp_path):
    write_images(tmp_path)
    for path in made.glob("*.*"):  # times of change are part of the checksums
        if path.suffix != ".yml":
            os.utime(tmp_path / path.name, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    assert command(configuration(tmp_path), "--workers", 2, "-q") == 0
    assert contents(tmp_path / "stores") == contents(made / "stores")
    names = sorted(p.name for p in (tmp_path / "stores").iterdir())
    assert names == ["exposures.ecsv", "meta.json", "pixels.h5", "preprocess.log"]
    log = (tmp_path / "stores" / "preprocess.log").read_text()
    # messages of the workers are in the log
    assert "deep/c: band r, 29 x 40 pixels" in log and "2 at a time" in log


def test_bands_by_detector(tmp_path):
    write_images(tmp_path)
    names = {"f200w": "{band}_{header[DETECTOR]}"}
    path = configuration(tmp_path, band_name=names)
    assert command(path, "--workers", 1, "-q") == 0
    meta = open_meta_store(tmp_path / "stores" / "meta.json")
    assert meta.bands == ["f200w_NRCA1", "f200w_NRCA2", "r"]
    assert meta.keys[:2] == [("f200w_NRCA1", "a_cal"), ("f200w_NRCA2", "b_cal")]
    header = meta.header("f200w_NRCA2", "b_cal")
    assert header["FILTER"] == "f200w_NRCA2" and header["ORIGFILT"] == "F200W"


class Reads:
    """Counts the images that are read."""

    def __init__(self, monkeypatch):
        from jaxpho.data import storepart

        self.names, read = [], storepart.read_one

        def counting(plan, **kwargs):
            self.names.append(plan.name)
            return read(plan, **kwargs)

        monkeypatch.setattr(storepart, "read_one", counting)

    def of(self, path, *words):
        self.names.clear()
        code = command(path, "--workers", 1, "-q", *words)
        return code, sorted(self.names)


def test_only_what_has_changed_is_made_anew(config, monkeypatch, capsys):
    reads, stores = Reads(monkeypatch), config.parent / "stores"
    everything = sorted(name for _, name in KEYS)
    assert reads.of(config) == (0, everything)
    first = contents(stores)
    stamp = (stores / "pixels.h5").stat().st_mtime_ns, (stores / "meta.json").stat().st_mtime_ns
    assert reads.of(config) == (0, [])
    assert reads.of(config, "--resume") == (0, [])
    # what a fit alone uses does not matter, nor where the configuration lies
    assert reads.of(config, "--set", "images.0.astrometry.offset_sigma=1") == (0, [])
    now = (stores / "pixels.h5").stat().st_mtime_ns, (stores / "meta.json").stat().st_mtime_ns
    assert now == stamp
    assert reads.of(config, "--set", "images.2.error_scale=2") == (0, ["deep/d"])
    changed = contents(stores)
    assert {k for k in first if first[k] != changed[k]} == {"r/deep/d/data"}
    ratio = np.frombuffer(first["r/deep/d/data"][0], "f4").reshape(7, 5, 128)[..., 64:].sum()
    ratio /= np.frombuffer(changed["r/deep/d/data"][0], "f4").reshape(7, 5, 128)[..., 64:].sum()
    assert ratio == pytest.approx(2.0)
    assert reads.of(config) == (0, ["deep/d"]) and contents(stores) == first
    # a file that something depends on is replaced
    fits.PrimaryHDU(np.full((3, 4), 8.0)).writeto(config.parent / "c_sky.fits", overwrite=True)
    assert reads.of(config) == (0, ["deep/c"])
    assert reads.of(config, "--overwrite") == (0, everything)


def test_exposures_that_are_not_named_any_more(config, monkeypatch, capsys):
    reads, stores = Reads(monkeypatch), config.parent / "stores"
    assert reads.of(config)[0] == 0
    fewer = ["--set", "images.0.files=a_cal.fits"]
    before = contents(stores)
    assert reads.of(config, *fewer) == (2, [])
    assert "does not name, such as f200w/b_cal; give --others keep" in capsys.readouterr().err
    assert contents(stores) == before
    assert reads.of(config, *fewer, "--others", "keep") == (0, [])
    assert check_stores(stores) == KEYS
    assert reads.of(config, *fewer, "--others", "drop") == (0, [])
    assert check_stores(stores) == [key for key in KEYS if key[1] != "b_cal"]
    assert "b_cal is taken out of the stores" in capsys.readouterr().err


def test_one_bad_exposure_costs_only_itself(config, capsys):
    folder = config.parent
    assert command(config, "--workers", 1, "-q") == 0
    write_mef(folder / "d.fits", np.full(SHAPES["d"], np.nan, "f4"), tan_header(BUNIT="uJy"),
              VAR=np.ones(SHAPES["d"], "f4"))  # fmt: skip
    (folder / "b_cal.fits").write_bytes((folder / "b_cal.fits").read_bytes()[:9000])
    assert command(config, "--workers", 2, "-q") == 1
    err = capsys.readouterr().err
    assert "exposure r/deep/d failed" in err and "every pixel is masked" in err
    assert "exposure f200w/b_cal failed" in err and "Traceback" not in err
    keys = [key for key in KEYS if key[1] not in ("b_cal", "deep/d")]
    assert check_stores(folder / "stores") == keys
    table = Table.read(folder / "stores" / "exposures.ecsv")
    failed = {str(r["exposure"]): str(r["reason"]) for r in table if r["state"] == "failed"}
    assert set(failed) == {"deep/d", "b_cal"} and "truncated" in failed["b_cal"]
    assert command(config, "-q", "--set", "images.2.on_bad_exposure=stop") == 2
    assert check_stores(folder / "stores") == keys


def test_a_second_run_at_the_same_time_is_refused(config, capsys):
    from jaxpho.run.preprocess import _alone_in

    stores = config.parent / "stores"
    stores.mkdir()
    with _alone_in(stores):
        assert command(config, "-q") == 2
    assert "another jaxpho preprocess is writing here" in capsys.readouterr().err
    assert command(config, "-q", "--workers", 1) == 0


def test_dry_run_writes_nothing(config, capsys):
    assert command(config, "--dry-run") == 0
    out = capsys.readouterr().out
    assert "band r: 4 exposures" in out and "6 of them to be stored" in out and "unit nJy" in out
    assert not (config.parent / "stores").exists()
    assert command(config, "-q", "--workers", 1) == 0
    capsys.readouterr()
    assert command(config, "--dry-run") == 0
    assert "0 of them to be stored" in capsys.readouterr().out


def test_init_and_the_configuration_of_a_fit(tmp_path, capsys):
    example = tmp_path / "stores.yml"
    assert cli.main(["preprocess", "--init", str(example)]) == 0
    assert "--dry-run" in capsys.readouterr().out
    values = yaml.safe_load(example.read_text())
    assert set(values) == {"bands", "images", "stores"}
    assert command(example, "--dry-run") == 2  # its images are not there
    assert "matches no file" in capsys.readouterr().err
    write_images(tmp_path)
    path = configuration(tmp_path, output="run", peaks={"file": "none.csv"}, sample={"seed": 1})
    assert command(path, "-q", "--workers", 1, "--output", tmp_path / "other") == 0
    assert check_stores(tmp_path / "other") == KEYS


def test_images_with_gwcs(tmp_path, monkeypatch, capsys):
    """The real package: the ASDF file lies next to the JSON, and is kept with the rest."""
    pytest.importorskip("gwcs")
    for k, name in enumerate("ab"):
        path = write_mef(tmp_path / f"{name}.fits", image_data(k), fits.Header({"BUNIT": "nJy"}),
                         ERR=np.ones((24, 32), "f4"))  # fmt: skip
        with fits.open(path, mode="append") as hdus:
            hdus.append(asdf_extension(make_gwcs((24, 32), analytic=k == 0)))
    write_mef(tmp_path / "c.fits", image_data(3), tan_header(BUNIT="nJy"), ERR=np.ones((24, 32)))
    entry = {"band": "r", "files": "?.fits", "science": "SCI", "error": "ERR"}
    path = tmp_path / "config.yml"
    values = {"bands": ["r"], "images": [entry | {"wcs": {"offset_ra": 0.1}}]}
    path.write_text(yaml.safe_dump(values))
    assert command(path, "-q", "--workers", 1) == 0
    for words in ([], ["--set", "images.0.name=again-{stem}", "--others", "keep"]):
        assert command(path, "-q", "--workers", 1, *words) == 0
        meta = open_meta_store(tmp_path / "stores" / "meta.json")
        options = [build(ImageOptions, values["images"][0])]
        for exposure in read_images(options, tmp_path, ["r"]).exposures:
            wcs = meta.wcs("r", exposure.name)
            assert isinstance(wcs, GWCSAdaptor) == (exposure.name != "c")
            x, y = np.array([0.0, 30.2]), np.array([0.0, 15.7])
            back = world_to_pixel(wcs, *exposure.wcs.pixel_to_world_values(x, y))
            np.testing.assert_allclose(back, np.stack([x, y], -1), atol=1e-6)
    assert len(meta) == 6
    with monkeypatch.context() as patch:
        patch.setattr("jaxpho.data.storecommit.has_gwcs", lambda: False)
        assert command(path, "-q", "--workers", 1, "--others", "drop") == 2
    assert "would lose theirs" in capsys.readouterr().err
    # without images that have one, the file goes
    only = ["--set", "images.0.files=c.fits", "--others", "drop"]
    assert command(path, "-q", "--workers", 1, *only) == 0
    assert not (tmp_path / "stores" / "meta.asdf").exists()


def forcepho_files(folder):
    for k, name in enumerate("ab"):
        header = tan_header(FILTER="F200W", ABMAG=28.9)
        hdus = [fits.PrimaryHDU(image_data(k), header), fits.ImageHDU(np.full((24, 32), 2.0))]
        mask = np.zeros((24, 32), np.int32)
        mask[1, 2], mask[3, 4] = 5, 2
        hdus.append(fits.ImageHDU(mask))
        (folder / "frames").mkdir(exist_ok=True)
        fits.HDUList(hdus).writeto(folder / "frames" / f"{name}.fits")
    values = {
        "bandlist": ["F200W"], "frames_directory": "frames", "fitsfiles": ["a.fits", "b.fits"],
        "store_directory": "kept", "pixelstorefile": "pix.h5", "metastorefile": "head.json",
        "psfstorefile": "psf.h5", "super_pixel_size": 8, "nside_full": [32, 24],
        "do_fluxcal": True, "bitmask": 5, "maxactive_per_patch": 3,
    }  # fmt: skip
    path = folder / "forcepho.yml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_images_in_their_own_unit_get_the_scale_of_the_first(tmp_path):
    values = {"bands": ["g"], "stores": "stores", "unit": "image"}
    values["images"] = [{"band": "g", "files": "?.fits", "error": "ERR", "science": "SCI",
                         "zero_point": {"key": "MAGZPT"}}]  # fmt: skip
    for name, zero_point in (("a", 27.0), ("b", 28.0)):
        header = tan_header(MAGZPT=zero_point)
        data = image_data(shape=(24, 32))
        write_mef(tmp_path / f"{name}.fits", data, header, ERR=np.ones_like(data))
    (tmp_path / "config.yml").write_text(yaml.safe_dump(values))
    assert command(tmp_path / "config.yml", "-q", "--workers", 1) == 0
    with PixelStore(tmp_path / "stores" / "pixels.h5") as store:
        (a, ierr_a), (b, ierr_b) = (store.image("g", name) for name in "ab")
    np.testing.assert_allclose(b, 10**-0.4 * a, rtol=4 * FLOAT32)
    np.testing.assert_allclose(ierr_b, 10**0.4 * ierr_a, rtol=4 * FLOAT32)


def test_a_configuration_of_forcepho(tmp_path, capsys):
    path = forcepho_files(tmp_path)
    assert command(path, "-q", "--workers", 1) == 0
    meta = open_meta_store(tmp_path / "kept" / "head.json")
    assert meta.keys == [("F200W", "a"), ("F200W", "b")]
    with PixelStore(tmp_path / "kept" / "pix.h5") as store:
        data, ierr = store.image("F200W", "a")
        assert store.attrs("F200W", "a")["bitmask_applied"] == 5
    # 10^(.4 (8.9 - 28.9)) Jy per unit
    np.testing.assert_allclose(data[5], 10.0 * image_data(0)[5], rtol=1e-6)
    assert ierr[1, 2] == 0 and ierr[3, 4] == pytest.approx(0.05)
    assert command(path, "-q", "--set", "unit=image", "--workers", 1) == 0
    raw = ["--set", "images.0.zero_point=null", "--set", "unit=image", "--workers", 1]
    assert command(path, "-q", *raw) == 0
    with PixelStore(tmp_path / "kept" / "pix.h5") as store:
        np.testing.assert_array_equal(store.image("F200W", "b")[0][5], image_data(1)[5])
        assert store.attrs("F200W", "b")["flux_units"] == "count"
    path.write_text(path.read_text().replace("fitsfiles", "fitsfles"))
    assert command(path) == 2
    assert "missing key 'fitsfiles'" in capsys.readouterr().err


def damage(text):
    def change(folder):
        (folder / "stores").mkdir()
        (folder / "stores" / text).write_bytes(b"x" * 100)

    return change


def alien(folder):
    (folder / "stores").mkdir()
    with h5py.File(folder / "stores" / "pixels.h5", "w") as f:
        f.attrs["nside_full"], f.attrs["super_pixel_size"] = [8, 8], 8


BAD = {
    "unknown key": (["--set", "colour=blue"], None, "unknown key 'colour'"),
    "no band": (["--set", "bands=[]"], None, "expected at least one band"),
    "a band of no image": (["--set", "bands=[f200w, r, z]"], None, "band z has no usable"),
    "workers": (["--workers", "-1"], None, "--workers -1: expected a number >= 0"),
    "stores as images": (["--set", "images.0={meta: m.json, pixels: p.h5}"], None,
                         "these exposures are in stores already"),
    "one name twice": (["--set", "images.0.name=same"], None, "'same' is used twice"),
    "id inside another's path": (["--set", "images.2.name=deep"], None,
                                 "images, band r/deep: this exposure id is the beginning"),
    "an empty part": (["--set", "images.2.name=deep//d"], None, "has an empty part"),
    "slash in a band": (["--set", "band_name=a/{band}"], None, "band_name gives 'a/f200w'"),
    "unknown field": (["--set", "band_name={band}{nothing}"], None, "no field '{nothing}'"),
    "no such card": (["--set", "band_name={band}_{header[NOTHERE]}"], None, "cannot be filled"),
    "mixed units": (["--set", "images.3.unit=image"], None, "exposures of band r mix units"),
    "foreign store": ([], alien, "was not made by this command; give --overwrite"),
    "damaged store": ([], damage("pixels.h5"), "not a readable HDF5 file"),
    "headers without pixels": ([], damage("meta.json"), "is there without its pixel store"),
    "folder for a file": (["--set", "meta=."], None, "is a folder, expected a file"),
}  # fmt: skip


@pytest.mark.parametrize("case", list(BAD))
def test_bad_input_is_one_sentence(case, tmp_path, capsys):
    words, change, message = BAD[case]
    write_images(tmp_path)
    if change is not None:
        change(tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    path = configuration(tmp_path)
    before[path] = path.read_bytes()
    assert command(path, *words, "-q") == 2
    err = capsys.readouterr().err
    assert message in err and len(err.strip().splitlines()) == 1 and "Traceback" not in err
    after = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert after == before  # nothing is touched


def test_nothing_that_can_be_stored(tmp_path, capsys):
    write_images(tmp_path)
    path = configuration(tmp_path)
    words = ["--set", "images.*.error=NOTHERE", "--set", "images.*.weight=null"]
    words += ["--set", "images.*.variance=null", "--workers", 1]
    assert command(path, "-q", *words) == 2
    err = capsys.readouterr().err
    assert "none of the 6 exposures could be stored" in err
    assert not (tmp_path / "stores").exists()


def test_exposures_that_cannot_be_calibrated(config, capsys):
    """With unit: nJy they fail; the others are stored."""
    words = ["--set", "images.3.unit=image", "--set", "unit=nJy", "--workers", 1]
    assert command(config, "-q", *words) == 1
    assert "r/e failed" in capsys.readouterr().err
    assert check_stores(config.parent / "stores") == [key for key in KEYS if key[1] != "e"]
