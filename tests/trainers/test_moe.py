"""Buffers against loops that do what the paper says, one token at a time."""

from __future__ import annotations

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from trainers.config import DataConfig, ModelConfig
from trainers.geometry import buffer_slots, capacity, slots, sparse_blocks
from trainers.models.dispatch import _earlier_by_loop, _earlier_by_sum, by_index, by_product, combine, dispatch, place

R, G, S, K, E, D = 2, 2, 6, 2, 3, 4


def rows_by_hand(expert, turn, size):
    """Row of each assignment in the buffer of its expert, where the groups follow each other without a gap; -1 if dropped."""
    row, filled = np.full(expert.shape, -1), np.zeros((expert.shape[0], E * R), int)
    for r, g in itertools.product(range(expert.shape[0]), range(expert.shape[1])):
        kept = turn[r, g] >= 0
        row[r, g][kept] = turn[r, g][kept] + filled[r, expert[r, g][kept]]
        filled[r] += np.bincount(expert[r, g][kept], minlength=E * R)
    return row, filled


def places_by_hand(expert, size, confidence=None):
    """Slot of each assignment, as place in its own buffer, -1 if dropped: [router, group, token, choice]."""
    turn = np.full(expert.shape, -1)
    for r, g in itertools.product(range(expert.shape[0]), range(expert.shape[1])):
        filled = dict.fromkeys(range(E), 0)
        tokens = range(expert.shape[2]) if confidence is None else sorted(range(expert.shape[2]), key=lambda s: -confidence[r, g, s])
        for choice in range(expert.shape[3]):
            for s in tokens:
                e = int(expert[r, g, s, choice])
                if filled[e] < size:
                    turn[r, g, s, choice] = filled[e]
                filled[e] += 1
    return turn


@pytest.fixture(scope="module")
def placing():
    return {
        (size, priority): jax.jit(
            lambda expert, confidence, size=size, priority=priority: place(
                expert, experts=E, is_shared=False, capacity=size, confidence=confidence if priority else None
            )
        )
        for size in (1, 3)
        for priority in (False, True)
    }


@pytest.fixture(scope="module")
def sharing():
    """Placing views that share their experts, by whether with priority and, if not E, how many experts they share."""

    def placing(priority, n_experts):
        return jax.jit(
            lambda expert, confidence: place(
                expert, experts=n_experts, is_shared=True, capacity=3, confidence=confidence if priority else None
            )
        )

    return {key: placing(*key) for key in itertools.product((False, True), (E, R * E))}


experts = hnp.arrays(np.int32, (R, G, S, K), elements=st.integers(0, E - 1))
confidences = hnp.arrays(np.float32, (R, G, S), elements=st.sampled_from([0.25, 0.5, 0.75, 0.875]))


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("priority", [False, True])
@settings(max_examples=40, deadline=None)
@given(expert=experts, confidence=confidences)
def test_buffers_fill_by_choice_then_by_token_or_by_confidence(placing, size, priority, expert, confidence):
    slot, assignment, filled = map(np.asarray, placing[size, priority](expert, confidence))
    rows, filled_by_hand = rows_by_hand(expert, places_by_hand(expert, size, confidence if priority else None), size)
    total = R * E * G * size
    for (r, g, s, choice), got in np.ndenumerate(slot):
        row = rows[r, g, s, choice]
        assert got == (total if row < 0 else (r * E + expert[r, g, s, choice]) * G * size + row)
    np.testing.assert_array_equal(filled.reshape(R, E), filled_by_hand[:, :E])
    flat = slot.reshape(-1)
    for position, source in enumerate(assignment):
        assert (flat[source] == position) if source < flat.size else (position not in flat)


