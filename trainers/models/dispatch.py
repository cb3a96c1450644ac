"""Moving tokens to the buffers of their experts and back.

A token's place in a buffer is known in both directions, so the gradient of each move is a move too: no scatter of floats, hence
the same bits on every run. A move reads rows by their index; a TPU, which has no fast way to do that, multiplies by one-hot
rows, which gives the same numbers. What is done follows from the platform alone. `benchmarks/dispatch.py` measures both: on
a CPU indices are faster at every size, 1.3 times for 40 tokens and 200 times for 2,000, since products grow with their square.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from trainers.models.experts import buffer_rows
from trainers.models.rows import weighted_sum


class Places(NamedTuple):
    """Where each assignment of a token to an expert lies in the buffers, and back.

    Attributes:
        slot: Slot of each assignment, [view, group, token, choice]; `slots` if its buffer was full.
        assignment: Assignment in each slot, [slot], numbered in the order of `slot`; `slot.size` where it is empty.
        filled: Slots of each expert that are taken, the first of its own, [view · expert], or [expert] where views share them.
    """

    slot: jax.Array
    assignment: jax.Array
    filled: jax.Array


def place(expert: jax.Array, *, experts: int, is_shared: bool, capacity: int, confidence: jax.Array | None = None) -> Places:
    """Gives each assignment the next free slot of its expert: all first choices, then all second ones, and so on.

    Slots are numbered by [view, expert, row], or [expert, row] where views share experts. The first rows of an expert are those
    that the first group fills, then come those of the second: no group leaves a gap.

    Args:
        expert: Chosen experts, counted within those of the view, [view, group, token, choice].
        experts: Experts of a view.
        is_shared: Views choose among the same experts. They take turns token by token, so that none is served before the
            others when buffers are short. Views that were kept to different ones of these experts are served as if alone.
        capacity: Slots of one expert for one group.
        confidence: Gate of the first choice [view, group, token]: tokens are served by it, largest first (BPR).
            Without it they are served in order.
    """
    n_views, n_groups, n_tokens, k = expert.shape
    shared_by = n_views if is_shared else 1
    rows = (n_views // shared_by * n_groups, n_tokens * shared_by)

    def queued(x: jax.Array) -> jax.Array:
        x = x.reshape(-1, shared_by, *x.shape[1:])
        return jnp.moveaxis(x, 1, 3).reshape(*rows, *x.shape[4:])

    def back(x: jax.Array) -> jax.Array:
        x = x.reshape(-1, n_groups, n_tokens, shared_by, *x.shape[2:])
        return jnp.moveaxis(x, 3, 1).reshape(n_views, n_groups, n_tokens, *x.shape[4:])

    waiting = queued(expert)
    if confidence is not None:
        order = jnp.argsort(-queued(confidence), axis=-1, stable=True)[..., None]
        waiting = jnp.take_along_axis(waiting, order, axis=1)
    queue = jnp.swapaxes(waiting, 1, 2).reshape(rows[0], -1)
    turn, wanted = _earlier(queue, experts)
    turn = jnp.swapaxes(turn.reshape(rows[0], k, rows[1]), 1, 2)
    if confidence is not None:
        turn = jnp.take_along_axis(turn, jnp.argsort(order, axis=1), axis=1)
    turn = back(turn)
    kept = jnp.minimum(wanted, capacity).reshape(-1, n_groups, experts)
    row = turn + _before(kept, expert) if n_groups > 1 else turn
    size = buffer_rows(n_groups * capacity)
    owned = expert if is_shared else expert + experts * jnp.arange(n_views)[:, None, None, None]
    slots = kept.shape[0] * experts * size
    slot = jnp.where(turn < capacity, owned * size + row, slots)
    assignment = jnp.full(slots, slot.size, jnp.int32).at[slot.reshape(-1)].set(jnp.arange(slot.size, dtype=jnp.int32), mode="drop")
    return Places(slot, assignment, kept.sum(axis=1).reshape(-1))


def _before(kept: jax.Array, expert: jax.Array) -> jax.Array:
    """Rows that earlier groups fill of the expert of each assignment, of the shape of `expert`.

    Args:
        kept: Rows that each group fills, [view or 1, group, expert].
        expert: [view, group, token, choice].
    """
    before = jnp.cumsum(kept, axis=1) - kept
    flat = expert.reshape(*expert.shape[:2], -1)
    return jnp.take_along_axis(before, flat, axis=-1).reshape(expert.shape)


def dispatch(tokens: jax.Array, places: Places) -> jax.Array:
    """Buffers [slot, feature] filled with tokens [view or 1, group, token, feature]; empty slots are zero.

    With one copy of the tokens and several views, the experts of each view read the same token.
    """
    n_views, _, _, k = places.slot.shape
    rows = tokens.reshape(-1, tokens.shape[-1])
    source = places.assignment // k
    if tokens.shape[0] < n_views:
        source = jnp.where(places.assignment < places.slot.size, source % rows.shape[0], rows.shape[0])
        destinations = jnp.moveaxis(places.slot, 0, -2).reshape(rows.shape[0], n_views * k)
    else:
        destinations = places.slot.reshape(rows.shape[0], k)
    return _move(rows, source, destinations)


def combine(buffers: jax.Array, places: Places, gate: jax.Array) -> jax.Array:
    """Sum over choices of gate times the expert's output, [view, group, token, feature]; a full buffer gives zero."""
    picked = _move(buffers, places.slot.reshape(-1), places.assignment[:, None])
    picked = picked.reshape(*places.slot.shape, buffers.shape[-1])
    return weighted_sum(picked, gate.astype(picked.dtype))


