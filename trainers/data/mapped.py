"""Splits too large for memory: decoded and resized once into files beside the TFDS datasets, then mapped, not read.

A file holds plain pixels, so that any image is found at once and the system keeps in memory what is used. The labels of a
split are written last, as a sealed file that knows the size of the other one: where they are sound, the images are complete.
A split that lost bytes is written again. A pixel that changes on the disk goes unseen: to notice it, all would have to be read.
"""

from __future__ import annotations

import json
import logging
import math
import pathlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from orchestrator.contract import DamagedError, DataError, content_key, write_whole
from trainers import sealed
from trainers.config import DataConfig
from trainers.data.alone import alone
from trainers.data.prepared import Prepared, tfds_root

log = logging.getLogger(__name__)

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int32]
Fill = Callable[[Images], Labels]


def split(
    found: Prepared, config: DataConfig, tfds_split: str, *, at_most: int, examples: Callable[[], int], fill: Fill
) -> tuple[Images, Labels]:
    """Images [image, row, column, channel], mapped from a file, and labels [image] in memory.

    Args:
        found: The prepared dataset.
        config: How its images are to be.
        tfds_split: TFDS split, such as `train[:99%]`.
        at_most: First examples of it that are wanted; 0 is all.
        examples: How many those are. Called, as `fill` is, if no file has them yet.
        fill: Writes them into images of the right shape and returns their labels.

    Raises:
        DataError: The files cannot be written.
    """
    images_file, labels_file = _files(found, config, tfds_split, at_most)
    try:
        images_file.parent.mkdir(parents=True, exist_ok=True)
        with alone(images_file.with_suffix(".lock")):
            if (sound := _sound(images_file, labels_file)) is not None:
                return sound
            for path in (labels_file, images_file):  # not in place: another process may have them mapped
                path.unlink(missing_ok=True)
            shape = (examples(), config.image_size, config.image_size, config.channels)
            images = np.lib.format.open_memmap(images_file, mode="w+", dtype=np.uint8, shape=shape)
            labels = fill(images)
            images.flush()
            words = {"bytes": str(images_file.stat().st_size), "shape": json.dumps(shape)}
            write_whole(labels_file, *sealed.seal({"labels": labels}, words).parts)
            return np.load(images_file, mmap_mode="r"), labels
    except OSError as error:
        raise DataError(
            f"images of {found.folder} cannot be kept in {images_file.parent}",
            found=str(error),
            fix="make room there, or set TFDS_DATA_DIR to a larger disk",
        ) from error


def is_written(found: Prepared, config: DataConfig, tfds_split: str, *, at_most: int) -> bool:
    """The file of a split is there, and complete."""
    return _files(found, config, tfds_split, at_most)[1].exists()


def _sound(images_file: pathlib.Path, labels_file: pathlib.Path) -> tuple[Images, Labels] | None:
    """Images and labels as they were written; None where they were not, or lost bytes since."""
    try:
        words, arrays = sealed.load(labels_file)
        shape, size = tuple(json.loads(words["shape"])), images_file.stat().st_size
        if size != int(words["bytes"]):
            raise DamagedError(f"{images_file} has {size} bytes, not {words['bytes']}")
        # By what the sealed file says: numpy's own head of the images may be damaged too.
        return np.memmap(images_file, np.uint8, mode="r", offset=size - math.prod(shape), shape=shape), arrays["labels"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError) as error:
        log.warning("%s is written again: %s", labels_file, error)
        return None


def _files(found: Prepared, config: DataConfig, tfds_split: str, at_most: int) -> tuple[pathlib.Path, pathlib.Path]:
    decides = {
        "folder": str(found.folder),
        "written": (found.folder / "dataset_info.json").stat().st_mtime_ns,
        "split": tfds_split,
        "at_most": at_most,
        "shape": [config.image_size, config.channels],
        "classes": config.classes,
    }
    stem = f"{found.folder.parent.name}-{config.image_size}px-{content_key(decides)[:12]}"
    folder = tfds_root() / "mapped"
    return folder / f"{stem}-images.npy", folder / f"{stem}-labels.safetensors"
