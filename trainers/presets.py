"""Base configs of the studies: one that trains in seconds on a laptop, and the published recipe, sizes and methods."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.contract import Value, flatten
from trainers.config import AugmentConfig, DataConfig, EvalConfig, ModelConfig, OptimConfig, TrainConfig, VisionConfig

# hidden, mlp, depth and heads, then the n of the last n odd blocks that are sparse.
WIDTHS = {"S": (512, 2048, 8, 8, 2), "B": (768, 3072, 12, 12, 2), "L": (1024, 4096, 24, 16, 5), "H": (1280, 5120, 32, 16, 5)}
SIZES = ("S/32", "B/32", "B/16", "L/32", "L/16", "H/14")

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
