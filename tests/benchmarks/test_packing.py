"""The rivals of benchmarks/packing.py do the same work, or its ratios mean nothing."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import subprocess
import sys

import pytest

from benchmarks import contest
from benchmarks.meter import Measured
from benchmarks.rivals import tessera
from benchmarks.rivals.one_trial import in_process_of_its_own
from benchmarks.rivals.workload import Job, learning_rates
from benchmarks.standings import bounds, ratios, standings, text

ROOT = pathlib.Path(__file__).resolve().parents[2]
COMPARED = ("val/nll", "test/nll", "val/ece")


def job(folder: pathlib.Path) -> Job:
    return Job(steps=3, trials=2, at_once=1, gpus=0, folder=folder)


@pytest.mark.slow
def test_tessera_and_a_script_of_one_trial_agree_to_the_bit(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NPROC", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    asked = job(tmp_path)
    asked.write(tmp_path / "job.json")
    done = subprocess.run(tessera.command(asked), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    packed, alone = tessera.told(asked).results, in_process_of_its_own(tmp_path / "job.json", 1)
    assert {name: packed[1][name] for name in COMPARED} == {name: alone[name] for name in COMPARED}
    assert packed[0]["val/nll"] != packed[1]["val/nll"]


def test_trials_differ_in_learning_rate_and_seed(tmp_path: pathlib.Path) -> None:
    trials = Job(steps=3, trials=32, at_once=1, gpus=0, folder=tmp_path).each_trial()
    assert [trial.index for trial in trials] == list(range(32))
    assert len({(trial.learning_rate, trial.seed) for trial in trials}) == 32
    assert [rate for rate in learning_rates(16) if float(repr(rate)) != rate] == []


def test_a_job_is_read_as_it_was_written(tmp_path: pathlib.Path) -> None:
    job(tmp_path).write(tmp_path / "job.json")
    assert Job.read(tmp_path / "job.json") == job(tmp_path)


def program(folder: pathlib.Path, text: str) -> list[str]:
    (folder / "program.py").write_text(text)
    return [sys.executable, str(folder / "program.py")]


def measured(folder: pathlib.Path, text: str, *, within_s: float = 300.0) -> Measured:
    # In a process of its own: the meter reaps and ends whatever descends from its process.
    log = str(folder / "log")
    call = f"measure({program(folder, text)!r}, environment=os.environ, log=pathlib.Path({log!r}), within_s={within_s}, grace_s=300)"
    code = f"import dataclasses, json, os, pathlib; from benchmarks.meter import measure; print(json.dumps(dataclasses.asdict({call})))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return Measured(**json.loads(done.stdout))


def test_the_meter_counts_the_cpu_time_of_a_grandchild_whose_parent_did_not_wait(tmp_path: pathlib.Path) -> None:
    burn = "import time\nwhile time.process_time() < 0.5: pass\n"
    start = f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {burn!r}])\n"
    found = measured(tmp_path, start)
    assert found.code == 0
    assert found.cpu_s >= 0.5
    assert found.left_behind == 0


def test_the_meter_counts_the_cpu_time_of_a_child_that_nobody_can_wait_for(tmp_path: pathlib.Path) -> None:
    burn = "import time\nwhile time.process_time() < 2.0: pass\n"
    start = (
        "import signal, subprocess, sys, time\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        f"p = subprocess.Popen([sys.executable, '-c', {burn!r}])\np.wait()\n"
    )
    found = measured(tmp_path, start)
    assert found.waited_cpu_s < 1.0 < found.cpu_s


def test_the_meter_ends_what_takes_too_long_and_all_that_it_started(tmp_path: pathlib.Path) -> None:
    start = "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'import signal; signal.pause()'])\n"
    found = measured(tmp_path, start, within_s=1.0)
    assert found.code is None
    assert found.left_behind >= 1


def test_a_program_that_fails_is_an_error_and_what_it_said(tmp_path: pathlib.Path) -> None:
    found = measured(tmp_path, "raise SystemExit('no such luck')")
    assert found.code == 1
    assert "no such luck" in found.said


def run_of(rival: str, seconds: float, nll: float, *, steps: int = 100) -> contest.Run:
    took = Measured(
        started=0.0,
        wall_s=seconds,
        cpu_s=seconds,
        waited_cpu_s=seconds,
        seen_cpu_s=seconds,
        peak_bytes=2**30,
        most_processes=2,
        left_behind=0,
        code=0,
        said="",
    )
    results = {index: {"val/nll": nll, "test/nll": nll, "s/other_steps": 9.9} for index in range(2)}
    return contest.Run(rival=rival, steps=steps, trials=2, at_once=2, measured=took, results=results)


def test_the_headline_takes_the_better_setting_of_a_rival_and_each_rival_its_fastest_run() -> None:
    runs = [
        run_of("process_all_threads", 90.0, 1.0),
        run_of("process_one_thread", 60.0, 1.0),
        run_of("process_one_thread", 40.0, 1.0),
        run_of("hand_loop_processes", 30.0, 1.5),
        run_of("tessera", 20.0, 1.0),
    ]
    rows = [dataclasses.asdict(row) for row in standings(runs)]
    found = ratios(rows)
    assert found["packed_over_process_per_trial_100"] == 2.0
    assert found["over_hand_loop"] == 1.5
    assert found["over_ray_reuse"] is None
    assert {row["rival"]: row["difference"] for row in rows}["hand_loop_processes"] == 0.5
    assert {row["rival"]: row["same_bits"] for row in rows}["process_one_thread"] is True
    assert bounds(rows) == [
        {"steps": 100, "trials": 2, "steps_alone_s": pytest.approx(5.0), "most_over_process_per_trial": pytest.approx(4.0)}
    ]


def test_a_rival_that_failed_says_why_in_the_table() -> None:
    failed = contest.Run(rival="ray_reuse", steps=100, trials=2, error="not installed: pip install")
    rows = [dataclasses.asdict(row) for row in standings([failed, run_of("tessera", 20.0, 1.0)])]
    shown = text(
        {
            **ratios(rows),
            "machine": {
                "cores": 2,
                "processor": "p",
                "memory_gib": 1,
                "platform": "cpu",
                "device": "cpu",
                "date": "d",
                "system": "s",
                "python": "3",
                "versions": {},
            },
            "load_average": {"start": [0], "end": [0]},
            "asked": {"trials": 2},
            "bounds": bounds(rows),
            "rows": rows,
        }
    )
    assert "not installed: pip install" in shown
    assert "Ray Tune with reused actors over Tessera, 100 steps            not measured" in shown
