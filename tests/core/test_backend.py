"""The installed JAX computes right numbers; a JAX that does not (0.10.2 on CPU) is caught."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpho.core.backend import check_backend, miscomputed, sums_of_squares

# jax 0.10.2 goes wrong above 16384 rows (float64) and 32768 rows (float32)
SIZES = (16_385, 32_769, 40_001, 70_000)


def broken(rows, matrix):
    """What jax 0.10.2 does: rows beyond the first block repeat those of the block."""
    right = sums_of_squares(rows, matrix)
    return right[jnp.arange(right.shape[0]) % 32_768]


@pytest.mark.parametrize("size", SIZES)
def test_small_products_and_sums_are_right_in_float32(size):
    assert miscomputed(jnp.float32, size) == 0


@pytest.mark.parametrize("size", SIZES)
def test_small_products_and_sums_are_right_in_float64(x64, size):
    assert miscomputed(jnp.float64, size) == 0


def test_published_reproducer(x64):
    """The example of jax issue 39103: the last row is compared, with an identity matrix."""
    for dtype, size in ((jnp.float64, 16_385), (jnp.float32, 32_769)):
        first = jnp.arange(size, dtype=dtype)
        rows = jnp.stack((first, jnp.zeros_like(first), jnp.zeros_like(first)), axis=1)
        matrix = jnp.eye(3, dtype=dtype)  # a constant of the compiled program
        found = jax.jit(partial(sums_of_squares, matrix=matrix))(rows)
        np.testing.assert_array_equal(found[-1], float(size - 1) ** 2)


def test_check_passes_here():
    check_backend()


def test_a_backend_like_jax_0_10_2_is_refused():
    with pytest.raises(RuntimeError, match=r"wrong numbers on .*float32: \d+ of 40001"):
        check_backend(broken)
