"""The run loop with a stand-in for the fit: products, failures, neighbours, interruption."""

import dataclasses
import warnings
from collections import Counter

import numpy as np
import pytest
from astropy.io import fits
from astropy.units import UnitsWarning
from astropy.wcs import WCS
from small_field import SIZE, SOURCES, write_field

from jaxpho import cli
from jaxpho.compat.results import read_forcepho_samples
from jaxpho.config import load_config
from jaxpho.core.sources import SOURCE_TYPES
from jaxpho.fit import flags
from jaxpho.fit.result import PatchResult
from jaxpho.output.catalog import read_catalog
from jaxpho.output.residuals import read_residuals
from jaxpho.output.samples import read_samples
from jaxpho.run import products
from jaxpho.run.field import load_field
from jaxpho.superscene import fitting

FAR = ("9", 300.0, 0.0, "point")


class StandInFit:
    """Records what it is given; answers with fluxes of 100 and unit errors."""

    def __init__(self, fails=(), stops=None, needs=None):
        self.calls, self.fails, self.stops = [], set(fails), stops
        self.mixtures, self.needs = [], needs

    def __call__(
        self,
        packed,
        peaks,
        options,
        sampling,
        *,
        noise,
        mixture,
        key,
        patch_id,
        stop_if_coarse=False,
    ):
        free = [p for p in peaks if "all" not in p.fixed]
        self.mixtures.append((patch_id, mixture))
        self.calls.append(
            (patch_id, [str(p.id) for p in free], [p for p in peaks if p not in free])
        )
        if self.stops is not None and len(self.calls) > self.stops:
            raise KeyboardInterrupt
        if self.fails & {str(p.id) for p in free}:
            raise FloatingPointError("singular matrix\nof many lines")
        start = {"flux": 100.0, "ra": 0.01, "dec": 0.0, "rhalf": 0.5, "sersic": 1.0, "e1": 0.1,
                 "e2": 0.0}  # fmt: skip
        labels, fixed = [], {}
        for s, peak in enumerate(peaks):
            for name in SOURCE_TYPES[peak.type].parameters:
                for band in packed.bands if name == "flux" else [""]:
                    if peak in free:
                        labels.append((s, name, band))
                    else:
                        fixed[s, name, band] = start[name]
        pixels = {}
        for e, name in enumerate(packed.exposures):
            pixels[name] = packed.pixels(e)
            pixels[name]["model"] = np.zeros(len(pixels[name]["x"]), np.float32)
        return PatchResult(
            patch_id, [p.id for p in peaks], [p.type for p in peaks], packed.bands, packed.unit,
            packed.reference, labels, np.array([start[name] for _, name, _ in labels]),
            np.eye(len(labels)), fixed, exposures=packed.exposures,
            exposure_bands=packed.exposure_bands, pixels=pixels,
            diagnostics={"needed": self.needs} if self.needs and stop_if_coarse else {},
            chi2=np.ones(len(pixels)), npix=np.array([len(p["x"]) for p in pixels.values()]),
        )  # fmt: skip


def run(monkeypatch, folder, fit, *arguments, **extra):
    monkeypatch.setattr(fitting, "fit_patch", fit)
    sources = extra.pop("sources", SOURCES)
    path = folder / "config.yml"
    path = path if path.exists() else write_field(folder, sources, **extra)
    return cli.fit_main([str(path), "-q", *arguments])


