"""What is left of the methods: dropout that stays on, heads of members, and one training step of each through the lane's program."""

from __future__ import annotations

import dataclasses
import zlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from orchestrator.contract import build
from tests.trainers.scripted import TINY_VISION, flat_of
from trainers.config import DataConfig, ModelConfig, VisionConfig
from trainers.models import make_model
from trainers.models.draws import uniform
from trainers.models.experts import Experts
from trainers.step import Program, root_key, traced_numbers
from trainers.vision import Vision

TINY = ModelConfig(hidden=8, mlp=12, depth=2, heads=2, patch=2, moe_layers=1, experts=4, k=1)
SAMPLED = dataclasses.replace(TINY, members=2, tile=True, tile_at=1, moe_placement="every", mc_dropout=True, expert_dropout=0.1)
DATA = DataConfig(image_size=4, channels=2, classes=3)
RATE = "model.expert_dropout"


def test_dropout_that_stays_on_zeroes_and_scales_in_evaluation_by_the_same_draws_each_time():
    random = np.random.default_rng(0)
    layer = Experts(dataclasses.replace(TINY, experts=2), RATE, is_sampled=True)
    x, filled, rate = random.normal(size=(2, 5, 8)).astype(np.float32), jnp.full(2, 5), np.float32(0.3)
    variables = layer.init({"params": jax.random.key(0), "dropout": jax.random.key(1)}, x, filled, {RATE: rate}, train=False)
    found = layer.apply(variables, x, filled, {RATE: rate}, train=False)
    y = x
    for index in (0, 1):
        linear = variables["params"][f"Linear_{index}"]
        y = np.einsum("esi,eio->eso", y, linear["kernel"]) + np.asarray(linear["bias"])[:, None]
        y = np.asarray(nn.gelu(y)) if index == 0 else y
        kept = np.asarray(uniform(jax.random.key(zlib.crc32(f" {index}".encode())), (1, *y.shape[1:]))) >= rate
        assert 0 < kept.mean() < 1
        y = np.where(kept, y / (1 - rate), 0.0)
    np.testing.assert_allclose(found, y, atol=1e-5)
    np.testing.assert_array_equal(layer.apply(variables, x, filled, {RATE: rate}, train=False), found)
    drawn = layer.apply(variables, x, filled, {RATE: rate}, train=False, rngs={"dropout": jax.random.key(7)})
    assert (np.asarray(drawn) != np.asarray(found)).any(), "a stream of draws was given"


@pytest.fixture(scope="module")
def sampled():
    module = make_model(SAMPLED, DATA)
    numbers = {f"model.{name}": jnp.float32(0.0) for name in ("importance_weight", "load_weight", "head_bias", "router_noise")}
    numbers |= {"model.partition": jnp.bool_(False)}
    random = np.random.default_rng(0)
    images = random.uniform(-1, 1, size=(6, 4, 4, 2)).astype(np.float32)
    rate_zero = numbers | {RATE: jnp.float32(0.0)}
    shapes = jax.eval_shape(lambda: module.init({"params": jax.random.key(0)}, images, rate_zero, train=False)["params"])
    params = jax.tree.map(lambda leaf: jnp.asarray(random.normal(size=leaf.shape, scale=0.4), jnp.float32), shapes)
    evaluate = jax.jit(lambda rate: module.apply({"params": params}, images, numbers | {RATE: rate}, train=False).logits)
    return lambda rate: np.asarray(evaluate(jnp.float32(rate)))


def test_members_are_samples_of_dropout_and_evaluation_repeats_them(sampled):
    logits = sampled(0.5)
    assert logits.shape == (2, 6, 3)
    assert np.abs(logits[0] - logits[1]).max() > 1e-2
    np.testing.assert_array_equal(logits, sampled(0.5))
    still = sampled(0.0)
    np.testing.assert_allclose(still[0], still[1], atol=1e-6)


def test_a_layer_before_the_batch_is_tiled_drops_nothing_in_evaluation():
    module, seen = make_model(SAMPLED, DATA), {}

    def spy(next_function, arguments, keywords, context):
        if isinstance(context.module, Experts):
            seen[context.module.path[0]] = context.module.is_sampled
        return next_function(*arguments, **keywords)

    numbers = {f"model.{name}": jnp.float32(0.1) for name in ("importance_weight", "load_weight", "head_bias", "expert_dropout")}
    numbers |= {"model.partition": jnp.bool_(False)}
    with nn.intercept_methods(spy):
        jax.eval_shape(lambda: module.init({"params": jax.random.key(0)}, jnp.zeros((1, 4, 4, 2)), numbers, train=False))
    assert seen == {"block_0": False, "block_1": True}


@pytest.mark.parametrize("tile", [False, True])
def test_heads_of_members_start_apart_exactly_where_nothing_else_would_part_them(tile):
    model = dataclasses.replace(TINY, members=2, tile=tile, partition=tile, member_heads=True)
    module = make_model(model, DATA)
    numbers = {"model.head_bias": jnp.float32(-10.0), "model.partition": jnp.bool_(True)}
    numbers |= {"model.importance_weight": jnp.float32(0.0), "model.load_weight": jnp.float32(0.0)}
    params = jax.jit(lambda: module.init({"params": jax.random.key(0)}, jnp.zeros((1, 4, 4, 2)), numbers, train=False)["params"])()
    kernel, bias = params["head"]["kernel"], params["head"]["bias"]
    assert np.all(bias == -10.0)
    if tile:
        assert kernel.shape == (2, 8, 3)
        assert not kernel.any()
    else:
        assert kernel.shape == (8, 6)
        assert (kernel[:, :3] != kernel[:, 3:]).all()


PLAIN = {"model.tile": False, "model.partition": False, "model.members": 1}
METHODS = {
    "overlapping windows, own heads, loss of the mean": {"model.overlap": 1, "model.member_heads": True, "model.member_loss": "mean"},
    "MIMO": PLAIN | {"model.members": 3, "model.mimo": True, "model.batch_repetition": 2, "model.input_repetition": 0.5},
    "MC dropout with fast weights": {
        "model.depth": 3,
        "model.tile_at": 1,
        "model.partition": False,
        "model.mc_dropout": True,
        "model.batch_ensemble": True,
        "model.fast_weight_rate": 0.5,
        "optim.name": "sgd",
    },
}


@pytest.mark.parametrize("name", METHODS)
def test_a_step_at_a_router_of_zeros_is_finite_and_moves_every_member(name):
    flat = flat_of(Vision(), TINY_VISION | METHODS[name])
    program, numbers = Program(build(VisionConfig, flat)), traced_numbers(flat)
    images = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 1), np.uint8)
    options = {"xla_backend_optimization_level": 0}

    def two_steps(key, numbers, images, labels):
        state = program.init(key, numbers)
        zero = jax.tree_util.tree_map_with_path(lambda path, leaf: 0 * leaf if "router" in str(path) else leaf, state.params)
        state = state._replace(params=zero)
        for _ in range(2):
            state = program.step(state, images, labels, numbers)
        return zero, state, program.member_logits(state.params, numbers, images)

    before, state, logits = jax.jit(two_steps, compiler_options=options)(root_key(0), numbers, images, np.arange(8, dtype=np.int32))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((state.params, logits)))
    assert logits.shape == (flat["model.members"], 8, 10)
    moved = jax.tree.map(lambda one, two: (one != two).any(), before, state.params)
    assert all(jax.tree.leaves(moved)), jax.tree_util.tree_map_with_path(lambda path, leaf: (path, leaf), moved)
