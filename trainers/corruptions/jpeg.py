"""What JPEG loses, without its lossless part: colours in YCbCr at half resolution, 8×8 cosine transforms, rounded to a table."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from trainers.corruptions.filters import along_both_sides

BLOCK = 8
HALF_SLACK = 1e-4
# Annex K of the standard, row by row: of brightness, and of colour.
LUMINANCE = (
    "16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62 "
    "18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"
)
CHROMINANCE = (
    "17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99 47 66 99 99 99 99 99 99 "
    "99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99"
)
TO_YCC = np.array([[0.299, 0.587, 0.114], [-0.168735892, -0.331264108, 0.5], [0.5, -0.418687589, -0.081312411]])
FROM_YCC = np.array([[1, 0, 1.402], [1, -0.344136286, -0.714136286], [1, 1.772, 0]])


def compressed(image: jax.Array, quality: jax.Array) -> jax.Array:
    """An image as it comes back from a JPEG file with colours at half resolution (4:2:0), as Pillow writes by default.

    Args:
        image: [row, column, 1 or 3 channels], whole numbers from 0 to 255.
        quality: 1 to 100; may be traced.

    Source:
        ITU-T T.81; colours, tables and resampling as in libjpeg.
    """
    if image.shape[-1] == 1:
        return _coded(image[..., 0], _table(LUMINANCE, quality))[..., None]
    planes = jnp.round(image @ TO_YCC.T.astype(np.float32) + np.array([0, 128, 128], np.float32))
    bright = _coded(planes[..., 0], _table(LUMINANCE, quality))
    table = _table(CHROMINANCE, quality)
    colours = [_enlarged(_coded(_halved(planes[..., place]), table), image.shape) for place in (1, 2)]
    ycc = jnp.stack([bright, *colours], axis=-1) - np.array([0, 128, 128], np.float32)
    return jnp.clip(jnp.round(ycc @ FROM_YCC.T.astype(np.float32)), 0, 255)


def _table(standard: str, quality: jax.Array) -> jax.Array:
    base = np.array(standard.split(), np.float32).reshape(BLOCK, BLOCK)
    scale = jnp.where(quality < 50, jnp.floor(5000 / quality), 200 - 2 * quality)
    return jnp.clip(jnp.floor((base * scale + 50) / 100), 1, 255)


def _coded(plane: jax.Array, table: jax.Array) -> jax.Array:
    """One plane [row, column] through transform, rounding and back."""
    rows, columns = plane.shape
    padded = jnp.pad(plane, ((0, -rows % BLOCK), (0, -columns % BLOCK)), mode="edge")
    blocks = padded.reshape(padded.shape[0] // BLOCK, BLOCK, padded.shape[1] // BLOCK, BLOCK)
    cosines = jnp.asarray(_cosines(), jnp.float32)
    highest = jax.lax.Precision.HIGHEST
    waves = jnp.einsum("uy,aybx,vx->aubv", cosines, blocks - 128, cosines, precision=highest)
    # Halves away from zero, as in libjpeg; what rounding left just below a half is one.
    kept = jnp.sign(waves) * jnp.floor(jnp.abs(waves) / table[:, None] + 0.5 + HALF_SLACK) * table[:, None]
    back = jnp.einsum("uy,aubv,vx->aybx", cosines, kept, cosines, precision=highest)
    return jnp.clip(jnp.round(back + 128), 0, 255).reshape(padded.shape)[:rows, :columns]


def _cosines() -> np.ndarray:
    """The orthonormal cosine transform of 8 pixels, [wave, pixel]."""
    waves, pixels = np.arange(BLOCK)[:, None], np.arange(BLOCK)
    matrix = np.cos((2 * pixels + 1) * waves * np.pi / (2 * BLOCK)) / 2
    matrix[0] /= np.sqrt(2)
    return matrix


def _halved(plane: jax.Array) -> jax.Array:
    """Means of 2×2 pixels; halves are rounded down and up in turn, as libjpeg does to keep the mean.

    Whole blocks: what lies behind the image repeats its last pixels, not their means.
    """
    padded = jnp.pad(plane, ((0, -plane.shape[0] % (2 * BLOCK)), (0, -plane.shape[1] % (2 * BLOCK))), mode="edge")
    fours = padded.reshape(padded.shape[0] // 2, 2, padded.shape[1] // 2, 2).sum(axis=(1, 3))
    return jnp.floor((fours + 1 + jnp.arange(fours.shape[1]) % 2) / 4)


def _enlarged(plane: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Twice as many pixels each way: three quarters of the nearest, one of the next (libjpeg's "fancy upsampling")."""
    plane = plane[: -(-shape[0] // 2), : -(-shape[1] // 2)]
    rows, columns = (jnp.asarray(_triangle(side)[:wanted], jnp.float32) for side, wanted in zip(plane.shape, shape, strict=False))
    sixteenths = jnp.round(16 * along_both_sides(plane[..., None], rows, columns)[..., 0])
    return jnp.floor((sixteenths + 8 - jnp.arange(shape[1]) % 2) / 16)


def _triangle(side: int) -> np.ndarray:
    at = np.clip((np.arange(2 * side) + 0.5) / 2 - 0.5, 0, side - 1)
    return np.maximum(0.0, 1 - np.abs(at[:, None] - np.arange(side)))