def test_products_of_a_good_run(monkeypatch, tmp_path):
    fit = StandInFit()
    assert run(monkeypatch, tmp_path, fit) == 0
    assert sorted(ids for _, ids, _ in fit.calls) == [["1"], ["2", "3"]]
    out = tmp_path / "run"
    found = {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()}
    patch_files = {f"patches/patch{i}{end}" for i in (0, 1)
                   for end in ("_samples.h5", "_residuals.h5", ".png")}  # fmt: skip
    images = {"images/g_g1.fits", "images/g_g2.fits", "images/r_r1.fits"}
    own = {"catalog.fits", "config.yml", "noise.ecsv", "run.log", "status.json", "ledger.db"}
    assert found == own | patch_files | images
    table = read_catalog(out / "catalog.fits")
    assert list(table["id"]) == ["1", "2", "3"]
    assert list(table["flux_g"]) == [100.0] * 3 and (table["flags"] == 0).all()
    assert list(table["patch"][1:2]) == list(table["patch"][2:3])
    assert read_samples(out / "patches" / "patch0_samples.h5").patch_id == 0
    assert set(read_residuals(out / "patches" / "patch0_residuals.h5")) == {"g", "r"}
    assert load_config(out / "config.yml") == load_config(tmp_path / "config.yml")
    # once more: refused, then with permission; what an earlier run alone wrote goes
    (out / "patches" / "patch7.png").write_text("x")
    assert run(monkeypatch, tmp_path, fit) == 2
    assert run(monkeypatch, tmp_path, fit, "--overwrite", "--set", "peaks.file=none.csv") == 2
    assert (out / "catalog.fits").exists() and (out / "patches" / "patch7.png").exists()
    assert run(monkeypatch, tmp_path, fit, "--overwrite") == 0
    assert found == {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()}


def test_results_are_never_taken_for_data(monkeypatch, tmp_path, capsys):
    wide = {"images.0.files": "**/g*.fits", "images.1.files": "**/r*.fits"}
    options = [word for key, value in wide.items() for word in ("--set", f"{key}={value}")]
    assert run(monkeypatch, tmp_path, StandInFit(), *options) == 0
    assert run(monkeypatch, tmp_path, StandInFit(), *options, "--output", str(tmp_path / "2")) == 0
    names = {p.name for p in (tmp_path / "2" / "images").iterdir()}
    assert names == {"g_g1.fits", "g_g2.fits", "r_r1.fits"}
    text = (tmp_path / "2" / "run.log").read_text()
    assert "run/images/g_g1.fits: written by jaxpho, not taken for data" in text
    capsys.readouterr()
    only = ["--set", "images.0.files=run/images/g*.fits"]
    assert run(monkeypatch, tmp_path, StandInFit(), *only, "--dry-run") == 2
    assert "matches nothing but results of jaxpho" in capsys.readouterr().err
    # the catalogue of a run is good input, but not for a run that replaces it
    peaks = ["--set", "peaks.file=run/catalog.fits", "--overwrite"]
    before = (tmp_path / "run" / "catalog.fits").read_bytes()
    assert run(monkeypatch, tmp_path, StandInFit(), *peaks) == 2
    assert "holds the input" in capsys.readouterr().err
    assert (tmp_path / "run" / "catalog.fits").read_bytes() == before


def test_a_failing_patch_is_flagged_and_the_rest_finishes(monkeypatch, tmp_path, capsys):
    assert run(monkeypatch, tmp_path, StandInFit(fails={"1"})) == 1
    table = read_catalog(tmp_path / "run" / "catalog.fits")
    assert list(table["flag_names"]) == ["failed", "", ""]
    assert np.isnan(table["flux_g_err"][0]) and table["flux_g_err"][1] == 1.0
    log = (tmp_path / "run" / "run.log").read_text()
    assert "Traceback" in log and "FloatingPointError" in log
    err = capsys.readouterr().err
    assert (
        "failed (FloatingPointError: singular matrix): sources 1" in err and "Traceback" not in err
    )


def test_one_source_never_costs_its_neighbours_their_fit(monkeypatch, tmp_path, capsys):
    """Sources 2 and 3 share a patch; 2 cannot be fitted."""
    fit = StandInFit(fails={"2"})
    assert run(monkeypatch, tmp_path, fit) == 1
    table = read_catalog(tmp_path / "run" / "catalog.fits")
    assert list(table["flag_names"]) == ["", "failed", ""]
    assert list(np.isfinite(table["flux_g_err"])) == [True, False, True]
    calls = [(ids, [str(p.id) for p in held]) for _, ids, held in fit.calls if ids != ["1"]]
    # with another seed; then cut in two, of which each sees the other one, with another seed again
    joint, first, second = (["2", "3"], []), (["2"], ["3"]), (["3"], ["2"])
    assert calls == [joint, joint, first, first, second] or calls == [joint, joint, second, *(
        [first] * 2)]  # fmt: skip
    assert "sources 2" in capsys.readouterr().err
    assert len(list((tmp_path / "run" / "patches").glob("patch0[ab].png"))) == 1


