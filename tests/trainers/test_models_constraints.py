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
}

BAD = {
    "patch": ({"patch": 3}, "model.patch does not divide data.image_size", "1, 2, 4, 8"),
    "heads": ({"heads": 5}, "model.heads does not divide model.hidden", "1, 2, 4, 8, 16, 32"),
    "last": ({"moe_layers": 3}, "more sparse blocks than there are odd ones", "1 to 2"),
    "one block": ({"depth": 1, "moe_layers": 1}, "more sparse blocks than there are odd ones", "2 blocks"),
    "every": ({"moe_placement": "every", "moe_layers": 5}, "leaves no block sparse", "1 to 4"),
    "dense members": ({"moe_placement": "none", "members": 2}, "needs sparse blocks", "model.members=1"),
    "dense tile": ({"moe_placement": "none", "tile": True}, "needs sparse blocks", "untiled"),
    "dense partition": ({"moe_placement": "none", "partition": True}, "needs sparse blocks", "unpartitioned"),
    "tile one": ({"tile": True}, "tile and partition need several members", "2 or more"),
    "partition one": ({"partition": True}, "tile and partition need several members", "2 or more"),
    "idle members": ({"members": 2}, "model.members has no effect", "both (E³)"),
    "indivisible": ({"members": 3, "tile": True, "partition": True, "k": 1}, "model.members does not divide model.experts", "1, 2, 4, 8"),
    "k in a partition": ({"members": 4, "partition": True, "k": 3}, "model.k is more than a router has experts", "experts / members"),
    "k": ({"k": 9}, "model.k is more than a router has experts", "1 to 8"),
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
    model = ModelConfig(patch=3, heads=5, moe_layers=3, members=3, partition=True, k=3, group_images=5)
    config = VisionConfig(model=model, eval=EvalConfig(batch_size=7))
    assert len(problems(config)) == 6


def test_a_dense_model_may_carry_the_settings_of_a_sparse_one():
    assert problems(VisionConfig(model=ModelConfig(moe_placement="none", k=99, moe_layers=9, group_images=5))) == []


def test_the_paper_scale_is_possible():
    model = ModelConfig(hidden=768, mlp=3072, depth=12, heads=12, patch=32, experts=32, k=1, members=2, tile=True, partition=True)
    assert problems(VisionConfig(model=model, data=DataConfig(image_size=384), train=TrainConfig(batch_size=512))) == []
