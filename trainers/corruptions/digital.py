"""Digital corruptions: contrast, elastic deformation, coarse pixels, JPEG. Each of (key, image in 0 to 1, severity from 0)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from trainers.corruptions.filters import along_both_sides, box_matrix, gaussian_matrices, sampled
from trainers.corruptions.jpeg import compressed
from trainers.corruptions.severities import rows_of


def contrast(key: jax.Array, image: jax.Array, severity: jax.Array) -> jax.Array:
    """Every channel closer to its mean."""
    del key
    kept = jnp.asarray(rows_of("contrast", image.shape[0])[:, 0], jnp.float32)[severity]
    mean = image.mean(axis=(0, 1), keepdims=True)
    return mean + kept * (image - mean)


def elastic(key: jax.Array, image: jax.Array, severity: jax.Array) -> jax.Array:
    """A random affine map, then a smooth random field of displacements."""
    side, (corners_key, field_key) = image.shape[0], jax.random.split(key)
    table = rows_of("elastic_transform", side) * side
    amplitude, _, farthest = jnp.asarray(table, jnp.float32)[severity]
    rows, columns = jnp.meshgrid(jnp.arange(side, dtype=jnp.float32), jnp.arange(side, dtype=jnp.float32), indexing="ij")
    middle, reach = float(side // 2), float(side // 3)
    corners = jnp.array([[middle + reach, middle + reach], [middle + reach, middle - reach], [middle - reach, middle - reach]])
    moved = corners + jax.random.uniform(corners_key, corners.shape, minval=-farthest, maxval=farthest)
    # New pixels lie where the map came from: the map from `moved` back to `corners`, by their edges.
    back = jnp.dot(_edges(corners), _inverse(_edges(moved)), precision=jax.lax.Precision.HIGHEST)
    from_x, from_y = (back[axis, 0] * (columns - moved[0, 0]) + back[axis, 1] * (rows - moved[0, 1]) + corners[0, axis] for axis in (0, 1))
    image = sampled(image, from_y, from_x, border="mirror")
    smooth = jnp.asarray(gaussian_matrices(side, tuple(table[:, 1]), 3.0, "reflect"), jnp.float32)[severity]
    field = along_both_sides(jax.random.uniform(field_key, (side, side, 2), minval=-1.0), smooth, smooth) * amplitude
    return sampled(image, rows + field[..., 0], columns + field[..., 1], border="reflect")


def pixelate(key: jax.Array, image: jax.Array, severity: jax.Array) -> jax.Array:
    """Made smaller and large again with a box filter."""
    del key
    side = image.shape[0]
    smaller = [int(side * share) for share in rows_of("pixelate", side)[:, 0]]

    def stack(matrices: list[np.ndarray]) -> jax.Array:
        padded = [np.pad(one, [(0, side - length) for length in one.shape]) for one in matrices]
        return jnp.asarray(np.stack(padded), jnp.float32)[severity]

    down, up, one = stack([box_matrix(side, few) for few in smaller]), stack([box_matrix(few, side) for few in smaller]), jnp.eye(side)
    # Row after row and column after column, to bytes each time, as Pillow does it.
    for rows, columns in ((one, down), (down, one), (one, up), (up, one)):
        image = jnp.floor(255 * along_both_sides(image, rows, columns) + 0.5) / 255
    return image


def jpeg(key: jax.Array, image: jax.Array, severity: jax.Array) -> jax.Array:
    """Through a JPEG file and back."""
    del key
    quality = jnp.asarray(rows_of("jpeg_compression", image.shape[0])[:, 0], jnp.float32)[severity]
    return compressed(jnp.round(255 * image), quality) / 255


def _edges(corners: jax.Array) -> jax.Array:
    """From the first corner to the others, as columns [axis, edge]."""
    return (corners[1:] - corners[0]).T


def _inverse(matrix: jax.Array) -> jax.Array:
    (a, b), (c, d) = matrix
    return jnp.array([[d, -b], [-c, a]]) / (a * d - b * c)
