"""Dense, GELU, dense: the MLP of a block, many side by side as the experts of a sparse one, or one with fast weights."""

from __future__ import annotations

import zlib
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
        experts: Makes that many, for `x` [expert, slot, feature]. They share one dropout mask, as they share their
            first values.
        is_sampled: Dropout acts in evaluation too, by the same draws each time unless the caller gives a `dropout` stream.
        members: Makes one whose members have fast weights, for `x` [member · sequence, token, feature]; 0 is none.
    """

    model: ModelConfig
    rate: str | None
    experts: int = 0
    is_sampled: bool = False
    members: int = 0

    @nn.compact
    def __call__(self, x: jax.Array, traced: Traced, *, train: bool) -> jax.Array:
        """[..., feature] to the same shape."""
        for index, width in enumerate((self.model.mlp, self.model.hidden)):
            x = self._linear(x, width, f"Linear_{index}", traced)
            x = nn.gelu(x) if index == 0 else x
            if self.rate is not None and (train or self.is_sampled):
                key = self.make_rng("dropout") if train or self.has_rng("dropout") else self._same_key(index)
                x = dropout(x, traced[self.rate], key, shared=1 if self.experts else 0)
        return x

    def _linear(self, x: jax.Array, width: int, name: str, traced: Traced) -> jax.Array:
        dtype = jnp.dtype(self.model.dtype)
        if self.members:
            return FastLinear(width, dtype, glorot, normal(1e-6), self.members, self.model.fast_weight_init, name=name)(x, traced)
        return Linear(width, dtype, glorot, normal(1e-6), experts=self.experts, name=name)(x)

    def _same_key(self, index: int) -> jax.Array:
        return jax.random.key(zlib.crc32(f"{'/'.join(self.path)} {index}".encode()))
