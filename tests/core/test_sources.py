"""Source types: their parameters, and that each draws the profiles it names."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from synthetic_patch import make, oracle_gaussians

from jaxpho.core.scene import row_gaussians, scene_rows
from jaxpho.core.sources import SOURCE_TYPES, Component, SourceType, base_name

GAUSSIAN_RTOL = 1e-11
PARAMETERS = {
    "sersic": "flux ra dec rhalf sersic e1 e2",
    "exp": "flux ra dec rhalf e1 e2",
    "dev": "flux ra dec rhalf e1 e2",
    "point": "flux ra dec",
    "bulge_disk": "flux_disk flux_bulge ra dec rhalf_disk sersic_disk e1_disk e2_disk "
    "rhalf_bulge sersic_bulge e1_bulge e2_bulge",
    "sersic_point": "flux flux_point ra dec rhalf sersic e1 e2",
}


def test_parameters_of_every_type():
    assert {name: " ".join(t.parameters) for name, t in SOURCE_TYPES.items()} == PARAMETERS
    assert all(name == t.name and t.help for name, t in SOURCE_TYPES.items())


def test_base_name():
    assert [base_name(p) for p in ("rhalf_disk", "flux_point", "e1", "ra")] == [
        "rhalf",
        "flux",
        "e1",
        "ra",
    ]


def test_a_new_type_is_a_list_of_components():
    ring = SourceType(
        "lens",
        (Component("sersic", "_deflector", (("e1", 0.0), ("e2", 0.0))), Component("point", "_a")),
        "",
    )
    assert ring.fluxes == ("flux_deflector", "flux_a")
    assert ring.shapes == ("rhalf_deflector", "sersic_deflector")


@cache
def patch_of(types, **kwargs):
    kwargs = {"n_psf": 2, "simulate": False, "shape": (16, 16), **kwargs}
    return make(4, types, exposures_per_band=1, dtype=np.float64, **kwargs)


def found_gaussians(s, theta=None):
    @jax.jit
    def f(theta):
        return row_gaussians(scene_rows(theta, s.scene, s.patch), s.scene, s.patch, s.mixture)

    return np.asarray(f(jnp.asarray(s.theta if theta is None else theta)))


def expected_gaussians(s, e):
    """Oracle's Gaussians [6, n], in the packed order (component, radius, PSF Gaussian)."""
    flat = oracle_gaussians(s, s.theta, e)
    flat[:, 1:3] -= np.asarray(s.patch.pix0)[e]
    n_j, n_k = len(s.psf[e][0]), s.mixture.log_sigma.shape[1]
    n_c = s.scene.sersic_index.shape[1]
    galaxies = flat[: n_c * n_j * n_k].reshape(n_c, n_j, n_k, 6).swapaxes(1, 2).reshape(-1, 6)
    return np.concatenate([galaxies, flat[n_c * n_j * n_k :]]).T


@pytest.mark.parametrize("name", SOURCE_TYPES)
def test_gaussians_of_each_type(x64, name):
    """All numbers of every Gaussian, with nuisances, flips, rotations and own PSFs."""
    s = patch_of((name, "point"))
    found = found_gaussians(s)
    for e in range(2):
        expected = expected_gaussians(s, e)
        used = found[e][:, : expected.shape[1]]
        scale = np.abs(expected).max(1, keepdims=True)
        np.testing.assert_allclose(used / scale, expected / scale, atol=GAUSSIAN_RTOL)
        assert not found[e][0, expected.shape[1] :].any()


def test_pairs_are_sums_of_their_parts(x64):
    """Bulge + disk is two galaxies at one place; galaxy + nucleus a galaxy and a star."""
    pair, parts = patch_of(("bulge_disk",)), patch_of(("sersic", "sersic"))
    theta = parts.theta.copy()
    astrometry = parts.astrometry.__class__(
        *(np.repeat(a[:, :1], 2, 1) for a in vars(pair.astrometry).values())
    )
    psf = [row * 2 for row in pair.psf]
    parts = parts._replace(astrometry=astrometry, psf=psf).pack(np.float64)
    for s, suffix in ((0, "_disk"), (1, "_bulge")):
        for i, (owner, parameter, band) in enumerate(parts.labels):
            if owner == s:
                centre = parameter in ("ra", "dec")
                theta[i] = pair.theta[pair.index(0, parameter + suffix * (not centre), band)]
            elif not isinstance(owner, int):
                theta[i] = pair.theta[pair.index(owner, parameter, band)]
    np.testing.assert_allclose(
        found_gaussians(parts, theta), found_gaussians(pair), rtol=1e-12, atol=1e-13
    )
