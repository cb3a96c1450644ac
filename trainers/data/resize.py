"""Plain bilinear resizing of byte images, as in the evaluation of the paper: no crop, no antialiasing."""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt


def resize(images: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    """Images of any height and width, at `size` by `size` pixels.

    Args:
        images: [image, row, column, channel].
        size: Pixels a side of the result.

    Source:
        `tf.image.resize(method="bilinear", antialias=False)`: pixel centres lie at half integers, borders are repeated.

    >>> resize(np.array([0, 100], np.uint8).reshape(1, 1, 2, 1), 4)[0, 0, :, 0]
    array([  0,  25,  75, 100], dtype=uint8)
    """
    rows, columns = images.shape[1:3]
    if (rows, columns) == (size, size):
        return images
    above, below, down = _neighbours(rows, size)
    mixed = images[:, above] * (1 - down)[:, None, None] + images[:, below] * down[:, None, None]
    left, right, along = _neighbours(columns, size)
    mixed = mixed[:, :, left] * (1 - along)[:, None] + mixed[:, :, right] * along[:, None]
    return np.rint(mixed).astype(np.uint8)


@functools.lru_cache(maxsize=4096)
def _neighbours(old: int, new: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.float32]]:
    """For each new pixel along one side: the two old ones that it lies between, and its distance from the first."""
    at = np.clip((np.arange(new) + 0.5) * (old / new) - 0.5, 0, old - 1)
    first = np.floor(at).astype(np.intp)
    return first, np.minimum(first + 1, old - 1), (at - first).astype(np.float32)
