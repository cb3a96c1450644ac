"""The noisy top-K router of V-MoE and E³, and its two balancing losses."""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from trainers.models.draws import lecun

SMALLEST_NOISE = 1e-6  # below it the load loss, whose gradient grows as 1/σ, is off


class Routing(NamedTuple):
    """What routers decide of tokens.

    Attributes:
        expert: The K experts of each token, best first, counted within the router, [router, group, token, choice].
        gate: Their weights, not renormalised, [router, group, token, choice].
        importance: Importance loss, mean over routers and groups.
        load: Load loss, likewise; 0 without noise.
    """

    expert: jax.Array
    gate: jax.Array
    importance: jax.Array
    load: jax.Array


class Router(nn.Module):
    """Scores experts linearly, without a bias, in float32.

    Attributes:
        experts: Experts of the layer.
        routers: Routers of the layer, each with its own block of experts / routers of them.
        k: Experts a token.
    """

    experts: int
    routers: int
    k: int

    @nn.compact
    def __call__(self, tokens: jax.Array, *, sigma: jax.Array | None) -> Routing:
        """Routes tokens [router or 1, group, token, feature]; with noise of standard deviation `sigma` if given."""
        features, seen = tokens.shape[-1], self.experts // self.routers
        shape = (features, self.routers, seen) if self.routers > 1 else (features, seen)
        # Made as one [feature, expert] map: E³'s routers are then the columns of V-MoE's, as in a fine-tuned V-MoE.
        kernel = self.param("kernel", lambda key: lecun(key, (features, self.experts)).reshape(shape))
        logits = _scores(tokens.astype(jnp.float32), kernel.reshape(features, self.routers, seen))
        noise = None if sigma is None else sigma * jax.random.normal(self.make_rng("gating"), logits.shape)
        return route(logits, k=self.k, noise=noise, sigma=sigma)


def route(logits: jax.Array, *, k: int, noise: jax.Array | None = None, sigma: jax.Array | None = None) -> Routing:
    """Softmax over the router's experts first, then the K largest; kept weights are not renormalised.

    Args:
        logits: [router, group, token, expert].
        k: Experts a token.
        noise: What is added to the logits, of their shape; None routes without noise and has no load loss.
        sigma: Standard deviation of the noise, a scalar.
    """
    noisy = logits if noise is None else logits + noise
    expert = jax.lax.top_k(jax.lax.stop_gradient(noisy), k)[1]
    chosen = expert[..., None] == jnp.arange(logits.shape[-1])
    gate = _pick(chosen, jax.nn.softmax(noisy, axis=-1)[..., None, :])
    load = jnp.zeros(())
    if noise is not None:
        assert sigma is not None
        load = load_loss(logits, _pick(chosen[..., -1, :], noisy), sigma)
    return Routing(expert, gate, importance_loss(logits), load)


def importance_loss(logits: jax.Array) -> jax.Array:
    """Squared coefficient of variation, over experts, of the noise-free gates summed over tokens.

    Args:
        logits: Without noise, [router, group, token, expert].

    Source:
        Riquelme et al., Scaling Vision with Sparse Mixture of Experts (2021), appendix A.2.
    """
    return jnp.mean(_squared_variation(jnp.mean(jax.nn.softmax(logits, axis=-1), axis=-2)))


def load_loss(logits: jax.Array, threshold: jax.Array, sigma: jax.Array) -> jax.Array:
    """Squared coefficient of variation, over experts, of the chance to be chosen if the noise were drawn anew.

    Args:
        logits: Without noise, [router, group, token, expert].
        threshold: K-th largest noisy logit of each token, [router, group, token].
        sigma: Standard deviation of the noise; at 0 the chance has no gradient and the loss is 0.

    Source:
        Riquelme et al., Scaling Vision with Sparse Mixture of Experts (2021), appendix A.2.
    """
    live = sigma > SMALLEST_NOISE
    needed = (logits - threshold[..., None]) / jnp.where(live, sigma, 1.0)
    chance = 0.5 + 0.5 * jax.lax.erf(needed * 2**-0.5)
    return jnp.where(live, jnp.mean(_squared_variation(jnp.mean(chance, axis=-2))), 0.0)


def _scores(tokens: jax.Array, kernel: jax.Array) -> jax.Array:
    if tokens.shape[0] == kernel.shape[1]:
        return jnp.einsum("rgsd,dre->rgse", tokens, kernel)
    return jnp.einsum("gsd,dre->rgse", tokens[0], kernel)


def _pick(chosen: jax.Array, values: jax.Array) -> jax.Array:
    # A masked sum over few experts: its gradient is a product, where that of an indexed read is a scatter.
    return jnp.sum(jnp.where(chosen, values, 0.0), axis=-1)


def _squared_variation(per_expert: jax.Array) -> jax.Array:
    # Variance over squared mean: the gradient of a standard deviation is NaN at perfect balance.
    return jnp.var(per_expert, axis=-1) / jnp.mean(per_expert, axis=-1) ** 2
