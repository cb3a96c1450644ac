"""Datasets beside the one that is learned: other images, few-shot tasks, published corruptions. Plans ask whether they are here.

Any TFDS dataset of images serves, whatever its classes, sizes and channels; sets from formulas need no download.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from orchestrator.contract import DataError, Problem
from trainers.config import DataConfig, EvalConfig
from trainers.data import Examples, Split, generated, kept, prepare, prepared, readable, ways
from trainers.data.catalog import base_name, lookup
from trainers.data.examples import Changed, n_bytes

GRATINGS, INVERTED = "gratings", "inverted"
ANY_CLASSES = 1_000_000
PUBLISHED = {"cifar10": "cifar10_corrupted", "imagenet2012": "imagenet2012_corrupted"}
PUBLISHED_KINDS = (
    *("gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "snow"),
    *("frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression"),
)
# What TFDS prepares them with beside TensorFlow: modules, and the packages they come in.
NEEDS = {"cifar10_corrupted": (), "imagenet2012_corrupted": (("cv2", "opencv-python"), ("skimage", "scikit-image"), ("scipy", "scipy"))}
CIFAR_NAMES = {"glass_blur": "frosted_glass_blur", "elastic_transform": "elastic"}  # in TFDS
SEVERITIES = (1, 2, 3, 4, 5)
GREY = np.array([0.299, 0.587, 0.114])


def published(dataset: str) -> Iterator[tuple[str, int, str]]:
    """Kind, severity and TFDS name of each published corruption of a dataset.

    >>> list(published("cifar10"))[20]
    ('glass_blur', 1, 'cifar10_corrupted/frosted_glass_blur_1')
    """
    base = PUBLISHED[base_name(dataset)]
    for kind in PUBLISHED_KINDS:
        for severity in SEVERITIES:
            yield kind, severity, f"{base}/{_in_tfds(kind, base)}_{severity}"


def problem(data: DataConfig, config: EvalConfig) -> Problem | None:
    """The first thing that stands between an evaluation and its data, with how to get it; None where there is nothing. Fast."""
    for key, names, made in (("ood", config.ood, {*generated.OTHER, INVERTED}), ("few_shot", config.few_shot, {GRATINGS, "digits"})):
        for name in names:
            if name not in made and name != "digits" and (found := _absent(name)) is not None:
                built_in = ", ".join(sorted(made))
                return Problem(
                    f"eval.{key}: {found.what}",
                    found=found.found,
                    expected=f"a prepared TFDS dataset, or one that is made here: {built_in}",
                    fix=found.fix.replace("set data.dataset to", "name")
                    + (f" in eval.{key}" if "set data.dataset to" in found.fix else ""),
                )
    return _unpublished(data) if config.corruptions == "published" else None


def prepare_beside(config: EvalConfig) -> None:
    """Writes the digits, if they are asked for."""
    if "digits" in (*config.ood, *config.few_shot):
        prepare(DataConfig())


def other(name: str, data: DataConfig) -> Examples:
    """Images of a set that is to be told from the dataset's own, in its size and channels. Their labels mean nothing.

    Args:
        name: A set from a formula, or a TFDS dataset, of which the test split.
        data: The dataset's own config.
    """
    if name in generated.OTHER:
        images = generated.other(name, data.image_size, data.channels)
        return Split(images, np.zeros(len(images), np.int32))
    return read(name, lookup(name).test, data)


def inverted(examples: Examples) -> Examples:
    """The same images, black for white."""
    return Changed(examples, np.invert, examples.shape[-1])


def few_shot_split(name: str, split: str, data: DataConfig) -> Examples:
    """The `train` or `test` split of a dataset that is learned from few images, in the size and channels of another one."""
    if name == GRATINGS:
        return Split(*generated.gratings(split, data.image_size, data.channels))
    dataset = lookup(name)
    return read(name, dataset.before_test() if split == "train" else dataset.test, data)


def read(name: str, tfds_split: str, data: DataConfig) -> Examples:
    """A split of any prepared dataset in the size and channels of another one; grey is repeated, colour becomes its luminance.

    It is held in memory where that is allowed, and else streamed: most are read once a trial.

    Raises:
        DataError: It is not prepared, or cannot be read.
    """
    if name == "digits":
        prepare(DataConfig())
    if (absent := _absent(name)) is not None:
        raise DataError(absent.what, found=absent.found, expected=absent.expected, fix=absent.fix)
    found = prepared.find(name)
    assert found is not None, "a dataset without a problem is prepared"
    own = DataConfig(dataset=name, classes=found.classes or ANY_CLASSES, image_size=data.image_size, channels=found.channels or 3)
    size = n_bytes((sum(found.examples(part) for part in tfds_split.split("+")), data.image_size, data.image_size, own.channels))
    examples = kept(found, own, tfds_split, way=ways.of_one(size))
    if own.channels == data.channels:
        return examples
    change = functools.partial(recoloured, channels=data.channels)
    if isinstance(examples, Split):
        return Split(change(examples.images), examples.labels)
    return Changed(examples, change, data.channels)


def recoloured(images: npt.NDArray[np.uint8], channels: int) -> npt.NDArray[np.uint8]:
    """Images in another number of channels, [..., row, column, channel].

    >>> recoloured(np.full((1, 1, 1, 3), 7, np.uint8), 1).shape
    (1, 1, 1, 1)
    """
    if images.shape[-1] == channels:
        return images
    grey = images if images.shape[-1] == 1 else np.rint(images[..., :3] @ GREY)[..., None].astype(np.uint8)
    return np.repeat(grey, channels, axis=-1)


def _absent(name: str) -> Problem | None:
    dataset = lookup(name)
    try:
        found = prepared.find(name)
    except ValueError as error:
        return Problem(f"dataset {name!r} is damaged", found=str(error), fix="delete that folder, then: " + readable.command(dataset))
    return readable.not_prepared(dataset) if found is None else readable.unreadable(dataset, found)


def _unpublished(data: DataConfig) -> Problem | None:
    if base_name(data.dataset) not in PUBLISHED:
        return Problem(
            f"eval.corruptions: no corrupted images are published for dataset {data.dataset!r}",
            found="published",
            expected=f"generated, or one of {', '.join(PUBLISHED)} as data.dataset",
            fix="set eval.corruptions to 'generated'",
        )
    names = [name for _, _, name in published(data.dataset)]
    wrong = {name: found for name in names if (found := _unfit(name, data)) is not None}
    if not wrong:
        return None
    first, why = next(iter(wrong.items()))
    return Problem(
        f"eval.corruptions: {len(wrong)} of the {len(names)} published sets cannot be measured on",
        found=f"{first}: {why}",
        expected="all of them in the array_record format, or eval.corruptions = 'generated'",
        fix=_preparing(PUBLISHED[base_name(data.dataset)]),
    )


def _unfit(name: str, data: DataConfig) -> str | None:
    """Why a published set cannot be measured on; None where it can."""
    if (absent := _absent(name)) is not None:
        return absent.found
    found, own, split = prepared.find(name), prepared.find(data.dataset), lookup(data.dataset).test
    assert found is not None, "a dataset without a problem is prepared"
    if split not in found.shards:
        return f"no split {split} in {found.folder}"
    if own is not None and found.examples(split) != own.examples(split):  # another number of images is another program
        return f"{found.examples(split)} images in {found.folder}, and {own.examples(split)} test images"
    return None


def _preparing(base: str) -> str:
    """The command that prepares every published set of a dataset."""
    needs = [package for module, package in NEEDS[base] if not readable.is_installed(module)]
    first = f"pip install {' '.join(needs)} && " if (needs := [*readable.missing_to_prepare(), *needs]) else ""
    if manual := lookup(base.removesuffix("_corrupted")).manual:
        first = f"put {manual}, into {prepared.tfds_root() / 'downloads' / 'manual'}, install ImageMagick, then run: {first}"
    kinds = " ".join(_in_tfds(kind, base) for kind in PUBLISHED_KINDS)
    name = f"f'{base}/{{kind}}_{{severity}}'"
    one = f"tfds.builder({name}).download_and_prepare(file_format='array_record')"
    every = f"[{one} for kind in '{kinds}'.split() for severity in {SEVERITIES}]"
    return f'{first}python -c "import tensorflow_datasets as tfds; {every}"'


def _in_tfds(kind: str, base: str) -> str:
    return CIFAR_NAMES.get(kind, kind) if base == "cifar10_corrupted" else kind