def test_sources_that_only_fail_together_are_fitted_in_parts(monkeypatch, tmp_path):
    fit = StandInFit()

    def fails_jointly(packed, peaks, options, sampling, **kwargs):
        if sum("all" not in p.fixed for p in peaks) > 1:
            raise FloatingPointError("not finite")
        return fit(packed, peaks, options, sampling, **kwargs)

    run(monkeypatch, tmp_path, fails_jointly)
    table = read_catalog(tmp_path / "run" / "catalog.fits")
    assert np.isfinite(table["flux_g_err"]).all() and (table["flags"] == 0).all()
    assert list(table["patch"][1:]) == [int(table["patch"][1])] * 2


def test_like_sources_at_one_position_are_named(tmp_path, caplog):
    place = SOURCES[0][1:3]
    twins = (*SOURCES, ("4", *place, "sersic"), ("5", *place, "point"))
    load_field(load_config(write_field(tmp_path, twins)))
    said = [r.message for r in caplog.records if "at one position" in r.message]
    assert len(said) == 1 and "sources 1 and 4" in said[0]


def test_a_source_off_every_image_is_flagged(monkeypatch, tmp_path):
    assert run(monkeypatch, tmp_path, StandInFit(), sources=(*SOURCES, FAR)) == 1
    table = read_catalog(tmp_path / "run" / "catalog.fits")
    assert list(table["flag_names"]) == ["", "", "", "no_data"]
    assert list(table["patch"])[3] == -1


def test_all_sources_off_every_image_is_wrong_input(monkeypatch, tmp_path, capsys):
    fit = StandInFit()
    assert run(monkeypatch, tmp_path, fit, sources=(FAR,)) == 2
    assert "none of the 1 sources lies on an unmasked pixel" in capsys.readouterr().err
    assert fit.calls == [] and not (tmp_path / "run").exists()


def test_neighbours_across_a_cut_are_held_at_their_latest_values(monkeypatch, tmp_path):
    fit = StandInFit()
    patch = {"min_radius": 1.0, "max_radius": 1.6, "max_active": 1}
    assert run(monkeypatch, tmp_path, fit, patches=patch) == 0
    split = [call for call in fit.calls if call[1] != ["1"]]
    assert [ids for _, ids, _ in fit.calls].count(["1"]) == 1  # no neighbour: one sweep
    assert len(split) == 4  # two sources, two sweeps
    for _, ids, held in split[2:]:
        assert [str(p.id) for p in held] == [{"2": "3", "3": "2"}[ids[0]]]
        assert held[0].flux["flux", "g"] == 100.0
        assert held[0].fixed == {"all"}
    result = read_samples(tmp_path / "run" / "patches" / f"patch{split[-1][0]}_samples.h5")
    assert len(result.source_ids) == 2
    assert len(read_catalog(tmp_path / "run" / "catalog.fits")) == 3


def test_ctrl_c_keeps_what_is_done(monkeypatch, tmp_path, capsys):
    assert run(monkeypatch, tmp_path, StandInFit(stops=1)) == 130
    table = read_catalog(tmp_path / "run" / "catalog.fits")
    fitted = np.isfinite(table["flux_g_err"])
    assert fitted.sum() in (1, 2)
    assert list(table["flag_names"]) == ["" if f else "unfinished" for f in fitted]
    assert len(list((tmp_path / "run" / "images").glob("*.fits"))) == 3
    err = capsys.readouterr().err
    assert f"interrupted; {fitted.sum()} of 3 sources are in" in err and "--overwrite" in err
    assert not list((tmp_path / "run").rglob(".*"))  # nothing half written


