"""The mixture's density, derivatives and parametrisation, and the target's bookkeeping."""

import numpy as np
import pytest
from scipy.special import erf

from jaxpho.errors import InputError
from psfmix.fit import from_array, render_parameters
from psfmix.lm import Options, _derivatives, _evaluate
from psfmix.model import brightness, columns, to_free, to_raw
from psfmix.target import build_target

# Central differences in float64 with a step of 1e-6.
DERIVATIVE_RTOL = 2e-6
# Row sums of float64 images.
SUM_RTOL = 1e-10
# METHODS: fourth-cumulant pixel integration of a Gaussian of sigma .8 and 2 pixels.
PIXEL_ERROR = {0.8: 6e-4, 2.0: 5e-6}

RAW = np.array(
    [[0.7, 0.1, -0.2, 1.2, 0.9, 0.3], [0.5, -0.4, 0.3, 6.0, 9.0, -2.0], [-0.2, 0, 0, 2, 2.5, 0.1]]
)


def image_of(raw, n=61, oversample=2.0, includes_pixel=True):
    return render_parameters(
        from_array(np.asarray(raw)), (n, n), oversample, includes_pixel=includes_pixel
    )


@pytest.mark.parametrize("sigma", sorted(PIXEL_ERROR))
def test_pixel_integral_against_error_functions(sigma):
    n, x0 = 25, 0.3
    raw = np.array([[1.0, x0, 0.0, sigma**2, sigma**2, 0.0]])
    edges = np.arange(n + 1) - n / 2
    cdf_x, cdf_y = (0.5 * (1 + erf((edges - c) / (sigma * np.sqrt(2)))) for c in (x0, 0.0))
    exact = np.outer(np.diff(cdf_y), np.diff(cdf_x))
    ours = render_parameters(from_array(raw), (n, n))
    assert np.max(np.abs(ours - exact)) < PIXEL_ERROR[sigma] * exact.max()


@pytest.mark.parametrize("signed", [True, False])
def test_gradient_and_normal_matrix_by_differences(signed):
    target = build_target(image_of(RAW), oversample=2.0, includes_pixel=True)
    raw = RAW.copy() + 0.05
    raw[:, 0] = np.abs(raw[:, 0]) if not signed else raw[:, 0]
    options = Options(signed=signed)
    free = to_free(raw, options.floor, signed)
    assert np.allclose(to_raw(free, options.floor, signed), raw, rtol=1e-12)
    state, work = _evaluate(free, target, options, target.weight)
    *_, gradient = _derivatives(state, work, target, options, target.weight)
    numeric = np.empty(free.size)
    for k in range(free.size):
        step = np.zeros(free.size)
        step[k] = 1e-6
        step = step.reshape(free.shape)
        high, low = (
            _evaluate(free + s * step, target, options, target.weight)[0].cost for s in (1, -1)
        )
        # The cost is a sum of squares: its gradient is twice J^T r.
        numeric[k] = (high - low) / 4e-6
    assert np.allclose(gradient, numeric, rtol=0, atol=DERIVATIVE_RTOL * np.abs(numeric).max())


def test_columns_sum_to_the_brightness():
    target = build_target(image_of(RAW), oversample=2.0, includes_pixel=True)
    rows, variance = target.groups[0]
    direct = brightness(RAW, target.x[rows], target.y[rows], variance)
    assert np.allclose(RAW[:, 0] @ columns(RAW, target)[0][:, rows], direct, rtol=1e-12)


@pytest.mark.parametrize(("nx", "ny"), [(101, 101), (64, 90), (33, 40)])
@pytest.mark.parametrize("smallest", [1, 2])
def test_blocks_keep_the_flux(nx, ny, smallest):
    rng = np.random.default_rng(3)
    y, x = np.indices((ny, nx))
    image = np.exp(-((x - nx / 2) ** 2 + (y - ny / 2) ** 2) / 18) + 0.001 * rng.random((ny, nx))
    image[3, 5] = np.nan
    target = build_target(image, oversample=1.0, normalize="stamp", smallest=smallest)
    total = np.nansum(image)
    # The bad pixel counts with the value of the point-symmetric one.
    assert target.total == pytest.approx(total + image[ny - 4, nx - 6], rel=SUM_RTOL)
    assert target.ee[-1] @ target.value == pytest.approx(total, rel=SUM_RTOL)
    inside = np.hypot(x - target.center[0] - target.ee_center[0],
                      y - target.center[1] - target.ee_center[1]) <= 5  # fmt: skip
    five = list(target.ee_radii).index(5)
    if smallest == 1:
        assert target.ee[five] @ target.value == pytest.approx(np.nansum(image[inside]), rel=1e-10)
    assert len(target.x) < image.size


@pytest.mark.parametrize(
    ("image", "options", "sentence"),
    [
        (np.zeros(5), {}, "2-D image"),
        (np.full((9, 9), np.nan), {}, "no finite pixel"),
        (np.zeros((9, 9)), {}, "must be positive"),
        (np.ones((9, 9)), {"oversample": 0}, "oversampling is 0"),
        (np.ones((9, 9)), {"trim": 5}, "leaves nothing"),
        (np.ones((9, 9)), {"normalize": "peak"}, "'unit' or 'stamp'"),
        (np.ones((9, 9)), {"weight": np.ones((3, 3))}, "weight has shape"),
    ],
)
def test_bad_images(image, options, sentence):
    with pytest.raises(InputError, match=sentence):
        build_target(image, **options)
