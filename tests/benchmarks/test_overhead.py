"""benchmarks/overhead.py adds up what it says it adds up, and runs."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest

from benchmarks.overhead import KEEPERS, Row, aims, parts_of, text

ROOT = pathlib.Path(__file__).resolve().parents[2]
FIGURES = {
    **{"plan": 1.0, "lease": 2.0, "record": 3.0, "finish": 4.0, "other": 5.0, "replan": 0.05},
    **{"look": 0.1, "plans": 9.0, "launcher_mb": 200.0, "ask_sobol": 0.001, "ask_random": 0.002, "ask_tpe": 0.003},
    **{"status_wall": 0.9, "status_cpu": 0.8, "plan_wall": 2.0, "plan_cpu": 1.9},
    **{"report_wall": 3.0, "report_cpu": 2.9, "report_mb": 300.0},
}


def row(trials: int, ms: float) -> dict[str, Any]:
    return dataclasses.asdict(Row(keeper="tessera", trials=trials, ms=ms, once={"status_wall": 0.9, "launcher_mb": 250.0}))


def document(*rows: Mapping[str, Any]) -> dict[str, Any]:
    where = {"cores": 2, "processor": "p", "memory_gib": 1, "date": "d", "system": "s", "python": "3", "versions": {}}
    return {"machine": where, "load_average": {"start": [0], "end": [0]}, "aims": aims(rows), "rows": list(rows)}


def test_a_trial_is_charged_its_share_of_what_is_done_for_all_and_a_tenth_of_the_plan_for_its_arm() -> None:
    parts, once = parts_of(FIGURES, 1000)
    assert parts == pytest.approx({"plan": 1.0, "lease": 2.0, "record": 3.0, "finish": 4.0, "worker": 5.0, "follow": 5.0})
    assert once["ask_tpe"] == pytest.approx(3.0)
    assert once["launcher_mb"] == 200.0


def test_the_aims_are_read_at_their_sizes() -> None:
    found = aims([row(100, 9.0), row(10_000, 2.0), row(100_000, 2.5)])
    assert found == {"ms_at_10000": 2.0, "ms_at_100000_over_10000": 1.25, "open_10000_s": 0.9, "launcher_mb_at_100000": 250.0}
    assert set(aims([row(100, 9.0)]).values()) == {None}


def test_what_was_left_out_or_is_not_installed_says_so_in_the_table() -> None:
    missing = dataclasses.asdict(Row(keeper="ray_tune", trials=100, error="not installed: pip install"))
    late = dataclasses.asdict(Row(keeper="submitit", trials=1000, error="left out: 100 trials are the most in reasonable time"))
    shown = text(document(row(100, 9.0), missing, late))
    assert "not installed: pip install" in shown
    assert "left out: 100 trials" in shown
    assert "ms_at_10000                not measured" in shown


@pytest.mark.slow
def test_every_part_of_a_small_study_is_measured(tmp_path: pathlib.Path) -> None:
    command = [sys.executable, "-m", "benchmarks.bookkeeping.tessera", "40", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    parts, _ = parts_of(figures, 40)
    assert all(value > 0.0 for name, value in parts.items() if name != "worker")
    assert figures["plans"] >= 3  # of an arm by itself, too


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_optuna_keeps_the_books_of_as_many_trials(tmp_path: pathlib.Path, kind: str) -> None:
    command = [sys.executable, "-m", "benchmarks.bookkeeping.optuna_storage", kind, "3", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(json.loads((tmp_path / "figures.json").read_text())) == {"ask", "record", "finish", "open"}


def test_each_keeper_is_a_module() -> None:
    assert all((ROOT / "benchmarks" / "bookkeeping" / f"{keeper.command[0]}.py").is_file() for keeper in KEEPERS)
