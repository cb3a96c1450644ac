"""The sparse layer of V-MoE and E³: tokens to experts and back.

Members of a tiled layer that share all experts and members that own a partition of them each have the same shapes: the same
kernels, slots and choices. So there is one program for both, in which an expert mask by member says which it is.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from trainers.config import ModelConfig
from trainers.geometry import buffer_slots, images_per_group, own_experts, routed_experts, routers
from trainers.models.dispatch import combine, dispatch, place
from trainers.models.experts import Experts
from trainers.models.mlp import Traced
from trainers.models.router import Router


class SparseMlp(nn.Module):
    """A mixture of experts for the tokens of images, whose members share all experts or own a partition of them each.

    Attributes:
        model: Everything that shapes the layer.
        rate: Key of the dropout rate inside experts; None is no dropout.
        plain: Takes `model.partition` as it stands in `model`, though the model tiles; else a tiled layer reads it from
            the traced values.
        n_copies: Copies of the batch that come in: M where it is tiled.
    """

    model: ModelConfig
    rate: str | None
    plain: bool = False
    n_copies: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, traced: Traced, *, train: bool) -> tuple[jax.Array, jax.Array]:
        """[member · image, token, feature], members outermost, to the same shape, and the weighted balancing losses."""
        model, features, members = self.model, x.shape[-1], self.n_copies
        images = x.shape[0] // members
        tokens = x.reshape(members, images // images_per_group(model, images), -1, features)
        is_shared = routers(model) == 1
        partition = traced["model.partition"] if members > 1 and not (self.plain or model.overlap) else None
        assert partition is None or is_shared, "what is traced does not shape the layer"
        router = Router(model.experts, routers(model), model.k, model.overlap, name="router")
        routing = router(tokens, sigma=_sigma(model, traced, partition) if train else None, partition=partition)
        factor = model.capacity_factor if train else model.eval_capacity_factor
        places = place(
            _among_all(model, routing.expert) if model.overlap else routing.expert,
            experts=model.experts if model.overlap else routed_experts(model),
            is_shared=is_shared or model.overlap > 0,
            capacity=buffer_slots(model, tokens.shape[2], factor=factor, n_copies=members),
            confidence=routing.gate[..., 0] if model.batch_priority else None,
        )
        buffers = dispatch(tokens, places).reshape(model.experts, -1, features)
        is_sampled = model.mc_dropout and members > 1
        outputs = Experts(model, self.rate, is_sampled, name="experts")(buffers, places.filled, traced, train=train)
        mixed = combine(outputs.reshape(-1, features), places, routing.gate)
        if mixed.shape[0] > members:
            mixed = mixed.sum(axis=0)  # several routers of one copy of the tokens
        auxiliary = traced["model.importance_weight"] * routing.importance + traced["model.load_weight"] * routing.load
        return mixed.reshape(x.shape), auxiliary


def _among_all(model: ModelConfig, expert: jax.Array) -> jax.Array:
    """Choices within the windows of routers, [view, …], as experts of the layer; the last windows wrap around."""
    first = own_experts(model) * jnp.arange(expert.shape[0]).reshape(-1, 1, 1, 1)
    return (first + expert) % model.experts


def _sigma(model: ModelConfig, traced: Traced, partition: jax.Array | None) -> jax.Array:
    noise = traced["model.router_noise"]
    if model.noise_normaliser == "all":
        return noise / model.experts
    if partition is None:
        return noise / routed_experts(model)
    return noise / jnp.where(partition, model.experts / model.members, model.experts)
