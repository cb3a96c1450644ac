"""The training loss is the members' own, whatever their average is."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from trainers import losses
from trainers.metrics import evaluate
from trainers.models import Prediction

training_loss = jax.jit(losses.training_loss)
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(3, 5, 4)).astype(np.float32)
LABELS = np.array([0, 1, 2, 3, 0])


def one_hot(labels):
    return np.eye(4, dtype=np.float32)[labels]


def test_it_is_the_mean_of_member_losses_plus_the_auxiliary_loss():
    log_probs = special.log_softmax(LOGITS, axis=-1)
    expected = -log_probs[:, np.arange(5), LABELS].mean() + 0.25
    found = training_loss(Prediction(jnp.asarray(LOGITS), jnp.float32(0.25)), one_hot(LABELS))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_it_is_never_below_the_loss_of_the_average():
    metrics = jax.jit(functools.partial(evaluate, bins=15))(LOGITS, LABELS)
    found = training_loss(Prediction(jnp.asarray(LOGITS), jnp.float32(0)), one_hot(LABELS))
    np.testing.assert_allclose(found, metrics["member_nll"], rtol=1e-6)
    assert found > metrics["nll"]


def test_it_is_linear_in_mixed_labels():
    one, two = one_hot(LABELS), one_hot(LABELS[::-1])
    prediction = Prediction(jnp.asarray(LOGITS), jnp.float32(0))
    mixed = training_loss(prediction, 0.3 * one + 0.7 * two)
    np.testing.assert_allclose(mixed, 0.3 * training_loss(prediction, one) + 0.7 * training_loss(prediction, two), rtol=1e-6)


def test_the_loss_of_the_mean_is_that_of_the_averaged_probabilities():
    mean = special.softmax(LOGITS, axis=-1).mean(axis=0)
    expected = -np.log(mean[np.arange(5), LABELS]).mean() + 0.25
    of_mean = jax.jit(functools.partial(losses.training_loss, of_mean=True))
    found = of_mean(Prediction(jnp.asarray(LOGITS), jnp.float32(0.25)), one_hot(LABELS))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found < training_loss(Prediction(jnp.asarray(LOGITS), jnp.float32(0.25)), one_hot(LABELS))
