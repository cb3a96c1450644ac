"""The models against a NumPy model that follows the paper one token at a time, and against each other."""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from trainers.config import DataConfig, ModelConfig
from trainers.geometry import predictions
from trainers.models import make_model

DATA = DataConfig(image_size=4, channels=2, classes=3)
N, T, D, H, E = 4, 5, 8, 2, 4
SMALL = ModelConfig(hidden=D, mlp=12, depth=3, heads=H, patch=2, moe_layers=1, experts=E, k=1, eval_capacity_factor=1.0)
DENSE = dataclasses.replace(SMALL, moe_placement="none")
VMOE = dataclasses.replace(SMALL, k=2)
E3 = dataclasses.replace(SMALL, members=2, tile=True, partition=True)
TILED = dataclasses.replace(SMALL, members=2, tile=True)
PARTITIONED = dataclasses.replace(SMALL, members=2, partition=True)
OVERLAPPING = dataclasses.replace(E3, overlap=1)

MODELS = {
    "ViT": DENSE,
    "V-MoE": VMOE,
    "V-MoE, tight": dataclasses.replace(VMOE, eval_capacity_factor=0.4),
    "V-MoE, by confidence": dataclasses.replace(VMOE, eval_capacity_factor=0.4, batch_priority=True),
    "V-MoE, every block, groups, tanh": dataclasses.replace(
        VMOE, moe_placement="every", group_images=2, representation=6, eval_capacity_factor=0.8
    ),
    "E³": E3,
    "E³, K=2, groups, every block": dataclasses.replace(E3, k=2, group_images=2, moe_placement="every", eval_capacity_factor=0.5),
    "tiling, tight, by confidence": dataclasses.replace(TILED, eval_capacity_factor=0.4, batch_priority=True, group_images=2),
    "partitioning, K=2, tight": dataclasses.replace(PARTITIONED, k=2, eval_capacity_factor=0.4),
    "overlap, tight, by confidence": dataclasses.replace(OVERLAPPING, k=2, eval_capacity_factor=0.4, batch_priority=True, group_images=2),
    "overlap, untiled, tight": dataclasses.replace(OVERLAPPING, tile=False, k=2, eval_capacity_factor=0.4),
    "E³ with heads of its own, tanh": dataclasses.replace(E3, member_heads=True, representation=6),
    "heads, untiled": dataclasses.replace(VMOE, members=3, member_heads=True),
    "tiling early": dataclasses.replace(TILED, tile_at=0),
    "MC dropout, tiling late": dataclasses.replace(
        SMALL, members=2, tile=True, tile_at=1, mc_dropout=True, expert_dropout=0.1, moe_placement="every"
    ),
    "BatchEnsemble": dataclasses.replace(DENSE, members=3, tile=True, tile_at=1, batch_ensemble=True),
    "BatchEnsemble V-MoE": dataclasses.replace(TILED, tile_at=0, batch_ensemble=True, fast_weight_init="sign"),
    "MIMO": dataclasses.replace(VMOE, members=3, mimo=True, representation=6),
}


def traced(**changes):
    numbers = {key: getattr(SMALL, key) for key in ("router_noise", "importance_weight", "load_weight", "head_bias")}
    numbers |= {key: 0.0 for key in ("dropout", "expert_dropout", "attention_dropout", "input_repetition")}
    numbers |= {"fast_weight_spread": 0.5, "fast_weight_rate": 1.0}
    return {f"model.{key}": jnp.float32(value) for key, value in (numbers | changes).items()}


# Unoptimised programs compile in half the time; the numbers are the same within rounding.
compiled = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@functools.cache
def programs(model):
    """Random parameters of everything, and the compiled evaluation and training passes."""
    module, own = make_model(model, DATA), {"model.partition": jnp.bool_(model.partition)}
    init = lambda key: module.init(key, jnp.zeros((1, 4, 4, 2)), traced() | own, train=False)["params"]  # noqa: E731
    shapes = jax.eval_shape(init, jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape, scale=0.4), jnp.float32), shapes)
    evaluate = compiled(lambda params, images: module.apply({"params": params}, images, traced() | own, train=False))
    train = compiled(
        lambda params, images, numbers, key: module.apply(
            {"params": params}, images, numbers | own, train=True, rngs={"dropout": key, "gating": jax.random.fold_in(key, 1)}
        )
    )
    return params, evaluate, train


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(3).uniform(-1, 1, size=(N, 4, 4, 2)).astype(np.float32)


