"""Why a dataset cannot be read here, and the command that changes that. Looks at files only, in under 5 ms."""

from __future__ import annotations

import dataclasses
import difflib
import importlib.util
import shutil
from collections.abc import Mapping

from orchestrator.contract import Problem
from trainers.config import DataConfig
from trainers.data import formulas, mapped, prepared
from trainers.data.catalog import KNOWN, Dataset, base_name, lookup
from trainers.data.prepared import Prepared

LIMIT_BYTES = 16 * 2**30  # of all splits as uint8 arrays in memory; beyond it they are mapped from files: ImageNet at 384 px is 577 GiB
# Modules with which TFDS prepares images, and the packages they come in. TFDS 4.9 does not declare importlib_resources.
PREPARING = (("tensorflow", "tensorflow"), ("importlib_resources", "importlib_resources"), ("PIL", "pillow"))
DIGITS_MODULE = "trainers.data.digits"


def problem(config: DataConfig) -> Problem | None:
    """The first thing that stands between this config and its data; None when there is nothing."""
    if config.dataset == formulas.NAME:
        return formulas.problem(config)
    dataset = lookup(config.dataset)
    if wrong := _mismatch(config, dataset.classes, dataset.channels):
        return wrong
    if config.dataset == "digits":
        return None  # they travel with this package and are written on first use
    try:
        found = prepared.find(config.dataset)
    except ValueError as error:
        return Problem(f"dataset {config.dataset!r} is damaged", found=str(error), fix="delete that folder, then: " + command(dataset))
    if found is None:
        return not_prepared(dataset)
    return (
        unreadable(dataset, found)
        or _mismatch(config, found.classes, found.channels)
        or _missing_splits(dataset, found)
        or _no_room(config, dataset, found)
    )


def digits_are_complete() -> bool:
    """The digits are prepared and every file of theirs is there."""
    try:
        found = prepared.find("digits:1.0.0")
    except ValueError:
        return False
    return found is not None and found.made_by == DIGITS_MODULE and not found.missing_files()


def is_downloaded_unasked(config: DataConfig) -> bool:
    """The dataset is small, is not there, and is fetched by `prepare` when there is a network."""
    dataset = lookup(config.dataset)
    return bool(dataset.url) and prepared.find(config.dataset) is None and not _mismatch(config, dataset.classes, dataset.channels)


def missing_to_prepare() -> tuple[str, ...]:
    """Packages that TFDS needs to prepare images and that are not installed here."""
    return tuple(package for module, package in PREPARING if not is_installed(module))


def is_installed(module: str) -> bool:
    """The module can be imported; it is not imported to find out."""
    return importlib.util.find_spec(module) is not None


def command(dataset: Dataset) -> str:
    """The command line that prepares a dataset in the format that is read here.

    >>> print(command(lookup("mnist")))
    python -c "import tensorflow_datasets as tfds; tfds.builder('mnist').download_and_prepare(file_format='array_record')"
    """
    return f'python -c "{python_code(dataset)}"'


def python_code(dataset: Dataset) -> str:
    """The same as one line of Python."""
    return f"import tensorflow_datasets as tfds; tfds.builder('{dataset.name}').download_and_prepare(file_format='array_record')"


def not_prepared(dataset: Dataset, *, why: str = "") -> Problem:
    """The problem of a dataset that is not there."""
    root = prepared.tfds_root()
    manual = f"put {dataset.manual}, into {root / 'downloads' / 'manual'}, then run: " if dataset.manual else ""
    install = f"pip install {' '.join(missing)} && " if (missing := missing_to_prepare()) else ""
    meant = _nearest(base_name(dataset.name))
    return Problem(
        f"dataset {dataset.name!r} is not prepared",
        found=why or f"no dataset_info.json under {root / base_name(dataset.name)}",
        expected=f"a TFDS dataset in the array_record format under {root} (set TFDS_DATA_DIR if it lies elsewhere)",
        fix=f"set data.dataset to {meant!r}" if meant else manual + install + command(dataset),
    )


