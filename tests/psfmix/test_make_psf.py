"""The command make-psf from image to store, figures and FITS; and what it refuses."""

import hashlib
import json
import subprocess
import sys

import arviz
import galsim
import h5py
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from jaxpho.data.psfmodel import PSF_DTYPE
from jaxpho.data.psfstore import list_psf_groups, read_psf_store
from jaxpho.errors import InputError
from psfmix import make_psf
from psfmix.fit import render_parameters
from psfmix.make_psf import convert_psf_data, main
from psfmix.options import make_parser

OVERSAMPLE = 2
QUICK = ["--num_warmup", "25", "--num_samples", "25"]
UNSAMPLED = {"map", "--grid", "--locations"}


@pytest.fixture(scope="module")
def psf(tmp_path_factory):
    """A Moffat star, twice oversampled, as a FITS file."""
    path = tmp_path_factory.mktemp("psf") / "star.fits"
    star = galsim.Moffat(beta=3.5, fwhm=3.0).shear(g1=0.05, g2=0.02)
    data = star.drawImage(nx=61, ny=61, scale=1 / OVERSAMPLE).array.astype(float)
    hdu = fits.PrimaryHDU(data)
    hdu.header["OVERSAMP"] = OVERSAMPLE
    hdu.writeto(path)
    return path


def call(psf, out, *extra):
    words = ["--band", "r", "--psf_image", str(psf), "--outname", str(out), "-q"]
    return main([*words, *([] if UNSAMPLED & set(extra) else QUICK), *extra])


