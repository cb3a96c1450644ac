"""Every impossible model is refused with what was found, what would be right and what to do; the possible ones are not."""

from __future__ import annotations

import pytest

from trainers.config import DataConfig, EvalConfig, ModelConfig, TrainConfig, VisionConfig
from trainers.constraints import problems

GOOD = {
    "default": {},
    "ViT": {"moe_placement": "none"},
    "V-MoE": {"k": 4},
    "E³": {"members": 2, "tile": True, "partition": True, "k": 4},
    "tiling": {"members": 4, "tile": True, "k": 8},
    "partitioning": {"members": 8, "partition": True, "k": 1},
    "every block": {"moe_placement": "every", "moe_layers": 1},
    "groups": {"group_images": 8},
    "patches that leave pixels out": {"patch": 3},
    "BatchEnsemble ViT": {"moe_placement": "none", "members": 2, "tile": True, "tile_at": 2, "batch_ensemble": True},
    "BatchEnsemble V-MoE": {"depth": 6, "members": 2, "tile": True, "tile_at": 0, "batch_ensemble": True},
    "MIMO V-MoE": {"members": 4, "mimo": True, "batch_repetition": 2, "input_repetition": 0.6},
    "MIMO ViT": {"moe_placement": "none", "members": 2, "mimo": True},
    "MC-dropout V-MoE": {"k": 1, "members": 2, "tile": True, "tile_at": 2, "mc_dropout": True, "expert_dropout": 0.1},
    "overlap": {"members": 2, "tile": True, "partition": True, "overlap": 4, "k": 8},
    "heads": {"members": 2, "tile": True, "partition": True, "member_heads": True, "member_loss": "mean"},
    "heads, untiled": {"members": 2, "member_heads": True},
    "heads, partitioned, untiled": {"members": 2, "partition": True, "member_heads": True},
}

BAD = {
    "patch": ({"patch": 9}, "model.patch is larger than the image", "1, 2, 4, 8"),
    "heads": ({"heads": 5}, "model.heads does not divide model.hidden", "1, 2, 4, 8, 16, 32"),
    "last": ({"moe_layers": 3}, "more sparse blocks than there are odd ones", "1 to 2"),
    "one block": ({"depth": 1, "moe_layers": 1}, "more sparse blocks than there are odd ones", "2 blocks"),
    "every": ({"moe_placement": "every", "moe_layers": 5}, "leaves no block sparse", "1 to 4"),
    "dense members": ({"moe_placement": "none", "members": 2}, "needs sparse blocks", "model.members=1"),
    "dense tile": ({"moe_placement": "none", "tile": True}, "needs sparse blocks", "untiled"),
    "dense partition": ({"moe_placement": "none", "partition": True}, "needs sparse blocks", "unpartitioned"),
    "tile one": ({"tile": True}, "an ensemble needs several members", "2 or more"),
    "partition one": ({"partition": True}, "an ensemble needs several members", "2 or more"),
    "idle members": ({"members": 2}, "model.members has no effect", "both (E³)"),
    "indivisible": ({"members": 3, "tile": True, "partition": True, "k": 1}, "model.members does not divide model.experts", "1, 2, 4, 8"),
    "k in a partition": ({"members": 4, "partition": True, "k": 3}, "model.k is more than a router has experts", "experts / members"),
    "k": ({"k": 9}, "model.k is more than a router has experts", "1 to 8"),
    "dense heads": ({"moe_placement": "none", "members": 2, "tile": True, "member_heads": True}, "model.tile_at has to say", "0 to 3"),
    "tile nowhere": ({"members": 2, "tile": True, "tile_at": 4}, "model.tile_at is not a block", "0 to 3"),
    "tile late": (
        {"members": 2, "tile": True, "partition": True, "tile_at": 2},
        "the first partitioned block lies before",
        "0 to 1, or -1",
    ),
    "tile for nothing": (
        {"depth": 3, "moe_layers": 1, "members": 2, "tile": True, "tile_at": 2},
        "members would be equal",
        "0 to 1, or -1",
    ),
    "tile_at untiled": ({"tile_at": 1}, "model.tile_at has no effect", "model.tile=True"),
    "MIMO one": ({"mimo": True}, "an ensemble needs several members", "2 or more"),
    "MIMO tiled": ({"mimo": True, "members": 2, "tile": True}, "MIMO members share one pass", "model.tile=False"),
    "repeat without MIMO": ({"batch_repetition": 2}, "model.batch_repetition has no effect", "model.mimo=True"),
    "share without MIMO": ({"input_repetition": 0.5}, "model.input_repetition has no effect", "model.mimo=True"),
    "overlap alone": ({"overlap": 1}, "model.overlap has no effect", "model.partition=True"),
    "overlap": ({"members": 2, "partition": True, "overlap": 5}, "model.overlap is more than the other members have", "0 to 4"),
    "k in an overlap": (
        {"members": 4, "partition": True, "overlap": 1, "k": 4},
        "more than a router has experts",
        "experts / members + overlap",
    ),
    "fast weights nowhere": ({"batch_ensemble": True}, "model.batch_ensemble has no effect", "a dense MLP in a tiled block"),
    "no dense block left": (
        {"batch_ensemble": True, "members": 2, "tile": True, "tile_at": 3},
        "model.batch_ensemble has no effect",
        "a dense MLP in a tiled block",
    ),
    "no dropout to keep": (
        {"members": 2, "tile": True, "mc_dropout": True},
        "model.mc_dropout has no effect",
        "model.expert_dropout above 0",
    ),
    "mean of one": ({"member_loss": "mean"}, "model.member_loss has no effect", "several predictions"),
    "rate under AdamW": (
        {"moe_placement": "none", "members": 2, "tile": True, "tile_at": 2, "batch_ensemble": True, "fast_weight_rate": 2.0},
        "no effect under AdamW",
        "optim.name='sgd'",
    ),
    "group": ({"group_images": 5}, "train.batch_size is not a multiple of model.group_images", "such as 35"),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_possible_model_has_no_problem(name):
    assert problems(VisionConfig(model=ModelConfig(**GOOD[name]))) == []


@pytest.mark.parametrize("name", BAD)
def test_an_impossible_model_is_refused_once_and_says_what_to_do(name):
    changes, what, expected = BAD[name]
    (problem,) = problems(VisionConfig(model=ModelConfig(**changes)))
    assert what in problem.what
    assert expected in problem.expected
    assert problem.found
    assert problem.fix


def test_all_problems_are_told_at_once():
    model = ModelConfig(patch=9, heads=5, moe_layers=3, members=3, partition=True, k=3, group_images=5)
    config = VisionConfig(model=model, eval=EvalConfig(batch_size=7))
    assert len(problems(config)) == 6


def test_a_dense_model_may_carry_the_settings_of_a_sparse_one():
    assert problems(VisionConfig(model=ModelConfig(moe_placement="none", k=99, moe_layers=9, group_images=5))) == []


def test_the_paper_scale_is_possible():
    model = ModelConfig(hidden=768, mlp=3072, depth=12, heads=12, patch=32, experts=32, k=1, members=2, tile=True, partition=True)
    assert problems(VisionConfig(model=model, data=DataConfig(image_size=384), train=TrainConfig(batch_size=512))) == []
