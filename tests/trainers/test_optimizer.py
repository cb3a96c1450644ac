"""The optimizer with every number traced is the one that Optax builds from Python numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.config import OptimConfig
from trainers.optimizer import clip, kernels, learning_rate, optimizer

PARAMS = {"dense": {"kernel": jnp.linspace(-1.0, 2.0, 6).reshape(2, 3), "bias": jnp.array([0.5, -0.5, 1.0])}, "positions": jnp.ones((2, 2))}
SHIFTS = (0.1, -0.7, 30.0, 0.02)  # the third makes a gradient that is clipped


def numbers(**values: float) -> dict[str, jax.Array]:
    base = {"learning_rate": 0.1, "end_learning_rate": 0.0, "momentum": 0.9, "b1": 0.9, "b2": 0.999, "weight_decay": 0.0, "clip_norm": 1.0}
    traced = {f"optim.{name}": jnp.float32(value) for name, value in (base | values).items() if name not in ("warmup_steps", "steps")}
    integers = {"optim.warmup_steps": values.get("warmup_steps", 0), "train.steps": values.get("steps", 10)}
    return traced | {name: jnp.int32(value) for name, value in integers.items()}


@settings(deadline=None, max_examples=50)
@given(steps=st.integers(2, 200), share=st.floats(0.0, 0.9), peak=st.floats(1e-4, 1.0), end=st.floats(0.0, 1e-2), now=st.floats(0.0, 1.0))
def test_the_schedule_is_optaxs(steps: int, share: float, peak: float, end: float, now: float) -> None:
    warmup, step = int(share * steps), int(now * steps)
    theirs = (
        optax.warmup_cosine_decay_schedule(0.0, peak, warmup, steps, end)
        if warmup
        else optax.cosine_decay_schedule(peak, steps, end / peak)
    )
    traced = numbers(learning_rate=peak, end_learning_rate=end, warmup_steps=warmup, steps=steps)
    # Near the end optax takes end + (peak - end)·0 as a difference of larger float32 numbers.
    np.testing.assert_allclose(learning_rate(jnp.int32(step), traced), theirs(step), rtol=1e-5, atol=2e-7 * peak)


def test_the_schedule_starts_at_zero_and_ends_at_the_end() -> None:
    traced = numbers(learning_rate=0.3, end_learning_rate=0.01, warmup_steps=4, steps=10)
    rates = [float(learning_rate(jnp.int32(step), traced)) for step in (0, 4, 10, 11)]
    assert rates == pytest.approx([0.0, 0.3, 0.01, 0.01])


def trained(chain_of_step: Callable[[int], optax.GradientTransformation], steps: int = len(SHIFTS)) -> Any:
    params, state = PARAMS, chain_of_step(0).init(PARAMS)
    for step in range(steps):
        gradients = jax.tree.map(lambda leaf, step=step: leaf * 0.3 + SHIFTS[step], params)
        updates, state = chain_of_step(step).update(gradients, state, params)
        params = optax.apply_updates(params, updates)
    return params


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_the_chain_is_clip_then_momentum_then_decay_then_rate(name: str) -> None:
    traced = numbers(weight_decay=0.1, warmup_steps=2, momentum=0.8, b1=0.85, b2=0.99)
    schedule = optax.warmup_cosine_decay_schedule(0.0, 0.1, 2, 10, 0.0)
    inner = optax.trace(decay=0.8) if name == "sgd" else optax.scale_by_adam(b1=0.85, b2=0.99)
    theirs = trained(
        lambda step: optax.chain(
            optax.clip_by_global_norm(1.0), inner, optax.add_decayed_weights(0.1, mask=kernels), optax.scale(-schedule(step))
        )
    )
    ours = trained(lambda step: optimizer(OptimConfig(name=name), traced, learning_rate(jnp.int32(step), traced)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6), ours, theirs)


def test_weight_decay_pulls_on_kernels_alone() -> None:
    zero = jax.tree.map(jnp.zeros_like, PARAMS)
    chain = optimizer(OptimConfig(name="sgd"), numbers(weight_decay=0.5), jnp.float32(0.1))
    updates, _ = chain.update(zero, chain.init(PARAMS), PARAMS)
    np.testing.assert_allclose(updates["dense"]["kernel"], -0.05 * PARAMS["dense"]["kernel"], rtol=1e-6)
    assert not np.any(updates["dense"]["bias"])
    assert not np.any(updates["positions"])


@pytest.mark.parametrize(("norm", "scale"), [(10.0, 1.0), (2.5, 0.5), (0.0, 0.0)])
def test_gradients_are_scaled_down_to_the_norm_and_never_up(norm: float, scale: float) -> None:
    gradients = {"a": jnp.array([3.0, 4.0])}
    clipped, _ = clip(jnp.float32(norm)).update(gradients, optax.EmptyState())
    np.testing.assert_allclose(clipped["a"], scale * gradients["a"], rtol=1e-6)


@pytest.mark.parametrize("norm", [0.0, 1.0])
def test_a_zero_gradient_stays_zero(norm: float) -> None:
    clipped, _ = clip(jnp.float32(norm)).update({"a": jnp.zeros(2)}, optax.EmptyState())
    assert clipped["a"].tolist() == [0.0, 0.0]


def test_the_accumulator_has_the_type_that_was_asked_for() -> None:
    chain = optimizer(OptimConfig(name="sgd", momentum_dtype="bfloat16"), numbers(), jnp.float32(0.1))
    updates, state = chain.update(PARAMS, chain.init(PARAMS), PARAMS)
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype("bfloat16")}
    assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {jnp.dtype("float32")}
