"""Dropout at a rate that is an argument of the compiled program: Flax's own needs a Python number."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from trainers.models.draws import uniform


def dropout(x: jax.Array, rate: jax.Array, key: jax.Array) -> jax.Array:
    """Zeroes entries with probability `rate` and scales the others so that the mean stays; rate 0 keeps all.

    Args:
        x: What is dropped from, of any shape.
        rate: In [0, 1), a scalar that may be traced; exact to 2⁻²⁴.
        key: Of this call alone.
    """
    kept = uniform(key, x.shape) >= rate
    return jnp.where(kept, x / (1.0 - rate).astype(x.dtype), jnp.zeros((), x.dtype))
