"""Which sources overlap."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxpho.data.regions import overlapping_pairs

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
    n=st.integers(0, 60),
    width=st.sampled_from([3.0, 40.0, 400.0]),
    dec0=st.sampled_from([-70.0, 0.0, 45.0]),
)
def test_pairs_are_those_of_the_haversine_formula(seed, n, width, dec0):
    ra, dec, radius = field(seed, n, width, dec0)
    assert {tuple(p) for p in overlapping_pairs(ra, dec, radius)} == brute_pairs(ra, dec, radius)
