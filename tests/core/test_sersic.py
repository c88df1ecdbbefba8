"""Sersic mixtures and splines: exactness, derivatives, precision, invariance."""

import warnings

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import RectBivariateSpline, SmoothBivariateSpline

from jaxpho.core.sersic import (
    DESIGN_BLUR,
    blur_in_rhalf,
    load_mixture,
    load_splines,
    mixture_for_blur,
)
from jaxpho.core.tables.exact import exact_mixture
from jaxpho.errors import InputError

NAMES = tuple(DESIGN_BLUR)
FLAT = np.array([0.3, 0.33, 0.37, 0.44, 0.49, 0.4999])  # flatter than a Gaussian
N_GRID = np.array([0.5, 0.53, 0.7, 1.0, 1.7, 2.5, 4.0, 5.5, 6.0, 7.0, 8.0])
# Of the peak, from the design blur upwards, all n: what the generator reports (over .7 for n > 6),
# and a margin for what lies between its nodes.
DESIGN_ERROR = {"k8": 1.8e-3, "k10": 7e-4, "k12": 2e-4, "k16": 1e-4}
# Below .5, of the generator again.
FLAT_ERROR = {"k8": 9.5e-4, "k10": 7e-4, "k12": 4.5e-4, "k16": 4e-4}
SUM_TOLERANCE = 1e-6
SEAM = 2e-4  # of the peak; the generator weighs the seam five times
# Central differences with this step are good to ~ step^2 (third derivatives of order 10).
STEP, STEP_TOLERANCE = 1e-5, 1e-7
# float32: coefficients and 12 Chebyshev terms, each rounded to 6e-8; widths go through exp.
SINGLE_AMP, SINGLE_VAR = 1e-6, 5e-6
# Signed amplitudes reach 15 and are rounded in proportion; they cancel to one.
SINGLE_FLAT_AMP, FLAT_SUM_TOLERANCE = 1.5e-5, 1e-5


@jax.jit
def evaluate(table, n, rhalf):
    """One compilation instead of one per operation: the tests' time is compile time."""
    return table.evaluate(n, rhalf)


@jax.jit
def slopes(table, n, rhalf):
    """Values and the derivatives of amplitudes and variances with respect to n and rhalf."""
    n, rhalf = jnp.broadcast_arrays(n, rhalf)
    one, zero = jnp.ones_like(n), jnp.zeros_like(n)
    value, d_n = jax.jvp(table.evaluate, (n, rhalf), (one, zero))
    return value, d_n, jax.jvp(table.evaluate, (n, rhalf), (zero, one))[1]


def brightness(amp, var, radius, blur):
    total = var + blur**2
    return np.sum(
        amp / (2 * np.pi * total) * np.exp(-(radius[:, None] ** 2) / (2 * total)), axis=-1
    )


