"""A whole run of forcepho's configuration: its layout, ours and ArviZ's tell the same story."""

import arviz as az
import jax
import numpy as np
import pytest
import yaml
from astropy.io import fits
from store_case import BANDS, CENTRE, write_case

from jaxpho import cli
from jaxpho.compat.results import read_forcepho_samples
from jaxpho.compat.units import from_forcepho
from jaxpho.output.residuals import read_residuals
from jaxpho.output.samples import read_samples


@pytest.mark.slow
def test_run_of_forcephos_configuration(tmp_path):
    path = write_case(tmp_path)
    values = yaml.safe_load(path.read_text())
    values |= {"outbase": "out", "scene_catalog": "scene.fits", "sampling_draws": 100,
               "warmup": [25], "maxactive_per_patch": 2, "patch_minradius": 0.3}  # fmt: skip
    path.write_text(yaml.safe_dump(values))
    words = ["--set", "sample.max_rounds=1", "--set", "products.arviz=true",
             "--set", "products.plots=false", "-q"]  # fmt: skip
    assert cli.main(["fit", str(path), *words]) in (0, 1)
    out, archive = tmp_path / "out", tmp_path / "out" / "forcepho"
    scene = fits.getdata(archive / "scene.fits")
    assert len(scene) == 3 and (scene["n_iter"] == 100).all()
    log = yaml.safe_load((archive / "scene_log.json").read_text())
    assert sorted(log["sourcelog"], key=int) == ["0", "1", "2"] and len(log["patchlog"]) == 2
    for patch in log["patchlog"]:
        theirs = read_forcepho_samples(archive / "patches" / f"patch{patch}_samples.h5")
        ours = read_samples(out / "patches" / f"patch{patch}_samples.h5")
        tree = az.from_netcdf(out / "patches" / f"patch{patch}_posterior.nc")
        n = len(theirs.arrays["active"])
        assert theirs.bands == list(BANDS) and ours.samples.shape[:2] == (4, 25)
        assert len(theirs.arrays.get("fixed", ())) == len(ours.source_ids) - n
        back = from_forcepho(theirs.chain, len(BANDS), ours.reference[1])
        for column, (owner, name, band) in enumerate(ours.labels):
            draws = ours.samples[..., column]
            found = back[name][:, owner]
            found = (found[:, BANDS.index(band)] if band else found).reshape(4, 25)
            size = np.abs(draws).max()
            np.testing.assert_allclose(found, draws, rtol=1e-6, atol=1e-6 * size, err_msg=name)
            at = {"source": str(ours.source_ids[owner])} | ({"band": band} if band else {})
            np.testing.assert_array_equal(tree["posterior"][name].sel(at).values, draws)
        # the warm-up has at least its own iterations; the mass matrix is of these parameters
        assert theirs.arrays["warmup/chain"].shape[0] == 4 * ours.warmup.shape[1] >= 100
        free = theirs.arrays["cov"].diagonal() > 0
        assert free.sum() == len(ours.labels) == len(ours.mass_matrix_final)
        np.linalg.cholesky(ours.mass_matrix_initial)
        # draws lie within the bounds, and about where the catalogue says
        chain, bounds = theirs.arrays["chaincat"], theirs.arrays["bounds"]
        for name in ("ra", "dec", "q", "sersic", "rhalf", "pa"):
            low, high = (bounds[name][:, i, None] for i in (0, 1))
            tiny = 1e-6 * (high - low)
            assert ((chain[name] >= low - tiny) & (chain[name] <= high + tiny)).all(), name
        for name, fitted in zip(BANDS, (theirs.arrays["final"][b] for b in BANDS), strict=True):
            spread = chain[name].std(1)
            assert (np.abs(chain[name].mean(1) - fitted) < 5 * spread).all()
        residuals = read_residuals(archive / "patches" / f"patch{patch}_residuals.h5")
        assert set(residuals) == set(BANDS) and set(residuals["red"]) == {
            f"visit{e}/red_{e}" for e in range(3)
        }
        # forcepho's own formula puts the sources on the pixels: crpix + CW (sky - crval)
        one = residuals["red"]["visit0/red_0"]
        sky = np.array([CENTRE]) - one["crval"] - np.array(ours.reference)
        pixel = np.einsum("sij,sj->si", one["CW"], sky) + one["crpix"]
        assert np.ptp(pixel, axis=0).max() < 0.01  # of one place, by every source's map
    jax.clear_caches()
