"""From the parameter vector to the Gaussians: which value goes where."""

from functools import cache

import jax.numpy as jnp
import numpy as np
import pytest
from synthetic_patch import COS_DEC, PSF_DTYPE, make

from jaxpho.core.gaussians import shape_matrix, transform_covariance
from jaxpho.core.scene import NUISANCE, Rows, row_gaussians, scene_rows
from jaxpho.data.packing import point_psf

RTOL = 1e-11


@cache
def patch_of(types=("sersic", "point", "sersic_point"), **kwargs):
    return make(
        6, types, n_bands=2, exposures_per_band=2, shape=(16, 16), simulate=False,
        dtype=np.float64, **kwargs,
    )  # fmt: skip


def rows_of(s):
    return scene_rows(jnp.asarray(s.theta), s.scene, s.patch)


def test_values_per_band_and_exposure(x64):
    s = patch_of()
    rows = rows_of(s)
    for e, band in enumerate(s.exposure_band):
        scale = s.theta[s.index(("exposure", e), "scale")] * s.gain[e]
        for c, (source, suffix) in enumerate(((0, ""), (2, ""))):
            flux = s.theta[s.index(source, "flux" + suffix, band)]
            np.testing.assert_allclose(rows.sersic[e, c, 0], flux * scale, rtol=RTOL)
            for k, name in enumerate(("rhalf", "sersic", "e1", "e2")):
                assert rows.sersic[e, c, 3 + k] == s.theta[s.index(source, name)]
        dra, ddec = (s.theta[s.index(("exposure", e), n)] for n in ("dra", "ddec"))
        for c, source in enumerate((1, 2)):
            ra, dec = (s.theta[s.index(source, n)] for n in ("ra", "dec"))
            np.testing.assert_allclose(rows.point[e, c, 1], (ra + dra) / 3600 / COS_DEC, rtol=RTOL)
            np.testing.assert_allclose(rows.point[e, c, 2], (dec + ddec) / 3600, rtol=RTOL)
        sky = [s.theta[s.index(("exposure", e), n)] for n in NUISANCE[3:]]
        np.testing.assert_array_equal(rows.sky[e], sky)


def test_fixed_and_shared_values(x64):
    """A constant takes the place of a parameter, or two rows read one entry."""
    s = patch_of()
    n = len(s.theta)
    index = np.array(s.scene.sersic_index)
    index[:, 0, 4] = n + len(s.scene.constants)
    index[:, 1, 5:] = index[:, 0, 5:]
    scene = s.scene._replace(sersic_index=index, constants=np.append(s.scene.constants, 3.25))
    rows = scene_rows(jnp.asarray(s.theta), scene, s.patch)
    assert np.all(np.asarray(rows.sersic)[:, 0, 4] == 3.25)
    np.testing.assert_array_equal(rows.sersic[:, 1, 5:], rows.sersic[:, 0, 5:])


def gaussians(s, rows):
    return np.asarray(row_gaussians(rows, s.scene, s.patch, s.mixture))


def test_a_source_at_its_starting_position_sits_at_crpix(x64):
    s = patch_of()
    p = s.patch
    sersic = rows_of(s).sersic
    at = np.asarray(p.crval)[:4, s.scene.sersic_source]
    rows = rows_of(s)._replace(sersic=sersic.at[..., 1:3].set(at))
    found = gaussians(s, rows)
    n_p = p.psf.flux.shape[-1]
    x = np.asarray(p.crpix)[:, 0, 0:1] + np.asarray(p.psf.x)[:, 0]
    np.testing.assert_allclose(found[:, 1, :n_p], x, rtol=RTOL)


def test_one_arcsec_moves_by_d_and_shapes_follow_the_same_map(x64):
    """cw of positions and d of shapes describe one map: no flip or rotation between them."""
    s = patch_of()
    rows = rows_of(s)
    moved = rows._replace(
        sersic=rows.sersic.at[..., 1].add(1.0 / 3600 / COS_DEC).at[..., 2].add(0.5 / 3600)
    )
    step = gaussians(s, moved) - gaussians(s, rows)
    d = np.asarray(s.patch.d)[:, 0]
    np.testing.assert_allclose(step[:, 1, 0], d[:, 0] @ [1.0, 0.5], rtol=1e-8)
    np.testing.assert_allclose(step[:, 2, 0], d[:, 1] @ [1.0, 0.5], rtol=1e-8)
    # a needle pointing North-East on the sky points along d (1, 1) in the image
    e = 0.99
    c = transform_covariance(jnp.asarray(d), *shape_matrix(jnp.asarray(0.0), jnp.asarray(e)))
    for k in range(4):
        matrix = np.array([[c[0][k], c[2][k]], [c[2][k], c[1][k]]])
        major = np.linalg.eigh(matrix)[1][:, 1]
        along = d[k] @ [1.0, 1.0]
        np.testing.assert_allclose(abs(major @ along), np.linalg.norm(along), rtol=1e-4)


def test_psf_of_each_radius(x64):
    """forcepho's stores: a PSF mixture per Sersic radius, of different lengths."""
    s = patch_of(("sersic", "point"), nuisances=False)
    rng = np.random.default_rng(2)
    radii = s.mixture.log_sigma.shape[1]
    bins = np.concatenate([np.repeat(np.arange(radii - 2), 2), [radii - 2, radii - 1]])
    p = np.zeros(len(bins), PSF_DTYPE)
    for name, value in (("amp", 0.5), ("Cxx", 2.0), ("Cyy", 1.5), ("Cxy", 0.2)):
        p[name] = value * rng.uniform(0.8, 1.2, len(bins))
    p["sersic_bin"] = bins
    order = rng.permutation(len(p))  # any order in the file
    s = s._replace(psf=[[p[order]] * 2 for _ in s.psf]).pack(np.float64)
    rows = rows_of(s)
    found = gaussians(s, rows)[0]
    amplitude, variance = s.mixture.evaluate(rows.sersic[0, 0, 4], rows.sersic[0, 0, 3])
    flux = float(rows.sersic[0, 0, 0])
    for k, j in enumerate(order):
        expected = flux * float(amplitude[bins[j]]) * p["amp"][j]
        np.testing.assert_allclose(found[0, k], expected, rtol=1e-6)
    assert found[0, len(p) : s.patch.psf.flux.shape[-1]].sum() == 0.0
    # a star has the PSF of the smallest radius
    star = found[0, s.patch.psf.flux.shape[-1] :]
    np.testing.assert_allclose(
        star.sum() / float(rows.point[0, 0, 0]), point_psf(p)["amp"].sum(), rtol=1e-6
    )
    assert np.all(point_psf(p)["sersic_bin"] == 0)


def test_float32_stays_float32_where_x64_is_on(x64):
    s = make(6, ("sersic", "point"), n_bands=1, exposures_per_band=1, simulate=False)
    rows = scene_rows(jnp.asarray(s.theta, jnp.float32), s.scene, s.patch)
    assert [a.dtype for a in Rows(*rows)] == [jnp.float32] * 3
    assert row_gaussians(rows, s.scene, s.patch, s.mixture).dtype == jnp.float32


@pytest.mark.parametrize("types", [("point",), ("sersic",)])
def test_scenes_without_one_kind_of_component(x64, types):
    s = patch_of(types)
    found = gaussians(s, rows_of(s))
    assert np.isfinite(found).all()
    assert found.shape[0] == 4
