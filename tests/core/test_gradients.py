"""Gradients of the fused kernel against finite differences of an independent float64 model.

With respect to every parameter of a Sersic galaxy, a point source and both kinds of pairs, the
exposures' nuisances, PSFs and astrometry; in the middle and at the ends of the parameters' ranges.
"""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from synthetic_patch import derivative, make, oracle_chi2, oracle_values

from jaxpho.core.likelihood import delta_chi2
from jaxpho.core.pixel import PIXEL_MODES
from jaxpho.core.scene import row_gaussians, scene_rows
from jaxpho.core.sources import base_name
from jaxpho.data.packing import PSF_FIELDS

# Of the largest gradient of that kind of parameter. The project asks for 1e-4 in float64; the
# finite differences themselves are good to 1e-7.
TOL = {"float32": 2e-4, "float64": 1e-6}
CHI2_RTOL = {"float32": 1e-6, "float64": 1e-11}
STEP = {
    "flux": 3.0,
    "ra": 1e-3,
    "dec": 1e-3,
    "sersic": 2e-3,
    "e1": 1e-3,
    "e2": 1e-3,
    "dra": 1e-3,
    "ddec": 1e-3,
    "scale": 1e-2,
    "sky": 0.1,
    "sky_x": 0.1,
    "sky_y": 0.1,
}
PSF_STEP = 1e-3
AFFINE_STEP = {"d": 1e-2, "cw": 20.0, "crpix": 1e-2, "crval": 1e-7}
# Middle, and all shapes at ends of their ranges.
POINTS = {
    "middle": {},
    "low index": {"sersic": 0.5, "e1": 0.0, "e2": 0.0},
    "large thin cusp": {"sersic": 8.0, "e1": 0.5786, "e2": -0.5786, "rhalf": 4.0},
    "tiny cusp": {"sersic": 8.0, "e1": -0.8182, "e2": 0.0, "rhalf": 0.01},
    "tiny": {"sersic": 0.5, "e1": 0.0, "e2": 0.0, "rhalf": 0.01},
}
# A galaxy of a tenth of a PSF sigma hardly depends on n: at n = .5, where amplitudes change by 9
# per unit of n, what is left of that sum is a thousandth of its terms. Harmless: the error scales
# with the gradient by flux, and vanishes with it at the optimum.
TOL_TINY = {"float32": {"sersic": 5e-3}, "float64": {}}


@cache
def patch_of(dtype):
    types = ("sersic", "point", "bulge_disk", "sersic_point")
    return make(1, types, exposures_per_band=1, shape=(16, 15), spread=0.5, dtype=dtype)


def at_point(s, point):
    theta = s.theta.copy()
    for i, (_, name, _) in enumerate(s.labels):
        theta[i] = POINTS[point].get(base_name(name), theta[i])
    return theta


def chi2(theta, scene, patch, mixture, mode):
    rows = scene_rows(theta, scene, patch)
    total = delta_chi2(row_gaussians(rows, scene, patch, mixture), rows.sky, patch, None, mode)
    return (total.high + total.low).sum()


compiled = jax.jit(jax.value_and_grad(chi2), static_argnums=4)


@cache
def expected(point, mode):
    """chi2 and its gradient by finite differences, float64 numpy only."""
    s = patch_of(np.float32)
    theta = at_point(s, point)
    kinds = s.kinds()
    steps = [STEP[k] if k in STEP else 3e-3 * v for k, v in zip(kinds, theta, strict=True)]
    gradient = derivative(lambda t: oracle_chi2(s, t, mode).sum(), theta, steps)
    return oracle_chi2(s, theta, mode).sum(), gradient


def relative_error(found, expected, kinds):
    """Largest difference over the largest gradient of that kind, by kind."""
    kinds = np.array(kinds)
    return {
        k: np.abs(found - expected)[kinds == k].max() / np.abs(expected[kinds == k]).max()
        for k in set(kinds)
    }


def check(dtype, point, mode):
    s = patch_of(dtype)
    theta = jnp.asarray(at_point(s, point), dtype)
    value, gradient = compiled(theta, s.scene, s.patch, s.mixture, mode)
    chi2_expected, gradient_expected = expected(point, mode)
    name = np.dtype(dtype).name
    np.testing.assert_allclose(value, chi2_expected, rtol=CHI2_RTOL[name])
    error = relative_error(np.asarray(gradient, float), gradient_expected, s.kinds())
    tolerance = TOL_TINY[name] if point == "tiny" else {}
    bad = {k: v for k, v in error.items() if not v < tolerance.get(k, TOL[name])}
    assert not bad


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("mode", ["second_order", "fourth"])
def test_float64(x64, mode, point):
    check(np.float64, point, mode)


@pytest.mark.parametrize("point", POINTS)
def test_float32(point):
    check(np.float32, point, "fourth")


