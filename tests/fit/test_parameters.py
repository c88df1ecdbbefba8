"""The flat parameter vector: names, what is held and shared, priors by name, padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpho.core.scene import NUISANCE, POINT_ROW, ROW
from jaxpho.core.sources import SOURCE_TYPES, base_name
from jaxpho.data.exposure import Nuisance
from jaxpho.errors import InputError
from jaxpho.fit.optimize import Z_LIMIT
from jaxpho.fit.options import FitOptions, PriorOptions
from jaxpho.fit.parameters import FLAT_WIDTH, SourceStart, build_parameters
from jaxpho.fit.transforms import inverse, physical, prior_energy

BANDS = ("g", "r")
PIXEL = 0.2
NOISE = {"g": 2.0, "r": 3.0}
FLOAT32 = 1e-5


@pytest.fixture(autouse=True)
def double(x64):
    """Numbers are compared to the last digit."""


def start_of(kind, fixed=(), scale=1.0, **values):
    """A source whose every value is different."""
    known, k = {}, 0
    for name in SOURCE_TYPES[kind].parameters:
        for band in BANDS if name.startswith("flux") else ("",):
            k += 1
            usual = {"rhalf": 0.3, "sersic": 1.0, "e1": 0.1, "e2": -0.1, "ra": 0.4, "dec": -0.7}
            known[name, band] = usual.get(base_name(name), 100.0) * scale * (1 + 0.01 * k)
    known |= {(k, ""): v for k, v in values.items()}
    return SourceStart(kind, known, frozenset(fixed), 0.4)


def build(*starts, options=None, dtype=np.float64, **kwargs):
    return build_parameters(
        starts,
        BANDS,
        options or FitOptions(),
        pixel_scale=PIXEL,
        cos_dec=0.8,
        flux_scale=NOISE,
        dtype=dtype,
        **kwargs,
    )


def read_rows(table, n, theta=None):
    """(profile, component) -> values [B, row], through the scene's own indices."""
    theta = table.start(n, np.float64) if theta is None else theta
    values = np.concatenate([theta, np.asarray(table.scene.constants)])
    return values[np.asarray(table.scene.sersic_index)], values[np.asarray(table.scene.point_index)]


def nuisance_values(table, n, theta=None):
    theta = table.start(n, np.float64) if theta is None else theta
    values = np.concatenate([theta, np.asarray(table.scene.constants)])
    return values[np.asarray(table.scene.nuisance_index)]


def prior_of(table, name, owner=0):
    return next(p.prior for p in table.parameters if (p.owner, p.name) == (owner, name))


@pytest.mark.parametrize("kind", SOURCE_TYPES)
def test_every_type_is_read_back(kind):
    """Each component's row holds the values of its own names, in each band."""
    start = start_of(kind)
    table, n = build(start)
    labels = table.labels
    assert len(set(labels)) == len(labels) == n
    names = [name for _, name, _ in labels]
    assert list(dict.fromkeys(names)) == list(SOURCE_TYPES[kind].parameters)
    found = dict(zip(("sersic", "point"), read_rows(table, n), strict=True))
    at = {"sersic": 0, "point": 0}
    for component in SOURCE_TYPES[kind].components:
        rows = found[component.profile][:, at[component.profile]]
        at[component.profile] += 1
        held = dict(component.fixed)
        for b, band in enumerate(BANDS):
            for i, name in enumerate(ROW if component.profile == "sersic" else POINT_ROW):
                full = name if name in ("ra", "dec") else name + component.suffix
                key = (full, band if name == "flux" else "")
                assert rows[b, i] == held.get(name, start.values.get(key)), (kind, full)
    assert at["sersic"] == found["sersic"].shape[1] and at["point"] == found["point"].shape[1]


@pytest.mark.parametrize("kind, index", [("exp", 1.0), ("dev", 4.0)])
def test_types_that_hold_the_index(kind, index):
    table, n = build(start_of(kind))
    assert (0, "sersic", "") not in table.labels
    assert np.all(read_rows(table, n)[0][..., ROW.index("sersic")] == index)


