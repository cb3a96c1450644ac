"""Reliability bins, against a loop over images and against the calibration error that trials report."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.metrics import evaluate
from trainers.reliability import mean_probabilities, reliability

SEEDS = st.integers(0, 2**31 - 1)


def drawn(seed: int, members: int = 2, images: int = 40, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    said = np.log(random.dirichlet(np.full(classes, 0.5), (members, images)) + 1e-12)
    return said, random.integers(0, classes, images)


@settings(max_examples=50, deadline=None)
@given(seed=SEEDS, bins=st.integers(1, 20))
def test_bins_are_those_of_a_loop_over_images(seed: int, bins: int) -> None:
    said, labels = drawn(seed)
    found = reliability(said, labels, bins=bins)
    rows: list[list[tuple[float, bool]]] = [[] for _ in range(bins)]
    for probs, label in zip(np.exp(said).mean(axis=0), labels, strict=True):
        confidence = probs.max()
        edges = [np.float32(confidence) * np.float32(bins) <= edge for edge in range(1, bins + 1)]
        rows[edges.index(True) if any(edges) else bins - 1].append((confidence, probs.argmax() == label))
    assert found.count.tolist() == [len(row) for row in rows]
    for place, row in enumerate(rows):
        if row:
            np.testing.assert_allclose([found.confidence[place], found.accuracy[place]], np.mean(row, axis=0), rtol=1e-12)
    assert found.count.sum() == len(labels)


@settings(max_examples=50, deadline=None)
@given(seed=SEEDS)
def test_finer_bins_show_no_smaller_calibration_error(seed: int) -> None:
    said, labels = drawn(seed)
    coarse, fine = (reliability(said, labels, bins=bins).calibration_error for bins in (4, 8))
    assert fine >= coarse - 1e-12


def test_their_calibration_error_is_the_one_that_a_trial_reports() -> None:
    said, labels = drawn(3, images=500)
    measured = jax.jit(lambda logits, labels: evaluate(logits, labels, bins=15))(said.astype(np.float32), labels)
    assert reliability(said.astype(np.float32), labels, bins=15).calibration_error == pytest.approx(float(measured["ece"]), abs=1e-5)


def test_probabilities_of_members_are_averaged() -> None:
    np.testing.assert_allclose(mean_probabilities(np.log([[[0.9, 0.1]], [[0.2, 0.8]]])), [[0.55, 0.45]])
