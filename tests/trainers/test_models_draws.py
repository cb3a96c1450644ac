"""Hashed draws behave as independent ones, starting values as JAX's own, and written-out gradients as derived ones."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from trainers.models.draws import glorot, lecun, normal, square_glorot, uniform
from trainers.models.dropout import dropout
from trainers.models.rows import layer_norm, softmax, weighted_sum

SIDE = 256
draw = jax.jit(jax.vmap(lambda key: uniform(key, (SIDE, SIDE))))


@pytest.fixture(scope="module")
def draws():
    """Successive steps of four lanes, [lane, step, row, column]."""
    lanes = jax.vmap(lambda seed: jax.vmap(lambda step: jax.random.fold_in(jax.random.key(seed), step))(jnp.arange(8)))(jnp.arange(4))
    return np.asarray(draw(lanes.reshape(-1))).reshape(4, 8, SIDE, SIDE)


def test_draws_are_uniform(draws):
    assert draws.min() >= 0.0
    assert draws.max() < 1.0
    for field in draws.reshape(-1, SIDE * SIDE):
        assert stats.kstest(field, "uniform").pvalue > 1e-4
        counts = np.bincount((field * 256).astype(int), minlength=256)
        assert stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5])
def test_neighbours_steps_and_lanes_are_uncorrelated(draws, rate):
    masks = (draws < rate).astype(float)
    masks = (masks - rate) / np.sqrt(rate * (1 - rate))
    pairs = {
        "rows": (masks[:, :, 1:], masks[:, :, :-1]),
        "columns": (masks[..., 1:], masks[..., :-1]),
        "eight columns": (masks[..., 8:], masks[..., :-8]),
        "steps": (masks[:, 1:], masks[:, :-1]),
        "lanes": (masks[1:], masks[:-1]),
        "halves": (masks[:, :, : SIDE // 2], masks[:, :, SIDE // 2 :]),
    }
    for name, (one, other) in pairs.items():
        score = (one * other).sum() / np.sqrt(one.size)  # standard normal if they are independent
        assert abs(score) < 4.5, name


def test_rows_and_columns_keep_the_binomial_spread(draws):
    kept = (draws < 0.5).reshape(-1, SIDE, SIDE)
    for axis in (1, 2):
        spread = kept.sum(axis=axis).var() / (SIDE / 4)
        assert abs(spread - 1) < 0.1


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (glorot, jax.nn.initializers.xavier_uniform()),
        (lecun, jax.nn.initializers.lecun_normal()),
        (normal(0.02), jax.nn.initializers.normal(0.02)),
        (square_glorot(3), lambda key, shape: jax.nn.initializers.xavier_uniform()(key, (shape[0], shape[1] // 3))),
    ],
    ids=["glorot", "lecun", "normal", "square_glorot"],
)
def test_starting_values_are_distributed_as_those_of_jax(ours, theirs):
    both = jax.jit(lambda key: [init(key, (120, 600)) for init in (ours, theirs)])(jax.random.key(3))
    one, other = (np.asarray(values).ravel() for values in both)
    assert stats.ks_2samp(one, other).pvalue > 1e-3
    np.testing.assert_allclose(one.std(), other.std(), rtol=0.02)


def test_the_mean_stays_and_rate_zero_keeps_all():
    x = jnp.ones((100, 1000))
    half = dropout(x, jnp.float32(0.3), jax.random.key(0))
    assert abs(float(half.mean()) - 1) < 0.01
    assert abs(float((half == 0).mean()) - 0.3) < 0.005
    np.testing.assert_array_equal(dropout(x, jnp.float32(0.0), jax.random.key(0)), x)


def test_old_style_keys_draw_the_same():
    np.testing.assert_array_equal(uniform(jax.random.key(7), (9,)), uniform(jax.random.PRNGKey(7), (9,)))


def value_and_gradients(function, weight):
    def weighted(*arguments):
        values = function(*arguments)
        return (values * weight).sum(), values

    return jax.jit(lambda *arguments: jax.grad(weighted, argnums=tuple(range(len(arguments))), has_aux=True)(*arguments))


def test_written_out_gradients_equal_the_derived_ones():
    rng = np.random.default_rng(0)
    x, weight = (jnp.asarray(rng.normal(size=(5, 7, 16)), jnp.float32) for _ in range(2))
    scale, bias = (jnp.asarray(rng.normal(size=16), jnp.float32) for _ in range(2))

    def plain(x, scale, bias):
        return (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-6) * scale + bias

    for ours, theirs, arguments in ((layer_norm, plain, (x, scale, bias)), (softmax, jax.nn.softmax, (x,))):
        found, expected = (value_and_gradients(function, weight)(*arguments) for function in (ours, theirs))
        for f, e in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(f, e, atol=2e-5)


def test_a_constant_row_has_a_finite_gradient():
    gradients = jax.grad(lambda x: layer_norm(x, jnp.ones(4), jnp.zeros(4)).sum())(jnp.full((2, 4), 3.0))
    assert np.isfinite(gradients).all()


@pytest.mark.parametrize("choices", [1, 2, 3])
def test_a_weighted_sum_of_rows_has_the_derived_value_and_gradients(choices: int) -> None:
    rows_key, weights_key, key = jax.random.split(jax.random.key(3), 3)
    rows, weights = jax.random.normal(rows_key, (4, 5, choices, 6)), jax.random.uniform(weights_key, (4, 5, choices))
    direction = jax.random.normal(key, (4, 5, 6))

    def derived(rows: jax.Array, weights: jax.Array) -> jax.Array:
        return jnp.sum(weights[..., None] * rows, axis=-2)

    np.testing.assert_allclose(weighted_sum(rows, weights), derived(rows, weights), rtol=1e-6, atol=1e-6)
    ours, theirs = (jax.vjp(function, rows, weights)[1](direction) for function in (weighted_sum, derived))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
