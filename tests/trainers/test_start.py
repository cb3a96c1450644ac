"""Lanes that start from the parameters of earlier trials, and what a trial leaves for later ones."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import pytest

from orchestrator.contract import PARAMETERS, DataError, Lane, Report, Verdict, build
from tests import disks
from tests.trainers.scripted import TINY_VISION, ScriptedHost, answer_finished, lane
from trainers import initialize, loop, programs, solo
from trainers.checkpoint import LATEST
from trainers.config import VisionConfig
from trainers.initialize import load_parameters, save_parameters
from trainers.pack import Pack, make_pack
from trainers.packing import Packing, Strategy
from trainers.start import START, begun
from trainers.vision import Vision

PROGRAM = f"{Vision.name} {Vision.version}"
RUNG = TINY_VISION["train.rung_steps"]
HEAD = {"head/kernel", "head/bias"}
UPSTREAM = {"train__keep_parameters": True, "train__steps": 60, "optim__learning_rate": 3e-2}


def fresh_lane(folder: pathlib.Path, *, seed: int = 0, **overrides: Any) -> Lane:
    return lane(Vision(), folder, TINY_VISION | {key.replace("__", "."): value for key, value in overrides.items()}, seed=seed)


def lane_from(path: pathlib.Path, folder: pathlib.Path, *, seed: int = 0, **overrides: Any) -> Lane:
    one = fresh_lane(folder, seed=seed, start__parameters=f"sha256:{path.stem}", **overrides)
    return dataclasses.replace(one, inputs={START: path})


def train(lanes: Sequence[Lane], *, width: int = 3, strategy: Strategy = Strategy.SOLO, **script: Any) -> ScriptedHost:
    host = ScriptedHost(lanes, **script)
    loop.train(host, program=PROGRAM, width=width, packing=Packing(strategy, width))
    return host


def by_name(tree: Any) -> dict[str, np.ndarray]:
    return {
        jax.tree_util.keystr(where, simple=True, separator="/"): np.asarray(leaf)
        for where, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def drawn_file(path: pathlib.Path, seed: int, **overrides: Any) -> pathlib.Path:
    """Parameters of any model, at random."""
    config = build(VisionConfig, fresh_lane(path, **overrides).config)
    random, tree = np.random.default_rng(seed), dict[str, Any]()
    for name, shape in initialize.shapes(config.model, config.data).items():
        *way, last = name.split("/")
        node = tree
        for key in way:
            node = node.setdefault(key, {})
        node[last] = random.normal(0, 0.1, shape).astype(np.float32)
    save_parameters(path, tree)
    return path


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    config = fresh_lane(tmp_path_factory.mktemp("pack")).config
    return make_pack(config, programs.signature(config, PROGRAM), Packing(Strategy.SOLO, 3))


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """What a trial left, whose folder is otherwise gone."""
    one = fresh_lane(tmp_path_factory.mktemp("upstream"), seed=5, **UPSTREAM)
    seen: list[pathlib.Path] = []

    def answer(report: Report) -> Verdict:
        assert (PARAMETERS in report.artifacts) == report.final
        seen.extend(one.folder / name for label, name in report.artifacts.items() if label == PARAMETERS)
        assert all(load_parameters(path) for path in seen), "on disk, and sound, before the report is"
        return answer_finished(report)

    train([one], answer=answer)
    assert not list(one.folder.glob("checkpoint.*"))
    [path] = seen
    return path


@pytest.fixture(scope="module")
def curve_from_upstream(upstream: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Mapping[str, float]]:
    one = lane_from(upstream, tmp_path_factory.mktemp("alone"), seed=11)
    return train([one]).curve(one.key)


@pytest.fixture(autouse=True)
def _nothing_more_is_compiled(pack: Pack, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Every test but those of other strategies runs the programs of a lane that starts afresh."""
    del pack
    if "strategy" not in request.fixturenames:
        monkeypatch.setattr(programs.Programs, "compiled", None)  # a call would raise


def test_a_trial_that_is_not_asked_to_keeps_no_parameters(tmp_path: pathlib.Path) -> None:
    one = fresh_lane(tmp_path)
    train([one])
    assert not list(one.folder.glob(f"{PARAMETERS}*"))


def test_what_a_trial_leaves_is_named_by_its_content(upstream: pathlib.Path, tmp_path: pathlib.Path) -> None:
    one = fresh_lane(tmp_path, seed=5, **UPSTREAM)
    train([one])
    [again] = one.folder.glob(f"{PARAMETERS}*")
    assert (again.name, again.read_bytes()) == (upstream.name, upstream.read_bytes())


