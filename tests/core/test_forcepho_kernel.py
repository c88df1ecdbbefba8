"""The kernel against another code's numbers: chi2, gradient and residual of the packed arrays.

Tolerances are those the reference itself reaches against float64 (its README), rounded up.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from forcepho_case import forcepho_rows, load_case

from jaxpho.core.likelihood import delta_chi2, plain_delta_chi2
from jaxpho.core.render import render
from jaxpho.core.scene import Rows, Scene, row_gaussians

CHI2_RTOL = {"float32": 1e-6, "float64": 1e-7}
GRADIENT_TOL = {"float32": 2e-4, "float64": 1e-6}  # of the largest of that parameter type
RESIDUAL_TOL = 2e-5  # of the model's peak


def chi2_of(params, patch, splines, n_source, n_band, kernel):
    band = np.asarray(patch.exposure_band)
    rows = Rows(
        forcepho_rows(params, n_source, n_band, band),
        jnp.zeros((len(band), 0, 3), params.dtype),
        jnp.zeros((len(band), 3), params.dtype),
    )
    rows = rows._replace(sersic=rows.sersic.at[..., 0].multiply(patch.g[:, None]))
    scene = Scene(None, None, np.arange(n_source), np.zeros(0, int), None, None, None)
    gauss = row_gaussians(rows, scene, patch, splines)
    total = kernel(gauss, rows.sky, patch)
    return total, gauss


def run_case(folder, dtype, kernel, which, gain=None):
    patch, blocks, splines, expected = load_case(folder, dtype, gain=gain, pad=False)
    n_source, n_band = int(expected["n_sources"]), len(expected["band_N"])
    params = jnp.asarray(expected["params"][which], dtype)

    def total(p):
        value, gauss = chi2_of(p, patch, splines, n_source, n_band, kernel)
        return value.sum(), (value, gauss)

    (_, (value, gauss)), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(params)
    per_band = np.zeros(n_band)
    np.add.at(per_band, np.asarray(patch.exposure_band), np.asarray(value, np.float64))
    return patch, blocks, expected, per_band, np.asarray(gradient), gauss


def fused(gauss, sky, patch, width=1):
    total = delta_chi2(gauss, sky, patch, None, "second_order", width)
    return total.high + total.low


def gradient_error(found, expected, n_source):
    found, expected = (a.reshape(n_source, -1) for a in (found, expected))
    return np.abs(found - expected).max(0) / np.abs(expected).max(0)


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("case", ["case1", "case2"])
def test_float32_kernel_agrees(data_dir, case, which):
    folder = data_dir / "forcepho_format" / case
    patch, blocks, expected, chi2, gradient, gauss = run_case(folder, np.float32, fused, which)
    np.testing.assert_allclose(chi2, expected["chi2"][which], rtol=CHI2_RTOL["float32"])
    n_source = int(expected["n_sources"])
    error = gradient_error(-0.5 * gradient, expected["lnlike_grad"][which], n_source)
    assert error.max() < GRADIENT_TOL["float32"]
    model = np.asarray(render(gauss, jnp.zeros((len(blocks), 3)), patch, "second_order"))
    residual = np.asarray(patch.data) - model
    n = [np.ceil(k / 64).astype(int) * 64 for k in expected["exposure_N"]]
    flat = np.concatenate([residual[b].reshape(-1)[:k] for b, k in zip(blocks, n, strict=True)])
    # masked pixels are compared through the model: our data there are zero
    good = expected["ierr"] > 0
    tolerance = RESIDUAL_TOL * np.abs(model).max()
    assert np.abs(flat - expected["residual"][which])[good].max() < tolerance


def test_exposure_scale_factor(data_dir):
    folder = data_dir / "forcepho_format" / "case2"
    gain = np.load(folder / "expected.npz")["G_variant"]
    _, _, expected, chi2, gradient, _ = run_case(folder, np.float32, fused, 1, gain=gain)
    np.testing.assert_allclose(chi2, expected["chi2_Gvariant"][1], rtol=CHI2_RTOL["float32"])
    error = gradient_error(-0.5 * gradient, expected["lnlike_grad_Gvariant"][1], 4)
    assert error.max() < GRADIENT_TOL["float32"]


@pytest.mark.parametrize("case", ["case1", "case2"])
def test_float64_agrees_with_independent_float64(data_dir, case, x64):
    """Gradients relative to the largest of that type in the three parameter sets.

    The reference takes its mixture amplitudes from a float32 table: at the true parameters, where
    gradients nearly vanish, their rounding (3e-8) is all the difference there is.
    """
    folder = data_dir / "forcepho_format" / case
    reference = np.load(folder / "float64_reference.npz")
    difference, scale = [], []
    for which in range(3):
        _, _, expected, chi2, gradient, _ = run_case(folder, np.float64, fused, which)
        np.testing.assert_allclose(chi2, reference["chi2_H"][which], rtol=CHI2_RTOL["float64"])
        other = reference["grad_H"][which].reshape(int(expected["n_sources"]), -1)
        difference.append(np.abs(gradient.reshape(other.shape) - other).max(0))
        scale.append(np.abs(other).max(0))
    assert (np.max(difference, 0) / np.max(scale, 0)).max() < GRADIENT_TOL["float64"]


@pytest.mark.parametrize("kernel", ["plain", "wide"])
def test_other_paths_agree_with_the_fused_kernel(data_dir, kernel):
    folder = data_dir / "forcepho_format" / "case2"
    other = {
        "plain": partial(plain_delta_chi2, reference=None, mode="second_order"),
        "wide": partial(fused, width=16),
    }[kernel]
    chi2_gradient = [run_case(folder, np.float32, k, 1)[3:5] for k in (fused, other)]
    np.testing.assert_allclose(*(c for c, _ in chi2_gradient), rtol=CHI2_RTOL["float32"])
    error = gradient_error(*(g for _, g in chi2_gradient), 4)
    assert error.max() < GRADIENT_TOL["float32"]
