"""What one lane computes, step by step."""

from __future__ import annotations

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.contract import build
from tests.trainers.scripted import TINY_VISION, flat_of
from trainers.config import VisionConfig
from trainers.data import Split
from trainers.evaluate import EvalSplit, batch_size
from trainers.step import Program, TrainData, epoch_order, root_key, traced_numbers
from trainers.vision import Vision

DENSE = {"model.moe_placement": "none", "model.members": 1, "model.tile": False, "model.partition": False}


@settings(deadline=None)
@given(seed=st.integers(0, 2**31 - 1))
def test_the_root_of_a_small_seed_is_jaxs_own(seed: int) -> None:
    np.testing.assert_array_equal(root_key(seed), jax.random.key_data(jax.random.key(seed)))


def test_large_seeds_are_all_different() -> None:
    seeds = [0, 1, 2**31, 2**32, 2**32 + 1, 2**63]
    assert len({tuple(root_key(seed).tolist()) for seed in seeds}) == len(seeds)


def test_an_epoch_visits_every_image_once_and_each_epoch_in_another_order() -> None:
    root = jax.random.wrap_key_data(root_key(0))
    orders = [epoch_order(root, jnp.int32(epoch), 50).tolist() for epoch in range(3)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3


def batches_of(overrides: dict, monkeypatch: pytest.MonkeyPatch, seed: int, n_images: int = 20) -> list[list[int]]:
    """Images of each step, which are told apart by their label, as a spy in place of the step sees them."""
    program = Program(build(VisionConfig, flat_of(Vision(), TINY_VISION | overrides)))
    seen: list[list[int]] = []

    def spy(self, state, images, labels, traced):
        jax.debug.callback(lambda labels: seen.append(labels.tolist()), labels, ordered=True)
        return state._replace(step=state.step + 1)

    monkeypatch.setattr(Program, "step", spy)
    numbers = traced_numbers(flat_of(Vision(), TINY_VISION | overrides))
    state = jax.eval_shape(program.init, root_key(seed), numbers)
    state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), state)._replace(key=root_key(seed))
    data = TrainData(jnp.zeros((n_images, 8, 8, 1), jnp.uint8), jnp.arange(n_images))
    state = program.chunk(state, numbers, jnp.int32(3), data)
    program.chunk(state, numbers, jnp.int32(4), data)
    jax.effects_barrier()
    return seen


def test_the_data_order_is_the_seeds_whatever_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = batches_of({}, monkeypatch, seed=3)
    assert ours == batches_of(DENSE | {"model.depth": 1}, monkeypatch, seed=3)
    assert ours != batches_of({}, monkeypatch, seed=4)
    # 20 images in batches of 8: two a epoch, no image twice in one.
    assert len(ours) == 7
    assert all(len({*ours[step], *ours[step + 1]}) == 16 for step in (0, 2, 4))


def test_fewer_images_than_a_batch_are_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    for batch in batches_of({}, monkeypatch, seed=0, n_images=3):
        assert sorted(batch) in ([0, 0, 0, 1, 1, 1, 2, 2], [0, 0, 0, 1, 1, 2, 2, 2], [0, 0, 1, 1, 1, 2, 2, 2])


def test_traced_numbers_are_float32_int32_and_booleans() -> None:
    numbers = traced_numbers(flat_of(Vision(), TINY_VISION))
    assert {"train.steps", "optim.learning_rate", "model.dropout", "augment.mixup"} <= numbers.keys()
    assert not {"train.batch_size", "model.depth", "data.dataset"} & numbers.keys()
    assert {name: array.dtype.name for name, array in numbers.items() if array.dtype != np.float32} == {
        "train.steps": "int32",
        "optim.warmup_steps": "int32",
        "model.partition": "bool",
    }


@settings(deadline=None)
@given(n_images=st.integers(1, 40), batch=st.integers(1, 50))
def test_batches_of_a_split_hold_every_image_and_wrap_around(n_images: int, batch: int) -> None:
    images = np.arange(n_images, dtype=np.uint8).reshape(-1, 1, 1, 1)
    split = EvalSplit.cut(Split(images, np.arange(n_images, dtype=np.int32)), batch)
    rows = np.concatenate([np.asarray(part).ravel() for part in split.batches])
    assert {len(part) for part in split.batches} == {batch}
    assert len(split.batches) == -(-n_images // batch)
    np.testing.assert_array_equal(rows, np.arange(len(rows)) % n_images)


def test_the_evaluation_batch_is_the_validation_split_up_to_a_limit() -> None:
    assert [batch_size(0, 297), batch_size(0, 10_000), batch_size(64, 297)] == [297, 512, 64]


def test_no_module_of_the_plan_imports_jax() -> None:
    source = (pathlib.Path(__file__).parents[2] / "trainers" / "vision.py").read_text()
    assert "\nimport jax" not in source
