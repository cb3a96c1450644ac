"""Image classification data, read through TFDS: what can be read here, how to prepare it, and the arrays themselves.

Importing this package imports neither TFDS nor JAX, so that a study of a thousand cells is planned at once.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from orchestrator.contract import DataError, Problem
from trainers.config import DataConfig
from trainers.data import formulas, mapped, prepared, readable
from trainers.data.catalog import lookup

__all__ = ["Split", "data_problem", "load", "prepare"]


class Split(NamedTuple):
    """Examples in the order of the dataset.

    Attributes:
        images: [image, row, column, channel], 0 to 255, in memory or mapped from a file (`numpy.memmap`);
            `trainers.augment.to_model_range` maps them to -1..1.
        labels: Class of each image, [image], from 0.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int32]


def load(config: DataConfig) -> dict[str, Split]:
    """The splits `train`, `val`, `test` and, where the dataset has one, `corrupted`, resized to `config.image_size`.

    `train` is kept in `config.train_size` where that is set, and is cut to its first `config.train_examples`. Where all splits
    together take more than `readable.LIMIT_BYTES`, they are decoded into files on the first call, and mapped from these.

    Raises:
        DataError: The dataset is not prepared, does not fit the config, finds no room or cannot be read.
    """
    prepare(config)
    _raise(data_problem(config))
    if config.dataset == formulas.NAME:
        return {split: Split(*formulas.images(config, split)) for split in formulas.SPLITS}
    dataset, found = lookup(config.dataset), prepared.find(config.dataset)
    assert found is not None, "a dataset without a problem is prepared"
    from trainers.data.reading import Reader

    in_memory, splits = readable.fits_in_memory(config, dataset, found), dict[str, Split]()
    for name, tfds_split in dataset.splits().items():
        at_most, sized = config.at_most(name), dataclasses.replace(config, image_size=config.size_of(name))
        reader = Reader(found, image_size=sized.image_size, channels=config.channels, classes=config.classes)
        if in_memory:
            splits[name] = Split(*reader.read(tfds_split, at_most=at_most))
        else:
            examples = functools.partial(reader.examples, tfds_split, at_most=at_most)
            fill = functools.partial(reader.read_into, tfds_split)
            splits[name] = Split(*mapped.split(found, sized, tfds_split, at_most=at_most, examples=examples, fill=fill))
    return splits


def data_problem(config: DataConfig) -> Problem | None:
    """Why the data cannot be read here, with the command that prepares it; None when it can. Under 5 ms."""
    return readable.problem(config)


def prepare(config: DataConfig) -> None:
    """Makes the data readable. Digits are written in a second; a small dataset is downloaded if there is a network.

    Large datasets are never downloaded unasked.

    Raises:
        DataError: It is not readable and cannot be made so here; says how to prepare it by hand.
    """
    if config.dataset == "digits":
        if not readable.digits_are_complete():
            from trainers.data import digits

            digits.prepare(prepared.tfds_root())
    elif readable.is_downloaded_unasked(config):
        from trainers.data import download

        download.download(config)
    _raise(data_problem(config))


def _raise(problem: Problem | None) -> None:
    if problem is not None:
        raise DataError(problem.what, found=problem.found, expected=problem.expected, fix=problem.fix)
