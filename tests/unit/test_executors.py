"""The parts of the executors that need no fleet: who a process is, what is kept, what is imported, what is watched."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import importlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import LaunchError
from orchestrator.executors import process as processes
from orchestrator.executors.base import UnitStatus, WorkerSpec, file_name
from orchestrator.executors.fleet import Fleet
from orchestrator.executors.local import LocalExecutor
from orchestrator.executors.process import birth, is_running, leader_started_with
from orchestrator.executors.store import UnitRecord, UnitStore, this_launcher
from orchestrator.executors.watch import read_exit, supervised, write_exit
from tests import disks
from tests.waiting import eventually

ROOT = pathlib.Path(__file__).parents[2]


def run(code: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | env,
        capture_output=True,
        text=True,
        timeout=60,
    )


# Who a process is.


def test_a_process_that_ended_has_no_birth_reaped_or_not() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    eventually(lambda: birth(process.pid) is None)
    assert process.returncode is None  # a zombie until it is asked for
    assert process.wait() == 0
    assert birth(process.pid) is None


def test_two_processes_of_one_pid_would_differ_in_birth() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert birth(process.pid) == birth(process.pid) != birth(os.getpid())
        assert is_running(process.pid, birth(process.pid) or "")
        assert not is_running(process.pid, birth(os.getpid()) or "")
        process.kill()


def test_birth_without_proc_tells_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    importlib.import_module("psutil")  # which itself asks for the platform
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        monkeypatch.setattr(processes.sys, "platform", "darwin")
        before = birth(process.pid)
        assert before is not None
        assert birth(process.pid) == before != birth(os.getpid())
        process.kill()
        eventually(lambda: birth(process.pid) is None)
    assert birth(process.pid) is None


def test_only_a_session_leader_is_found_by_its_environment() -> None:
    env = os.environ | {"TESSERA_TEST_MARK": f"{os.getpid()}"}
    code = "import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', 'input()']); print('up', flush=True); child.wait()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    assert leader_started_with("TESSERA_TEST_MARK", env["TESSERA_TEST_MARK"]) is None
    with subprocess.Popen([sys.executable, "-c", code], env=env, start_new_session=True, **pipes) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert leader_started_with("TESSERA_TEST_MARK", env["TESSERA_TEST_MARK"]) == process.pid
        os.killpg(process.pid, signal.SIGKILL)


def test_a_stranger_with_the_pid_of_a_unit_is_neither_taken_over_nor_signalled(tmp_path: pathlib.Path) -> None:
    row = {"identity": "a", "pid": os.getpid(), "started": "earlier", "host": socket.gethostname(), "exit": str(tmp_path / "none")}
    handle = LocalExecutor().attach(json.dumps(row))
    handle.stop()
    handle.kill()  # would end this very test
    assert handle.status() is UnitStatus.LOST
    assert json.loads(handle.to_json()) == row


def test_a_unit_of_another_machine_is_not_judged_by_the_pids_of_this_one(tmp_path: pathlib.Path) -> None:
    row = {"identity": "a", "pid": os.getpid(), "started": birth(os.getpid()), "host": "elsewhere", "exit": str(tmp_path / "none")}
    handle = LocalExecutor().attach(json.dumps(row))
    handle.kill()
    assert (handle.status(), handle.exit_code, handle.host) == (UnitStatus.LOST, None, "elsewhere")


@pytest.mark.parametrize(
    ("code", "stopped", "status"),
    [
        (0, False, UnitStatus.SUCCEEDED),
        (0, True, UnitStatus.STOPPED),
        (143, True, UnitStatus.STOPPED),
        (-9, True, UnitStatus.STOPPED),
        (-9, False, UnitStatus.FAILED),
        (1, True, UnitStatus.FAILED),  # it failed while it stopped
    ],
)
def test_an_exit_record_is_read_as_it_was_meant(tmp_path: pathlib.Path, code: int, stopped: bool, status: UnitStatus) -> None:
    write_exit(tmp_path / "exit.json", code=code, stopped=stopped)
    row = {"identity": "a", "pid": 1, "started": "never", "host": socket.gethostname(), "exit": str(tmp_path / "exit.json")}
    handle = LocalExecutor().attach(json.dumps(row))
    assert (handle.status(), handle.exit_code) == (status, code)
    assert [path.name for path in tmp_path.iterdir()] == ["exit.json"]


# What is kept.

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
specs = st.builds(
    WorkerSpec,
    identity=words.filter(bool),
    argv=st.lists(words, min_size=1, max_size=3).map(tuple),
    env=st.lists(st.tuples(words, words), max_size=3).map(tuple),
    log=st.just(pathlib.Path("/runs/a.log")),
    folder=st.just(pathlib.Path("/runs")),
    cpus=st.integers(1, 64),
    gpus=st.integers(0, 8),
)


@settings(max_examples=20)
@given(specs=st.lists(specs, max_size=4, unique_by=lambda spec: spec.identity), handle=words)
def test_a_record_is_read_as_it_was_written(tmp_path_factory: pytest.TempPathFactory, specs: list[WorkerSpec], handle: str) -> None:
    store = UnitStore(tmp_path_factory.mktemp("units"))
    records = [
        UnitRecord(number=number, spec=spec, launcher=("here", 7, "then"), handle=handle) for number, spec in enumerate(specs, start=1)
    ]
    for record in reversed(records):
        store.write(dataclasses.replace(record, handle=""))
        store.write(record)
    assert store.read() == records
    for record in records:
        store.forget(record.spec.identity)
    assert store.read() == []


@given(one=words.filter(bool), other=words.filter(bool))
def test_identities_share_a_file_name_only_when_they_are_equal(one: str, other: str) -> None:
    assert (file_name(one) == file_name(other)) == (one == other)
    assert len(file_name(one)) <= 100
    assert "/" not in file_name(one)


def test_a_damaged_record_is_set_aside_and_its_identity_never_used_again(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    store = UnitStore(tmp_path)
    records = [
        UnitRecord(
            number=number,
            spec=WorkerSpec(identity=f"tiling/worker-0-a{number}", argv=("x",), log=tmp_path / "log", folder=tmp_path),
            launcher=this_launcher(),
            handle="",
        )
        for number in (1, 2)
    ]
    for record in records:
        store.write(record)
    disks.flip(tmp_path / f"{file_name(records[1].spec.identity)}.unit.json", place=20)
    assert store.read() == records[:1]
    assert "the record of a worker is damaged, and set aside" in caplog.text
    caplog.clear()
    assert store.read() == records[:1]
    assert not caplog.text, "it is said once"
    with Fleet(study="tiling", folder=tmp_path, executor=LocalExecutor()) as fleet:
        assert fleet.next_identity(0) == "tiling/worker-0-a3"
        assert fleet.reattach() == ()


def test_of_many_who_ask_at_once_one_takes_an_identity(tmp_path: pathlib.Path) -> None:
    ready = threading.Barrier(8)

    def take(_: int) -> list[str]:
        ready.wait()
        fleet = Fleet(study="tiling", folder=tmp_path, executor=LocalExecutor())
        return [fleet.next_identity(0) for _ in range(20)]

    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        taken = [identity for some in threads.map(take, range(8)) for identity in some]
    assert sorted(taken) == sorted(f"tiling/worker-0-a{number}" for number in range(1, 161))


def test_an_identity_that_was_forgotten_can_be_taken_again_and_no_other(tmp_path: pathlib.Path) -> None:
    store = UnitStore(tmp_path)
    spec = WorkerSpec(identity="tiling/worker-0-a1", argv=("x",), log=tmp_path / "log", folder=tmp_path)
    assert store.take(spec.identity)
    assert not store.take(spec.identity)
    store.write(UnitRecord(number=1, spec=spec, launcher=this_launcher(), handle=""))
    assert not store.take(spec.identity)
    store.forget(spec.identity)
    assert store.take(spec.identity)


def test_an_identity_cannot_be_taken_where_nothing_can_be_written(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LaunchError, match=r"the record of worker tiling/worker-0-a1 cannot be written\n  found:"):
        UnitStore(tmp_path / "file").take("tiling/worker-0-a1")


def test_a_record_that_may_not_be_read_is_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.unit.json").mkdir()
    with pytest.raises(LaunchError, match=r"the record of a worker cannot be read\n  found:    .*a\.unit\.json"):
        UnitStore(tmp_path).read()


def test_a_record_is_for_the_user_alone(tmp_path: pathlib.Path) -> None:
    spec = WorkerSpec(identity="a", argv=("x",), log=tmp_path / "log", folder=tmp_path)
    UnitStore(tmp_path).write(UnitRecord(number=1, spec=spec, launcher=this_launcher(), handle=""))
    [path] = tmp_path.iterdir()
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(("identity", "argv", "cpus"), [("", ("x",), 1), ("a", (), 1), ("a", ("x",), 0)])
def test_a_worker_without_name_program_or_core_is_refused(identity: str, argv: tuple[str, ...], cpus: int) -> None:
    with pytest.raises(ValueError, match="a worker needs"):
        WorkerSpec(identity=identity, argv=argv, log=pathlib.Path("log"), folder=pathlib.Path("."), cpus=cpus)


# What a worker does by itself.

WORKER = """
import sys
from orchestrator.executors.watch import supervised
with supervised(lambda: None):
    exec(sys.argv[1])
