"""Prepared TFDS records into arrays, by random access and without TensorFlow. Imports TFDS, so is itself imported late."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow_datasets as tfds

from orchestrator.contract import DataError
from trainers.data.prepared import Prepared
from trainers.data.resize import resize_into

CHUNK = 256  # examples read at once
UNREADABLE = (OSError, RuntimeError, ValueError, IndexError)  # what record readers and parsers raise

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int32]
Record = Mapping[str, Any]


class Reader:
    """The splits of one prepared dataset, as arrays of one image size."""

    def __init__(self, prepared: Prepared, *, image_size: int, channels: int, classes: int) -> None:
        self._prepared = prepared
        self.shape = (image_size, image_size, channels)
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
            DataError: A label is not a class, an image does not decode, or a file cannot be read.
        """
        images = np.empty((self.examples(split, at_most=at_most), *self.shape), np.uint8)
        return images, self.read_into(split, images)

    def examples(self, split: str, *, at_most: int = 0) -> int:
        """Number of examples of a TFDS split, `at_most` if that is not 0."""
        n = len(self.records(split))
        return min(n, at_most or n)

    def read_into(self, split: str, images: Images) -> Labels:
        """Fills `images` [image, row, column, channel] with the first of a TFDS split, and gives their labels [image].

        Raises:
            DataError: As of `read`.
        """
        records, labels = self.records(split), np.empty(len(images), np.int32)
        with ThreadPoolExecutor(usable_cores()) if self._prepared.encoded else contextlib.nullcontext() as threads:
            over = map if threads is None else threads.map  # decoders work outside Python's lock
            for start, found in records.chunks(len(images)):
                rows = range(start, start + len(found))
                labels[start : rows.stop] = list(over(records.put, rows, found, images[start : rows.stop]))
        return labels

    def labels(self, split: str, *, at_most: int = 0) -> Labels:
        """Labels [image] alone: no image is decoded.

        Raises:
            DataError: As of `read`.
        """
        records, labels = self.records(split), np.empty(self.examples(split, at_most=at_most), np.int32)
        for start, found in records.chunks(len(labels)):
            labels[start : start + len(found)] = [records.label(start + place, one) for place, one in enumerate(found)]
        return labels

    def records(self, split: str) -> Records:
        """A TFDS split, open."""
        builder: Any = self._builder  # TFDS types its features and decoders too narrowly
        skip: Any = tfds.decode.SkipDecoding
        # The image is decoded here; others, such as the segmentation masks of oxford_iiit_pet, are not decoded at all.
        skipped = {name: skip() for name, kind in builder.info.features.items() if isinstance(kind, tfds.features.Image)}
        source = builder.as_data_source(split, decoders=skipped or None)
        return Records(source, self._prepared, split, channels=self.shape[2], classes=self._classes)


class Records:
    """One TFDS split, by random access, for any number of threads at once. Made by `Reader.records`."""

    def __init__(self, source: Any, prepared: Prepared, split: str, *, channels: int, classes: int) -> None:
        self._source, self._prepared, self._split = source, prepared, split
        self._channels, self._classes = channels, classes

    def __len__(self) -> int:
        return len(self._source)

    def chunks(self, n: int) -> Iterator[tuple[int, Sequence[Record]]]:
        """The first `n` examples, some at a time, with the row that they begin at; images encoded as they are stored."""
        for start in range(0, n, CHUNK):
            rows = range(start, min(start + CHUNK, n))
            try:
                found = self._source.__getitems__(rows)
            except UNREADABLE:
                found = [self.at(row) for row in rows]  # tells which one it is
            yield start, found

    def at(self, row: int) -> Record:
        """One example, its image encoded as it is stored.

        Raises:
            DataError: It cannot be read.
        """
        try:
            return self._source[row]
        except UNREADABLE as error:
            raise self._error(row, "cannot be read", str(error).partition("\n")[0]) from error

    def put(self, row: int, record: Record, image: Images) -> int:
        """Fills `image` [row, column, channel] with that of an example, decoded and resized, and gives its label.

        Raises:
            DataError: It does not decode, or its label is not a class.
        """
        stored = record[self._prepared.image]
        try:
            pixels = self._pixels(stored)
        except ValueError as error:
            file = record.get("file_name", b"")  # as ImageNet, Pets and Flowers have it
            raise self._error(row, "does not decode", f"{file.decode()}: {error}" if file else str(error)) from error
        if pixels.shape[2] != self._channels:
            raise DataError(
                f"dataset {self._prepared.folder} holds images of several depths",
                found=f"an image of {pixels.shape[2]} channels",
                expected=f"{self._channels}, as data.channels is {self._channels}",
                fix="correct data.channels, or choose another dataset",
            )
        resize_into(pixels, image)
        return self.label(row, record)

    def label(self, row: int, record: Record) -> int:
        """Class of an example.

        Raises:
            DataError: It is none.
        """
        label = int(record[self._prepared.label])
        if not 0 <= label < self._classes:
            raise DataError(
                f"example {self._prepared.example_id(self._split, row)} of {self._prepared.folder} has a label that is not a class",
                found=str(label),
                expected=f"0 to {self._classes - 1}, as data.classes is {self._classes}",
                fix="correct data.classes",
            )
        return label

    def _pixels(self, stored: Any) -> Images:
        if not isinstance(stored, bytes):
            return _bytes(stored)
        from trainers.data.decode import decode  # loads Pillow

        return decode(stored, self._channels)

    def _error(self, row: int, what: str, found: str) -> DataError:
        return DataError(
            f"example {self._prepared.example_id(self._split, row)} of {self._prepared.folder} {what}",
            found=found,
            fix="delete that folder and prepare the dataset again",
        )


def usable_cores() -> int:
    """Processor cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _bytes(image: npt.NDArray[Any]) -> Images:
    """One image as [row, column, channel], 0 to 255; integers are taken to lie in 0 to 255, floats in 0 to 1."""
    image = image[..., None] if image.ndim == 2 else image
    if np.issubdtype(image.dtype, np.floating):
        return np.rint(np.clip(image, 0.0, 1.0) * 255).astype(np.uint8)
    return np.clip(image, 0, 255).astype(np.uint8)
