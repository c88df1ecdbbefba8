"""The README's example runs and measures the galaxy it makes."""

import re
from pathlib import Path

import pytest

README = Path(__file__).resolve().parent.parent / "README.md"


def test_python_example(capsys):
    (block,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.S)
    scope = {}
    exec(compile(block, str(README), "exec"), scope)
    result = scope["result"]
    assert result.summary() in capsys.readouterr().out
    i = result.index(0, "sersic")
    # an exponential disk, sampled at pixel centres before its convolution: n = 1 to a few percent
    assert result.samples[..., i].mean() == pytest.approx(1.0, abs=0.1)
    assert result.flags[0] == 0
    assert result.chi2[0] / result.npix[0] == pytest.approx(1.0, abs=0.08)
