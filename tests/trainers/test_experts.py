"""The experts of a layer, row by row and by tiles, against each other and against what autodiff makes of their definition."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.models import experts
from trainers.models.experts import Masks, Weights, buffer_rows

E, D, F = 3, 4, 6
ROWS = (5, 96, 132)  # one tile, two of 48, three of 44


def expert_weights(rng):
    shapes = (E, D, F), (E, F), (E, F, D), (E, D)
    return Weights(*(jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes))


def inputs(seed, n_rows, filled, *, is_dropped):
    """Rows, weights, masks and gradient; whatever is not filled is zero, as `dispatch` and `combine` leave it."""
    rng = np.random.default_rng(seed)
    live = (np.arange(n_rows) < np.asarray(filled)[:, None])[..., None]
    rows, gradient = (jnp.asarray(live * rng.normal(size=(E, n_rows, D)), jnp.float32) for _ in range(2))
    masks = Masks(*(jnp.asarray(rng.integers(0, 3, (n_rows, width)) / 2, jnp.float32) for width in (F, D))) if is_dropped else None
    return live, rows, expert_weights(rng), masks, jnp.asarray(filled, jnp.int32), gradient


def defined(rows, weights, masks):
    hidden = nn.gelu(jnp.einsum("erd,edf->erf", rows, weights.first) + weights.first_bias[:, None])
    hidden = hidden if masks is None else hidden * masks.hidden
    out = jnp.einsum("erf,efd->erd", hidden, weights.second) + weights.second_bias[:, None]
    return out if masks is None else out * masks.out


@functools.cache
def ways(is_dropped):
    """Compiled: what is said of rows, and both gradients, by tiles, at once, and as defined."""

    def by(forward, backward):
        def both(rows, weights, masks, filled, gradient):
            said, hidden = forward(rows, weights, masks, filled)
            return said, backward(gradient, rows, hidden, weights, masks, filled)

        return both

    def by_definition(rows, weights, masks, filled, gradient):
        said, back = jax.vjp(lambda rows, weights: defined(rows, weights, masks), rows, weights)
        return said, back(gradient)

    tiles = by(experts.forward_by_tiles, experts.backward_by_tiles)
    return [jax.jit(way) for way in (tiles, by(experts.forward_at_once, experts.backward_at_once), by_definition)]


@pytest.mark.parametrize("is_dropped", [False, True])
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 99), n_rows=st.sampled_from(ROWS), share=st.lists(st.floats(0, 1), min_size=E, max_size=E))
def test_every_way_computes_what_is_defined(is_dropped, seed, n_rows, share):
    live, *given_ = inputs(seed, n_rows, [round(part * n_rows) for part in share], is_dropped=is_dropped)
    tiles, at_once, expected = (way(*given_) for way in ways(is_dropped))
    for said, (of_rows, of_weights) in (tiles, at_once):
        np.testing.assert_allclose(live * said, live * expected[0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(live * of_rows, live * expected[1][0], rtol=1e-4, atol=1e-5)
        for found, wanted in zip(of_weights, expected[1][1], strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_prediction_says_what_training_says():
    _, rows, weights, _, filled, _ = inputs(0, 96, [96, 0, 50], is_dropped=False)
    said = jax.jit(experts.say_by_tiles)(rows, weights, None, filled)
    np.testing.assert_array_equal(said, jax.jit(experts.forward_by_tiles)(rows, weights, None, filled)[0])


def test_the_layer_takes_tiles_on_a_cpu_and_has_their_gradient():
    _, rows, weights, _, filled, gradient = inputs(1, 132, [130, 3, 66], is_dropped=False)
    said, back = jax.jit(lambda *given_: (lambda out, pull: (out, pull(gradient)))(*jax.vjp(experts.apply, *given_, None, filled)))(
        rows, weights
    )
    expected = ways(False)[0](rows, weights, None, filled, gradient)
    np.testing.assert_array_equal(said, expected[0])
    jax.tree.map(np.testing.assert_array_equal, back[:2], expected[1])


@given(needed=st.integers(1, 5000))
def test_a_buffer_has_room_and_little_more(needed):
    rows = buffer_rows(needed)
    assert needed <= rows == buffer_rows(rows)
    assert rows - needed < -(-needed // experts.TILE)


def test_empty_rows_cost_no_product():
    lowered = jax.jit(experts.forward_by_tiles).lower(*inputs(0, 132, [0, 0, 0], is_dropped=False)[1:5])
    products = [line for line in lowered.as_text().splitlines() if "dot_general" in line]
    assert products
    assert all("tensor<44x" in line for line in products), "a product takes more rows than a tile has"
