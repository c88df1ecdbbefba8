"""Statistics and flags of sources, from made-up fits."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import norm

from jaxpho.fit import flags, quality
from jaxpho.fit.optimize import Z_LIMIT
from jaxpho.fit.options import FitOptions, PriorOptions
from jaxpho.fit.parameters import Parameter
from jaxpho.fit.transforms import Transform

D = np.array([[-4.0, 0.0], [0.0, 4.0]])  # quarter-arcsec pixels, East to the left


def exposure(size=40, value=0.0, masked=()):
    """Pixels of an empty image with residuals of ``value`` sigma (sigma = 2)."""
    y, x = np.indices((size, size)).reshape(2, -1)
    ierr = np.full(x.shape, 0.5)
    for mask in masked:
        ierr[mask(x, y)] = 0.0
    return {"x": x, "y": y, "data": np.full(x.shape, 2.0 * value), "ierr": ierr,
            "model": np.zeros(x.shape)}  # fmt: skip


def areas(pixels, centres, radii, bands=None, wanted=None):
    n_e, n_s = len(pixels), len(radii)
    bands = bands or ["g"] * n_e
    centres = np.broadcast_to(np.asarray(centres, float), (n_e, n_s, 2))
    d = np.broadcast_to(D, (n_e, n_s, 2, 2))
    return quality.source_areas(pixels, centres, d, np.array(radii), bands, wanted or ["g"])


def test_area_of_a_source():
    """Pixels within 2 arcsec = 8 pixels of the centre, in two exposures."""
    found = areas([exposure(value=1.5), exposure(value=0.5)], [[20, 20], [-100, 5]], [2.0, 2.0])
    expected = 2 * np.pi * 8**2
    assert found.npix[0] == pytest.approx(expected, rel=0.03) and found.npix[1] == 0
    assert found.chi2[0] == pytest.approx(found.npix[0] * (1.5**2 + 0.5**2) / 2)
    assert list(found.nexp) == [2, 0] and found.chi2[1] == 0
    assert found.coverage[0] == pytest.approx(1.0, abs=0.03) and found.coverage[1] == 0
    pair = areas(
        [exposure(), exposure()], [[20, 20], [-100, 5]], [2.0, 2.0], ["g", "r"], ["g", "r"]
    )
    assert pair.band_npix[0, 0] == pair.band_npix[0, 1] > 0 and not pair.band_npix[1].any()


def test_ellipse_of_a_sheared_exposure():
    """The radius is on the sky: half as many pixels where these are twice as long."""
    p = exposure()
    d = np.array([[[[4.0, 0.0], [0.0, 2.0]]]])
    found = quality.source_areas([p], np.array([[[20.0, 20.0]]]), d, np.array([2.0]), ["g"], ["g"])
    assert found.npix[0] == pytest.approx(np.pi * 8 * 4, rel=0.05)
    assert found.coverage[0] == pytest.approx(1.0, abs=0.05)


def test_masks_and_edges_take_from_the_coverage():
    half = exposure(masked=[lambda x, y: x < 20])
    found = areas([half, exposure(masked=[lambda x, y: y > 16])], [[20, 20]], [2.0])
    assert found.coverage[0] == pytest.approx(0.5, abs=0.06)
    # one complete exposure suffices for a band; the worst band counts
    found = areas([half, exposure()], [[20, 20]], [2.0])
    assert found.coverage[0] == pytest.approx(1.0, abs=0.03)
    found = areas([half, exposure()], [[20, 20]], [2.0], ["g", "r"], ["g", "r"])
    assert found.coverage[0] == pytest.approx(0.5, abs=0.06)
    found = areas([exposure()], [[20, 20]], [2.0], ["g"], ["g", "r"])
    assert found.coverage[0] == 0
    assert areas([exposure()], [[0, 0]], [2.0]).coverage[0] == pytest.approx(0.25, abs=0.08)


def parameters(*priors):
    out = [Parameter(0, f"p{i}", "", 0.0, prior) for i, prior in enumerate(priors)]
    return SimpleNamespace(parameters=out, labels=[p.label for p in out])


def test_at_bound():
    table = parameters(
        PriorOptions("uniform", 0.5, 8.0),
        PriorOptions("log_uniform", 0.01, 10.0),
        PriorOptions("flat"),
        PriorOptions("uniform", -0.8, 0.8),
        PriorOptions("uniform", -0.8, 0.8),
    )
    table.parameters[3].partner, table.parameters[4].partner = 4, 3
    assert not quality.at_bound(table, np.array([4.0, 1.0, 1e9, 0.5, 0.5])).any()
    assert list(quality.at_bound(table, np.array([7.99, 0.0101, 0, 0, 0]))) == [1, 1, 0, 0, 0]
    assert list(quality.at_bound(table, np.array([0.502, 9.9, -5, 0, 0]))) == [1, 1, 0, 0, 0]
    # where logarithms count, .011 is well inside
    assert not quality.at_bound(table, np.array([4.0, 0.011, 0, 0, 0])).any()
    found = quality.at_bound(table, np.array([4.0, 1.0, 0, 0.8 * 0.6, 0.8 * 0.8]))
    assert list(found) == [0, 0, 0, 1, 1]


def test_at_bound_where_the_optimiser_stops():
    """Bounded parameters and ellipticities in any direction, at the largest |z|."""
    e_max = 0.9 / 1.1
    table = parameters(PriorOptions("uniform", 0.5, 8.0), *[PriorOptions("flat")] * 2)
    for k, other in ((1, 2), (2, 1)):
        table.parameters[k].partner = other
        table.parameters[k].prior = PriorOptions("uniform", -e_max, e_max)
    for v in ((Z_LIMIT, 0.0), (-Z_LIMIT, Z_LIMIT), (1.0, -Z_LIMIT)):
        r = np.hypot(*v)
        e = e_max * np.sqrt(1 - np.exp(-(r**2) / 2)) * np.array(v) / r
        n = 0.5 + 7.5 * norm.cdf(v[0]) if abs(v[0]) > 1 else 4.0
        found = quality.at_bound(table, np.array([n, *e]))
        assert list(found) == [abs(v[0]) > 1, True, True]


def test_prior_dominated():
    n = 5
    zero = np.zeros(n)
    tr = Transform(
        log=zero > 0,
        bounded=np.array([1, 1, 0, 0, 0], bool),
        disc=np.array([0, 0, 0, 0, 1], bool),
        low=zero,
        high=np.array([1.0, 1.0, 1.0, 1.0, 0.8]),
        centre=zero,
        scale=zero + 1,
        partner=np.arange(n),
        mean=zero,
        precision=np.array([0.0, 100.0, 0.0, 2.0, 0.0]),
    )
    # uniform: 1/sqrt(12) = .29; normal .01; flat; normal .5; disc .4
    sigma = np.array([0.1, 0.005, 1e6, 0.3, 0.1])
    assert not quality.prior_dominated(np.diag(sigma**2), tr, n).any()
    sigma = np.array([0.28, 0.0099, 1e6, 0.49, 0.39])
    assert list(quality.prior_dominated(np.diag(sigma**2), tr, n)) == [1, 1, 0, 1, 1]


def test_blended():
    labels = [(0, "flux", "g"), (1, "flux", "g"), (2, "flux", "g"), (0, "flux", "r"),
              (1, "flux", "r"), (2, "rhalf", ""), (("exposure", "e"), "scale", "")]  # fmt: skip
    covariance = np.eye(7)
    covariance[0, 2] = covariance[2, 0] = -0.4
    covariance[0, 5] = covariance[5, 0] = 0.9  # not fluxes
    covariance[0, 3] = covariance[3, 0] = 0.9  # of one source
    covariance[0, 4] = covariance[4, 0] = 0.9  # other bands
    assert not quality.flux_blended(labels, covariance, 3).any()
    covariance[3, 4] = covariance[4, 3] = -0.6
    assert list(quality.flux_blended(labels, covariance, 3)) == [True, True, False]
    scale = np.diag([1e3, 1e-3, 1, 50, 2, 1, 1])
    assert list(quality.flux_blended(labels, scale @ covariance @ scale, 3)) == [1, 1, 0]


def test_flags_go_to_their_owners():
    labels = [(0, "flux", "g"), (1, "flux", "g"), (("exposure", "e"), "dra", "")]
    found = quality.source_flags(
        3,
        labels,
        {"at_bound": [False, True, True], "nonfinite": [False, False, False]},
        {"no_data": [True, False, False], "blended": np.array([1, 1, 0], bool)},
        ["no_convergence"],
    )
    names = [set(flags.decode(mask)) for mask in found]
    everyone = {"no_convergence"}
    assert names == [
        everyone | {"no_data", "blended"},
        everyone | {"at_bound", "blended"},
        everyone,
    ]


def test_influence_radius():
    assert quality.influence_radius("point", {}, 0.4) == pytest.approx(1.0)
    assert quality.influence_radius("sersic", {"rhalf": 1.5}, 0.4) == pytest.approx(10**0.5)
    both = {"rhalf_disk": 2.0, "rhalf_bulge": 0.1}
    assert quality.influence_radius("bulge_disk", both, 0.0) == pytest.approx(4.0)


def test_registry_of_flags():
    """Bits are stable: catalogues outlive versions."""
    assert [flag.bit for flag in flags.FLAGS] == list(range(len(flags.FLAGS)))
    assert flags.bit("at_bound") == 1 and flags.bit("no_data") == 64
    assert flags.decode(flags.encode(["failed", "at_bound"]) | 1 << 40) == [
        "at_bound", "failed", "bit40",
    ]  # fmt: skip
    assert flags.table().count("\n") == len(flags.FLAGS) + 1
    assert FitOptions().q_min == 0.1  # the ellipticities above assume it
