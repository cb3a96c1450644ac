"""scikit-learn's 1,797 digits as a TFDS dataset that needs neither TensorFlow nor a network.

Splits, fixed for ever by the checksums in `tests/trainers/test_data_digits.py`:

    train           600, 60 a class; every run of ten from the start holds each class once, so that the first n are fair
    validation      297, what remains, shuffled
    test            900, 90 a class, shuffled: half of the images, since studies learn from few
    test_corrupted  the test images in the same order, each changed by one of `corruptions.KINDS`, 18 of a kind and class

The 13 writers of the source are not told apart in it, so every split holds images of each.
"""

from __future__ import annotations

import contextlib
import importlib.resources
import io
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow_datasets as tfds
from etils import epath

from orchestrator.contract import DataError
from trainers.data import prepared, readable
from trainers.data.alone import alone
from trainers.data.corruptions import KINDS, corrupt

TRAIN_PER_CLASS = 60
TEST_PER_CLASS = 90
SPLIT_SEED = 1797
CORRUPTION_SEED = 8

Examples = dict[str, npt.NDArray[Any]]


class Digits(tfds.core.GeneratorBasedBuilder):
    """Handwritten digits, 8x8 pixels, one channel, 0 is background and 255 is ink."""

    VERSION = tfds.core.Version("1.0.0")
    # TFDS 4.9 looks for this with importlib_resources, which it does not install on Python 3.9 and later.
    code_path = epath.Path(__file__)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Optical Recognition of Handwritten Digits, the test part as scikit-learn distributes it.",
            homepage="https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
            license="CC BY 4.0",
            # Tensor and not Image: Image encodes with TensorFlow, which takes 10 s to import.
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Tensor(shape=(8, 8, 1), dtype=np.uint8),
                    "label": tfds.features.ClassLabel(num_classes=10),
                    "position": tfds.features.Scalar(dtype=np.int32, doc="place of the image in the source"),
                    "corruption": tfds.features.Text(doc="what was done to the image; empty in the other splits"),
                }
            ),
            supervised_keys=("image", "label"),
            disable_shuffling=True,  # the order below is part of the dataset
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        del dl_manager  # nothing is downloaded
        return {name: self._generate_examples(examples) for name, examples in split_examples().items()}

    def _generate_examples(self, examples: Examples) -> Iterator[tuple[int, dict[str, Any]]]:
        for row in range(len(examples["label"])):
            yield row, {name: column[row] for name, column in examples.items()}


def prepare(root: pathlib.Path) -> None:
    """Writes the dataset under a TFDS folder. Several processes may call this at once, and may be killed in it.

    Raises:
        DataError: The folder cannot be written, or holds another dataset of this name.
    """
    folder = root / "digits"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with alone(folder / ".lock"):
            if readable.digits_are_complete():
                return
            _clear(folder)
            with _quiet():
                Digits(data_dir=root).download_and_prepare(file_format="array_record")
    except OSError as error:
        raise DataError(
            f"the digits cannot be written to {folder}", found=str(error), fix="set TFDS_DATA_DIR to a folder that can be written"
        ) from error


def split_examples() -> dict[str, Examples]:
    """The examples of each split, in their order: images [image, 8, 8, 1], labels, positions and corruptions [image]."""
    images, labels = raw()
    positions = split_positions(labels)
    plain = {name: _examples(images, labels, at, np.full(len(at), "")) for name, at in positions.items()}
    test = plain["test"]
    kinds = _balanced_kinds(test["label"])
    corrupted = dict(test, image=corrupt(test["image"], kinds, seed=CORRUPTION_SEED), corruption=np.array(KINDS)[kinds])
    return {**plain, "test_corrupted": corrupted}


def raw() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Images [image, 8, 8, 1], scaled from 0..16 to 0..255, and labels [image], in the order of the source."""
    with importlib.resources.files("trainers.data").joinpath("digits.npz").open("rb") as file, np.load(file) as arrays:
        images, labels = arrays["images"], arrays["labels"]
    return np.rint(images[..., None] * (255 / 16)).astype(np.uint8), labels.astype(np.int64)


def split_positions(labels: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[np.int64]]:
    """Places in the source of the images of each split, in the order of the split."""
    # RandomState: numpy keeps its stream for ever, and may change that of default_rng.
    random = np.random.RandomState(SPLIT_SEED)
    by_class = [random.permutation(np.flatnonzero(labels == digit)) for digit in range(10)]
    train = np.stack([at[:TRAIN_PER_CLASS] for at in by_class], axis=1)
    return {
        "train": np.concatenate([random.permutation(ten) for ten in train]),
        "validation": random.permutation(np.concatenate([at[TRAIN_PER_CLASS:-TEST_PER_CLASS] for at in by_class])),
        "test": random.permutation(np.concatenate([at[-TEST_PER_CLASS:] for at in by_class])),
    }


def _examples(
    images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64], at: npt.NDArray[np.int64], corruption: npt.NDArray[np.str_]
) -> Examples:
    return {"image": images[at], "label": labels[at], "position": at.astype(np.int32), "corruption": corruption}


def _balanced_kinds(labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    """Kinds of corruption that take turns within each class, [image]."""
    turn = np.zeros(len(labels), np.int32)
    for digit in range(10):
        turn[labels == digit] = np.arange(np.sum(labels == digit)) % len(KINDS)
    return turn


def _clear(folder: pathlib.Path) -> None:
    """Removes what a killed process left. TFDS writes to `incomplete.*` and renames at the end."""
    version = folder / str(Digits.VERSION)
    with contextlib.suppress(ValueError):  # not described: damaged
        made_by = prepared.describe(version).made_by
        if made_by != Digits.__module__:
            raise DataError(
                f"{version} holds another dataset of the name digits",
                found=f"made by {made_by}",
                fix="move it, or set TFDS_DATA_DIR to another folder",
            )
    for wreck in (version, *folder.glob("incomplete.*")):
        shutil.rmtree(wreck, ignore_errors=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps TFDS from printing progress: this takes a second, and stdout belongs to results."""
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tfds.enable_progress_bar()
