"""The closed-form ridge classifier, against the normal equations, and its choice of regularisation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers import fewshot

SEEDS = st.integers(0, 2**31 - 1)


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, images=st.integers(2, 12), features=st.integers(1, 12))
def test_ridge_solves_the_normal_equations_whether_images_or_features_are_more(seed: int, images: int, features: int) -> None:
    random = np.random.default_rng(seed)
    x, y, l2s = random.normal(size=(images, features)), random.normal(size=(images, 3)), (0.01, 1.0, 64.0)
    for l2, found in zip(l2s, fewshot.ridge(x, y, l2s), strict=True):
        np.testing.assert_allclose(found, np.linalg.solve(x.T @ x + l2 * np.eye(features), x.T @ y), rtol=1e-6, atol=1e-9)


def clusters(seed: int, n: int, spread: float) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(4, 6)) * 3
    labels = np.arange(n) % 4
    return centres[labels] + spread * random.normal(size=(n, 6)), labels


def test_separate_clusters_are_learned_from_one_image_each_and_a_shift_of_all_features_is_no_matter() -> None:
    train, test = clusters(1, 4, 0.1), clusters(2, 100, 0.1)
    found = fewshot.accuracies(train, test)
    assert found.max() == 1.0
    shifted = [(1e3 + 7 * features, labels) for features, labels in (train, test)]
    np.testing.assert_allclose(fewshot.accuracies(*shifted), found, atol=0.02)


def by_hand(train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], l2: float) -> float:
    mean, deviation = train[0].mean(axis=0), train[0].std(axis=0) + 1e-5
    x, x_test = (np.hstack([(some - mean) / deviation, np.full((len(some), 1), 100.0)]) for some in (train[0], test[0]))
    y = np.where(np.arange(4) == train[1][:, None], 1.0, -1.0)
    weights = np.linalg.solve(x.T @ x + l2 * np.eye(7), x.T @ y)
    return float(((x_test @ weights).argmax(axis=1) == test[1]).mean())


def test_the_classifier_is_the_published_one() -> None:
    train, test = clusters(1, 20, 3.0), clusters(2, 200, 3.0)
    found = fewshot.accuracies(train, test)
    for place in (0, 10, 20, 29):
        assert found[place] == pytest.approx(by_hand(train, test, fewshot.L2S[place]), abs=0.01)
    assert found.max() < 1.0


def test_every_class_has_its_shots_and_more_shots_add_to_fewer() -> None:
    labels = np.random.default_rng(0).permutation(np.arange(120) % 4)
    some = [fewshot.drawn(labels, shots, draw=0) for shots in (1, 5, 10)]
    for shots, rows in zip((1, 5, 10), some, strict=True):
        assert rows is not None
        assert np.bincount(labels[rows]).tolist() == [shots] * 4
    assert set(some[0]) < set(some[1]) < set(some[2])
    other = fewshot.drawn(labels, 5, draw=1)
    assert other is not None
    assert set(other) != set(some[1])


def test_shots_that_a_class_has_not_are_left_out() -> None:
    assert fewshot.drawn(np.array([0, 0, 1]), 2, draw=0) is None
    assert fewshot.table(clusters(1, 24, 0.1), clusters(2, 8, 0.1), draws=2).keys() == {1, 5}


def test_one_strength_serves_all_datasets_and_is_chosen_by_rank() -> None:
    # In `b` the third is much better, but ranks count: the second is never worse than second.
    tables = {"a": {1: np.array([0.5, 0.6, 0.1])}, "b": {1: np.array([0.1, 0.2, 0.9])}, "c": {1: np.array([0.8, 0.7, 0.1])}}
    assert fewshot.chosen(tables, 1) == 1
    assert fewshot.metrics(tables) == {
        "fewshot/a/1shot_accuracy": 0.6,
        "fewshot/b/1shot_accuracy": 0.2,
        "fewshot/c/1shot_accuracy": 0.7,
        "fewshot/1shot_accuracy": pytest.approx(0.5),
    }
