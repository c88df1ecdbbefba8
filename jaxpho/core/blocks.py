"""The loop over a patch's blocks that every pass over the pixels shares.

What a block contributes is added to the sums of its exposure; chi2 is summed with compensation, as
in float32 a plain sum of a large patch loses the accept/reject decision of the sampler.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxpho.core.patch import Patch


class TwoSum(NamedTuple):
    """A sum and what rounding left over; the value is ``high + low``."""

    high: Array
    low: Array


def two_sum_add(total: TwoSum, term: Array) -> TwoSum:
    """Add a term, keeping the rounding error (Knuth's TwoSum)."""
    high = total.high + term
    part = high - total.high
    error = (total.high - (high - part)) + (term - part)
    return TwoSum(high, total.low + error)


def sum_blocks(
    one_block: Callable[[Array], tuple[Array, Any]], patch: Patch, width: int = 1
) -> tuple[TwoSum, Any]:
    """Sums per exposure of what every block in use contributes; padding is never visited.

    Parameters
    ----------
    one_block : callable
        Block index -> (chi2 [], pytree of arrays).
    patch : Patch
    width : int
        Blocks a step: 1 on CPUs; hundreds on GPUs, where small steps are bound by launches.

    Returns
    -------
    chi2 : TwoSum
        [E]
    sums : pytree
        Arrays [E, ...].
    """
    n_exposures = patch.n_exposures
    shapes = jax.eval_shape(one_block, jax.ShapeDtypeStruct((), jnp.int32))[1]
    zero = jnp.zeros(n_exposures, patch.data.dtype)
    sums = jax.tree.map(lambda s: jnp.zeros((n_exposures, *s.shape), s.dtype), shapes)
    carry = TwoSum(zero, zero), sums
    if width == 1:

        def step(i, carry):
            total, sums = carry
            e = patch.block_exposure[i]
            delta, found = one_block(i)
            new = two_sum_add(TwoSum(total.high[e], total.low[e]), delta)
            total = TwoSum(total.high.at[e].set(new.high), total.low.at[e].set(new.low))
            return total, jax.tree.map(lambda a, b: a.at[e].add(b), sums, found)

        return lax.fori_loop(0, patch.n_blocks, step, carry)
    n_last = patch.data.shape[0] - 1

    def wide_step(i, carry):
        total, sums = carry
        blocks = i * width + jnp.arange(width)
        used = blocks < patch.n_blocks
        blocks = jnp.minimum(blocks, n_last)
        e = patch.block_exposure[blocks]
        delta, found = jax.vmap(one_block)(blocks)
        total = two_sum_add(total, jax.ops.segment_sum(delta * used, e, n_exposures))

        def add(a, b):
            return a.at[e].add(b * used.reshape(-1, *[1] * (b.ndim - 1)))

        return total, jax.tree.map(add, sums, found)

    return lax.fori_loop(0, (patch.n_blocks + width - 1) // width, wide_step, carry)
