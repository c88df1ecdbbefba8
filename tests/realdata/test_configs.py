"""The configurations of the real data sets find every file that they name."""

from pathlib import Path

import pytest

from jaxpho.config import load_config
from jaxpho.data.catalog import read_catalog
from jaxpho.data.plan import plan_images

CONFIGS = Path(__file__).parent / "configs"
EXPOSURES = {"decam": 8, "bok": 3, "jwst6414": 7, "jwst40": 7}
SOURCES = {"decam": 2, "bok": 16, "jwst6414": 1, "jwst40": 2}


@pytest.mark.parametrize("name", EXPOSURES)
def test_configuration(name, data_dir, monkeypatch):
    monkeypatch.setenv("JAXPHO_DATA", str(data_dir.resolve()))
    config = load_config(CONFIGS / f"{name}.yml")
    plans = plan_images(config.images, CONFIGS, config.bands, require_psf=True)
    assert len(plans) == EXPOSURES[name] and not any(p.problem for p in plans)
    peaks = read_catalog(config.peaks, config.bands)
    assert len(peaks) == SOURCES[name]
    assert len([p for p in peaks if p.fixed]) == (9 if name == "bok" else 0)
