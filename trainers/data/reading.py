"""Prepared TFDS records into arrays, by random access and without TensorFlow. Imports TFDS, so is itself imported late."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow_datasets as tfds

from orchestrator.contract import DataError
from trainers.data.prepared import Prepared
from trainers.data.resize import resize

CHUNK = 256  # examples decoded at once

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int32]


class Reader:
    """The splits of one prepared dataset, as arrays of one image size."""

    def __init__(self, prepared: Prepared, *, image_size: int, channels: int, classes: int) -> None:
        self._prepared = prepared
        self._shape = (image_size, image_size, channels)
        self._classes = classes
        with warnings.catch_warnings():
            # TFDS 4.9 asks protobuf 6 for the deprecated `label` of a field.
            warnings.simplefilter("ignore", DeprecationWarning)
            try:
                self._builder = tfds.builder_from_directory(str(prepared.folder))
            except Exception as error:  # of protobuf, JSON, or what a name in them leads to
                raise DataError(
                    f"the description of dataset {prepared.folder} cannot be read",
                    found=str(error).partition("\n")[0],
                    fix="delete that folder and prepare the dataset again",
                ) from error

    def read(self, split: str, *, at_most: int = 0) -> tuple[Images, Labels]:
        """Images [image, row, column, channel] and labels [image] of a TFDS split, or of its first `at_most` examples.

        Raises:
            DataError: A label is not a class, or a file cannot be read.
        """
        images = np.empty((self.examples(split, at_most=at_most), *self._shape), np.uint8)
        return images, self.read_into(split, images)

    def examples(self, split: str, *, at_most: int = 0) -> int:
        """Number of examples of a TFDS split, `at_most` if that is not 0."""
        n = len(self._source(split))
        return min(n, at_most or n)

    def read_into(self, split: str, images: Images) -> Labels:
        """Fills `images` [image, row, column, channel] with the first of a TFDS split, and gives their labels [image].

        Raises:
            DataError: A label is not a class, or a file cannot be read.
        """
        source, n = self._source(split), len(images)
        labels = np.empty(n, np.int32)
        for start in range(0, n, CHUNK):
            stop = min(start + CHUNK, n)
            images[start:stop], labels[start:stop] = self._chunk(source, range(start, stop))
        if n and not (labels.min() >= 0 and labels.max() < self._classes):
            raise DataError(
                f"dataset {self._prepared.folder}: {split} holds labels that are not classes",
                found=f"{labels.min()} to {labels.max()}",
                expected=f"0 to {self._classes - 1}, as data.classes is {self._classes}",
                fix="correct data.classes",
            )
        return labels

    def _source(self, split: str) -> Any:
        builder: Any = self._builder  # TFDS types its features and decoders too narrowly
        images = [name for name, kind in builder.info.features.items() if isinstance(kind, tfds.features.Image)]
        skip: Any = tfds.decode.SkipDecoding  # such as the segmentation masks of oxford_iiit_pet
        skipped = {name: skip() for name in images if name != self._prepared.image}
        return builder.as_data_source(split, decoders=skipped or None)

    def _chunk(self, source: Any, rows: range) -> tuple[Images, Labels]:
        try:
            examples = source.__getitems__(rows)
        except (OSError, RuntimeError, ValueError, IndexError) as error:
            raise DataError(
                f"a record file of {self._prepared.folder} cannot be read",
                found=str(error).partition("\n")[0],
                fix="delete that folder and prepare the dataset again",
            ) from error
        raw = [_bytes(example[self._prepared.image]) for example in examples]
        if wrong := {image.shape[2] for image in raw} - {self._shape[2]}:
            raise DataError(
                f"dataset {self._prepared.folder} holds images of several depths",
                found=f"an image of {wrong.pop()} channels",
                expected=f"{self._shape[2]}, as data.channels is {self._shape[2]}",
                fix="correct data.channels, or choose another dataset",
            )
        return _resized(raw, self._shape[0]), np.array([example[self._prepared.label] for example in examples], np.int32)


def _resized(images: Sequence[Images], size: int) -> Images:
    """Images [image, size, size, channel]; together when they share a shape, as they do in most datasets."""
    if len({image.shape for image in images}) == 1:
        return resize(np.stack(images), size)
    return np.concatenate([resize(image[None], size) for image in images])


def _bytes(image: npt.NDArray[Any]) -> Images:
    """One image as [row, column, channel], 0 to 255; integers are taken to lie in 0 to 255, floats in 0 to 1."""
    image = image[..., None] if image.ndim == 2 else image
    if np.issubdtype(image.dtype, np.floating):
        return np.rint(np.clip(image, 0.0, 1.0) * 255).astype(np.uint8)
    return np.clip(image, 0, 255).astype(np.uint8)