@pytest.mark.parametrize(
    "fixed, free",
    [
        ((), "flux flux ra dec rhalf sersic e1 e2"),
        (("shape",), "flux flux ra dec"),
        (("position",), "flux flux rhalf sersic e1 e2"),
        (("flux",), "ra dec rhalf sersic e1 e2"),
        (("rhalf", "dec"), "flux flux ra sersic e1 e2"),
        (("all",), ""),
    ],
)
def test_what_is_held(fixed, free):
    start = start_of("sersic", fixed)
    table, n = build(start)
    assert [name for _, name, _ in table.labels] == free.split()
    held = {(name, band) for (_, name, band) in table.fixed}
    assert held | {(name, band) for _, name, band in table.labels} == set(start.values)
    assert all(table.fixed[0, name, band] == start.values[name, band] for name, band in held)
    # held or free, the rows read the same
    np.testing.assert_array_equal(read_rows(table, n)[0], read_rows(*build(start_of("sersic")))[0])
    transform = table.transform(n)
    assert transform.log.shape == (n,)


def test_groups_hold_all_components():
    table, _ = build(start_of("bulge_disk", ("shape",)))
    assert {name for _, name, _ in table.labels} == {"flux_disk", "flux_bulge", "ra", "dec"}
    table, _ = build(start_of("bulge_disk", ("sersic_disk",)))
    names = {name for _, name, _ in table.labels}
    assert "sersic_bulge" in names and "sersic_disk" not in names


def test_padding_changes_nothing():
    starts = [start_of("sersic"), start_of("point"), start_of("bulge_disk", ("shape",))]
    nuisance = [Nuisance(offset_sigma=0.1, scale_sigma=0.02), Nuisance()]
    common = {"nuisances": nuisance, "exposures": ["a", "b"], "exposure_bands": ["g", "r"]}
    plain, n = build(*starts, **common)
    padded, wide = build(
        *starts, size=lambda k: k + 5, component_size=lambda k: k + 2, n_exposures=4, **common
    )
    assert wide == n + 5
    for a, b in zip(read_rows(plain, n), read_rows(padded, wide), strict=True):
        np.testing.assert_array_equal(b[:, : a.shape[1]], a)
        # padding: no flux, and a shape that is harmless
        assert np.all(b[:, a.shape[1] :, 0] == 0)
    sersic = read_rows(padded, wide)[0]
    np.testing.assert_array_equal(sersic[0, -1], [0, 0, 0, 1, 1, 0, 0])
    np.testing.assert_array_equal(nuisance_values(padded, wide)[:2], nuisance_values(plain, n))
    np.testing.assert_array_equal(nuisance_values(padded, wide)[2:], [[0, 0, 1, 0, 0, 0]] * 2)
    a, b = plain.transform(n), padded.transform(wide)
    for name, x, y in zip(a._fields[:-1], a[:-1], b[:-1], strict=True):
        np.testing.assert_array_equal(y[:n], x, err_msg=name)
    # padding parameters are unit normals
    np.testing.assert_array_equal(physical(jnp.zeros(wide), b)[n:], 0.0)
    np.testing.assert_array_equal(b.precision[n:], 1.0)
    np.testing.assert_array_equal(padded.start(wide)[n:], 0.0)


def test_nuisances():
    given = [
        Nuisance(),
        Nuisance(offset_sigma=0.05, scale_sigma=0.01, sky="constant", sky_sigma=0.2, sky_mean=0.3),
        Nuisance(sky="plane", sky_sigma=0.5, sky_slope_sigma=0.1),
        None,
    ]
    names = ["a", "b", "c", "d"]
    table, n = build(
        start_of("point"), nuisances=given, exposures=names, exposure_bands=["g"] * 2 + ["r"] * 2
    )
    labels = [label for label in table.labels if not isinstance(label[0], int)]
    expected = [("b", k) for k in ("dra", "ddec", "scale", "sky")]
    expected += [("c", k) for k in ("sky", "sky_x", "sky_y")]
    assert labels == [(("exposure", owner), name, "") for owner, name in expected]
    # each in its own place
    theta = table.start(n, np.float64)
    theta[[table.labels.index(label) for label in labels]] = np.arange(1, 8) / 10
    found = nuisance_values(table, n, theta)
    rows = [[0, 0, 1, 0, 0, 0], [0.1, 0.2, 0.3, 0.4, 0, 0], [0, 0, 1, 0.5, 0.6, 0.7]]
    np.testing.assert_allclose(found, rows + rows[:1])
    # start and prior at their means
    np.testing.assert_allclose(nuisance_values(table, n)[1], [0, 0, 1, 0.3, 0, 0])
    transform = table.transform(n, np.float64)
    for (owner, name), sigma in zip(expected, [0.05, 0.05, 0.01, 0.2, 0.5, 0.1, 0.1], strict=True):
        at = table.labels.index((("exposure", owner), name, ""))
        assert transform.precision[at] == pytest.approx(1 / sigma, rel=1e-6)
        assert transform.mean[at] == pytest.approx(theta_mean(owner, name), rel=1e-6)
        assert table.parameters[at].linear == name.startswith("sky")
    assert set(n for _, n in expected) == set(NUISANCE)