@pytest.mark.parametrize("name", NAMES)
def test_amplitudes_sum_to_one(name):
    n = jnp.linspace(0.5, 8, 301)
    amp, var = evaluate(load_mixture(name), n, 0.4)
    assert amp.shape == var.shape == (301, int(name[1:]))
    assert amp.dtype == jnp.float32
    assert np.abs(np.asarray(amp, float).sum(-1) - 1).max() < SUM_TOLERANCE
    assert (np.asarray(var) > 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_signed_amplitudes_sum_to_one(name, x64):
    n = jnp.linspace(0.3, 0.4999, 301)
    amp, var = evaluate(load_mixture(name, jnp.float64), n, 0.4)
    assert np.abs(np.asarray(amp).sum(-1) - 1).max() < 1e-12
    assert np.abs(np.asarray(amp)).sum(-1).max() < 45  # what the docstring promises
    assert (np.asarray(var) > 0).all()
    single = evaluate(load_mixture(name), jnp.asarray(n, jnp.float32), jnp.float32(0.4))[0]
    assert np.abs(np.asarray(single, float).sum(-1) - 1).max() < FLAT_SUM_TOLERANCE


@pytest.mark.parametrize("name", NAMES)
def test_branches_meet_at_a_gaussian(name):
    """The images either side of n = .5 differ by less than the table is accurate."""
    both = [
        np.asarray(a, float) for a in evaluate(load_mixture(name), jnp.array([0.5, 0.4999999]), 1.0)
    ]
    for blur in DESIGN_BLUR[name] * np.array([1, 3, 5, 20]):
        radius = np.linspace(0, 5, 200)
        above, below = (brightness(amp, var, radius, blur) for amp, var in zip(*both, strict=True))
        assert np.abs(above - below).max() < SEAM * above[0]


@pytest.mark.parametrize("grid", [N_GRID, FLAT], ids=["peaked", "flat"])
@pytest.mark.parametrize("name", NAMES)
def test_agrees_with_the_exact_profile(name, grid):
    mixture = load_mixture(name)
    limit = DESIGN_ERROR[name] if grid is N_GRID else FLAT_ERROR[name]
    table = (np.asarray(a, float) for a in evaluate(mixture, grid, 1.0))
    for n, amp, var in zip(grid, *table, strict=True):
        exact = exact_mixture(n)
        for blur in DESIGN_BLUR[name] * np.array([1, 1.5, 3, 5, 20]):
            radius = blur * np.concatenate([[0], np.geomspace(0.1, 50, 60)])
            truth = brightness(*exact, radius, blur)
            error = np.abs(brightness(amp, var, radius, blur) - truth).max() / truth[0]
            assert error < limit, (n, blur)


@pytest.mark.parametrize("grid", [N_GRID, FLAT], ids=["peaked", "flat"])
def test_half_of_the_light_is_inside_rhalf(grid):
    amp, var = (np.asarray(a, float) for a in evaluate(load_mixture("k12"), grid, 2.0))
    inside = np.sum(amp * -np.expm1(-(2.0**2) / (2 * var)), axis=-1)
    np.testing.assert_allclose(inside, 0.5, atol=2e-4)


@pytest.mark.parametrize("name", NAMES)
def test_derivatives(name, x64):
    mixture = load_mixture(name, jnp.float64)
    n = jnp.asarray([0.3, 0.37, 0.49, 0.5, 0.6, 1.0, 3.3, 6.0, 8.0])
    inward = jnp.where((n == 0.3) | (n == 0.5), 1.0, jnp.where(n == 8.0, -1.0, 0.0))

    def both(n):
        return np.stack(evaluate(mixture, n, 0.3))

    value, d_n, d_r = (np.stack(pair) for pair in slopes(mixture, n, 0.3))
    # Second-order one-sided differences at the ends of the range, central inside.
    f0, f1, f2 = (both(n + STEP * i * inward) for i in (0, 1, 2))
    sided = (-3 * f0 + 4 * f1 - f2) / (2 * STEP * np.where(inward == 0, 1, inward)[:, None])
    central = (both(n + STEP) - both(n - STEP)) / (2 * STEP)
    expected = np.where((inward == 0)[:, None], central, sided)
    for mine, theirs in zip(d_n, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=STEP_TOLERANCE * np.abs(theirs).max())
    np.testing.assert_array_equal(d_r[0], 0)
    np.testing.assert_allclose(d_r[1], 2 * value[1] / 0.3, rtol=1e-13)


def test_reverse_mode_and_hessian_agree_with_forward_mode(x64):
    mixture = load_mixture("k12", jnp.float64)

    def value(p):
        amp, var = mixture.evaluate(p[0], p[1])
        return jnp.sum(amp / (var + 0.01))

    p = jnp.asarray([2.2, 0.7])
    reverse, forward = jax.jit(lambda p: (jax.grad(value)(p), jax.jacfwd(value)(p)))(p)
    np.testing.assert_allclose(reverse, forward, rtol=1e-12)
    hessian = jax.jit(jax.hessian(value))(p)
    grad = jax.jit(jax.grad(value))
    shift = jnp.asarray([[STEP, 0], [0, STEP]])
    numeric = [(grad(p + d) - grad(p - d)) / (2 * STEP) for d in shift]
    np.testing.assert_allclose(hessian, numeric, rtol=1e-6)


def test_outside_the_range_is_held_at_the_end():
    # A negative index is nonsense, but its derivative must not poison a batch with NaN.
    n = jnp.asarray([0.2, -1.0, 9.0, 0.3, 8.0])
    value, d_n, _ = slopes(load_mixture("k12"), n, 1.0)
    for v, d in zip(value, d_n, strict=True):
        np.testing.assert_array_equal(v[:3], v[np.array([3, 3, 4])])
        np.testing.assert_array_equal(d[:3], 0)
        assert np.abs(d[3:]).max() > 0


def test_one_gaussian_at_one_half():
    amp, var = (np.asarray(a, float) for a in evaluate(load_mixture("k12"), 0.5, 1.0))
    mean = np.sum(amp * var)
    np.testing.assert_allclose(mean, 1 / (2 * np.log(2)), rtol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_single_precision(name, x64):
    n = np.linspace(0.5, 8, 97)
    amp, var = evaluate(load_mixture(name, jnp.float64), n, 0.3)
    amp32, var32 = evaluate(
        load_mixture(name, jnp.float32), jnp.asarray(n, jnp.float32), jnp.float32(0.3)
    )
    assert amp32.dtype == var32.dtype == jnp.float32
    np.testing.assert_allclose(amp32, amp, atol=SINGLE_AMP)
    np.testing.assert_allclose(var32, var, rtol=SINGLE_VAR)
    amp, var = evaluate(load_mixture(name, jnp.float64), FLAT, 0.3)
    single = jnp.asarray(FLAT, jnp.float32)
    amp32, var32 = evaluate(load_mixture(name, jnp.float32), single, jnp.float32(0.3))
    np.testing.assert_allclose(amp32, amp, atol=SINGLE_FLAT_AMP)
    np.testing.assert_allclose(var32, var, rtol=SINGLE_VAR)


def test_transformations_change_nothing():
    mixture = load_mixture("k12")
    n = jnp.asarray([[0.5, 1.0, 2.0], [4.0, 6.5, 8.0]])
    rhalf = jnp.asarray([0.1, 1.0, 10.0])
    eager = mixture.evaluate(n, rhalf)
    jitted = jax.jit(lambda m, n, r: m.evaluate(n, r))(mixture, n, rhalf)
    mapped = jax.vmap(lambda n: mixture.evaluate(n, rhalf))(n)
    for a, b, c in zip(eager, jitted, mapped, strict=True):
        assert a.shape == (2, 3, 12)
        np.testing.assert_allclose(b, a, rtol=2e-6, atol=2e-7)
        np.testing.assert_allclose(c, a, rtol=2e-6, atol=2e-7)


@settings(max_examples=30, deadline=None)
@given(n=st.floats(0.3, 8), rhalf=st.floats(1e-3, 50), scale=st.floats(0.1, 10))
def test_the_profile_scales_with_rhalf(n, rhalf, scale):
    mixture = load_mixture("k12")
    amp, var = evaluate(mixture, n, rhalf)
    amp2, var2 = evaluate(mixture, n, rhalf * scale)
    np.testing.assert_array_equal(amp, amp2)
    np.testing.assert_allclose(var2, np.asarray(var) * scale**2, rtol=2e-6)


def test_choice_of_mixture():
    assert mixture_for_blur(0.5) == "k12"
    assert mixture_for_blur(0.5, smallest="k8") == "k8"
    assert mixture_for_blur(1 / 100) == "k16"
    assert mixture_for_blur(1e-4) == "k16"
    np.testing.assert_allclose(blur_in_rhalf(0.1, 2.0, 0.25), 0.025)
    with pytest.raises(InputError, match="k9.*k8, k10, k12, k16"):
        load_mixture("k9")


def toy_table(shuffle=False):
    rng = np.random.default_rng(1)
    n, r = np.linspace(1, 5, 7), np.geomspace(0.01, 1, 9)
    nn, rr = (a.ravel() for a in np.meshgrid(n, r, indexing="ij"))
    amplitudes = rng.normal(size=(nn.size, 3))
    order = rng.permutation(nn.size) if shuffle else np.arange(nn.size)
    return np.array([0.02, 0.1, 0.5]), nn[order], rr[order], amplitudes[order]


@pytest.mark.parametrize("shuffle", [False, True])
def test_splines_are_those_of_scipy(x64, shuffle):
    splines = load_splines(*toy_table(shuffle), dtype=jnp.float64)
    _, nn, rr, amplitudes = toy_table()
    n, r = np.unique(nn), np.unique(rr)
    rng = np.random.default_rng(2)
    # Inside the cells, on knots, at the corners.
    x = np.concatenate([rng.uniform(1, 5, 50), n, [1, 1, 5, 5]])
    y = np.concatenate([rng.uniform(0.01, 1, 50), r[1:8], [0.01, 1, 0.01, 1]])
    (amp, var), (d_n, _), (d_r, _) = slopes(splines, x, y)
    for k in range(3):
        scipy = RectBivariateSpline(n, r, amplitudes[:, k].reshape(7, 9), s=0)
        np.testing.assert_allclose(amp[:, k], scipy.ev(x, y), rtol=1e-11, atol=1e-11)
        for mine, order in ((d_n, {"dx": 1}), (d_r, {"dy": 1})):
            theirs = scipy.ev(x, y, **order)
            atol = 1e-10 * np.abs(theirs).max()
            np.testing.assert_allclose(mine[:, k], theirs, rtol=0, atol=atol)
    np.testing.assert_allclose(var, np.broadcast_to([0.0004, 0.01, 0.25], var.shape))


def test_splines_outside_their_table():
    n = jnp.asarray([0.4, 0.4, 2.0, 9.0, 5.0])
    rhalf = jnp.asarray([0.08, 3, -0.1, 0.3, 0.3])
    (amp, _), (d_n, _), (d_r, _) = slopes(load_splines(*toy_table()), n, rhalf)
    np.testing.assert_array_equal(amp[:3], [[0, 1, 0], [0, 0, 1], [1, 0, 0]])
    np.testing.assert_array_equal(amp[3], amp[4])
    np.testing.assert_array_equal(d_n[:4], 0)
    np.testing.assert_array_equal(d_r[:3], 0)


def test_smooth_splines_are_those_of_scipy(x64):
    """Scattered points; the three radii get different knots from scipy."""
    rng = np.random.default_rng(4)
    n, r = rng.uniform(0.5, 5, 300), rng.uniform(0.05, 1, 300)
    waves = [np.cos(k * n) * np.sin((3 + k) * r) for k in range(3)]
    amplitudes = np.stack(waves, -1) + rng.normal(0, 0.02, (300, 3))
    amplitudes *= [1, 40, 10]  # the default smoothing compares with deviations of one
    splines = load_splines([0.1, 0.2, 0.4], n, r, amplitudes, dtype=jnp.float64, kind="smooth")
    x, y = rng.uniform(n.min(), n.max(), 80), rng.uniform(r.min(), r.max(), 80)
    (amp, _), (d_n, _), (d_r, _) = slopes(splines, x, y)
    knots = set()
    for k in range(3):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scipy = SmoothBivariateSpline(n, r, amplitudes[:, k])
        knots.add(tuple(map(len, scipy.get_knots())))
        for mine, order in ((amp, {}), (d_n, {"dx": 1}), (d_r, {"dy": 1})):
            theirs = scipy.ev(x, y, **order)
            atol = 1e-10 * np.abs(theirs).max()
            np.testing.assert_allclose(mine[:, k], theirs, rtol=0, atol=atol)
    assert len(knots) > 1
    with pytest.raises(InputError, match="unknown kind 'round'"):
        load_splines([0.1, 0.2, 0.4], n, r, amplitudes, kind="round")
    with pytest.raises(InputError, match="9 rows.*at least 16"):
        load_splines([0.1, 0.2, 0.4], n[:9], r[:9], amplitudes[:9], kind="smooth")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t: (t[0], t[1][:-1], t[2][:-1], t[3][:-1]), "62 rows.*full regular grid"),
        (lambda t: (t[0], t[1], t[2], t[3][:, :2]), r"\(63, 2\).*\(63, 3\)"),
        (lambda t: (t[0], t[1], t[2], t[3] * np.nan), "non-finite"),
    ],
)
def test_bad_spline_tables_are_refused(spoil, message):
    with pytest.raises(InputError, match=message):
        load_splines(*spoil(toy_table()))


