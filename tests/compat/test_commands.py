"""`jaxpho evaluate` and `jaxpho render`: their files, and one sentence for what is wrong."""

import jax
import numpy as np
import pytest
import yaml
from astropy.io import fits
from small_field import SOURCES, position, write_field
from store_case import BANDS, CENTRE, NSIDE, write_case

from jaxpho import cli
from jaxpho.data.catalog import Peak
from jaxpho.data.metastore import open_meta_store
from jaxpho.data.pixelstore import PixelStore
from jaxpho.output.catalog import make_table, row_of_peak, write_catalog

REGION = f"{CENTRE[0]},{CENTRE[1]},0.5"
NAMES = {
    "chi2", "lnlike", "lnlike_grad", "param_names", "bounded_lnp", "bounded_lnp_grad", "residual",
    "xpix", "ypix", "data", "data_before_fixed", "ierr", "D", "CW", "crpix", "crval", "G",
    "band_start", "band_N", "exposure_start", "exposure_N", "n_psf_per_source", "psfgauss_amp",
    "psfgauss_xcen", "psfgauss_ycen", "psfgauss_Cxx", "psfgauss_Cyy", "psfgauss_Cxy",
    "psfgauss_sersic_bin", "psfgauss_start", "n_sources", "n_radii", "bands", "epaths",
    "reference_coordinates",
}  # fmt: skip


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    folder = tmp_path_factory.mktemp("case")
    write_case(folder)
    yield folder
    jax.clear_caches()


def command(*words):
    return cli.main([str(w) for w in words])


def evaluate(case, out, *words):
    start = ["evaluate", case / "config.yml", "--catalog", case / "truth.fits", "--out", out, "-q"]
    assert command(*start, *words) == 0
    return dict(np.load(out))


def test_evaluate_as_forcepho(case, tmp_path):
    words = ["--fixed", case / "fixed.fits", "--region", REGION, "--compat", "forcepho"]
    found = evaluate(case, tmp_path / "out.npz", *words)
    assert NAMES | {"rad2"} <= set(found)
    assert list(found["param_names"][:8]) == [
        "blue_0", "red_0", "ra_0", "dec_0", "q_0", "pa_0", "sersic_0", "rhalf_0",
    ]  # fmt: skip
    assert found["lnlike"] == pytest.approx(-0.5 * found["chi2"].sum())
    # the same numbers when the parameters come from a file, in the order of param_names
    np.save(tmp_path / "p.npy", found["params"])
    words += ["--start", case / "peaks.fits", "--params", tmp_path / "p.npy"]
    again = evaluate(case, tmp_path / "out2.npz", *words)
    for name in found:
        np.testing.assert_array_equal(found[name], again[name], err_msg=name)


@pytest.fixture(scope="module")
def native(case, tmp_path_factory):
    out = tmp_path_factory.mktemp("native") / "out.npz"
    return evaluate(case, out, "--fixed", case / "fixed.fits", "--region", REGION)


def test_evaluate_with_our_model(case, native, tmp_path):
    """chi2 from the residuals; its gradient by differences; all exposures that overlap."""
    assert NAMES - {"rad2"} <= set(native)
    weighted = (native["residual"] * native["ierr"]).astype(float) ** 2
    sums = np.add.reduceat(weighted, native["exposure_start"])
    chi2 = np.add.reduceat(sums, native["band_start"])
    np.testing.assert_allclose(native["chi2"], chi2, rtol=1e-5)
    assert native["lnlike"] == pytest.approx(-0.5 * native["chi2"].sum())
    assert list(native["param_names"][:4]) == ["blue_0", "red_0", "ra_0", "dec_0"]
    assert (native["data"] != native["data_before_fixed"]).any()
    slopes = {}
    for name, h in (("blue_0", 0.3), ("dec_1", 1e-3), ("sersic_2", 0.03)):
        i = list(native["param_names"]).index(name)
        values = []
        for sign in (-1, 1):
            params = native["params"].copy()
            params[i] += sign * h
            np.save(tmp_path / "p.npy", params)
            words = ["--fixed", case / "fixed.fits", "--region", REGION]
            words += ["--params", tmp_path / "p.npy"]
            values.append(evaluate(case, tmp_path / "o.npz", *words)["lnlike"])
        slopes[i] = (values[1] - values[0]) / (2 * h)
    for i, slope in slopes.items():
        assert native["lnlike_grad"][i] == pytest.approx(slope, rel=0.02), i


