"""Dense, GELU, dense: the MLP of a block, or many side by side as the experts of a sparse one."""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from trainers.config import ModelConfig
from trainers.models.draws import glorot, normal
from trainers.models.dropout import dropout
from trainers.models.linear import Linear

Traced = Mapping[str, jax.Array]


class Mlp(nn.Module):
    """Dense, GELU, dropout, dense, dropout.

    Attributes:
        model: Widths and type.
        rate: Key of the dropout rate in the traced values; None is no dropout.
        experts: Makes that many, for `x` [expert, slot, feature]. They share one dropout mask, as they share their
            first values.
    """

    model: ModelConfig
    rate: str | None
    experts: int = 0

    @nn.compact
    def __call__(self, x: jax.Array, traced: Traced, *, train: bool) -> jax.Array:
        """[..., feature] to the same shape."""
        for width, activate in ((self.model.mlp, True), (self.model.hidden, False)):
            x = Linear(width, jnp.dtype(self.model.dtype), glorot, normal(1e-6), experts=self.experts)(x)
            x = nn.gelu(x) if activate else x
            if train and self.rate is not None:
                x = dropout(x, traced[self.rate], self.make_rng("dropout"), shared=1 if self.experts else 0)
        return x
