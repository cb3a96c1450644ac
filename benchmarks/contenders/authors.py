"""The model of google-research/vmoe, from a checkout and unmodified, as a contender.

Its trainer needs TensorFlow, so the step here is its model under this project's loss, optimizer and schedule: what differs
is the model alone. Its routers weigh losses in Python, so the weights of balancing losses are constants there.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from benchmarks.contenders import cases, ours
from benchmarks.contenders.cases import Contender, still
from trainers.augment import to_model_range
from trainers.config import VisionConfig
from trainers.geometry import images_per_group, sparse_blocks, tokens_per_image
from trainers.initialize.files import Naming, Source
from trainers.initialize.names import named
from trainers.losses import training_loss
from trainers.models import Prediction
from trainers.optimizer import learning_rate, optimizer

PACKAGES = ("vmoe", "vit_jax")

# Their dispatchers. That of the released E³ moves tokens in half precision; in float32 it can be compared to rounding.
DISPATCHERS = {
    "einsum": {"name": "einsum", "bfloat16": False},
    "einsum, released": {"name": "einsum", "bfloat16": True},
    "indices": {"name": "indices"},
}


class State(NamedTuple):
    """What a step of their model takes and gives: parameters, optimizer, steps done."""

    params: Any
    momentum: Any
    step: jax.Array


def find(checkouts: Sequence[pathlib.Path]) -> None:
    """Puts the checkouts on the path of imports.

    Raises:
        FileNotFoundError: Their code needs a package that is in none of them.
    """
    sys.path.extend(str(path.resolve()) for path in checkouts)
    for package in PACKAGES:
        if importlib.util.find_spec(package) is None:
            asked = ", ".join(map(str, checkouts))
            raise FileNotFoundError(f"no package {package} in {asked}: give checkouts of google-research/vmoe and vision_transformer")
    importlib.import_module("absl.logging").set_verbosity("error")  # each layer would say that its capacity was rounded up


def contenders(config: VisionConfig) -> list[Contender]:
    """Their model with each of its dispatchers; just one where there is nothing to dispatch."""
    names = list(DISPATCHERS) if sparse_blocks(config.model) else [""]
    return [_contender(config, name) for name in names]


def to_ours(arrays: Any, config: VisionConfig) -> Any:
    """Their parameters, or gradients of them, under our names and in our layouts."""
    flat = {name: np.asarray(array) for name, array in flatten_dict(arrays, sep="/").items()}
    found = named(Source(path=pathlib.Path("checkout"), arrays=flat, naming=Naming.PUBLISHED), config.model, config.data)
    assert not [*found.problems, *found.strangers], (found.problems, found.strangers)
    return unflatten_dict({tuple(name.split("/")): jnp.asarray(array) for name, array in found.arrays.items()})


def model(config: VisionConfig, dispatcher: str, *, train: bool) -> Any:
    """Their module for a config."""
    of, data = config.model, config.data
    is_ensemble = of.tile and of.partition
    tokens = images_per_group(of, config.train.batch_size) * tokens_per_image(of, data)
    router = {
        "num_selected_experts": of.k,
        "noise_std": of.router_noise,
        "importance_loss_weight": of.importance_weight,
        "load_loss_weight": of.load_weight,
        "dispatcher": {**DISPATCHERS.get(dispatcher, {}), "capacity_factor": of.capacity_factor, "batch_priority": of.batch_priority},
    }
    moe = {
        "num_experts": of.experts,
        "group_size": tokens * (of.members if is_ensemble else 1),
        "layers": sparse_blocks(of),
        "dropout_rate": of.expert_dropout,
        "router": router,
        **({"ensemble_size": of.members} if is_ensemble else {}),
    }
    encoder = {"num_layers": of.depth, "mlp_dim": of.mlp, "num_heads": of.heads, "dropout_rate": of.dropout, "dtype": jnp.dtype(of.dtype)}
    module = importlib.import_module("vmoe.nn.vit_moe_ensemble" if is_ensemble else "vmoe.nn.vit_moe")
    cls = module.VisionTransformerMoeEnsemble if is_ensemble else module.VisionTransformerMoe
    return cls(
        num_classes=data.classes,
        patch_size=(of.patch, of.patch),
        hidden_size=of.hidden,
        encoder={**encoder, **({"moe": moe} if sparse_blocks(of) else {})},
        deterministic=not train,
    )


def _contender(config: VisionConfig, dispatcher: str) -> Contender:
    numbers = ours.traced(config)
    at_rest, training = model(config, dispatcher, train=False), model(config, dispatcher, train=True)
    size, channels = config.data.image_size, config.data.channels
    images = jnp.zeros((config.train.batch_size, size, size, channels))
    shapes = jax.eval_shape(at_rest.init, jax.random.key(0), images)["params"]
    params = cases.scattered(shapes)
    chain = functools.partial(optimizer, config.optim, numbers)

    def forward(params: Any, images: jax.Array) -> jax.Array:
        return _prediction(at_rest.apply({"params": params}, to_model_range(images)), config).logits

    def step(state: State, images: jax.Array, labels: jax.Array) -> State:
        key = jax.random.fold_in(jax.random.key(0), state.step)
        gradient = jax.grad(_loss)(state.params, training, config, images, labels, key)
        updates, momentum = chain(learning_rate(state.step, numbers)).update(gradient, state.momentum, state.params)
        return State(jax.tree.map(jnp.add, state.params, updates), momentum, state.step + 1)

    quiet = model(still(config), dispatcher, train=True)
    return Contender(
        name=f"authors ({dispatcher})" if dispatcher else "authors",
        params=params,
        start=State(params, chain(jnp.float32(0.0)).init(params), jnp.int32(0)),
        forward=jax.jit(forward),
        step=jax.jit(step),
        gradient=jax.jit(
            lambda params, images, labels: jax.value_and_grad(_loss)(params, quiet, config, images, labels, jax.random.key(0))
        ),
    )


def _loss(params: Any, module: Any, config: VisionConfig, images: jax.Array, labels: jax.Array, key: jax.Array) -> jax.Array:
    dropout, gating = jax.random.split(key)
    said = module.apply({"params": params}, to_model_range(images), rngs={"dropout": dropout, "gating": gating})
    return training_loss(_prediction(said, config), jax.nn.one_hot(labels, config.data.classes))


def _prediction(said: Any, config: VisionConfig) -> Prediction:
    """What their model says, members outermost; they keep those of an image together."""
    logits, metrics = said
    logits = logits.reshape(config.train.batch_size, -1, config.data.classes).swapaxes(0, 1)
    return Prediction(logits, jnp.mean(metrics["auxiliary_loss"]))
