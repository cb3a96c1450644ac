"""Sets of images from formulas, for evaluations that need other images and no download. The same bytes on every machine but for
the last digit of a sine."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int32]

N_OTHER = 1000  # images of a set that is to be told from test images
ORIENTATIONS = 8  # classes of `gratings`
PER_CLASS = {"train": 40, "test": 60}


def other(name: str, image_size: int, channels: int) -> Bytes:
    """A set of images of no class, [image, row, column, channel]."""
    shape = (N_OTHER, image_size, image_size, channels)
    drawn = OTHER[name](np.random.RandomState((sorted(OTHER).index(name), 95)), shape)
    return np.clip(np.rint(drawn), 0, 255).astype(np.uint8)


def gratings(split: str, image_size: int, channels: int) -> tuple[Bytes, Labels]:
    """Stripes of eight orientations, at any phase, of several widths, under noise: a dataset of eight classes to learn from few.

    Args:
        split: `train` or `test`.
        image_size: Pixels a side.
        channels: All alike.
    """
    random = np.random.RandomState((sorted(PER_CLASS).index(split), 96))
    labels = np.tile(np.arange(ORIENTATIONS), PER_CLASS[split]).astype(np.int32)
    n = len(labels)
    angle = labels * np.pi / ORIENTATIONS + random.uniform(-0.1, 0.1, n)
    images = _stripes(angle, random.uniform(2, 3, n), random.uniform(0, 2 * np.pi, n), image_size)
    images = 127.5 + 90 * images[..., None] + random.normal(0, 25, (n, image_size, image_size, channels))
    return np.clip(np.rint(images), 0, 255).astype(np.uint8), labels


def _uniform(random: np.random.RandomState, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    return random.uniform(0, 255, shape)


def _gaussian(random: np.random.RandomState, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    return random.normal(127.5, 64, shape)


def _constant(random: np.random.RandomState, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    return np.broadcast_to(random.uniform(0, 255, (shape[0], 1, 1, shape[3])), shape)


def _waves(random: np.random.RandomState, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    n, size, _, channels = shape
    waves = [_stripes(*random.uniform((0, 0.5, 0), (np.pi, 3, 2 * np.pi), (n * channels, 3)).T, size) for _ in range(3)]
    return np.moveaxis(127.5 + 60 * np.sum(waves, axis=0).reshape(n, channels, size, size), 1, -1)


def _stripes(
    angle: npt.NDArray[np.float64], waves: npt.NDArray[np.float64], phase: npt.NDArray[np.float64], size: int
) -> npt.NDArray[np.float64]:
    """Sine waves, [image, row, column] in -1 to 1: so many a side, across the angle."""
    at = (np.arange(size) + 0.5) / size - 0.5
    along = np.cos(angle)[:, None, None] * at + np.sin(angle)[:, None, None] * at[:, None]
    return np.sin(2 * np.pi * waves[:, None, None] * along + phase[:, None, None])


OTHER: dict[str, Callable[[np.random.RandomState, tuple[int, ...]], npt.NDArray[np.float64]]] = {
    "uniform_noise": _uniform,
    "gaussian_noise": _gaussian,
    "constant": _constant,
    "waves": _waves,
}
