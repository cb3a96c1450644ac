"""Splits too large for memory and disk: images are read, decoded and resized on threads, by Grain, whenever they are asked for.

What is gathered depends on the rows alone, so nothing has to be read to go on at a later step, and lanes at different steps can
share one split. A row is decoded by the code that fills arrays, so its bits are those of the other ways.
"""

from __future__ import annotations

import functools
import threading
from concurrent.futures import CancelledError

import grain
import numpy as np
import numpy.typing as npt

from trainers.data.examples import Labels, Shape, Split
from trainers.data.reading import Reader, usable_cores

THREADS_A_CORE = 2  # while one waits for the disk, another decodes
MOST_THREADS = 64


class Streamed:
    """A split whose images are on the disk as they came, PNG or JPEG. See `trainers.data.examples.Examples`.

    Args:
        found: The prepared dataset.
        reader: Of it, for the size and channels that images are to have.
        tfds_split: Such as `train[:99%]`.
        at_most: First examples of it that there are; 0 is all.
    """

    at_once = 2  # while the last images of one call are decoded, threads that have no more to do begin with another

    def __init__(self, reader: Reader, tfds_split: str, *, at_most: int) -> None:
        self._reader, self._tfds_split, self._at_most = reader, tfds_split, at_most
        self._records = reader.records(tfds_split)
        self._n_images = reader.examples(tfds_split, at_most=at_most)
        threads = min(THREADS_A_CORE * usable_cores(), MOST_THREADS)
        self._options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)

    @property
    def shape(self) -> Shape:
        return self._n_images, *self._reader.shape

    @functools.cached_property
    def labels(self) -> Labels:
        return self._reader.labels(self._tfds_split, at_most=self._at_most)

    def gather(self, rows: npt.NDArray[np.integer], stopping: threading.Event | None = None) -> Split:
        flat = np.asarray(rows).ravel()
        images, labels = np.empty((len(flat), *self._reader.shape), np.uint8), np.empty(len(flat), np.int32)

        def put(place: int) -> int:
            # Into its place in the batch, so that no image is copied.
            row = int(flat[place])
            return self._records.put(row, self._records.at(row), images[place])

        decoded = iter(grain.MapDataset.range(len(flat)).map(put).to_iter_dataset(self._options))
        try:
            for place, label in enumerate(decoded):
                labels[place] = label
                if stopping is not None and stopping.is_set():
                    raise CancelledError
        finally:
            decoded.close()
        return Split(images.reshape(*rows.shape, *self._reader.shape), labels.reshape(rows.shape))