def test_a_lane_begins_with_the_parameters_and_all_else_fresh(pack: Pack, upstream: pathlib.Path, tmp_path: pathlib.Path) -> None:
    one = lane_from(upstream, tmp_path, seed=11)
    state, fresh = begun(one, pack), jax.device_get(pack.fresh(one.config, one.seed))
    assert state is not None
    found, wanted = by_name(state.params), load_parameters(upstream)
    assert found.keys() == wanted.keys()
    assert all((found[name] == wanted[name]).all() for name in wanted)
    assert any((by_name(fresh.params)[name] != wanted[name]).any() for name in wanted)
    rest, other = state._replace(params=None), fresh._replace(params=None)
    assert all((a == b).all() for a, b in zip(jax.tree.leaves(rest), jax.tree.leaves(other), strict=True))
    assert state.step == 0


def test_a_fresh_head_is_that_of_the_lanes_own_seed(pack: Pack, upstream: pathlib.Path, tmp_path: pathlib.Path) -> None:
    one = lane_from(upstream, tmp_path, start__fresh_head=True, model__head_bias=-2.0)
    state = begun(one, pack)
    assert state is not None
    found, wanted = by_name(state.params), load_parameters(upstream)
    assert {name for name in wanted if (found[name] != wanted[name]).any()} == HEAD
    assert (found["head/bias"] == -2.0).all()
    assert (found["head/kernel"] == 0.0).all()


@pytest.mark.parametrize(
    ("overrides", "fresh"),
    [
        ({"data__classes": 7}, HEAD),
        ({"data__image_size": 16}, {"positions"}),
        ({"model__tile": False, "model__partition": False, "model__members": 1}, set[str]()),
        ({"model__moe_placement": "none", "model__tile": False, "model__partition": False, "model__members": 1}, {"router"}),
    ],
    ids=["other classes", "larger images", "V-MoE", "ViT"],
)
def test_lanes_start_from_models_of_other_kinds(
    pack: Pack, tmp_path: pathlib.Path, overrides: Mapping[str, Any], fresh: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Vision, "problems", lambda *_: [])  # of data that nobody reads
        path = drawn_file(tmp_path / "upstream.safetensors", 1, **overrides)
    state = begun(lane_from(path, tmp_path), pack)
    assert state is not None
    found, given = by_name(state.params), load_parameters(path)
    unlike = {
        name for name, array in found.items() if name not in given or array.shape != given[name].shape or (array != given[name]).any()
    }
    assert {part for name in unlike for part in fresh | {"experts"} if part in name} >= fresh
    assert all(any(part in name for part in fresh | {"experts"}) for name in unlike)
    for name in unlike:  # the experts of a dense model are its MLP
        if "experts" in name:
            assert (found[name] == given[name.replace("moe/experts", "mlp")]).all()


def test_a_lane_trains_to_other_numbers_than_one_that_starts_afresh(
    curve_from_upstream: Mapping[int, Mapping[str, float]], tmp_path: pathlib.Path
) -> None:
    afresh = fresh_lane(tmp_path, seed=11)
    curve = train([afresh]).curve(afresh.key)
    assert curve_from_upstream.keys() == curve.keys()
    assert curve_from_upstream[RUNG]["train/loss"] < curve[RUNG]["train/loss"] - 0.01, "it knows the images already"


@pytest.mark.parametrize("strategy", [Strategy.SOLO, Strategy.MAP])
def test_lanes_of_one_pack_start_from_different_files_or_none_and_change_no_bit_of_one_another(
    upstream: pathlib.Path, curve_from_upstream: Mapping[int, Any], tmp_path: pathlib.Path, strategy: Strategy
) -> None:
    one, other = lane_from(upstream, tmp_path, seed=11), drawn_file(tmp_path / "other.safetensors", 2)
    host = train([lane_from(other, tmp_path, seed=11), fresh_lane(tmp_path, seed=11), one], strategy=strategy)
    assert host.curve(one.key) == curve_from_upstream
    assert len({curve[RUNG]["train/loss"] for key in host.finals() if (curve := host.curve(key))}) == 3
    assert not host.failures


