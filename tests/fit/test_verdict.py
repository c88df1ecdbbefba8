"""What is said of a sampling: advice that would not help is not given."""

from types import SimpleNamespace

import numpy as np
import pytest

from jaxpho.errors import InputError
from jaxpho.fit import quality, verdict
from jaxpho.fit.diagnostics import Worth
from jaxpho.fit.options import SampleOptions

TABLE = SimpleNamespace(parameters=[SimpleNamespace(owner=0, name="sersic", band="")])
AREAS = SimpleNamespace(bands=("g",), band_npix=np.array([[9]]))
PEAKS = [SimpleNamespace(id="7")]


def said(monkeypatch, method, over_budget=False):
    """Messages about few draws whose R-hat and ESS miss the targets."""
    monkeypatch.setattr(quality, "piled_up", lambda table, theta: np.zeros(1, bool))
    one = np.ones(1)
    draws = SimpleNamespace(
        method=method, worth=Worth(1.2 * one, 20 * one, 20 * one), rhat=1.2 * one, ess=20 * one,
        theta=np.zeros((4, 25, 1)), rounds=1, gradients=8, warmup_gradients=0, divergences=0,
        ebfmi=one, redone=0, over_budget=over_budget, pareto_k=0.1,
    )  # fmt: skip
    low, high = verdict.missed(TABLE, AREAS, draws, SampleOptions())
    text = verdict.messages(TABLE, PEAKS, AREAS, draws, SampleOptions(max_gradients=8))
    return low.any(), high.any(), "\n".join(text)


@pytest.mark.parametrize("method", ["laplace", "svi"])
def test_independent_draws_miss_no_target_of_chains(monkeypatch, method):
    low, high, text = said(monkeypatch, method)
    assert not low and not high
    assert "100 independent draws" in text and "R-hat" not in text and "rounds" not in text


def test_advice_names_what_ended_the_sampling(monkeypatch):
    low, high, text = said(monkeypatch, "nuts")
    assert low and high and "more sample.max_rounds help" in text
    text = said(monkeypatch, "nuts", over_budget=True)[2]
    assert "more sample.max_gradients help" in text and "max_rounds help" not in text


def test_a_budget_that_svi_cannot_keep_is_refused():
    SampleOptions(method="svi", svi_steps=100, max_gradients=800)
    with pytest.raises(InputError, match="svi takes 8 x svi_steps = 800 gradients"):
        SampleOptions(method="svi", svi_steps=100, max_gradients=799)
