"""Models that start from published weights, and from those of other models: each parameter where it belongs, or an error by its name."""

from __future__ import annotations

import dataclasses
import functools
import json
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.contract import DataError, flatten
from tests import disks
from tests.trainers import published
from trainers import initialize, presets
from trainers.config import DataConfig, ModelConfig, VisionConfig
from trainers.geometry import predictions
from trainers.initialize import How, fit, read, save_parameters
from trainers.initialize.__main__ import main
from trainers.initialize.positions import grid_side, zoomed
from trainers.models import make_model

DATA = DataConfig(image_size=4, channels=2, classes=3)
SPARSE = ModelConfig(hidden=8, mlp=12, depth=3, heads=2, patch=2, moe_layers=1, experts=4, k=1)
VIT = dataclasses.replace(SPARSE, moe_placement="none")
E3 = dataclasses.replace(SPARSE, members=2, tile=True, partition=True)
SIZES = {"side": 2, "patch": 2, "channels": 2, "hidden": 8, "mlp": 12, "heads": 2, "depth": 3, "classes": 3}

shapes = functools.cache(initialize.shapes)


def vit(seed=0, **sizes):
    return published.make_vit(np.random.default_rng(seed), **SIZES | sizes)


def vmoe(seed=0, *, members=1, experts=4, **sizes):
    return published.make_vmoe(np.random.default_rng(seed), sparse=(1,), experts=experts, members=members, **SIZES | sizes)


def as_npz(folder, arrays):
    np.savez(folder / "vit.npz", **arrays)
    return folder / "vit.npz"


def as_release(folder, arrays):
    published.write_released(folder / "vmoe", arrays)
    return folder / "vmoe"


def template(model, data=DATA):
    """Parameters that no file has: all are 7."""
    tree = {}
    for name, shape in shapes(model, data).items():
        *way, last = name.split("/")
        node = tree
        for key in way:
            node = node.setdefault(key, {})
        node[last] = np.full(shape, 7, np.float32)
    return tree


