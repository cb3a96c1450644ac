"""Moving tokens to the buffers of their experts and back, by index.

One-hot products cost quadratically in the tokens of a group: 2 to 12 times as much as indices on a CPU. A token's place in
a buffer is known in both directions, so the gradient of each move is a move too: no scatter of floats, hence the same
bits on every run.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Places(NamedTuple):
    """Where each assignment of a token to an expert lies in the buffers, and back.

    Attributes:
        slot: Slot of each assignment, [router, group, token, choice]; `slots` if its buffer was full.
        assignment: Assignment in each slot, [slot], numbered in the order of `slot`; `slot.size` where it is empty.
    """

    slot: jax.Array
    assignment: jax.Array


def place(expert: jax.Array, *, experts: int, capacity: int, confidence: jax.Array | None = None) -> Places:
    """Gives each assignment the next free slot of its expert: all first choices, then all second ones, and so on.

    Slots are numbered by [router, expert, group, place in the buffer].

    Args:
        expert: Chosen experts, counted within the router, [router, group, token, choice].
        experts: Experts of one router.
        capacity: Slots of one expert for one group.
        confidence: Gate of the first choice [router, group, token]: tokens are served by it, largest first (BPR).
            Without it they are served in order.
    """
    n_routers, n_groups, n_tokens, k = expert.shape
    waiting = expert
    if confidence is not None:
        order = jnp.argsort(-confidence, axis=-1, stable=True)[..., None]
        waiting = jnp.take_along_axis(expert, order, axis=2)
    queue = jnp.swapaxes(waiting, 2, 3).reshape(n_routers * n_groups, k * n_tokens)
    turn = jnp.swapaxes(_earlier(queue, experts).reshape(n_routers, n_groups, k, n_tokens), 2, 3)
    if confidence is not None:
        turn = jnp.take_along_axis(turn, jnp.argsort(order, axis=2), axis=2)
    router, group = jnp.arange(n_routers)[:, None, None, None], jnp.arange(n_groups)[:, None, None]
    slots = n_routers * experts * n_groups * capacity
    slot = jnp.where(turn < capacity, ((router * experts + expert) * n_groups + group) * capacity + turn, slots)
    assignment = jnp.full(slots, slot.size, jnp.int32).at[slot.reshape(-1)].set(jnp.arange(slot.size, dtype=jnp.int32), mode="drop")
    return Places(slot, assignment)


def dispatch(tokens: jax.Array, places: Places) -> jax.Array:
    """Buffers [slot, feature] filled with tokens [router or 1, group, token, feature]; empty slots are zero.

    With one copy of the tokens and several routers, each router's experts read the same token.
    """
    n_routers, _, _, k = places.slot.shape
    rows = tokens.reshape(-1, tokens.shape[-1])
    source = places.assignment // k
    if tokens.shape[0] < n_routers:
        source = jnp.where(places.assignment < places.slot.size, source % rows.shape[0], rows.shape[0])
        destinations = jnp.moveaxis(places.slot, 0, -2).reshape(rows.shape[0], n_routers * k)
    else:
        destinations = places.slot.reshape(rows.shape[0], k)
    return _move(rows, source, destinations)


def combine(buffers: jax.Array, places: Places, gate: jax.Array) -> jax.Array:
    """Sum over choices of gate times the expert's output, [router, group, token, feature]; a full buffer gives zero."""
    picked = _move(buffers, places.slot.reshape(-1), places.assignment[:, None])
    picked = picked.reshape(*places.slot.shape, buffers.shape[-1])
    return jnp.sum(gate[..., None].astype(picked.dtype) * picked, axis=-2)


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