def _nearest(name: str) -> str | None:
    """The known or prepared dataset that an unknown name was probably meant to be."""
    root = prepared.tfds_root()
    known = {entry.name for entry in KNOWN}
    here = {folder.name for folder in root.iterdir()} if root.is_dir() else set[str]()
    close = difflib.get_close_matches(name, sorted(known | here), n=1, cutoff=0.75)
    return close[0] if close and name not in known else None


def unreadable(dataset: Dataset, found: Prepared) -> Problem | None:
    """Why a prepared dataset cannot be read here; None when it can."""
    if not {"array_record", "parquet"} & set(found.formats):
        return Problem(
            f"dataset {dataset.name!r} is prepared in a format that needs TensorFlow to read",
            found=f"{', '.join(found.formats)} in {found.folder}",
            expected="array_record",
            fix=f"tfds convert_format --dataset_version_dir={found.folder} --out_file_format=array_record",
        )
    if not (found.image and found.label):
        return Problem(
            f"dataset {dataset.name!r} is not a classification of images",
            found=f"features.json in {found.folder} without an image and a label",
            expected="features `image` and `label`, or supervised keys that name them",
            fix="choose another dataset",
        )
    if found.encoded and not (is_installed("PIL") or is_installed("cv2")):
        return Problem(
            f"dataset {dataset.name!r} holds PNG or JPEG files, and nothing here decodes them",
            found="neither Pillow nor OpenCV is installed",
            expected="one of them",
            fix="pip install pillow",
        )
    return None


def _mismatch(config: DataConfig, classes: int | None, channels: int | None) -> Problem | None:
    for key, has, wanted in (("classes", classes, config.classes), ("channels", channels, config.channels)):
        if has is not None and has != wanted:
            return Problem(
                f"data.{key} does not fit dataset {config.dataset!r}",
                found=f"data.{key} = {wanted}",
                expected=f"{has}",
                fix=f"set data.{key} to {has}",
            )
    return None


def _missing_splits(dataset: Dataset, found: Prepared) -> Problem | None:
    if all(name in found.shards for name in dataset.names_in_tfds()):
        return None
    return Problem(
        f"dataset {dataset.name!r} lacks a split that is needed",
        found=", ".join(found.shards),
        expected=", ".join(dataset.names_in_tfds()),
        fix="add the dataset with its own splits to KNOWN in trainers/data/catalog.py",
    )


def fits_in_memory(config: DataConfig, dataset: Dataset, found: Prepared) -> bool:
    """All splits together are held in memory; else they are mapped from files."""
    return _n_bytes(config, _examples(config, dataset, found)) <= LIMIT_BYTES


def _n_bytes(config: DataConfig, rows: Mapping[str, int]) -> int:
    """What so many decoded images of each split take."""
    return sum(n * config.size_of(name) ** 2 * config.channels for name, n in rows.items())


def _examples(config: DataConfig, dataset: Dataset, found: Prepared) -> dict[str, int]:
    """Examples wanted of each of our splits."""
    rows = {name: found.examples(split) for name, split in dataset.splits().items()}
    return {name: min(n, config.at_most(name) or n) for name, n in rows.items()}


def _no_room(config: DataConfig, dataset: Dataset, found: Prepared) -> Problem | None:
    if fits_in_memory(config, dataset, found):
        return None
    splits, rows, root = dataset.splits(), _examples(config, dataset, found), prepared.tfds_root()
    to_write = {name: n for name, n in rows.items() if not _is_written(config, splits[name], found, name)}
    n_bytes, free = _n_bytes(config, to_write), shutil.disk_usage(root).free
    if n_bytes <= free:
        return None
    return Problem(
        f"dataset {dataset.name!r} at {config.image_size} px fits neither in memory nor on the disk",
        found=f"{sum(rows.values()):,} images, {n_bytes / 2**30:,.0f} GiB to write, {free / 2**30:,.0f} GiB free in {root}",
        expected=f"at most {LIMIT_BYTES / 2**30:.0f} GiB, which are held in memory, or room for decoded images on the disk",
        fix="lower data.image_size, set data.train_examples, or set TFDS_DATA_DIR to a larger disk",
    )


def _is_written(config: DataConfig, tfds_split: str, found: Prepared, name: str) -> bool:
    sized = dataclasses.replace(config, image_size=config.size_of(name))
    return mapped.is_written(found, sized, tfds_split, at_most=config.at_most(name))
