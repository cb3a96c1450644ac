"""The real W&B client against a server that refuses, stalls, dies and comes back: nothing raised, nothing lost, nothing twice."""

from __future__ import annotations

import collections
import dataclasses
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Generator

import pytest

from orchestrator.records import Rung, TrialRecord, TrialState
from orchestrator.trackers import StudyHeader, WandbMode, WandbTracker
from orchestrator.trackers.wandb_file import read_run
from orchestrator.trackers.wandb_library import STRIPPED
from tests.studyrecords import study_record
from tests.wandb_server import Fault, WandbServer, serving

KEY = "5ec2e7" * 7
STUDY = study_record(replicates=3, tune_trials=0, rungs=6)
HEADER = StudyHeader.of(STUDY)
FIRST, SECOND, THIRD = STUDY.trials[:3]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Generator[WandbServer]:
    with serving() as running:
        monkeypatch.setenv("WANDB_BASE_URL", running.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
        yield running


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "wandb"


@dataclasses.dataclass(kw_only=True)
class Outcome:
    """What a tracker's process did."""

    done: list[bool]
    warnings: list[str]
    name: str


def publish(
    folder: pathlib.Path, *trials: TrialRecord, mode: WandbMode = WandbMode.ONLINE, init_s: float = 20, finish_s: float = 20
) -> Outcome:
    """As from a process that starts anew."""
    warnings: list[str] = []
    tracker = WandbTracker(folder, mode=mode, warn=warnings.append, init_timeout_s=init_s, finish_timeout_s=finish_s)
    tracker.open(HEADER)
    try:
        done = [tracker.publish(trial) for trial in trials]
        return Outcome(done=done, warnings=warnings, name=tracker.name)
    finally:
        tracker.close()
        assert all("\n" not in line and KEY not in line and line.startswith("W&B: ") for line in warnings), warnings


def folders(folder: pathlib.Path) -> collections.Counter[str]:
    """How many run folders each trial has."""
    return collections.Counter(path.name.split("-")[-1] for path in folder.glob("*run-*") if path.is_dir())


def assert_complete_once(server: WandbServer, *trials: TrialRecord) -> None:
    for trial in trials:
        run = server.runs[trial.key]
        assert [row["_step"] for row in run.history] == [rung.step for rung in trial.rungs]
        assert run.summary.items() >= trial.metrics.items()
        assert run.exit_code == 0


def test_a_server_that_answers_keeps_no_folder_here(server: WandbServer, folder: pathlib.Path) -> None:
    outcome = publish(folder, FIRST, SECOND)
    assert (outcome.done, outcome.warnings, outcome.name) == ([True, True], [], "wandb-online")
    assert_complete_once(server, FIRST, SECOND)
    assert not folders(folder)
    assert server.keys <= {KEY, ""}  # uploads to storage carry none
    asked = len(server.requests)
    assert publish(folder, FIRST, SECOND).done == [True, True]
    assert len(server.requests) == asked, "what is known to be there is not asked for"


def test_a_memory_that_was_lost_costs_no_double_step(server: WandbServer, folder: pathlib.Path) -> None:
    publish(folder, FIRST)
    shutil.rmtree(folder)
    assert publish(folder, FIRST).done == [True]
    assert_complete_once(server, FIRST)


def test_a_publisher_killed_half_way_is_completed(server: WandbServer, folder: pathlib.Path) -> None:
    half = dataclasses.replace(FIRST, state=TrialState.FAILED, metrics={}, rungs=FIRST.rungs[:3])
    publish(folder, half)  # the server has three rows
    memory = folder / "published.jsonl"
    memory.write_text(memory.read_text().splitlines()[0] + '\n{"key": "torn')  # begun, and not known to be whole
    assert publish(folder, FIRST, mode=WandbMode.OFFLINE).done == [False], "a folder synced beside half a run would double steps"
    assert not folders(folder)
    assert publish(folder, FIRST).done == [True]
    assert_complete_once(server, FIRST)


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_means_offline_and_one_warning(server: WandbServer, folder: pathlib.Path, status: int) -> None:
    server.faults.append(Fault(where="", status=status))
    outcome = publish(folder, FIRST, SECOND, init_s=5)
    assert outcome.done == [True, True]
    assert outcome.name == "wandb-offline"
    assert len(outcome.warnings) == 1
    assert "cannot be reached (" in outcome.warnings[0]
    assert "going on offline" in outcome.warnings[0]
    offline = {read_run(path).run["id"] for path in folder.glob("offline-run-*/*.wandb")}
    assert offline == {FIRST.key, SECOND.key}
    server.faults.clear()
    assert publish(folder, FIRST, SECOND).done == [True, True]
    assert_complete_once(server, FIRST, SECOND)
    assert not folders(folder)


def test_a_key_of_the_wrong_form_means_offline(server: WandbServer, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "short")
    outcome = publish(folder, FIRST)
    assert (outcome.done, outcome.name, len(outcome.warnings)) == ([True], "wandb-offline", 1)


def test_a_port_where_nobody_listens_means_offline(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    outcome = publish(folder, FIRST, SECOND, init_s=1)
    assert (outcome.done, outcome.name, len(outcome.warnings)) == ([True, True], "wandb-offline", 1)


def test_a_server_that_never_answers_means_offline(server: WandbServer, folder: pathlib.Path) -> None:
    over = threading.Event()
    server.before = lambda _: over.wait(60)
    try:
        outcome = publish(folder, FIRST, init_s=1)
    finally:
        over.set()
    assert (outcome.done, outcome.name, len(outcome.warnings)) == ([True], "wandb-offline", 1)


@pytest.mark.parametrize("status", [429, 500])
def test_a_server_that_stumbles_is_asked_again(server: WandbServer, folder: pathlib.Path, status: int) -> None:
    server.faults.append(Fault(where="file_stream", status=status, times=1, headers={"Retry-After": "0"}))
    outcome = publish(folder, FIRST)
    assert (outcome.done, outcome.warnings) == ([True], [])
    assert_complete_once(server, FIRST)


@pytest.mark.parametrize("status", [401, 404])
def test_rows_that_are_refused_for_good_are_noticed_and_sent_later(server: WandbServer, folder: pathlib.Path, status: int) -> None:
    server.faults.append(Fault(where="file_stream", status=status))
    outcome = publish(folder, FIRST, FIRST, SECOND)
    assert outcome.done == [False, False, True]  # the second trial went offline
    assert len(outcome.warnings) == 1
    assert f"did not take all of {FIRST.arm} r0 (the upload was refused: HTTP {status})" in outcome.warnings[0]
    server.faults.clear()
    assert publish(folder, FIRST, SECOND).done == [True, True]
    assert_complete_once(server, FIRST, SECOND)
    assert not folders(folder)


def test_rows_that_are_refused_without_end_hang_nothing(server: WandbServer, folder: pathlib.Path) -> None:
    server.faults.append(Fault(where="file_stream", status=500))
    outcome = publish(folder, FIRST, SECOND, finish_s=1)
    assert outcome.done == [False, True]
    assert len(outcome.warnings) == 1
    assert "TimeoutError" in outcome.warnings[0]
    server.faults.clear()
    assert publish(folder, FIRST, SECOND).done == [True, True]
    assert_complete_once(server, FIRST, SECOND)


def test_a_server_that_falls_silent_half_way_hangs_nothing(server: WandbServer, folder: pathlib.Path) -> None:
    over = threading.Event()
    server.before = lambda request: over.wait(60) if "file_stream" in request else None
    try:
        outcome = publish(folder, FIRST, SECOND, finish_s=1)
    finally:
        over.set()
    assert outcome.done == [False, True]
    server.before = lambda _: None
    assert publish(folder, FIRST, SECOND).done == [True, True]
    assert {trial.key for trial in (FIRST, SECOND)} == server.runs.keys()
    assert [row["_step"] for row in server.runs[SECOND.key].history] == [rung.step for rung in SECOND.rungs]


def test_a_stop_from_the_browser_does_not_interrupt_the_publisher(server: WandbServer, folder: pathlib.Path) -> None:
    server.stopped = True
    many = dataclasses.replace(FIRST, rungs=tuple(Rung(step=step, metrics={"val/nll": 1.0}) for step in range(1, 200)))
    assert publish(folder, many, SECOND).done == [True, True]
    assert_complete_once(server, SECOND)


def test_what_the_cli_synced_is_not_sent_again(server: WandbServer, folder: pathlib.Path) -> None:
    assert publish(folder, FIRST, SECOND, mode=WandbMode.OFFLINE).done == [True, True]
    script = pathlib.Path(sys.executable).with_name("wandb")
    synced = next(folder.glob(f"offline-run-*-{FIRST.key}"))
    subprocess.run([str(script), "sync", "--yes", str(synced)], check=True, capture_output=True, env=dict(os.environ), timeout=120)
    assert_complete_once(server, FIRST)
    assert publish(folder, FIRST, SECOND).done == [True, True]
    assert_complete_once(server, FIRST, SECOND)


def test_a_trial_that_changes_after_it_went_online_goes_on_offline_where_it_stopped(server: WandbServer, folder: pathlib.Path) -> None:
    half = dataclasses.replace(FIRST, state=TrialState.FAILED, metrics={}, rungs=FIRST.rungs[:3])
    assert publish(folder, half).done == [True]
    assert publish(folder, FIRST, mode=WandbMode.OFFLINE).done == [True]
    written = read_run(next(folder.glob("offline-run-*/*.wandb")))
    assert [row["_step"] for row in written.history] == [rung.step for rung in FIRST.rungs[3:]]
    assert publish(folder, FIRST).done == [True]
    assert_complete_once(server, FIRST)


def test_variables_that_would_rename_every_run_are_dropped(
    server: WandbServer, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in STRIPPED:
        monkeypatch.setenv(name, "abc12345")
    outcome = publish(folder, FIRST)
    assert server.runs.keys() == {FIRST.key}
    assert server.runs[FIRST.key].fields.get("sweep") is None
    assert outcome.warnings == [f"W&B: ignoring {', '.join(STRIPPED)}: a run is named after its trial"]
    assert not set(STRIPPED) & set(os.environ)


def test_the_project_is_the_users_to_name(server: WandbServer, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(folder, FIRST)
    monkeypatch.setenv("WANDB_PROJECT", "my-project")
    publish(folder, SECOND)
    assert [run.project for run in server.runs.values()] == ["tessera", "my-project"]


def test_an_offline_folder_that_a_kill_cut_short_is_written_again(folder: pathlib.Path) -> None:
    publish(folder, FIRST, mode=WandbMode.OFFLINE)
    (path,) = folder.glob("offline-run-*/*.wandb")
    path.write_bytes(path.read_bytes()[:400])
    (folder / "published.jsonl").unlink()
    assert read_run(path).exit_code is None
    assert publish(folder, FIRST, mode=WandbMode.OFFLINE).done == [True]
    (path,) = folder.glob("offline-run-*/*.wandb")
    assert [row["_step"] for row in read_run(path).history] == [rung.step for rung in FIRST.rungs]


def test_a_file_that_cannot_be_written_whole_is_noticed(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.trackers.wandb.WRITE_TIMEOUT_S", 0.0)
    monkeypatch.setattr("orchestrator.trackers.wandb.HASTY_TIMEOUT_S", 0.0)
    read = read_run
    monkeypatch.setattr("orchestrator.trackers.wandb.read_run", lambda path: dataclasses.replace(read(path), history=()))
    outcome = publish(folder, FIRST, SECOND, mode=WandbMode.OFFLINE)
    assert outcome.done == [False, False]
    assert len(outcome.warnings) == 1
    assert "is the disk full?" in outcome.warnings[0]
    assert not folders(folder)
    monkeypatch.undo()
    assert publish(folder, FIRST, mode=WandbMode.OFFLINE).done == [True]


def test_settings_that_the_library_refuses_raise_nothing(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "soon")
    outcome = publish(folder, FIRST, SECOND, mode=WandbMode.OFFLINE)
    assert outcome.done == [False, False]
    assert len(outcome.warnings) == 1
    assert f"could not publish {FIRST.arm} r0 (ValidationError:" in outcome.warnings[0]


def test_a_file_of_another_kind_is_not_read(tmp_path: pathlib.Path) -> None:
    (tmp_path / "x.wandb").write_bytes(b"hello")
    with pytest.raises(ValueError, match="is not a W&B run file"):
        read_run(tmp_path / "x.wandb")


def test_a_record_longer_than_a_block_is_read_whole(folder: pathlib.Path) -> None:
    long = dataclasses.replace(FIRST, state=TrialState.FAILED, reason="x" * 100_000)
    assert publish(folder, long, mode=WandbMode.OFFLINE).done == [True]
    assert read_run(next(folder.glob("offline-run-*/*.wandb"))).summary["reason"] == "x" * 100_000


def test_a_folder_by_another_name_or_a_tracker_of_nothing_is_refused(tmp_path: pathlib.Path) -> None:
    for path, mode in ((tmp_path, WandbMode.OFFLINE), (tmp_path / "wandb", WandbMode.DISABLED)):
        with pytest.raises(ValueError, match="needs a folder called wandb and a mode that is not disabled"):
            WandbTracker(path, mode=mode, warn=print)
