"""The affine maps that models are built of."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from trainers.models.draws import Initializer, lecun

zeros = nn.initializers.zeros_init()


class Kernel(nn.Module):
    """The parameters of an affine map.

    Attributes:
        features: Width of the result.
        kernel_init: Where the kernel starts from.
        bias_init: Where the bias starts from.
        experts: Makes as many maps, which all start from the same values; 0 is a single one.
    """

    features: int
    kernel_init: Initializer = lecun
    bias_init: Initializer = zeros
    experts: int = 0

    @nn.compact
    def __call__(self, n_in: int) -> tuple[jax.Array, jax.Array]:
        """Kernel [in, out] and bias [out] in float32; with experts [expert, in, out] and [expert, out]."""
        return _parameters(self, n_in)


class Linear(nn.Module):
    """`x @ kernel + bias` in the given type, with float32 parameters.

    Attributes:
        features: Width of the result.
        dtype: Type of the computation.
        kernel_init: Where the kernel starts from.
        bias_init: Where the bias starts from.
        experts: Applies map e to row e of `x` [expert, slot, in]; see `Kernel`. 0 is a single map of `x` [..., in].
    """

    features: int
    dtype: jnp.dtype
    kernel_init: Initializer = lecun
    bias_init: Initializer = zeros
    experts: int = 0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """The map of `x`; with experts [expert, slot, in] to [expert, slot, out]."""
        kernel, bias = (parameter.astype(self.dtype) for parameter in _parameters(self, x.shape[-1]))
        if self.experts:
            return jnp.matmul(x.astype(self.dtype), kernel) + bias[:, None, :]
        # As one matrix: the gradient of a kernel from rows on two axes takes twice as long on a CPU.
        y = jnp.matmul(x.astype(self.dtype).reshape(-1, x.shape[-1]), kernel) + bias
        return y.reshape(*x.shape[:-1], self.features)


def _parameters(module: Kernel | Linear, n_in: int) -> tuple[jax.Array, jax.Array]:
    kernel = module.param("kernel", _repeated(module.kernel_init, module.experts), (n_in, module.features))
    return kernel, module.param("bias", _repeated(module.bias_init, module.experts), (module.features,))


def _repeated(init: Initializer, experts: int) -> Initializer:
    def initialize(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        value = init(key, shape)
        return jnp.repeat(value[None], experts, axis=0) if experts else value

    return initialize
