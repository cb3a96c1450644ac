"""A study that was run without a W&B server is copied to one afterwards: whatever happens meanwhile, each row is there once."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Generator
from typing import Any

import pytest
import sqlalchemy as sa

from orchestrator import cli
from orchestrator.ledger import Ledger
from orchestrator.trackers.wandb import WandbTracker
from tests.end_to_end.conftest import Launches
from tests.wandb_server import Fault, WandbServer, at_home

KEY = "5eaf00d" * 6
TOTAL = 8
ARMS = ('Arm("plain", baseline=True)', 'Arm("wide", {"family": "wide"})')


@pytest.fixture(scope="module")
def address() -> Generator[WandbServer]:
    with at_home(KEY) as running:
        yield running


@pytest.fixture
def server(address: WandbServer) -> WandbServer:
    address.empty()
    return address


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Launches:
    """A study that was run with W&B offline, for all tests: two arms, two tuning trials and two replicates each."""
    launches = Launches(tmp_path_factory.mktemp("finished"))
    launches.write(arms=ARMS, trials=2, replicates=2)
    ended = launches.run("run", "--wandb", "offline")
    assert ended.code == 0, ended.err
    return launches


@pytest.fixture
def study(finished: Launches, tmp_path: pathlib.Path) -> Launches:
    """A copy of it that a test may change."""
    here = finished.beside("unused")
    here.folder, here.out = tmp_path, tmp_path / "runs"
    shutil.copytree(finished.out, here.out)
    return here


def sync(study: Launches, *more: str) -> int:
    """In this process: the library is imported once for all tests."""
    return cli.main([str(study.study), "sync", "--out", str(study.out), *more])


def rows(study: Launches) -> dict[str, list[int]]:
    """Steps of every trial, as the ledger has them."""
    with Ledger.open(study.out / "ledger.db", create=False) as ledger:
        return {trial.key: [rung.step for rung in trial.rungs] for trial in ledger.trial_records("families")}


def on_server(server: WandbServer) -> dict[str, list[int]]:
    return {key: run.steps for key, run in server.runs.items()}


def shown(server: WandbServer) -> dict[str, Any]:
    """What the server has of each run, without what differs between two runs of one study: times, places, attempts."""
    spent = ("elapsed_s", "finished_at", "attempts", "_wandb", "_runtime", "_timestamp")
    fields = ("displayName", "groupName", "jobType", "tags", "sweep")
    return {
        key: (
            run.history,
            {name: value for name, value in run.flat.items() if not name.startswith("provenance.")},
            {name: value for name, value in run.summary.items() if name not in spent},
            {name: run.fields.get(name) for name in fields},
            run.exit_code,
        )
        for key, run in server.runs.items()
    }


def test_offline_then_synced_is_the_same_to_the_server_as_online(
    server: WandbServer, study: Launches, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    online = study.beside("online")
    ended = online.run("run", "--wandb", "online")
    assert ended.code == 0, ended.err
    (line,) = [line for line in ended.err.splitlines() if line.startswith("W&B report: ")]
    at_once, sweeps, (view,) = shown(server), dict(server.sweeps), server.views.values()
    server.empty()
    assert list((study.out / "families" / "wandb").glob("offline-run-*"))
    assert sync(study) == 0
    out = capsys.readouterr().out
    assert shown(server) == at_once
    assert len(at_once) == TOTAL
    assert {name: sweep.config for name, sweep in server.sweeps.items()} == {name: sweep.config for name, sweep in sweeps.items()}
    (synced,) = server.views.values()
    assert [row["content"] for row in synced.spec["blocks"] if row["type"] == "markdown-block"] == [
        row["content"] for row in view.spec["blocks"] if row["type"] == "markdown-block"
    ]
    assert f"{TOTAL} of {TOTAL} finished trials are on W&B, each row once" in out
    assert line in out
    assert not list((study.out / "families" / "wandb").glob("offline-run-*")), "nobody uploads them again"
    assert cli.main([str(study.study), "status", "--out", str(study.out)]) == 0
    assert line in capsys.readouterr().out


def test_a_second_sync_sends_no_row(server: WandbServer, study: Launches, capsys: pytest.CaptureFixture[str]) -> None:
    assert sync(study, "--json") == 0
    first = json.loads(capsys.readouterr().out)
    assert (first["finished"], first["missing"], first["report"]) == (TOTAL, [], True)
    asked = len(server.requests)
    assert sync(study, "--json") == 0
    assert json.loads(capsys.readouterr().out) == first
    later = server.requests[asked:]
    assert not [request for request in later if "file_stream" in request or "UpsertBucket" in request or "UpsertSweep" in request]
    assert on_server(server) == rows(study)
    assert (len(server.sweeps), len(server.views)) == (1, 1)


def test_a_sync_that_is_killed_is_completed_by_the_next(server: WandbServer, study: Launches) -> None:
    seen, killed = threading.Semaphore(3), threading.Event()

    def before(request: str) -> None:
        if "file_stream" in request and not killed.is_set() and not seen.acquire(blocking=False):
            killed.set()
            os.killpg(process.pid, signal.SIGKILL)

    command = study.command("sync")
    server.before = before
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=study.folder, env=study.environment(), start_new_session=True
    )
    process.communicate(timeout=120)
    assert killed.is_set()
    server.before = lambda _: None
    forget_claims(study)
    assert sync(study) == 0
    assert on_server(server) == rows(study)
    assert all(run.exit_code == 0 for run in server.runs.values())
    assert (len(server.sweeps), len(server.views)) == (1, 1)


def forget_claims(study: Launches) -> None:
    """The right to copy that a killed process had ends by itself after 20 s; a test does not wait for that."""
    engine = sa.create_engine(f"sqlite:///{study.out / 'ledger.db'}")
    with engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM claims")
    engine.dispose()


def test_what_the_server_lost_is_found_and_sent_again(server: WandbServer, study: Launches, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.sync.SETTLE_S", 0.0)
    assert sync(study) == 0
    gone, short, alone, *_ = server.runs
    del server.runs[gone]
    older = server.runs[short]  # as from a backup
    del older.lines["wandb-history.jsonl"][-2:]
    older.summary = {"_step": older.steps[-1]}
    server.runs[alone].fields["sweep"] = None  # as one that `wandb sync` uploaded
    assert sync(study) == 0
    assert on_server(server) == rows(study)
    assert all(run.fields["sweep"] for run in server.runs.values())


def test_what_the_server_refuses_is_named(
    server: WandbServer, study: Launches, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.sync.SETTLE_S", 0.0)
    victim = sorted(rows(study))[3]
    server.faults.append(Fault(where=f"{victim}/file_stream", status=404))
    assert sync(study) == 1
    out, err = capsys.readouterr()
    assert f"({victim}): 0 of" in out
    assert "nothing is lost: run the same command again" in out
    assert "HTTP 404" in err
    server.faults.clear()
    assert sync(study) == 0
    assert on_server(server) == rows(study)


@pytest.mark.parametrize("status", [429, 500])
def test_a_server_that_is_busy_for_a_moment_costs_nothing(server: WandbServer, study: Launches, status: int) -> None:
    server.faults.append(Fault(where="file_stream|UpsertBucket", status=status, times=1, headers={"Retry-After": "0"}))
    assert sync(study) == 0
    assert on_server(server) == rows(study)


def test_a_key_that_is_not_taken_a_network_that_is_dead_and_no_key_are_said_in_a_message(
    server: WandbServer, study: Launches, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server.valid = "another" * 6
    assert sync(study) == 2
    wrong = capsys.readouterr().err
    assert "the W&B server does not take the key" in wrong
    assert "wandb login --relogin" in wrong
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setattr(WandbTracker.__init__, "__kwdefaults__", {**WandbTracker.__init__.__kwdefaults__, "init_timeout_s": 1.0})
    assert sync(study) == 2
    dead = capsys.readouterr().err
    assert "the W&B server cannot be reached" in dead
    assert "nothing is lost" in dead
    monkeypatch.delenv("WANDB_API_KEY")
    assert sync(study) == 2
    none = capsys.readouterr().err
    assert "the study cannot be copied to W&B" in none
    assert "wandb login" in none
    assert all("Traceback" not in text and KEY not in text for text in (wrong, dead, none))
    assert not server.runs


def test_two_at_once_are_refused(server: WandbServer, study: Launches, capsys: pytest.CaptureFixture[str]) -> None:
    with Ledger.open(study.out / "ledger.db", create=False) as ledger:
        assert ledger.claim("families", "publish wandb", "somebody", 60.0)
        assert sync(study) == 2
        assert "another process copies this study to W&B" in capsys.readouterr().err
    assert not server.runs


def test_the_key_is_in_no_file(server: WandbServer, study: Launches, private_home: pathlib.Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert sync(study) == 0
    out, err = capfd.readouterr()
    assert KEY not in out + err
    written = [path for root in (study.out, private_home) for path in root.rglob("*") if path.is_file()]
    assert not [path for path in written if KEY.encode() in path.read_bytes()]
