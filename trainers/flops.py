"""What a model costs, counted from its config alone, without JAX: parameters, and GFLOPs as the paper counts them."""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

from orchestrator.contract import leaves
from trainers.config import DataConfig, ModelConfig, VisionConfig
from trainers.geometry import (
    capacity,
    copies,
    images_per_group,
    predictions,
    routed_experts,
    routers,
    sparse_blocks,
    tokens_per_image,
)

FLOPS_PER_MAC = 2
EVALUATION_BATCH = 512  # images that share buffers when `eval.batch_size` leaves it open; only the rounding depends on it


class Pointwise(NamedTuple):
    """Operations on one element, forward and backward. Roots, exponentials and hyperbolic tangents count one."""

    forward: int
    backward: int


ADD = Pointwise(1, 1)  # of a bias or a residual, whose gradient is a sum
SCALE = Pointwise(1, 1)  # by a constant
MULTIPLY = Pointwise(1, 3)  # by a weight, which has a gradient
NORM = Pointwise(7, 11)
SOFTMAX = Pointwise(5, 4)
GELU = Pointwise(9, 12)
MIX = Pointwise(2, 3)  # of an expert's output, by its gate


class Work(NamedTuple):
    """Operations for one image.

    Attributes:
        products: Multiplications of matrix products between what both have gradients.
        of_images: Multiplications of the matrix product with the image, which needs no gradient.
        forward: Operations on single elements in the forward pass.
        backward: Likewise in the backward pass.
    """

    products: float = 0.0
    of_images: float = 0.0
    forward: float = 0.0
    backward: float = 0.0

    def plus(self, other: Work, *, times: float = 1.0) -> Work:
        """Both, the other one so many times."""
        return Work(*(mine + times * theirs for mine, theirs in zip(self, other, strict=True)))

    @property
    def inference(self) -> float:
        """FLOPs of the forward pass."""
        return FLOPS_PER_MAC * (self.products + self.of_images) + self.forward

    @property
    def training(self) -> float:
        """FLOPs of a forward and a backward pass: a product has two gradients, each of which costs as much as itself."""
        return FLOPS_PER_MAC * (3 * self.products + 2 * self.of_images) + self.forward + self.backward


def cost(config: VisionConfig) -> dict[str, float]:
    """Parameters, and GFLOPs per image of a training step and of a prediction, before anything is trained.

    GFLOPs count, for a forward and a backward pass, what a compiler would be handed:

    - matrix products, at 2 FLOPs a multiplication, with their gradients: two each, but one for the product with the image;
    - what is done to single elements: norms, softmax, GELU, biases, residuals, gates (0.3 % of B/32, 6 % of the laptop models);
    - expert buffers at full capacity, filled or not, which is ⌈S K C / E⌉ rounded up to a multiple of 4.

    Moving tokens, drawing random numbers, the loss and the optimizer are not counted. This reproduces the seven published rows
    of B/32 at 384 pixels, which range from 78.0 to 105.9, within 0.5 % (`python -m trainers.cost --paper`), with routing groups
    of 8 images as in the released configs. A MIMO step that sees each image R times costs R times as much for an image.

    Source:
        Inferred: Allingham et al. (TMLR 2022) do not say what they count; of the readings that were tried this one fits all
        rows. That it is a training step follows from 78.0 for ViT-B/32, three times its 26.1 for a prediction; that images have
        no gradient, from 1.4 for each further image of MIMO; groups and rounding, from V-MoE and E³ (without them -0.6 %).
        Operations on elements are counted from their formulas, not fitted.
    """
    batches = (config.train.batch_size, config.eval.batch_size or EVALUATION_BATCH)
    return dict(_cost(dataclasses.replace(config.model, **_irrelevant()), config.data, *batches))


@functools.lru_cache(maxsize=1024)
def _cost(model: ModelConfig, data: DataConfig, train_batch: int, eval_batch: int) -> dict[str, float]:
    # Once for each shape: the cells of a study are thousands, and most differ in rates alone.
    times = model.batch_repetition
    train = work(model, data, train_batch * times, factor=model.capacity_factor)
    evaluate = work(model, data, eval_batch, factor=model.eval_capacity_factor)
    return {
        "cost/parameters": float(parameters(model, data)),
        "cost/train_gflops": times * train.training / 1e9,
        "cost/inference_gflops": evaluate.inference / 1e9,
    }


@functools.cache
def _irrelevant() -> dict[str, float]:
    """Fields of the model that no cost depends on, at one value: numbers that are traced. Partitioning is traced, and costs."""
    return {name: 0.0 for name, leaf in leaves(ModelConfig).items() if leaf.setting.traced and leaf.type is float}