"""


@pytest.mark.parametrize(
    ("code", "expected"),
    [("", 0), ("sys.exit()", 0), ("sys.exit(3)", 3), ("sys.exit('why')", 1), ("1 / 0", 1), ("raise KeyboardInterrupt", 1)],
)
def test_a_worker_leaves_its_exit_code(tmp_path: pathlib.Path, code: str, expected: int) -> None:
    record = tmp_path / "exit.json"
    run(WORKER, code, TESSERA_EXIT=str(record))
    assert read_exit(record) == (expected, False)


def test_what_a_worker_starts_does_not_pass_for_the_worker(tmp_path: pathlib.Path) -> None:
    names = "print(*(name for name in os.environ if name in ('TESSERA_EXIT', 'TESSERA_LAUNCHER', 'TESSERA_UNIT')))"
    code = f"import subprocess; subprocess.run([sys.executable, '-c', {'import os; ' + names!r}], check=True)"
    launcher = f"{os.getpid()}@{birth(os.getpid())}"
    done = run(WORKER, code, TESSERA_EXIT=str(tmp_path / "exit.json"), TESSERA_UNIT="a", TESSERA_LAUNCHER=launcher)
    assert (done.returncode, done.stdout.strip()) == (0, "")


def test_a_worker_started_by_hand_is_not_supervised(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TESSERA_UNIT", "TESSERA_LAUNCHER", "TESSERA_EXIT"):
        monkeypatch.delenv(name, raising=False)
    with supervised(lambda: pytest.fail("nobody died")):
        pass


def test_a_worker_that_is_told_late_that_its_launcher_died_is_told_at_once(tmp_path: pathlib.Path) -> None:
    code = """
