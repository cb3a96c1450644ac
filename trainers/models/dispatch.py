"""Moving tokens to the buffers of their experts and back, by index.

One-hot products cost quadratically in the tokens of a group: 2 to 12 times as much as indices on a CPU. A token's place in
a buffer is known in both directions, so the gradient of each move is a move too: no scatter of floats, hence the same
bits on every run.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from trainers.models.rows import weighted_sum


class Places(NamedTuple):
    """Where each assignment of a token to an expert lies in the buffers, and back.

    Attributes:
        slot: Slot of each assignment, [view, group, token, choice]; `slots` if its buffer was full.
        assignment: Assignment in each slot, [slot], numbered in the order of `slot`; `slot.size` where it is empty.
    """

    slot: jax.Array
    assignment: jax.Array


def place(expert: jax.Array, *, experts: int, is_shared: bool, capacity: int, confidence: jax.Array | None = None) -> Places:
    """Gives each assignment the next free slot of its expert: all first choices, then all second ones, and so on.

    Slots are numbered by [view, expert, group, place in the buffer], or [expert, group, place] where views share experts.

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
    turn = jnp.swapaxes(_earlier(queue, experts).reshape(rows[0], k, rows[1]), 1, 2)
    if confidence is not None:
        turn = jnp.take_along_axis(turn, jnp.argsort(order, axis=1), axis=1)
    turn = back(turn)
    owned = expert if is_shared else expert + experts * jnp.arange(n_views)[:, None, None, None]
    slots = n_views // shared_by * experts * n_groups * capacity
    slot = jnp.where(turn < capacity, (owned * n_groups + jnp.arange(n_groups)[:, None, None]) * capacity + turn, slots)
    assignment = jnp.full(slots, slot.size, jnp.int32).at[slot.reshape(-1)].set(jnp.arange(slot.size, dtype=jnp.int32), mode="drop")
    return Places(slot, assignment)


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
    return rows.at[index].get(mode="fill", fill_value=0)


def _move_forward(rows: jax.Array, source: jax.Array, destinations: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _gather(rows, source), destinations


def _move_backward(destinations: jax.Array, gradient: jax.Array) -> tuple[jax.Array, None, None]:
    return _gather(gradient, destinations).sum(axis=1), None, None


_move.defvjp(_move_forward, _move_backward)


def _earlier(queue: jax.Array, experts: int) -> jax.Array:
    """How many earlier entries of the same row name the same expert, [row, place]."""
    # A loop of tiny steps is 3 to 14 times faster than a cumulative sum on a CPU and compiles sooner; on a GPU each
    # step would be a kernel launch.
    return jax.lax.platform_dependent(queue, cpu=lambda q: _earlier_by_loop(q, experts), default=lambda q: _earlier_by_sum(q, experts))


def _earlier_by_loop(queue: jax.Array, experts: int) -> jax.Array:
    def serve(counts: jax.Array, expert: jax.Array) -> tuple[jax.Array, jax.Array]:
        chosen = expert[:, None] == jnp.arange(experts)
        return counts + chosen, jnp.sum(counts * chosen, axis=-1)

    start = jnp.zeros((queue.shape[0], experts), jnp.int32)
    return jax.lax.scan(serve, start, queue.T)[1].T


def _earlier_by_sum(queue: jax.Array, experts: int) -> jax.Array:
    chosen = (queue[:, None, :] == jnp.arange(experts)[:, None]).astype(jnp.int32)
    return jnp.sum((jnp.cumsum(chosen, axis=-1) - 1) * chosen, axis=1)
