"""Detection of other images, against every pair of scores and every threshold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.ood import Detection, detection, scores

# Few values, so that ties are common.
SCORES = st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9]) | st.floats(0, 1, width=32), min_size=1, max_size=30).map(np.array)


def by_pairs(negatives: np.ndarray, positives: np.ndarray) -> Detection:
    wins = [(p > n) + (p == n) / 2 for p in positives for n in negatives]
    points = []
    for threshold in sorted({*negatives, *positives}, reverse=True):
        true, false = sum(positives >= threshold), sum(negatives >= threshold)
        points.append((true, false))
    precision, before = 0.0, 0
    for true, false in points:
        precision += (true - before) * true / (true + false)
        before = true
    fpr = next(false / len(negatives) for true, false in points if 20 * true >= 19 * len(positives))
    return Detection(float(np.mean(wins)), precision / len(positives), fpr)


@settings(max_examples=200, deadline=None)
@given(negatives=SCORES, positives=SCORES)
def test_detection_is_that_of_all_pairs_and_thresholds_ties_included(negatives: np.ndarray, positives: np.ndarray) -> None:
    np.testing.assert_allclose(detection(negatives, positives), by_pairs(negatives, positives), rtol=1e-12)


@given(negatives=SCORES, positives=SCORES)
def test_exchanging_the_sets_turns_auroc_around(negatives: np.ndarray, positives: np.ndarray) -> None:
    there, back = detection(negatives, positives).auroc, detection(positives, negatives).auroc
    assert there + back == pytest.approx(1.0)


@given(negatives=SCORES, positives=SCORES)
def test_only_the_order_of_scores_counts(negatives: np.ndarray, positives: np.ndarray) -> None:
    # In integers, lest a monotone function rounds two scores together.
    levels = np.unique(np.concatenate([negatives, positives]))
    there = detection(negatives, positives)
    assert there == detection(np.searchsorted(levels, negatives) * 3.0 - 7.0, np.searchsorted(levels, positives) * 3.0 - 7.0)


def test_scores_that_part_the_sets_are_perfect_and_equal_ones_say_nothing() -> None:
    assert detection(np.array([0.1, 0.2]), np.array([0.3, 0.4])) == Detection(1.0, 1.0, 0.0)
    assert detection(np.full(6, 0.5), np.full(2, 0.5)) == Detection(0.5, 0.25, 1.0)


def test_a_diverged_model_detects_nothing_and_shows_it() -> None:
    assert all(np.isnan(detection(np.array([0.1, np.nan]), np.array([0.5]))))


def test_an_empty_set_is_refused() -> None:
    with pytest.raises(ValueError, match="both sets need images"):
        detection(np.array([]), np.array([0.5]))


def test_a_score_is_one_less_the_largest_mean_probability() -> None:
    np.testing.assert_allclose(scores(np.log([[[0.9, 0.1]], [[0.2, 0.8]]])), [0.45])
