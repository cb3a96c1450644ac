"""MIMO: which images pass together, and that each member's prediction and label are of its own."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from trainers.config import DataConfig, ModelConfig
from trainers.losses import training_loss
from trainers.models import make_model
from trainers.models.mimo import paired

M, C = 3, 5
MODEL = ModelConfig(
    hidden=8, mlp=12, depth=2, heads=2, patch=2, moe_layers=1, experts=4, k=2, members=M, mimo=True, batch_repetition=2, capacity_factor=1.0
)
DATA = DataConfig(image_size=4, channels=2, classes=C)


@functools.lru_cache(maxsize=64)
def pairing(n_images, repetition):
    model = dataclasses.replace(MODEL, batch_repetition=repetition)
    return jax.jit(lambda key, share: paired(key, n_images, model, {"model.input_repetition": share}))


@settings(max_examples=40, deadline=None)
@given(shape=st.sampled_from([(8, 1), (8, 2), (5, 4)]), tenths=st.integers(0, 10), seed=st.integers(0, 99))
def test_each_member_sees_each_image_equally_often_and_a_share_of_rows_is_the_same_for_all(shape, tenths, seed):
    n_images, repetition = shape
    n_rows = n_images * repetition
    rows = np.asarray(pairing(*shape)(jax.random.key(seed), tenths / 10))
    assert rows.shape == (M, n_rows)
    for row in rows:
        np.testing.assert_array_equal(np.bincount(row, minlength=n_images), repetition)
    n_apart = n_rows * (10 - tenths) // 10
    assert (rows[:, n_apart:] == rows[0, n_apart:]).all()


def test_members_draw_orders_of_their_own_and_each_step_other_ones():
    rows, other = (np.asarray(pairing(8, 2)(jax.random.key(seed), 0.0)) for seed in (0, 1))
    assert all((rows[one] != rows[two]).any() for one, two in ((0, 1), (0, 2), (1, 2)))
    assert (rows != other).any()


def traced(**changes):
    names = ("importance_weight", "load_weight", "head_bias", "router_noise", "input_repetition")
    return {f"model.{name}": jnp.float32(changes.get(name, 0.0)) for name in names}


@pytest.fixture(scope="module")
def trained():
    """Random parameters of everything, images, what the model says of them in training, and what one model of all channels says."""
    random = np.random.default_rng(0)
    images = random.uniform(-1, 1, size=(4, 4, 4, 2)).astype(np.float32)
    module = make_model(MODEL, DATA)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), images, traced(), train=False)["params"])
    params = jax.tree.map(lambda leaf: jnp.asarray(random.normal(size=leaf.shape, scale=0.4), jnp.float32), shapes)
    rngs = {"gating": jax.random.key(4)}
    predict = jax.jit(lambda images: module.apply({"params": params}, images, traced(), train=True, rngs=rngs))
    one = make_model(dataclasses.replace(MODEL, members=1, mimo=False), DataConfig(image_size=4, channels=2 * M, classes=C * M))
    together = jax.jit(lambda images: one.apply({"params": params}, images, traced(), train=True, rngs=rngs).logits[0])
    return params, images, predict(images), together


def test_each_member_predicts_the_images_that_it_was_given(trained):
    _, images, prediction, together = trained
    rows = np.asarray(prediction.rows)
    assert rows.shape == (M, 8)
    side_by_side = np.concatenate([images[row] for row in rows], axis=-1)
    expected = np.asarray(together(side_by_side)).reshape(8, M, C).swapaxes(0, 1)
    np.testing.assert_allclose(prediction.logits, expected, atol=1e-5)


def test_each_prediction_is_trained_on_the_label_of_its_own_image(trained):
    _, _, prediction, _ = trained
    labels = np.array([1, 4, 0, 2])
    log_probs = special.log_softmax(np.asarray(prediction.logits), axis=-1)
    expected = np.mean([-log_probs[m, i, labels[image]] for (m, i), image in np.ndenumerate(prediction.rows)])
    found = training_loss(prediction._replace(auxiliary=jnp.float32(0.0)), jnp.eye(C)[labels])
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_in_evaluation_all_members_see_the_same_image_once(trained):
    params, images, _, _ = trained
    module = make_model(MODEL, DATA)
    prediction = jax.eval_shape(lambda: module.apply({"params": params}, images, traced(), train=False))
    assert prediction.logits.shape == (M, 4, C)
    assert prediction.rows is None


def test_the_embedding_and_the_head_are_those_of_all_members():
    module, image = make_model(MODEL, DATA), jnp.zeros((1, 4, 4, 2))
    params = jax.eval_shape(lambda: module.init(jax.random.key(0), image, traced(), train=False)["params"])
    assert params["embedding"]["kernel"].shape == (2 * 2 * 2 * M, 8)
    assert params["head"]["kernel"].shape == (8, M * C)
