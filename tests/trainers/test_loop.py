"""The pack's promises, on hashes of parameters: neighbours, width, refills, stops and divergence change no bit of a lane."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from orchestrator.contract import DataError, Lane, Report, Verdict
from tests import disks
from tests.trainers.scripted import TINY_VISION, ScriptedHost, answer_finished, lane
from trainers import choosing, loop, pack, predictions, programs
from trainers.checkpoint import LATEST, PREVIOUS, Checkpoint, content_hash, load, save
from trainers.pack import Separate
from trainers.packing import Packing, Strategy
from trainers.vision import Vision

PROGRAM = f"{Vision.name} {Vision.version}"
STEPS, RUNG = TINY_VISION["train.steps"], TINY_VISION["train.rung_steps"]

# Lanes of one signature that differ in all that may differ.
OURS = {"optim.learning_rate": 3e-3, "optim.weight_decay": 0.1}
OTHERS: tuple[dict[str, Any], ...] = (
    {"optim.learning_rate": 2e-2, "model.dropout": 0.4, "train.steps": 7},
    {"model.router_noise": 3.0, "model.expert_dropout": 0.5, "train.steps": 17},
    {"optim.clip_norm": 0.1, "optim.warmup_steps": 5, "model.head_bias": -2.0},
    {"optim.b1": 0.5, "model.importance_weight": 0.5},
)


def ours(folder: pathlib.Path) -> Lane:
    return lane(Vision(), folder, TINY_VISION | OURS, seed=11)


def others(folder: pathlib.Path) -> list[Lane]:
    return [lane(Vision(), folder, TINY_VISION | overrides, seed=seed) for seed, overrides in enumerate(OTHERS)]


def train(lanes: Sequence[Lane], *, width: int = 3, strategy: Strategy = Strategy.SOLO, **script: Any) -> ScriptedHost:
    host = ScriptedHost(lanes, **script)
    loop.train(host, program=PROGRAM, width=width, packing=Packing(strategy, width))
    return host


def answer_lost_at_the_end(report: Report) -> Verdict:
    """Goes on to the end, where the lane's last checkpoint is left in its folder."""
    return Verdict.LOST if report.final else Verdict.CONTINUE


def hash_of(one: Lane) -> str:
    found = load(one.folder, one.key)
    assert found is not None
    return content_hash(found.arrays)


@pytest.fixture(scope="module", autouse=True)
def _saved_at_every_rung() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "SAVE_SHARE", math.inf)
        yield


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[int, Any]]:
    """Hash of the state at the last rung before the end, and every report, of our lane trained by itself."""
    one = ours(tmp_path_factory.mktemp("alone"))
    host = train([one], answer=answer_lost_at_the_end)
    return hash_of(one), host.curve(one.key)


def test_a_lane_reports_each_rung_on_validation_and_its_end_on_every_split(alone: tuple[str, dict[int, Any]]) -> None:
    curve = alone[1]
    names = ("nll", "error", "ece", "brier", "diversity", "member_nll", "disagreement", "normalised_disagreement", "cosine")
    assert list(curve) == [RUNG, 2 * RUNG, STEPS]
    assert set(curve[RUNG]) == {"train/loss"} | {f"val/{name}" for name in names}
    assert set(curve[STEPS]) == set(curve[RUNG]) | {f"test/{name}" for name in names}
    assert all(math.isfinite(value) for metrics in curve.values() for value in metrics.values())


def test_neighbours_and_refills_change_no_bit(tmp_path: pathlib.Path, alone: tuple[str, dict[int, Any]]) -> None:
    one = ours(tmp_path)
    neighbours = others(tmp_path)
    # Ours comes last: it enters when the shortest neighbour leaves, beside lanes in the middle of their rungs.
    host = train([*neighbours[:3], one, neighbours[3]], answer=answer_lost_at_the_end)
    assert host.curve(one.key) == alone[1]
    assert hash_of(one) == alone[0]
    assert set(host.finals()) == {neighbour.key for neighbour in neighbours} | {one.key}


