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
    """T, the whole patches of an image and its class token; pixels on the right and below that fill no patch are left out.

    >>> tokens_per_image(ModelConfig(patch=14), DataConfig(image_size=384))
    730
    """
    return (data.image_size // model.patch) ** 2 + 1


def predictions(model: ModelConfig) -> int:
    """Predictions that the model makes of an image: one a member where members have tiles, heads or images of their own."""
    return model.members if model.tile or model.mimo or model.member_heads else 1


def tile_block(model: ModelConfig) -> int | None:
    """Index of the block at whose entrance the batch is tiled; None where it is not.

    >>> tile_block(ModelConfig(depth=12, tile=True)), tile_block(ModelConfig(depth=12, tile=True, tile_at=10))
    (9, 10)
    """
    if not model.tile:
        return None
    return min(sparse_blocks(model), default=None) if model.tile_at < 0 else model.tile_at


def copies(model: ModelConfig, block: int) -> int:
    """Copies of the batch that a block computes: one before it is tiled, then one a member."""
    first = tile_block(model)
    return model.members if first is not None and block >= first else 1


def routers(model: ModelConfig) -> int:
    """Routers of a sparse layer: one a partition, disjoint or overlapping."""
    return model.members if model.partition or model.overlap else 1


def own_experts(model: ModelConfig) -> int:
    """Experts that stand for one router: it chooses among these and the overlap, and capacity is counted by these."""
    return model.experts // routers(model)


def routed_experts(model: ModelConfig) -> int:
    """Experts that one router chooses among."""
    return own_experts(model) + model.overlap


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


def capacity(model: ModelConfig, data: DataConfig, batch: int, *, factor: float, n_copies: int = 1) -> int:
    """Slots of one expert's buffer for one group, in a layer that computes so many copies of the batch; see `buffer_slots`.

    >>> model = ModelConfig(experts=32, k=2, patch=32, group_images=8)
    >>> capacity(model, DataConfig(image_size=384), 512, factor=1.5)
    112
    """
    tokens = images_per_group(model, batch) * tokens_per_image(model, data)
    return buffer_slots(model, tokens, factor=factor, n_copies=n_copies)


def buffer_slots(model: ModelConfig, tokens: int, *, factor: float, n_copies: int) -> int:
    """Slots of an expert's buffer, ⌈S K C / E⌉, up to a multiple of 4, at most the tokens that can come.

    S and E are counted for one router, since the ratio is that of all routers together: all copies and experts where there is
    one router, and one copy and E / M experts, without the overlap, where there are M. A token of a copy comes to an expert
    once for each router that has the expert, so slots beyond that would stay empty: leaving them out changes no output.

    Args:
        model: The model.
        tokens: Tokens of one copy in a group.
        factor: C.
        n_copies: Copies of the batch.

    Source:
        Riquelme et al., Scaling Vision with Sparse Mixture of Experts (2021), §2.
    """
    seen = tokens * n_copies if routers(model) == 1 else tokens
    routers_of_an_expert = -(-routed_experts(model) // own_experts(model))
    return slots(seen, k=model.k, experts=own_experts(model), factor=factor, at_most=seen * routers_of_an_expert)


def slots(tokens: int, *, k: int, experts: int, factor: float, at_most: int) -> int:
    """Slots of an expert's buffer for so many tokens and experts of one router; `buffer_slots` says how many and why."""
    # A decimal factor such as 1.1 must not round eleven slots up to twelve.
    needed = math.ceil(Fraction(factor).limit_denominator(10**6) * tokens * k / experts)
    return min(-(-needed // BUFFER_MULTIPLE) * BUFFER_MULTIPLE, at_most)