def test_render(case, native, tmp_path):
    """Images add up to the data, and show on unmasked pixels the model that evaluate used."""
    words = ["--catalog", case / "truth.fits", "--fixed", case / "fixed.fits", "-q"]
    out = tmp_path / "images"
    assert command("render", case / "config.yml", *words, "--out", out) == 0
    files = sorted(out.iterdir())
    assert len(files) == 6
    meta = open_meta_store(case / "meta.json")
    with PixelStore(case / "pixels.h5") as store:
        for e, (key, path) in enumerate(zip(meta.keys, files, strict=True)):
            with fits.open(path) as hdus:
                images = {name: hdus[name].data for name in ("MODEL", "RESIDUAL", "CHI")}
                header = hdus["MODEL"].header
            assert images["MODEL"].shape == NSIDE[::-1] and header["BUNIT"] == "count"
            data, ierr = store.image(*key)
            data = data - np.float32(meta.header(*key)["TWEAKBKG"])
            good = ierr > 0
            assert np.isnan(images["RESIDUAL"][~good]).all()
            np.testing.assert_allclose((images["MODEL"] + images["RESIDUAL"])[good], data[good],
                                       atol=1e-6)  # fmt: skip
            assert (images["MODEL"][~good] > 0).any()  # masked pixels are drawn
            at = slice(native["exposure_start"][e], None)
            at = slice(at.start, at.start + native["exposure_N"][e])
            x, y = native["xpix"][at].astype(int), native["ypix"][at].astype(int)
            ok = native["ierr"][at] > 0
            expected = (native["data_before_fixed"] - native["residual"])[at]
            model = images["MODEL"]
            # evaluate takes the blue PSF, which varies over the image, and the slope of SIP at
            # the starting positions
            exact = key[0] == "red" and not key[1].endswith("2")
            tolerance = 2e-5 if exact else 5e-3
            assert np.abs(model[y, x] - expected)[ok].max() < tolerance * model.max()


def test_render_within_a_region(case, tmp_path):
    words = ["--region", f"{CENTRE[0]},{CENTRE[1] + 0.5 / 3600},0.2", "-q"]
    assert command("render", case / "config.yml", *words, "--out", tmp_path) == 0
    drawn = [fits.getdata(path, "MODEL") for path in sorted(tmp_path.iterdir())]
    assert len(drawn) == 6
    assert all(0 < (image != 0).mean() < 0.5 for image in drawn)


