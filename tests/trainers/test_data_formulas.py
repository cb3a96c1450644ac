"""Images from formulas: the same for everybody, as many as asked for, and worth pre-training on."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.contract import DataError
from tests.trainers.scripted import ScriptedHost, flat_of, lane
from trainers import fewshot
from trainers.config import DataConfig
from trainers.data import Split, formulas, load
from trainers.vision import Vision

SMALL = DataConfig(dataset="formulas", classes=12, train_examples=300)
MEANS = ([69.837, 67.547], [70.129, 66.987], [70.125, 68.282])  # of the first and second fifty images of each split


@pytest.fixture(scope="module")
def splits() -> dict[str, Split]:
    return load(SMALL)


def test_splits_have_the_images_and_classes_that_are_asked_for(splits: dict[str, Split]) -> None:
    assert {name: split.images.shape for name, split in splits.items()} == {
        "train": (300, 8, 8, 1),
        "val": (120, 8, 8, 1),
        "test": (240, 8, 8, 1),
    }
    for split in splits.values():
        assert split.images.dtype == np.uint8
        assert np.bincount(split.labels).tolist() == [len(split.labels) // 12] * 12
    assert formulas.count(dataclasses.replace(SMALL, train_examples=0), "train") == 1200
    assert formulas.count(dataclasses.replace(SMALL, classes=1000), "val") == 1000


def test_the_same_images_are_drawn_everywhere(splits: dict[str, Split]) -> None:
    again = load(SMALL)
    assert all((again[name].images == split.images).all() for name, split in splits.items())
    # Coarse, since sines may differ in their last digit from machine to machine; a change of any seed or formula shows.
    rows = [[float(split.images[row : row + 50].mean()) for row in (0, 50)] for split in splits.values()]
    assert rows == [pytest.approx(row, abs=0.05) for row in MEANS]


def test_no_image_is_in_two_splits_or_twice_in_one(splits: dict[str, Split]) -> None:
    images = [image.tobytes() for split in splits.values() for image in split.images]
    assert len(set(images)) == len(images)


@given(n=st.integers(1, 600), more=st.integers(0, 300))
@settings(max_examples=10, deadline=None)
def test_the_first_images_do_not_depend_on_how_many_there_are(n: int, more: int) -> None:
    few, many = (formulas.images(dataclasses.replace(SMALL, train_examples=size), "train") for size in (n, n + more))
    assert (many[0][:n] == few[0]).all()
    assert (many[1][:n] == few[1]).all()


def test_a_class_is_the_same_formula_whatever_the_classes_pixels_and_channels(splits: dict[str, Split]) -> None:
    other = DataConfig(dataset="formulas", classes=24, image_size=32, channels=3, train_examples=24 * 100)
    large = formulas.images(other, "train")
    means = {label: large[0][large[1] == label].mean(axis=(0, 3)).reshape(8, 4, 8, 4).mean(axis=(1, 3)) for label in range(12)}
    small = {label: splits["train"].images[splits["train"].labels == label].mean(axis=(0, 3)) for label in range(12)}
    likeness = np.corrcoef([means[label].ravel() for label in range(12)], [small[label].ravel() for label in range(12)])[:12, 12:]
    assert (likeness.argmax(axis=1) == np.arange(12)).mean() > 0.8


def test_colours_tell_nothing_of_the_class_and_pens_leave_something() -> None:
    images, _ = formulas.images(dataclasses.replace(SMALL, channels=3, image_size=24), "train")
    assert (images.max(axis=(1, 2, 3)) > 60).all()
    assert (images[..., 0] != images[..., 1]).any()


def test_classes_can_be_told_apart_but_not_at_once(splits: dict[str, Split]) -> None:
    """A linear classifier of pixels is well above chance, and far from what a trained model reaches."""
    flat = {name: (split.images.reshape(len(split.images), -1) / 255.0, split.labels) for name, split in splits.items()}
    accuracy = fewshot.accuracies(flat["train"], flat["test"]).max()
    assert 0.3 < accuracy < 0.95


def test_what_would_not_fit_in_memory_is_said_by_the_plan() -> None:
    config = flat_of(Vision(), {"data.dataset": "formulas", "data.image_size": 384, "data.channels": 3, "data.classes": 5000})
    problem = Vision().data_problem(config)
    assert problem is not None
    assert str(problem).startswith("dataset 'formulas' is too large to be drawn\n  found:    ")
    with pytest.raises(DataError, match="too large to be drawn"):
        load(DataConfig(dataset="formulas", classes=5000, image_size=384, channels=3))
    assert Vision().data_problem(flat_of(Vision(), {"data.dataset": "formulas", "data.classes": 77})) is None


def test_what_is_learned_of_formulas_is_worth_something_for_digits(tmp_path: pathlib.Path) -> None:
    """As published for formulas: features of a model that was pre-trained on them beat those of one that was not."""
    upstream = {
        **{"data.dataset": "formulas", "data.classes": 32, "data.train_examples": 3200, "eval.few_shot": ("digits",)},
        **{"model.moe_placement": "none", "model.hidden": 24, "model.mlp": 48, "model.depth": 2, "model.heads": 2, "model.patch": 2},
        **{"train.batch_size": 32, "train.rung_steps": 500, "optim.learning_rate": 5e-3},
    }
    untrained = lane(Vision(), tmp_path, upstream | {"train.steps": 1, "optim.learning_rate": 0.0})
    trained = lane(Vision(), tmp_path, upstream | {"train.steps": 500})
    host = ScriptedHost([untrained, trained])
    Vision().train(host)
    before, after = host.finals()[untrained.key], host.finals()[trained.key]
    assert after["test/error"] < 0.6 < 0.9 < before["test/error"]
    print(before, after)
    for shots in (5, 10, 25):
        assert after[f"fewshot/digits/{shots}shot_accuracy"] > before[f"fewshot/digits/{shots}shot_accuracy"] + 0.05
