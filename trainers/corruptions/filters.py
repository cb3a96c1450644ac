"""What corruptions are made of: filters and resampling of one image [row, column, channel], as arithmetic without gathers of pixels
where a matrix for each side does it."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.scipy.ndimage import map_coordinates

Floats = npt.NDArray[np.float64]


def along_both_sides(image: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """Weighted sums of an image's rows and columns: `rows` [new row, row], `columns` [new column, column]."""
    # HIGHEST, lest an accelerator rounds pixels to bfloat16.
    return jnp.einsum("yr,rcd,xc->yxd", rows, image, columns, precision=jax.lax.Precision.HIGHEST)


@functools.lru_cache(maxsize=64)
def gaussian_matrices(side: int, sigmas: tuple[float, ...], truncate: float, border: str) -> Floats:
    """A Gaussian filter along one side for each σ, [σ, new pixel, pixel]; rows sum to 1.

    Args:
        side: Pixels.
        sigmas: Standard deviations in pixels; 0 leaves the image as it is.
        truncate: Standard deviations at which the kernel ends.
        border: `nearest` repeats the last pixel, `reflect` mirrors behind it.

    Source:
        scipy.ndimage.gaussian_filter1d.
    """
    return np.stack([_gaussian_matrix(side, sigma, truncate, border) for sigma in sigmas])


def _gaussian_matrix(side: int, sigma: float, truncate: float, border: str) -> Floats:
    radius = int(truncate * sigma + 0.5)
    offsets = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (offsets / max(sigma, 1e-9)) ** 2)
    source = np.arange(side)[:, None] + offsets
    if border == "nearest":
        source = np.clip(source, 0, side - 1)
    else:
        source = source % (2 * side)
        source = np.where(source < side, source, 2 * side - 1 - source)
    matrix = np.zeros((side, side))
    np.add.at(matrix, (np.arange(side)[:, None], source), weights / weights.sum())
    return matrix


def zoom_span(side: int, factor: float) -> tuple[int, int, int, int]:
    """What an enlargement of the middle of a side keeps of it, and what it makes of that, in pixels: start, kept, long, cut.

    In Python's numbers: 26 · 1.25 lies between two of them, and float32 rounds it to the other one.

    Source:
        `clipped_zoom` of ImageNet-C: scipy.ndimage.zoom of the ⌈side / factor⌉ pixels in the middle, to round(factor · that).
    """
    kept = int(np.ceil(side / factor))
    long = round(kept * factor)
    return (side - kept) // 2, kept, long, (long - side) // 2


def zoom_matrix(side: int, span: jax.Array) -> jax.Array:
    """The enlargement of a span, linear and cut to the side again, [new pixel, pixel]; `span` as `zoom_span` says, maybe traced."""
    start, kept, long, cut = span
    at = start + (jnp.arange(side) + cut) * (kept - 1) / jnp.maximum(long - 1, 1)
    return jnp.maximum(0.0, 1 - jnp.abs(jnp.clip(at, start, start + kept - 1)[:, None] - jnp.arange(side)))


@functools.lru_cache(maxsize=64)
def box_matrix(old: int, new: int) -> Floats:
    """Box filter from `old` pixels to `new` ones, as Pillow's `resize(BOX)` weighs them, [new pixel, old pixel]."""
    scale = old / new
    support = max(scale, 1.0) / 2
    matrix = np.zeros((new, old))
    for place in range(new):
        centre = (place + 0.5) * scale
        first, stop = max(int(centre - support + 0.5), 0), min(int(centre + support + 0.5), old)
        distance = (np.arange(first, stop) - centre + 0.5) / max(scale, 1.0)
        matrix[place, first:stop] = (distance > -0.5) & (distance <= 0.5)
    return matrix / matrix.sum(axis=1, keepdims=True)


def convolved(image: jax.Array, kernel: jax.Array) -> jax.Array:
    """Correlation of each channel with a kernel [row, column] of odd sides; behind the border the image is mirrored, without its
    last pixel."""
    down, along = kernel.shape[0] // 2, kernel.shape[1] // 2
    padded = jnp.pad(image, ((down, down), (along, along), (0, 0)), mode="reflect")
    channels = jnp.moveaxis(padded, -1, 0)[:, None]
    found = jax.lax.conv(channels, kernel[None, None], (1, 1), "VALID", precision=jax.lax.Precision.HIGHEST)
    return jnp.moveaxis(found[:, 0], 0, -1)


