"""The trainer without JAX, held to what the contract promises."""

from __future__ import annotations

import json
import math
import os
import pathlib
import signal
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.contract import Trainer, Verdict
from tests.trainers.scripted import ScriptedHost, lane
from trainers.curves import WIDTH, Curves, CurvesConfig

ROOT = pathlib.Path(__file__).parents[2]


def test_it_is_a_trainer() -> None:
    trainer: Trainer = Curves()
    config = lane(trainer, pathlib.Path(), {"size": 10}).config
    assert trainer.config_class is CurvesConfig
    assert (trainer.steps(config), trainer.width(config), trainer.data_problem(config)) == (100, WIDTH, None)
    assert trainer.cost(config) == {"cost/parameters": 100.0, "cost/train_gflops": pytest.approx(6e-7)}


def test_every_lane_reports_each_rung_and_its_end_however_many_lanes_wait(tmp_path: pathlib.Path) -> None:
    lanes = [lane(Curves(), tmp_path, {"steps": 50}, seed=seed) for seed in range(3 * WIDTH + 1)]
    host = ScriptedHost(lanes)
    Curves().train(host)
    for one in lanes:
        curve = host.curve(one.key)
        assert list(curve) == [20, 40, 50]
        assert sorted(curve[50]) == ["test/error", "test/nll", "val/error", "val/nll"]
        assert sorted(curve[20]) == ["val/error", "val/nll"]
    assert max(len(call) for call in host.calls) == WIDTH
    assert len(host.measured) == 1


@settings(deadline=None, max_examples=30)
@given(stop_at=st.integers(0, 12), seed=st.integers(0, 2**40))
def test_a_curve_stopped_anywhere_and_resumed_ends_with_the_same_bits(
    tmp_path_factory: pytest.TempPathFactory, stop_at: int, seed: int
) -> None:
    undisturbed = lane(Curves(), tmp_path_factory.mktemp("undisturbed"), {"noise": 0.1}, seed=seed)
    whole = ScriptedHost([undisturbed])
    Curves().train(whole)
    folder = tmp_path_factory.mktemp("disturbed")
    disturbed = lane(Curves(), folder, {"noise": 0.1}, seed=seed)
    stopped = ScriptedHost([disturbed], stop_when=lambda host: host.looks > stop_at)
    Curves().train(stopped)
    neighbours = [lane(Curves(), folder, {"learning_rate": 0.1}, seed=other) for other in range(2)]
    resumed = ScriptedHost([*neighbours, disturbed])
    Curves().train(resumed)
    assert {**stopped.finals(), **resumed.finals()}[disturbed.key] == whole.finals()[undisturbed.key]


def test_the_best_rate_and_the_larger_model_end_lowest(tmp_path: pathlib.Path) -> None:
    def ended(**overrides: float) -> float:
        one = lane(Curves(), tmp_path, {"noise": 0.0, **overrides})
        host = ScriptedHost([one])
        Curves().train(host)
        return host.finals()[one.key]["test/nll"]

    assert ended(learning_rate=1e-2) < min(ended(learning_rate=1e-3), ended(learning_rate=1e-1))
    assert ended(size=200) < ended(size=100)


def test_a_torn_checkpoint_means_from_the_start(tmp_path: pathlib.Path) -> None:
    one = lane(Curves(), tmp_path, {})
    one.folder.mkdir()
    for text in ("", "0" * 64, "0" * 64 + "\n[20, 0.5]"):
        (one.folder / "curve.json").write_text(text)
        host = ScriptedHost([one])
        Curves().train(host)
        assert list(host.curve(one.key)) == [20, 40, 60, 80, 100]


def test_a_rate_above_the_limit_gives_nan(tmp_path: pathlib.Path) -> None:
    good, bad = lane(Curves(), tmp_path, {}), lane(Curves(), tmp_path, {"learning_rate": 1.0, "diverge_above": 0.5})
    host = ScriptedHost([good, bad])
    Curves().train(host)
    assert math.isnan(host.curve(bad.key)[20]["val/nll"])
    assert list(host.curve(bad.key)) == [20]
    assert good.key in host.finals()


def test_a_lane_that_is_stopped_or_lost_is_dropped(tmp_path: pathlib.Path) -> None:
    lanes = [lane(Curves(), tmp_path, {}, seed=seed) for seed in range(3)]
    verdicts = {lanes[0].key: Verdict.STOP, lanes[1].key: Verdict.LOST}
    host = ScriptedHost(lanes, answer=lambda report: verdicts.get(report.key, Verdict.FINISHED if report.final else Verdict.CONTINUE))
    Curves().train(host)
    assert [len(host.curve(one.key)) for one in lanes] == [1, 1, 5]


def test_raise_at_raises(tmp_path: pathlib.Path) -> None:
    with pytest.raises(RuntimeError, match="raise_at=30, as configured"):
        Curves().train(ScriptedHost([lane(Curves(), tmp_path, {"raise_at": 30})]))


def test_a_process_killed_once_finishes_on_the_second_attempt(tmp_path: pathlib.Path) -> None:
    command = [sys.executable, "-m", "trainers.curves", "--out", str(tmp_path), "--set", "kill_once_at=50"]
    first = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert first.returncode == -signal.SIGKILL
    assert "step     40" in first.stderr
    second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "step     20" not in second.stderr, "it began again"
    assert json.loads(second.stdout)["steps"] == 100


def test_no_jax_is_imported() -> None:
    code = "import sys, trainers.curves; sys.exit('jax' in sys.modules or 'numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
