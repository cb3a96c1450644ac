"""Why a dataset cannot be read here, and the command that changes that. Looks at files only, in under 5 ms."""

from __future__ import annotations

import difflib
import importlib.util

from orchestrator.contract import Problem
from trainers.config import DataConfig
from trainers.data import formulas, prepared, ways
from trainers.data.catalog import KNOWN, Dataset, base_name, lookup
from trainers.data.prepared import Prepared
from trainers.data.ways import Way

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
        or ways.problem(config, dataset, found)
        or _unstreamable(config, dataset, found)
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
    if not set(prepared.READABLE) & set(found.formats):
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
    if found.encoded and not is_installed("PIL"):
        return Problem(
            f"dataset {dataset.name!r} holds PNG or JPEG files, and nothing here decodes them",
            found="Pillow is not installed",
            expected="Pillow, whose numbers are the same on every machine",
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
    own = "add the dataset with its own splits to KNOWN in trainers/data/catalog.py"
    if not all(name in found.shards for name in dataset.names_in_tfds()):
        return Problem(
            f"dataset {dataset.name!r} lacks a split that is needed",
            found=", ".join(found.shards),
            expected=", ".join(dataset.names_in_tfds()),
            fix=own,
        )
    if empty := [split for split in dataset.splits().values() if not found.examples(split)]:
        return Problem(
            f"dataset {dataset.name!r} has too few examples for its splits",
            found=f"none in {', '.join(empty)}",
            expected="at least one in each",
            fix=own,
        )
    return None


def _unstreamable(config: DataConfig, dataset: Dataset, found: Prepared) -> Problem | None:
    if is_installed("grain") or Way.STREAMED not in ways.ways(config, dataset, found).values():
        return None
    return Problem(
        f"dataset {dataset.name!r} is to be streamed, and nothing here does that",
        found="Grain is not installed; for files of pixels there is too little room",
        expected="Grain, or more room in memory or on the disk",
        fix="pip install grain, or make room",
    )
