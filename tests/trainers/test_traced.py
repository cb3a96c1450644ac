"""Traced and static fields of the vision config: which share a program, and that no traced value is ignored in it."""

from __future__ import annotations

import functools
import pathlib
from typing import Any

import jax
import numpy as np
import pytest

from orchestrator.config import Leaf
from orchestrator.contract import build, flatten, leaves, signature_of
from orchestrator.load import load_study
from tests.trainers.scripted import TINY_VISION, flat_of
from trainers.config import VisionConfig
from trainers.step import Program, TrainData, root_key, traced_numbers
from trainers.vision import Vision

LEAVES = leaves(VisionConfig)
EVERYTHING_ON = TINY_VISION | {
    "model.attention_dropout": 0.1,
    "augment.mixup": 0.2,
    "augment.crop": True,
    "augment.flip": True,
    "augment.randaugment_layers": 1,
    "optim.warmup_steps": 1,
    "optim.weight_decay": 0.1,
    "optim.clip_norm": 0.1,
}


def everything_on(**changes: Any) -> dict[str, Any]:
    return {**flat_of(Vision(), EVERYTHING_ON), **changes}


def other_value(leaf: Leaf, value: Any) -> Any:
    if leaf.type is bool:
        return not value
    if leaf.type is str:
        return next((choice for choice in leaf.setting.choices if choice != value), f"not {value}")
    if leaf.type is int:
        return value + 1
    return value * 0.5 if value else 0.25


def signature(flat: dict[str, Any]) -> str:
    return signature_of(VisionConfig, flat, program="test 1")


@pytest.mark.parametrize("tile", [False, True])
@pytest.mark.parametrize("key", LEAVES)
def test_a_field_changes_the_signature_exactly_when_it_is_static(key: str, tile: bool) -> None:
    flat = everything_on() | {"model.tile": tile}
    changed = flat | {key: other_value(LEAVES[key], flat[key])}
    assert (signature(changed) == signature(flat)) == (LEAVES[key].is_traced_in(flat) or LEAVES[key].setting.outside)
    assert (key in traced_numbers(flat)) == LEAVES[key].is_traced_in(flat)


@pytest.mark.parametrize("key", [key for key, leaf in LEAVES.items() if leaf.setting.switch])
def test_a_switch_changes_the_signature_when_it_is_turned_off(key: str) -> None:
    assert signature(everything_on() | {key: 0.0}) != signature(everything_on())


def test_the_fields_of_usual_ablations_are_traced() -> None:
    wanted = ("model.partition", "model.router_noise", "model.dropout", "augment.mixup", "optim.weight_decay", "optim.warmup_steps")
    flat = everything_on()
    assert all(LEAVES[key].is_traced_in(flat) for key in (*wanted, "train.steps", "optim.learning_rate", "model.load_weight"))


def test_what_a_trial_starts_from_and_leaves_is_outside_its_program() -> None:
    outside = {key for key, leaf in LEAVES.items() if leaf.setting.outside}
    assert outside == {"start.parameters", "start.fresh_head", "train.keep_parameters"}
    assert Vision.keeps in outside


@pytest.mark.parametrize("profile", ["laptop", "paper"])
def test_the_arms_of_the_ablation_share_four_programs(profile: str) -> None:
    study = load_study(pathlib.Path(__file__).parents[2] / "studies" / "ablation.py").study.for_profile(profile)
    base = flatten(study.base)
    found = {arm.name: signature(base | dict(arm.overrides)) for arm in study.arms}
    assert len(found) == 7
    assert len(set(found.values())) == 4
    assert len({found[name] for name in ("E³", "Tiling", "Tiling (σ×2)", "Tiling (σ×4)")}) == 1


@functools.cache
def trained(optimizer: str) -> Any:
    """Compiled once for each optimizer: a few steps from the start, to the parameters."""
    program = Program(build(VisionConfig, everything_on(**{"optim.name": optimizer})))
    random = np.random.default_rng(0)
    data = TrainData(random.integers(0, 256, (20, 8, 8, 1), np.uint8), np.arange(20, dtype=np.int32) % 10)
    options = {"xla_backend_optimization_level": 0}
    init, chunk = (jax.jit(function, compiler_options=options) for function in (program.init, program.chunk))

    @functools.cache
    def run(key: str) -> list[np.ndarray]:
        flat = everything_on(**{"optim.name": optimizer})
        numbers = traced_numbers(flat | ({key: other_value(LEAVES[key], flat[key])} if key else {}))
        return jax.tree.leaves(jax.device_get(chunk(init(root_key(0), numbers), numbers, np.int32(4), data).params))

    return run


@pytest.mark.parametrize("key", traced_numbers(everything_on()))
def test_no_traced_value_is_ignored(key: str) -> None:
    run = trained("sgd" if key == "optim.momentum" else "adamw")
    assert any((one != other).any() for one, other in zip(run(key), run(""), strict=True))