def norm(x, p):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]


def linear(x, p):
    return x @ p["kernel"] + p["bias"]


def gelu(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def mlp(x, p):
    return linear(gelu(linear(x, p["Linear_0"])), p["Linear_1"])


def fast_mlp(x, p):
    """BatchEnsemble of `x` [member, image, token, feature]: a matrix of its own for each member, written out."""

    def own(layer, member):
        matrix = layer["kernel"] * np.outer(layer["alpha"][member], layer["gamma"][member])
        return {"kernel": matrix, "bias": layer["bias"][member]}

    return np.stack([mlp(tokens, {name: own(layer, member) for name, layer in p.items()}) for member, tokens in enumerate(x)])


def attention(x, p):
    q, k, v = (part.reshape(T, H, D // H) for part in np.split(linear(x, p["query_key_value"]), 3, axis=-1))
    weights = special.softmax(np.einsum("qhd,khd->hqk", q, k) / math.sqrt(D // H), axis=-1)
    return linear(np.einsum("hqk,khd->qhd", weights, v).reshape(T, D), p["out"])


def sparse(x, p, model):
    """The mixture of `x` [copy, image, token, feature], by loops: one group after the other."""
    out, size, copies = np.zeros_like(x), model.group_images or N, range(x.shape[0])
    n_routers = model.members if model.partition else 1
    kernel = p["router"]["kernel"].reshape(D, n_routers, -1)
    windows = [(router * E // n_routers + np.arange(kernel.shape[2])) % E for router in range(n_routers)]
    # A view is a copy of the tokens, and the router that sees it.
    views = list(zip(copies, copies, strict=True)) if len(copies) == n_routers else [(c, r) for c in copies for r in range(n_routers)]
    for first in range(0, N, size):
        waiting = [(view, n, t) for n in range(first, first + size) for t in range(T) for view in views]
        gates = {(view, n, t): special.softmax(x[view[0], n, t] @ kernel[:, view[1]]) for view, n, t in waiting}
        choices = {token: np.argsort(-gates[token], kind="stable") for token in waiting}
        if model.batch_priority:
            waiting.sort(key=lambda token: -gates[token].max())
        capacity = 4 * math.ceil(math.ceil(len(waiting) * model.k * model.eval_capacity_factor / E) / 4)
        filled = np.zeros(E, int)
        for choice in range(model.k):
            for (copy, router), n, t in waiting:
                chosen = choices[(copy, router), n, t][choice]
                expert = windows[router][chosen]
                filled[expert] += 1
                if filled[expert] <= capacity:
                    mine = jax.tree.map(lambda leaf, e=expert: leaf[e], p["experts"])
                    out[copy, n, t] += gates[(copy, router), n, t][chosen] * mlp(x[copy, n, t], mine)
    return out


def by_hand(model, params, images):
    """Logits [member, image, class]: attention and dense layers image by image."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    if model.mimo:
        images = np.concatenate([images] * model.members, axis=-1)
    patches = np.stack([images[:, r : r + 2, c : c + 2].reshape(N, -1) for r in (0, 2) for c in (0, 2)], axis=1)
    x = np.concatenate([np.broadcast_to(p["class_token"], (N, 1, D)), linear(patches, p["embedding"])], axis=1) + p["positions"]
    x = x[None]
    blocks = {"none": [], "last": [1], "every": range(model.depth)}[model.moe_placement]
    for index in range(model.depth):
        b = p[f"block_{index}"]
        if model.tile and index == (min(blocks) if model.tile_at < 0 else model.tile_at):
            x = np.repeat(x, model.members, axis=0)
        x = x + np.stack([[attention(image, b["attention"]) for image in member] for member in norm(x, b["norm_attention"])])
        y = norm(x, b["norm_mlp"])
        if index in blocks:
            x = x + sparse(y, b["moe"], model)
        else:
            x = x + (fast_mlp if model.batch_ensemble and x.shape[0] > 1 else mlp)(y, b["mlp"])
    x = norm(x[:, :, 0], p["norm"])
    if model.representation:
        x = np.tanh(linear(x, p["pre_logits"]))
    if model.mimo or (model.member_heads and not model.tile):
        columns = [slice(3 * member, 3 * member + 3) for member in range(model.members)]
        return np.stack([x[0] @ p["head"]["kernel"][:, own] + p["head"]["bias"][own] for own in columns])
    if model.member_heads:
        return np.stack([x[m] @ p["head"]["kernel"][m] + p["head"]["bias"][m] for m in range(model.members)])
    return linear(x, p["head"])


@pytest.mark.parametrize("name", MODELS)
def test_the_model_computes_what_the_paper_says(name, images):
    params, evaluate, _ = programs(MODELS[name])
    expected = by_hand(MODELS[name], params, images)
    assert expected.shape[0] == predictions(MODELS[name])
    if expected.shape[0] > 1 and not MODELS[name].mc_dropout and "tiling" not in name:
        assert np.abs(expected[0] - expected[1]).max() > 1e-2, "members are equal"
    np.testing.assert_allclose(evaluate(params, images).logits, expected, atol=2e-4, rtol=2e-4)


def test_tight_buffers_and_priority_change_the_result(images):
    def logits(name):
        params, evaluate, _ = programs(MODELS[name])
        return evaluate(params, images).logits

    roomy, tight, sorted_ = map(logits, ("V-MoE", "V-MoE, tight", "V-MoE, by confidence"))
    assert np.abs(roomy - tight).max() > 1e-3
    assert np.abs(tight - sorted_).max() > 1e-3


def test_an_efficient_ensemble_is_several_sparse_models_that_share_all_but_experts_and_routers(images):
    model = dataclasses.replace(E3, moe_placement="every", moe_layers=2, depth=4, eval_capacity_factor=0.6)
    params, evaluate, _ = programs(model)
    logits = evaluate(params, images).logits
    alone = dataclasses.replace(model, members=1, tile=False, partition=False, experts=E // 2)
    for member in range(2):

        def mine(path, leaf, member=member):
            names = [entry.key for entry in path]
            own = slice(member * E // 2, (member + 1) * E // 2)
            if "router" in names:
                return leaf[:, own]
            return leaf[own] if "experts" in names else leaf

        own = jax.tree_util.tree_map_with_path(mine, params)
        np.testing.assert_allclose(programs(alone)[1](own, images).logits[0], logits[member], atol=1e-5)


@pytest.mark.parametrize(
    "model", [E3, OVERLAPPING, dataclasses.replace(OVERLAPPING, overlap=2)], ids=lambda model: f"overlap {model.overlap}"
)
def test_the_loss_of_a_member_reaches_exactly_the_experts_of_its_window(model, images):
    params, _, train = programs(dataclasses.replace(model, k=2, capacity_factor=8.0))

    @compiled
    def gradients(params, weight):
        def of_members(params):
            # Much noise, so that some token comes to each expert that is open to it.
            logits = train.__wrapped__(params, images, traced(router_noise=100.0), jax.random.key(0)).logits
            return weight @ jnp.sin(logits).sum(axis=(1, 2))

        return jax.grad(of_members)(params)["block_1"]["moe"]

    for member in range(2):
        moe = gradients(params, jnp.eye(2)[member])
        window = np.isin(np.arange(E), (member * E // 2 + np.arange(E // 2 + model.overlap)) % E)
        for leaf in jax.tree.leaves(moe["experts"]):
            reached = np.asarray(leaf).reshape(E, -1).any(axis=1)
            np.testing.assert_array_equal(reached, window)
        router = np.asarray(moe["router"]["kernel"]).reshape(D, 2, -1)
        assert router[:, member].any()
        assert not router[:, 1 - member].any()


@pytest.mark.parametrize(("tile", "partition", "members"), [(False, False, 1), (True, False, 2), (False, True, 1), (True, True, 2)])
def test_tiling_makes_predictions_and_partitioning_adds_no_parameter(tile, partition, members, images):
    model = dataclasses.replace(SMALL, members=2 if tile or partition else 1, tile=tile, partition=partition)
    params, evaluate, _ = programs(model)
    prediction = jax.eval_shape(evaluate, params, images)
    assert prediction.logits.shape == (members, N, 3)
    assert prediction.logits.dtype == jnp.float32
    assert prediction.auxiliary.shape == ()
    assert params["block_1"]["moe"]["router"]["kernel"].shape == (D, E)


def test_logits_are_member_major(images):
    params, evaluate, _ = programs(dataclasses.replace(E3, eval_capacity_factor=8.0))
    together = evaluate(params, images).logits
    order = np.array([2, 0, 3, 1])
    np.testing.assert_allclose(evaluate(params, images[order]).logits, together[:, order], atol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 1e-2


def test_members_that_share_a_router_differ_by_their_noise_alone(images):
    params, _, train = programs(dataclasses.replace(TILED, capacity_factor=8.0))
    quiet, noisy = (train(params, images, traced(router_noise=noise), jax.random.key(0)).logits for noise in (0.0, 1.0))
    np.testing.assert_allclose(quiet[0], quiet[1], atol=1e-6)
    assert np.abs(noisy[0] - noisy[1]).max() > 1e-2


def test_noise_is_divided_by_the_experts_a_router_sees_or_by_all(images):
    params, _, local = programs(E3)
    _, _, all_ = programs(dataclasses.replace(E3, noise_normaliser="all"))
    key = jax.random.key(5)
    expected = local(params, images, traced(router_noise=0.5), key)
    np.testing.assert_allclose(all_(params, images, traced(router_noise=1.0), key).logits, expected.logits, rtol=1e-5)
    assert np.abs(all_(params, images, traced(router_noise=0.5), key).logits - expected.logits).max() > 1e-4


def test_auxiliary_losses_are_weighted_and_summed_over_layers(images):
    params, evaluate, train = programs(MODELS["E³, K=2, groups, every block"])
    key = jax.random.key(2)

    def auxiliary(importance, load):
        return float(train(params, images, traced(importance_weight=importance, load_weight=load), key).auxiliary)

    assert auxiliary(0.0, 0.0) == 0.0
    np.testing.assert_allclose(auxiliary(1.0, 2.0), auxiliary(1.0, 0.0) + 2 * auxiliary(0.0, 1.0), rtol=1e-5)
    # Evaluation sees no noise, so its only loss is that of importance, which never sees it.
    zero = jax.tree_util.tree_map_with_path(lambda path, leaf: 0 * leaf if "router" in str(path) else leaf, params)
    assert float(evaluate(zero, images).auxiliary) < 1e-12
    assert float(evaluate(params, images).auxiliary) > 0.0


def test_traced_values_are_arguments_and_not_part_of_the_model():
    other = dataclasses.replace(E3, router_noise=3.0, importance_weight=0.1, load_weight=0.2, head_bias=-10.0)
    assert make_model(E3, DATA) == make_model(other, DATA)
    assert hash(make_model(E3, DATA)) == hash(make_model(other, DATA))
    one, two = (make_model(dataclasses.replace(E3, dropout=rate), DATA) for rate in (0.1, 0.2))
    assert one == two != make_model(E3, DATA)
    assert make_model(TILED, DATA) == make_model(E3, DATA), "with tiling, partitioning is traced"
    assert make_model(PARTITIONED, DATA) != make_model(dataclasses.replace(SMALL, members=2), DATA), "without, it is not"


@pytest.fixture(scope="module")
def fresh():
    module = make_model(dataclasses.replace(E3, representation=6), DATA)
    own = {"model.partition": jnp.bool_(True)}
    return compiled(lambda key, bias: module.init(key, jnp.zeros((1, 4, 4, 2)), traced(head_bias=bias) | own, train=False)["params"])


def test_parameters_start_where_the_paper_starts_them(fresh):
    params = fresh(jax.random.key(0), -10.0)
    assert not params["head"]["kernel"].any()
    assert np.all(params["head"]["bias"] == -10.0)
    assert not params["class_token"].any()
    assert 0.01 < params["positions"].std() < 0.03
    for leaf in jax.tree.leaves(params["block_1"]["moe"]["experts"]):
        assert np.all(leaf == leaf[:1]), "experts start alike"
    kernel = params["block_0"]["mlp"]["Linear_0"]["kernel"]
    bound = math.sqrt(6 / (D + 12))
    assert 0.8 * bound < np.abs(kernel).max() <= bound
    assert 0 < np.abs(params["block_0"]["mlp"]["Linear_0"]["bias"]).max() < 1e-5
    packed = params["block_0"]["attention"]["query_key_value"]["kernel"]
    assert 0.8 * math.sqrt(6 / (2 * D)) < np.abs(packed).max() <= math.sqrt(6 / (2 * D))
    router = params["block_1"]["moe"]["router"]["kernel"]
    assert not np.allclose(router[:, : E // 2], router[:, E // 2 :])


def test_another_seed_gives_other_parameters_and_the_same_one_the_same(fresh):
    one, again, other = (fresh(jax.random.key(seed), 0.0) for seed in (0, 0, 1))
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(again), strict=True))
    assert not np.array_equal(one["embedding"]["kernel"], other["embedding"]["kernel"])


DROPPING = dataclasses.replace(E3, dropout=0.1, expert_dropout=0.1, attention_dropout=0.1)


def test_dropout_at_rate_zero_changes_nothing(images):
    params, _, train = programs(E3)
    _, _, dropping = programs(DROPPING)
    quiet, key = traced(router_noise=0.0), jax.random.key(0)
    expected = train(params, images, quiet, key).logits
    np.testing.assert_allclose(dropping(params, images, quiet, key).logits, expected, rtol=1e-6)


@pytest.mark.parametrize("which", ["dropout", "expert_dropout", "attention_dropout"])
def test_each_dropout_rate_acts_in_training_only(which, images):
    params, evaluate, dropping = programs(DROPPING)
    quiet = traced(router_noise=0.0)
    without = dropping(params, images, quiet, jax.random.key(0)).logits
    with_ = dropping(params, images, quiet | {f"model.{which}": jnp.float32(0.5)}, jax.random.key(0)).logits
    assert np.abs(without - with_).max() > 1e-3
    np.testing.assert_allclose(evaluate(params, images).logits, programs(E3)[1](params, images).logits, rtol=1e-6)


def test_activations_may_be_bfloat16_while_parameters_and_logits_are_not(images):
    half = dataclasses.replace(E3, dtype="bfloat16", eval_capacity_factor=8.0)
    params, evaluate, _ = programs(half)
    exact = programs(dataclasses.replace(half, dtype="float32"))[1](params, images).logits
    logits = evaluate(params, images).logits
    assert logits.dtype == jnp.float32
    assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {"float32"}
    assert 0 < np.abs(logits - exact).mean() < 0.2 * np.abs(exact).mean()


def test_a_group_smaller_than_the_batch_routes_alone(images):
    model = dataclasses.replace(VMOE, group_images=2, eval_capacity_factor=0.4)
    params, evaluate, _ = programs(model)
    together = evaluate(params, images).logits
    np.testing.assert_allclose(together[:, :2], evaluate(params, images[:2]).logits, atol=1e-5)
    # A batch that groups do not divide is split in the largest that do.
    assert jax.eval_shape(evaluate, params, images[:3]).logits.shape == (1, 3, 3)


def test_pixels_that_fill_no_patch_are_left_out(images):
    params, evaluate, _ = programs(dataclasses.replace(DENSE, patch=3))
    expected = evaluate(params, images[:, :3, :3]).logits
    np.testing.assert_allclose(evaluate(params, images).logits, expected, rtol=1e-6)
    assert params["positions"].shape[1] == 2
