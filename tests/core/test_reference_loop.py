"""The benchmarks' plain loops against the fused kernel: what ratios are taken to is right."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from synthetic_patch import make

from jaxpho.core.likelihood import delta_chi2
from jaxpho.core.scene import row_gaussians, scene_rows

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
# float32 sums over 10^3 pixels
RTOL_CHI2, ATOL_GRADIENT = 2e-6, 2e-5


def test_loops_agree_with_the_kernel():
    pytest.importorskip("numba", reason="needs numba (the extra `bench`)")
    sys.path.insert(0, str(BENCHMARKS))
    from reference import chi2_and_gradient

    s = make(4, ("sersic", "sersic"), n_bands=1, exposures_per_band=1, shape=(24, 24),
             mixture="k8", nuisances=False)  # fmt: skip
    patch = s.patch
    rows = scene_rows(jnp.asarray(s.theta, jnp.float32), s.scene, patch)
    gauss = row_gaussians(rows, s.scene, patch, s.mixture)

    def chi2(gauss):
        return delta_chi2(gauss, rows.sky, patch, None, "second_order", 1).high.sum()

    expected, slope = jax.value_and_grad(chi2)(gauss)
    pixels = (patch.xpix(False), patch.ypix(False), patch.data, patch.ierr)
    pixels = [np.asarray(a, np.float32) for a in pixels]
    found, gradient = chi2_and_gradient(
        np.asarray(gauss), np.asarray(patch.block_exposure), *pixels
    )
    # the kernel's chi2 is relative to a model of zero
    zero = (pixels[2].astype(float) * pixels[3]).ravel()
    zero = zero @ zero
    assert abs(found - zero - float(expected)) < RTOL_CHI2 * zero
    scale = np.abs(slope).max((0, 2), keepdims=True)
    assert (np.abs(gradient - slope) / scale).max() < ATOL_GRADIENT