def parameters(model: ModelConfig, data: DataConfig) -> int:
    """Exact number of parameters; the same for V-MoE and E³, whatever the number of members."""
    D, F, M = model.hidden, model.mlp, model.members
    norm, mlp, attention = 2 * D, 2 * D * F + F + D, 4 * D * D + 4 * D
    fast_mlp = mlp + 2 * M * (D + F) + (M - 1) * (D + F)  # two fast weights a feature of each map, and a bias a member
    sparse = model.experts * mlp + D * routers(model) * routed_experts(model)
    n_inputs = model.patch**2 * _channels(model, data)
    total = n_inputs * D + D + D + tokens_per_image(model, data) * D + norm  # patches, class token, positions, last norm
    for block in range(model.depth):
        total += 2 * norm + attention
        if block in sparse_blocks(model):
            total += sparse
        else:
            total += fast_mlp if _has_fast_weights(model, block) else mlp
    width = model.representation or D
    n_heads = predictions(model) if model.mimo or model.member_heads else 1
    return total + (D + 1) * model.representation + n_heads * (width + 1) * data.classes


def work(model: ModelConfig, data: DataConfig, batch: int, *, factor: float) -> Work:
    """What one image costs.

    Args:
        model: The model.
        data: The images.
        batch: Images a step, which decides how many share buffers.
        factor: Capacity factor of the buffers.
    """
    D, T, sparse = model.hidden, tokens_per_image(model, data), sparse_blocks(model)
    patches = Work(of_images=(T - 1) * model.patch**2 * _channels(model, data) * D)
    total = patches.plus(_each(2 * T * D, ADD))  # biases and positions
    for block in range(model.depth):
        n_copies = copies(model, block)
        total = total.plus(_attention(model, T), times=n_copies)
        if block in sparse:
            total = total.plus(_mixture(model, data, batch, factor, n_copies))
        else:
            total = total.plus(_mlp(model, T, has_fast_weights=_has_fast_weights(model, block)), times=n_copies)
    n_read, width = (model.members if model.tile else 1), model.representation or D  # class tokens
    tanh = Work(products=D * model.representation).plus(_each(model.representation, SOFTMAX)) if model.representation else Work()
    head = Work(products=predictions(model) * width * data.classes).plus(_each(predictions(model) * data.classes, ADD))
    return total.plus(_each(D, NORM), times=n_read).plus(tanh, times=n_read).plus(head)


def _attention(model: ModelConfig, tokens: int) -> Work:
    """Attention of one sequence, with the norms and residuals of its block."""
    D, T = model.hidden, tokens
    products = Work(products=4 * T * D * D + 2 * T * T * D)
    pointwise = _each(2 * T * D, NORM).plus(_each(6 * T * D, ADD)).plus(_each(T * D, SCALE))  # 4 biases, 2 residuals
    return products.plus(pointwise).plus(_each(model.heads * T * T, SOFTMAX))


def _mlp(model: ModelConfig, tokens: float, *, has_fast_weights: bool = False) -> Work:
    D, F = model.hidden, model.mlp
    plain = Work(products=tokens * 2 * D * F).plus(_each(tokens * (D + F), ADD)).plus(_each(tokens * F, GELU))
    return plain.plus(_each(tokens * 2 * (D + F), MULTIPLY)) if has_fast_weights else plain


def _mixture(model: ModelConfig, data: DataConfig, batch: int, factor: float, n_copies: int) -> Work:
    """A sparse layer for one image: every slot of every expert, the routers, and mixing."""
    slots = model.experts * capacity(model, data, batch, factor=factor, n_copies=n_copies) / images_per_group(model, batch)
    routed = tokens_per_image(model, data) * max(routers(model), n_copies)
    scores = Work(products=routed * model.hidden * routed_experts(model)).plus(_each(routed * routed_experts(model), SOFTMAX))
    return _mlp(model, slots).plus(scores).plus(_each(routed * model.k * model.hidden, MIX))


def _each(n_elements: float, pointwise: Pointwise) -> Work:
    return Work(forward=n_elements * pointwise.forward, backward=n_elements * pointwise.backward)


def _has_fast_weights(model: ModelConfig, block: int) -> bool:
    return model.batch_ensemble and copies(model, block) > 1


def _channels(model: ModelConfig, data: DataConfig) -> int:
    """Channels of what is embedded: the images of all members lie side by side on them in MIMO."""
    return data.channels * (model.members if model.mimo else 1)
