"""Gradient clipping, SGD with momentum or AdamW, and the schedule, with every number traced.

Chain, as in the authors' code: clip by global norm → momentum | Adam → + weight decay · p on kernels → × (−rate).
Optax's own schedule and clip branch on their arguments in Python, so both stand here in closed form.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from trainers.config import OptimConfig

Traced = Mapping[str, jax.Array]


def learning_rate(step: jax.Array, traced: Traced) -> jax.Array:
    """Rate of the update after `step` others: linear from 0 during warm-up, then a cosine that ends at `train.steps`.

    Source:
        optax.warmup_cosine_decay_schedule with init_value 0, whose decay_steps include the warm-up.
    """
    peak, end = traced["optim.learning_rate"], traced["optim.end_learning_rate"]
    warmup, total = traced["optim.warmup_steps"].astype(jnp.float32), traced["train.steps"].astype(jnp.float32)
    now = step.astype(jnp.float32)
    rising = peak * now / jnp.maximum(warmup, 1.0)
    progress = jnp.clip((now - warmup) / jnp.maximum(total - warmup, 1.0), 0.0, 1.0)
    falling = end + (peak - end) * 0.5 * (1.0 + jnp.cos(jnp.pi * progress))
    return jnp.where(now < warmup, rising, falling)


def optimizer(config: OptimConfig, traced: Traced, rate: jax.Array) -> optax.GradientTransformation:
    """The chain, for one step at the given rate. Built inside the compiled step: its numbers are traced."""
    if config.name == "sgd":
        momentum = optax.trace(decay=traced["optim.momentum"], accumulator_dtype=jnp.dtype(config.momentum_dtype))
    else:
        momentum = optax.scale_by_adam(b1=traced["optim.b1"], b2=traced["optim.b2"])
    return optax.chain(
        clip(traced["optim.clip_norm"]),
        momentum,
        optax.add_decayed_weights(traced["optim.weight_decay"], mask=kernels),
        optax.scale(-rate),
    )


def clip(norm: jax.Array) -> optax.GradientTransformation:
    """Scales gradients down to a global norm. Optax's own gives NaN where gradient and norm are both 0."""

    def update(gradients: Any, state: optax.EmptyState, params: Any = None) -> tuple[Any, optax.EmptyState]:
        del params
        scale = norm / jnp.maximum(optax.tree.norm(gradients), jnp.maximum(norm, jnp.finfo(jnp.float32).tiny))
        return jax.tree.map(lambda gradient: gradient * scale, gradients), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)  # noqa: ARG005 - optax passes it


def kernels(params: Any) -> Any:
    """True for each weight matrix: what weight decay pulls on. Biases, norms, embeddings and routers' noise are left alone."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)
