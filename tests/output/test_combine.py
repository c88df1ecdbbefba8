"""One source from several patches: by hand, and nothing changed where there is one."""

from dataclasses import replace

import numpy as np
import pytest
from synthetic_result import make_result

from jaxpho.fit import flags
from jaxpho.fit.diagnostics import diagnose
from jaxpho.output.catalog import rows_of_patch
from jaxpho.output.combine import source_result
from jaxpho.output.derived import sky_position

# positions are moved in double precision: degrees
EXACT = 1e-11


def same_rows(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(other[name], value, err_msg=name)


@pytest.mark.parametrize("draws", [0, 40])
def test_a_single_patch_gives_its_own_rows(draws):
    result = make_result(np.random.default_rng(1), draws=draws)
    for s, row in enumerate(rows_of_patch(result)):
        same_rows(row, rows_of_patch(source_result([(result, s)]))[0])


def two_patches():
    one = make_result(np.random.default_rng(1), draws=40)
    other = make_result(np.random.default_rng(2), draws=60)
    # seen from another place, across RA = 0
    return one, replace(other, reference=((one.reference[0] + 359.999) % 360, other.reference[1]))


def test_draws_of_several_patches_are_put_together():
    one, other = two_patches()
    s = 0
    found = source_result([(one, s), (other, s)], patch=7)
    chains = one.samples.shape[0]
    assert found.samples.shape == (chains, 100, len(found.labels)) and found.patch_id == 7
    k = [found.index(0, "ra"), found.index(0, "dec")]
    places = sky_position(found.reference, found.samples[..., k[0]], found.samples[..., k[1]])
    for part, cut in ((one, slice(0, 40)), (other, slice(40, 100))):
        own = [part.index(s, "ra"), part.index(s, "dec")]
        wanted = sky_position(part.reference, *(part.samples[..., c].astype(float) for c in own))
        for a, b in zip(places, wanted, strict=True):
            np.testing.assert_allclose(a[:, cut], b, rtol=0, atol=EXACT)
    band = found.bands[0]
    column = found.index(0, "flux", band)
    fluxes = [p.samples[..., p.index(s, "flux", band)] for p in (one, other)]
    np.testing.assert_array_equal(found.samples[..., column], np.concatenate(fluxes, 1))
    values = [p.theta[p.index(s, "flux", band)] for p in (one, other)]
    assert found.theta[column] == pytest.approx(np.mean(values))
    row = rows_of_patch(found)[0]
    worth = diagnose(found.samples)
    assert row["ess_bulk_min"] == pytest.approx(np.nanmin(worth.bulk))
    assert row["rhat_max"] == pytest.approx(np.nanmax(worth.rhat))


def test_all_draws_together_are_judged():
    one, other = two_patches()
    one.flags, other.flags = (np.array(p.flags, np.int64) for p in (one, other))
    one.flags[0] = flags.encode(["divergences", "low_ess", "at_bound"])
    other.flags[0] = flags.encode(["low_ess"])
    found = source_result([(one, 0), (other, 0)])
    # divergences once are enough; what lies at a bound is said by the last
    assert flags.decode(found.flags[0]) == ["divergences"]
    found = source_result([(one, 0), (other, 0)], min_ess=1e9, max_rhat=1.0)
    assert set(flags.decode(found.flags[0])) == {"divergences", "low_ess", "high_rhat"}


def test_an_optimum_before_the_draws_only_tells_the_type():
    one, other = two_patches()
    first = replace(one, samples=None, theta=one.theta + 5, choices=[None] * len(one.source_ids))
    first.choices[0] = {"type": "sersic", "chi2": {"sersic": 0.0}, "score": {"sersic": 0.0}}
    found = source_result([(first, 0), (other, 0)])
    np.testing.assert_array_equal(found.samples, source_result([(other, 0)]).samples)
    np.testing.assert_array_equal(found.theta, source_result([(other, 0)]).theta)
    assert found.choices == [first.choices[0]]
    # without draws it is the last one that counts
    last = replace(other, samples=None)
    found = source_result([(first, 0), (last, 0)])
    assert found.samples is None
    np.testing.assert_array_equal(found.theta, source_result([(last, 0)]).theta)
