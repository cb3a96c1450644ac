"""Base configs of the studies: one that trains in seconds on a laptop, and the published recipe, sizes and methods."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from orchestrator.contract import Value, flatten
from trainers.config import AugmentConfig, DataConfig, EvalConfig, ModelConfig, OptimConfig, TrainConfig, VisionConfig

# hidden, mlp, depth and heads, then the n of the last n odd blocks that are sparse.
WIDTHS = {"S": (512, 2048, 8, 8, 2), "B": (768, 3072, 12, 12, 2), "L": (1024, 4096, 24, 16, 5), "H": (1280, 5120, 32, 16, 5)}
SIZES = ("S/32", "B/32", "B/16", "L/32", "L/16", "H/14")

# Mixup's concentration p, and RandAugment's layers N and magnitude M.
REGULARISATION: Mapping[str, tuple[float, int, float]] = {
    "light0": (0.0, 2, 0.0),
    "light1": (0.2, 2, 10.0),
    "medium1": (0.2, 2, 15.0),
    "medium2": (0.5, 2, 15.0),
    "strong1": (0.5, 2, 20.0),
    "strong2": (0.8, 2, 20.0),
    "extreme1": (0.5, 4, 15.0),
    "extreme2": (0.8, 4, 20.0),
}

# What fine-tuning was tuned over, by dataset: axes of a study on `paper()`. See `fine_tuned` for what is published of it and
# what is not; warm-up grows with the steps, and is not an axis.
_STEPS = (0.5, 1.0, 1.5, 2.0)
_RATES = (0.001, 0.003, 0.01, 0.03)
TABLE_7: Mapping[str, Mapping[str, tuple[Value, ...]]] = {
    "imagenet2012": {
        "train.steps": tuple(int(20_000 * times) for times in _STEPS),
        "optim.learning_rate": (0.0024, 0.003, 0.01, 0.03),
        "model.expert_dropout": (0.1,),
    },
    **{
        name: {
            "train.steps": tuple(int(steps * times) for times in _STEPS),
            "optim.learning_rate": _RATES,
            "model.expert_dropout": (0.1,),
        }
        for name, steps in (("cifar10", 10_000), ("cifar100", 10_000), ("oxford_iiit_pet", 500), ("oxford_flowers102", 500))
    },
}

# Overrides of `paper()`, whose own model is the V-MoE with K = 2. `docs/methods.md` says what each field does.
EFFICIENT_ENSEMBLES: Mapping[str, Mapping[str, Value]] = {
    "ViT": {"model.moe_placement": "none"},
    "BE ViT": {
        "model.moe_placement": "none",
        "model.members": 2,
        "model.tile": True,
        "model.tile_at": 9,
        "model.batch_ensemble": True,
    },
    "V-MoE": {"model.k": 2},
    "MC Dropout V-MoE": {"model.k": 1, "model.members": 2, "model.tile": True, "model.tile_at": 10, "model.mc_dropout": True},
    "MIMO V-MoE (M = 2)": {"model.k": 2, "model.members": 2, "model.mimo": True},
    "MIMO V-MoE (M = 4)": {"model.k": 2, "model.members": 4, "model.mimo": True},
    "E³": {"model.k": 1, "model.members": 2, "model.tile": True, "model.partition": True},
}


def laptop() -> VisionConfig:
    """Tiny sparse transformers on the first 200 digits, trained long: a few seconds a trial on one core.

    The regime is the one where an ensemble has something to give: few images, trained until a single model is
    over-confident. With 300 images and 600 steps the same differences are there, less than half as large.
    """
    return VisionConfig(
        data=DataConfig(dataset="digits", classes=10, image_size=8, channels=1, train_examples=200),
        model=ModelConfig(hidden=32, mlp=64, depth=2, heads=4, patch=4, moe_placement="every", moe_layers=1, experts=8, k=2),
        optim=OptimConfig(name="adamw", learning_rate=1e-2, warmup_steps=80, clip_norm=10.0),
        train=TrainConfig(steps=800, batch_size=32, rung_steps=100),
    )


def paper() -> VisionConfig:
    """Fine-tuning of B/32 on ImageNet at 384 px with E = 32 experts in the last two odd blocks.

    Source:
        Allingham et al., Sparse MoEs meet Efficient Ensembles, TMLR 2022, appendix A and Table 7. What the appendix leaves
        open (end of the schedule, warm-up, routing groups of 8 images) follows the released V-MoE configs.
    """
    return VisionConfig(
        data=DataConfig(dataset="imagenet2012", classes=1000, image_size=384, channels=3),
        model=size("B/32", capacity_factor=1.5, eval_capacity_factor=8.0, group_images=8, expert_dropout=0.1, dtype="bfloat16"),
        optim=OptimConfig(
            name="sgd", learning_rate=0.003, end_learning_rate=1e-5, warmup_steps=500, clip_norm=10.0, momentum_dtype="bfloat16"
        ),
        augment=AugmentConfig(crop=True, crop_min_area=0.05, flip=True),
        train=TrainConfig(steps=20_000, batch_size=512, rung_steps=1000),
        eval=EvalConfig(batch_size=512, corrupted=False),
    )


def size(name: str, **changes: Any) -> ModelConfig:
    """The V-MoE of a published size, with E = 32 and K = 2; `moe_placement="none"` makes it the ViT.

    Args:
        name: One of `SIZES`: S, B, L or H, and the pixels of a patch. S has 8 blocks, unlike elsewhere.
        changes: Fields of `ModelConfig` that shall differ.

    Raises:
        ValueError: There is no such size.

    Source:
        Riquelme et al. (2021), and their released configs. Sparse blocks as in E³, of which B and H are confirmed by published
        costs and parameter counts; for S and L they are from memory.

    >>> size("H/14").patch, size("B/32", k=1).hidden
    (14, 768)
    """
    if name not in SIZES:
        raise ValueError(f"no size {name!r}; one of {', '.join(SIZES)}")
    letter, patch = name.split("/")
    widths = dict(zip(("hidden", "mlp", "depth", "heads", "moe_layers"), WIDTHS[letter], strict=True))
    fields: dict[str, Any] = {**widths, "patch": int(patch), "moe_placement": "last", "experts": 32, "k": 2}
    return ModelConfig(**fields | changes)


def size_overrides(name: str) -> dict[str, Value]:
    """What makes an arm of the `paper()` config one of another published size.

    >>> size_overrides("L/16")["model.hidden"]
    1024
    """
    keys = ("hidden", "mlp", "depth", "heads", "moe_layers", "patch")
    model = flatten(size(name))
    return {f"model.{key}": model[key] for key in keys}


def regularised(config: VisionConfig, name: str) -> VisionConfig:
    """The config with one of the published strengths of mixup and RandAugment, from `light0` to `extreme2`.

    With them the paper trains on ImageNet alone; for V-MoE, `medium2` with an expert dropout of 0.2 was best. Note that `light0`
    has RandAugment at strength 0, which is not the same as none: at that strength it still inverts images and blackens some.

    Raises:
        ValueError: There is no such strength.

    Source:
        Allingham et al. (2022), appendix A; the values are those of the released V-MoE configs.

    >>> regularised(laptop(), "medium2").augment.mixup
    0.5
    """
    return dataclasses.replace(config, augment=dataclasses.replace(config.augment, **_strength(name)))


def regularisation_overrides(name: str) -> dict[str, Value]:
    """Likewise, as what makes an arm.

    >>> regularisation_overrides("light1")
    {'augment.mixup': 0.2, 'augment.randaugment_layers': 2, 'augment.randaugment_magnitude': 10.0}
    """
    return {f"augment.{field}": value for field, value in _strength(name).items()}


def _strength(name: str) -> dict[str, Any]:
    if name not in REGULARISATION:
        raise ValueError(f"no regularisation {name!r}; one of {', '.join(REGULARISATION)}")
    return dict(zip(("mixup", "randaugment_layers", "randaugment_magnitude"), REGULARISATION[name], strict=True))


def fine_tuned(dataset: str) -> VisionConfig:
    """The recipe of `paper()` on one of the datasets of Table 7, at the middle of its grid; the grid itself is `TABLE_7[dataset]`.

    Published word for word: everything of ImageNet but for what `paper()` names, and the splits. Not seen in print, and taken from
    the authors' other code or from memory: the steps and learning rates of CIFAR-10 and CIFAR-100 (Uncertainty Baselines), all of
    Pets and Flowers, and the expert dropout of 0.1 on all four.

    Raises:
        ValueError: Table 7 has no such dataset.

    >>> fine_tuned("cifar10").data.classes, fine_tuned("cifar10").train.steps
    (10, 10000)
    """
    if dataset not in TABLE_7:
        raise ValueError(f"Table 7 has no {dataset!r}; one of {', '.join(TABLE_7)}")
    config, steps = paper(), TABLE_7[dataset]["train.steps"][1]
    assert isinstance(steps, int), "steps are counted"
    from trainers.data.catalog import lookup  # NumPy comes with it, and a plan needs none

    classes = lookup(dataset).classes
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, dataset=dataset, classes=classes),
        optim=dataclasses.replace(config.optim, warmup_steps=min(config.optim.warmup_steps, steps // 10)),
        train=dataclasses.replace(config.train, steps=steps, rung_steps=max(steps // 20, 1)),
    )
