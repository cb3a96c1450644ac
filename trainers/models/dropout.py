"""Dropout at a rate that is an argument of the compiled program: Flax's own needs a Python number."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp


def dropout(x: jax.Array, rate: jax.Array, key: jax.Array, *, shared: int = 0) -> jax.Array:
    """Zeroes entries with probability `rate` and scales the others so that the mean stays; rate 0 keeps all.

    Args:
        x: What is dropped from, of any shape.
        rate: In [0, 1), a scalar that may be traced; exact to 2⁻²⁴.
        key: Of this call alone.
        shared: Leading axes along which one mask serves all.
    """
    mask_shape = (1,) * shared + x.shape[shared:]
    kept = uniform(key, mask_shape) >= rate
    return jnp.where(kept, x / (1.0 - rate).astype(x.dtype), jnp.zeros((), x.dtype))


def uniform(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Numbers in [0, 1) by hashing their position with the key; good enough for masks, and for nothing else.

    JAX's own generator takes a quarter of a training step with dropout on a CPU and most of its compilation. Each of the
    two rounds is a bijection of 32-bit words in which every input bit flips every output bit with probability near 1/2;
    tests/trainers/test_models_dropout.py checks frequencies, neighbours and successive keys.

    Source:
        Rounds: C. Wellons, Prospecting for Hash Functions (2018), `lowbias32`.
    """
    words = jax.random.key_data(key) if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else key
    position = jax.lax.iota(jnp.uint32, math.prod(shape)).reshape(shape)
    bits = _mix(_mix(position + words[0]) ^ words[-1])
    return (bits >> 8).astype(jnp.float32) * jnp.float32(2.0**-24)


def _mix(word: jax.Array) -> jax.Array:
    word = (word ^ (word >> 16)) * jnp.uint32(0x7FEB352D)
    word = (word ^ (word >> 15)) * jnp.uint32(0x846CA68B)
    return word ^ (word >> 16)
