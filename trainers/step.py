"""What one lane computes, as pure functions of its state: initialisation, one training step, a chunk of steps.

Every random draw is folded from the lane's key and its step counter, so a lane's numbers depend on its state, its traced
values and the data, and on nothing else: not on its neighbours, its place in the pack or where its chunks began.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from orchestrator.contract import FlatConfig, leaves
from trainers.augment import augment, to_model_range
from trainers.config import VisionConfig
from trainers.losses import training_loss
from trainers.models import make_model
from trainers.optimizer import learning_rate, optimizer

Traced = Mapping[str, jax.Array]


class LaneState(NamedTuple):
    """All that a lane carries from step to step.

    Attributes:
        params: Parameter tree, float32.
        momentum: State of the optimizer chain.
        step: Steps done, int32.
        key: Root of every random draw, uint32 [2].
        loss: Sum of training losses since the last rung.
    """

    params: Any
    momentum: Any
    step: jax.Array
    key: jax.Array
    loss: jax.Array


class TrainData(NamedTuple):
    """Training images as stored, [image, row, column, channel], and their classes, [image]; or batches of them, [step, image, …]."""

    images: jax.Array
    labels: jax.Array


class Stream(enum.IntEnum):
    """What a random draw is for. Part of the numbers of every trial: never renumber."""

    INIT = 0
    ORDER = 1
    STEP = 2


@dataclasses.dataclass(frozen=True, slots=True)
class Program:
    """The functions of one signature. Only the static part of the config is read; the rest comes traced."""

    config: VisionConfig

    @property
    def model(self) -> Any:
        return make_model(self.config.model, self.config.data)

    def init(self, key: jax.Array, traced: Traced) -> LaneState:
        """A lane at step 0, from the root of its draws. Lanes of two arms with one root see the same data order."""
        data = self.config.data
        root = jax.random.fold_in(jax.random.wrap_key_data(key), Stream.INIT)
        params_key, dropout_key, gating_key = jax.random.split(root, 3)
        images = jnp.zeros((1, data.image_size, data.image_size, data.channels))
        rngs = {"params": params_key, "dropout": dropout_key, "gating": gating_key}
        params = self.model.init(rngs, images, traced, train=False)["params"]
        momentum = optimizer(self.config.optim, traced, jnp.float32(0.0)).init(params)
        return LaneState(params, momentum, jnp.zeros((), jnp.int32), key, jnp.zeros((), jnp.float32))

    def step(self, state: LaneState, images: jax.Array, labels: jax.Array, traced: Traced) -> LaneState:
        """One optimizer step on a batch of stored images and their classes."""
        root = jax.random.wrap_key_data(state.key)
        key = jax.random.fold_in(jax.random.fold_in(root, Stream.STEP), state.step)
        augment_key, dropout_key, gating_key = jax.random.split(key, 3)
        one_hot = jax.nn.one_hot(labels, self.config.data.classes)
        size, images = self.config.data.image_size, to_model_range(images)
        images, one_hot = augment(augment_key, images, one_hot, traced, self.config.augment, size=size)

        def loss_of(params: Any) -> jax.Array:
            rngs = {"dropout": dropout_key, "gating": gating_key}
            prediction = self.model.apply({"params": params}, images, traced, train=True, rngs=rngs)
            return training_loss(prediction, one_hot, of_mean=self.config.model.member_loss == "mean")

        loss, gradients = jax.value_and_grad(loss_of)(state.params)
        chain = optimizer(self.config.optim, traced, learning_rate(state.step, traced))
        updates, momentum = chain.update(gradients, state.momentum, state.params)
        params = jax.tree.map(jnp.add, state.params, updates)
        before = jnp.where(state.step % self.config.train.rung_steps == 0, 0.0, state.loss)
        return LaneState(params, momentum, state.step + 1, state.key, before + loss)

    def chunk(self, state: LaneState, traced: Traced, n_steps: jax.Array, data: TrainData) -> LaneState:
        """`n_steps` steps further. The count is traced: chunks of any length share one program, and 0 costs nothing."""
        n_images, batch = data.labels.shape[0], self.config.train.batch_size
        per_epoch = max(n_images // batch, 1)
        root = jax.random.wrap_key_data(state.key)

        def body(index: jax.Array, carry: tuple[LaneState, jax.Array]) -> tuple[LaneState, jax.Array]:
            state, order = carry
            epoch, place = state.step // per_epoch, state.step % per_epoch
            # One sort an epoch, not one a step: it is 5 ms for 50,000 images.
            is_unknown = (index == 0) | (place == 0)
            order = lax.cond(is_unknown, lambda: epoch_order(root, epoch, n_images), lambda: order)
            rows = order[places_in_epoch(place, batch, n_images)]
            return self.step(state, data.images[rows], data.labels[rows], traced), order

        return lax.fori_loop(0, n_steps, body, (state, jnp.zeros(n_images, jnp.int32)))[0]

    def chunk_fed(self, state: LaneState, traced: Traced, n_steps: jax.Array, block: TrainData) -> LaneState:
        """`n_steps` steps further, as `chunk` does them, on batches that the host gathered: `block` [step, image, …].

        Blocks are aligned: this one holds steps i·B to (i+1)·B, and the chunk does not lead out of it.
        """

        def body(index: jax.Array, state: LaneState) -> LaneState:
            del index
            at = state.step % block.labels.shape[0]
            return self.step(state, block.images[at], block.labels[at], traced)

        return lax.fori_loop(0, n_steps, body, state)

    def member_logits(self, params: Any, traced: Traced, images: jax.Array) -> jax.Array:
        """Predictions without noise or dropout, [member, image, class], of stored images."""
        return self.model.apply({"params": params}, to_model_range(images), traced, train=False).logits.astype(jnp.float32)


def epoch_order(root: jax.Array, epoch: jax.Array, n_images: int) -> jax.Array:
    """The order in which one epoch visits the images; the last `n_images % batch` of it are left out of that epoch."""
    return jax.random.permutation(jax.random.fold_in(jax.random.fold_in(root, Stream.ORDER), epoch), n_images)


def places_in_epoch(place: Any, batch: int, n_images: int) -> Any:
    """Where in the order of an epoch its batch number `place` lies, [image]; fewer images than a batch are repeated."""
    return (place * batch + np.arange(batch, dtype=np.int32)) % n_images


def root_key(seed: int) -> np.ndarray:
    """The root of a lane's draws, uint32 [2], as `jax.random.key` makes it, but of all 64 bits of the seed."""
    return np.array([seed >> 32 & 0xFFFFFFFF, seed & 0xFFFFFFFF], np.uint32)


def traced_numbers(flat: FlatConfig) -> dict[str, np.ndarray]:
    """The traced part of a config, as the model and the optimizer read it: float32, int32 and boolean scalars by dotted key."""
    types = {float: np.float32, int: np.int32, bool: np.bool_}
    return {key: np.asarray(flat[key], types[leaf.type]) for key, leaf in leaves(VisionConfig).items() if leaf.is_traced_in(flat)}