def disk(radius: float, blur: float) -> Floats:
    """A disk that sums to 1 with its edge blurred, at least 17 pixels wide.

    Source:
        `disk` of ImageNet-C, with OpenCV's GaussianBlur of 3 or 5 pixels.
    """
    reach = max(8, int(radius))
    square = np.arange(-reach, reach + 1) ** 2
    kernel = (square[:, None] + square <= radius**2).astype(np.float64)
    half = 1 if radius <= 8 else 2
    weights = np.exp(-(np.arange(-half, half + 1) ** 2) / (2 * blur**2))
    weights /= weights.sum()
    padded = np.pad(kernel / kernel.sum(), half, mode="reflect")
    padded = sum(weight * padded[at : at + len(kernel)] for at, weight in enumerate(weights))
    return np.asarray(sum(weight * padded[:, at : at + len(kernel)] for at, weight in enumerate(weights)))


def disks(sizes: Sequence[tuple[float, float]]) -> Floats:
    """Disks of several radii and blurs, in one size, [disk, row, column]."""
    kernels = [disk(*size) for size in sizes]
    widest = max(len(kernel) for kernel in kernels)
    return np.stack([np.pad(kernel, (widest - len(kernel)) // 2) for kernel in kernels])


def smeared(image: jax.Array, angle: jax.Array, radius: jax.Array, sigma: jax.Array, *, widest: int) -> jax.Array:
    """Motion blur: half a Gaussian along a line from each pixel, in whole pixels; the last pixel is repeated.

    Args:
        image: [row, column, channel].
        angle: Of the line, in degrees.
        radius: Half the width of the kernel in pixels.
        sigma: Of the Gaussian, in pixels.
        widest: The largest radius there can be.

    Source:
        `MotionBlurImage` of ImageMagick 6.
    """
    width = 2 * radius + 1
    steps = jnp.arange(2 * widest + 1)
    weights = jnp.where(steps < width, jnp.exp(-(steps**2) / (2 * sigma**2)), 0.0)
    radians = jnp.deg2rad(angle)
    across, down = (jnp.ceil(steps * way - 0.5).astype(jnp.int32) for way in (jnp.cos(radians), jnp.sin(radians)))
    rows, columns = (jnp.arange(side) for side in image.shape[:2])

    def add(total: jax.Array, step: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
        weight, dy, dx = step
        moved = image[jnp.clip(rows + dy, 0, image.shape[0] - 1)][:, jnp.clip(columns + dx, 0, image.shape[1] - 1)]
        return total + weight * moved, None

    return jax.lax.scan(add, jnp.zeros_like(image), (weights / weights.sum(), down, across))[0]


def sampled(image: jax.Array, at_row: jax.Array, at_column: jax.Array, *, border: str) -> jax.Array:
    """Each channel at other places, between pixels linearly.

    Args:
        image: [row, column, channel].
        at_row: Row of each new pixel, [row, column].
        at_column: Likewise its column.
        border: `reflect` mirrors behind the last pixel, `mirror` on it.
    """
    channels = [map_coordinates(image[..., channel], [at_row, at_column], order=1, mode=border) for channel in range(image.shape[-1])]
    return jnp.stack(channels, axis=-1)


def plasma(key: jax.Array, side: int, decay: jax.Array) -> jax.Array:
    """Clouds by the diamond-square algorithm, [row, column] in 0 to 1, on a torus of the next power of two and then cut.

    Args:
        key: Draws them.
        side: Pixels.
        decay: By which what is added shrinks from one scale to the next, above 1.

    Source:
        `plasma_fractal` of ImageNet-C.
    """
    full = 1 << (side - 1).bit_length()
    # Every height is drawn once; one draw of them all compiles in a tenth of the time of three a scale.
    draws = jax.random.uniform(key, (full, full), minval=-1.0)
    heights, step, wobble = jnp.zeros((full, full)), full, jnp.float32(100.0)
    while step >= 2:
        half = step // 2
        corners = heights[::step, ::step]
        square = corners + jnp.roll(corners, -1, axis=0)
        square += jnp.roll(square, -1, axis=1)
        centres = square / 4 + wobble**2 * draws[half::step, half::step]
        heights = heights.at[half::step, half::step].set(centres)
        beside = centres + jnp.roll(centres, 1, axis=0) + corners + jnp.roll(corners, -1, axis=1)
        heights = heights.at[::step, half::step].set(beside / 4 + wobble**2 * draws[::step, half::step])
        beside = centres + jnp.roll(centres, 1, axis=1) + corners + jnp.roll(corners, -1, axis=0)
        heights = heights.at[half::step, ::step].set(beside / 4 + wobble**2 * draws[half::step, ::step])
        step, wobble = half, wobble / decay
    heights = heights - heights.min()
    return (heights / heights.max())[:side, :side]
