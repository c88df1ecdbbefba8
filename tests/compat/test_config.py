"""forcepho's configuration files: read as they are, and what is refused."""

import logging

import numpy as np
import pytest
import yaml
from store_case import CENTRE, write_case

from jaxpho.compat.bounds import flux_bounds
from jaxpho.compat.config import is_forcepho, parse_config
from jaxpho.config import load_config
from jaxpho.errors import InputError

PLAIN = {
    "bandlist": ["r"],
    "psfstorefile": "psf.h5",
    "pixelstorefile": "pixels.h5",
    "metastorefile": "meta.json",
}


def parse(**values):
    return parse_config(PLAIN | values, "c.yml", "/base")


def test_paths_bounds_and_other_names(monkeypatch):
    monkeypatch.setenv("FIELD", "deep")
    found = parse(
        store_directory="$FIELD/stores",
        splinedatafile="/tables/s.h5",
        peak_catalog="peaks.fits",
        sqrtq_range=[0.3, 0.9],
        dpos=[0.1, 0.2],
        bounds_kwargs={"n_sig_flux": 3},
        warmup=128,
        bandlist="r",
        max_snr=None,
        outbase="",
    )
    assert found.pixelstorefile == "/base/deep/stores/pixels.h5"
    assert found.psfstorefile == "/base/deep/stores/psf.h5"
    assert found.splinedatafile == "/tables/s.h5" and found.raw_catalog == "/base/peaks.fits"
    assert found.bounds_kwargs.sqrtq_range == [0.3, 0.9] and found.bounds_kwargs.n_sig_flux == 3
    assert found.warmup == [128] and found.bandlist == ["r"]
    assert found.max_snr == 0 and found.outbase is None


def test_keys_without_meaning_here(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("jaxpho"), "propagate", True)
    with caplog.at_level(logging.WARNING, "jaxpho"):
        parse(super_pixel_size=8, gtol=1e-5, maxactive_per_pacth=3, colour="blue")
    # pytest 9 listens to loggers that do not propagate as well: once is enough
    assert list(dict.fromkeys(r.getMessage() for r in caplog.records)) == [
        "c.yml: key 'maxactive_per_pacth' is not used; did you mean 'maxactive_per_patch'?",
        "c.yml: key 'colour' is not used",
    ]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"metastorefile": None},
            "expected pixelstorefile and metastorefile, or fitsfiles; found o",
        ),
        ({"bandlist": []}, "bandlist: expected at least one band"),
        ({"sampling_draws": "many"}, "'sampling_draws': expected a whole number, found 'many'"),
        ({"region": {"ra": 1.0, "dec": 100.0, "radius_arcsec": 1}}, "'region.dec'.*at most 90"),
        ({"region": {"ra": 1.0, "dec": 10.0}}, "radius_arcsec"),
        ({"rhalf_range": [0.3, 0.03]}, r"rhalf_range: expected \[low, high\]"),
        ({"bounds_kwargs": 3}, "'bounds_kwargs': expected a mapping"),
        ({"bounds_kwargs": {"npix": 3}}, "unknown key 'npix'.*'n_pix'"),
        ({"tweak_background": "low", "low": 3}, "'low', which tweak_background names: expected a"),
        ({"tweak_background": "low", "low": {"r": "x"}}, "background.*number"),
        ({"write_residuals": "no way"}, "'write_residuals': expected true or false"),
        ({"dpos": [0.1]}, "dpos: expected two numbers"),
    ],
)
def test_bad_values(values, message):
    with pytest.raises(InputError, match=message):
        parse(**values)


def test_whose_configuration():
    assert is_forcepho({"bandlist": ["r"]}) and is_forcepho({"fitsfiles": []})
    assert not is_forcepho({"bands": ["r"], "images": []})


def test_flux_bounds():
    """From the definition: n sqrt(f) either way; below n^2/4 the range reaches -n^2/4 to n^2/4."""
    low, high = flux_bounds(np.array([100.0, 4.0, -1.0]), 5.0)
    np.testing.assert_allclose(low, [50.0, -6.25, -6.25])
    np.testing.assert_allclose(high, [150.0, 14.0, 6.25])


def test_the_fit_accepts_it(tmp_path):
    """`jaxpho fit` of a file of forcepho: its stores, sources and bounds."""
    path = write_case(tmp_path)
    values = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(values | {"outbase": "results"}))
    config = load_config(path, ["patches.max_active=3"])
    assert config.bands == ["blue", "red"]
    assert config.output == str(tmp_path / "results")
    (entry,) = config.images
    assert entry.meta == str(tmp_path / "meta.json") and entry.psf.store.endswith("psf.h5")
    assert entry.sky.value == "TWEAKBKG"
    assert config.peaks.format == "forcepho" and config.peaks.file.endswith("peaks.fits")
    assert config.fit.q_min == pytest.approx(0.16)
    assert config.fit.priors["position"].high == pytest.approx(0.06)
    assert (config.fit.priors["sersic"].low, config.fit.priors["sersic"].high) == (1.0, 5.0)
    assert config.patches.max_active == 3 and config.sample.num_warmup == 256
    # what is written then has forcepho's layout, and its names
    assert config.products.forcepho and config.products.forcepho_scene == "outscene.fits"
    named = {"scene_catalog": "deep/scene", "write_residuals": 0}
    path.write_text(yaml.safe_dump(values | named))
    products = load_config(path).products
    assert products.forcepho_scene == "scene.fits" and not products.residuals
    del values["raw_catalog"]
    path.write_text(yaml.safe_dump(values))
    assert load_config(path).peaks.file is None


def test_background_levels_by_band(tmp_path):
    """forcepho's documentation has them in the file itself; packed and fitted pixels agree."""
    from jaxpho.compat.evaluate import Request, evaluate_patch
    from jaxpho.data.forcepho import Circle
    from jaxpho.data.ingest import read_images

    path = write_case(tmp_path)
    values = yaml.safe_load(path.read_text())
    region = Circle(*CENTRE, 0.5)
    plain = evaluate_patch(
        parse_config(values | {"tweak_background": None}, "c.yml", tmp_path), Request(region=region)
    )
    levels = {"tweak_background": "tweakbg", "tweakbg": {"red": 0.25}}
    found = evaluate_patch(parse_config(values | levels, "c.yml", tmp_path), Request(region=region))
    first = found["exposure_start"][found["band_start"][1]]
    np.testing.assert_array_equal(found["data"][:first], plain["data"][:first])
    np.testing.assert_allclose(found["data"][first:], plain["data"][first:] - 0.25, atol=1e-6)
    path.write_text(yaml.safe_dump(values | levels))
    config = load_config(path)
    images = read_images(config.images, config.root, config.bands, require_psf=True)
    assert [(e.band, e.level) for e in images.exposures] == [("blue", 0)] * 3 + [("red", 0.25)] * 3
    files = {"pixelstorefile": None, "metastorefile": None, "fitsfiles": ["a.fits"]}
    path.write_text(yaml.safe_dump(values | levels | files))
    with pytest.raises(InputError, match="levels by band are for stores"):
        load_config(path)
