"""Random numbers for masks and starting values, by a hash that compiles in a fraction of the time of JAX's generator."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

Initializer = Callable[..., jax.Array]


def uniform(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Numbers in [0, 1) by hashing their position with the key; not for cryptography, nor for the noise of a study.

    JAX's own generator takes a quarter of a training step with dropout on a CPU, and two thirds of the compilation of a
    model's initialisation. Each of the two rounds is a bijection of 32-bit words in which every input bit flips every
    output bit with probability near 1/2; tests/trainers/test_models_draws.py checks frequencies, neighbours and
    successive keys.

    Source:
        Rounds: C. Wellons, Prospecting for Hash Functions (2018), `lowbias32`.
    """
    words = jax.random.key_data(key) if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else key
    position = jax.lax.iota(jnp.uint32, math.prod(shape)).reshape(shape)
    bits = _mix(_mix(position + words[0]) ^ words[-1])
    return (bits >> 8).astype(jnp.float32) * jnp.float32(2.0**-24)


def glorot(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Xavier's uniform values for a kernel [in, out]."""
    return square_glorot(1)(key, shape)


def square_glorot(parts: int) -> Initializer:
    """`glorot` for a kernel whose columns are several maps side by side, each as if it were alone."""

    def initialize(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
        bound = math.sqrt(6.0 / (shape[0] + shape[1] // parts))
        return (2.0 * uniform(key, shape) - 1.0) * bound

    return initialize


def lecun(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Normal values of variance 1 / in, cut at two deviations, for a kernel [in, out]."""
    cut = math.erf(math.sqrt(2.0))
    # A normal variable cut at ±2 has deviation .8796.
    return _quantile((2.0 * uniform(key, shape) - 1.0) * cut) / (0.87962566 * math.sqrt(shape[0]))


def normal(deviation: float) -> Initializer:
    """Normal values around 0."""

    def initialize(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        # Half a step of `uniform` away from 0, whose quantile is infinite.
        return deviation * _quantile(2.0 * uniform(key, shape) - (1.0 - 2.0**-24))

    return initialize


def _quantile(symmetric: jax.Array) -> jax.Array:
    return math.sqrt(2.0) * jax.lax.erf_inv(symmetric)


def _mix(word: jax.Array) -> jax.Array:
    word = (word ^ (word >> 16)) * jnp.uint32(0x7FEB352D)
    word = (word ^ (word >> 15)) * jnp.uint32(0x846CA68B)
    return word ^ (word >> 16)
