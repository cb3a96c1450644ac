"""The MLPs of a sparse layer: dense, GELU, dropout, dense, dropout, for the rows of its buffers that are filled.

Buffers have room for more tokens than come: half as much again in training, and eight times as much in evaluation. A CPU
takes their rows in tiles and leaves the empty ones out, so its time follows the tokens and not the capacity: a step of a layer
of width 128 takes half as long, and an evaluation at C = 8 a quarter. An accelerator multiplies whole buffers at once.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from trainers.config import ModelConfig
from trainers.models.draws import glorot, normal, uniform
from trainers.models.linear import Kernel
from trainers.models.mlp import Traced

TILE = 64  # rows at most: fewer leave less of a tile empty, more make a product of matrices efficient


class Weights(NamedTuple):
    """Of all experts of a layer, float32: [expert, in, out] and [expert, out]."""

    first: jax.Array
    first_bias: jax.Array
    second: jax.Array
    second_bias: jax.Array


class Masks(NamedTuple):
    """What dropout multiplies by, [row, feature]: experts share it, as they share their first values."""

    hidden: jax.Array
    out: jax.Array


class Experts(nn.Module):
    """The experts of a layer, which start from the same values: only the router breaks their symmetry.

    Attributes:
        model: Widths and type.
        rate: Key of the dropout rate in the traced values; None is no dropout.
        is_sampled: Dropout acts in evaluation too, by the same draws each time unless the caller gives a `dropout` stream.
    """

    model: ModelConfig
    rate: str | None
    is_sampled: bool = False

    @nn.compact
    def __call__(self, rows: jax.Array, filled: jax.Array, traced: Traced, *, train: bool) -> jax.Array:
        """What experts say of [expert, row, feature], in the same shape; whatever stands in rows that are not filled.

        Args:
            rows: Empty ones are zero, and so is the gradient of what is said of them.
            filled: Rows of each expert that are filled, the first ones, [expert].
            traced: Has the dropout rate.
            train: Dropout acts.
        """
        model, rows = self.model, rows.astype(jnp.dtype(self.model.dtype))
        layers = [
            Kernel(width, glorot, normal(1e-6), experts=model.experts, name=f"Linear_{index}")(n_in)
            for index, (n_in, width) in enumerate(((model.hidden, model.mlp), (model.mlp, model.hidden)))
        ]
        masks = None
        if self.rate is not None and (train or self.is_sampled):
            draws = train or self.has_rng("dropout")
            keys = [self.make_rng("dropout") if draws else self._same_key(index) for index in range(len(layers))]
            shapes = [(rows.shape[1], kernel.shape[-1]) for kernel, _ in layers]
            masks = Masks(*(_mask(key, shape, traced[self.rate], rows.dtype) for key, shape in zip(keys, shapes, strict=True)))
        return apply(rows, Weights(*layers[0], *layers[1]), masks, filled)

    def _same_key(self, index: int) -> jax.Array:
        return jax.random.key(zlib.crc32(f"{'/'.join(self.path)} {index}".encode()))


def buffer_rows(needed: int) -> int:
    """Rows of a buffer that has at least so many, and is cut into equal tiles.

    >>> buffer_rows(408), buffer_rows(50), buffer_rows(97)
    (413, 50, 98)
    """
    return _n_tiles(needed) * math.ceil(needed / _n_tiles(needed))


@jax.custom_vjp
def apply(rows: jax.Array, weights: Weights, masks: Masks | None, filled: jax.Array) -> jax.Array:
    """The experts of `weights`, each applied to its rows; see `Experts`."""
    return lax.platform_dependent(rows, weights, masks, filled, cpu=say_by_tiles, default=say_at_once)


def _forward(rows: jax.Array, weights: Weights, masks: Masks | None, filled: jax.Array) -> tuple[jax.Array, tuple[object, ...]]:
    said, hidden = lax.platform_dependent(rows, weights, masks, filled, cpu=forward_by_tiles, default=forward_at_once)
    return said, (rows, hidden, weights, masks, filled)


def _backward(saved: tuple[jax.Array, jax.Array, Weights, Masks | None, jax.Array], gradient: jax.Array) -> tuple[object, ...]:
    return *lax.platform_dependent(gradient, *saved, cpu=backward_by_tiles, default=backward_at_once), None, None


apply.defvjp(_forward, _backward)


def forward_at_once(rows: jax.Array, weights: Weights, masks: Masks | None, filled: jax.Array) -> tuple[jax.Array, jax.Array]:
    """What is said of all rows, and the hidden layer before its GELU."""
    del filled
    return jax.vmap(_say, in_axes=(0, 0, None))(rows, weights, masks)


def backward_at_once(
    gradient: jax.Array, rows: jax.Array, hidden: jax.Array, weights: Weights, masks: Masks | None, filled: jax.Array
) -> tuple[jax.Array, Weights]:
    """Gradients of rows and weights."""
    del filled
    return jax.vmap(_learn, in_axes=(0, 0, 0, 0, None))(gradient, rows, hidden, weights, masks)


def say_at_once(rows: jax.Array, weights: Weights, masks: Masks | None, filled: jax.Array) -> jax.Array:
    """What is said of all rows, where nothing is learned from it."""
    return forward_at_once(rows, weights, masks, filled)[0]


def forward_by_tiles(rows: jax.Array, weights: Weights, masks: Masks | None, filled: jax.Array) -> tuple[jax.Array, jax.Array]:
    """As `forward_at_once`, of filled rows, and of others up to the end of a tile."""
    kept = jnp.zeros((*rows.shape[:2], weights.first.shape[2]), rows.dtype)
    return _over_tiles((rows, kept), weights, masks, filled, _say)


def say_by_tiles(rows: jax.Array, weights: Weights, masks: Masks | None, filled: jax.Array) -> jax.Array:
    """As `forward_by_tiles`, where nothing is learned from it."""
    return _over_tiles((rows,), weights, masks, filled, lambda rows, own, masks: _say(rows, own, masks)[:1])[0]


def _over_tiles(arrays: Any, weights: Weights, masks: Masks | None, filled: jax.Array, say: Callable[..., Any]) -> Any:
    """The arrays [expert, row, …], each with what `say` makes of a tile of the first of them in its place.

    Nothing has to be made and filled with zeros first for what is said: it stands where the row stood.
    """
    size = arrays[0].shape[1] // _n_tiles(arrays[0].shape[1])

    def expert(index: jax.Array, arrays: Any) -> Any:
        own = jax.tree.map(lambda weight: weight[index], weights)

        def tile(number: jax.Array, arrays: Any) -> Any:
            start = number * size
            new = say(_read(arrays[0], index, start, size), own, _tile_of(masks, start, size))
            return tuple(_write(array, rows, index, start) for array, rows in zip(arrays, new, strict=True))

        return lax.fori_loop(0, -(-filled[index] // size), tile, arrays)

    return lax.fori_loop(0, arrays[0].shape[0], expert, arrays)


def backward_by_tiles(
    gradient: jax.Array, rows: jax.Array, hidden: jax.Array, weights: Weights, masks: Masks | None, filled: jax.Array
) -> tuple[jax.Array, Weights]:
    """As `backward_at_once`: rows that are not filled have no gradient, and add nothing to that of the weights."""
    size = rows.shape[1] // _n_tiles(rows.shape[1])

    def expert(index: jax.Array, carry: tuple[jax.Array, Weights]) -> tuple[jax.Array, Weights]:
        own = jax.tree.map(lambda weight: weight[index], weights)

        def tile(number: jax.Array, carry: tuple[jax.Array, Weights]) -> tuple[jax.Array, Weights]:
            gradient, learned = carry
            start = number * size
            here = (_read(array, index, start, size) for array in (gradient, rows, hidden))
            back, more = _learn(*here, own, _tile_of(masks, start, size))
            return _write(gradient, back, index, start), jax.tree.map(jnp.add, learned, more)

        gradient, all_learned = carry
        n_tiles = -(-filled[index] // size)
        gradient, learned = lax.fori_loop(0, n_tiles, tile, (gradient, jax.tree.map(jnp.zeros_like, own)))
        return gradient, jax.tree.map(lambda whole, part: lax.dynamic_update_index_in_dim(whole, part, index, 0), all_learned, learned)

    return lax.fori_loop(0, rows.shape[0], expert, (gradient, jax.tree.map(jnp.zeros_like, weights)))


def _say(rows: jax.Array, weights: Weights, masks: Masks | None) -> tuple[jax.Array, jax.Array]:
    """What one expert says of rows [row, feature], and its hidden layer before the GELU."""
    first, first_bias, second, second_bias = (weight.astype(rows.dtype) for weight in weights)
    hidden = rows @ first + first_bias
    if masks is None:
        return nn.gelu(hidden) @ second + second_bias, hidden
    return (nn.gelu(hidden) * masks.hidden @ second + second_bias) * masks.out, hidden


def _learn(gradient: jax.Array, rows: jax.Array, hidden: jax.Array, weights: Weights, masks: Masks | None) -> tuple[jax.Array, Weights]:
    """Gradients of rows and weights of one expert, those of its weights in float32."""
    first, second = weights.first.astype(rows.dtype), weights.second.astype(rows.dtype)
    active, of_gelu = jax.vjp(nn.gelu, hidden)
    if masks is not None:
        gradient, active = gradient * masks.out, active * masks.hidden
    of_active = gradient @ second.T
    (of_hidden,) = of_gelu(of_active if masks is None else of_active * masks.hidden)
    learned = Weights(_outer(rows, of_hidden), _sum(of_hidden), _outer(active, gradient), _sum(gradient))
    return of_hidden @ first.T, learned


def _outer(left: jax.Array, right: jax.Array) -> jax.Array:
    """Sum over rows of left times right, [left feature, right feature]."""
    return lax.dot_general(left, right, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32)


def _sum(rows: jax.Array) -> jax.Array:
    return jnp.sum(rows, axis=0, dtype=jnp.float32)


def _mask(key: jax.Array, shape: tuple[int, int], rate: jax.Array, dtype: jnp.dtype) -> jax.Array:
    return jnp.where(uniform(key, shape) >= rate, 1.0 / (1.0 - rate), 0.0).astype(dtype)


def _n_tiles(rows: int) -> int:
    return -(-rows // TILE)


def _tile_of(masks: Masks | None, start: jax.Array, size: int) -> Masks | None:
    return jax.tree.map(lambda mask: lax.dynamic_slice_in_dim(mask, start, size), masks)


def _read(array: jax.Array, index: jax.Array, start: jax.Array, size: int) -> jax.Array:
    return lax.dynamic_slice(array, (index, start, jnp.zeros_like(start)), (1, size, array.shape[2]))[0]


def _write(array: jax.Array, rows: jax.Array, index: jax.Array, start: jax.Array) -> jax.Array:
    return lax.dynamic_update_slice(array, rows[None], (index, start, jnp.zeros_like(start)))