def test_the_width_changes_no_bit(tmp_path: pathlib.Path, alone: tuple[str, dict[int, Any]]) -> None:
    one = ours(tmp_path)
    host = train([one], width=1, answer=answer_lost_at_the_end)
    assert host.curve(one.key) == alone[1]
    assert hash_of(one) == alone[0]


def test_one_lanes_nan_touches_no_other(tmp_path: pathlib.Path, alone: tuple[str, dict[int, Any]]) -> None:
    one, bad = ours(tmp_path), lane(Vision(), tmp_path, TINY_VISION | {"optim.learning_rate": 1e30})
    host = train([bad, one])
    assert math.isnan(host.curve(bad.key)[RUNG]["val/nll"])
    assert list(host.curve(bad.key)) == [RUNG], "a lane that was stopped trained on"
    assert host.curve(one.key) == alone[1]


@pytest.mark.parametrize("steps_before", [1, RUNG - 1, RUNG, RUNG + 2, STEPS - 1, STEPS])
def test_a_lane_stopped_at_any_step_and_resumed_beside_others_ends_with_the_same_bits(
    tmp_path: pathlib.Path, alone: tuple[str, dict[int, Any]], steps_before: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "FIRST_STEPS", 1)
    monkeypatch.setattr(loop, "LOOK_EVERY_S", 0.0)  # a chunk is one step, so that a stop can fall between any two
    one = ours(tmp_path)
    steps = 0

    def counted(self: Separate, n_steps: Mapping[int, int]) -> None:
        nonlocal steps
        steps += n_steps[0]
        advance(self, n_steps)

    advance = Separate.advance
    monkeypatch.setattr(Separate, "advance", counted)
    stopped = train([one], stop_when=lambda host: steps >= steps_before, answer=answer_lost_at_the_end)  # noqa: ARG005
    assert steps == steps_before
    assert list(stopped.curve(one.key)) == [step for step in (RUNG, 2 * RUNG, STEPS) if step <= steps_before]
    monkeypatch.undo()
    resumed = train([*others(tmp_path)[:2], one], answer=answer_lost_at_the_end)
    if steps_before < STEPS:
        assert min(resumed.curve(one.key)) > steps_before, "a rung was trained again"
    assert stopped.curve(one.key) | resumed.curve(one.key) == alone[1]
    if steps_before <= 2 * RUNG:  # else the checkpoint that was left is that of the stop
        assert hash_of(one) == alone[0]


def test_lanes_at_a_rung_are_reported_in_one_call(tmp_path: pathlib.Path) -> None:
    lanes = [lane(Vision(), tmp_path, TINY_VISION, seed=seed) for seed in range(3)]
    host = train(lanes)
    assert [[report.step for report in call] for call in host.calls] == [[RUNG] * 3, [2 * RUNG] * 3, [STEPS] * 3]