@pytest.fixture(scope="module")
def sampled(psf, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sampled") / "deep" / "er"
    assert call(psf, folder / "psf.h5", "--ngauss", "2", "--savefig", "--fitsout", "1") == 0
    return folder


def test_files(sampled):
    names = {path.name for path in sampled.iterdir()}
    expected = {"psf.h5", "psf_r.fits", "psf_r.png", "psf_r_trace.png", "psf_r_corner.png"}
    assert names == expected


def test_store(sampled, psf):
    with h5py.File(sampled / "psf.h5") as file:
        node = file["r"]
        assert node["parameters"].shape == (1, 9, 2)
        assert node["parameters"].dtype == PSF_DTYPE
        assert node.attrs["n_psf_per_source"] == 18
        np.testing.assert_array_equal(node["parameters"]["sersic_bin"][0, :, 0], np.arange(9))
        errors = ("residual", "ee_error", "centroid_error", "shape_error")
        for key in ("image", "image_sha256", "oversample", *errors, "version_jax"):
            assert key in node.attrs, key
        assert json.loads(node.attrs["options"])["ngauss"] == 2
        assert node.attrs["amplitude_sum"] == "stamp" and not node.attrs["includes_pixel"]
    model = read_psf_store(sampled / "psf.h5", "r").collapsed()
    image = fits.getdata(psf)
    drawn = render_parameters(model.parameters[0], image.shape, OVERSAMPLE)
    residual = np.abs(drawn - image).max() / image.max()
    assert residual == pytest.approx(model.attrs["residual"], rel=1e-3) and residual < 0.05
    assert model.parameters["amp"].sum() == pytest.approx(image.sum(), rel=1e-5)
    assert np.abs(model.parameters["xcr"]).max() < 0.05


def test_fits(sampled, psf):
    with fits.open(sampled / "psf_r.fits") as hdus:
        names = [hdu.name for hdu in hdus]
        assert names == ["PRIMARY", "TARGET", "MODEL", "RESIDUAL", "PARAMETERS"]
        np.testing.assert_allclose(hdus["TARGET"].data, fits.getdata(psf), rtol=1e-6)
        np.testing.assert_allclose(
            hdus["RESIDUAL"].data, hdus["MODEL"].data - hdus["TARGET"].data, atol=1e-7
        )
    table = Table.read(sampled / "psf_r.fits", hdu="PARAMETERS")
    assert len(table) == 2 and str(table["Cxx"].unit) == "pix2"


def test_sampling_is_never_worse_than_the_optimum(sampled, psf, tmp_path):
    assert call(psf, tmp_path / "map.h5", "--ngauss", "2", "--method", "map") == 0
    image = fits.getdata(psf)

    def chi2(path):
        model = read_psf_store(path, "r").collapsed()
        return np.sum(
            (render_parameters(model.parameters[0], image.shape, OVERSAMPLE) - image) ** 2
        )

    optimum = chi2(tmp_path / "map.h5")
    assert chi2(sampled / "psf.h5") <= optimum * (1 + 1e-6)
    attrs = read_psf_store(sampled / "psf.h5", "r").attrs
    assert attrs["log_likelihood"] >= attrs["log_likelihood_optimum"]


def test_added_groups_and_overwrite(psf, tmp_path, capsys):
    out = tmp_path / "psf.h5"
    quick = ("--method", "map", "--savefig", "0", "--ngauss", "1")
    assert call(psf, out, *quick) == 0
    assert call(psf, out, *quick, "--band", "i/ccd1", "--normalize", "unit") == 0
    assert list_psf_groups(out) == ["i/ccd1", "r"]
    assert read_psf_store(out, "i/ccd1").amplitude_sum == "unit"
    before = out.read_bytes()
    assert call(psf, out, *quick, "--overwrite", "0") == 2
    assert "has a group 'r' already (overwrite is off)" in capsys.readouterr().err
    assert out.read_bytes() == before
    assert call(psf, out, *quick, "--ngauss", "2", "--overwrite", "1") == 0
    assert read_psf_store(out, "r").collapsed().ngauss == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["psf.h5"]


def test_forcepho_names(psf, tmp_path):
    out = tmp_path / "psf.h5"
    call(psf, out, "--method", "map", "--savefig", "0", "--ngauss", "2", "--forcepho-names")
    with h5py.File(out) as file:
        assert file["r/parameters"].shape == (1, 18)
        assert {"xcen", "ycen"} < set(file["r/parameters"].dtype.names)
    assert read_psf_store(out, "r").collapsed().ngauss == 2


def test_ladder_and_tolerance(psf, tmp_path, caplog):
    out = tmp_path / "psf.h5"
    extra = ("--method", "map", "--ladder", "1:4", "--fitsout", "1")
    assert call(psf, out, *extra, "--tolerance", "2%") == 0
    table = Table.read(tmp_path / "psf_r.fits", hdu="LADDER")
    assert list(table["ngauss"]) == [1, 2, 3, 4]
    assert np.all(np.diff(table["residual"]) < 0)
    stored = read_psf_store(out, "r").collapsed()
    within = np.asarray(table["residual"]) <= 2.0
    assert stored.ngauss == table["ngauss"][np.argmax(within)]
    assert (tmp_path / "psf_r_ladder.png").exists()
    assert call(psf, out, "--method", "map", "--ladder", "1:2", "--tolerance", "1e-6") == 0
    assert "no mixture of the ladder reaches" in caplog.text
    assert read_psf_store(out, "r").collapsed().ngauss == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, r"shape \(61,\); expected a 2-D image"),
        ({"data": np.full((21, 21), np.nan)}, "no finite pixel"),
        ({"data": -np.ones((21, 21))}, "both must be positive"),
        ({"args": ["--trim", "31"]}, "trim of 31 pixels leaves nothing"),
        ({"args": ["--oversample", "0"]}, "--oversample is 0.0; expected a positive number"),
        ({"args": ["--ngauss", "16"], "data": np.ones((9, 9))}, "81 usable pixels for 16"),
        ({"args": ["--ngauss", "0"]}, "--ngauss is 0; expected 1 to 16"),
        ({"args": ["--tolerance", "often"]}, "--tolerance is 'often'"),
        ({"args": ["--ladder", "4"]}, "--ladder is '4'"),
        ({"args": ["--snr", "-1"]}, "snr is -1"),
        ({"args": ["--num_chains", "0"]}, "num_chains is 0"),
        ({"args": ["--band", ""]}, "--band is ''"),
    ],
)
def test_bad_input_leaves_the_store_alone(psf, tmp_path, capsys, change, message):
    out = tmp_path / "psf.h5"
    with h5py.File(out, "w") as file:
        file["i/parameters"] = np.zeros(3)
    before = out.read_bytes()
    image = psf
    if "data" in change or not change:
        image = tmp_path / "bad.fits"
        hdu = fits.PrimaryHDU(change.get("data", np.ones(61)))
        hdu.header["OVERSAMP"] = 2
        hdu.writeto(image)
    assert call(image, out, "--ngauss", "1", *change.get("args", ())) == 2
    error = capsys.readouterr().err
    assert error.startswith("make-psf: ") and error.count("\n") == 1
    assert message.replace("\\", "") in error
    assert out.read_bytes() == before
    assert {p.name for p in tmp_path.iterdir()} <= {"psf.h5", "bad.fits"}


def test_bad_stores(psf, tmp_path, capsys):
    text = tmp_path / "notes.h5"
    text.write_text("not HDF5")
    assert call(psf, text) == 2
    assert "cannot be opened as an HDF5 file" in capsys.readouterr().err
    assert text.read_text() == "not HDF5"
    assert call(psf, tmp_path) == 2
    assert "is a folder" in capsys.readouterr().err
    assert call(psf, text / "below.h5") == 2
    assert "cannot be written to" in capsys.readouterr().err


