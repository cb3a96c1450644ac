"""Costs against the initialised models, the published figures, and what XLA counts."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from trainers.config import DataConfig, ModelConfig, TrainConfig, VisionConfig
from trainers.flops import cost
from trainers.losses import training_loss
from trainers.models import make_model

TINY = ModelConfig(hidden=16, mlp=24, depth=4, heads=2, patch=2, experts=4, k=1)
E3 = dataclasses.replace(TINY, members=2, tile=True, partition=True)
TINY_MODELS = {
    "ViT": dataclasses.replace(TINY, moe_placement="none"),
    "ViT with a tanh layer": dataclasses.replace(TINY, moe_placement="none", representation=7, patch=4),
    "V-MoE": dataclasses.replace(TINY, k=2),
    "V-MoE in every block": dataclasses.replace(TINY, moe_placement="every", moe_layers=1),
    "E³": E3,
    "tiling": dataclasses.replace(E3, partition=False, moe_layers=1),
    "partitioning": dataclasses.replace(E3, tile=False),
}
NUMBERS = {
    f"model.{name}": jnp.float32(0)
    for name in ("router_noise", "dropout", "expert_dropout", "attention_dropout", "importance_weight", "load_weight", "head_bias")
} | {"model.partition": jnp.bool_(True)}
BASE_32 = ModelConfig(hidden=768, mlp=3072, depth=12, heads=12, patch=32, experts=32, k=2, capacity_factor=1.5)
IMAGENET = DataConfig(dataset="imagenet2012", classes=1000, image_size=384, channels=3)


def shapes(model, data):
    module, image = make_model(model, data), jnp.zeros((1, data.image_size, data.image_size, data.channels))
    return jax.eval_shape(lambda key: module.init(key, image, NUMBERS, train=False)["params"], jax.random.key(0))


@pytest.mark.parametrize("name", TINY_MODELS)
@pytest.mark.parametrize("channels", [1, 3])
def test_parameters_are_those_of_the_initialised_model(name, channels):
    data = DataConfig(image_size=8, channels=channels, classes=5)
    found = cost(VisionConfig(model=TINY_MODELS[name], data=data))["cost/parameters"]
    assert found == sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes(TINY_MODELS[name], data)))


# With a tanh layer, 18,291 classes and 224 pixels; the published counts of Riquelme et al. (2021).
@pytest.mark.parametrize(
    ("size", "placement", "n", "millions"),
    [
        ("S", "none", 1, 36.5),
        ("B", "none", 1, 102.1),
        ("L", "none", 1, 325.3),
        ("H", "none", 1, 655.8),
        ("S", "every", 2, 296.9),
        ("B", "every", 2, 980.6),
        ("L", "last", 2, 845.8),
        ("H", "last", 5, 2688.6),
    ],
)
def test_parameters_are_the_published_ones(size, placement, n, millions):
    widths = {"S": (512, 2048, 8, 8, 32), "B": (768, 3072, 12, 12, 32), "L": (1024, 4096, 24, 16, 32), "H": (1280, 5120, 32, 16, 14)}
    model = ModelConfig(
        **dict(zip(("hidden", "mlp", "depth", "heads", "patch"), widths[size], strict=True)),
        representation=widths[size][0],
        experts=32,
        moe_placement=placement,
        moe_layers=n,
    )
    data = DataConfig(image_size=224, classes=18291, channels=3)
    assert cost(VisionConfig(model=model, data=data))["cost/parameters"] / 1e6 == pytest.approx(millions, abs=0.06)


@pytest.mark.parametrize(
    ("changes", "published"),
    [({"moe_placement": "none"}, 78.0), ({}, 94.9), ({"k": 1, "members": 2, "tile": True, "partition": True}, 105.9)],
    ids=["ViT", "V-MoE", "E³"],
)
@pytest.mark.parametrize(("batch", "group"), [(512, 0), (512, 16), (512, 32), (1024, 0), (128, 0)])
def test_training_gflops_are_the_published_ones_within_half_a_percent(changes, published, batch, group):
    model = dataclasses.replace(BASE_32, group_images=group, **changes)
    config = VisionConfig(model=model, data=IMAGENET, train=TrainConfig(batch_size=batch))
    assert cost(config)["cost/train_gflops"] == pytest.approx(published, rel=0.005)


def test_small_groups_cost_more_because_buffers_are_rounded_up():
    def gflops(group):
        return cost(VisionConfig(model=dataclasses.replace(BASE_32, group_images=group), data=IMAGENET))["cost/train_gflops"]

    assert gflops(1) > gflops(8) > gflops(16)
    assert gflops(8) == pytest.approx(94.9, rel=0.007)


def test_inference_costs_a_third_of_training_when_buffers_are_equal():
    model = dataclasses.replace(BASE_32, moe_placement="none")
    figures = cost(VisionConfig(model=model, data=IMAGENET))
    assert figures["cost/train_gflops"] == pytest.approx(3 * figures["cost/inference_gflops"])
    assert figures["cost/inference_gflops"] == pytest.approx(26.1, rel=0.002)
    wide = cost(VisionConfig(model=BASE_32, data=IMAGENET))
    assert wide["cost/inference_gflops"] > wide["cost/train_gflops"] / 3


@pytest.mark.parametrize("name", ["ViT", "V-MoE", "E³", "tiling", "partitioning"])
def test_what_xla_counts_is_a_little_more_than_the_matrix_products(name):
    # Wide enough that element-wise work, which is not counted here, is small beside them.
    model = dataclasses.replace(TINY_MODELS[name], hidden=128, mlp=512, depth=2, moe_layers=1, heads=2)
    data, batch = DataConfig(image_size=8), 8
    module = make_model(model, data)

    def loss(params, images, labels):
        rngs = {"dropout": jax.random.key(0), "gating": jax.random.key(1)}
        return training_loss(module.apply({"params": params}, images, NUMBERS, train=True, rngs=rngs), labels)

    images, labels = jnp.zeros((batch, 8, 8, 1)), jnp.zeros((batch, 10))
    counted = jax.jit(jax.grad(loss)).lower(shapes(model, data), images, labels).cost_analysis()["flops"] / batch / 1e9
    ours = cost(VisionConfig(model=model, data=data, train=TrainConfig(batch_size=batch)))["cost/train_gflops"]
    assert ours < counted < 1.06 * ours


def test_costs_and_checks_need_no_jax():
    code = "import sys, trainers.flops, trainers.constraints; sys.exit(any(name in sys.modules for name in ('jax', 'flax', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