def test_ctrl_c_before_the_first_source_leaves_nothing_in_the_way(monkeypatch, tmp_path, capsys):
    assert run(monkeypatch, tmp_path, StandInFit(stops=0)) == 130
    assert "the same command starts again" in capsys.readouterr().err
    assert not (tmp_path / "run" / "catalog.fits").exists()
    assert run(monkeypatch, tmp_path, StandInFit()) == 0


def test_failed_sampling_falls_back_to_laplace(monkeypatch, tmp_path):
    fit = StandInFit()

    def fails_when_sampling(packed, peaks, options, sampling, **kwargs):
        if sampling.method == "nuts":
            raise RuntimeError("no finite step size")
        return fit(packed, peaks, options, sampling, **kwargs)

    assert run(monkeypatch, tmp_path, fails_when_sampling, sample={"method": "nuts"}) == 0
    table = read_catalog(tmp_path / "run" / "catalog.fits")
    assert list(table["flag_names"]) == ["low_ess"] * 3


def test_files_that_cannot_be_written_do_not_end_the_run(monkeypatch, tmp_path, capsys):
    def full(path, result):
        raise OSError("No space left on device")

    monkeypatch.setattr(products, "write_residuals", full)
    assert run(monkeypatch, tmp_path, StandInFit()) == 1
    err = capsys.readouterr().err
    assert "patch0_residuals.h5 not written (OSError: No space left on device)" in err
    assert len(read_catalog(tmp_path / "run" / "catalog.fits")) == 3


def test_edge_tiles_are_trimmed_to_the_image(monkeypatch, tmp_path):
    """60 pixels are no multiple of the tile: the last tiles reach beyond the image."""
    path = write_field(tmp_path, size=60, patches={"pixels": "all"})
    assert path.exists() and run(monkeypatch, tmp_path, StandInFit()) == 0
    for bands in read_residuals(tmp_path / "run" / "patches" / "patch0_residuals.h5").values():
        for pixels in bands.values():
            assert len(pixels["xpix"]) == 60 * 60
            assert pixels["xpix"].max() == 59 and pixels["ypix"].max() == 59


def test_dry_run_tells_and_writes_nothing(monkeypatch, tmp_path, capsys):
    fit = StandInFit()
    assert run(monkeypatch, tmp_path, fit, "--dry-run", sources=(*SOURCES, FAR)) == 0
    before = {p.name for p in tmp_path.iterdir()}
    text = capsys.readouterr().out
    assert "run" not in before and fit.calls == []
    assert f"band g: 2 exposures, {2 * SIZE * SIZE} unmasked pixels" in text
    assert "sources: 4 (2 sersic, 2 point)" in text
    assert "9: no usable pixel" in text
    # two Sersic sources of 2 + 2 + 4 parameters, one star of 2 + 2
    assert "total: 2 patches of 2 shapes, 20 parameters" in text
    assert "estimated time" in text


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("peaks.file=none.csv", "none.csv"),
        ("images.0.files=none*.fits", "none*.fits"),
        ("images.0.science=SCY", "SCY"),
        ("images.1.psf.store=none.h5", "none.h5"),
        ("images.1.psf=null", "psf"),
        ("images.1.files=g1.fits", "g1"),
    ],
)
def test_wrong_input_is_found_before_any_fit(monkeypatch, tmp_path, capsys, override, words):
    fit = StandInFit()
    assert run(monkeypatch, tmp_path, fit, "--set", override) == 2
    err = capsys.readouterr().err
    assert words in err and "Traceback" not in err
    assert err.strip().splitlines()[-1].startswith("jaxpho-fit: ")
    assert fit.calls == [] and not (tmp_path / "run").exists()


def test_a_galaxy_too_cuspy_for_the_mixture_is_fitted_again(monkeypatch, tmp_path):
    fit = StandInFit(needs="k16")
    assert run(monkeypatch, tmp_path, fit) == 0
    first, second = fit.mixtures[:2]
    assert (first, second) == ((0, "k12"), (0, "k16"))