def started(path, model, data=DATA, **options):
    """Parameters by name, of a model that starts from a file."""
    tree = initialize.parameters(path, model, data, template(model, data), **options)
    return {jax.tree_util.keystr(where, simple=True, separator="/"): leaf for where, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def fresh(path, model, data=DATA, **options):
    return {name for name, array in started(path, model, data, **options).items() if (array == 7).all()}


def problems(path, model, data=DATA):
    return [str(problem) for problem in fit(read(path), model, data, shapes(model, data)).problems]


@functools.cache
def compiled(model):
    return jax.jit(lambda tree, images, traced: make_model(model, DATA).apply({"params": tree}, images, traced, train=False).logits)


def predicted(path, model, images):
    traced = {f"model.{name}": jnp.asarray(value) for name, value in flatten(model).items() if not isinstance(value, str)}
    tree = initialize.parameters(path, model, DATA, template(model))
    return np.asarray(compiled(model)(tree, images, traced))


# ---- what a published model predicts


@pytest.mark.parametrize(
    ("arrays", "model"),
    [
        (vit(), VIT),
        (vit(representation=5), dataclasses.replace(VIT, representation=5)),
        (vmoe(), dataclasses.replace(SPARSE, k=2)),
        (vmoe(members=2), E3),
    ],
    ids=["ViT", "ViT with a tanh layer", "V-MoE", "E³"],
)
def test_a_published_model_predicts_here_what_its_formulas_say(tmp_path, arrays, model):
    images = np.random.default_rng(1).uniform(-1, 1, (3, 4, 4, 2)).astype(np.float32)
    path = as_npz(tmp_path, arrays) if model.moe_placement == "none" else as_release(tmp_path, arrays)
    found = predicted(path, model, images)
    assert found.shape == (predictions(model), 3, 3)
    np.testing.assert_allclose(found, published.logits(arrays, images, k=model.k), rtol=0, atol=1e-5)


# ---- names


def test_every_parameter_of_a_published_vit_has_its_place(tmp_path):
    path = as_npz(tmp_path, vit())
    fitted = fit(read(path), VIT, DATA, shapes(VIT, DATA))
    assert not fitted.problems
    assert {row.how for row in fitted.rows} == {How.COPIED}
    assert {row.name for row in fitted.rows} == set(shapes(VIT, DATA))
    assert {name for row in fitted.rows for name in row.origins} == set(vit())


def test_layers_may_be_numbered_by_kind(tmp_path):
    names = {"LayerNorm_2": "LayerNorm_1", "MlpBlock_3": "MlpBlock_0", "MultiHeadDotProductAttention_1": "MultiHeadDotProductAttention_0"}
    arrays = {}
    for name, array in vit().items():
        for old, new in names.items():
            name = name.replace(old, new)
        arrays[name] = array
    (tmp_path / "other").mkdir()
    found, expected = started(as_npz(tmp_path / "other", arrays), VIT), started(as_npz(tmp_path, vit()), VIT)
    assert all((found[name] == expected[name]).all() for name in expected)


def test_all_that_does_not_fit_is_said_at_once(tmp_path):
    arrays = vit() | {
        "MapHead/probe": np.zeros((1, 1, 8), np.float32),
        "Transformer/encoderblock_0/LayerNorm_0/scale": np.zeros(9, np.float32),
    }
    del arrays["Transformer/encoderblock_1/MlpBlock_3/Dense_0/bias"]
    del arrays["Transformer/encoderblock_2/MultiHeadDotProductAttention_1/key/bias"]
    path = as_npz(tmp_path, arrays)
    with pytest.raises(DataError, match="MapHead/probe has no place in the model") as caught:
        initialize.parameters(path, VIT, DATA, template(VIT))
    assert sorted(problem.what for problem in caught.value.problems) == [
        "MapHead/probe has no place in the model",
        "parameter block_0/norm_attention/scale has another shape",
        "parameter block_1/mlp/Linear_0/bias is not in the file",
        "parameter block_2/attention/query_key_value/bias cannot be made",
    ]
    assert "found:    Transformer/encoderblock_0/LayerNorm_0/scale (9,)\n  expected: (8,)" in str(caught.value)


def test_a_deeper_model_is_refused_by_the_names_of_its_blocks(tmp_path):
    path = as_npz(tmp_path, vit())
    found = problems(path, dataclasses.replace(VIT, depth=2))
    assert found
    assert all(text.startswith("Transformer/encoderblock_2/") and "has no place in the model" in text for text in found)
    found = problems(path, dataclasses.replace(VIT, depth=4))
    assert all(text.startswith("parameter block_3/") and "is not in the file" in text for text in found)


@pytest.mark.parametrize(
    ("sizes", "match"),
    [
        (
            {"heads": 4},
            r"block_0/attention/query_key_value/kernel has another shape\n.*query/kernel \(8, 4, 2\), .*\n  expected: \(8, 2, 4\)",
        ),
        ({"patch": 1, "channels": 8}, r"embedding/kernel has another shape\n.*\(1, 1, 8, 8\)\n  expected: \(2, 2, 2, 8\)"),
        ({"mlp": 16}, r"block_0/mlp/Linear_0/kernel has another shape\n.*Dense_0/kernel \(8, 16\)\n  expected: \(8, 12\)"),
    ],
)
def test_arrays_with_as_many_numbers_but_another_meaning_are_refused(tmp_path, sizes, match):
    path = as_npz(tmp_path, vit(**sizes))
    with pytest.raises(DataError, match=match):
        initialize.parameters(path, VIT, DATA, template(VIT))


def test_weights_that_diverged_are_refused(tmp_path):
    arrays = vit()
    arrays["Transformer/encoder_norm/scale"][2] = np.nan
    assert problems(as_npz(tmp_path, arrays), VIT) == [
        "parameter norm/scale is not finite\n"
        "  found:    Transformer/encoder_norm/scale\n"
        "  expected: numbers\n"
        "  fix:      take weights of a model that did not diverge"
    ]


# ---- heads


HEAD = {"head/kernel", "head/bias"}


def test_a_head_of_other_classes_stays_fresh(tmp_path):
    path = as_npz(tmp_path, vit())
    assert fresh(path, VIT) == set()
    assert fresh(path, VIT, dataclasses.replace(DATA, classes=4)) == HEAD
    assert fresh(path, VIT, fresh_head=True) == HEAD


def test_a_head_that_read_the_tanh_layer_is_not_taken_without_it(tmp_path):
    path = as_npz(tmp_path, vit(representation=8))  # as wide as a token: the head's kernel would fit
    assert fresh(path, dataclasses.replace(VIT, representation=8)) == set()
    assert fresh(path, VIT) == HEAD


def test_a_tanh_layer_that_the_file_lacks_stays_fresh(tmp_path):
    path = as_npz(tmp_path, vit())
    assert fresh(path, dataclasses.replace(VIT, representation=8)) == HEAD | {"pre_logits/kernel", "pre_logits/bias"}


def test_what_is_left_out_is_said(tmp_path):
    path = as_npz(tmp_path, vit(representation=8))
    rows = fit(read(path), VIT, DATA, shapes(VIT, DATA)).rows
    assert {row.origins for row in rows if row.how is How.LEFT_OUT} == {
        ("head/kernel",),
        ("head/bias",),
        ("pre_logits/kernel",),
        ("pre_logits/bias",),
    }


# ---- positions


@given(found=st.integers(1, 9), side=st.integers(1, 9))
def test_positions_are_zoomed_as_scipy_zooms_them(found, side):
    positions = np.random.default_rng(found).normal(size=(1, found**2 + 1, 3)).astype(np.float32)
    result = zoomed(positions, side)
    grid = scipy.ndimage.zoom(positions[0, 1:].reshape(found, found, 3), (side / found, side / found, 1), order=1)
    np.testing.assert_allclose(result[0, 1:], grid.reshape(-1, 3), atol=1e-5)
    assert (result[:, 0] == positions[:, 0]).all()


@given(side=st.integers(1, 9))
def test_positions_of_the_same_grid_stay_to_the_bit(side):
    positions = np.random.default_rng(side).normal(size=(1, side**2 + 1, 3)).astype(np.float32)
    assert zoomed(positions, side) is positions


def test_zooming_is_linear_between_neighbours_and_keeps_corners():
    row = np.array([0.0, 1.0, 3.0], np.float32)
    grid = row[:, None] * 10 + row
    positions = np.concatenate([[5.0], grid.reshape(-1)]).reshape(1, 10, 1).astype(np.float32)
    between = np.array([0.0, 0.5, 1.0, 2.0, 3.0])
    np.testing.assert_allclose(zoomed(positions, 5)[0, 1:, 0].reshape(5, 5), between[:, None] * 10 + between, rtol=1e-6)


def test_a_model_for_larger_images_starts_from_zoomed_positions(tmp_path):
    arrays = vit()
    large = dataclasses.replace(DATA, image_size=10)
    found = started(as_npz(tmp_path, arrays), VIT, large)
    np.testing.assert_array_equal(found["positions"], zoomed(arrays["Transformer/posembed_input/pos_embedding"], 5))
    assert grid_side(found["positions"].shape[1]) == 5


def test_positions_of_no_square_grid_are_refused(tmp_path):
    arrays = vit()
    arrays["Transformer/posembed_input/pos_embedding"] = np.ones((1, 7, 8), np.float32)
    (text,) = problems(as_npz(tmp_path, arrays), VIT)
    assert (
        "parameter positions has another shape\n  found:    Transformer/posembed_input/pos_embedding (1, 7, 8)\n  expected: (1, 5, 8)"
        in text
    )


# ---- from one method to another


def test_each_member_gets_its_own_columns_of_the_router(tmp_path):
    arrays = vmoe()
    router = arrays["Encoder/encoderblock_1/Moe/Router/dense/kernel"]
    split = arrays | {"Encoder/encoderblock_1/Moe/Router/dense/kernel": np.stack([router[:, :2], router[:, 2:]], axis=1)}
    images = np.random.default_rng(1).uniform(-1, 1, (3, 4, 4, 2)).astype(np.float32)
    path = as_release(tmp_path, arrays)
    assert (started(path, E3)["block_1/moe/router/kernel"] == router).all()
    np.testing.assert_allclose(predicted(path, E3, images), published.logits(split, images), atol=1e-5)


def test_an_e3_becomes_a_vmoe_and_comes_back(tmp_path):
    arrays = vmoe(members=2)
    path = as_release(tmp_path, arrays)
    dense = started(path, SPARSE)
    assert (dense["block_1/moe/router/kernel"] == arrays["Encoder/encoderblock_1/Moe/Router/dense/kernel"].reshape(8, 4)).all()
    save_parameters(tmp_path / "vmoe.safetensors", initialize.parameters(path, SPARSE, DATA, template(SPARSE)))
    back, expected = started(tmp_path / "vmoe.safetensors", E3), started(path, E3)
    assert all((back[name] == expected[name]).all() for name in expected)


def test_a_dense_vit_gives_its_mlp_to_each_expert_and_no_router(tmp_path):
    arrays = vit()
    path = as_npz(tmp_path, arrays)
    found = started(path, E3)
    mlp = "Transformer/encoderblock_1/MlpBlock_3"
    for expert in range(4):
        for layer in (0, 1):
            assert (found[f"block_1/moe/experts/Linear_{layer}/kernel"][expert] == arrays[f"{mlp}/Dense_{layer}/kernel"]).all()
            assert (found[f"block_1/moe/experts/Linear_{layer}/bias"][expert] == arrays[f"{mlp}/Dense_{layer}/bias"]).all()
    assert fresh(path, E3) == {"block_1/moe/router/kernel"}


def test_a_sparse_layer_never_becomes_a_dense_one(tmp_path):
    (text,) = problems(as_release(tmp_path, vmoe()), VIT)
    assert text.startswith("block_1/mlp is dense in the model and sparse in the file\n  found:    ")
    assert "Encoder/encoderblock_1/Moe/Mlp/Dense_0/kernel (4, 8, 12)" in text
    assert "expected: block_1/mlp/Linear_0/kernel (8, 12)" in text
    assert "experts are not merged into one MLP" in text


def test_a_sparse_block_beyond_the_last_is_refused_by_its_name(tmp_path):
    model = dataclasses.replace(VIT, depth=1)
    assert any(text.startswith("block_1 has no place in the model") for text in problems(as_release(tmp_path, vmoe()), model))


def test_another_number_of_experts_is_refused(tmp_path):
    found = problems(as_release(tmp_path, vmoe(experts=8)), SPARSE)
    assert len(found) == 5  # the router, and kernels and biases of two layers
    assert any("Moe/Router/dense/kernel (8, 8)\n  expected: (8, 4)" in text for text in found)


def test_routers_that_overlap_start_from_the_columns_of_their_experts(tmp_path):
    arrays = vmoe()
    found = started(as_release(tmp_path, arrays), dataclasses.replace(E3, overlap=1))
    router = arrays["Encoder/encoderblock_1/Moe/Router/dense/kernel"]
    assert (found["block_1/moe/router/kernel"] == router[:, [0, 1, 2, 2, 3, 0]]).all()


def test_members_of_a_batch_ensemble_start_from_one_mlp(tmp_path):
    arrays = vit()
    model = dataclasses.replace(VIT, members=3, tile=True, tile_at=2, batch_ensemble=True)
    path = as_npz(tmp_path, arrays)
    found = started(path, model)
    assert (found["block_2/mlp/Linear_0/bias"] == arrays["Transformer/encoderblock_2/MlpBlock_3/Dense_0/bias"]).all()
    assert fresh(path, model) == {f"block_2/mlp/Linear_{layer}/{name}" for layer in (0, 1) for name in ("alpha", "gamma")}


def test_a_mimo_model_starts_from_all_but_the_embedding_of_one_image(tmp_path):
    model = dataclasses.replace(VIT, members=2, mimo=True)
    assert fresh(as_npz(tmp_path, vit()), model) == HEAD | {"embedding/kernel"}


OWN = {
    "ViT": VIT,
    "V-MoE": dataclasses.replace(SPARSE, moe_placement="every", representation=6),
    "E³": E3,
    "overlap": dataclasses.replace(E3, overlap=1),
    "heads": dataclasses.replace(E3, member_heads=True),
    "heads, untiled": dataclasses.replace(SPARSE, members=3, member_heads=True),
    "BatchEnsemble": dataclasses.replace(VIT, members=3, tile=True, tile_at=1, batch_ensemble=True),
    "MIMO": dataclasses.replace(SPARSE, members=3, mimo=True, representation=6),
}


@pytest.mark.parametrize("name", OWN)
def test_any_model_of_ours_starts_from_itself_to_the_bit(tmp_path, name):
    rng = np.random.default_rng(0)
    tree = jax.tree.map(lambda leaf: published.random(rng, leaf.shape), template(OWN[name]))
    save_parameters(tmp_path / "own.safetensors", tree)
    found = initialize.parameters(tmp_path / "own.safetensors", OWN[name], DATA, template(OWN[name]))
    assert jax.tree.structure(found) == jax.tree.structure(tree)
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), found, tree))


