"""Dense, GELU, dense: the MLP of a block, or one with fast weights."""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from trainers.config import ModelConfig
from trainers.models.draws import glorot, normal
from trainers.models.dropout import dropout
from trainers.models.fast import FastLinear
from trainers.models.linear import Linear

Traced = Mapping[str, jax.Array]


class Mlp(nn.Module):
    """Dense, GELU, dropout, dense, dropout.

    Attributes:
        model: Widths and type.
        rate: Key of the dropout rate in the traced values; None is no dropout.
        members: Makes one whose members have fast weights, for `x` [member · sequence, token, feature]; 0 is none.
    """

    model: ModelConfig
    rate: str | None
    members: int = 0

    @nn.compact
    def __call__(self, x: jax.Array, traced: Traced, *, train: bool) -> jax.Array:
        """[..., feature] to the same shape."""
        for index, width in enumerate((self.model.mlp, self.model.hidden)):
            x = self._linear(x, width, f"Linear_{index}", traced)
            x = nn.gelu(x) if index == 0 else x
            if self.rate is not None and train:
                x = dropout(x, traced[self.rate], self.make_rng("dropout"))
        return x

    def _linear(self, x: jax.Array, width: int, name: str, traced: Traced) -> jax.Array:
        dtype = jnp.dtype(self.model.dtype)
        if self.members:
            return FastLinear(width, dtype, glorot, normal(1e-6), self.members, self.model.fast_weight_init, name=name)(x, traced)
        return Linear(width, dtype, glorot, normal(1e-6), name=name)(x)
