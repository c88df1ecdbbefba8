"""decam_8exp_grz through stores: the patch and the catalogue are those of the survey's files."""

import numpy as np
import pytest
import yaml
from astropy.table import Table
from realdata.common import CONFIGS, fit

from jaxpho import cli
from jaxpho.config import load_config
from jaxpho.data.ingest import read_images
from jaxpho.data.pack import pack_patch
from jaxpho.prepare import prepare_psfs
from jaxpho.run.field import read_positions

pytestmark = pytest.mark.realdata
BANDS = "grz"
FLOAT32 = np.finfo(np.float32).eps
SIGMA = 0.01  # by which the catalogues may differ
COLUMNS = ("ra", "dec", "rhalf", "sersic", "e1", "e2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, data_dir):
    """Stores made from the configuration of a fit, and a configuration that fits them."""
    folder = tmp_path_factory.mktemp("stores")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXPHO_DATA", str(data_dir.resolve()))
        words = [str(CONFIGS / "decam.yml"), "-q", "--output", str(folder)]
        assert cli.main(["preprocess", *words, "--workers", "2"]) == 0
    values = yaml.safe_load((CONFIGS / "decam.yml").read_text())
    entry = values["images"][0]  # preset, survey_dir and psf stay: they find the PSFs
    entry |= {"meta": str(folder / "meta.json"), "pixels": str(folder / "pixels.h5")}
    (folder / "stored.yml").write_text(yaml.safe_dump(values))
    return folder


@pytest.fixture(scope="module")
def packed(folder, data_dir):
    """The patch of both sources in all pixels: from the files, and from the stores."""
    out = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXPHO_DATA", str(data_dir.resolve()))
        for path in (CONFIGS / "decam.yml", folder / "stored.yml"):
            config = load_config(path)
            images = read_images(config.images, config.root, config.bands, require_psf=True)
            peaks = read_positions(config, images)
            prepare_psfs(images.exposures, peaks, folder / "psf.h5")
            out.append(pack_patch(images.exposures, peaks, bands=config.bands))
    return out


def test_packed_arrays(packed):
    direct, stored = packed
    assert stored.exposures == direct.exposures and len(direct.exposures) == 8
    one, other = direct.to_numpy(), stored.to_numpy()
    assert list(one) == list(other)
    for name in ("xpix", "ypix", "data", "ierr", "exposure_start", "exposure_N", "band_N"):
        np.testing.assert_array_equal(other[name], one[name], err_msg=name)
    for name in one:
        scale = np.abs(one[name]).max(initial=1e-30)
        # of the largest element: positions, and matrices whose small elements are differences
        np.testing.assert_allclose(
            other[name] / scale, one[name] / scale, rtol=0, atol=2 * FLOAT32, err_msg=name
        )


def test_catalogues(folder, data_dir):
    cache = f"psf_cache={folder / 'psf.h5'}"
    direct = fit("decam", data_dir, folder / "direct", cache)
    stored = fit(folder / "stored", data_dir, folder / "fit", cache)
    assert set(stored.rows) == set(direct.rows)
    np.testing.assert_allclose(stored.result.chi2, direct.result.chi2, rtol=1e-4)
    compared = 0
    for source, row in direct.rows.items():
        found = stored.rows[source]
        for name in [*COLUMNS, *(f"flux_{band}" for band in BANDS)]:
            error = float(row[f"{name}_err"])
            if not error > 0:  # the star has no shape
                continue
            scale = 3.6e6 if name in ("ra", "dec") else 1.0  # their errors are in mas, on the sky
            if name == "ra":
                scale *= np.cos(np.radians(row["dec"]))
            assert abs(float(found[name]) - float(row[name])) * scale < SIGMA * error, name
            compared += 1
    assert compared == 9 + 5  # the galaxy's and the star's free parameters


def test_table(folder):
    table = Table.read(folder / "exposures.ecsv")
    assert [str(b) for b in table["band"]] == list("gggrrzzz")
    assert (table["wcs_error"] < 1e-6).all() and (table["masked"] == 0).all()
    np.testing.assert_allclose(table["scale"], 0.2635, atol=2e-3)  # arcsec, of DECam
