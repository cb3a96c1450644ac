"""Examples of a split on the host: in memory, mapped from a file, or decoded when they are asked for. To their users all are one."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int32]
Shape = tuple[int, ...]


class Split(NamedTuple):
    """Examples in the order of the dataset.

    Attributes:
        images: [image, row, column, channel], 0 to 255, in memory or mapped from a file (`numpy.memmap`);
            `trainers.augment.to_model_range` maps them to -1..1.
        labels: Class of each image, [image], from 0.
    """

    images: Images
    labels: Labels

    @property
    def shape(self) -> Shape:
        """Of all images, [image, row, column, channel]."""
        return self.images.shape

    @property
    def at_once(self) -> int:
        """Calls of `gather` that are worth having at a time: copying is as fast as memory allows."""
        return 1

    def gather(self, rows: npt.NDArray[np.integer], stopping: threading.Event | None = None) -> Split:
        """See `Examples.gather`."""
        del stopping  # it is over at once
        return Split(np.asarray(self.images[rows]), np.asarray(self.labels[rows]))


class Examples(Protocol):
    """Examples of a split, which are gathered by their place."""

    @property
    def shape(self) -> Shape:
        """Of all images, [image, row, column, channel]."""
        ...

    @property
    def labels(self) -> Labels:
        """Class of each image, [image], from 0. To know them a streamed split is read once, though not decoded."""
        ...

    @property
    def at_once(self) -> int:
        """Calls of `gather` that are worth having at a time."""
        ...

    def gather(self, rows: npt.NDArray[np.integer], stopping: threading.Event | None = None) -> Split:
        """Images [*rows, row, column, channel] and labels [*rows] of these rows; the same bits whenever and wherever it is asked.

        Args:
            rows: Places in the split, of any shape.
            stopping: Set by another thread when the answer is not waited for any longer.

        Raises:
            concurrent.futures.CancelledError: `stopping` was set before all was there.
            DataError: An example cannot be read.
        """
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class Changed:
    """Examples whose images are changed when they are gathered.

    Attributes:
        examples: What they were.
        change: Of images [..., row, column, channel] to images with as many pixels.
        channels: Of the changed images.
    """

    examples: Examples
    change: Callable[[Images], Images]
    channels: int

    @property
    def shape(self) -> Shape:
        return *self.examples.shape[:-1], self.channels

    @property
    def labels(self) -> Labels:
        return self.examples.labels

    @property
    def at_once(self) -> int:
        return self.examples.at_once

    def gather(self, rows: npt.NDArray[np.integer], stopping: threading.Event | None = None) -> Split:
        images, labels = self.examples.gather(rows, stopping)
        return Split(self.change(images), labels)


def n_bytes(shape: Shape) -> int:
    """What images of this shape take."""
    return int(np.prod(shape, dtype=np.int64))