def test_locked_store(psf, tmp_path, capsys):
    out = tmp_path / "psf.h5"
    with h5py.File(out, "w") as file:
        file["i/parameters"] = np.zeros(3)
    hold = f"import h5py, sys; f = h5py.File({str(out)!r}, 'a'); print('held', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline().strip() == "held"
        assert call(psf, out) == 2
        other.communicate("\n")
    assert "cannot be opened" in capsys.readouterr().err


def test_script_from_another_directory(psf, tmp_path):
    script = make_psf.__file__
    done = subprocess.run(
        [
            sys.executable, script, "--band", "g", "--psf_image_name", str(psf), "--method", "map",
            "--ngauss", "1", "--outname", "mixtures/psf.h5", "--overwrite", "1", "--savefig",
            "--fitsout", "1",
        ],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "PSF mixture: 1 Gaussians" in done.stderr and "wrote mixtures/psf.h5" in done.stderr
    found = {p.name for p in (tmp_path / "mixtures").iterdir()}
    assert found == {"psf.h5", "psf_g.fits", "psf_g.png"}


def test_help_names_units():
    text = make_parser().format_help()
    for word in ("arcsec", "image pixels", "max(image)", "exit codes", "stamp"):
        assert word in text


def test_varying(tmp_path, capsys):
    """A cube and a table of positions: one group with locations, and a figure."""
    stars = [galsim.Moffat(beta=3.5, fwhm=2 + 0.1 * k) for k in range(5)]
    cube = [s.drawImage(nx=31, ny=31, scale=1 / OVERSAMPLE).array.astype(float) for s in stars]
    hdu = fits.PrimaryHDU(np.array(cube))
    hdu.header["OVERSAMP"] = OVERSAMPLE
    hdu.writeto(tmp_path / "cube.fits")
    places = Table({"x": [0.0, 100, 0, 100, 50], "y": [0.0, 0, 100, 100, 50]})
    places.write(tmp_path / "places.csv")
    out = tmp_path / "psf.h5"
    where = ("--locations", str(tmp_path / "places.csv"), "--ngauss", "2")
    assert call(tmp_path / "cube.fits", out, *where, "--fitsout") == 0
    model = read_psf_store(out, "r").collapsed()
    assert model.parameters.shape == (5, 2)
    np.testing.assert_allclose(model.locations[:, 0], places["x"])
    assert "left_out" in model.attrs and (tmp_path / "psf_r.png").exists()
    checksum = hashlib.sha256((tmp_path / "cube.fits").read_bytes()).hexdigest()
    assert model.attrs["image_sha256"] == checksum and model.attrs["image_ext"] == "0 PRIMARY"
    assert model.attrs["oversample_from"] == "card OVERSAMP"
    with fits.open(tmp_path / "psf_r.fits") as hdus:
        np.testing.assert_allclose(hdus["TARGET"].data, cube, rtol=1e-6)
        worst = np.abs(hdus["RESIDUAL"].data).max((1, 2)) / np.max(cube, (1, 2))
        assert worst.max() == pytest.approx(model.attrs["residual"], rel=1e-3)
        assert len(hdus["PARAMETERS"].data) == 10
        np.testing.assert_array_equal(hdus["PARAMETERS"].data["x"][::2], places["x"])
    # the same images, one of them larger, in a folder
    for k, picture in enumerate(cube):
        part = np.pad(picture, 2) if k == 0 else picture
        fits.PrimaryHDU(part, hdu.header).writeto(tmp_path / f"{k}.fits")
    places["file"] = [f"{k}.fits" for k in range(5)]
    places.write(tmp_path / "files.csv")
    files = ("--locations", str(tmp_path / "files.csv"), "--ngauss", "1", "--savefig", "0")
    assert call(tmp_path, tmp_path / "b.h5", *files, "--fitsout") == 0
    attrs = read_psf_store(tmp_path / "b.h5", "r").attrs
    assert attrs["image_count"] == 5 and len(attrs["image_sha256"]) == 64
    with fits.open(tmp_path / "b_r.fits") as hdus:
        assert hdus["MODEL", 1].shape == (35, 35) and hdus["MODEL", 5].shape == (31, 31)
    assert call(tmp_path / "cube.fits", out, *where, "--ladder", "1:2") == 2
    assert "are for one image" in capsys.readouterr().err
    assert call(tmp_path / "cube.fits", out, "--grid", "8") == 2
    assert "--grid is '8'; expected NX,NY,N" in capsys.readouterr().err


@pytest.mark.parametrize("includes", [False, True])
def test_convert_psf_data(includes):
    """The same image from the mixture in image pixels and from the stored one."""
    from psfmix.model import brightness

    shape, oversample = (40, 51), 2.0
    mixture = {
        "amp": [0.7, 0.3], "x": [25.5, 24.0], "y": [19.0, 21.0], "Cxx": [9.0, 60.0],
        "Cyy": [7.0, 50.0], "Cxy": [1.0, -8.0],
    }  # fmt: skip
    stored = convert_psf_data(
        mixture, shape=shape, oversample=oversample, nradii=3, includes_pixel=includes
    )
    assert stored.shape == (1, 3, 2) and stored.dtype == PSF_DTYPE
    np.testing.assert_array_equal(stored["sersic_bin"][0], [[0, 0], [1, 1], [2, 2]])
    y, x = np.indices(shape, float)
    raw = np.array([mixture[k] for k in ("amp", "x", "y", "Cxx", "Cyy", "Cxy")]).T
    raw[:, 3:5] -= 0.0 if includes else 1 / 12
    expected = brightness(raw, x, y, *[0.0 if includes else 1 / 12] * 2)
    drawn = render_parameters(stored[0, 1], shape, oversample, includes_pixel=includes)
    np.testing.assert_allclose(drawn, expected, atol=1e-6 * expected.max())
    mixture["Cyy"] = [0.05, 50.0]
    if not includes:
        with pytest.raises(InputError, match="narrower than the image's pixel"):
            convert_psf_data(mixture, shape=shape)


def test_draws_for_arviz(psf, tmp_path, capsys, monkeypatch):
    """The file that ArviZ reads has the draws behind the stored mixture."""
    out = tmp_path / "psf.h5"
    words = ["--ngauss", "2", "--savefig", "0", "--fit_bg"]
    assert call(psf, out, *words, "--arviz", "--num_chains", "3") == 0
    assert {p.name for p in tmp_path.iterdir()} == {"psf.h5", "psf_r_posterior.nc"}
    data = arviz.from_netcdf(tmp_path / "psf_r_posterior.nc")
    draws, stats = data["posterior"], data["sample_stats"]
    assert draws["amp"].dims == ("chain", "draw", "component") and draws["amp"].shape == (3, 25, 2)
    assert draws["background"].dims == ("chain", "draw")
    assert (draws["Cxx"] > 0).all() and draws["Cxx"].attrs["units"] == "pixel2"
    for name, kind in (("lp", "f"), ("diverging", "b"), ("n_steps", "i"), ("acceptance_rate", "f")):
        assert stats[name].shape == (3, 25) and stats[name].dtype.kind == kind, name
    assert (stats["lp"] < 0).all() and (stats["n_steps"] > 0).all()
    with h5py.File(out) as file:
        attrs = dict(file["r"].attrs)
        amp = file["r/parameters"]["amp"][0, 0]
    assert stats["diverging"].sum() == attrs["divergences"]
    assert data.attrs["image_sha256"] == attrs["image_sha256"]
    # its amplitudes sum to the image less its background, and it is no worse than the optimum
    data_sum = fits.getdata(psf).sum() - attrs["background"] * fits.getdata(psf).size
    assert amp.sum() == pytest.approx(data_sum, rel=1e-5)
    assert attrs["log_likelihood"] >= attrs["log_likelihood_optimum"]
    assert call(psf, tmp_path / "map.h5", *words, "--method", "map") == 0
    optimum = read_psf_store(tmp_path / "map.h5", "r").attrs
    for key in ("residual", "ee_error", "centroid_error", "shape_error"):
        assert attrs[key] <= optimum[key] * (1 + 1e-3), key
    assert draws["background"].min() < optimum["background"] < draws["background"].max()
    # the stored mixture is a draw, or the optimum that they lie about
    spread = draws["amp"].values.reshape(-1, 2)
    assert (np.abs(amp - spread.mean(0)) < 6 * spread.std(0)).all()
    for extra in (["--method", "map"], ["--grid", "64,64,2"]):
        assert call(psf, out, *words[:-1], "--arviz", *extra) == 2
        assert "--arviz: expected the draws of --method nuts" in capsys.readouterr().err
    monkeypatch.setattr("jaxpho.inference_data.find_spec", lambda name: None)
    before = out.read_bytes()
    assert call(psf, out, *words, "--arviz") == 2
    assert "--arviz: arviz is not installed; 'pip install" in capsys.readouterr().err
    assert out.read_bytes() == before
