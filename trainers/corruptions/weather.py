"""Weather: snow, frost, fog, sunshine. Each of (key, image [row, column, channel] in 0 to 1, severity from 0)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from trainers.corruptions.filters import along_both_sides, plasma, smeared, zoom_matrix, zoom_span
from trainers.corruptions.severities import rows_of

GREY = np.array([0.299, 0.587, 0.114], np.float32)
ICE = np.array([0.86, 0.93, 1.0], np.float32)  # colour of synthetic frost
ICE_DECAY = 1.8  # rough: frost has fine detail


def snow(key: jax.Array, image: jax.Array, severity: jax.Array) -> jax.Array:
    """Flakes that fall from either side over a whitened image."""
    table = rows_of("snow", image.shape[0])
    mean, deviation, _, threshold, radius, sigma, kept = jnp.asarray(table, jnp.float32)[severity]
    draw, turn = jax.random.split(key)
    flakes = mean + deviation * jax.random.normal(draw, (*image.shape[:2], 1))
    matrix = zoom_matrix(image.shape[0], jnp.asarray([zoom_span(image.shape[0], factor) for factor in table[:, 2]], jnp.float32)[severity])
    flakes = along_both_sides(flakes, matrix, matrix)
    flakes = jnp.floor(255 * jnp.clip(jnp.where(flakes < threshold, 0.0, flakes), 0, 1)) / 255
    angle = jax.random.uniform(turn, minval=-135.0, maxval=-45.0)
    flakes = smeared(flakes, angle, radius, sigma, widest=int(table[:, 4].max()))
    white = kept * image + (1 - kept) * jnp.maximum(image, _grey(image) * 1.5 + 0.5)
    return white + flakes + jnp.rot90(flakes, 2)


def synthetic_frost(key: jax.Array, image: jax.Array, severity: jax.Array) -> jax.Array:
    """Ridges of bluish white, blended with the published weights of `frost`, whose photographs are not here."""
    kept, ice = jnp.asarray(rows_of("synthetic_frost", image.shape[0]), jnp.float32)[severity]
    ridges = 1 - jnp.abs(2 * plasma(key, image.shape[0], jnp.float32(ICE_DECAY)) - 1)
    return kept * image + ice * ridges[..., None] * (ICE if image.shape[-1] == 3 else 1.0)


def fog(key: jax.Array, image: jax.Array, severity: jax.Array) -> jax.Array:
    """Clouds, added and scaled so that the brightest pixel stays as bright."""
    weight, decay = jnp.asarray(rows_of("fog", image.shape[0]), jnp.float32)[severity]
    brightest = image.max()
    return (image + weight * plasma(key, image.shape[0], decay)[..., None]) * brightest / (brightest + weight)


def brightness(key: jax.Array, image: jax.Array, severity: jax.Array) -> jax.Array:
    """More value at the same hue and saturation (HSV)."""
    del key
    added = jnp.asarray(rows_of("brightness", image.shape[0])[:, 0], jnp.float32)[severity]
    value = image.max(axis=-1, keepdims=True)
    brighter = jnp.clip(value + added, 0, 1)
    return jnp.where(value > 0, image * (brighter / jnp.where(value > 0, value, 1)), brighter)


def _grey(image: jax.Array) -> jax.Array:
    return image if image.shape[-1] == 1 else (image * GREY).sum(axis=-1, keepdims=True)
