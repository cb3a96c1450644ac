"""A dataset drawn from formulas, to pre-train on: as many classes, images, pixels and channels as asked for, and no download.

A class is a contour, the path of a point on a few wheels that turn upon one another; an image is that path under a pen, its wheels
somewhat larger or smaller, turned, stretched, moved, thick or thin, bright or pale. To name its class a model has to learn strokes
and how they lie to one another. The first n images are the same whatever the number of images.

Source:
    Kataoka et al., Replacing Labeled Real-Image Datasets with Auto-Generated Contours (CVPR 2022), and Pre-Training without Natural
    Images (IJCV 2022): learning to tell formulas apart gives features that transfer. The formulas are ours.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from orchestrator.contract import Problem
from trainers.config import DataConfig

NAME = "formulas"
PER_CLASS = {"train": 100, "val": 10, "test": 20}
MOST = {"val": 1000, "test": 2000}  # images of those splits; with more classes, each has fewer
LIMIT_BYTES = 4 * 2**30  # of all splits together, which are drawn into memory

WHEELS = 3  # that turn each way
MOST_POINTS = 512  # of a path: less than the thinnest pen apart on the longest one
BLOCK = 256  # images that are drawn at once, from one seed
SEED_OF_CLASSES, SEED_OF_IMAGES = 97, 98  # part of every image: never change
SPLITS = ("train", "val", "test")  # likewise, by place

Floats = npt.NDArray[np.floating]


def images(config: DataConfig, split: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
    """Images [image, row, column, channel] and classes [image] of `train`, `val` or `test`; classes take turns."""
    n, size = count(config, split), config.size_of(split)
    labels = (np.arange(n) % config.classes).astype(np.int32)
    wheels, arcs = _classes(config.classes)
    drawn = np.empty((n, size, size, config.channels), np.uint8)
    for start in range(0, n, BLOCK):
        random = np.random.RandomState((SEED_OF_IMAGES, SPLITS.index(split), start // BLOCK))
        rows = slice(start, min(start + BLOCK, n))
        which = labels[rows]
        padded = np.resize(which, BLOCK)  # a last block that is cut short draws what a whole one does
        drawn[rows] = _block(random, wheels[padded], arcs[padded], size, config.channels)[: len(which)]
    return drawn, labels


def count(config: DataConfig, split: str) -> int:
    """Images of a split: `data.train_examples` to train on, or so many a class."""
    if split == "train" and config.train_examples:
        return config.train_examples
    return min(PER_CLASS[split] * config.classes, MOST.get(split, PER_CLASS[split] * config.classes))


def problem(config: DataConfig) -> Problem | None:
    """Why they cannot be drawn: only for want of memory."""
    n_bytes = sum(count(config, split) * config.size_of(split) ** 2 * config.channels for split in SPLITS)
    if n_bytes <= LIMIT_BYTES:
        return None
    return Problem(
        f"dataset {NAME!r} is too large to be drawn",
        found=f"{n_bytes / 2**30:,.0f} GiB",
        expected=f"at most {LIMIT_BYTES / 2**30:.0f} GiB, which are held in memory",
        fix="lower data.train_examples, data.classes or data.image_size",
    )


def _classes(n: int) -> tuple[npt.NDArray[np.complex128], Floats]:
    """Of each class its wheels, [class, wheel], radius and phase in one number, and which part of the path is drawn, [class]."""
    # From a seed each, so that the first classes are the same however many there are.
    of_wheels, of_arcs = (np.random.RandomState((SEED_OF_CLASSES, which)) for which in (0, 1))
    drawn = _complex(of_wheels.normal(size=(n, 2 * WHEELS, 2)))
    return drawn / np.abs(_turns()), np.minimum(1.0, of_arcs.uniform(0.4, 1.4, n))


def _complex(pairs: Floats) -> npt.NDArray[np.complex128]:
    return pairs[..., 0] + 1j * pairs[..., 1]


def _turns() -> npt.NDArray[np.int64]:
    """How often each wheel turns, backwards or forwards."""
    return np.concatenate([np.arange(-WHEELS, 0), np.arange(1, WHEELS + 1)])


def _block(
    random: np.random.RandomState, wheels: npt.NDArray[np.complex128], arcs: Floats, size: int, channels: int
) -> npt.NDArray[np.uint8]:
    """Images of contours, [image, row, column, channel]."""
    n = len(wheels)
    wheels = wheels * (1 + _complex(random.normal(0, 0.15, (*wheels.shape, 2))))
    angle = random.normal(0, 0.2, n)
    stretch, shift = random.uniform(0.75, 1.1, (n, 2)), random.uniform(-0.08, 0.08, (n, 2))
    pen, colour = random.uniform(0.02, 0.06, n), random.uniform(0.6, 1.0, (n, channels))
    path = _path(wheels, arcs, angle, n_points=min(8 * size, MOST_POINTS))
    at = 0.5 + 0.42 * stretch[:, None] * path + shift[:, None]  # [image, point, side], in 0 to 1
    ink = _drawn(at, pen, size)
    return np.rint(255 * ink[..., None] * colour[:, None, None]).astype(np.uint8)


def _path(wheels: npt.NDArray[np.complex128], arcs: Floats, angle: Floats, *, n_points: int) -> Floats:
    """Points of each path, [image, point, side], about 0, and within 1 of it."""
    t = 2 * np.pi * arcs[:, None] * (np.arange(n_points) + 0.5) / n_points
    path = np.einsum("iw,wip->ip", wheels, np.exp(1j * _turns()[:, None, None] * t))
    path = (path - path.mean(axis=1, keepdims=True)) * np.exp(1j * angle)[:, None]
    points = np.stack([path.real, path.imag], axis=-1)
    return points / np.abs(points).max(axis=(1, 2), keepdims=True)


def _drawn(at: Floats, pen: Floats, size: int) -> Floats:
    """Ink of a pen that follows points, [image, row, column] in 0 to 1.

    Every stretch of a path leaves ink by its length, under a round pen whose edge is soft.
    """
    step = np.linalg.norm(np.diff(at, axis=1, append=at[:, -1:]), axis=-1)
    pixels = (np.arange(size) + 0.5) / size
    # At least half a pixel wide, or a stroke would vanish between two.
    width = np.maximum(pen, 0.5 / size)[:, None, None]
    column, row = (np.exp(-0.5 * ((at[..., None, side] - pixels) / width) ** 2) for side in (0, 1))
    density = np.matmul((row * step[..., None]).swapaxes(1, 2), column) / width
    return 1 - np.exp(-density)