def test_render_of_a_region_beside_the_images(case, tmp_path, capsys):
    words = ["--region", f"{CENTRE[0]},{CENTRE[1] + 1.0},0.5", "-q", "--out", tmp_path]
    assert command("render", case / "config.yml", *words) == 2
    assert "none of the 6 exposures has a pixel in the region" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_fits_own_catalogue(tmp_path):
    """The same chi2 whatever layout the configuration's catalogue has."""
    path = write_field(tmp_path)
    flux = {("flux", "g"): 300.0, ("flux", "r"): 200.0}
    shape = {"rhalf": 0.6, "sersic": 1.5, "q": 0.5, "pa": 40.0}
    peaks = [Peak(i, kind, *position(*at), dict(shape), dict(flux)) for i, *at, kind in SOURCES]
    rows = [row_of_peak(peak, ["g", "r"]) for peak in peaks]
    table = make_table(rows, ["g", "r"], "nJy", {"CREATOR": "jaxpho 1.0"})
    write_catalog(tmp_path / "own.fits", table)
    table.meta["CREATOR"] = "somebody"
    write_catalog(tmp_path / "other.fits", table)
    values = yaml.safe_load(path.read_text())

    def chi2(catalog, *words, **layout):
        values["peaks"] = {"file": "peaks.csv"} | layout
        path.write_text(yaml.safe_dump(values))
        own = ["--catalog", tmp_path / catalog, "--start", tmp_path / catalog, *words]
        assert command("evaluate", path, *own, "--out", tmp_path / "o.npz", "-q") == 0
        return np.load(tmp_path / "o.npz")["chi2"]

    expected = chi2("other.fits")
    strange = {"columns": {"ra": "ra", "flux": "chi2"}, "flux_unit": "Jy"}
    for layout in ({"format": "tractor"}, {"format": "forcepho", "flux_unit": "image"}, strange):
        np.testing.assert_array_equal(chi2("own.fits", **layout), expected)
        found = chi2("other.fits", "--catalog-format", "plain", **layout)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--splines", "smooth"], "--splines smooth: only --compat forcepho has"),
        (
            ["--compat", "forcepho", "--catalog-format", "plain"],
            "--catalog-format plain: with --compat forcepho all catalogues are forcepho's",
        ),
    ],
)
def test_options_of_one_model_only(case, tmp_path, words, message, capsys):
    words = [*words, "--region", REGION, "--out", tmp_path / "x.npz", "-q"]
    assert command("evaluate", case / "config.yml", *words) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "x.txt"], "x.txt: expected a file name that ends in .npz"),
        (["--out", "x.npz", "--region", "1,2"], "--region 1,2: expected three numbers"),
        (["--out", "x.npz", "--region", "1,99,1"], "--region 1,99,1: expected degrees"),
        (["--out", "x.npz", "--catalog", "no.fits"], "--catalog no.fits: the file does not exist"),
        (
            ["--out", "x.npz", "--region", REGION, "--params", "CASE/meta.json"],
            "not a readable .npy",
        ),
        (["--out", "x.npz"], "no region: give --region"),
    ],
)
def test_wrong_arguments(case, words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [w.replace("CASE", str(case)) for w in words]
    assert command("evaluate", case / "config.yml", "--compat", "forcepho", *words) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_our_configuration_has_no_forcepho_numbers(tmp_path, capsys):
    path = tmp_path / "config.yml"
    path.write_text(yaml.safe_dump({"output": "run", "bands": list(BANDS)}))
    assert command("evaluate", path, "--compat", "forcepho", "--out", tmp_path / "x.npz") == 2
    assert "expected a configuration with forcepho's keys" in capsys.readouterr().err


def test_forcephos_numbers_need_stores(case, tmp_path, capsys):
    values = yaml.safe_load((case / "config.yml").read_text())
    del values["metastorefile"], values["pixelstorefile"]
    (tmp_path / "c.yml").write_text(yaml.safe_dump(values | {"fitsfiles": ["a.fits"]}))
    for name in ("peaks.fits", "splines.h5", "psf.h5"):
        (tmp_path / name).write_bytes((case / name).read_bytes())
    words = ["--region", REGION, "--compat", "forcepho", "--out", tmp_path / "x.npz"]
    assert command("evaluate", tmp_path / "c.yml", *words) == 2
    assert "--compat forcepho reads a meta and a pixel store" in capsys.readouterr().err


def spoil(case, folder, name, change):
    """A copy of the case's files, with one of them changed."""
    for path in case.iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    change(folder / name)
    return folder


def cut(path):
    path.write_bytes(path.read_bytes()[:3000])


def without_red(path):
    import json

    headers = json.loads(path.read_text())
    del headers["red"]["visit1/red_1"]
    path.write_text(json.dumps(headers))


def edit_header(**cards):
    def change(path):
        import json

        headers = json.loads(path.read_text())
        header = fits.Header.fromstring(headers["red"]["visit1/red_1"])
        for name, value in cards.items():
            if value is None:
                del header[name]
            else:
                header[name] = value
        headers["red"]["visit1/red_1"] = header.tostring()
        path.write_text(json.dumps(headers))

    return change


def edit_pixels(part, value):
    def change(path):
        import h5py

        with h5py.File(path, "a") as f:
            cube = f["red/visit1/red_1/data"][()]
            cube[..., part] = value
            f["red/visit1/red_1/data"][...] = cube

    return change


def other_type(path):
    import h5py

    with h5py.File(path, "a") as f:
        cube = f["red/visit1/red_1/data"][()]
        del f["red/visit1/red_1/data"]
        f["red/visit1/red_1/data"] = cube.astype(int)


def without_attribute(path):
    import h5py

    with h5py.File(path, "a") as f:
        del f.attrs["super_pixel_size"]


def twice(path):
    """One id two times in the JSON."""
    text = path.read_text()
    path.write_text(text.replace('"visit0/red_0"', '"visit1/red_1"'))


def prefix(path):
    path.write_text(path.read_text().replace('"visit0/red_0"', '"visit1"'))


def without_column(path):
    with fits.open(path) as hdus:
        table = hdus[1].data
        columns = [c for c in hdus[1].columns if c.name != "rhalf"]
        hdu = fits.BinTableHDU.from_columns(fits.ColDefs(columns))
        hdu.header["FILTERS"] = ",".join(BANDS)
        assert len(table)
        hdu.writeto(path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def without_psf(path):
    import h5py

    with h5py.File(path, "a") as f:
        del f["red"]


BAD_FILES = [
    ("pixels.h5", cut, "pixels.h5 is not a readable HDF5 file"),
    ("pixels.h5", other_type, "pixels.h5, red/visit1/red_1/data: dtype is int64, expected float32"),
    ("pixels.h5", without_attribute, "pixels.h5 lacks the attribute 'super_pixel_size'"),
    (
        "pixels.h5",
        edit_pixels(slice(0, 64), np.nan),
        "pixels.h5, red/visit1/red_1/data: pixel x = 16, y = 16 has a flux that is not finite",
    ),
    (
        "pixels.h5",
        edit_pixels(slice(64, 128), -1),
        "pixels.h5, red/visit1/red_1/data: pixel x = 16, y = 16 has a negative inverse error",
    ),
    ("psf.h5", without_psf, "psf.h5 has no group 'red'; it holds: blue"),
    ("psf.h5", cut, "psf.h5 is not a readable HDF5 file"),
    ("meta.json", cut, "meta.json, line 1: not readable as JSON"),
    ("meta.json", without_red, "red/visit1/red_1/data: this exposure is not in the meta store"),
    ("meta.json", edit_header(FILTER=None), "red/visit1/red_1: the header has no FILTER card"),
    (
        "meta.json",
        edit_header(FILTER="blue"),
        "red/visit1/red_1: FILTER is 'blue', expected 'red', the name of its band",
    ),
    ("meta.json", edit_header(NAXIS1=60), "pixels, its header says (60, 48)"),
    ("meta.json", twice, "'visit1/red_1' occurs twice; ids must be unique"),
    ("meta.json", prefix, "red/visit1: this exposure id is the beginning of the path of 'visit1/"),
    ("peaks.fits", without_column, "peaks.fits: no column 'rhalf'"),
]
COMPAT_FILES = [("splines.h5", cut, "splines.h5 is not a readable HDF5 file")]


def refuses(case, folder, name, change, message, capsys, *compat):
    spoil(case, folder, name, change)
    words = [f"--region={REGION}", *compat, "--out", folder / "x.npz"]
    assert command("evaluate", folder / "config.yml", *words, "-q") == 2
    error = capsys.readouterr().err
    assert message in error and name in error and len(error.splitlines()) == 1
    assert not (folder / "x.npz").exists()


@pytest.mark.parametrize(("name", "change", "message"), BAD_FILES + COMPAT_FILES)
def test_bad_files_are_one_sentence(case, name, change, message, tmp_path, capsys):
    refuses(case, tmp_path, name, change, message, capsys, "--compat", "forcepho")


@pytest.mark.parametrize(("name", "change", "message"), BAD_FILES[:-1])
def test_bad_files_for_our_model(case, name, change, message, tmp_path, capsys):
    """The same stores in ordinary use."""
    refuses(case, tmp_path, name, change, message, capsys)