@pytest.mark.parametrize("priority", [False, True])
@settings(max_examples=20, deadline=None)
@given(expert=experts, confidence=confidences)
def test_views_of_the_same_experts_take_turns_token_by_token(sharing, priority, expert, confidence):
    places = sharing[priority, E](expert, confidence)
    # The same tokens as one view that holds them in turn.
    in_turn = np.moveaxis(expert, 0, 2).reshape(1, G, S * R, K)
    turns = places_by_hand(in_turn, 3, np.moveaxis(confidence, 0, 2).reshape(1, G, S * R) if priority else None)
    rows, filled = rows_by_hand(in_turn, turns, 3)
    for (g, s, r, choice), row in np.ndenumerate(rows.reshape(G, S, R, K)):
        assert places.slot[r, g, s, choice] == (E * G * 3 if row < 0 else expert[r, g, s, choice] * G * 3 + row)
    np.testing.assert_array_equal(places.filled, filled[0, :E])


@pytest.mark.parametrize("priority", [False, True])
@settings(max_examples=20, deadline=None)
@given(expert=experts, confidence=confidences)
def test_views_kept_to_experts_of_their_own_are_served_as_if_alone(sharing, placing, priority, expert, confidence):
    alone = placing[3, priority](expert, confidence)
    together = sharing[priority, R * E](expert + E * np.arange(R, dtype=np.int32)[:, None, None, None], confidence)
    np.testing.assert_array_equal(together.slot, alone.slot)
    np.testing.assert_array_equal(together.assignment, alone.assignment)


by_loop, by_sum = (jax.jit(functools.partial(count, experts=E)) for count in (_earlier_by_loop, _earlier_by_sum))


@given(queue=hnp.arrays(np.int32, (2, 11), elements=st.integers(0, E - 1)))
@settings(max_examples=20, deadline=None)
def test_both_ways_of_counting_agree(queue):
    for found, expected in zip(by_loop(queue), by_sum(queue), strict=True):
        np.testing.assert_array_equal(found, expected)


reading, multiplying = jax.jit(by_index), jax.jit(by_product)


@given(data=st.data(), n_rows=st.sampled_from([1, 5]), shape=st.sampled_from([(3,), (4, 2)]))
@settings(max_examples=40, deadline=None)
def test_both_ways_of_moving_give_the_same_bits(data, n_rows, shape):
    rows = data.draw(hnp.arrays(np.float32, (n_rows, D), elements=st.floats(-1e6, 1e6, width=32, allow_subnormal=False)))
    index = data.draw(hnp.arrays(np.int32, shape, elements=st.integers(0, n_rows)))
    np.testing.assert_array_equal(reading(rows, index), multiplying(rows, index))
    np.testing.assert_array_equal(reading(rows, index), np.concatenate([rows, np.zeros((1, D), np.float32)])[index])


@pytest.mark.parametrize("copies", [1, R])
def test_moves_and_their_gradients_equal_one_hot_products(copies):
    rng = np.random.default_rng(0)
    size = 3
    expert = rng.permuted(np.tile(np.arange(E), (R, G, S, 1)), axis=-1)[..., :K].astype(np.int32)
    tokens, gate = jnp.asarray(rng.normal(size=(copies, G, S, D)), jnp.float32), jnp.asarray(rng.random((R, G, S, K)), jnp.float32)
    weight = rng.normal(size=(R, G, S, D)).astype(np.float32)
    scale = rng.normal(size=(R, E, 1, D)).astype(np.float32)
    turn = places_by_hand(expert, size)
    assert (turn < 0).any()
    rows, _ = rows_by_hand(expert, turn, size)
    one_hot = np.zeros((R, G, S, K, E, G * size), np.float32)
    for (r, g, s, choice), row in np.ndenumerate(rows):
        if row >= 0:
            one_hot[r, g, s, choice, expert[r, g, s, choice], row] = 1.0
    buffers_by_hand = np.einsum("rgskec,rgsd->recd", one_hot, np.broadcast_to(tokens, (R, G, S, D)))

    def moved(tokens, gate):
        places = place(jnp.asarray(expert), experts=E, is_shared=False, capacity=size)
        buffers = dispatch(tokens, places)
        return buffers, combine(jnp.sin(buffers.reshape(R, E, G * size, D) * scale).reshape(-1, D), places, gate)

    def by_hand(tokens, gate):
        buffers = jnp.einsum("rgskec,rgsd->recd", one_hot, jnp.broadcast_to(tokens, (R, G, S, D)))
        return buffers, jnp.einsum("rgskec,recd,rgsk->rgsd", one_hot, jnp.sin(buffers * scale), gate)

    def with_gradients(function):
        def weighted(*arguments):
            buffers, mixed = function(*arguments)
            return (mixed * weight).sum(), (buffers, mixed)

        return jax.jit(jax.grad(weighted, argnums=(0, 1), has_aux=True))(tokens, gate)

    (found, (buffers, mixed)), (expected, (_, mixed_by_hand)) = map(with_gradients, (moved, by_hand))
    np.testing.assert_array_equal(buffers.reshape(buffers_by_hand.shape), buffers_by_hand)
    np.testing.assert_allclose(mixed, mixed_by_hand, atol=1e-6)
    for f, e in zip(found, expected, strict=True):
        np.testing.assert_allclose(f, e, atol=1e-5)


