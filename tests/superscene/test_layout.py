"""Sources as rows of numbers."""

import json

import numpy as np
import pytest

from jaxpho.core.sources import SOURCE_TYPES
from jaxpho.data.catalog import Peak
from jaxpho.superscene.layout import from_plain, parameter_names, peak_of, row_of, to_plain

BANDS = ["g", "r"]


@pytest.mark.parametrize("kind", sorted(SOURCE_TYPES))
def test_rows_go_both_ways(kind):
    names = parameter_names(kind, BANDS)
    fluxes = len(SOURCE_TYPES[kind].fluxes)
    assert len(set(names)) == len(names) == len(SOURCE_TYPES[kind].parameters) + fluxes
    row = np.arange(1.0, len(names) + 1)
    peak = peak_of(Peak("7", kind, 0.0, 0.0, flags=3), BANDS, row)
    np.testing.assert_array_equal(row_of(peak, BANDS), row)
    assert (peak.id, peak.flags) == ("7", 3)
    assert peak.ra == row[names.index(("ra", ""))]


def test_what_a_row_does_not_know_stays():
    before = Peak("7", "sersic", 10.0, 20.0, {"rhalf": 0.4}, {("flux", "g"): 5.0})
    held = Peak(3, "point", 1.0, 2.0, fixed=frozenset({"ra", "dec"}), flags=4)
    for peak in (before, held):
        assert from_plain(json.loads(json.dumps(to_plain(peak)))) == peak
    row = row_of(before, BANDS)
    assert np.isnan(row).sum() == len(row) - 4
    row[parameter_names("sersic", BANDS).index(("ra", ""))] = 11.0
    after = peak_of(before, BANDS, row)
    assert after.values == before.values and after.flux == before.flux and after.ra == 11.0
    assert before.ra == 10.0
