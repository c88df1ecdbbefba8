"""Patches of overlapping sources: every source is fitted exactly once."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxpho.data.regions import cut_field, overlapping_pairs

ARCSEC = 1 / 3600.0


def brute_pairs(ra, dec, radius):
    """All pairs by the haversine formula."""
    out = set()
    a, d = np.deg2rad(ra), np.deg2rad(dec)
    for i in range(len(ra)):
        for j in range(i + 1, len(ra)):
            h = (
                np.sin((d[i] - d[j]) / 2) ** 2
                + np.cos(d[i]) * np.cos(d[j]) * np.sin((a[i] - a[j]) / 2) ** 2
            )
            if np.rad2deg(2 * np.arcsin(np.sqrt(h))) < (radius[i] + radius[j]) * ARCSEC:
                out.add((i, j))
    return out


def field(seed, n, width, dec0):
    rng = np.random.default_rng(seed)
    ra = rng.normal(0, width * ARCSEC, n) / np.cos(np.deg2rad(dec0)) % 360  # across RA = 0
    return ra, dec0 + rng.normal(0, width * ARCSEC, n), 10 ** rng.uniform(0, 1.4, n)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 60),
    width=st.sampled_from([3.0, 40.0, 400.0]),
    dec0=st.sampled_from([-70.0, 0.0, 45.0]),
    limit=st.integers(1, 9),
)
def test_every_source_is_active_once_and_neighbours_are_known(seed, n, width, dec0, limit):
    ra, dec, radius = field(seed, n, width, dec0)
    regions = cut_field(ra, dec, radius, limit)
    assert sorted(i for r in regions for i in r.active) == list(range(n))
    assert [r.patch_id for r in regions] == list(range(len(regions)))
    home = {i: r.patch_id for r in regions for i in r.active}
    pairs = brute_pairs(ra, dec, radius)
    assert {tuple(p) for p in overlapping_pairs(ra, dec, radius)} == pairs
    wanted = {r.patch_id: set() for r in regions}
    for i, j in pairs:
        if home[i] != home[j]:
            wanted[home[i]].add(j)
            wanted[home[j]].add(i)
    for r in regions:
        assert 1 <= len(r.active) <= limit
        assert set(r.fixed) == wanted[r.patch_id]


def test_a_chain_of_friends_is_one_patch_and_a_distant_source_another():
    ra = np.array([10.0, 10.0, 10.0, 10.0])
    dec = np.array([0.0, 5.0, 10.0, 60.0]) * ARCSEC
    regions = cut_field(ra, dec, np.full(4, 3.0), 12)
    assert [r.active for r in regions] == [[0, 1, 2], [3]]
    assert all(r.fixed == [] for r in regions)


def test_the_brightest_patch_comes_first():
    ra, dec = np.array([10.0, 11.0, 12.0]), np.zeros(3)
    regions = cut_field(ra, dec, np.full(3, 2.0), 12, priority=[1.0, np.nan, 5.0])
    assert [r.active for r in regions] == [[2], [0], [1]]


def test_an_empty_field_has_no_patches():
    assert cut_field([], [], []) == []