def theta_mean(owner, name):
    return {("b", "scale"): 1.0, ("b", "sky"): 0.3}.get((owner, name), 0.0)


def test_offsets_shared_by_band():
    given = [Nuisance(offset_sigma=0.05, offset_group="band") for _ in range(3)]
    given.append(Nuisance(offset_sigma=0.02))
    table, n = build(
        start_of("point"),
        nuisances=given,
        exposures=["a", "b", "c", "d"],
        exposure_bands=["g", "g", "r", "r"],
    )
    index = np.asarray(table.scene.nuisance_index)[:, :2]
    np.testing.assert_array_equal(index[0], index[1])
    assert len(np.unique(index)) == 6
    owners = [o for o, name, _ in table.labels if name == "dra"]
    assert owners == [("exposure", "band g"), ("exposure", "band r"), ("exposure", "d")]


def test_sky_of_zero_width_is_held():
    given = [Nuisance(sky="plane", sky_mean=0.7)]
    table, n = build(start_of("point"), nuisances=given, exposures=["a"], exposure_bands=["g"])
    assert all(isinstance(owner, int) for owner, _, _ in table.labels)
    np.testing.assert_allclose(nuisance_values(table, n), [[0, 0, 1, 0.7, 0, 0]])


def test_linear_parameters():
    table, _ = build(start_of("sersic_point"))
    assert [p.name for p in table.parameters if p.linear] == ["flux"] * 2 + ["flux_point"] * 2
    for prior in (PriorOptions("uniform", 0.0, 1e4), PriorOptions("log_normal", sigma=1.0)):
        table, _ = build(start_of("sersic"), options=FitOptions(priors={"flux": prior}))
        assert not table.linear.any()
    normal = FitOptions(priors={"flux": PriorOptions("normal", mean=50.0, sigma=9.0)})
    table, n = build(start_of("sersic"), options=normal)
    assert table.linear.sum() == 2
    transform = table.transform(n, np.float64)
    assert np.allclose(transform.mean[:2], 50.0) and np.allclose(transform.precision[:2], 1 / 9)


def test_default_bounds_and_scales():
    start = start_of("sersic")
    table, n = build(start)
    lows = physical(jnp.full(n, -80.0), table.transform(n))
    highs = physical(jnp.full(n, 80.0), table.transform(n))
    at = {label[1]: i for i, label in enumerate(table.labels)}
    ends = {
        "ra": (start.values["ra", ""] - 0.6, start.values["ra", ""] + 0.6),
        "rhalf": (0.02 * PIXEL, 60 * PIXEL),
        "sersic": (0.5, 8.0),
    }
    for name, (low, high) in ends.items():
        np.testing.assert_allclose([lows[at[name]], highs[at[name]]], [low, high], rtol=1e-5)
    e_max = 0.9 / 1.1
    np.testing.assert_allclose(np.hypot(highs[at["e1"]], highs[at["e2"]]), e_max, rtol=1e-4)
    # a flat flux: one unit of z is a typical error, and only just proper
    step = physical(jnp.ones(n), table.transform(n)) - physical(jnp.zeros(n), table.transform(n))
    np.testing.assert_allclose(step[:2], [2.0, 3.0], rtol=1e-6)
    np.testing.assert_allclose(1 / np.asarray(table.transform(n).precision[:2]),
                               FLAT_WIDTH * np.array([2.0, 3.0]), rtol=1e-5)  # fmt: skip


def test_larger_sources_may_move_and_grow_more():
    start = start_of("sersic")
    start.size = 10.0
    table, _ = build(start)
    assert prior_of(table, "rhalf").high == 200.0
    centre = start.values["dec", ""]
    assert prior_of(table, "dec").low == centre - 5 and prior_of(table, "dec").high == centre + 5


