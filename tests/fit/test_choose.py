"""The type of a source by penalised chi2: the rule, a blend of known types, ties, refusals."""

from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
from fit_case import MIXTURE, draw, make_case, packed_patch, peaks_of, remake
from scipy.signal import convolve2d, correlate2d

from jaxpho.core.sources import AUTO_TYPES, SOURCE_TYPES
from jaxpho.fit import flags
from jaxpho.fit.choose import decide, is_auto, padding_of, uncertain
from jaxpho.fit.driver import fit_patch
from jaxpho.fit.options import FitOptions
from jaxpho.output.catalog import make_table, row_of_peak, rows_of_patch
from jaxpho.output.samples import read_samples, write_samples

TYPES = ("point", "exp", "dev")
SHAPES = {kind: len(SOURCE_TYPES[kind].shapes) for kind in AUTO_TYPES}


def test_the_rule():
    """Least chi2 plus penalty; the numbers of the second best; ties."""
    chi2 = {"sersic": 100.0, "exp": 103.0, "dev": 150.0, "point": 400.0}
    found = decide(chi2, SHAPES, 5.0)
    assert found.type == "exp"
    assert found.chi2 == {"sersic": -3.0, "exp": 0.0, "dev": 47.0, "point": 297.0}
    assert found.margin == pytest.approx(2.0)
    assert decide(chi2, SHAPES, 0.0).type == "sersic"
    assert decide(chi2, SHAPES, 200.0).type == "point"
    # correlated noise: differences of chi2 tell so many times less
    wide = decide({k: 3.0 * v for k, v in chi2.items()}, SHAPES, 5.0, loss=3.0)
    assert wide.chi2 == pytest.approx(found.chi2) and wide.margin == pytest.approx(found.margin)
    mask = uncertain([found, None, found], 2.5)
    assert mask.tolist() == [flags.bit("type_uncertain"), 0, flags.bit("type_uncertain")]
    assert not uncertain([found], 1.5).any()


@cache
def fitted():
    """A star between an exponential and a de Vaucouleurs galaxy, all three to be told."""
    s = remake(draw(2, TYPES, flux=3000.0), np.random.default_rng(0))
    case = make_case(s)
    peaks = [replace(p, type="sersic", auto=True, values={}) for p in peaks_of(s, shapes=False)]
    options = FitOptions(restarts=0)
    return case, peaks, fit_patch(case.packed, peaks, options, mixture=MIXTURE)


def test_types_of_a_blend():
    case, peaks, result = fitted()
    assert result.types == list(TYPES)
    known = fit_patch(case.packed, case.peaks, FitOptions(restarts=0), mixture=MIXTURE)
    # the same fit as with the types given
    assert result.labels == known.labels
    assert abs(result.chi2.sum() - known.chi2.sum()) < 0.1
    for choice, kind in zip(result.choices, TYPES, strict=True):
        assert choice["type"] == kind and choice["chi2"][kind] == 0.0
        # a Sersic profile of free index can be each of them
        assert choice["chi2"]["sersic"] < 0.5
        wrong = {"point", "exp", "dev"} - {kind}
        assert all(choice["chi2"][k] > (20.0 if kind != "point" else -0.5) for k in wrong)
    assert sum("is fitted as" in m for m in result.messages) == 3


def test_catalogue_and_file_tell(tmp_path):
    _, peaks, result = fitted()
    rows = rows_of_patch(result)
    table = make_table([*rows, row_of_peak(peaks[0], result.bands)], result.bands, "nJy")
    assert table["type"].tolist() == [*TYPES, "auto"]
    assert table["dchi2_point"][0] == 0 and table["dchi2_point"][1] > 20
    assert np.isnan(table["type_margin"][3]) and (table["type_margin"][:3] > 0).all()
    write_samples(tmp_path / "s.h5", result)
    assert read_samples(tmp_path / "s.h5").choices == result.choices


def test_held_neighbours_keep_their_type():
    _, peaks, _ = fitted()
    assert is_auto(peaks[0]) and not is_auto(replace(peaks[0], fixed=frozenset({"all"})))
    assert padding_of(peaks) == {"sersic": 3, "point": 3}


def test_stars_in_correlated_noise_stay_stars():
    """chi2 of galaxies less that of stars is as for independent noise, not the factor squared."""
    s, k, gain = draw(11, ("point",), flux=300.0), np.arange(64), []
    kernel = np.outer([0.5, 1.0, 0.5], [0.5, 1.0, 0.5])
    rho = correlate2d(kernel, kernel) / (kernel**2).sum()
    for seed in range(8):
        rng = np.random.default_rng(seed)

        def add(e, t, rng=rng):
            field = convolve2d(rng.standard_normal((80, 80)), kernel, mode="valid")
            x, y = t.x0 - t.x0.min(), t.y0 - t.y0.min()
            field = field[y[:, None] + k % 8, x[:, None] + k // 8] / np.sqrt((kernel**2).sum())
            return t._replace(data=t.data + field / np.where(t.ierr > 0, t.ierr, np.inf))

        own = remake(s, change=add)
        packed = packed_patch(own)
        packed = replace(packed, noise=[SimpleNamespace(correlation=rho)] * len(packed.exposures))
        peaks = [replace(p, type="sersic", auto=True, values={}) for p in peaks_of(own)]
        found = fit_patch(packed, peaks, FitOptions(restarts=0), mixture=MIXTURE)
        assert found.types == ["point"]
        gain.append(-min(found.choices[0]["chi2"].values()))
    # at most four parameters, and sizes that are not negative: one to three
    assert np.mean(gain) < 3.0