def test_absurd_starting_values_are_forgotten(tmp_path, caplog):
    path = write_field(tmp_path)
    lines = (tmp_path / "peaks.csv").read_text().splitlines()
    sizes = ["rhalf", "10000", "", "0.4"]
    text = "\n".join(f"{a},{b}" for a, b in zip(lines, sizes, strict=True))
    (tmp_path / "peaks.csv").write_text(text)
    peaks = load_field(load_config(path)).peaks
    assert "source 1: rhalf is 1e+04" in caplog.text
    assert 0.1 < peaks[0].values["rhalf"] < 3 and peaks[2].values["rhalf"] == 0.4


def test_forcepho_layout_and_overwrite(monkeypatch, tmp_path):
    """Files of a run of forcepho; sources that its layout cannot hold are left out."""
    on = ["--set", "products.forcepho=true"]
    assert run(monkeypatch, tmp_path, StandInFit(), *on) == 0
    root = tmp_path / "run" / "forcepho"
    names = {"config.json", "outscene.fits", "outscene_log.json"}
    names |= {f"patches/patch{i}_{k}.h5" for i in (0, 1) for k in ("samples", "residuals")}
    assert {str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()} == names
    table = fits.getdata(root / "outscene.fits")
    assert list(table["id"]) == [1, 2, 3] and list(table["g"]) == [100.0] * 3
    assert table["rhalf"][0] == 0.5 and table["rhalf"][1] == 0
    found = read_forcepho_samples(root / "patches" / "patch0_samples.h5")
    n = len(found.arrays["active"])
    assert found.chain.shape == (1, n * 8) and 0 < found.attrs["radius"] < 0.01
    (root / "patches" / "patch7_samples.h5").write_text("x")
    # the second run has no such folder's files, and deletes none that it did not write
    (root / "notes.txt").write_text("mine")
    assert run(monkeypatch, tmp_path, StandInFit(), "--overwrite") == 0
    assert [p.name for p in root.rglob("*") if p.is_file()] == ["notes.txt"]


def test_a_type_that_forcepho_lacks(monkeypatch, tmp_path):
    sources = (("1", -4.0, -3.0, "bulge_disk"), *SOURCES[1:])

    class Fit(StandInFit):
        def __call__(self, packed, peaks, *arguments, **options):
            plain = [dataclasses.replace(p, type="sersic") for p in peaks]
            result = super().__call__(packed, plain, *arguments, **options)
            result.types = [p.type for p in peaks]
            if "bulge_disk" in result.types:
                rename = {"flux": "flux_disk", "rhalf": "rhalf_disk", "sersic": "sersic_disk",
                          "e1": "e1_disk", "e2": "e2_disk"}  # fmt: skip
                result.labels = [(o, rename.get(n, n), b) for o, n, b in result.labels]
                bulge = {"flux_bulge": 0.0, "rhalf_bulge": 0.1, "sersic_bulge": 4.0,
                         "e1_bulge": 0.0, "e2_bulge": 0.0}  # fmt: skip
                result.fixed |= {
                    (0, n, b): v
                    for n, v in bulge.items()
                    for b in (packed.bands if n == "flux_bulge" else [""])
                }
            return result

    on = ["--set", "products.forcepho=true"]
    assert run(monkeypatch, tmp_path, Fit(), *on, sources=sources) == 0
    root = tmp_path / "run" / "forcepho"
    assert len(list((root / "patches").glob("*_samples.h5"))) == 1
    log = (tmp_path / "run" / "run.log").read_text()
    assert "source 1 is a bulge_disk: forcepho's files hold one Sersic profile per source" in log
    assert np.isnan(fits.getdata(root / "outscene.fits")["g"][0])