# Amplitudes are O(1); forcepho stored float32. Derivatives reach 12 per arcsec: 2e-7 of that.
FORCEPHO_TOLERANCE = {"float32": (3e-7, 1e-6, 2e-5), "float64": (1e-7, 1e-7, 1e-6)}


@pytest.mark.parametrize("dtype", list(FORCEPHO_TOLERANCE))
@pytest.mark.parametrize("case", ["case1", "case2"])
def test_forcephos_amplitudes(data_dir, case, dtype, x64):
    folder = data_dir / "forcepho_format" / case
    with h5py.File(folder / "sersic_splines.h5") as f:
        table = [f[key][:] for key in ("radii", "nsersic", "rh", "amplitudes")]
    splines = load_splines(*table, dtype=dtype)
    expected = np.load(folder / "expected.npz")
    count = int(expected["n_sources"])
    n, r = np.moveaxis(expected["params"].reshape(3, count, -1)[..., -2:], -1, 0)
    n, r = jnp.asarray(n, dtype), jnp.asarray(r, dtype)
    (amp, var), (d_n, _), (d_r, _) = slopes(splines, n, r)
    keys = ("mixture_amplitudes", "damplitude_dnsersic", "damplitude_drh")
    for mine, key, atol in zip((amp, d_n, d_r), keys, FORCEPHO_TOLERANCE[dtype], strict=True):
        assert mine.dtype == dtype
        np.testing.assert_allclose(mine, expected[key], rtol=0, atol=atol)
    np.testing.assert_allclose(var[0, 0], expected["rad2"], rtol=1e-6)
