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
    """What routers decide of tokens. A view is a member's copy of the tokens, or what one of several routers sees of one copy.

    Attributes:
        expert: The K experts of each token, best first, counted within the router, [view, group, token, choice].
        gate: Their weights, not renormalised, [view, group, token, choice].
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
    in an E³ that was fine-tuned from a V-MoE. Routers that overlap have more columns together than the layer has experts.

    Attributes:
        experts: Experts of the layer.
        routers: Routers of the layer, each with its own block of experts / routers of them.
        k: Experts a token.
        overlap: Experts beyond its block that each of several routers sees.
    """

    experts: int
    routers: int
    k: int
    overlap: int = 0

    @nn.compact
    def __call__(self, tokens: jax.Array, *, sigma: jax.Array | None, partition: jax.Array | None = None) -> Routing:
        """Routes the tokens of each member, or one copy of them by each router.

        Args:
            tokens: [member, group, token, feature].
            sigma: Standard deviation of the noise; None is none.
            partition: Of the one router that members share: whether it keeps each to its own block of experts, as if each
                had a router; a scalar, which may be traced. None is no.
        """
        features, seen = tokens.shape[-1], self.experts // self.routers + self.overlap
        kernel = self.param("kernel", lecun, (features, self.routers * seen)).reshape(features, self.routers, seen)
        logits = _scores(tokens.astype(jnp.float32), kernel)
        noise = None if sigma is None else sigma * self._standard_noise(tokens.shape[:3])
        is_open = None if partition is None else ~partition | _own(tokens.shape[0], self.experts)
        return route(logits, k=self.k, noise=noise, sigma=sigma, is_shared=self.routers == 1, is_open=is_open)

    def _standard_noise(self, shape: tuple[int, ...]) -> jax.Array:
        """Normal draws [view, group, token, expert] for tokens [member, group, token].

        A token of a member and an expert have the same draw whether experts are partitioned or shared: all pairs are drawn,
        and a router takes its block of them.
        """
        if self.overlap:  # routers of their own for the same experts: draws of their own
            seen = self.experts // self.routers + self.overlap
            return jax.random.normal(self.make_rng("gating"), (self.routers, *shape[1:], seen))
        draws = jax.random.normal(self.make_rng("gating"), (*shape, self.experts))
        if self.routers == 1:
            return draws
        blocks = jnp.moveaxis(draws.reshape(*shape, self.routers, -1), 3, 0)  # [router, member, group, token, expert]
        return blocks[:, 0] if shape[0] == 1 else jnp.stack([blocks[member, member] for member in range(shape[0])])


def route(
    logits: jax.Array,
    *,
    k: int,
    noise: jax.Array | None = None,
    sigma: jax.Array | None = None,
    is_shared: bool = False,
    is_open: jax.Array | None = None,
) -> Routing:
    """Softmax over the router's experts first, then the K largest; kept weights are not renormalised.

    Args:
        logits: [view, group, token, expert].
        k: Experts a token.
        noise: What is added to the logits, of their shape; None routes without noise and has no load loss.
        sigma: Standard deviation of the noise, a scalar.
        is_shared: Views are members with the same experts, which are balanced over all of them together.
        is_open: Which experts a member may use, [member, 1, 1, expert]; None is all. Balance is then sought among experts that
            are open to the same members.
    """
    clean = _closed(logits, is_open, SHUT)
    noisy = clean if noise is None else _closed(logits + noise, is_open, SHUT)
    expert = jax.lax.top_k(jax.lax.stop_gradient(noisy), k)[1]
    chosen = expert[..., None] == jnp.arange(logits.shape[-1])
    gate = _pick(chosen, jax.nn.softmax(noisy, axis=-1)[..., None, :])

    def imbalance(values: jax.Array) -> jax.Array:
        per_expert = jnp.mean(values, axis=-2)
        return _imbalance(jnp.mean(per_expert, axis=0) if is_shared else per_expert, is_open)

    importance = imbalance(jax.nn.softmax(clean, axis=-1))
    if noise is None:
        return Routing(expert, gate, importance, jnp.zeros(()))
    assert sigma is not None
    live = sigma > SMALLEST_NOISE
    chance = _chance(logits, _pick(chosen[..., -1, :], noisy), jnp.where(live, sigma, 1.0))
    return Routing(expert, gate, importance, jnp.where(live, imbalance(_closed(chance, is_open, 0.0)), 0.0))


def _chance(logits: jax.Array, threshold: jax.Array, sigma: jax.Array) -> jax.Array:
    """Chance to be chosen if the noise were drawn anew, [view, group, token, expert].

    Args:
        logits: Without noise, [view, group, token, expert].
        threshold: K-th largest noisy logit of each token, [view, group, token].
        sigma: Standard deviation of the noise, above 0.
    """
    return 0.5 + 0.5 * jax.lax.erf((logits - threshold[..., None]) / sigma * 2**-0.5)


def _imbalance(per_expert: jax.Array, is_open: jax.Array | None) -> jax.Array:
    """Squared coefficient of variation over the experts that compete for tokens, mean over routers or blocks, and groups.

    Args:
        per_expert: Gates or chances, mean over tokens, [..., expert].
        is_open: [member, 1, 1, expert]: experts that are open to the same members compete; None is all.

    Source:
        Riquelme et al., Scaling Vision with Sparse Mixture of Experts (2021), appendix A.2; its mean over partitions:
        Allingham et al., Sparse MoEs meet Efficient Ensembles (2022), appendix A.
    """
    if is_open is None:
        mean = jnp.mean(per_expert, axis=-1, keepdims=True)
    else:
        competes = jnp.all(is_open == jnp.swapaxes(is_open, 2, 3), axis=0)[0]
        mean = jnp.sum(jnp.where(competes, per_expert[..., None, :], 0.0), axis=-1) / jnp.sum(competes, axis=-1)
    # Squares, since the gradient of a standard deviation is NaN at perfect balance.
    return jnp.mean(((per_expert - mean) / mean) ** 2)


def _own(members: int, experts: int) -> jax.Array:
    """Which experts lie in the block of each member, [member, 1, 1, expert]."""
    member = jnp.arange(members)[:, None, None, None]
    return jnp.arange(experts) * members // experts == member


def _closed(values: jax.Array, is_open: jax.Array | None, shut: float) -> jax.Array:
    return values if is_open is None else jnp.where(is_open, values, shut)


def _scores(tokens: jax.Array, kernel: jax.Array) -> jax.Array:
    """Logits [view, group, token, expert] of tokens [member, group, token, feature], for kernels [feature, router, expert]."""
    if kernel.shape[1] == 1:
        return jnp.einsum("mgsd,de->mgse", tokens, kernel[:, 0])
    if tokens.shape[0] == 1:
        return jnp.einsum("gsd,dre->rgse", tokens[0], kernel)
    return jnp.einsum("rgsd,dre->rgse", tokens, kernel)


def _pick(chosen: jax.Array, values: jax.Array) -> jax.Array:
    # A masked sum over few experts: its gradient is a product, where that of an indexed read is a scatter.
    return jnp.sum(jnp.where(chosen, values, 0.0), axis=-1)
