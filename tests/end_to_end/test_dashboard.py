"""The dashboard: real requests to loopback, answered from a ledger that grows meanwhile, and nothing can be changed there."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
import pathlib
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import Generator
from typing import Any

import pytest

from orchestrator.dashboard.serve import serving
from orchestrator.dashboard.view import Numbers, storage_of_record
from orchestrator.errors import OrchestratorError
from orchestrator.records import Phase, StudyRecord, TrialState
from orchestrator.report import write
from tests.end_to_end.conftest import Launches
from tests.studyrecords import study_record, without_result
from tests.waiting import eventually

NOW = datetime.datetime(2026, 3, 1, 12)
STUDY = study_record(name="<script>alert(1)</script>", replicates=2, tune_trials=3, rungs=3)


def get(url: str, *, method: str = "GET", host: str | None = None) -> tuple[int, str]:
    request = urllib.request.Request(url, method=method, headers={"Host": host} if host else {}, data=b"{}" if method != "GET" else None)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def trials(address: str, number: int = 0) -> list[dict[str, Any]]:
    status, text = get(f"{address}api/studies/{number}")
    assert status == 200, text
    return json.loads(text)["trials"]


class Source:
    """A study that a test changes while it is shown."""

    def __init__(self, record: StudyRecord) -> None:
        self.record, self.stamp = record, 0
        self.written = 0

    def read(self) -> StudyRecord:
        return self.record

    def write(self, folder: pathlib.Path) -> pathlib.Path:
        self.written += 1
        return write(self.record, folder)

    def becomes(self, record: StudyRecord) -> None:
        self.record, self.stamp = record, self.stamp + 1


@pytest.fixture
def source() -> Source:
    return Source(STUDY)


@pytest.fixture
def address(source: Source, monkeypatch: pytest.MonkeyPatch) -> Generator[str]:
    monkeypatch.setattr("orchestrator.dashboard.site.REFRESH_S", 0.0)
    monkeypatch.setattr("orchestrator.dashboard.site.REPORT_S", 0.0)
    with serving(0, stamp=lambda: source.stamp, read=source.read, write=source.write) as url:
        yield url


def test_each_phase_is_an_optuna_study_with_what_the_ledger_has(address: str) -> None:
    summaries = json.loads(get(f"{address}api/studies")[1])["study_summaries"]
    assert [row["study_name"] for row in summaries] == [f"{STUDY.name}: tune", f"{STUDY.name}: replicate"]
    tuned = [trial for trial in STUDY.trials if trial.phase is Phase.TUNE]
    shown = trials(address)
    assert len(shown) == len(tuned)
    for row, trial in zip(shown, tuned, strict=True):
        params = {param["name"]: param["param_external_value"] for param in row["params"]}
        attributes = {attr["key"]: attr["value"] for attr in row["user_attrs"]}
        assert row["state"] == "Complete"
        assert row["values"] == [trial.metrics["val/nll"]]
        assert params["arm"] == trial.arm
        assert float(params["optim.learning_rate"]) == trial.point["optim.learning_rate"]
        assert attributes["key"] == trial.key
        assert [(point["step"], point["value"]) for point in row["intermediate_values"]] == [
            (rung.step, rung.metrics["val/nll"]) for rung in trial.rungs
        ]
    detail = json.loads(get(f"{address}api/studies/1")[1])
    assert detail["directions"] == ["minimize", "minimize"]
    assert detail["objective_names"] == ["test/nll", "cost/train_gflops"]
    assert "Optuna" in get(f"{address}dashboard")[1]


def test_trials_that_finish_are_seen_and_keep_their_number(address: str, source: Source) -> None:
    late = next(trial for trial in STUDY.trials if trial.phase is Phase.TUNE).key

    def at(state: TrialState) -> StudyRecord:
        whole = study_record(replicates=2, tune_trials=3, rungs=3)
        rows = tuple(without_result(trial, state) if trial.key == late else trial for trial in whole.trials)
        return dataclasses.replace(whole, trials=rows)

    source.becomes(study_record(replicates=2, tune_trials=3, rungs=3, change=lambda trial: None if trial.key == late else trial))
    assert late not in numbers(address)
    last = len(numbers(address))
    for state, shown in ((TrialState.PLANNED, "Waiting"), (TrialState.LEASED, "Running"), (TrialState.STOPPED, "Pruned")):
        source.becomes(at(state))
        assert numbers(address)[late] == (last, shown)
    source.becomes(at(TrialState.COMPLETE))
    assert numbers(address)[late] == (last, "Fail"), "it lacks a value"
    source.becomes(study_record(replicates=2, tune_trials=3, rungs=3))
    assert numbers(address)[late] == (last, "Complete")


def numbers(address: str) -> dict[str, tuple[int, str]]:
    rows = trials(address)
    keys = [next(attr["value"] for attr in row["user_attrs"] if attr["key"] == "key") for row in rows]
    return {key: (row["number"], row["state"]) for key, row in zip(keys, rows, strict=True)}


def test_the_report_is_beside_it_and_follows_the_ledger(address: str, source: Source) -> None:
    status, page = get(f"{address}report/")
    assert status == 200
    assert "<script>alert(1)" not in page
    get(f"{address}report/table.csv")
    assert source.written == 1, "nothing is drawn twice"
    source.becomes(study_record(name="renamed", replicates=2, tune_trials=3, rungs=3))
    assert "renamed" in get(f"{address}report")[1]
    for name in ("../secret", "%2e%2e/secret", "nothing.html"):
        assert get(f"{address}report/{name}")[0] in (301, 404)
    first = get(address)[1]
    assert "<script>" not in first
    assert 'href="/dashboard"' in first


def test_nothing_can_be_changed_and_no_other_site_can_ask(address: str) -> None:
    for path, method in (("api/studies", "POST"), ("api/studies/0", "DELETE"), ("api/studies/0/0/note", "PUT")):
        status, text = get(address + path, method=method)
        assert (status, json.loads(text)["reason"]) == (405, "this is a view of the ledger: nothing can be changed here")
    assert get(f"{address}api/studies", host="evil.example")[0] == 403
    assert len(json.loads(get(f"{address}api/studies", host="localhost:1")[1])["study_summaries"]) == 2


def test_a_study_of_any_state_can_be_shown() -> None:
    states = [*TrialState]

    def change(trial: Any) -> Any:
        return without_result(trial, states[(trial.index + trial.seed) % len(states)], "because")

    storage = storage_of_record(study_record(replicates=9, tune_trials=9, rungs=2, change=change), Numbers(), NOW)
    shown = [trial for study in storage.get_all_studies() for trial in storage.get_all_trials(study._study_id)]
    assert {trial.user_attrs["state"] for trial in shown} == {state.value for state in states}
    assert all(trial.datetime_start is not None for trial in shown if trial.state.is_finished())


def test_a_port_that_is_taken_and_an_extra_that_is_missing_are_one_message(
    address: str, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = int(address.rstrip("/").rsplit(":", 1)[1])
    with (
        pytest.raises(OrchestratorError, match="choose another port with --port"),
        serving(port, stamp=int, read=source.read, write=source.write),
    ):
        pass
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    with (
        pytest.raises(OrchestratorError, match=r'pip install -e "\.\[dashboard\]"'),
        serving(0, stamp=int, read=source.read, write=source.write),
    ):
        pass


def test_the_command_prints_where_it_is_and_ends_with_ctrl_c(launches: Launches) -> None:
    launches.write(arms=('Arm("plain", baseline=True)',), trials=1, replicates=1)
    early = launches.run("dashboard", "--port", "0")
    assert early.code == 2
    assert "ledger" in early.err
    assert launches.run().code == 0
    process = launches.start("dashboard", "--port", "0")
    try:
        assert process.stdout is not None
        address = process.stdout.readline().removeprefix("dashboard: ").removesuffix("dashboard\n")
        assert address.startswith("http://127.0.0.1:")
        eventually(lambda: get(f"{address}api/studies")[0] == 200)
        assert [row["state"] for row in trials(address)] == ["Complete"]
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0
    assert "Traceback" not in err
