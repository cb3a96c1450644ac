"""Fast weights: what they start from, how fast they learn, and what they are when they are all one."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trainers.models.draws import glorot, normal
from trainers.models.fast import FastLinear

M, IN, OUT = 3, 6, 4


def numbers(spread=0.5, rate=1.0):
    return {"model.fast_weight_spread": jnp.float32(spread), "model.fast_weight_rate": jnp.float32(rate)}


def layer(init="normal", width=OUT):
    return FastLinear(width, jnp.dtype("float32"), glorot, normal(1e-6), M, init)


@functools.cache
def passes():
    """The output and every gradient of a weighted sum of it, compiled."""

    def loss(params, x, weight, traced):
        y = layer().apply({"params": params}, x, traced)
        return jnp.sum(weight * y), y

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))


@pytest.fixture(scope="module")
def case():
    random = np.random.default_rng(0)
    shapes = {"alpha": (M, IN), "kernel": (IN, OUT), "gamma": (M, OUT), "bias": (M, OUT)}
    params = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return params, *(random.normal(size=(M * 2, 5, width)).astype(np.float32) for width in (IN, OUT))


def test_a_member_multiplies_by_a_matrix_of_its_own_of_rank_one_beside_the_shared_one(case):
    params, x, weight = case
    (_, y), (gradients, to_x) = passes()(params, x, weight, numbers())
    for member in range(M):
        own = slice(2 * member, 2 * member + 2)
        matrix = params["kernel"] * np.outer(params["alpha"][member], params["gamma"][member])
        np.testing.assert_allclose(y[own], x[own] @ matrix + params["bias"][member], atol=1e-5)
        np.testing.assert_allclose(to_x[own], weight[own] @ matrix.T, atol=1e-5)
        to_matrix = np.einsum("sti,sto->io", x[own], weight[own])
        np.testing.assert_allclose(gradients["alpha"][member], (to_matrix * params["kernel"]) @ params["gamma"][member], atol=1e-4)
        np.testing.assert_allclose(gradients["gamma"][member], params["alpha"][member] @ (to_matrix * params["kernel"]), atol=1e-4)


def test_the_rate_scales_gradients_of_fast_weights_alone_and_no_output(case):
    params, x, weight = case
    (_, y), (once, _) = passes()(params, x, weight, numbers())
    (_, same), (twice, _) = passes()(params, x, weight, numbers(rate=2.0))
    np.testing.assert_array_equal(y, same)
    for name, gradient in twice.items():
        np.testing.assert_allclose(gradient, once[name] * (2 if name in ("alpha", "gamma") else 1), rtol=1e-6)


def test_members_with_fast_weights_of_one_are_the_shared_layer(case):
    params, x, weight = case
    plain = params | {"alpha": np.ones((M, IN), np.float32), "gamma": np.ones((M, OUT), np.float32), "bias": np.zeros((M, OUT), np.float32)}
    (_, y), _ = passes()(plain, x, weight, numbers())
    np.testing.assert_allclose(y, x @ params["kernel"], atol=1e-6)


@pytest.mark.parametrize(("init", "spread"), [("normal", 0.5), ("normal", 0.0), ("sign", 0.75), ("sign", 0.5)])
def test_fast_weights_start_around_one_or_as_random_signs(init, spread):
    params = layer(init, 2000).init(jax.random.key(0), jnp.zeros((M, 1, 1000)), numbers(spread))["params"]
    for name, width in (("alpha", 1000), ("gamma", 2000)):
        fast = np.asarray(params[name])
        assert fast.shape == (M, width)
        if init == "sign":
            assert set(np.unique(fast)) == {-1.0, 1.0}
            assert (fast == 1).mean() == pytest.approx(spread, abs=0.03)
        else:
            assert fast.mean() == pytest.approx(1.0, abs=0.03)
            assert fast.std() == pytest.approx(spread, abs=0.03)
        if spread:
            assert (fast[0] != fast[1]).mean() > 0.3, "members start alike"
    assert params["kernel"].shape == (1000, 2000)
    assert params["bias"].shape == (M, 2000)
