"""A check that the installed JAX computes right numbers.

jax 0.10.2 compiles "vmapped small matrix-vector product, then a reduction" wrongly on CPU: for
more than 16384 (float64) or 32768 (float32) rows, the rows beyond that get values of other rows
(https://github.com/jax-ml/jax/issues/39103). Nothing raises; fits are silently wrong.
"""

import jax
import jax.numpy as jnp
import numpy as np

ROWS = 40_001  # beyond both limits above, and not a multiple of a power of two
MATRIX = np.array([[1, 2, 0], [0, 1, 1], [3, 0, 1]])


def sums_of_squares(rows, matrix):
    """|matrix @ row|^2 of every row, in the form that jax 0.10.2 gets wrong when compiled."""
    return jax.vmap(lambda row: jnp.sum((matrix @ row) ** 2))(rows)


def miscomputed(dtype, size: int = ROWS, compute=sums_of_squares) -> int:
    """Number of wrong rows, out of `size`, when `compute` is compiled for the default device.

    All values are whole numbers below 2^24 made of factors below 2^7, so that the right answer
    is exact in any floating point, reduced-precision matrix units included.
    """
    index = np.arange(size)
    rows = np.stack([index % 61, index // 256 % 127, index % 7], axis=1)
    exact = ((rows @ MATRIX.T) ** 2).sum(axis=1)
    found = jax.jit(compute)(jnp.asarray(rows, dtype), jnp.asarray(MATRIX, dtype))
    return int(np.count_nonzero(np.asarray(found, np.float64) != exact))


def check_backend(compute=sums_of_squares) -> None:
    """Raise RuntimeError when JAX miscomputes on the default device; call once per process.

    Takes some 50 ms, compilation included. float64 is checked when it is enabled.
    """
    for dtype in (jnp.float32, jnp.float64) if jax.config.jax_enable_x64 else (jnp.float32,):
        wrong = miscomputed(dtype, compute=compute)
        if wrong:
            raise RuntimeError(
                f"jax {jax.__version__} computes wrong numbers on {jax.default_backend()} "
                f"({jnp.dtype(dtype).name}: {wrong} of {ROWS} matrix-vector products): no result "
                "of it can be trusted; install another version of jax and jaxlib (0.10.2 is known "
                "to be broken)"
            )