def test_priors_by_name_and_component():
    options = FitOptions(
        priors={
            "rhalf": PriorOptions("log_normal", mean=0.5, sigma=0.3),
            "rhalf_bulge": PriorOptions("uniform", 0.01, 2.0),
            "sersic_disk": PriorOptions("normal", mean=1.0, sigma=0.2),
            "position": PriorOptions("normal", sigma=0.05),
            "ellipticity": PriorOptions("normal", sigma=0.25, high=0.7),
        }
    )
    start = start_of("bulge_disk")
    table, n = build(start, options=options)
    assert prior_of(table, "rhalf_disk").name == "log_normal"
    assert prior_of(table, "rhalf_bulge") == PriorOptions("uniform", 0.01, 2.0)
    # truncated: the range stays, the normal is on top of it
    disk = prior_of(table, "sersic_disk")
    assert (disk.low, disk.high, disk.mean, disk.sigma) == (0.5, 8.0, 1.0, 0.2)
    assert prior_of(table, "sersic_bulge").sigma is None
    # offsets from the peak
    ra = prior_of(table, "ra")
    assert (ra.mean, ra.low) == (start.values["ra", ""], None)
    transform = table.transform(n, np.float64)
    at = {label[1]: i for i, label in enumerate(table.labels)}
    assert transform.log[at["rhalf_disk"]] and not transform.log[at["rhalf_bulge"]]
    assert transform.mean[at["rhalf_disk"]] == pytest.approx(np.log(0.5))
    assert transform.precision[at["rhalf_disk"]] == pytest.approx(1 / 0.3)
    for name in ("e1_disk", "e2_bulge"):
        assert transform.disc[at[name]] and transform.high[at[name]] == pytest.approx(0.7)
        assert transform.precision[at[name]] == pytest.approx(4.0)
        assert transform.mean[at[name]] == 0.0
    assert transform.partner[at["e1_disk"]] == at["e2_disk"]
    assert transform.partner[at["e2_bulge"]] == at["e1_bulge"]


@pytest.mark.parametrize(
    "name, prior, values",
    [
        ("sersic", PriorOptions("normal", 1.0, 5.0, 4.0, 0.5), (1.5, 4.0, 4.8)),
        ("rhalf", PriorOptions("log_normal", mean=0.4, sigma=0.5), (0.1, 0.4, 2.0)),
        ("flux", PriorOptions("normal", mean=80.0, sigma=20.0), (-30.0, 80.0, 200.0)),
        ("flux", PriorOptions("log_normal", mean=80.0, sigma=0.7), (5.0, 80.0, 900.0)),
        ("ra", PriorOptions("normal", -0.3, 0.3, 0.1, 0.05), (-0.1, 0.1, 0.2)),
    ],
)
def test_energy_of_a_prior(name, prior, values):
    """(t - mean)^2 / 2 sigma^2 with the numbers of the configuration."""
    start = start_of("sersic")
    key = "position" if name == "ra" else name
    table, n = build(start, options=FitOptions(priors={key: prior}))
    tr = table.transform(n)
    at = [label[1] for label in table.labels].index(name)
    shift = start.values["ra", ""] if name == "ra" else 0.0
    theta, energy = table.start(n), []
    for value in values:
        theta[at] = value + shift
        energy.append(float(prior_energy(inverse(jnp.asarray(theta), tr), tr)))
    t = np.log(values) - np.log(prior.mean) if tr.log[at] else np.array(values) - prior.mean
    expected = 0.5 * (t / prior.sigma) ** 2
    # against the middle value, as the other parameters have an energy too
    np.testing.assert_allclose(np.array(energy) - energy[1], expected, rtol=2e-3, atol=2e-4)


def test_log_normal_flux_with_a_negative_start():
    """Starts of faint sources may be negative."""
    start = start_of("sersic")
    start.values["flux", "g"] = -4.0
    options = FitOptions(priors={"flux": PriorOptions("log_normal", sigma=1.0)})
    table, n = build(start, options=options)
    z = inverse(jnp.asarray(table.start(n)), table.transform(n))
    assert np.isfinite(z).all() and np.abs(z).max() < 2 * Z_LIMIT
    assert table.start(n)[0] > 0


