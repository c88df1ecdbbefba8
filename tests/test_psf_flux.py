"""PSF stores of forcepho, made for nine Sersic radii, in ordinary fits with other mixtures.

A store repeats its mixture for each of forcepho's nine radii; our mixtures have 8 to 16. Whatever
the way in, the rendered pixels of a source must sum to its flux, and a fit must find it.
"""

import galsim
import jax
import numpy as np
import pytest
import yaml
from astropy.io import fits
from synthetic_result import REFERENCE, make_wcs

from jaxpho import cli
from jaxpho.data.arrays import exposure_from_arrays
from jaxpho.data.catalog import Peak
from jaxpho.data.metastore import write_meta_store
from jaxpho.data.options import ImageOptions, PSFOptions
from jaxpho.data.packing import PackedPatch
from jaxpho.data.pixelstore import write_pixel_store
from jaxpho.data.psfmodel import PSF_DTYPE, PSFModel
from jaxpho.data.psfstore import list_psf_groups, read_psf_store, write_psf_store
from jaxpho.data.skyregion import Circle
from jaxpho.errors import InputError
from jaxpho.fit.driver import fit_patch
from jaxpho.fit.evaluate import model_pixels, problem_of
from jaxpho.fit.options import FitOptions
from jaxpho.output.catalog import read_catalog
from jaxpho.schema import build

SIZE, SCALE, FLUX, RHALF = 64, 0.1, 500.0, 0.25
AMPLITUDE, SIGMA = (0.75, 0.25), (1.3, 2.6)
RADII = 9
# an exponential disk within 12 half-light radii misses 1e-7; the mixtures are good to 2e-4
FLUX_RTOL = 5e-4
LAYOUTS = ("full", "ragged")


def psf_model(layout):
    """Two Gaussians for each radius; ragged: their sum's equivalent for radii 5 to 8."""
    rows = []
    for radius in range(RADII):
        if layout == "ragged" and radius >= 5:
            variance = float(np.dot(AMPLITUDE, np.square(SIGMA)))
            rows.append((1.0, 0, 0, variance, variance, 0, radius))
        else:
            rows += [(a, 0, 0, s**2, s**2, 0, radius) for a, s in zip(AMPLITUDE, SIGMA,
                                                                      strict=True)]  # fmt: skip
    return PSFModel(np.array(rows, PSF_DTYPE)[None])


def truth():
    """The image of the galaxy by GalSim, without noise."""
    psf = galsim.Sum(
        [galsim.Gaussian(sigma=s * SCALE, flux=a) for a, s in zip(AMPLITUDE, SIGMA, strict=True)]
    )
    galaxy = galsim.Exponential(half_light_radius=RHALF, flux=FLUX)
    image = galsim.Convolve(galaxy, psf).drawImage(nx=SIZE, ny=SIZE, scale=SCALE, dtype=float)
    return image.array


@pytest.fixture(scope="module", params=LAYOUTS)
def case(request, tmp_path_factory):
    """FITS image, stores, catalogue, and a configuration for each way in."""
    folder = tmp_path_factory.mktemp(request.param)
    image, sigma = truth(), 0.05
    wcs = make_wcs(SCALE, 0.0, ((SIZE + 1) / 2, (SIZE + 1) / 2))
    header = wcs.to_header()
    header["BUNIT"], header["FILTER"] = "nJy", "g"
    error = np.full(image.shape, sigma)
    hdus = [fits.PrimaryHDU(), fits.ImageHDU(image.astype("f4"), header, "SCI")]
    hdus.append(fits.ImageHDU(error.astype("f4"), header, "ERR"))
    fits.HDUList(hdus).writeto(folder / "g.fits")
    write_psf_store(folder / "psf.h5", "g", psf_model(request.param), forcepho=True)
    header["NAXIS1"] = header["NAXIS2"] = SIZE
    write_meta_store(folder / "meta.json", {"g": {"visit/g": header}})
    attrs = {"counts_to_flux": 1.0, "flux_units": "nJy"}
    write_pixel_store(folder / "pixels.h5", {("g", "visit/g"): (image, 1 / error, attrs)})
    text = "id,ra,dec,rhalf,sersic,q,pa,flux_g\n"
    text += f"1,{REFERENCE[0]},{REFERENCE[1]},{RHALF},1.0,1.0,0.0,{FLUX}\n"
    (folder / "peaks.csv").write_text(text)
    names = ["id", "source_index", "is_active", "is_valid", "n_iter", "n_patch"]
    dtype = [(n, "i4") for n in names] + [("roi", "f4")]
    dtype += [(n, "f8") for n in ("ra", "dec", "q", "pa", "sersic", "rhalf", "g")]
    table = np.zeros(1, dtype)
    for name, value in zip(("ra", "dec", "q", "sersic", "rhalf", "g"),
                           (*REFERENCE, 1.0, 1.0, RHALF, FLUX), strict=True):  # fmt: skip
        table[name] = value
    hdu = fits.BinTableHDU(table)
    hdu.header["FILTERS"] = "g"
    hdu.writeto(folder / "peaks.fits")
    common = {
        "bands": ["g"], "output": "run", "peaks": {"file": "peaks.csv"},
        "sources": {"sersic_mixture": "k12"}, "sample": {"method": "none"},
        "patches": {"pixels": "all"}, "products": {"plots": False},
    }  # fmt: skip
    psf = {"store": "psf.h5"}
    direct = {"band": "g", "files": "g.fits", "science": "SCI", "error": "ERR", "psf": psf}
    stores = {"meta": "meta.json", "pixels": "pixels.h5", "psf": psf}
    configs = {
        "fits": common | {"images": [direct]},
        "stores": common | {"images": [stores]},
        "forcepho": {
            "bandlist": ["g"], "raw_catalog": "peaks.fits", "psfstorefile": "psf.h5",
            "pixelstorefile": "pixels.h5", "metastorefile": "meta.json", "outbase": "run",
            "patch_minradius": 3.2, "maxactive_per_patch": 3,
        },
    }  # fmt: skip
    for name, values in configs.items():
        (folder / f"{name}.yml").write_text(yaml.safe_dump(values))
    yield folder
    jax.clear_caches()


