"""An affine map whose kernel members share, and which each of them scales by row and by column: BatchEnsemble."""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from trainers.models.draws import Initializer, normal, uniform


class FastLinear(nn.Module):
    """`((x ∘ α_m) @ kernel) ∘ γ_m + bias_m` for member m: the map of `kernel ∘ α_m γ_mᵀ`, without making that matrix.

    Attributes:
        features: Width of the result.
        dtype: Type of the computation; parameters are float32.
        kernel_init: Where the kernel, of all members, starts from.
        bias_init: Where the biases start from.
        members: M.
        fast_init: Where α and γ start from, see `ModelConfig.fast_weight_init`.

    Source:
        Wen et al., BatchEnsemble: An Alternative Approach to Efficient Ensemble and Lifelong Learning, ICLR 2020.
    """

    features: int
    dtype: jnp.dtype
    kernel_init: Initializer
    bias_init: Initializer
    members: int
    fast_init: str

    @nn.compact
    def __call__(self, x: jax.Array, traced: Mapping[str, jax.Array]) -> jax.Array:
        """[member · sequence, token, in] to [member · sequence, token, out], members outermost."""
        fast = _initializer(self.fast_init, traced["model.fast_weight_spread"])
        alpha = self.param("alpha", fast, (self.members, x.shape[-1]))
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        gamma = self.param("gamma", fast, (self.members, self.features))
        bias = self.param("bias", self.bias_init, (self.members, self.features))
        alpha, gamma = (_slowed(weight, traced["model.fast_weight_rate"]) for weight in (alpha, gamma))
        of_members = x.astype(self.dtype).reshape(self.members, -1, x.shape[-1])
        y = jnp.matmul(of_members * self._each(alpha), kernel.astype(self.dtype)) * self._each(gamma) + self._each(bias)
        return y.reshape(*x.shape[:-1], self.features)

    def _each(self, weight: jax.Array) -> jax.Array:
        return weight.astype(self.dtype)[:, None]


def _initializer(name: str, spread: jax.Array) -> Initializer:
    def initialize(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        if name == "sign":
            return jnp.where(uniform(key, shape) < spread, 1.0, -1.0)
        return 1.0 + spread * normal(1.0)(key, shape)

    return initialize


def _slowed(weight: jax.Array, rate: jax.Array) -> jax.Array:
    """The weight, whose gradient is multiplied by `rate`."""
    fixed = jax.lax.stop_gradient(weight)
    return fixed + rate * (weight - fixed)
