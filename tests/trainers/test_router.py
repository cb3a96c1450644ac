"""Gates and balancing losses against NumPy, and their gradients where the usual forms have none."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from trainers.models import router
from trainers.models.router import Router

route = jax.jit(router.route, static_argnames=("k", "is_shared"))
SHAPE = (2, 3, 7, 4)  # [view, group, token, expert]


@pytest.fixture(scope="module")
def logits():
    return np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)


@pytest.fixture(scope="module")
def noise():
    return np.random.default_rng(1).normal(size=SHAPE, scale=0.5).astype(np.float32)


def squared_variation(values):
    return (values.std(axis=-1) / values.mean(axis=-1)) ** 2


@pytest.mark.parametrize("k", [1, 2, 4])
def test_gates_are_the_largest_of_a_softmax_over_all_experts(logits, noise, k):
    routing = route(logits, k=k, noise=noise, sigma=jnp.float32(0.5))
    gates = special.softmax(logits + noise, axis=-1)
    order = np.argsort(-gates, axis=-1)[..., :k]
    np.testing.assert_array_equal(routing.expert, order)
    np.testing.assert_allclose(routing.gate, np.take_along_axis(gates, order, -1), rtol=1e-5)


def test_kept_gates_are_not_renormalised(logits):
    routing = route(logits, k=2)
    assert np.all(np.asarray(routing.gate).sum(-1) < 0.999)
    single = jax.jit(jax.grad(lambda x: route(x, k=1).gate.sum()))(logits)
    assert np.abs(single).max() > 0.01


def test_balancing_losses_equal_their_definition(logits, noise):
    sigma, k = 0.5, 2
    routing = route(logits, k=k, noise=noise, sigma=jnp.float32(sigma))
    importance = squared_variation(special.softmax(logits, axis=-1).sum(axis=-2)).mean()
    threshold = np.sort(logits + noise, axis=-1)[..., -k]
    chance = 1 - stats.norm.cdf((threshold[..., None] - logits) / sigma)
    np.testing.assert_allclose(routing.importance, importance, rtol=1e-5)
    np.testing.assert_allclose(routing.load, squared_variation(chance.mean(axis=-2)).mean(), rtol=1e-4)


def test_evaluation_has_neither_noise_nor_load_loss(logits):
    assert float(route(logits, k=2).load) == 0.0


def test_the_importance_loss_does_not_see_the_noise(logits, noise):
    noisy = route(logits, k=2, noise=noise, sigma=jnp.float32(0.5))
    assert float(noisy.importance) == float(route(logits, k=2).importance)


@pytest.fixture(scope="module")
def total():
    def loss(logits, noise, sigma):
        routing = route(logits, k=2, noise=2 * sigma * noise, sigma=sigma)
        return routing.importance + routing.load + routing.gate.sum()

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 2)))


@pytest.mark.parametrize("sigma", [0.0, 1e-9, 1e-3, 1.0])
@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0])
def test_gradients_are_finite_at_a_zero_router_and_without_noise(logits, noise, total, sigma, scale):
    value, gradients = total(scale * logits, noise, jnp.float32(sigma))
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in gradients)


@pytest.mark.parametrize("is_shared", [False, True])
def test_the_losses_vanish_at_perfect_balance(is_shared):
    even = jnp.zeros(SHAPE)
    routing = router.route(even, k=2, noise=even, sigma=jnp.float32(0.5), is_shared=is_shared)  # compiled, x - x may be rounded
    assert (float(routing.importance), float(routing.load)) == (0.0, 0.0)
    assert np.all(np.asarray(jax.grad(lambda x: route(x, k=2).importance)(even)) == 0.0)


def test_members_that_share_a_router_are_balanced_together(logits, noise):
    # Two members that each prefer other experts are in balance, though neither is alone.
    opposite = np.concatenate([logits[:1], -logits[:1]]) * 3
    alone, together = (route(opposite, k=2, noise=noise, sigma=jnp.float32(0.5), is_shared=shared) for shared in (False, True))
    as_one = np.concatenate(list(opposite), axis=1)[None]
    expected = squared_variation(special.softmax(as_one, axis=-1).sum(axis=-2)).mean()
    np.testing.assert_allclose(together.importance, expected, rtol=1e-5)
    assert float(together.importance) < float(alone.importance)


def test_routers_of_an_ensemble_are_blocks_of_columns_of_the_single_router():
    tokens = jnp.asarray(np.random.default_rng(2).normal(size=(2, 2, 5, 6)), jnp.float32)
    single, several = Router(8, 1, 2), Router(8, 2, 2)
    variables = jax.jit(lambda key: single.init(key, tokens, sigma=None))(jax.random.key(0))
    kernel = variables["params"]["kernel"]
    assert kernel.shape == (6, 8)
    by_block, scores = several.apply(variables, tokens, sigma=None), np.asarray(tokens) @ np.asarray(kernel)
    for member in range(2):
        expected = np.argsort(-scores[member, ..., 4 * member : 4 * member + 4], axis=-1)[..., :2]
        np.testing.assert_array_equal(by_block.expert[member], expected)


def test_noise_is_drawn_for_each_token_of_each_router_with_the_given_deviation():
    tokens, several = jnp.ones((1, 4, 500, 3)), Router(8, 2, 1)
    variables = {"params": {"kernel": jnp.zeros((3, 8))}}

    apply = jax.jit(lambda sigma: several.apply(variables, tokens, sigma=sigma, rngs={"gating": jax.random.key(1)}))

    def share(sigma):
        routing = apply(sigma)
        return np.asarray(routing.expert[..., 0]), np.asarray(routing.gate[..., 0])

    (expert, gate), (_, wide) = share(0.1), share(0.2)
    np.testing.assert_allclose([(expert == e).mean() for e in range(4)], 0.25, atol=0.03)
    assert abs((expert[0] == expert[1]).mean() - 0.25) < 0.03
    # The expected largest of four standard normal draws is 1.0294.
    np.testing.assert_allclose(np.log(gate).mean() + np.log(4), 0.1029, atol=0.01)
    assert wide.mean() > gate.mean()
