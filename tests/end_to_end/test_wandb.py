"""W&B is a copy: complete when it can be, and never in the way of a trial."""

from __future__ import annotations

import threading

import pytest

from orchestrator.ledger import Ledger
from orchestrator.trackers.wandb_file import read_run
from tests.wandb_server import serving

TOTAL = 8

ARMS = ('Arm("plain", baseline=True)', 'Arm("wide", {"family": "wide"})')


@pytest.fixture
def small(launches):
    """Two arms, two tuning trials and two replicates each."""
    launches.write(arms=ARMS, trials=2, replicates=2)
    return launches


def test_every_finished_trial_is_one_offline_run(small) -> None:
    ended = small.run("run", "--wandb", "offline")
    assert ended.code == 0, ended.err
    files = sorted((small.out / "families" / "wandb").glob("offline-run-*/*.wandb"))
    runs = {run.run["id"]: run for run in map(read_run, files)}
    assert len(files) == len(runs) == TOTAL
    with Ledger.open(small.out / "ledger.db", create=False) as ledger:
        trials = {trial.key: trial for trial in ledger.trial_records("families")}
    assert runs.keys() == trials.keys()
    for key, trial in trials.items():
        run = runs[key]
        assert (run.run["group"], run.run["job_type"]) == ("families", trial.arm)
        assert run.config["learning_rate"] == trial.config["learning_rate"]
        assert len(run.history) == len(trial.rungs)
        assert run.summary["test/nll"] == trial.metrics["test/nll"]
    again = small.run("run", "--wandb", "offline")
    assert again.code == 0
    assert sorted((small.out / "families" / "wandb").glob("offline-run-*/*.wandb")) == files
    assert not small.workers()


def test_a_server_that_is_not_there_costs_no_trial(small, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    ended = small.run("run", "--wandb", "online")
    assert ended.code == 0, ended.err
    assert small.status() == {"complete": TOTAL}
    assert "Traceback" not in ended.err
    assert not small.workers()


def test_a_publisher_that_is_killed_is_started_again_and_each_row_arrives_once(small, monkeypatch: pytest.MonkeyPatch) -> None:
    once = threading.Lock()

    def before(request: str) -> None:
        if "file_stream" in request and once.acquire(blocking=False):
            (publisher,) = [process for process in small.workers() if "orchestrator.publisher" in process.cmdline()]
            for process in [*publisher.children(recursive=True), publisher]:
                process.kill()

    with serving() as server:
        server.before = before
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
        ended = small.run("run", "--wandb", "online", timeout_s=180)
        assert ended.code == 0, ended.err
        assert once.locked(), "nobody was killed"
        with Ledger.open(small.out / "ledger.db", create=False) as ledger:
            rows = {trial.key: [rung.step for rung in trial.rungs] for trial in ledger.trial_records("families")}
        assert {key: run.steps for key, run in server.runs.items()} == rows
        assert {run.exit_code for run in server.runs.values()} == {0}
        assert {run.fields["sweep"] for run in server.runs.values()} == set(server.sweeps)
        assert (len(server.sweeps), len(server.views)) == (1, 1)
    assert "were not copied yet" not in ended.err
    assert f"W&B sweep: {server.url}" in ended.err
    assert "W&B report: " in ended.err
    assert not small.workers()