# ---- what a plan is told


@pytest.mark.parametrize("name", OWN)
def test_names_and_shapes_are_told_without_making_the_model(name):
    model = OWN[name]
    numbers = {f"model.{key}": jnp.asarray(value) for key, value in flatten(model).items() if isinstance(value, (bool, int, float))}
    keys = dict(zip(("params", "dropout", "gating"), jax.random.split(jax.random.key(0), 3), strict=True))
    made = jax.eval_shape(lambda images: make_model(model, DATA).init(keys, images, numbers, train=False)["params"], np.zeros((1, 4, 4, 2)))
    found = {
        jax.tree_util.keystr(where, simple=True, separator="/"): leaf.shape for where, leaf in jax.tree_util.tree_leaves_with_path(made)
    }
    assert found == shapes(model, DATA)


@pytest.mark.parametrize("given", OWN)
def test_a_plan_is_told_what_a_lane_would_be_told(tmp_path, given):
    """Of every pair of models: the same problems, from the config of one or from the head of its file, as when values are read."""
    save_parameters(tmp_path / "own.safetensors", template(OWN[given]))
    for model in OWN.values():
        wanted = VisionConfig(data=DATA, model=model)
        expected = sorted(problem.what for problem in fit(read(tmp_path / "own.safetensors"), model, DATA, shapes(model, DATA)).problems)
        for start in (VisionConfig(data=DATA, model=OWN[given]), tmp_path / "own.safetensors"):
            assert sorted(problem.what for problem in initialize.misfits(wanted, start)) == expected


