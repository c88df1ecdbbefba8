"""A fit from stores: the same plan as from the images, and only the super-pixels that it needs."""

import numpy as np
import pytest
import yaml
from astropy.io import fits
from small_field import SCALE, position, write_field
from synthetic_result import make_wcs

from jaxpho import cli
from jaxpho.config import load_config
from jaxpho.data.arrays import exposure_from_arrays
from jaxpho.data.pixelstore import PixelStore
from jaxpho.data.psfmodel import PSF_DTYPE, PSFModel
from jaxpho.data.sky import blank_statistics
from jaxpho.data.storepack import StoredExposure, read_stores
from jaxpho.run.estimate import dry_run
from jaxpho.run.field import load_field
from jaxpho.run.scenestate import rehearse, scene_of
from jaxpho.run.worker import task_of
from jaxpho.superscene import fitting

SIZE = 320  # pixels: far more than the sources of the field need
NUISANCES = {"sky": {"nuisance": "plane"}, "astrometry": {"offset_sigma": 0.02}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("field")
    path = write_field(folder, size=SIZE)
    # one exposure that no source is on, and masked pixels on a source
    header = make_wcs(SCALE, 0.0, (SIZE / 2, SIZE / 2)).to_header()
    header["CRVAL2"] += 0.5
    header["BUNIT"] = "nJy"
    noise = np.random.default_rng(5).normal(size=(SIZE, SIZE)).astype("f4")
    error = fits.ImageHDU(np.ones_like(noise), name="ERR")
    science = fits.ImageHDU(noise, header, "SCI")
    fits.HDUList([fits.PrimaryHDU(), science, error]).writeto(folder / "g3.fits")
    with fits.open(folder / "g1.fits", mode="update") as hdus:
        x, y = make_wcs(SCALE, 0.0, ((SIZE + 1) / 2,) * 2).world_to_pixel_values(
            *position(-4.0, -3.0)
        )
        hdus["SCI"].data[int(y), int(x) - 2 : int(x) + 1] = np.nan
    assert cli.main(["preprocess", str(path), "-q", "--workers", "1"]) == 0
    return folder


def test_a_sky_taken_off_twice_is_told(folder, tmp_path, caplog):
    values = yaml.safe_load((folder / "config.yml").read_text())
    for entry in values["images"]:
        entry["sky"] = {"subtract": "value", "value": 0.5}
    values["stores"] = str(tmp_path / "stores")
    (folder / "twice.yml").write_text(yaml.safe_dump(values))
    assert cli.main(["preprocess", str(folder / "twice.yml"), "-q", "--workers", "1"]) == 0
    entry = {
        "meta": str(tmp_path / "stores/meta.json"),
        "pixels": str(tmp_path / "stores/pixels.h5"),
    }
    entry |= {"psf": {"store": "psf.h5"}, "sky": {"subtract": "value", "value": 0.5}}
    del values["stores"]
    values["images"] = [entry]
    (folder / "twice.yml").write_text(yaml.safe_dump(values))
    load_field(load_config(folder / "twice.yml"))
    said = [r.message for r in caplog.records if "once more" in r.message]
    assert said and all("sky.value takes 0.5 nJy off once more" in text for text in said)


def configuration(folder, stored, **extra):
    values = yaml.safe_load((folder / "config.yml").read_text())
    if stored:
        entry = {"meta": "stores/meta.json", "pixels": "stores/pixels.h5"}
        values["images"] = [entry | {"psf": {"store": "psf.h5"}}]
    for entry in values["images"]:
        entry.update(NUISANCES)
    values.update(extra)
    name = "stored.yml" if stored else "direct.yml"
    (folder / name).write_text(yaml.safe_dump(values))
    return load_config(folder / name)


def round_psf():
    psf = np.zeros((1, 1), PSF_DTYPE)
    psf["amp"], psf["Cxx"], psf["Cyy"], psf["sersic_bin"] = 1.0, 2.0, 2.0, -1
    return PSFModel(psf)


class Counter:
    """Counts the super-pixels that are read, by exposure, and forbids whole images."""

    def __init__(self, monkeypatch):
        self.count, self.calls, read = {}, {}, PixelStore.superpixels

        def counting(store, band, name, column, row):
            self.count[name] = self.count.get(name, 0) + len(column)
            self.calls[name] = self.calls.get(name, 0) + 1
            return read(store, band, name, column, row)

        def never(*_):
            raise AssertionError("a whole image is read")

        monkeypatch.setattr(PixelStore, "superpixels", counting)
        monkeypatch.setattr(PixelStore, "image", never)
        monkeypatch.setattr(PixelStore, "cached_image", never)


def test_planning_reads_headers_and_the_pixels_of_sources(folder, monkeypatch):
    direct = load_field(configuration(folder, stored=False))
    reads = Counter(monkeypatch)
    config = configuration(folder, stored=True)
    found = load_field(config)
    np.testing.assert_array_equal(found.fraction, direct.fraction)
    assert 0 < found.fraction[0, 0] < 1  # the masked pixels count
    assert rehearse(scene_of(config, found)) == rehearse(scene_of(config, direct))
    for one, other in zip(found.peaks, direct.peaks, strict=True):
        for name, value in other.values.items():
            assert one.values[name] == pytest.approx(value, rel=1e-5), name
        for key, value in other.flux.items():
            assert one.flux[key] == pytest.approx(value, rel=1e-5), key
    for one, other in zip(found.exposures, direct.exposures, strict=True):
        assert one.nuisance == other.nuisance  # the prior of the sky was noted
    # nothing of the exposure beside the field; of the others what 10 arcsec around sources hold
    whole = (SIZE // 8) ** 2
    assert set(reads.count) == {"g1", "g2", "r1"}
    reach = 2 * 10 / SCALE / 8 + 3  # super-pixels across the stamps of starting values
    once = [n / reads.calls[name] for name, n in reads.count.items()]
    assert max(once) <= reach**2 < whole


def test_coverage_alone_reads_the_cores(folder, monkeypatch):
    """Sizes known: nothing but the super-pixels under the cores, each once."""
    peaks = "id,ra,dec,type,flux_g,flux_r,rhalf\n"
    for k, offset in enumerate(((-4, -3), (5, 4), (20, 22))):
        ra, dec = position(*offset)
        peaks += f"{k},{ra:.8f},{dec:.8f},exp,50,50,0.4\n"
    (folder / "known.csv").write_text(peaks)
    reads = Counter(monkeypatch)
    load_field(configuration(folder, stored=True, peaks={"file": "known.csv"}))
    assert set(reads.count) == {"g1", "g2", "r1"}
    # once to see that the catalogue is of this field, once for good; at most 4 each
    assert all(n <= 2 * 3 * 4 and reads.calls[name] == 2 for name, n in reads.count.items())


def test_dry_runs_say_the_same(folder, monkeypatch):
    direct = dry_run(configuration(folder, stored=False))
    Counter(monkeypatch)
    stored = dry_run(configuration(folder, stored=True))
    assert stored == direct
    assert "unmasked pixels" in stored and "% masked" in stored


def test_a_patch_is_packed_from_the_exposures_near_it(folder, monkeypatch):
    given = []
    for stored in (False, True):
        config = configuration(folder, stored, sources={"sersic_mixture": "k12"})
        found = load_field(config)
        for exposure in found.exposures:
            exposure.psf = round_psf()
        if stored:
            reads = Counter(monkeypatch)
        first = rehearse(scene_of(config, found))[0]
        peaks = [found.peaks[i] for i in first.active]
        radii = [float(found.radius[i]) for i in first.active]
        task = task_of(config, found.exposures, folder / "run")
        given.append(fitting.pack(task, peaks, radii, "k12")[0])
    direct, packed = (p.to_numpy() for p in given)
    for name in direct:
        np.testing.assert_allclose(packed[name], direct[name], rtol=4e-7, atol=1e-6, err_msg=name)
    assert set(reads.count) == {"g1", "g2", "r1"} and max(reads.calls.values()) == 1


def test_stored_exposures_answer_as_those_in_memory(folder):
    """Cutouts, masks and tiles of a stored exposure against its whole image."""
    stored = read_stores(folder / "stores" / "meta.json", folder / "stores" / "pixels.h5")[0]
    stored.level = 0.25
    data, ierr = stored.data, stored.ierr
    assert isinstance(stored, StoredExposure) and (ierr == 0).sum() == 3
    error = np.where(ierr > 0, 1 / np.where(ierr > 0, ierr, 1), np.nan)
    memory = exposure_from_arrays(data, error, round_psf(), wcs=stored.wcs)
    for box in ((0, SIZE, 0, SIZE), (3, 12, 100, 119), (311, 320, 0, 1), (16, 24, 8, 16)):
        for one, other in zip(stored.cutout(*box), memory.cutout(*box), strict=True):
            np.testing.assert_array_equal(one, other)
    rng = np.random.default_rng(2)
    y, x = np.argwhere(ierr == 0).T
    x = np.append(x, rng.integers(0, SIZE, 50))
    y = np.append(y, rng.integers(0, SIZE, 50))
    np.testing.assert_array_equal(stored.good(x, y), memory.good(x, y))
    assert not stored.good(x[:3], y[:3]).any()
    select = np.zeros((SIZE, SIZE), bool)
    select[100:130, 40:90] = True
    for choice in (None, select):
        assert stored.count_tiles(choice) == memory.count_tiles(choice)
    assert stored.masked == pytest.approx(memory.masked) == 3 / SIZE**2
    assert stored.pixel_scale == pytest.approx(memory.pixel_scale, rel=1e-6)
    noted, fresh = stored.blank, blank_statistics(data, ierr > 0)
    np.testing.assert_allclose(noted, fresh, rtol=1e-4, atol=1e-5)
    ra, dec = stored.wcs.pixel_to_world_values(np.array([-50.0, 10.0, 330.0]), np.full(3, 7.0))
    assert stored.near(ra, dec, np.array([1.0, 1.0, 5.0])).tolist() == [False, True, True]
    assert memory.near(ra, dec, 1.0).all()
