"""Shapes that follow from a config, without JAX: which blocks are sparse, how many tokens, how large a buffer is.

The models, the cost and the checks of a config all read them here, so that they cannot disagree.
"""

from __future__ import annotations

import math
from fractions import Fraction

from trainers.config import DataConfig, ModelConfig

BUFFER_MULTIPLE = 4


def sparse_blocks(model: ModelConfig) -> tuple[int, ...]:
    """Indices of the encoder blocks whose MLP is a mixture of experts, in order.

    `last` takes the last n odd blocks, not the last n blocks, as the authors' configs do.

    >>> sparse_blocks(ModelConfig(depth=12, moe_placement="last", moe_layers=2))
    (9, 11)
    >>> sparse_blocks(ModelConfig(depth=12, moe_placement="every", moe_layers=4))
    (3, 7, 11)
    """
    if model.moe_placement == "none":
        return ()
    if model.moe_placement == "last":
        return tuple(range(1, model.depth, 2)[-model.moe_layers :])
    return tuple(range(model.moe_layers - 1, model.depth, model.moe_layers))


def tokens_per_image(model: ModelConfig, data: DataConfig) -> int:
    """T, the patches of an image and its class token."""
    return (data.image_size // model.patch) ** 2 + 1


def predictions(model: ModelConfig) -> int:
    """Predictions that the model makes of an image: one a member when tiled, else one."""
    return model.members if model.tile else 1


def routers(model: ModelConfig) -> int:
    """Routers of a sparse layer: one a partition."""
    return model.members if model.partition else 1


def routed_experts(model: ModelConfig) -> int:
    """Experts that one router chooses among."""
    return model.experts // routers(model)


def images_per_group(model: ModelConfig, batch: int) -> int:
    """Images, before tiling, whose tokens share buffers: `group_images`, or the largest divisor of the batch below it.

    Training batches are multiples of `group_images` (`constraints.problems`); a batch of evaluation may be any size.

    >>> images_per_group(ModelConfig(group_images=8), 32), images_per_group(ModelConfig(group_images=8), 12)
    (8, 6)
    >>> images_per_group(ModelConfig(group_images=0), 12)
    12
    """
    if model.group_images == 0:
        return batch
    return max(size for size in range(1, min(model.group_images, batch) + 1) if batch % size == 0)


def tokens_per_router(model: ModelConfig, data: DataConfig, batch: int) -> int:
    """Tokens of one group that one router sees: of all members when they share the router, else of one."""
    shared = model.members if model.tile and not model.partition else 1
    return images_per_group(model, batch) * tokens_per_image(model, data) * shared


def capacity(model: ModelConfig, data: DataConfig, batch: int, *, factor: float) -> int:
    """Slots of one expert's buffer for one group: ⌈S K C / E⌉, up to a multiple of 4, at most the tokens that can come.

    With S and E counted for one router the ratio is that of all routers together. A token comes to an expert at most
    once, so slots beyond the router's tokens would stay empty: leaving them out changes no output.

    Source:
        Riquelme et al., Scaling Vision with Sparse Mixture of Experts (2021), §2.

    >>> model = ModelConfig(experts=32, k=2, patch=32, group_images=8)
    >>> capacity(model, DataConfig(image_size=384), 512, factor=1.5)
    112
    """
    seen = tokens_per_router(model, data, batch)
    return slots(seen, k=model.k, experts=routed_experts(model), factor=factor)


def slots(tokens: int, *, k: int, experts: int, factor: float) -> int:
    """Slots of an expert's buffer, for the tokens and experts of one router; `capacity` says how many and why."""
    # A decimal factor such as 1.1 must not round eleven slots up to twelve.
    needed = math.ceil(Fraction(factor).limit_denominator(10**6) * tokens * k / experts)
    return min(-(-needed // BUFFER_MULTIPLE) * BUFFER_MULTIPLE, tokens)