def test_a_plan_takes_no_room_for_the_largest_model():
    paper = presets.paper()
    tracemalloc.start()
    assert initialize.misfits(paper, dataclasses.replace(paper, data=dataclasses.replace(paper.data, image_size=224))) == ()
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


def test_a_plan_is_told_of_files_that_hold_no_parameters(tmp_path):
    file = tmp_path / "own.safetensors"
    save_parameters(file, template(VIT))
    disks.tear(file)
    with pytest.raises(DataError, match="it is cut short"):
        initialize.misfits(VisionConfig(), file)
    assert initialize.misfits(VisionConfig(), tmp_path / "published.npz") == ()


# ---- the command


def run(path, capsys, *arguments, model=VIT):
    assignments = [f"model.{name}={json.dumps(value)}" for name, value in flatten(model).items()]
    assignments += [f"data.{name}={json.dumps(value)}" for name, value in {"dataset": "cifar10", "image_size": 4, "channels": 3}.items()]
    options = [part for text in assignments for part in ("--set", text)]
    with pytest.raises(SystemExit, match=r"^[012]$") as caught:
        main([str(path), "--preset", "defaults", *options, *arguments])
    return caught.value.code, *capsys.readouterr()


def test_the_command_shows_what_starts_from_what(tmp_path, capsys):
    code, out, err = run(as_npz(tmp_path, vit(channels=3)), capsys)
    assert (code, err) == (0, "")
    row = "Transformer/encoderblock_0/MultiHeadDotProductAttention_1/{query,key,value}/kernel"
    assert any("block_0/attention/query_key_value/kernel" in line and row in line and "8 × 24" in line for line in out.splitlines())
    assert "2 fresh, 2 not used" in out


def test_the_command_names_what_does_not_fit_and_fails(tmp_path, capsys):
    path = as_npz(tmp_path, vit(channels=3) | {"MapHead/probe": np.zeros(8, np.float32)})
    code, out, err = run(path, capsys)
    assert code == 1
    assert "block_0/norm_mlp/scale" in out
    assert "MapHead/probe has no place in the model" in err
    code, out, err = run(path, capsys, "--json")
    assert code == 1
    assert json.loads(out)["problems"] == [
        "MapHead/probe has no place in the model\n"
        "  fix:      take the file of another model, or change this one: model.depth, model.moe_placement, model.moe_layers"
    ]
    assert not err


def test_the_command_says_which_file_it_cannot_read(tmp_path, capsys):
    code, out, err = run(tmp_path / "none.npz", capsys)
    assert (code, out) == (2, "")
    assert "a .npz file of weights cannot be read" in err
