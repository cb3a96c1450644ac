"""Base configs of the studies: one that trains in seconds on a laptop, and the published fine-tuning recipe."""

from __future__ import annotations

from trainers.config import AugmentConfig, DataConfig, EvalConfig, ModelConfig, OptimConfig, TrainConfig, VisionConfig


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
        model=ModelConfig(
            hidden=768,
            mlp=3072,
            depth=12,
            heads=12,
            patch=32,
            moe_placement="last",
            moe_layers=2,
            experts=32,
            k=2,
            capacity_factor=1.5,
            eval_capacity_factor=8.0,
            group_images=8,
            expert_dropout=0.1,
            dtype="bfloat16",
        ),
        optim=OptimConfig(
            name="sgd", learning_rate=0.003, end_learning_rate=1e-5, warmup_steps=500, clip_norm=10.0, momentum_dtype="bfloat16"
        ),
        augment=AugmentConfig(crop=True, crop_min_area=0.05, flip=True),
        train=TrainConfig(steps=20_000, batch_size=512, rung_steps=1000),
        eval=EvalConfig(batch_size=512, corrupted=False),
    )
