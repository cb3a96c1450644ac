"""The noisy top-K router of V-MoE and E³, and its two balancing losses."""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from trainers.models.draws import lecun

SMALLEST_NOISE = 1e-6  # below it the load loss, whose gradient grows as 1/σ, is off
SHUT = -1e30  # logit of an expert that is closed to a token: finite, so that no gradient is 0 · ∞


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

    The kernel is one [feature, expert] map whatever the routers: those of a partitioned layer are its blocks of columns, as
    in an E³ that was fine-tuned from a V-MoE.

    Attributes:
        experts: Experts of the layer.
        routers: Routers of the layer, each with its own block of experts / routers of them.
        members: Members whose tokens are seen.
        k: Experts a token.
    """

    experts: int
    routers: int
    members: int
    k: int

    @nn.compact
    def __call__(self, tokens: jax.Array, *, sigma: jax.Array | None, partition: jax.Array | None = None) -> Routing:
        """Routes tokens.

        Args:
            tokens: [router or 1, group, token, feature]. Members that share a router take turns in its tokens.
            sigma: Standard deviation of the noise; None is none.
            partition: Of the one router: whether it keeps each member to its own block of experts, as if each had a router;
                a scalar, which may be traced. None is no.
        """
        features, seen = tokens.shape[-1], self.experts // self.routers
        kernel = self.param("kernel", lecun, (features, self.experts))
        logits = _scores(tokens.astype(jnp.float32), kernel.reshape(features, self.routers, seen))
        noise = None if sigma is None else sigma * self._standard_noise(logits.shape)
        return route(logits, k=self.k, noise=noise, sigma=sigma, blocks=None if partition is None else Blocks(partition, self.members))

    def _standard_noise(self, shape: tuple[int, ...]) -> jax.Array:
        """Normal draws of the shape of logits [router, group, token, expert].

        An expert and a token of a member have the same draw whether experts are partitioned or shared: it is drawn for all
        pairs, and routers take their blocks.
        """
        groups, all_members = shape[1], shape[0] * shape[2] if self.members > 1 and self.routers > 1 else shape[2]
        draws = jax.random.normal(self.make_rng("gating"), (groups, all_members, self.experts))
        if self.routers == 1:
            return draws[None]
        draws = draws.reshape(groups, shape[2], -1, self.routers, shape[3])  # [group, token, member, router, expert]
        if self.members > 1:
            return jnp.moveaxis(jnp.diagonal(draws, axis1=2, axis2=3), -1, 0)
        return jnp.moveaxis(draws[:, :, 0], 2, 0)


class Blocks(NamedTuple):
    """Whether the members that take turns in a router's tokens are kept to a block of its experts each.

    Attributes:
        partition: They are; a boolean scalar.
        members: How many there are.
    """

    partition: jax.Array
    members: int

    def open_to(self, logits: jax.Array) -> jax.Array:
        """Which experts each token may go to, [token, expert]."""
        n_tokens, n_experts = logits.shape[-2:]
        member_of_expert = jnp.arange(n_experts) * self.members // n_experts
        return ~self.partition | (member_of_expert == (jnp.arange(n_tokens) % self.members)[:, None])

    def mean(self, per_expert: jax.Array) -> jax.Array:
        """Mean over the experts that compete with each one, [..., expert]."""
        whole = jnp.mean(per_expert, axis=-1, keepdims=True)
        if per_expert.shape[-1] % self.members:
            return whole  # experts that members do not divide are never partitioned
        block = jnp.mean(per_expert.reshape(*per_expert.shape[:-1], self.members, -1), axis=-1)
        return jnp.where(self.partition, jnp.repeat(block, per_expert.shape[-1] // self.members, axis=-1), whole)


def route(
    logits: jax.Array, *, k: int, noise: jax.Array | None = None, sigma: jax.Array | None = None, blocks: Blocks | None = None
) -> Routing:
    """Softmax over the router's experts first, then the K largest; kept weights are not renormalised.

    Args:
        logits: [router, group, token, expert].
        k: Experts a token.
        noise: What is added to the logits, of their shape; None routes without noise and has no load loss.
        sigma: Standard deviation of the noise, a scalar.
        blocks: Which experts are closed to which tokens, of a single router; None closes none.
    """
    is_open = None if blocks is None else blocks.open_to(logits)
    clean = _closed(logits, is_open, SHUT)
    noisy = clean if noise is None else _closed(logits + noise, is_open, SHUT)
    expert = jax.lax.top_k(jax.lax.stop_gradient(noisy), k)[1]
    chosen = expert[..., None] == jnp.arange(logits.shape[-1])
    gate = _pick(chosen, jax.nn.softmax(noisy, axis=-1)[..., None, :])
    importance = _imbalance(jnp.mean(jax.nn.softmax(clean, axis=-1), axis=-2), blocks)
    if noise is None:
        return Routing(expert, gate, importance, jnp.zeros(()))
    assert sigma is not None
    live = sigma > SMALLEST_NOISE
    chance = _closed(_chance(logits, _pick(chosen[..., -1, :], noisy), jnp.where(live, sigma, 1.0)), is_open, 0.0)
    return Routing(expert, gate, importance, jnp.where(live, _imbalance(jnp.mean(chance, axis=-2), blocks), 0.0))


def _chance(logits: jax.Array, threshold: jax.Array, sigma: jax.Array) -> jax.Array:
    """Chance to be chosen if the noise were drawn anew, [router, group, token, expert].

    Args:
        logits: Without noise, [router, group, token, expert].
        threshold: K-th largest noisy logit of each token, [router, group, token].
        sigma: Standard deviation of the noise, above 0.
    """
    return 0.5 + 0.5 * jax.lax.erf((logits - threshold[..., None]) / sigma * 2**-0.5)


def _imbalance(per_expert: jax.Array, blocks: Blocks | None) -> jax.Array:
    """Squared coefficient of variation over the experts that compete, mean over routers, or blocks, and groups.

    Args:
        per_expert: Gates or chances, mean over tokens, [router, group, expert].
        blocks: Of the experts; None lets all of a router compete.

    Source:
        Riquelme et al., Scaling Vision with Sparse Mixture of Experts (2021), appendix A.2; Allingham et al. (2022), which
        takes the mean over partitions.
    """
    mean = jnp.mean(per_expert, axis=-1, keepdims=True) if blocks is None else blocks.mean(per_expert)
    # The squares are summed as they are: the gradient of a standard deviation is NaN at perfect balance.
    return jnp.mean(((per_expert - mean) / mean) ** 2)


def _closed(values: jax.Array, is_open: jax.Array | None, shut: float) -> jax.Array:
    return values if is_open is None else jnp.where(is_open, values, shut)


def _scores(tokens: jax.Array, kernel: jax.Array) -> jax.Array:
    if tokens.shape[0] == kernel.shape[1]:
        return jnp.einsum("rgsd,dre->rgse", tokens, kernel)
    return jnp.einsum("gsd,dre->rgse", tokens[0], kernel)


def _pick(chosen: jax.Array, values: jax.Array) -> jax.Array:
    # A masked sum over few experts: its gradient is a product, where that of an indexed read is a scatter.
    return jnp.sum(jnp.where(chosen, values, 0.0), axis=-1)
