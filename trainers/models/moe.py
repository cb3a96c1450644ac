"""The sparse layer of V-MoE and E³: tokens to experts and back.

Members of a tiled layer that share all experts and members that own a partition of them each have the same shapes: the same
kernels, slots and choices. So there is one program for both, in which an expert mask by member says which it is.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from trainers.config import ModelConfig
from trainers.geometry import images_per_group, predictions, routed_experts, routers, slots
from trainers.models.dispatch import combine, dispatch, place
from trainers.models.mlp import Mlp, Traced
from trainers.models.router import Router


class SparseMlp(nn.Module):
    """A mixture of experts for the tokens of images, whose members share all experts or own a partition of them each.

    Attributes:
        model: Everything that shapes the layer.
        rate: Key of the dropout rate inside experts; None is no dropout.
        plain: Takes `model.partition` as it stands in `model`, though the model tiles; else a tiled layer reads it from
            the traced values.
    """

    model: ModelConfig
    rate: str | None
    plain: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, traced: Traced, *, train: bool) -> tuple[jax.Array, jax.Array]:
        """[member · image, token, feature], members outermost, to the same shape, and the weighted balancing losses."""
        model, features = self.model, x.shape[-1]
        partition = traced["model.partition"] if model.tile and not self.plain else None
        assert partition is None or not model.partition, "what is traced does not shape the layer"
        tokens = _grouped(x, model)
        router = Router(model.experts, routers(model), predictions(model), model.k, name="router")
        routing = router(tokens, sigma=_sigma(model, traced, partition) if train else None, partition=partition)
        places = place(
            routing.expert,
            experts=routed_experts(model),
            capacity=slots(
                tokens.shape[2],
                k=model.k,
                experts=routed_experts(model),
                factor=model.capacity_factor if train else model.eval_capacity_factor,
            ),
            confidence=routing.gate[..., 0] if model.batch_priority else None,
        )
        buffers = dispatch(tokens, places).reshape(model.experts, -1, features)
        outputs = Mlp(model, self.rate, experts=model.experts, name="experts")(buffers, traced, train=train)
        mixed = combine(outputs.reshape(-1, features), places, routing.gate)
        auxiliary = traced["model.importance_weight"] * routing.importance + traced["model.load_weight"] * routing.load
        return _ungrouped(mixed, x.shape, model), auxiliary


def _sigma(model: ModelConfig, traced: Traced, partition: jax.Array | None) -> jax.Array:
    noise = traced["model.router_noise"]
    if model.noise_normaliser == "all":
        return noise / model.experts
    if partition is None:
        return noise / routed_experts(model)
    return noise / jnp.where(partition, model.experts / model.members, model.experts)


def _grouped(x: jax.Array, model: ModelConfig) -> jax.Array:
    """Tokens as routers see them, [router or 1, group, token, feature].

    Members with a router each are one router's tokens each. Members that share a router share its groups, where the
    member varies fastest, so that none is served before the others when buffers are short.
    """
    members = predictions(model)
    images = x.shape[0] // members
    groups = images // images_per_group(model, images)
    x = x.reshape(members, groups, -1, x.shape[-1])
    if members > 1 and not model.partition:
        x = x.transpose(1, 2, 0, 3).reshape(1, groups, -1, x.shape[-1])
    return x


def _ungrouped(y: jax.Array, shape: tuple[int, ...], model: ModelConfig) -> jax.Array:
    """The inverse of `_grouped`, from [router, group, token, feature]; routers of the same token are summed."""
    members = predictions(model)
    if members > 1 and not model.partition:
        y = y.reshape(y.shape[1], -1, members, shape[-1]).transpose(2, 0, 1, 3)
    elif y.shape[0] > members:
        y = y.sum(axis=0)
    return y.reshape(shape)