import sys, threading
from orchestrator.executors.watch import supervised
told = threading.Event()
with supervised(told.set):
    sys.exit(0 if told.wait(60) else 1)
"""
    record = tmp_path / "exit.json"
    assert run(code, TESSERA_EXIT=str(record), TESSERA_LAUNCHER=f"{os.getpid()}@long-ago").returncode == 0
    assert read_exit(record) == (0, True)


def test_a_worker_in_a_foreign_group_ends_itself_alone() -> None:
    code = """
import time
from orchestrator.executors.watch import supervised
with supervised(lambda: 1 / 0, grace_s=0.1):
    time.sleep(60)
"""
    done = run(code, TESSERA_LAUNCHER=f"{os.getpid()}@long-ago")
    assert done.returncode == -signal.SIGKILL
    assert "ZeroDivisionError" in done.stderr
    assert "the launcher is gone and the worker did not end within 0.1 s: killed" in done.stderr


# What is imported, and what XManager is kept from doing.


def loaded(statement: str) -> set[str]:
    done = run(f"import sys\n{statement}\nprint(*sys.modules)")
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_a_worker_loads_neither_xmanager_nor_psutil() -> None:
    assert not {"xmanager", "psutil", "absl", "asyncio"} & loaded("import orchestrator.executors.watch")


def test_a_fleet_that_starts_nothing_does_not_load_xmanager(tmp_path: pathlib.Path) -> None:
    statement = f"""
import pathlib
from orchestrator.executors.fleet import Fleet
from orchestrator.executors.fleet import Fleet
from orchestrator.executors.local import LocalExecutor
with Fleet(study="s", folder=pathlib.Path({str(tmp_path)!r}), executor=LocalExecutor()) as fleet:
    assert not fleet.reattach()
    assert fleet.wait(0)
"""
    assert "xmanager" not in loaded(statement)
    assert not list(tmp_path.iterdir())


def test_xmanager_says_nothing_parses_nothing_and_writes_nothing_at_home(tmp_path: pathlib.Path) -> None:
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    code = """
import pathlib, sys
import orchestrator.executors.experiment
from orchestrator.errors import LaunchError
from orchestrator.executors.base import WorkerSpec
from orchestrator.executors.fleet import Fleet
from orchestrator.executors.fleet import Fleet
from orchestrator.executors.local import LocalExecutor
work = pathlib.Path(sys.argv[-1])

def spec(name, *argv):
    return WorkerSpec(identity=name, argv=argv, log=work / "log", folder=work)

with Fleet(study="s", folder=work, executor=LocalExecutor()) as fleet:
    try:
        fleet.start(spec("bad", "/etc/passwd"))
    except LaunchError:
        pass
    fleet.start(spec("slow", sys.executable, "-c", "import time; time.sleep(60)")).stop()
    fleet.start(spec("quick", sys.executable, "-c", ""))
    assert fleet.wait(60)
heavy = {"alembic", "docker", "googleapiclient", "kubernetes", "sqlalchemy", "xmanager.xm_local"} & set(sys.modules)
assert not heavy, heavy
"""
    done = run(code, "--workers", "3", "--help", "--xm_no_such_flag", str(work), HOME=str(home))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not list(home.iterdir())


def test_looking_for_workers_without_starting_one_says_nothing(tmp_path: pathlib.Path) -> None:
    spec = WorkerSpec(identity="a", argv=("x",), log=tmp_path / "log", folder=tmp_path)
    UnitStore(tmp_path).write(UnitRecord(number=1, spec=spec, launcher=this_launcher(), handle=""))
    code = f"""
import pathlib
from orchestrator.executors.fleet import Fleet
from orchestrator.executors.fleet import Fleet
from orchestrator.executors.local import LocalExecutor
with Fleet(study="s", folder=pathlib.Path({str(tmp_path)!r}), executor=LocalExecutor()) as fleet:
    assert not fleet.reattach()
"""
    done = run(code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