def test_capacity_is_rounded_up_twice_and_never_exceeds_the_tokens():
    assert slots(1160, k=2, experts=32, factor=1.5, at_most=1160) == 112  # 108.75 up to 109, up to a multiple of 4
    assert slots(100, k=1, experts=10, factor=1.1, at_most=100) == 12  # 11 up to 12, although 1.1 * 10 > 11 in binary
    assert slots(80, k=1, experts=8, factor=1.2, at_most=80) == 12
    assert slots(68, k=1, experts=8, factor=8.0, at_most=68) == 68
    assert slots(3, k=1, experts=8, factor=1.0, at_most=3) == 3


def test_members_do_not_change_the_capacity_of_an_expert():
    data, base = DataConfig(image_size=384), {"experts": 32, "patch": 32, "group_images": 8, "k": 1}
    e3 = ModelConfig(**base, members=2, tile=True, partition=True)
    tiled = ModelConfig(**base, members=2, tile=True)
    overlapping = dataclasses.replace(e3, overlap=4)
    for model in (e3, tiled, overlapping):
        assert capacity(model, data, 512, factor=1.5, n_copies=2) == 112
    assert capacity(ModelConfig(**base), data, 512, factor=1.5) == 56


@pytest.mark.parametrize(("overlap", "members", "windows"), [(0, 2, 1), (1, 2, 2), (8, 2, 2), (1, 4, 2), (4, 4, 2), (5, 4, 3), (12, 4, 4)])
def test_a_buffer_never_exceeds_the_tokens_that_can_come(overlap, members, windows):
    model = ModelConfig(experts=16, k=1, members=members, tile=True, partition=True, overlap=overlap)
    size = 16 // members + overlap
    seen_by = np.zeros(16, int)
    for member in range(members):
        seen_by[(member * 16 // members + np.arange(size)) % 16] += 1
    assert seen_by.max() == windows
    assert buffer_slots(model, 7, factor=100.0, n_copies=members) == 7 * windows


@pytest.mark.parametrize(
    ("depth", "placement", "n", "expected"),
    [
        (8, "last", 2, (5, 7)),
        (12, "last", 2, (9, 11)),
        (24, "last", 5, (15, 17, 19, 21, 23)),
        (32, "last", 5, (23, 25, 27, 29, 31)),
        (8, "every", 2, (1, 3, 5, 7)),
        (4, "every", 1, (0, 1, 2, 3)),
        (12, "none", 2, ()),
    ],
)
def test_sparse_blocks_are_those_of_the_paper(depth, placement, n, expected):
    assert sparse_blocks(ModelConfig(depth=depth, moe_placement=placement, moe_layers=n)) == expected