def test_a_place_that_falls_free_is_filled_at_once_and_compiles_nothing(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train([ours(tmp_path / "first")])
    monkeypatch.setattr(programs.Programs, "compiled", None)  # a call would raise
    lanes = [*others(tmp_path), ours(tmp_path)]
    drop = lanes[1].key
    host = train(lanes, answer=lambda report: Verdict.STOP if report.key == drop else answer_finished(report))
    assert [len(call) for call in host.calls][:3] == [3, 3, 3]
    assert set(host.finals()) == {one.key for one in lanes} - {drop}


def test_a_lane_that_is_finished_or_stopped_leaves_no_checkpoint_and_a_lost_one_does(tmp_path: pathlib.Path) -> None:
    lanes = [lane(Vision(), tmp_path, TINY_VISION, seed=seed) for seed in range(3)]
    late = {lanes[1].key: Verdict.STOP, lanes[2].key: Verdict.LOST}
    train(lanes, answer=lambda report: late.get(report.key, answer_finished(report)) if report.step > RUNG else Verdict.CONTINUE)
    assert [load(one.folder, one.key) is not None for one in lanes] == [False, False, True]


@pytest.mark.parametrize("torn", [(LATEST,), (LATEST, PREVIOUS)])
def test_a_lane_whose_checkpoints_are_damaged_goes_on_from_a_sound_one_or_anew_to_the_same_bits(
    tmp_path: pathlib.Path, alone: tuple[str, dict[int, Any]], torn: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    one = ours(tmp_path)
    train([one], answer=answer_lost_at_the_end)
    for name in torn:
        disks.flip(one.folder / name, place=-7)
    host = train([one], answer=answer_lost_at_the_end)
    assert list(host.curve(one.key)) == ([2 * RUNG, STEPS] if len(torn) == 1 else [RUNG, 2 * RUNG, STEPS])
    assert host.curve(one.key).items() <= alone[1].items()
    assert hash_of(one) == alone[0]
    assert caplog.text.count("is passed over: its content does not match its hash") == len(torn)


@pytest.mark.parametrize("strategy", [Strategy.SOLO, Strategy.MAP])
def test_a_final_report_finds_its_predictions_on_disk_and_says_their_metrics(tmp_path: pathlib.Path, strategy: Strategy) -> None:
    one = ours(tmp_path)
    seen: dict[str, Mapping[str, np.ndarray]] = {}

    def answer(report: Report) -> Verdict:
        assert set(report.artifacts) == ({"predictions", "description"} if report.final else set())
        if report.final:
            seen[report.key] = predictions.load(one.folder / report.artifacts["predictions"], report.key)
        return answer_finished(report)

    host = train([one], answer=answer, strategy=strategy)
    for split in ("val", "test"):
        said, labels = seen[one.key][f"{split}/log_probabilities"], seen[one.key][f"{split}/labels"]
        assert said.shape == (TINY_VISION["model.members"], len(labels), 10)
        mean = np.log(np.exp(said.astype(np.float64)).mean(axis=0))
        assert -mean[np.arange(len(labels)), labels].mean() == pytest.approx(host.finals()[one.key][f"{split}/nll"], rel=1e-6)
        assert (mean.argmax(axis=-1) != labels).mean() == pytest.approx(host.finals()[one.key][f"{split}/error"], rel=1e-6)


def test_a_trial_whose_predictions_cannot_be_kept_is_not_finished(tmp_path: pathlib.Path) -> None:
    one = ours(tmp_path)
    one.folder.mkdir()

    def answer(report: Report) -> Verdict:
        if report.step == 2 * RUNG:
            one.folder.rename(tmp_path / "elsewhere")
            one.folder.touch()  # a file where the folder was: nothing can be written below it
        return answer_finished(report)

    with pytest.raises(DataError, match=f"predictions of trial {one.key} cannot be written"):
        train([one], answer=answer)


def test_a_checkpoint_of_another_model_is_passed_over(
    tmp_path: pathlib.Path, alone: tuple[str, dict[int, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    one = ours(tmp_path)
    # As after a change of the model that forgot to raise the trainer's version.
    save(one.folder, Checkpoint(key=one.key, program="cpu", arrays={"params/old": np.zeros(3)}))
    host = train([one])
    assert host.curve(one.key) == alone[1]
    assert "its arrays are not those of this model" in caplog.text


def test_a_host_that_goes_on_after_the_final_report_gets_no_other(tmp_path: pathlib.Path) -> None:
    one = lane(Vision(), tmp_path, TINY_VISION)
    host = train([one], answer=lambda report: Verdict.CONTINUE)  # noqa: ARG005
    assert [[report.final for report in call] for call in host.calls] == [[False], [False], [True]]


def test_a_host_without_lanes_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "make_pack", None)  # a call would raise
    assert train([]).calls == []


def test_what_is_probed_names_the_signature_and_the_backend(tmp_path: pathlib.Path) -> None:
    from orchestrator.contract import signature_of

    one = ours(tmp_path)
    probe = train([one]).measured[-1]
    assert probe.signature == signature_of(Vision.config_class, one.config, program=PROGRAM)
    assert (probe.strategy, probe.width) == ("solo", 3)
    assert probe.device.startswith("cpu · jax ")
    assert probe.lane_step_s > 0
    assert probe.compile_s > 0


def test_vmap_trains_the_same_lanes_up_to_rounding(tmp_path: pathlib.Path, alone: tuple[str, dict[int, Any]]) -> None:
    one = ours(tmp_path)
    host = train([one, *others(tmp_path)[:3]], strategy=Strategy.VMAP)
    # The first rung alone: rounding grows from step to step.
    for name, value in host.curve(one.key)[RUNG].items():
        np.testing.assert_allclose(value, alone[1][RUNG][name], rtol=1e-3, atol=1e-5, err_msg=name)
    assert [max(host.curve(other.key)) for other in others(tmp_path)[:3]] == [7, 17, STEPS]


def test_map_trains_a_lane_to_the_bits_of_the_lane_alone(tmp_path: pathlib.Path, alone: tuple[str, dict[int, Any]]) -> None:
    one = ours(tmp_path)
    host = train([*others(tmp_path)[:2], one], strategy=Strategy.MAP, answer=answer_lost_at_the_end)
    assert hash_of(one) == alone[0]
    assert host.curve(one.key) == alone[1]


def test_a_lane_begun_by_itself_goes_on_in_a_map_to_the_same_bits(tmp_path: pathlib.Path, alone: tuple[str, dict[int, Any]]) -> None:
    one = ours(tmp_path)
    first = train([one], stop_when=lambda host: bool(host.calls), answer=answer_lost_at_the_end)
    assert list(first.curve(one.key)) == [RUNG]
    train([*others(tmp_path)[:2], one], strategy=Strategy.MAP, answer=answer_lost_at_the_end)
    assert hash_of(one) == alone[0]


def test_a_batched_map_trains_the_same_lanes_up_to_rounding(tmp_path: pathlib.Path, alone: tuple[str, dict[int, Any]]) -> None:
    one = ours(tmp_path)
    host = train([one, *others(tmp_path)], width=5, strategy=Strategy.BATCHED)
    for name, value in host.curve(one.key)[RUNG].items():
        np.testing.assert_allclose(value, alone[1][RUNG][name], rtol=1e-3, atol=1e-5, err_msg=name)
    assert [max(host.curve(other.key)) for other in others(tmp_path)] == [7, 17, STEPS, STEPS]


def test_a_lane_begun_in_a_batch_goes_on_in_one_after_those_of_another_way(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, fresh = ours(tmp_path), others(tmp_path)[0]
    train([one], strategy=Strategy.VMAP, stop_when=lambda host: bool(host.calls))
    host = ScriptedHost([fresh, one])
    loop.train(host, program=PROGRAM, width=3)
    assert {key: report.provenance["strategy"] for key, report in last_reports(host).items()} == {fresh.key: "solo", one.key: "vmap"}
    assert min(host.curve(one.key)) > RUNG, "it began again"


def test_a_paused_lane_is_on_disk_before_the_host_is_told(tmp_path: pathlib.Path, alone: tuple[str, dict[int, Any]]) -> None:
    one, other = ours(tmp_path), others(tmp_path)[1]

    class Host(ScriptedHost):
        def parked(self, keys: Sequence[str]) -> None:
            super().parked(keys)
            found = load(one.folder, one.key)
            assert found is not None
            assert int(found.arrays["step"]) == RUNG

    host = Host([one, other], answer=lambda report: Verdict.PAUSE if report.key == one.key else answer_finished(report))
    loop.train(host, program=PROGRAM, width=2)
    assert (host.parked_keys, list(host.curve(one.key))) == ([one.key], [RUNG])
    assert set(host.finals()) == {other.key}
    resumed = train([one], answer=answer_lost_at_the_end)
    assert host.curve(one.key) | resumed.curve(one.key) == alone[1]
    assert hash_of(one) == alone[0]


def test_what_comes_next_is_compiled_while_the_last_lanes_train(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    after = lane(Vision(), tmp_path, TINY_VISION | {"train.rung_steps": 6})
    host = ScriptedHost([ours(tmp_path)])
    host.next_config = after.config
    loop.train(host, program=PROGRAM, width=3)
    sign = programs.signature(after.config, PROGRAM)
    key = (sign, Strategy.SOLO, 1)
    assert key in programs._kept
    programs._kept[key].result(timeout=120)
    monkeypatch.setattr(programs.Programs, "compiled", None)  # a call would raise
    assert set(train([after]).finals()) == {after.key}


def test_the_account_of_a_pack_covers_its_time_and_its_steps(tmp_path: pathlib.Path) -> None:
    lanes = [lane(Vision(), tmp_path, TINY_VISION, seed=seed) for seed in range(4)]
    started = time.monotonic()
    host = train(lanes)
    took = time.monotonic() - started
    (usage,) = host.usages
    assert usage.lane_steps == 4 * STEPS
    assert (usage.strategy, usage.width) == ("solo", 3)
    busy = usage.train_s + usage.evaluate_s + usage.other_s
    assert 0 < busy + usage.compile_s <= took
    assert 0 < usage.lane_s <= usage.place_s <= 3 * took
    probe = host.measured[-1]
    assert probe.lane_step_s * usage.lane_steps + probe.lane_s * len(lanes) == pytest.approx(busy)


def test_a_way_that_is_known_to_be_faster_is_taken(tmp_path: pathlib.Path) -> None:
    one = ours(tmp_path)
    known = [dataclasses.replace(train([one]).measured[-1], strategy="map", lane_step_s=1e-9)]
    host = ScriptedHost([ours(tmp_path)]).probed_before(known)
    loop.train(host, program=PROGRAM, width=3)
    assert {report.provenance["strategy"] for report in last_reports(host).values()} == {"map"}


def test_the_last_lanes_of_a_batch_move_to_a_program_of_fewer_places(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = [lane(Vision(), tmp_path, TINY_VISION | {"train.steps": 30}, seed=seed) for seed in range(2)]
    short = lane(Vision(), tmp_path, TINY_VISION | {"train.steps": 5})
    real = programs.programs_of
    monkeypatch.setattr(pack, "programs_of", lambda *key: dataclasses.replace(real(*key), compile_s=0.0))  # as from a cache
    host = train([short, *long], width=4, strategy=Strategy.VMAP)
    for one in long:
        widths = [report.provenance["width"] for call in host.calls for report in call if report.key == one.key]
        assert (widths[0], widths[-1]) == ("4", "2")
        assert max(host.curve(one.key)) == 30
    assert len(host.finals()) == 3


def last_reports(host: ScriptedHost) -> dict[str, Report]:
    return {report.key: report for call in host.calls for report in call}


def test_a_probe_times_every_way_that_keeps_the_bits(tmp_path: pathlib.Path) -> None:
    one = ours(tmp_path)
    solo, mapped = Vision().probe(one.config)
    assert [Packing.of(probe).strategy for probe in (solo, mapped)] == [Strategy.SOLO, Strategy.MAP]
    assert {probe.signature for probe in (solo, mapped)} == {programs.signature(one.config, PROGRAM)}
    assert all(probe.lane_step_s > 0 and probe.lane_s > 0 and probe.memory_bytes > 0 for probe in (solo, mapped))


def test_other_ways_are_tried_where_that_costs_little_beside_the_work(tmp_path: pathlib.Path) -> None:
    one = ours(tmp_path)
    (known,) = [probe for probe in Vision().probe(one.config) if probe.strategy == "solo"]
    sign = programs.signature(one.config, PROGRAM)
    for steps, tried in ((10, []), (10**9, ["map"])):
        host = ScriptedHost([]).probed_before([known])
        long = one.config | {"train.steps": steps}
        way = choosing.choose(host, long, sign, width=4, n_lanes=8)
        assert [probe.strategy for probe in host.measured] == tried
        assert way == Packing.of(min([known, *host.measured], key=lambda probe: probe.lane_step_s))
