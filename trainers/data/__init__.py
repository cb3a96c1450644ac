"""Image classification data, read through TFDS: what can be read here, how to prepare it, and the arrays themselves.

Importing this package imports neither TFDS nor JAX, so that a study of a thousand cells is planned at once.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from orchestrator.contract import DataError, Problem
from trainers.config import DataConfig
from trainers.data import formulas, mapped, prepared, readable, ways
from trainers.data.catalog import lookup
from trainers.data.examples import Examples, Split
from trainers.data.prepared import Prepared
from trainers.data.ways import Way

if TYPE_CHECKING:
    from trainers.data.reading import Reader

__all__ = ["Examples", "Split", "data_problem", "kept", "load", "prepare"]


def load(config: DataConfig) -> dict[str, Examples]:
    """The splits `train`, `val`, `test` and, where the dataset has one, `corrupted`, resized to `config.image_size`.

    `train` is kept in `config.train_size` where that is set, and is cut to its first `config.train_examples`. How a split is kept
    `trainers.data.ways` chooses: files of pixels are written on the first call, and what is streamed is not read at all.

    Raises:
        DataError: The dataset is not prepared, does not fit the config, finds no room or cannot be read.
    """
    prepare(config)
    _raise(data_problem(config))
    if config.dataset == formulas.NAME:
        return {split: Split(*formulas.images(config, split)) for split in formulas.SPLITS}
    dataset, found = lookup(config.dataset), prepared.find(config.dataset)
    assert found is not None, "a dataset without a problem is prepared"
    chosen = ways.ways(config, dataset, found)
    return {
        name: kept(found, ways.sized(config, name), split, at_most=config.at_most(name), way=chosen[name])
        for name, split in dataset.splits().items()
    }


def kept(found: Prepared, config: DataConfig, tfds_split: str, *, at_most: int = 0, way: Way) -> Examples:
    """A split of a prepared dataset in the size, channels and classes of a config.

    Raises:
        DataError: It finds no room, or cannot be read.
    """
    reader = _reader(found, config)
    match way:
        case Way.RESIDENT:
            return Split(*reader.read(tfds_split, at_most=at_most))
        case Way.MAPPED:
            count = functools.partial(reader.examples, tfds_split, at_most=at_most)
            fill = functools.partial(reader.read_into, tfds_split)
            return Split(*mapped.split(found, config, tfds_split, at_most=at_most, examples=count, fill=fill))
        case Way.STREAMED:
            from trainers.data.streamed import Streamed  # imports Grain, which takes a worker a second

            return Streamed(reader, tfds_split, at_most=at_most)


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


def _reader(found: Prepared, config: DataConfig) -> Reader:
    from trainers.data.reading import Reader

    return Reader(found, image_size=config.image_size, channels=config.channels, classes=config.classes)


def _raise(problem: Problem | None) -> None:
    if problem is not None:
        raise DataError(problem.what, found=problem.found, expected=problem.expected, fix=problem.fix)
