"""The vision transformer: patches, pre-norm blocks of which some are sparse, and a head shared by all members."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from orchestrator.contract import FlatConfig, flatten, leaves
from trainers.config import DataConfig, ModelConfig
from trainers.geometry import copies, predictions, sparse_blocks, tile_block
from trainers.models.attention import Attention
from trainers.models.draws import Initializer, lecun, normal
from trainers.models.linear import Linear, zeros
from trainers.models.mimo import paired
from trainers.models.mlp import Mlp, Traced
from trainers.models.moe import SparseMlp
from trainers.models.rows import LayerNorm


class Prediction(NamedTuple):
    """What the model says of a batch.

    Attributes:
        logits: [member, image, class] in float32; one member unless the model makes several predictions.
        auxiliary: Weighted balancing losses, mean over groups and members, summed over layers; a scalar.
        rows: Which image of the batch each prediction is of, [member, image]; None: members predict the batch as it is.
    """

    logits: jax.Array
    auxiliary: jax.Array
    rows: jax.Array | None = None


class Block(nn.Module):
    """`x += attention(norm(x))`, then `x += mlp(norm(x))`.

    Attributes:
        model: Everything that shapes the block.
        sparse: Whether the MLP is a mixture of experts.
        plain: See `make_model`.
        n_copies: Copies of the batch that come in: M where it is tiled.
    """

    model: ModelConfig
    sparse: bool
    plain: bool
    n_copies: int

    @nn.compact
    def __call__(self, x: jax.Array, traced: Traced, *, train: bool) -> tuple[jax.Array, jax.Array]:
        """[member · image, token, feature] to the same shape, and the auxiliary loss of the block."""
        model, dtype = self.model, jnp.dtype(self.model.dtype)
        attention = Attention(model, "model.attention_dropout" if model.attention_dropout else None, name="attention")
        x = x + attention(LayerNorm(dtype, name="norm_attention")(x), traced, train=train)
        y = LayerNorm(dtype, name="norm_mlp")(x)
        if self.sparse:
            rate = "model.expert_dropout" if model.expert_dropout else None
            y, auxiliary = SparseMlp(model, rate, self.plain, self.n_copies, name="moe")(y, traced, train=train)
        else:
            members = self.n_copies if model.batch_ensemble and self.n_copies > 1 else 0
            y = Mlp(model, "model.dropout" if model.dropout else None, members=members, name="mlp")(y, traced, train=train)
            auxiliary = jnp.zeros(())
        return x + y, auxiliary


class Vit(nn.Module):
    """ViT, V-MoE, E³ or another of their kind, as the config says; made by `make_model`.

    Attributes:
        model: Its static part shapes the model; of traced fields only whether a switch is on is read.
        classes: Width of the head.
        plain: See `make_model`.
    """

    model: ModelConfig
    classes: int
    plain: bool = False

    @nn.compact
    def __call__(self, images: jax.Array, traced: Traced, *, train: bool) -> Prediction:
        """Predicts every image once a member.

        Args:
            images: In [-1, 1], [image, row, column, channel].
            traced: Numbers by dotted key, such as `model.router_noise`; scalars that may be traced.
            train: Training draws noise and dropout from the random streams `gating` and `dropout`; evaluation needs none.
        """
        model, dtype = self.model, jnp.dtype(self.model.dtype)
        rows = None
        if model.mimo:
            rows = paired(self.make_rng("gating"), len(images), model, traced) if train else None
            each = [images] * model.members if rows is None else [images[row] for row in rows]
            images = jnp.concatenate(each, axis=-1)
        x = self._embed(images).astype(dtype)
        auxiliary = jnp.zeros(())
        sparse = sparse_blocks(model)
        for index in range(model.depth):
            if index == tile_block(model):
                # Before the norm and the attention of the block: from here on all is computed for each member.
                x = jnp.tile(x, (model.members, 1, 1))
            x, loss = Block(model, index in sparse, self.plain, copies(model, index), name=f"block_{index}")(x, traced, train=train)
            auxiliary += loss
        x = LayerNorm(jnp.dtype("float32"), name="norm")(x[:, 0])
        if model.representation:
            x = jnp.tanh(Linear(model.representation, jnp.dtype("float32"), name="pre_logits")(x))
        return Prediction(self._head(x, _constant(traced["model.head_bias"])), auxiliary, rows)

    def _head(self, x: jax.Array, bias: Initializer) -> jax.Array:
        """Logits [member, image, class] of the final tokens, [member · image, feature] where tiled, else [image, feature]."""
        model, dtype, M = self.model, jnp.dtype("float32"), predictions(self.model)
        if M > 1 and not model.tile:  # the heads of all members side by side, which read the same token
            # Heads that start equal, learn from the same images and read the same token would stay equal.
            kernel = zeros if model.mimo else lecun
            logits = Linear(M * self.classes, dtype, kernel, bias, name="head")(x)
            return logits.reshape(-1, M, self.classes).swapaxes(0, 1)
        x = x.reshape(M, -1, x.shape[-1]) if model.member_heads else x
        logits = Linear(self.classes, dtype, zeros, bias, experts=M if model.member_heads else 0, name="head")(x)
        return logits.reshape(M, -1, self.classes)

    def _embed(self, images: jax.Array) -> jax.Array:
        """Tokens [image, token, feature] of images: the class token, then patches by row, with learned positions."""
        patch, features = self.model.patch, self.model.hidden
        n, rows, columns, channels = images.shape
        if rows % patch or columns % patch:  # as a convolution without padding
            images = images[:, : rows // patch * patch, : columns // patch * patch]
        x = images.reshape(n, rows // patch, patch, columns // patch, patch, channels).swapaxes(2, 3)
        x = Linear(features, jnp.dtype(self.model.dtype), lecun, name="embedding")(x.reshape(n, -1, patch * patch * channels))
        first = self.param("class_token", zeros, (1, 1, features))
        x = jnp.concatenate([jnp.broadcast_to(first, (n, 1, features)).astype(x.dtype), x], axis=1)
        return x + self.param("positions", normal(0.02), (1, x.shape[1], features))


def make_model(model: ModelConfig, data: DataConfig, *, plain: bool = False) -> Vit:
    """The model of a config. Configs that differ in traced values alone give equal models: none is baked in.

    `plain` bakes in one that is traced otherwise: a tiled model is partitioned or not as the config says. That is the
    reference which the traced form is tested against.
    """
    own: FlatConfig = flatten(model)
    neutral = {bool: False, float: 0.0}
    static = {}
    for name, leaf in leaves(ModelConfig).items():
        if leaf.is_traced_in(own) and not (plain and leaf.setting.when):
            static[name] = float(bool(own[name])) if leaf.setting.switch else neutral[leaf.type]
    return Vit(dataclasses.replace(model, **static), data.classes, plain)


def _constant(value: jax.Array) -> Initializer:
    def initialize(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        del key
        return jnp.full(shape, value, jnp.float32)

    return initialize
