"""Partitioning as a traced mask against its plain form, in which the config shapes the layer.

Both choose the same experts and slots. Numbers agree to 1e-6 and not to the bit: where the plain form sums over a block of
experts the mask adds zeros, and XLA orders sums for each program as it likes, so that the last bit of a softmax may differ.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from orchestrator.contract import build
from tests.trainers.scripted import TINY_VISION, flat_of
from trainers.config import ModelConfig, VisionConfig
from trainers.models.dispatch import place
from trainers.models.moe import SparseMlp
from trainers.models.router import Router
from trainers.step import Program, TrainData, root_key, traced_numbers
from trainers.vision import Vision

IMAGES, T, D, E = 8, 5, 8, 8
CLOSE = 1e-6  # of the norm

# K, M, by confidence, images a group: each value beside both of every other, but for K and the groups. Buffers are tight.
CASES = [(1, 2, False, 0), (2, 4, False, 2), (1, 4, True, 0), (2, 2, True, 2)]


def model_of(k, members, priority, group, *, partition):
    return ModelConfig(
        hidden=D,
        mlp=12,
        experts=E,
        k=k,
        members=members,
        tile=True,
        partition=partition,
        batch_priority=priority,
        group_images=group,
        capacity_factor=0.7,
        eval_capacity_factor=0.9,
        expert_dropout=0.1,
    )


def numbers(partition):
    values = {"router_noise": 2.0, "importance_weight": 0.5, "load_weight": 0.25, "expert_dropout": 0.3}
    return {f"model.{name}": jnp.float32(value) for name, value in values.items()} | {"model.partition": jnp.bool_(partition)}


def close(found, expected):
    assert np.linalg.norm(found - expected) <= CLOSE * np.linalg.norm(expected)


def passes(layer):
    """Compiled: training and evaluation of a layer, each with outputs, losses and every gradient."""

    def loss(params, x, weight, traced, train):
        rngs = {"gating": jax.random.key(5), "dropout": jax.random.key(6)}
        y, auxiliary = layer.apply({"params": params}, x, traced, train=train, rngs=rngs)
        return jnp.sum(weight * y) + auxiliary, (y, auxiliary)

    def both(params, x, weight, traced):
        differentiate = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
        return [differentiate(params, x, weight, traced, train) for train in (True, False)]

    return jax.jit(both, compiler_options={"xla_backend_optimization_level": 0})


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_traced_form_computes_what_the_plain_one_does(case):
    members, random = case[1], np.random.default_rng(0)
    x, weight = random.normal(size=(2, members * IMAGES, T, D)).astype(np.float32)
    rate = "model.expert_dropout"
    masked = SparseMlp(model_of(*case, partition=False), rate, n_copies=members)
    shapes = jax.eval_shape(lambda: masked.init(jax.random.key(0), x, numbers(False), train=False)["params"])
    params = jax.tree.map(lambda leaf: jnp.asarray(random.normal(size=leaf.shape, scale=0.5), jnp.float32), shapes)
    traced_form = passes(masked)
    outputs = []
    for partition in (False, True):
        plain_form = passes(SparseMlp(model_of(*case, partition=partition), rate, True, members))
        found, expected = (form(params, x, weight, numbers(partition)) for form in (traced_form, plain_form))
        for ((_, ours), our_gradients), ((_, theirs), their_gradients) in zip(found, expected, strict=True):
            jax.tree.map(close, (ours, our_gradients), (theirs, their_gradients))
        outputs.append(found[0][0][1][0])
    assert np.abs(outputs[0] - outputs[1]).max() > 0.1, "partitioning changed nothing"


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_traced_form_chooses_the_same_experts_and_slots(case):
    k, members, priority, group = case
    size, groups = (group or IMAGES) * T, IMAGES // (group or IMAGES)
    random = np.random.default_rng(1)
    tokens = random.normal(size=(members, groups, size, D)).astype(np.float32)
    kernel = {"params": {"kernel": random.normal(size=(D, E)).astype(np.float32)}}
    sigma, rngs, slots = jnp.float32(0.5), {"gating": jax.random.key(3)}, k * members * size * 3 // (4 * E)

    def decided(router, **partition):
        routing = router.apply(kernel, tokens, sigma=sigma, rngs=rngs, **partition)
        is_shared = router.routers == 1
        confidence = routing.gate[..., 0] if priority else None
        places = place(routing.expert, experts=E // router.routers, is_shared=is_shared, capacity=slots, confidence=confidence)
        owned = routing.expert if is_shared else routing.expert + E // members * jnp.arange(members)[:, None, None, None]
        return owned, places.slot, places.assignment

    for partition in (False, True):
        found = jax.jit(lambda on: decided(Router(E, 1, k), partition=on))(jnp.bool_(partition))
        plain = Router(E, members if partition else 1, k)
        expected = jax.jit(lambda router=plain: decided(router))()
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        assert (np.asarray(found[1]) == len(found[2])).any(), "no buffer was full"


@pytest.fixture(scope="module")
def chunk():
    program = Program(build(VisionConfig, flat_of(Vision(), TINY_VISION)))
    return jax.jit(program.init), jax.jit(program.chunk)


def test_arms_of_one_program_start_alike_and_train_apart(chunk):
    init, train = chunk
    data = TrainData(np.random.default_rng(0).integers(0, 256, (20, 8, 8, 1), np.uint8), np.arange(20, dtype=np.int32) % 10)
    ended = []
    for partition in (False, True):
        arm = traced_numbers(flat_of(Vision(), TINY_VISION | {"model.partition": partition}))
        start = init(root_key(0), arm)
        ended.append((start, train(start, arm, np.int32(2), data)))
    (start, one), (again, two) = ended
    jax.tree.map(np.testing.assert_array_equal, start.params, again.params)
    assert np.abs(one.params["block_1"]["moe"]["router"]["kernel"] - two.params["block_1"]["moe"]["router"]["kernel"]).max() > 1e-4
