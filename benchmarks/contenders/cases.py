"""The configs on which models are compared, and what a contender is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from trainers.config import DataConfig, ModelConfig, OptimConfig, TrainConfig, VisionConfig


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One implementation of one config, as compiled functions of the same parameters in its own layout.

    Attributes:
        name: Whose it is, and which dispatcher it uses.
        params: All of them random, so that no output is zero.
        start: State before the first training step.
        forward: Parameters and images to logits [member, image, class], without noise or dropout.
        step: State, images and labels to the state after one training step.
        gradient: Parameters, images and labels to loss and gradient in training, without noise and dropout.
    """

    name: str
    params: Any
    start: Any
    forward: Callable[[Any, jax.Array], jax.Array]
    step: Callable[[Any, jax.Array, jax.Array], Any]
    gradient: Callable[[Any, jax.Array, jax.Array], tuple[jax.Array, Any]]


# Width and MLP, blocks, heads, patch, images a step, then what is seen. `S/32` is the smallest published size.
SIZES: Mapping[str, tuple[ModelConfig, DataConfig, int]] = {
    "digits": (ModelConfig(hidden=64, mlp=256, depth=4, heads=4, patch=2), DataConfig(image_size=8, channels=1), 64),
    "32 px": (ModelConfig(hidden=128, mlp=512, depth=4, heads=4, patch=4), DataConfig(image_size=32, channels=3), 32),
    "S/32": (ModelConfig(hidden=512, mlp=2048, depth=8, heads=8, patch=32), DataConfig(image_size=128, channels=3, classes=100), 128),
}

# As in the authors' configs: experts alone have dropout, groups of a V-MoE are 8 images and that of an E³ is the batch.
METHODS: Mapping[str, Mapping[str, Any]] = {
    "ViT": {"moe_placement": "none"},
    "V-MoE": {"k": 2, "group_images": 8},
    "V-MoE, one group": {"k": 2},
    "E³": {"k": 1, "members": 2, "tile": True, "partition": True},
}


def config(size: str, method: str, *, dtype: str = "float32") -> VisionConfig:
    """The config of a method at a size: 8 experts in the last two odd blocks, C = 1.5 in training and evaluation."""
    model, data, batch = SIZES[size]
    shared = {"moe_layers": 2, "experts": 8, "capacity_factor": 1.5, "eval_capacity_factor": 1.5, "expert_dropout": 0.1, "dtype": dtype}
    return VisionConfig(
        data=data,
        model=dataclasses.replace(model, **{**shared, **METHODS[method]}),
        optim=OptimConfig(name="adamw", learning_rate=1e-4, weight_decay=1e-4, clip_norm=10.0),
        train=TrainConfig(batch_size=batch),
    )


def still(of: VisionConfig) -> VisionConfig:
    """The config without noise and dropout, which two implementations draw differently."""
    return dataclasses.replace(of, model=dataclasses.replace(of.model, expert_dropout=0.0, router_noise=0.0))


def batch(of: VisionConfig) -> tuple[jax.Array, jax.Array]:
    """Random images and classes."""
    rng, data, n = np.random.default_rng(0), of.data, of.train.batch_size
    images = rng.integers(0, 256, (n, data.image_size, data.image_size, data.channels), np.uint8)
    return jax.device_put(images), jax.device_put(rng.integers(0, data.classes, n).astype(np.int32))


def scattered(shapes: Any) -> Any:
    """Random parameters of these shapes: around 1 where they scale, else around 0, so that none hides what is wrong before it."""
    rng = np.random.default_rng(1)

    def draw(path: Any, leaf: Any) -> jax.Array:
        fan_in = leaf.shape[-2] if leaf.ndim > 1 else 100
        centre = 1.0 if path[-1].key == "scale" else 0.0
        return jax.device_put((centre + rng.normal(size=leaf.shape) / fan_in**0.5).astype(np.float32))

    return jax.tree_util.tree_map_with_path(draw, shapes)