def test_inference_data_of_a_run(monkeypatch, tmp_path, capsys):
    class Sampled(StandInFit):
        def __call__(self, *arguments, **options):
            result = super().__call__(*arguments, **options)
            shape = (2, 30, len(result.labels))
            result.samples = np.random.default_rng(1).normal(0, 0.05, shape)
            return result

    on = ["--set", "products.arviz=true"]
    assert run(monkeypatch, tmp_path, Sampled(), *on) == 0
    files = sorted((tmp_path / "run" / "patches").glob("*.nc"))
    assert [p.name for p in files] == ["patch0_posterior.nc", "patch1_posterior.nc"]
    # without arviz: one sentence before any work
    monkeypatch.setattr("jaxpho.inference_data.find_spec", lambda name: None)
    fit = Sampled()
    assert run(monkeypatch, tmp_path, fit, *on, "--overwrite") == 2
    assert "products.arviz: arviz is not installed" in capsys.readouterr().err
    assert not fit.calls and files[0].exists()


def test_an_exposure_left_out_is_told_and_flags_the_sources_it_covers(
    monkeypatch, tmp_path, capsys
):
    path = write_field(tmp_path)
    with fits.open(tmp_path / "g2.fits") as f:
        f["ERR"].data[:] = -1.0
        f["SCI"].header["CRPIX1"] += 30  # source 1 lies beyond it
        f.writeto(tmp_path / "g2.fits", overwrite=True)
    assert run(monkeypatch, tmp_path, StandInFit()) == 1
    table = read_catalog(tmp_path / "run" / "catalog.fits")
    wcs = WCS(fits.getheader(tmp_path / "g2.fits", "SCI"))
    x, y = wcs.world_to_pixel_values(table["ra"], table["dec"])
    inside = (abs(x - 31.5) < 32) & (abs(y - 31.5) < 32)
    assert 0 < inside.sum() < 3
    assert list(table["flag_names"]) == ["bad_exposure" if i else "" for i in inside]
    assert "g2 (band g) is left out" in capsys.readouterr().err
    # where it lies is not known: any source may be concerned
    (tmp_path / "g2.fits").write_text("no FITS")
    peaks = load_field(load_config(path)).peaks
    assert all(p.flags & flags.bit("bad_exposure") for p in peaks)


def test_a_prior_that_no_source_obeys_is_named(tmp_path, caplog):
    prior = {"name": "uniform", "low": 1.0, "high": 2.0}
    fit = {"priors": {"sersic_bulge": prior, "rhalf": prior | {"low": 0.1}}}
    load_field(load_config(write_field(tmp_path, fit=fit)))
    said = [r.message for r in caplog.records if "no source has" in r.message]
    assert said == ["fit.priors.sersic_bulge: no source has this parameter (types: point, sersic)"]


def test_a_failed_second_sweep_leaves_the_first(monkeypatch, tmp_path, capsys):
    fit, count = StandInFit(), Counter()

    def fails_later(packed, peaks, *args, **kwargs):
        name = str(peaks[0].id)
        count[name] += 1
        if count[name] > 1:
            raise FloatingPointError("not finite")
        return fit(packed, peaks, *args, **kwargs)

    patch = {"min_radius": 1.0, "max_radius": 1.6, "max_active": 1}
    assert run(monkeypatch, tmp_path, fails_later, patches=patch) == 0
    table = read_catalog(tmp_path / "run" / "catalog.fits")
    assert list(table["flux_g"]) == [100.0] * 3 and np.isfinite(table["flux_g_err"]).all()
    assert list(table["flag_names"]) == ["", *["no_convergence"] * 2]
    assert list(table["flags"] > 0) == [False, True, True]
    assert "failed (FloatingPointError: not finite): sources" in capsys.readouterr().err


def test_warnings_of_libraries_are_in_the_log_once(monkeypatch, tmp_path, capfd):
    fit = StandInFit()

    def warns(*args, **kwargs):
        warnings.warn("'electon' did not parse", UnitsWarning, stacklevel=1)
        return fit(*args, **kwargs)

    monkeypatch.setattr(fitting, "fit_patch", warns)
    path = write_field(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = warnings._showwarning_orig  # as without pytest
        assert cli.fit_main([str(path)]) == 0
    assert len(fit.calls) == 2
    assert "electon" not in "".join(capfd.readouterr())
    assert (tmp_path / "run" / "run.log").read_text().count("UnitsWarning: 'electon'") == 1
