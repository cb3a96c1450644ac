"""Metrics against NumPy, over random logits of random ensembles."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import special

from trainers.metrics import ensemble_log_probs, evaluate

N, C, BINS = 13, 4, 5
numbers = st.floats(-12, 12, width=32)
compiled = jax.jit(functools.partial(evaluate, bins=BINS))


def ensembles(members):
    return st.tuples(hnp.arrays(np.float32, (members, N, C), elements=numbers), hnp.arrays(np.int32, N, elements=st.integers(0, C - 1)))


def by_hand(logits, labels):
    members = special.softmax(logits.astype(np.float64), axis=-1)
    mean = members.mean(axis=0)
    confidence, hit = mean.max(-1), mean.argmax(-1) == labels
    bins = np.clip(np.ceil(confidence * BINS) - 1, 0, BINS - 1)
    ece = sum((bins == b).mean() * abs(hit[bins == b].mean() - confidence[bins == b].mean()) for b in range(BINS) if (bins == b).any())
    clipped = np.maximum(members, 1e-7)
    pairs = [(p, q) for i, p in enumerate(clipped) for j, q in enumerate(clipped) if i != j]
    differ = np.mean([(logits[i].argmax(-1) != logits[j].argmax(-1)).mean() for i, j in unordered(len(logits))] or [0.0])
    angles = [(p * q).sum(-1) / np.linalg.norm(p, axis=-1) / np.linalg.norm(q, axis=-1) for p, q in itertools.combinations(members, 2)]
    return {
        "disagreement": differ,
        "normalised_disagreement": differ / (1 - hit.mean() + 1e-7),
        "cosine": np.mean(angles) if angles else 1.0,
        "nll": -np.log(mean[np.arange(N), labels]).mean(),
        "error": 1 - hit.mean(),
        "ece": ece,
        "brier": ((mean - np.eye(C)[labels]) ** 2).sum(-1).mean(),
        "member_nll": -special.log_softmax(logits.astype(np.float64), axis=-1)[:, np.arange(N), labels].mean(),
        "diversity": np.mean([(p * np.log(p / q)).sum(-1).mean() for p, q in pairs]) if pairs else 0.0,
    }


def unordered(n):
    return itertools.combinations(range(n), 2)


def is_clear(logits):
    """Whether no image is on the edge of a bin or between two classes, where rounding decides."""
    mean = np.sort(special.softmax(logits.astype(np.float64), axis=-1).mean(axis=0), axis=-1)
    edge = np.abs(mean[:, -1] * BINS - np.round(mean[:, -1] * BINS))
    return bool((edge > 1e-4).all() and (mean[:, -1] - mean[:, -2] > 1e-5).all())


@pytest.mark.parametrize("members", [1, 2, 3])
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_every_metric_equals_its_definition(members, data):
    logits, labels = data.draw(ensembles(members))
    found, expected = compiled(jnp.asarray(logits), jnp.asarray(labels)), by_hand(logits, labels)
    assert found.keys() == expected.keys()
    for name in found:
        if name in ("error", "ece", "normalised_disagreement") and not is_clear(logits):
            continue
        np.testing.assert_allclose(found[name], expected[name], rtol=2e-3, atol=2e-5, err_msg=name)


def test_calibration_is_checked_on_images_away_from_edges():
    rng = np.random.default_rng(0)
    for _ in range(20):
        logits, labels = rng.normal(size=(2, N, C)).astype(np.float32), rng.integers(0, C, N)
        if is_clear(logits):
            found, expected = compiled(logits, labels), by_hand(logits, labels)
            np.testing.assert_allclose([found["ece"], found["error"]], [expected["ece"], expected["error"]], atol=1e-5)
            return
    pytest.fail("no clear ensemble was drawn")


def test_probabilities_are_averaged_not_logits():
    logits = np.log(np.array([[[0.9, 0.1]], [[0.2, 0.8]]], np.float32))
    np.testing.assert_allclose(np.exp(jax.jit(ensemble_log_probs)(logits)), [[0.55, 0.45]], rtol=1e-6)


def test_a_sure_and_right_ensemble_scores_zero():
    labels = np.arange(3)
    perfect = dict(compiled(60.0 * np.stack([np.eye(3, dtype=np.float32)] * 2), labels))
    assert float(perfect.pop("cosine")) == pytest.approx(1.0)
    assert all(abs(float(value)) < 1e-6 for value in perfect.values())


def test_equal_members_have_no_diversity():
    member = np.random.default_rng(0).normal(size=(1, 100, 10))
    found = compiled(np.repeat(member, 4, axis=0).astype(np.float32), np.zeros(100, np.int32))
    assert float(found["diversity"]) == pytest.approx(0.0, abs=1e-9)
    assert [float(found[name]) for name in ("disagreement", "normalised_disagreement")] == [0.0, 0.0]
    assert float(found["cosine"]) == pytest.approx(1.0, abs=1e-6)
    np.testing.assert_allclose(found["nll"], found["member_nll"], rtol=1e-6)


def test_a_diverged_member_shows():
    logits = np.zeros((2, N, C), np.float32)
    logits[1, 0, 0] = np.nan
    found = compiled(logits, np.zeros(N, np.int32))
    assert all(np.isnan(found[name]) for name in ("nll", "disagreement", "cosine", "diversity"))
