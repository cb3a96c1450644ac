"""Noise: of a sensor, of few photons, of broken pixels. Each of (key, image [row, column, channel] in 0 to 1, severity from 0)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from trainers.corruptions.severities import rows_of


def gaussian(key: jax.Array, image: jax.Array, severity: jax.Array) -> jax.Array:
    """Normal noise on every value."""
    return image + _parameter("gaussian_noise", image, severity) * jax.random.normal(key, image.shape)


def shot(key: jax.Array, image: jax.Array, severity: jax.Array) -> jax.Array:
    """Every value as a count of photons."""
    white = _parameter("shot_noise", image, severity)
    return jax.random.poisson(key, image * white) / white


def impulse(key: jax.Array, image: jax.Array, severity: jax.Array) -> jax.Array:
    """Salt and pepper in equal parts, for each channel."""
    hit, salt = jax.random.uniform(key, (2, *image.shape))
    return jnp.where(hit < _parameter("impulse_noise", image, severity), (salt < 0.5).astype(image.dtype), image)


def _parameter(kind: str, image: jax.Array, severity: jax.Array) -> jax.Array:
    return jnp.asarray(rows_of(kind, image.shape[0])[:, 0], jnp.float32)[severity]