def test_one_ellipticity_beside_a_held_one():
    """The free one keeps to the chord of the disc."""
    for held in ("e1", "e2"):
        start = start_of("sersic", (held,), **{held: 0.6})
        table, n = build(start)
        tr = table.transform(n)
        assert not tr.disc.any()
        free = [label[1] for label in table.labels].index({"e1": "e2", "e2": "e1"}[held])
        ends = [float(physical(jnp.full(n, z), tr)[free]) for z in (-50.0, 50.0)]
        np.testing.assert_allclose(np.hypot(ends, 0.6), 0.9 / 1.1, rtol=FLOAT32)
    start = start_of("sersic", ("e1",), e1=0.97)
    table, n = build(start)
    high = float(physical(jnp.full(n, 50.0), table.transform(n))[-1])
    assert 0 < high and np.hypot(high, 0.97) < 1


@pytest.mark.parametrize(
    "key, prior, words",
    [
        ("size", {"name": "uniform"}, "unknown parameter 'size'"),
        ("sersic_buldge", {"name": "uniform"}, "did you mean 'sersic_bulge'"),
        ("position_disk", {"name": "uniform"}, "unknown parameter 'position_disk'"),
        ("flux", {"name": "uniform", "low": 0.0}, "both low and high"),
        ("flux", {"name": "log_uniform", "high": 9.0}, "both low and high"),
        ("flux_bulge", {"name": "normal", "sigma": 1.0, "low": 0.0}, "both low and high"),
        ("position", {"name": "log_normal", "sigma": 1.0}, "log_normal"),
        ("position", {"name": "normal", "sigma": 1.0, "high": 1.0}, "both low and high"),
        ("sersic", {"name": "uniform", "high": 10.0}, "within 0.3 and 8"),
        ("rhalf", {"name": "uniform", "low": -1.0}, "low >= 0"),
        ("ellipticity", {"name": "uniform", "high": 1.5}, "0 < high < 1"),
        ("ellipticity", {"name": "uniform", "low": 0.1, "high": 0.5}, "no low"),
        ("ellipticity", {"name": "disk_galaxies", "high": 0.9}, "high <= 0.804"),
        ("sersic", {"name": "elliptical_galaxies"}, "for ellipticity"),
        ("ellipticity", {"name": "disk_galaxies", "mean": 0.1}, "no mean, which 'disk_galaxies'"),
        ("rhalf", {"name": "uniform", "low": 0.1, "high": 2.0, "mean": 1.0}, "no mean"),
        ("flux", {"name": "truncated_normal", "sigma": 1.0}, "both low and high"),
        ("position", {"name": "beta", "a": 1.0, "b": 2.0}, "flat, uniform or normal"),
        (
            "sersic",
            {
                "name": "size_magnitude",
                "mean": 1.0,
                "sigma": 1.0,
                "slope": -1.0,
                "band": "g",
                "flux": 3.0,
            },
            "size_magnitude is for rhalf",
        ),
    ],
)
def test_priors_that_cannot_be_are_refused(key, prior, words):
    with pytest.raises(InputError, match=words):
        FitOptions(priors={key: PriorOptions(**prior)})


@pytest.mark.parametrize(
    "prior, words",
    [
        ({"name": "normal"}, "sigma"),
        ({"name": "log_normal", "sigma": 1.0, "mean": 0.0}, "mean > 0"),
        ({"name": "log_uniform", "low": 0.0, "high": 1.0}, "low > 0"),
        ({"name": "uniform", "low": 2.0, "high": 1.0}, "not below"),
        ({"name": "uniform", "sigma": 1.0}, "has no sigma"),
        ({"name": "beta", "a": 2.0}, "expected a value for b"),
        ({"name": "log_normal", "sigma": 1.0, "slope": 2.0}, "has no slope"),
        (
            {"name": "size_magnitude", "mean": 1.0, "sigma": 1.0, "slope": -1.0, "band": "g"},
            "one of magnitude and flux",
        ),
    ],
)
def test_impossible_numbers_are_refused(prior, words):
    with pytest.raises(InputError, match=words):
        PriorOptions(**prior)


def test_no_sources_at_all():
    """A patch of held neighbours only still has one (padding) parameter."""
    table, n = build(start_of("sersic", ("all",)))
    assert n == 1 and table.labels == [] and table.linear.shape == (0,)
    assert table.normal.shape == (0,)
    assert np.isfinite(jax.tree.leaves(table.transform(n))[3]).all()
