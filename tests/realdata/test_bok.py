"""bok_mosaic_grz: sixteen sources jointly over three images and two pixel scales."""

import numpy as np
import pytest
from realdata.common import fit, read_tractor

pytestmark = pytest.mark.realdata
BANDS = "grz"
DISK = ("0", "1", "2", "3", "5", "7")
EDGE = ("12", "13", "15")
CATALOG = "bok_mosaic_grz/reference_legacypipe_DR9.6.9/tractor/177/tractor-1773p595.fits"
EXACT = {
    # an exact fit with the pieces held, by an independent code, nMgy (README of the data set)
    "11": (85.46, 128.36, 142.82),
    "6": (19.25, 33.12, 39.25),
    "4": (1.26, 4.76, 9.75),
    "9": (5.77, 11.11, 16.06),
    "2": (28.93, 44.62, 52.26),
}
EXACT_DISK = (35.3, 51.6, 58.0)
EXACT_EDGE_Z = 22.64
# This code fits the same model to the same pixels; a third of the errors of the faintest.
EXACT_TOLERANCE = 0.015


@pytest.fixture(scope="module")
def run(data_dir, tmp_path_factory):
    return fit("bok", data_dir, tmp_path_factory.mktemp("bok") / "run")


@pytest.fixture(scope="module")
def tractor(data_dir):
    return read_tractor(data_dir / CATALOG)


def _against(run, tractor, source):
    """Relative flux differences to Tractor where its S/N exceeds 20."""
    row = tractor[source]
    fluxes = [(row[f"flux_{b}"], row[f"flux_ivar_{b}"], run.flux(source, b)) for b in BANDS]
    return [abs(ours / f - 1) for f, ivar, ours in fluxes if f * np.sqrt(ivar) > 20]


def test_every_source_is_measured(run):
    assert len(run.rows) == 16
    assert "16 of 16 sources measured" in run.log


def test_bright_fluxes_against_tractor(run, tractor):
    bright = [d for source in tractor for d in _against(run, tractor, source)]
    assert len(bright) == 14
    assert np.median(bright) <= 0.015


@pytest.mark.parametrize("source, limit", [("11", 0.012), ("6", 0.012), ("9", 0.05), ("2", 0.06)])
def test_source_against_tractor(source, limit, run, tractor):
    differences = _against(run, tractor, source)
    assert len(differences) == 3
    assert max(differences) <= limit


@pytest.mark.parametrize("band", BANDS)
def test_disk_sum_against_tractor(band, run, tractor):
    # the pieces share one disk's light in a way that no two fits agree on: their sum counts
    ours = sum(run.flux(s, band) for s in DISK)
    assert ours == pytest.approx(sum(tractor[s][f"flux_{band}"] for s in DISK), rel=0.08)


def test_chi2_per_pixel(run):
    values = run.chi2_per_pixel
    assert len(values) == 3
    assert all(0.80 <= value <= 1.0 for value in values.values()), values


@pytest.mark.parametrize("index, band", list(enumerate(BANDS)))
def test_against_exact_fit(index, band, run):
    for source, fluxes in EXACT.items():
        assert run.flux(source, band) == pytest.approx(fluxes[index], rel=EXACT_TOLERANCE), source
    disk = sum(run.flux(s, band) for s in DISK)
    assert disk == pytest.approx(EXACT_DISK[index], rel=EXACT_TOLERANCE)
    if band == "z":
        edge = sum(run.flux(s, band) for s in EDGE)
        assert edge == pytest.approx(EXACT_EDGE_Z, rel=EXACT_TOLERANCE)


def test_sources_without_data_say_so(run, tractor):
    # the masked columns hold these sources' g and r: errors, not values, must tell
    for source in ("10", *EDGE):
        for band in "gr":
            row = run.rows[source]
            flux, error = row[f"flux_{band}"], row[f"flux_{band}_err"]
            # no pixel at all: no value; a few at the edge: a value within its large error
            assert np.ma.is_masked(flux) == np.ma.is_masked(error)
            assert np.ma.is_masked(flux) or abs(flux) < 3 * error
