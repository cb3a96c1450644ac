"""What is computed in half precision where that is asked for, and what never is. Nothing is run: types follow from tracing."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from orchestrator.contract import build
from tests.trainers.scripted import TINY_VISION, flat_of
from trainers.config import VisionConfig
from trainers.losses import training_loss
from trainers.models.linear import Kernel
from trainers.step import LaneState, Program, root_key, traced_numbers
from trainers.vision import Vision

BF16, F32 = jnp.dtype("bfloat16"), jnp.dtype("float32")
HALF = {"model.dtype": "bfloat16", "model.representation": 6, "model.moe_placement": "last", "data.train_examples": 8}
IMAGES, LABELS = jax.ShapeDtypeStruct((8, 8, 8, 1), jnp.uint8), jax.ShapeDtypeStruct((8,), jnp.int32)
IN_BLOCKS = ("embedding", "query_key_value", "out", "norm_attention", "norm_mlp", "Linear_0", "Linear_1", "attention", "mlp", "experts")
OUTSIDE = ("norm", "pre_logits", "head")


def flat(**changes: Any) -> dict[str, Any]:
    return dict(flat_of(Vision(), TINY_VISION | HALF | {"optim.name": "sgd"} | changes))


@functools.cache
def made(*changes: tuple[str, Any]) -> tuple[Program, dict[str, np.ndarray], LaneState]:
    config = flat(**dict(changes))
    program, numbers = Program(build(VisionConfig, config)), traced_numbers(config)
    return program, numbers, jax.eval_shape(program.init, root_key(0), numbers)


def stepped(*changes: tuple[str, Any]) -> Any:
    program, numbers, state = made(*changes)
    return jax.make_jaxpr(program.step)(state, IMAGES, LABELS, numbers)


def operations(jaxpr: Any) -> Iterator[Any]:
    """Every operation, of what is called too."""
    for operation in jaxpr.eqns:
        yield operation
        for value in operation.params.values():
            for inner in value if isinstance(value, (tuple, list)) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from operations(inner)


def types_of(jaxpr: Any, *names: str) -> set[Any]:
    return {value.aval.dtype for one in operations(jaxpr.jaxpr) if one.primitive.name in names for value in one.invars}


def test_layers_within_blocks_compute_in_half_precision_and_what_decides_does_not() -> None:
    program, numbers, state = made()
    found: dict[str, set[Any]] = {}

    def listen(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        result = call(*args, **kwargs)
        if context.method_name == "__call__" and context.module.name and not isinstance(context.module, Kernel):  # which computes nothing
            leaves = [leaf for leaf in jax.tree.leaves(result) if jnp.issubdtype(leaf.dtype, jnp.floating)]
            found.setdefault(context.module.name, set()).update(leaf.dtype for leaf in leaves)
        return result

    def predict(params: Any, images: Any) -> Any:
        return program.member_logits(params, numbers, images)

    with nn.intercept_methods(listen):
        logits = jax.eval_shape(predict, state.params, IMAGES)
    assert {name: found[name] for name in IN_BLOCKS} == {name: {BF16} for name in IN_BLOCKS}
    assert {name: found[name] for name in OUTSIDE} == {name: {F32} for name in OUTSIDE}
    assert found["router"] == {F32}, "gates and the losses that balance them"
    assert logits.dtype == F32


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_products_are_of_the_type_that_is_asked_for(dtype: str) -> None:
    jaxpr = stepped(("model.dtype", dtype))
    types = {value.aval.dtype for one in operations(jaxpr.jaxpr) for value in (*one.invars, *one.outvars) if hasattr(value.aval, "dtype")}
    assert (BF16 in types) == (dtype == "bfloat16")
    products = [one for one in operations(jaxpr.jaxpr) if one.primitive.name == "dot_general"]
    half = [one for one in products if {value.aval.dtype for value in one.invars} == {BF16}]
    assert all(len({value.aval.dtype for value in one.invars}) == 1 for one in products), "a product of two types is one of the wider"
    # Forward: embedding; 4 products of attention and 2 of the MLP, in each of 2 blocks. Backward: 2 each, but 1 of the embedding,
    # and 1 in which the gradient of gates is summed. The sparse layer holds the ways of all platforms, of which one is run: the 6 products
    # of experts twice, and 4 products that move tokens where indices do not.
    assert len(half) == (3 * (1 + 2 * 6) + 6 + 4 if dtype == "bfloat16" else 0)


def test_softmaxes_and_logarithms_are_never_of_half_precision() -> None:
    assert types_of(stepped(), "exp", "log", "log1p", "erf", "reduce_max", "top_k") == {F32}


def test_parameters_gradients_and_the_loss_stay_in_single_precision() -> None:
    program, numbers, state = made()

    def loss(params: Any) -> jax.Array:
        rngs = {"dropout": jax.random.key(0), "gating": jax.random.key(1)}
        prediction = program.model.apply({"params": params}, jnp.zeros(IMAGES.shape), numbers, train=True, rngs=rngs)
        return training_loss(prediction, jnp.zeros((8, 10)))

    value, gradients = jax.eval_shape(jax.value_and_grad(loss), state.params)
    assert value.dtype == F32
    assert {leaf.dtype for leaf in jax.tree.leaves((state.params, gradients))} == {F32}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_accumulator_is_of_its_own_type_and_the_update_is_not(dtype: str) -> None:
    program, numbers, state = made(("optim.momentum_dtype", dtype), ("model.dtype", "float32"))
    after = jax.eval_shape(program.step, state, IMAGES, LABELS, numbers)
    for one in (state, after):
        assert {leaf.dtype for leaf in jax.tree.leaves(one.momentum)} == {jnp.dtype(dtype)}
        assert {leaf.dtype for leaf in jax.tree.leaves(one.params)} == {F32}
    assert jax.tree.map(lambda leaf: leaf.shape, after) == jax.tree.map(lambda leaf: leaf.shape, state)


def test_an_accumulator_of_half_precision_is_rounded_once_a_step() -> None:
    from trainers.optimizer import optimizer

    config = build(VisionConfig, flat(**{"optim.momentum_dtype": "bfloat16"})).optim
    numbers = {name: jnp.float32(value) for name, value in (("clip_norm", 1e9), ("momentum", 0.9), ("weight_decay", 0.0))}
    chain = optimizer(config, {f"optim.{name}": value for name, value in numbers.items()}, jnp.float32(1.0))
    gradients = [{"bias": np.float32(value)} for value in (1.001, 0.37, -2.3)]
    state, kept = chain.init(gradients[0]), np.float32(0)
    for gradient in gradients:
        updates, state = chain.update(gradient, state, gradient)
        exact = gradient["bias"] + np.float32(0.9) * kept
        np.testing.assert_allclose(updates["bias"], -exact, rtol=1e-6)
        kept = np.float32(jnp.bfloat16(exact))


def test_half_precision_of_an_accumulator_that_is_not_there_is_refused() -> None:
    config = flat_of(Vision(), TINY_VISION)
    [problem] = Vision().problems(dict(config) | {"optim.momentum_dtype": "bfloat16"})
    assert problem.what == "optim.momentum_dtype is of an accumulator that adamw does not have"
    assert Vision().problems(flat(**{"optim.momentum_dtype": "bfloat16"})) == []
