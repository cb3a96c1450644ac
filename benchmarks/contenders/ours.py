"""This project's model and training step as a contender."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.contenders import cases
from benchmarks.contenders.cases import Contender, still
from orchestrator.contract import flatten
from trainers.augment import to_model_range
from trainers.config import VisionConfig
from trainers.losses import training_loss
from trainers.optimizer import optimizer
from trainers.step import LaneState, Program, root_key, traced_numbers


def contender(config: VisionConfig, params: Any = None) -> Contender:
    """The step that a worker runs, one a call, and the pass that it evaluates with.

    Args:
        config: Of the model and its training.
        params: What to start from; None draws all of them.
    """
    program, numbers = Program(config), traced(config)
    shapes = jax.eval_shape(program.init, root_key(0), numbers).params
    params = cases.scattered(shapes) if params is None else params
    momentum = optimizer(config.optim, numbers, jnp.float32(0.0)).init(params)
    return Contender(
        name="ours",
        params=params,
        start=LaneState(params, momentum, jnp.int32(0), root_key(0), jnp.float32(0.0)),
        forward=jax.jit(lambda params, images: program.member_logits(params, numbers, images)),
        step=jax.jit(lambda state, images, labels: program.step(state, images, labels, numbers)),
        gradient=_gradient(still(config)),
    )


def traced(config: VisionConfig) -> Any:
    """The numbers of a config that are arguments of its program."""
    return jax.device_put(traced_numbers(flatten(config)))


def _gradient(config: VisionConfig) -> Callable[[Any, jax.Array, jax.Array], tuple[jax.Array, Any]]:
    program, numbers = Program(config), traced(config)

    def loss(params: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
        rngs = {"gating": jax.random.key(0), "dropout": jax.random.key(1)}
        prediction = program.model.apply({"params": params}, to_model_range(images), numbers, train=True, rngs=rngs)
        return training_loss(prediction, jax.nn.one_hot(labels, config.data.classes))

    return jax.jit(jax.value_and_grad(loss))
