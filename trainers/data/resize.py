"""Plain bilinear resizing of byte images, as in the evaluation of the paper: no crop, no antialiasing."""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

Images = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Places = npt.NDArray[np.intp]

STRIP = 64  # rows at a time, so that what lies between two passes stays in the processor's cache: half the time of whole images


def resize(images: Images, size: int) -> Images:
    """Images of any height and width, at `size` by `size` pixels.

    Args:
        images: [image, row, column, channel].
        size: Pixels a side of the result.

    >>> resize(np.array([0, 100], np.uint8).reshape(1, 1, 2, 1), 4)[0, 0, :, 0]
    array([  0,  25,  75, 100], dtype=uint8)
    """
    resized = np.empty((len(images), size, size, images.shape[3]), np.uint8)
    for image, place in zip(images, resized, strict=True):
        resize_into(image, place)
    return resized


def resize_into(image: Images, resized: Images) -> None:
    """Fills `resized` [new row, new column, channel] with an image [row, column, channel]: first along columns, then along rows.

    Source:
        `tf.image.resize(method="bilinear", antialias=False)`: pixel centres lie at half integers, borders are repeated.
    """
    (rows, columns, channels), (new_rows, new_columns, _) = image.shape, resized.shape
    if image.shape == resized.shape:
        resized[...] = image
        return
    flat = image.reshape(rows, columns * channels)
    above, below, down = _neighbours(rows, new_rows)
    left, right, along = _neighbours_of_channels(columns, new_columns, channels)
    for start in range(0, new_rows, STRIP):
        strip = slice(start, start + STRIP)
        mixed = _mixed(flat.take(above[strip], axis=0), flat.take(below[strip], axis=0), down[strip, None])
        mixed = _mixed(mixed.take(left, axis=1), mixed.take(right, axis=1), along)
        resized[strip] = np.rint(mixed, out=mixed).reshape(-1, new_columns, channels)


def _mixed(first: npt.NDArray[np.generic], second: npt.NDArray[np.generic], share: Floats) -> Floats:
    """The first but for `share`, and that of the second."""
    mixed, other = first.astype(np.float32), second.astype(np.float32)
    mixed *= 1 - share
    other *= share
    mixed += other
    return mixed


@functools.lru_cache(maxsize=4096)
def _neighbours(old: int, new: int) -> tuple[Places, Places, Floats]:
    """For each new pixel along one side: the two old ones that it lies between, and its distance from the first."""
    at = np.clip((np.arange(new) + 0.5) * (old / new) - 0.5, 0, old - 1)
    first = np.floor(at).astype(np.intp)
    return first, np.minimum(first + 1, old - 1), (at - first).astype(np.float32)


@functools.lru_cache(maxsize=1024)
def _neighbours_of_channels(old: int, new: int, channels: int) -> tuple[Places, Places, Floats]:
    """The same where a pixel's channels lie side by side."""
    first, second, distance = _neighbours(old, new)
    spread = (np.arange(channels) + channels * place[:, None] for place in (first, second))
    return *(place.ravel() for place in spread), np.repeat(distance, channels)  # type: ignore[return-value]
