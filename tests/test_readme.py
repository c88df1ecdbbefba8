"""The README's examples run, and the reference of the catalogue is that of the code."""

import re
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from fits_images import DEC, RA, SHAPE, image_data, tan_header, write_mef

from jaxpho import cli
from jaxpho.fit import flags
from jaxpho.output.reference import reference

README = Path(__file__).resolve().parent.parent / "README.md"


def test_python_example(capsys):
    (block,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.S)
    scope = {}
    exec(compile(block, str(README), "exec"), scope)
    fit = scope["fit"]
    result = fit.result
    assert str(fit) in capsys.readouterr().out
    i = result.index(0, "sersic")
    # an exponential disk, sampled at pixel centres before its convolution: n = 1 to a few percent
    assert result.samples[..., i].mean() == pytest.approx(1.0, abs=0.1)
    assert result.flags[0] == 0
    assert result.chi2[0] / result.npix[0] == pytest.approx(1.0, abs=0.08)


def test_configuration_example(tmp_path, capsys):
    """A dry run of it, on files as it describes them, ends well and reads every exposure."""
    (block,) = re.findall(r"```yaml\n(.*?)```", README.read_text(encoding="utf-8"), re.S)
    assert len(block.splitlines()) <= 16
    (tmp_path / "config.yml").write_text(block)
    (tmp_path / "images").mkdir()
    arrays = {"ERR": np.ones(SHAPE), "DQ": np.zeros(SHAPE, np.int16)}
    for name in ("1_g", "2_g", "1_z"):
        header = tan_header(MAGZPT=27.0)
        write_mef(tmp_path / "images" / f"{name}.fits", image_data(), header, **arrays)
    y, x = np.indices((41, 41)) - 20.0
    for band in "gz":
        fits.writeto(tmp_path / f"psf_{band}.fits", np.exp(-(x**2 + y**2) / 50.0))
    (tmp_path / "peaks.csv").write_text(f"id,ra,dec\n1,{RA},{DEC}\n")
    assert cli.fit_main([str(tmp_path / "config.yml"), "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "flux unit: nJy" in text and "band g: 2 exposures" in text and "z: 1 exposure" in text


def test_reference_of_the_catalogue_is_up_to_date():
    """`make reference` writes it."""
    path = README.parent / "docs" / "catalogue.md"
    assert path.read_text(encoding="utf-8") == reference()
    assert "docs/catalogue.md" in README.read_text(encoding="utf-8")
    assert flags.decode(8192) == ["prior_dominated"]  # as it says
