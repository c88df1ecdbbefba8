"""Which mixture serves which Gaussian, and how they are laid out."""

from itertools import product

import numpy as np
import pytest

from jaxpho.core.terms import ShapeRange
from jaxpho.data.psfmodel import PSF_DTYPE, ReducedPSF
from jaxpho.data.terms import BUDGET, ROW, Mixtures, _size, pack_terms, pick, shares_of


def mixture(n, sigma=1.0):
    out = np.zeros(n, PSF_DTYPE)
    out["amp"], out["Cxx"], out["Cyy"], out["sersic_bin"] = 1 / n, sigma**2, sigma**2, -1
    return out


def rung(width, n, error):
    return ReducedPSF(width, mixture(n)[None], error)


LADDER = Mixtures(
    mixture(8),
    (rung(1.0, 6, 2e-4), rung(2.0, 5, 5e-5), rung(2.0, 3, 1e-3), rung(6.0, 2, 1e-4),
     rung(9.0, 1, 2e-3)),
)  # fmt: skip


def sizes(widths, shares, budget=BUDGET):
    return [len(p) for p in pick(LADDER, widths, shares, budget)]


def test_widths_decide_what_may_serve():
    none = np.zeros(5)
    assert sizes([0.0, 0.999, 1.0, 5.99, 6.0], none) == [8, 8, 6, 3, 2]
    assert sizes([100.0] * 5, none) == [1] * 5


def test_shares_decide_what_is_exact_enough():
    # all of the galaxy in one Gaussian: only errors within the budget
    assert sizes([2.0], [1.0]) == [5]
    assert sizes([1.5], [1.0]) == [8]
    assert sizes([2.0], [0.05]) == [3]
    assert sizes([9.0], [0.05]) == [1]
    # two that share the budget
    assert sizes([2.0, 2.0], [0.06, 0.06]) in ([3, 5], [5, 3])


def test_the_choice_is_the_smallest_but_for_a_gap():
    """Against all combinations; prices may miss the very best, never the budget."""
    rng = np.random.default_rng(4)
    errors = np.array([0.0] + [r.error for r in LADDER.reduced])
    count = np.array([8] + [r.parameters.shape[1] for r in LADDER.reduced])
    least = np.array([0.0] + [r.width for r in LADDER.reduced])
    worse = 0
    for _ in range(30):
        widths, shares = rng.uniform(0, 12, 4), rng.dirichlet(np.ones(4))
        found = pick(LADDER, widths, shares)
        ways = [np.flatnonzero(least <= w) for w in widths]
        fit = [w for w in product(*ways) if shares @ errors[list(w)] <= BUDGET]
        best = min(count[list(w)].sum() for w in fit)
        total = sum(len(p) for p in found)
        assert total >= best
        worse += total - best
        # mixtures of one size differ: the error of the chosen ones is not that of their sizes
        chosen = [
            next(k for k in w if count[k] == len(p)) for w, p in zip(ways, found, strict=True)
        ]
        assert shares @ errors[chosen] <= BUDGET * (1 + 1e-12)
    assert worse <= 0.3 * 30  # Gaussians, of twenty in each


def test_shares_of_a_galaxy():
    """Of its peak through the PSF, by integration of nothing but Gaussians at the centre."""
    psf = mixture(1, sigma=2.0)
    shapes = ShapeRange(0, np.array([[0.1, 1.0, 5.0]]), np.array([[0.2, 0.3, 0.5]]), 1.0)
    peak = np.array([0.2, 0.3, 0.5]) / (4 + 1 / 12 + np.array([0.2, 2.0, 10.0]) ** 2)
    np.testing.assert_allclose(shares_of(psf, shapes, 2.0, 1 / 12), peak / peak.sum(), rtol=1e-6)
    dark = psf.copy()
    dark["amp"] = 0
    assert np.all(shares_of(dark, shapes, 2.0, 0.0) == 0)


def test_layout():
    """Two exposures of different scale, two components; every Gaussian where it belongs."""
    d = np.zeros((2, 2, 2, 2))
    d[0], d[1] = 10 * np.eye(2), np.diag([5.0, 20.0])  # pixels per arcsec
    shapes = [
        ShapeRange(1, np.array([[0.05, 0.25, 1.0]]), np.array([[0.2, 0.3, 0.5]]), 1.0),
        ShapeRange(0, np.array([[0.05, 0.05, 0.05]]), np.array([[0.2, 0.3, 0.5]]), 1.0),
    ]
    terms, counts = pack_terms([[LADDER] * 2] * 2, d, np.ones(2), shapes, 8 * 3 * 4, 3)
    picked = [
        pick(LADDER, shapes[0].sigma[0] * least, shares_of(LADDER.full, shapes[0], scale, 1 / 12))
        for least, scale in ((10.0, 10.0), (5.0, 10.0))
    ]
    expected = [sum(map(len, p)) for p in picked]
    assert expected[0] < expected[1] < 24  # the narrower axis of a pixel decides
    np.testing.assert_array_equal(counts, [max(expected), 24])
    n = -(-counts // ROW)
    np.testing.assert_array_equal(terms.component[: n.sum()], np.repeat([0, 1], n))
    assert terms.bin.shape == (3, len(terms.component), ROW)
    flux = np.asarray(terms.psf.flux)
    for e in range(2):
        first = flux[e][terms.component == 0].ravel()
        assert np.count_nonzero(first) == expected[e]
        bins = terms.bin[e][terms.component == 0].ravel()[: expected[e]]
        np.testing.assert_array_equal(np.bincount(bins), [len(p) for p in picked[e]])
    assert not flux[2].any()  # padding: an exposure, rows
    assert np.all(np.asarray(terms.psf.cxx) > 0)
    # for each radius of each component the whole PSF
    for c in range(2):
        mine = terms.component == c
        for k in range(3):
            total = flux[0][mine][terms.bin[0][mine] == k].sum()
            assert total == pytest.approx(1.0, rel=1e-6)


def test_nothing_where_little_would_be_saved():
    shapes = [ShapeRange(0, np.array([[0.01, 0.01]]), np.array([[0.5, 0.5]]), 1.0)]
    d = 10 * np.ones((1, 1, 1, 1)) * np.eye(2)
    terms, counts = pack_terms([[LADDER]], d, np.ones(1), shapes, 16, 1)
    assert terms is None and counts.tolist() == [16]


@pytest.mark.parametrize(("n", "expected"), [(70, 70), (71, None), (60, 60), (59, 60), (41, 50),
                                             (40, 40), (1, 2), (33, 35)])  # fmt: skip
def test_few_sizes(n, expected):
    """Eight, seven, six or five eighths of the full number, halved again and again."""
    found = _size(n, 80.0)
    assert found == expected if n > 1 else found <= expected
