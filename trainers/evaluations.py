"""What is wrong with the augmentation and the evaluations that a vision config asks for, without JAX: the plan asks this of every cell."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.contract import Problem
from trainers.config import VisionConfig

SMALLEST_CORRUPTED = 8  # pixels a side


def problems(config: VisionConfig) -> list[Problem]:
    """Every problem of `eval` and `augment` that takes several fields to see."""
    return [*_corruptions(config), *_names(config), *_crops(config)]


def _corruptions(config: VisionConfig) -> Iterator[Problem]:
    data = config.data
    if config.eval.corruptions == "generated" and (data.channels not in (1, 3) or data.image_size < SMALLEST_CORRUPTED):
        yield Problem(
            "eval.corruptions cannot be made of these images",
            found=f"{data.channels} channels, {data.image_size} pixels a side",
            expected=f"1 or 3 channels and {SMALLEST_CORRUPTED} pixels or more",
            fix="set eval.corruptions to 'none', or change data.channels and data.image_size",
        )


def _names(config: VisionConfig) -> Iterator[Problem]:
    for key, names in (("ood", config.eval.ood), ("few_shot", config.eval.few_shot)):
        if wrong := [name for name in names if not isinstance(name, str) or not name] or [name for name in names if names.count(name) > 1]:
            yield Problem(
                f"eval.{key} holds what is no name of a dataset, or one twice",
                found=repr(wrong[0]),
                expected="names of datasets, each once",
                fix=f"correct eval.{key}",
            )
    if config.data.dataset in config.eval.ood:
        yield Problem(
            "eval.ood names the dataset itself",
            found=config.data.dataset,
            expected="sets of images of other classes",
            fix=f"take {config.data.dataset!r} out of eval.ood",
        )


def _crops(config: VisionConfig) -> Iterator[Problem]:
    size = config.data.train_size
    if size and (not config.augment.crop or size < config.data.image_size):
        yield Problem(
            "data.train_size is of use to crops from larger images only",
            found=f"data.train_size={size}, data.image_size={config.data.image_size}, augment.crop={config.augment.crop}",
            expected="augment.crop=True and a train_size of image_size or more",
            fix="set data.train_size to 0, or augment.crop to True",
        )
