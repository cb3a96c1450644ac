"""Blurs: of a lens out of focus, of frosted glass, of motion, of a zoom. Each of (key, image in 0 to 1, severity from 0)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from trainers.corruptions.filters import along_both_sides, convolved, disks, gaussian_matrices, smeared, zoom_matrix, zoom_span
from trainers.corruptions.severities import rows_of


def defocus(key: jax.Array, image: jax.Array, severity: jax.Array) -> jax.Array:
    """The mean over a disk."""
    del key
    kernels = disks([(radius, blur) for radius, blur in rows_of("defocus_blur", image.shape[0])])
    return convolved(image, jnp.asarray(kernels, jnp.float32)[severity])


def glass(key: jax.Array, image: jax.Array, severity: jax.Array) -> jax.Array:
    """Blurred, each pixel replaced by one a little above and to the left, and blurred again.

    The published code means to swap pixels, but assigns views: it copies. It goes from the last pixel to the first, so that
    with a distance of 1, as for small images, every copy is of an untouched pixel, and all can be made at once. For larger
    distances, which here are drawn at once as well, it is near.
    """
    table = rows_of("glass_blur", image.shape[0])
    blur = jnp.asarray(gaussian_matrices(image.shape[0], tuple(table[:, 0]), 4.0, "nearest"), jnp.float32)[severity]
    distance, times = (jnp.asarray(table[:, place], jnp.int32)[severity] for place in (1, 2))
    places = jnp.arange(image.shape[0])
    inner = (places > distance) & (places <= image.shape[0] - distance)
    may = (inner[:, None] & inner)[None]

    def shuffle(turn: jax.Array, image: jax.Array) -> jax.Array:
        moved = jax.random.randint(jax.random.fold_in(key, turn), (2, *image.shape[:2]), -distance, distance)
        down, along = jnp.where(may, moved, 0)
        return image[places[:, None] + down, places + along]

    image = jnp.floor(255 * along_both_sides(image, blur, blur) + 1e-3) / 255
    return along_both_sides(jax.lax.fori_loop(0, times, shuffle, image), blur, blur)


def motion(key: jax.Array, image: jax.Array, severity: jax.Array) -> jax.Array:
    """Moved along a line, up to 45° from the horizontal."""
    table = rows_of("motion_blur", image.shape[0])
    radius, sigma = jnp.asarray(table, jnp.float32)[severity]
    angle = jax.random.uniform(key, minval=-45.0, maxval=45.0)
    return smeared(image, angle, radius, sigma, widest=int(table[:, 0].max()))


def zoom(key: jax.Array, image: jax.Array, severity: jax.Array) -> jax.Array:
    """The mean of the image and of itself, enlarged more and more."""
    del key
    side = image.shape[0]
    spans = [[zoom_span(side, factor) for factor in np.arange(1, stop, step)] for stop, step in rows_of("zoom_blur", side)]
    longest = max(map(len, spans))
    padded = jnp.asarray([np.pad(some, ((0, longest - len(some)), (0, 0))) for some in spans], jnp.float32)[severity]

    def add(total: jax.Array, span: jax.Array) -> tuple[jax.Array, None]:
        matrix = zoom_matrix(side, span)
        return total + jnp.where(span[1] > 0, along_both_sides(image, matrix, matrix), 0.0), None

    total, _ = jax.lax.scan(add, image, padded)
    return total / (1 + jnp.sum(padded[:, 1] > 0))
