"""Sweep, live history and report, by the real W&B client on a server of the tests: each once, whoever is killed meanwhile."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Generator

import psutil
import pytest

from orchestrator.records import SpaceRecord, TrialRecord, TrialState
from orchestrator.report import brief_markdown
from orchestrator.trackers import Links, Pages, StudyHeader, WandbMode, WandbTracker
from orchestrator.trackers.wandb_sweep import mark, sweep_config
from tests.studyrecords import study_record
from tests.waiting import eventually
from tests.wandb_server import Fault, WandbServer, at_home

KEY = "1ea5ed" * 7
STUDY = study_record(replicates=2, tune_trials=2, rungs=6)
HEADER = StudyHeader.of(STUDY)
FIRST, SECOND, THIRD = STUDY.trials[:3]
ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def address() -> Generator[WandbServer]:
    with at_home(KEY) as running:
        yield running


@pytest.fixture
def server(address: WandbServer) -> WandbServer:
    """One server for all tests of the file, empty for each."""
    address.empty()
    return address


@dataclasses.dataclass(kw_only=True)
class Copying:
    """A tracker as a process that starts anew has it."""

    tracker: WandbTracker
    links: list[Links]
    warnings: list[str]


@contextlib.contextmanager
def copying(folder: pathlib.Path, *, known: Links | None = None, header: StudyHeader = HEADER, timeout_s: float = 20) -> Generator[Copying]:
    links, warnings = [known or Links()], list[str]()
    pages = Pages(links[0], links.append)
    tracker = WandbTracker(folder / "wandb", mode=WandbMode.ONLINE, warn=warnings.append, pages=pages, init_timeout_s=timeout_s)
    tracker.open(header)
    try:
        yield Copying(tracker=tracker, links=links, warnings=warnings)
    finally:
        tracker.close()


def running(trial: TrialRecord, rungs: int) -> TrialRecord:
    """The trial while a worker trains it."""
    return dataclasses.replace(trial, state=TrialState.LEASED, metrics={}, rungs=trial.rungs[:rungs], finished_at="", provenance={})


def steps(trial: TrialRecord, rungs: int | None = None) -> list[int]:
    return [rung.step for rung in trial.rungs[:rungs]]


def test_a_study_is_one_sweep_whose_parameters_are_its_arms_and_axes(server: WandbServer, tmp_path: pathlib.Path) -> None:
    with copying(tmp_path) as one:
        assert one.tracker.publish(FIRST)
    (sweep,) = server.sweeps.values()
    parameters = sweep.config["parameters"]
    assert parameters["arm"] == {"values": [arm.name for arm in STUDY.arms]}
    assert parameters["optim"]["parameters"]["learning_rate"] == {"distribution": "log_uniform_values", "min": 0.001, "max": 0.03}
    assert parameters["model"]["parameters"]["tile"] == {"values": [False, True]}
    assert sweep.config["metric"] == {"name": "test/nll", "goal": "minimize"}
    run = server.runs[FIRST.key]
    assert run.fields["sweep"] == sweep.name
    assert set(parameters) <= set(run.values), "a plot of the sweep looks for its parameters in the configs of runs"
    assert one.links[-1].lines == (f"W&B sweep: {server.url}/loop/tessera/sweeps/{sweep.name}",)
    assert one.warnings == []


def test_a_sweep_is_never_made_twice(server: WandbServer, tmp_path: pathlib.Path) -> None:
    with copying(tmp_path) as one:
        pass
    asked = len(server.requests)
    with copying(tmp_path, known=one.links[-1]) as known:  # the ledger has it
        pass
    assert not any("Sweep" in request for request in server.requests[asked:])
    assert known.links == [one.links[-1]]
    with copying(tmp_path):  # the process was killed before the ledger had it
        pass
    edited = dataclasses.replace(HEADER, space={"optim.learning_rate": SpaceRecord(low=0.001, high=0.1, log=True)})
    with copying(tmp_path, known=one.links[-1], header=edited):
        pass
    (sweep,) = server.sweeps.values()
    assert sweep.config["parameters"]["optim"]["parameters"]["learning_rate"]["max"] == 0.1


def test_another_project_has_a_sweep_of_its_own(server: WandbServer, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with copying(tmp_path) as one:
        pass
    monkeypatch.setenv("WANDB_PROJECT", "elsewhere")
    with copying(tmp_path, known=one.links[-1]):
        pass
    assert [sweep.project for sweep in server.sweeps.values()] == ["tessera", "elsewhere"]


def test_a_server_that_has_no_sweeps_still_gets_runs(server: WandbServer, tmp_path: pathlib.Path) -> None:
    server.faults.append(Fault(where="TesseraUpsertSweep", status=400))
    with copying(tmp_path) as one:
        assert one.tracker.publish(FIRST)
    assert server.runs[FIRST.key].steps == steps(FIRST)
    assert len(one.warnings) == 1
    assert "the server made no sweep" in one.warnings[0]


@pytest.mark.parametrize(("status", "words"), [(401, "does not take the key"), (0, "cannot be reached"), (500, "cannot be reached")])
def test_a_server_that_refuses_before_the_sweep_means_offline(server: WandbServer, tmp_path: pathlib.Path, status: int, words: str) -> None:
    server.faults.append(Fault(where="", status=status))
    with copying(tmp_path, timeout_s=1) as one:
        assert one.tracker.publish(FIRST)
    assert (one.tracker.name, len(one.warnings)) == ("wandb-offline", 1)
    assert words in one.warnings[0]
    assert KEY not in one.warnings[0]


def test_rungs_arrive_while_the_trial_trains(server: WandbServer, tmp_path: pathlib.Path) -> None:
    with copying(tmp_path) as one:
        for rungs in (1, 2, 3):
            one.tracker.follow(running(FIRST, rungs))
        one.tracker.follow(running(SECOND, 2))
        eventually(lambda: server.runs[FIRST.key].steps == steps(FIRST, 3), within_s=60)
        assert server.runs[FIRST.key].exit_code is None
        assert one.tracker.publish(FIRST)
        assert one.tracker.publish(dataclasses.replace(SECOND, state=TrialState.DIVERGED, metrics={}, reason="nan"))
    for trial, tags in ((FIRST, ["laptop", "tune"]), (SECOND, ["laptop", "tune", "diverged"])):
        run = server.runs[trial.key]
        assert (run.steps, run.exit_code, run.fields["tags"]) == (steps(trial), 0, tags)
        assert run.values["provenance"]["device"] == "cpu", "it is known when the trial ends"
    assert not list((tmp_path / "wandb").glob("run-*"))


def test_a_run_that_was_let_go_goes_on_where_it_was(server: WandbServer, tmp_path: pathlib.Path) -> None:
    with copying(tmp_path) as one:
        one.tracker.follow(running(FIRST, 2))
        one.tracker.let_go([FIRST.key, "never seen"])
        assert not one.tracker.live
        assert server.runs[FIRST.key].preempting
        one.tracker.follow(running(FIRST, 4))
        one.tracker.follow(running(SECOND, 1))
    assert server.runs[FIRST.key].steps == steps(FIRST, 4)
    with copying(tmp_path) as two:
        assert [two.tracker.publish(trial) for trial in (FIRST, SECOND)] == [True, True]
    assert [server.runs[trial.key].steps for trial in (FIRST, SECOND)] == [steps(FIRST), steps(SECOND)]


KILLED = """
import os, pathlib, sys, time
from tests.unit.test_wandb_live import FIRST, SECOND, copying, running
with copying(pathlib.Path(sys.argv[1])) as one:
    for rungs in (1, 2, 3):
        one.tracker.follow(running(FIRST, rungs))
        one.tracker.follow(running(SECOND, rungs))
    print("followed", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("sent", [True, False], ids=["after the upload", "before the upload"])
def test_a_publisher_killed_with_its_library_loses_and_doubles_no_row(server: WandbServer, tmp_path: pathlib.Path, sent: bool) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "followed\n"
            if sent:
                eventually(lambda: len(server.runs[FIRST.key].steps) == 3, within_s=60)
        finally:
            for victim in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
                victim.send_signal(signal.SIGKILL)
    with copying(tmp_path) as one:
        one.tracker.follow(running(FIRST, 5))
        assert [one.tracker.publish(trial) for trial in (FIRST, SECOND)] == [True, True]
    for trial in (FIRST, SECOND):
        assert (server.runs[trial.key].steps, server.runs[trial.key].exit_code) == (steps(trial), 0)


def test_nothing_is_followed_offline(tmp_path: pathlib.Path) -> None:
    tracker = WandbTracker(tmp_path / "wandb", mode=WandbMode.OFFLINE, warn=print)
    tracker.open(HEADER)
    tracker.follow(running(FIRST, 2))
    assert not tracker.live
    assert not tracker.report(STUDY, "")
    tracker.close()


def test_the_report_is_made_once_and_updated_in_place(server: WandbServer, tmp_path: pathlib.Path) -> None:
    odd = dataclasses.replace(STUDY, arms=(*STUDY.arms, dataclasses.replace(STUDY.arms[1], name='it\'s "odd"')))
    with copying(tmp_path) as one:
        assert one.tracker.report(odd, brief_markdown(STUDY))
        assert one.tracker.report(odd, "| Arm |\n|---|\n")
    with copying(tmp_path, known=one.links[-1]) as known:
        assert known.tracker.report(odd, brief_markdown(STUDY))
    with copying(tmp_path) as forgot:
        assert forgot.tracker.report(odd, brief_markdown(STUDY))
    (view,) = server.views.values()
    assert view.saved == 4
    assert view.fields["description"] == mark(STUDY.name)
    assert one.links[-1].report_url == f"{server.url}/loop/tessera/reports/{STUDY.name}--{view.id}"
    blocks = view.spec["blocks"]
    assert [block["content"] for block in blocks if block["type"] == "markdown-block"] == [brief_markdown(STUDY)]
    replicates, tuning = [block["metadata"] for block in blocks if block["type"] == "panel-grid"]
    assert [row["name"] for row in replicates["runSets"]] == [arm.name for arm in odd.arms]
    assert {row["value"] for row in replicates["runSets"][-1]["filters"]["filters"]} == {STUDY.name, 'it\'s "odd"', "replicate"}
    kinds = [panel["viewType"] for block in (replicates, tuning) for panel in block["panelBankSectionConfig"]["panels"]]
    assert {"Scatter Plot", "Run History Line Plot", "Parallel Coordinates Plot", "Parameter Importance"} <= set(kinds)


def test_a_report_that_cannot_be_saved_is_warned_of_and_costs_no_run(server: WandbServer, tmp_path: pathlib.Path) -> None:
    with copying(tmp_path) as one:
        server.faults.append(Fault(where="upsertView", status=403))
        assert [one.tracker.report(STUDY, ""), one.tracker.report(STUDY, "")] == [False, False]
        assert one.tracker.publish(FIRST)
    assert one.tracker.name == "wandb-online"
    assert len(one.warnings) == 1
    assert "the report was not saved" in one.warnings[0]


def test_every_kind_of_axis_is_a_parameter() -> None:
    spaces = {
        "a": SpaceRecord(values=("x", 1)),
        "b.c": SpaceRecord(low=0.0, high=1.0),
        "b.d": SpaceRecord(low=1, high=9, whole=True),
        "b.e": SpaceRecord(low=1, high=9, whole=True, log=True),
    }
    config = sweep_config(dataclasses.replace(HEADER, nuisance=dict.fromkeys(spaces, ""), space=spaces))
    assert config["parameters"]["a"] == {"values": ["x", 1]}
    assert config["parameters"]["b"]["parameters"] == {
        "c": {"distribution": "uniform", "min": 0.0, "max": 1.0},
        "d": {"distribution": "int_uniform", "min": 1, "max": 9},
        "e": {"distribution": "q_log_uniform_values", "min": 1, "max": 9, "q": 1},
    }
