"""What goes on inside a model while it predicts: the features that its head reads, and where its routers send tokens.

Both are overheard while the model is traced, so a program that does not ask for them is what it was.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from trainers.geometry import routers
from trainers.models import Vit
from trainers.models.router import Router
from trainers.step import Program


class Observed(NamedTuple):
    """Of a batch of images.

    Attributes:
        features: Pre-logits, those of all members side by side, [image, member · feature].
        tokens: Tokens of each image that are sent to each expert, before buffers overflow, [image, sparse layer, expert];
            no layers in a dense model. Members and choices are counted apart: K a token and member.
    """

    features: jax.Array
    tokens: jax.Array


MOST_KEPT = 8  # compiled functions
_kept: dict[Vit, Callable[..., Observed]] = {}  # programs of equal models compute the same, whatever traced values they hold


def observer(program: Program) -> Callable[[Any, Mapping[str, Any], Any], Observed]:
    """Compiled function of parameters, traced values and stored images to what is observed. Kept for the model's other lanes."""
    model = program.model
    if model not in _kept:
        while len(_kept) >= MOST_KEPT:
            del _kept[next(iter(_kept))]
        _kept[model] = jax.jit(functools.partial(observed, program))
    return _kept[model]


def observed(program: Program, params: Any, traced: Mapping[str, Any], images: jax.Array) -> Observed:
    """What is observed of stored images [image, row, column, channel], predicted without noise or dropout."""
    read: list[jax.Array] = []
    sent: list[jax.Array] = []

    def listen(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        result = call(*args, **kwargs)
        if context.method_name == "__call__":
            if context.module.name == "head":
                read.append(args[0])
            if isinstance(context.module, Router):
                sent.append(result.expert)
        return result

    with nn.intercept_methods(listen):
        program.member_logits(params, traced, images)
    [features] = read
    n_images, model = len(images), program.model.model  # in which a traced partition is none: its one router counts all experts
    members = jnp.moveaxis(features.reshape(-1, n_images, features.shape[-1]), 0, 1)
    tokens = [_tokens(choices, n_images, experts=model.experts, routers=routers(model)) for choices in sent]
    return Observed(
        features=members.reshape(n_images, -1).astype(jnp.float32),
        tokens=jnp.stack(tokens, axis=1) if tokens else jnp.zeros((n_images, 0, model.experts)),
    )


def _tokens(expert: jax.Array, n_images: int, *, experts: int, routers: int) -> jax.Array:
    """Tokens of each image for each expert, [image, expert], from choices [view, group, token, choice]."""
    if routers > 1:  # each counts within its own block, which may reach into the next one
        expert = (expert + jnp.arange(routers)[:, None, None, None] * (experts // routers)) % experts
    each = expert.reshape(expert.shape[0], n_images, -1)
    return jnp.sum(each[..., None] == jnp.arange(experts), axis=(0, 2), dtype=jnp.float32)