def test_a_lane_that_is_resumed_goes_on_from_its_checkpoint_without_the_file(
    upstream: pathlib.Path, curve_from_upstream: Mapping[int, Any], tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "copy.safetensors"
    path.write_bytes(upstream.read_bytes())
    one = lane_from(path, tmp_path, seed=11)
    first = train([one], stop_when=lambda host: bool(host.calls))
    assert (one.folder / LATEST).exists()
    path.unlink()
    then = train([one])
    assert min(then.curve(one.key)) > RUNG
    assert first.curve(one.key) | then.curve(one.key) == curve_from_upstream


def test_a_file_that_is_damaged_missing_or_of_another_model_fails_its_own_lane_only(
    upstream: pathlib.Path, curve_from_upstream: Mapping[int, Any], tmp_path: pathlib.Path
) -> None:
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(upstream.read_bytes())
    disks.flip(torn)
    bad = {
        "its content does not match its hash": lane_from(torn, tmp_path, seed=1),
        "No such file": lane_from(tmp_path / "gone.safetensors", tmp_path, seed=2),
        "has another shape": lane_from(drawn_file(tmp_path / "wide.safetensors", 3, model__mlp=16), tmp_path, seed=3),
        "was not handed the file": fresh_lane(tmp_path, seed=4, start__parameters="sha256:any"),
    }
    one = lane_from(upstream, tmp_path, seed=11)
    host = train([*bad.values(), one])
    assert host.curve(one.key) == curve_from_upstream
    assert set(host.finals()) == {one.key}
    assert host.failures.keys() == {each.key for each in bad.values()}
    for text, each in bad.items():
        assert isinstance(host.failures[each.key], DataError)
        assert text in str(host.failures[each.key])


def test_a_pack_of_which_no_lane_can_start_ends(tmp_path: pathlib.Path) -> None:
    lanes = [lane_from(tmp_path / "gone.safetensors", tmp_path, seed=seed) for seed in range(5)]
    assert len(train(lanes, width=2).failures) == 5


def test_a_trial_whose_parameters_cannot_be_kept_is_not_finished(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = fresh_lane(tmp_path, train__keep_parameters=True)
    kept = loop.keep_parameters

    def on_a_full_disk(lane: Lane, params: Any) -> str:
        with disks.full():
            return kept(lane, params)

    monkeypatch.setattr(loop, "keep_parameters", on_a_full_disk)
    with pytest.raises(DataError, match=f"parameters of trial {one.key} cannot be written"):
        train([one])


def alone(capsys: pytest.CaptureFixture[str], out: pathlib.Path, *words: str) -> tuple[int, str, str]:
    settings = (f"{key}={json.dumps(value)}" for key, value in TINY_VISION.items())
    with pytest.raises(SystemExit, match=r"^[0-9]+$") as left:
        solo.main(Vision(), ["--out", str(out), "--seed", "11", *(word for text in settings for word in ("--set", text)), *words])
    out_and_err = capsys.readouterr()
    return int(str(left.value)), out_and_err.out, out_and_err.err


def test_a_config_alone_starts_from_a_path_to_the_numbers_of_a_study(
    upstream: pathlib.Path, curve_from_upstream: Mapping[int, Any], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = tmp_path / "elsewhere.safetensors"
    moved.write_bytes(upstream.read_bytes())
    results = [json.loads(alone(capsys, tmp_path / "out", "--set", f"{START}={path}")[1]) for path in (upstream, moved)]
    assert results[0] == results[1], "the same content under another name is another trial"
    assert results[0]["metrics"].items() >= curve_from_upstream[max(curve_from_upstream)].items()
    assert results[0]["config"][START] == f"sha256:{hashlib.sha256(upstream.read_bytes()).hexdigest()}"


def test_a_config_alone_leaves_its_parameters_where_the_result_says(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = json.loads(alone(capsys, tmp_path, "--set", "train.keep_parameters=true")[1])
    assert load_parameters(tmp_path / result["key"] / result["artifacts"][PARAMETERS]).keys() >= HEAD


@pytest.mark.parametrize(
    ("content", "text"), [(None, "the file that start.parameters names cannot be read"), (b"?", "parameters cannot be read")]
)
def test_a_config_alone_that_cannot_start_says_so(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], content: bytes | None, text: str
) -> None:
    path = tmp_path / "weights.safetensors"
    if content is not None:
        path.write_bytes(content)
    code, out, err = alone(capsys, tmp_path, "--set", f"{START}={path}")
    assert (code, out) == (2, "")
    assert err.startswith(text)
    assert str(path) in err
