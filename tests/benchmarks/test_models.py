"""The contenders of benchmarks/models.py: equal configs, turns that are fair, and ours computing what a trial computes."""

from __future__ import annotations

import dataclasses
import pathlib

import jax
import numpy as np
import pytest

from benchmarks import models
from benchmarks.contenders import authors, cases, ours
from benchmarks.contenders.rounds import Spread, timed
from trainers.constraints import problems


@pytest.mark.parametrize("method", cases.METHODS)
@pytest.mark.parametrize("size", cases.SIZES)
def test_every_case_is_a_config_that_can_be_trained(size: str, method: str) -> None:
    config = cases.config(size, method)
    assert problems(config) == []
    assert cases.still(config).model == dataclasses.replace(config.model, expert_dropout=0.0, router_noise=0.0)


def test_contenders_take_turns_and_each_begins_as_often() -> None:
    said: list[str] = []
    found = timed({name: lambda name=name: said.append(name) or np.zeros(()) for name in ("ours", "theirs")}, 4)
    rounds = [name for name, before in zip(said[1:], said, strict=False) if name != before]
    assert rounds.count("ours") >= 3
    assert rounds.count("theirs") >= 3
    assert set(found.cpu_ratio) == set(found.wall_ratio) == {"theirs"}


def test_a_spread_is_the_median_and_the_middle_half() -> None:
    assert Spread.of([4.0, 1.0, 2.0, 3.0, 100.0]) == Spread(median=3.0, low=2.0, high=4.0)


def test_ours_predicts_every_image_once_a_member_and_every_step_is_another() -> None:
    small = cases.config("digits", "E³")
    model = dataclasses.replace(small.model, hidden=8, mlp=8, depth=2, heads=2, patch=4, experts=4, moe_layers=1)
    config = dataclasses.replace(small, model=model, train=dataclasses.replace(small.train, batch_size=8))
    contender = ours.contender(config)
    forward, step = models.calls(contender, config)
    logits = np.asarray(forward())
    assert logits.shape == (2, 8, 10)
    assert len(np.unique(logits)) == logits.size, "a prediction says nothing"
    first, second = step(), step()
    assert (int(first.step), int(second.step)) == (1, 2)
    assert models.compared(second.params, first.params) > 0


def test_a_distance_is_relative() -> None:
    tree = {"a": jax.numpy.ones(4), "b": jax.numpy.zeros(3)}
    assert models.compared({"a": tree["a"] * 1.5, "b": tree["b"]}, tree) == pytest.approx(0.5)


def test_a_checkout_without_the_code_is_named(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authors, "PACKAGES", ("no_such_package",))
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(FileNotFoundError, match=f"no package no_such_package in {tmp_path}"):
        authors.find([tmp_path])
