"""Starting values of sources from what a peak catalogue knows."""

import math

import numpy as np
import pytest

from jaxpho.core.sources import SOURCE_TYPES
from jaxpho.data.catalog import Peak
from jaxpho.fit.start import ellipticity, source_starts, tangent_offsets

REFERENCE = (150.0, 60.0)
BANDS = ("g", "r")


def start_of(kind="sersic", values=None, flux=None, fixed=(), ra=150.0, dec=60.0, **kwargs):
    peak = Peak("1", kind, ra, dec, values or {}, flux or {}, frozenset(fixed))
    return source_starts([peak], BANDS, REFERENCE, pixel_scale=0.2, **kwargs)[0]


def shape(start, suffix=""):
    return [start.values[name + suffix, ""] for name in ("rhalf", "sersic", "e1", "e2")]


def test_offsets():
    x, y = tangent_offsets([150.001, 149.999], [60.0, 60.002], REFERENCE)
    np.testing.assert_allclose(x, [1.8, -1.8], rtol=1e-9)
    np.testing.assert_allclose(y, [0.0, 7.2], atol=1e-9)
    x, _ = tangent_offsets([359.9999, 0.0001], [0.0, 0.0], (0.0, 0.0))
    np.testing.assert_allclose(x, [-0.36, 0.36], rtol=1e-6)
    start = start_of(ra=150.0 + 2 / 3600, dec=60.0 - 1 / 3600)
    np.testing.assert_allclose([start.values["ra", ""], start.values["dec", ""]], [1.0, -1.0])


@pytest.mark.parametrize("q, pa", [(0.5, 0.0), (0.3, 30.0), (0.8, 120.0), (1.0, 77.0)])
def test_ellipticity(q, pa):
    e1, e2 = ellipticity(q, pa)
    e = math.hypot(e1, e2)
    assert (1 - e) / (1 + e) == pytest.approx(q)
    if q < 1:
        assert math.degrees(math.atan2(e2, e1)) / 2 % 180 == pytest.approx(pa)


@pytest.mark.parametrize("kind", SOURCE_TYPES)
def test_every_parameter_of_every_type_has_a_start(kind):
    start = start_of(kind)
    wanted = {
        (name, band)
        for name in SOURCE_TYPES[kind].parameters
        for band in (BANDS if name.startswith("flux") else ("",))
    }
    assert set(start.values) >= wanted
    assert all(np.isfinite(v) for v in start.values.values())
    assert (start.size > 0) == any(c.profile == "sersic" for c in SOURCE_TYPES[kind].components)


def test_unknown_shapes():
    """Two pixels, a middling index, round."""
    assert shape(start_of()) == [0.4, 1.5, 0.0, 0.0]
    for bad in (0.0, -1.0, np.nan):
        assert shape(start_of(values={"rhalf": bad}))[0] == 0.4
    start = start_of("bulge_disk", {"rhalf": 2.0})
    assert shape(start, "_disk")[:2] == [2.0, 1.0]
    # a bulge is smaller than the galaxy it sits in
    assert 0 < shape(start, "_bulge")[0] < 1.0 and shape(start, "_bulge")[1] == 2.5
    assert start.size == 2.0


def test_known_shapes():
    values = {"rhalf": 1.5, "sersic": 3.0, "q": 0.5, "pa": 45.0}
    np.testing.assert_allclose(shape(start_of(values=values)), [1.5, 3.0, 0.0, 1 / 3], atol=1e-12)
    # e1 and e2, where given, win over q and pa
    found = shape(start_of(values=values | {"e1": -0.2, "e2": 0.1}))
    np.testing.assert_allclose(found[2:], [-0.2, 0.1])
    # components: their own values, or the whole source's
    found = start_of("bulge_disk", values | {"rhalf_bulge": 0.3, "sersic_bulge": 4.0})
    np.testing.assert_allclose(shape(found, "_bulge"), [0.3, 4.0, 0.0, 1 / 3], atol=1e-12)
    np.testing.assert_allclose(shape(found, "_disk"), [1.5, 3.0, 0.0, 1 / 3], atol=1e-12)


def test_shapes_outside_the_ranges():
    start = start_of(values={"sersic": 20.0, "q": 0.01, "pa": 20.0}, q_min=0.2)
    _, n, e1, e2 = shape(start)
    assert n == 8.0
    assert math.hypot(e1, e2) < 0.8 / 1.2
    assert math.degrees(math.atan2(e2, e1)) / 2 == pytest.approx(20.0)
    assert shape(start_of(values={"sersic": 0.1}))[1] == 0.3


@pytest.mark.parametrize("q", [0.01, 0.0])
def test_held_shapes_may_be_flatter_than_free_ones(q):
    """But never a line, whose profile is not finite."""
    _, _, e1, e2 = shape(start_of(values={"q": q}, fixed=("all",)))
    expected = max(q, 1e-3)
    assert (1 - e1) / (1 + e1) == pytest.approx(expected, rel=0.01) and e2 == 0.0


def test_fluxes():
    flux = {("flux", "g"): 10.0, ("flux", "r"): np.nan}
    start = start_of(flux=flux)
    assert start.values["flux", "g"] == 10.0 and start.values["flux", "r"] == 0.0
    # of a total, components get a share; what is known of one is kept
    start = start_of("bulge_disk", flux=flux | {("flux_bulge", "r"): 3.0})
    parts = [start.values[name, "g"] for name in ("flux_disk", "flux_bulge")]
    assert sum(parts) == pytest.approx(10.0) and min(parts) > 0
    assert start.values["flux_bulge", "r"] == 3.0
    assert start_of().values["flux", "g"] == 0.0


def test_what_is_held_is_passed_on():
    start = start_of(fixed=("shape", "ra"))
    assert start.holds("e1") and start.holds("ra")
    assert not start.holds("dec") and not start.holds("flux")