@jax.custom_vjp
def _move(rows: jax.Array, source: jax.Array, destinations: jax.Array) -> jax.Array:  # noqa: ARG001 - read by its gradient
    """Row `source[i]` at i, zero where there is no such row.

    Args:
        rows: [row, feature].
        source: [place], in 0..rows; `rows` for none.
        destinations: The places each row goes to, [row, copy]; the number of places for none. The inverse of `source`.
    """
    return _gather(rows, source)


def _gather(rows: jax.Array, index: jax.Array) -> jax.Array:
    return jax.lax.platform_dependent(rows, index, tpu=by_product, default=by_index)


def by_index(rows: jax.Array, index: jax.Array) -> jax.Array:
    """Rows [row, feature] at an index [...]; zero where it is past their end."""
    return rows.at[index].get(mode="fill", fill_value=0)


def by_product(rows: jax.Array, index: jax.Array) -> jax.Array:
    """As `by_index`."""
    chosen = (index[..., None] == jnp.arange(len(rows))).astype(rows.dtype)
    # Without it a TPU would round the rows to half precision.
    return jnp.matmul(chosen, rows, precision=jax.lax.Precision.HIGHEST)


def _move_forward(rows: jax.Array, source: jax.Array, destinations: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _gather(rows, source), destinations


def _move_backward(destinations: jax.Array, gradient: jax.Array) -> tuple[jax.Array, None, None]:
    return _gather(gradient, destinations).sum(axis=1), None, None


_move.defvjp(_move_forward, _move_backward)


def _earlier(queue: jax.Array, experts: int) -> tuple[jax.Array, jax.Array]:
    """How many earlier entries of the same row name the same expert, [row, place], and how many name each, [row, expert]."""
    # A loop of tiny steps is 3 to 14 times faster than a cumulative sum on a CPU and compiles sooner; on a GPU each
    # step would be a kernel launch.
    return jax.lax.platform_dependent(queue, cpu=lambda q: _earlier_by_loop(q, experts), default=lambda q: _earlier_by_sum(q, experts))


def _earlier_by_loop(queue: jax.Array, experts: int) -> tuple[jax.Array, jax.Array]:
    def serve(counts: jax.Array, expert: jax.Array) -> tuple[jax.Array, jax.Array]:
        chosen = expert[:, None] == jnp.arange(experts)
        return counts + chosen, jnp.sum(counts * chosen, axis=-1)

    start = jnp.zeros((queue.shape[0], experts), jnp.int32)
    counts, turns = jax.lax.scan(serve, start, queue.T)
    return turns.T, counts


def _earlier_by_sum(queue: jax.Array, experts: int) -> tuple[jax.Array, jax.Array]:
    chosen = (queue[:, None, :] == jnp.arange(experts)[:, None]).astype(jnp.int32)
    upto = jnp.cumsum(chosen, axis=-1)
    return jnp.sum((upto - 1) * chosen, axis=1), upto[..., -1]