@pytest.mark.parametrize("mode", PIXEL_MODES)
def test_gaussians_in_every_mode(x64, mode):
    """The rule itself: every number of every Gaussian, from narrow to wide and far outside."""
    s = patch_of(np.float64)
    fields = np.array(
        [
            [300.0, 7.2, 6.9, 0.6, 0.9, 0.2],
            [-80.0, 3.1, 9.4, 2.0, 1.4, -0.9],
            [900.0, 11.0, 2.2, 40.0, 60.0, 30.0],
            [500.0, -30.0, 20.0, 90.0, 70.0, -20.0],
        ]
    )
    # the oracle knows no cut: forcepho's drops what is below exp(-18) of a Gaussian's peak
    tolerance = 1e-5 if mode == "forcepho" else TOL["float64"]
    n = s.patch.n_exposures
    gauss = jnp.broadcast_to(jnp.asarray(fields.T), (n, 6, len(fields)))
    k, sky = np.arange(64), jnp.zeros((n, 3))

    def by_oracle(values, e):
        t = s.tiles[e]
        x, y = t.x0[:, None] + k // 8 - t.x0.min(), t.y0[:, None] + k % 8 - t.y0.min()
        model = oracle_values(values.reshape(fields.shape), x, y, mode, s.pixel_term[e])
        data = np.where(t.ierr > 0, t.data, 0.0)
        return (t.ierr**2 * ((data - model) ** 2 - data**2)).sum()

    found = jax.jit(jax.grad(lambda g: delta_chi2(g, sky, s.patch, None, mode).high.sum()))(gauss)
    steps = np.tile([1.0, 1e-3, 1e-3, 1e-3, 1e-3, 1e-3], len(fields))
    for e in range(2):
        expect = derivative(partial(by_oracle, e=e), fields.ravel(), steps).reshape(fields.shape).T
        error = np.abs(found[e] - expect) / np.abs(expect).max(1, keepdims=True)
        assert error.max() < tolerance


@cache
def expected_psf():
    """Gradient by the PSF numbers [E, S, J, 6], by finite differences."""
    s = patch_of(np.float32)
    host = np.array([[[tuple(c)[:6] for c in q] for q in row] for row in s.psf], float)

    def moved(values):
        psf = [
            [_Columns(zip(PSF_FIELDS, q.T, strict=True)) for q in row]
            for row in values.reshape(host.shape)
        ]
        return oracle_chi2(s._replace(psf=psf), s.theta).sum()

    return derivative(moved, host.ravel(), np.full(host.size, PSF_STEP)).reshape(host.shape)


@cache
def expected_affine(name):
    s = patch_of(np.float32)
    values = getattr(s.astrometry, name)

    def moved(v):
        astrometry = s.astrometry.__class__(**{**vars(s.astrometry), name: v.reshape(values.shape)})
        return oracle_chi2(s._replace(astrometry=astrometry), s.theta).sum()

    steps = np.full(values.size, AFFINE_STEP[name])
    return derivative(moved, values.ravel(), steps).reshape(values.shape)


class _Columns(dict):
    """Columns of a PSF in float64, with the length of a structured array."""

    def __len__(self):
        return len(self["amp"])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_psf_and_astrometry(request, dtype):
    """PSF mixtures (through galaxies and point sources) and the local affine maps."""
    if dtype == "float64":
        request.getfixturevalue("x64")
    s = patch_of(np.dtype(dtype).type)

    def of_patch(psf, point, affine):
        d, cw, crpix, crval = affine
        patch = s.patch._replace(psf=psf, psf_point=point, d=d, cw=cw, crpix=crpix, crval=crval)
        return chi2(jnp.asarray(s.theta, dtype), s.scene, patch, s.mixture, "fourth")

    p = s.patch
    psf_bar, point_bar, affine_bar = jax.jit(jax.grad(of_patch, argnums=(0, 1, 2)))(
        p.psf, p.psf_point, (p.d, p.cw, p.crpix, p.crval)
    )
    expect = expected_psf()
    shape = expect.shape
    for i, name in enumerate(PSF_FIELDS):
        # the same mixture serves all Sersic widths, [E, S, K * J] in the packed patch
        found = np.asarray(psf_bar[i], float)[: shape[0], : shape[1]]
        found = found[..., : s.mixture.log_sigma.shape[1] * shape[2]]
        found = found.reshape(*shape[:2], -1, shape[2]).sum(2)
        found = found + np.asarray(point_bar[i], float)[: shape[0], : shape[1], : shape[2]]
        error = np.abs(found - expect[..., i]).max() / np.abs(expect[..., i]).max()
        assert error < TOL[dtype], name
    for found, name in zip(affine_bar, AFFINE_STEP, strict=True):
        expect = expected_affine(name)
        found = np.asarray(found, float)[: shape[0], : shape[1]]
        assert np.abs(found - expect).max() / np.abs(expect).max() < TOL[dtype], name
