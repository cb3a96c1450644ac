"""What is overheard of a model: the features that its head reads, and the tokens that its routers send."""

from __future__ import annotations

import pathlib
from typing import Any

import jax
import numpy as np
import pytest

from orchestrator.contract import build
from tests.trainers.scripted import TINY_VISION, lane
from trainers.config import VisionConfig
from trainers.observe import observer
from trainers.step import Program, root_key, traced_numbers
from trainers.vision import Vision

N = 3
ARMS = {
    "E³": {},
    "tiled": {"model.partition": False},
    "partitioned, untiled": {"model.tile": False},
    "V-MoE": {"model.tile": False, "model.partition": False, "model.members": 1, "model.k": 2},
    "dense": {"model.moe_placement": "none", "model.tile": False, "model.partition": False, "model.members": 1},
    "tanh": {"model.representation": 5},
}


@pytest.fixture(scope="module", params=list(ARMS))
def arm(request: pytest.FixtureRequest) -> tuple[str, Program, Any, Any, np.ndarray]:
    flat = lane(Vision(), pathlib.Path(), {**TINY_VISION, **ARMS[request.param]}).config
    program, numbers = Program(build(VisionConfig, flat)), traced_numbers(flat)
    params = jax.jit(program.init)(root_key(0), numbers).params
    head = params["head"]
    head["kernel"] = np.random.default_rng(0).normal(size=head["kernel"].shape).astype(np.float32)  # starts at zero
    images = np.random.default_rng(1).integers(0, 256, (N, 8, 8, 1), dtype=np.uint8)
    return request.param, program, params, numbers, images


def test_features_and_the_head_make_the_logits_and_all_tokens_are_counted(arm: tuple[str, Program, Any, Any, np.ndarray]) -> None:
    name, program, params, numbers, images = arm
    found = observer(program)(params, numbers, images)
    logits = np.asarray(jax.jit(program.member_logits)(params, numbers, images))
    members, config = len(logits), program.config.model
    assert found.features.shape == (N, members * (config.representation or config.hidden))
    each = np.asarray(found.features).reshape(N, members, -1).swapaxes(0, 1)
    np.testing.assert_allclose(each @ params["head"]["kernel"] + params["head"]["bias"], logits, rtol=1e-4, atol=1e-4)
    if name == "dense":
        assert found.tokens.shape == (N, 0, 4)
        return
    assert found.tokens.shape == (N, 1, 4)
    copies = 1 if name == "V-MoE" else 2  # of members, or of routers
    assert np.asarray(found.tokens).sum(axis=-1).tolist() == [[5 * copies * config.k]] * N  # four patches and a class token
    if name in ("E³", "partitioned, untiled", "tanh"):
        halves = np.asarray(found.tokens)[:, 0].reshape(N, 2, 2).sum(axis=-1)
        assert halves.tolist() == [[5 * config.k, 5 * config.k]] * N  # each member or router sends all of its tokens to its own half


def test_models_that_differ_in_traced_values_share_a_program() -> None:
    one, other = (
        Program(build(VisionConfig, lane(Vision(), pathlib.Path(), {**TINY_VISION, "optim.learning_rate": rate}).config))
        for rate in (0.1, 0.2)
    )
    assert observer(one) is observer(other)
