"""Multi-head self-attention, with dropout at a traced rate."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from trainers.config import ModelConfig
from trainers.models.draws import glorot, square_glorot
from trainers.models.dropout import dropout
from trainers.models.linear import Linear
from trainers.models.mlp import Traced
from trainers.models.rows import softmax


class Attention(nn.Module):
    """Scaled dot-product self-attention; queries, keys and values come from one product.

    Attributes:
        model: Width, heads and type.
        rate: Key of the dropout rate of attention weights; None is no dropout.
    """

    model: ModelConfig
    rate: str | None

    @nn.compact
    def __call__(self, x: jax.Array, traced: Traced, *, train: bool) -> jax.Array:
        """[sequence, token, feature] to the same shape."""
        model, dtype = self.model, jnp.dtype(self.model.dtype)
        width = model.hidden // model.heads
        packed = Linear(3 * model.hidden, dtype, square_glorot(3), name="query_key_value")(x)
        # Heads beside sequences, so that the products of small matrices run over memory in order.
        query, key, value = packed.reshape(*x.shape[:2], 3, model.heads, width).transpose(2, 0, 3, 1, 4)
        logits = jnp.einsum("nhqd,nhkd->nhqk", query * width**-0.5, key)
        weights = softmax(logits.astype(jnp.float32)).astype(dtype)
        if train and self.rate is not None:
            weights = dropout(weights, traced[self.rate], self.make_rng("dropout"))
        mixed = jnp.einsum("nhqk,nhkd->nhqd", weights, value).swapaxes(1, 2)
        return Linear(model.hidden, dtype, glorot, name="out")(mixed.reshape(x.shape))