def test_the_store_is_forcephos(case):
    model = read_psf_store(case / "psf.h5", "g")
    assert list_psf_groups(case / "psf.h5") == ["g"]
    assert set(model.parameters["sersic_bin"][0]) == set(range(RADII))
    assert (model.collapsed() is None) == ("ragged" in str(case))


def peak():
    values = {"rhalf": RHALF, "sersic": 1.0, "q": 1.0, "pa": 0.0}
    return Peak("1", "sersic", *REFERENCE, values, {("flux", "g"): FLUX}, frozenset({"all"}))


def rendered(packed, mixture):
    problem, table, n = problem_of(packed, [peak()], FitOptions(), mixture)
    return sum(
        m.astype(float).sum() for m in model_pixels(packed, problem, table.start(n), "fourth")
    )


@pytest.mark.parametrize("mixture", ["k8", "k12", "k16"])
def test_every_way_of_packing(case, mixture, tmp_path):
    n = int(mixture[1:])
    image = build(
        ImageOptions,
        {"band": "g", "files": "g.fits", "science": "SCI", "error": "ERR",
         "psf": {"store": "psf.h5"}},
    )  # fmt: skip
    assert isinstance(image.psf, PSFOptions)
    stores = (case / "meta.json", case / "pixels.h5", case / "psf.h5")
    exposure = exposure_from_arrays(
        truth(), 0.05, read_psf_store(case / "psf.h5", "g"), band="g",
        wcs=make_wcs(SCALE, 0.0, ((SIZE + 1) / 2, (SIZE + 1) / 2)),
    )  # fmt: skip
    ways = {
        "fits": PackedPatch.from_fits([image], [peak()], base_dir=case, n_radii=n),
        "stores": PackedPatch.from_stores(
            *stores, [peak()], region=Circle(*REFERENCE, 10.0), n_radii=n
        ),
        "arrays": PackedPatch.from_arrays([exposure], [peak()], n_radii=n),
    }
    ways["fits"].save(tmp_path / "p.npz")
    ways["loaded"] = PackedPatch.load(tmp_path / "p.npz")
    for name, packed in ways.items():
        assert rendered(packed, mixture) == pytest.approx(FLUX, rel=FLUX_RTOL), name


def command(*words):
    return cli.main([str(w) for w in words])


@pytest.mark.parametrize("config", ["fits", "stores", "forcepho"])
def test_commands(case, config, tmp_path):
    path, catalog = case / f"{config}.yml", case / "peaks.csv"
    if config == "forcepho":
        catalog = case / "peaks.fits"
    words = ["--catalog", catalog, "-q", f"--region={REFERENCE[0]},{REFERENCE[1]},10"]
    assert command("evaluate", path, *words, "--out", tmp_path / "o.npz") == 0
    found = np.load(tmp_path / "o.npz")
    model = (found["data"] - found["residual"]).astype(float)
    assert found["n_radii"] == 12
    assert model.sum() == pytest.approx(FLUX, rel=FLUX_RTOL)
    assert command("render", path, *words, "--out", tmp_path / "images") == 0
    (file,) = (tmp_path / "images").iterdir()
    image = fits.getdata(file, "MODEL").astype(float)
    assert image.sum() == pytest.approx(FLUX, rel=FLUX_RTOL)
    # as GalSim has it, pixel by pixel: nothing is made up for elsewhere
    assert np.abs(image - truth()).max() < 2e-3 * truth().max()


@pytest.mark.parametrize("config", ["fits", "stores"])
def test_a_fit_finds_the_flux(case, config, tmp_path):
    words = ["-q", "--output", tmp_path / "run"]
    assert command("fit", case / f"{config}.yml", *words) == 0
    row = read_catalog(tmp_path / "run" / "catalog.fits")[0]
    assert row["flux_g"] == pytest.approx(FLUX, rel=FLUX_RTOL)
    assert row["rhalf"] == pytest.approx(RHALF, rel=2e-3)


def test_a_patch_for_fewer_radii_than_the_mixture_has_is_refused(case):
    """Its outer Gaussians would have no PSF, and their light would be lost without a word."""
    exposure = exposure_from_arrays(
        truth(), 0.05, read_psf_store(case / "psf.h5", "g"), band="g", pixel_scale=SCALE
    )
    source = Peak("1", "sersic", 0.0, 0.0)
    packed = PackedPatch.from_arrays([exposure], [source], n_radii=9)
    for call in (
        lambda: problem_of(packed, [source], FitOptions(), "k12"),
        lambda: fit_patch(packed, [source], mixture="k12"),
    ):
        with pytest.raises(InputError, match="packed for 9 .*k12 has 12.*n_radii=12"):
            call()
