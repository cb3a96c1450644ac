"""The affine maps that models are built of."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from trainers.models.draws import Initializer, lecun

zeros = nn.initializers.zeros_init()


class Linear(nn.Module):
    """`x @ kernel + bias` in the given type, with float32 parameters.

    Attributes:
        features: Width of the result.
        dtype: Type of the computation.
        kernel_init: Where the kernel starts from.
        bias_init: Where the bias starts from.
        experts: Applies map e to row e of `x` [expert, slot, in]. All start from the same values: only
            the router breaks their symmetry. 0 is a single map of `x` [..., in].
    """

    features: int
    dtype: jnp.dtype
    kernel_init: Initializer = lecun
    bias_init: Initializer = zeros
    experts: int = 0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """The map of `x`; with experts [expert, slot, in] to [expert, slot, out]."""
        kernel = self.param("kernel", _repeated(self.kernel_init, self.experts), (x.shape[-1], self.features))
        bias = self.param("bias", _repeated(self.bias_init, self.experts), (self.features,))
        y = jnp.matmul(x.astype(self.dtype), kernel.astype(self.dtype))
        return y + (bias[:, None, :] if self.experts else bias).astype(self.dtype)


def _repeated(init: Initializer, experts: int) -> Initializer:
    def initialize(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        value = init(key, shape)
        return jnp.repeat(value[None], experts, axis=0) if experts else value

    return initialize
