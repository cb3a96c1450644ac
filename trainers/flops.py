"""What a model costs, counted from its config alone, without JAX: parameters, and GFLOPs as the paper counts them."""

from __future__ import annotations

import dataclasses
import functools

from orchestrator.contract import leaves
from trainers.config import DataConfig, ModelConfig, VisionConfig
from trainers.geometry import capacity, images_per_group, predictions, routers, sparse_blocks, tokens_per_image, tokens_per_router

FLOPS_PER_MAC = 2
TRAINING_PASSES = 3  # forward, and a backward pass that costs two of them
EVALUATION_BATCH = 512  # images that share buffers when `eval.batch_size` leaves it open; only the rounding depends on it


def cost(config: VisionConfig) -> dict[str, float]:
    """Parameters, and GFLOPs per image of a training step and of a prediction, before anything is trained.

    GFLOPs count the matrix products at 2 FLOPs a multiplication, expert buffers at full capacity whether filled or not,
    and a training step as three forward passes; moving tokens to and from buffers is not counted. This reproduces the
    published 78.0 (ViT), 94.9 (V-MoE) and 105.9 (E³) of B/32 at 384 pixels within 0.5 % (tests/trainers/test_flops.py).

    Source:
        Inferred: of several readings of "GFLOPs" in Allingham et al. (TMLR 2022) the one that fits all published rows.
    """
    batches = (config.train.batch_size, config.eval.batch_size or EVALUATION_BATCH)
    return dict(_cost(dataclasses.replace(config.model, **_irrelevant()), config.data, *batches))


@functools.lru_cache(maxsize=1024)
def _cost(model: ModelConfig, data: DataConfig, train_batch: int, eval_batch: int) -> dict[str, float]:
    # Once for each shape: the cells of a study are thousands, and most differ in rates alone.
    train = forward_macs(model, data, train_batch, factor=model.capacity_factor)
    evaluate = forward_macs(model, data, eval_batch, factor=model.eval_capacity_factor)
    return {
        "cost/parameters": float(parameters(model, data)),
        "cost/train_gflops": TRAINING_PASSES * FLOPS_PER_MAC * train / 1e9,
        "cost/inference_gflops": FLOPS_PER_MAC * evaluate / 1e9,
    }


@functools.cache
def _irrelevant() -> dict[str, float]:
    """Fields of the model that no cost depends on, at one value: numbers that are traced. Partitioning is traced, and costs."""
    return {name: 0.0 for name, leaf in leaves(ModelConfig).items() if leaf.setting.traced and leaf.type is float}


def parameters(model: ModelConfig, data: DataConfig) -> int:
    """Exact number of parameters; the same for V-MoE and E³, whatever the number of members."""
    D, F = model.hidden, model.mlp
    norm, mlp = 2 * D, 2 * D * F + F + D
    attention = 4 * D * D + 4 * D
    n_sparse = len(sparse_blocks(model))
    embedding = model.patch**2 * data.channels * D + D + D + tokens_per_image(model, data) * D  # patches, class token, positions
    blocks = model.depth * (2 * norm + attention) + (model.depth - n_sparse) * mlp + n_sparse * (model.experts * mlp + D * model.experts)
    width = model.representation or D
    pre_logits = (D + 1) * model.representation
    return embedding + blocks + norm + pre_logits + (width + 1) * data.classes


def forward_macs(model: ModelConfig, data: DataConfig, batch: int, *, factor: float) -> float:
    """Multiplications of the matrix products of one image's forward pass.

    Args:
        model: The model.
        data: The images.
        batch: Images a step, which decides how many share buffers.
        factor: Capacity factor of the buffers.
    """
    D, F, T, M = model.hidden, model.mlp, tokens_per_image(model, data), predictions(model)
    sparse = sparse_blocks(model)
    attention, mlp = 4 * T * D * D + 2 * T * T * D, 2 * T * D * F
    total: float = (T - 1) * model.patch**2 * data.channels * D
    for block in range(model.depth):
        copies = M if sparse and block >= sparse[0] else 1
        total += copies * attention + (_sparse_macs(model, data, batch, factor) if block in sparse else copies * mlp)
    width = model.representation or D
    return total + M * (D * model.representation + width * data.classes)


def _sparse_macs(model: ModelConfig, data: DataConfig, batch: int, factor: float) -> float:
    """Multiplications of one sparse layer for one image: every slot of every expert, and the routers."""
    slots = model.experts * capacity(model, data, batch, factor=factor)
    seen_per_image = tokens_per_router(model, data, batch) * routers(model) / images_per_group(model, batch)
    routed = seen_per_image * model.hidden * (model.experts // routers(model))
    return slots * 2 * model.hidden * model.mlp / images_per_group(model, batch) + routed
