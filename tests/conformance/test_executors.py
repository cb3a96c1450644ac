"""What every executor promises, on real processes. A new one is one line in `executor_programs.EXECUTORS`."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Generator
from types import ModuleType

import pytest
from xmanager import xm

from orchestrator.errors import LaunchError
from orchestrator.executors.base import Executor, UnitStatus, WorkerSpec
from orchestrator.executors.experiment import WorkerExperiment
from orchestrator.executors.fleet import Fleet, Unit
from orchestrator.executors.jobs import job_of
from orchestrator.executors.nursery import NurseryExecutor
from orchestrator.executors.process import birth
from tests.waiting import PATIENCE_S, eventually

PROGRAMS = pathlib.Path(__file__).with_name("executor_programs.py")
ROOT = pathlib.Path(__file__).parents[2]


def load_programs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("executor_programs", PROGRAMS)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


programs = load_programs()


@pytest.fixture(params=sorted(programs.EXECUTORS))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def executor(name: str) -> Generator[Executor]:
    executor = programs.EXECUTORS[name]()
    with executor if isinstance(executor, NurseryExecutor) else contextlib.nullcontext():
        yield executor


@pytest.fixture
def fleet(executor: Executor, tmp_path: pathlib.Path) -> Generator[Fleet]:
    with Fleet(study="tiling", folder=tmp_path / "units", executor=executor) as fleet:
        yield fleet
        fleet.kill()


def started(fleet: Fleet, folder: pathlib.Path, kind: str, name: str = "a1") -> Unit:
    """A worker of that kind that is ready to be stopped or killed."""
    unit = fleet.start(programs.spec(folder, kind, name))
    pids(folder, name)
    return unit


def pids(folder: pathlib.Path, name: str = "a1") -> list[int]:
    path = folder / f"{name}.pids"
    eventually(path.exists)
    return [int(pid) for pid in path.read_text().split()]


def python(folder: pathlib.Path, code: str, *arguments: str, name: str = "a1") -> WorkerSpec:
    return WorkerSpec(
        identity=f"tiling/{name}",
        argv=(sys.executable, "-c", code, *arguments),
        log=folder / "logs" / f"{name}.log",
        folder=folder / "units",
        env=(("FROM_SPEC", "a 'b' $HOME\nc"),),
    )


@pytest.mark.parametrize(("code", "status"), [(0, UnitStatus.SUCCEEDED), (3, UnitStatus.FAILED)])
def test_an_exit_code_is_the_real_one(fleet: Fleet, tmp_path: pathlib.Path, code: int, status: UnitStatus) -> None:
    unit = fleet.start(python(tmp_path, f"raise SystemExit({code})"))
    assert fleet.wait(PATIENCE_S)
    assert (unit.status, unit.exit_code) == (status, code)


def test_a_signal_that_nobody_here_sent_is_a_failure(fleet: Fleet, tmp_path: pathlib.Path) -> None:
    unit = started(fleet, tmp_path, "good")
    assert unit.pid is not None
    os.kill(unit.pid, signal.SIGKILL)
    assert fleet.wait(PATIENCE_S)
    assert (unit.status, unit.exit_code) == (UnitStatus.FAILED, -signal.SIGKILL)


def test_a_worker_that_is_stopped_checkpoints_first(fleet: Fleet, tmp_path: pathlib.Path) -> None:
    unit = started(fleet, tmp_path, "good")
    assert (unit.status, unit.exit_code) == (UnitStatus.RUNNING, None)
    unit.stop()
    assert fleet.wait(PATIENCE_S)
    assert (unit.status, unit.exit_code) == (UnitStatus.STOPPED, 0)
    assert (tmp_path / "a1.checkpoint").exists()


def test_a_worker_that_will_not_stop_is_killed_with_all_that_it_started(fleet: Fleet, tmp_path: pathlib.Path) -> None:
    unit = started(fleet, tmp_path, "family")
    unit.stop()
    assert not fleet.wait(0.3)
    unit.kill()
    assert fleet.wait(PATIENCE_S)
    assert (unit.status, unit.exit_code) == (UnitStatus.STOPPED, -signal.SIGKILL)
    eventually(lambda: all(birth(pid) is None for pid in pids(tmp_path)))


def test_what_a_worker_leaves_behind_is_ended_after_it(fleet: Fleet, tmp_path: pathlib.Path) -> None:
    started(fleet, tmp_path, "leaver").stop()
    assert fleet.wait(PATIENCE_S)
    eventually(lambda: all(birth(pid) is None for pid in pids(tmp_path)))


def test_stopping_and_killing_what_has_ended_does_nothing(fleet: Fleet, tmp_path: pathlib.Path) -> None:
    unit = fleet.start(python(tmp_path, ""))
    assert fleet.wait(PATIENCE_S)
    unit.stop()
    unit.kill()
    assert (unit.status, unit.exit_code) == (UnitStatus.SUCCEEDED, 0)


def test_an_identity_is_started_once(fleet: Fleet, tmp_path: pathlib.Path) -> None:
    first = started(fleet, tmp_path, "good")
    again = fleet.start(programs.spec(tmp_path, "good"))
    assert again is first
    assert len(fleet.units()) == 1


def test_an_identity_of_an_ended_unit_is_not_started_again(fleet: Fleet, tmp_path: pathlib.Path) -> None:
    unit = fleet.start(python(tmp_path, "raise SystemExit(3)"))
    assert fleet.wait(PATIENCE_S)
    assert fleet.start(python(tmp_path, "")) is unit
    assert unit.exit_code == 3


def test_a_worker_that_cannot_start_spoils_nothing(executor: Executor, tmp_path: pathlib.Path) -> None:
    plain = tmp_path / "plain.txt"
    plain.write_text("not a program")
    with Fleet(study="tiling", folder=tmp_path / "units", executor=executor) as fleet:
        for argv, message in [
            (("/no/such/python",), "the program of a worker does not exist"),
            ((str(plain),), "worker tiling/a1 could not be started"),
            ((sys.executable, "-c", "", "x" * 300_000), "Argument list too long"),
        ]:
            bad = WorkerSpec(identity="tiling/a1", argv=argv, log=tmp_path / "a1.log", folder=tmp_path / "units")
            with pytest.raises(LaunchError, match=message):
                fleet.start(bad)
        assert not fleet.units()
        unit = fleet.start(python(tmp_path, ""))  # under the identity that failed
        assert fleet.wait(PATIENCE_S)
        assert unit.status is UnitStatus.SUCCEEDED


def test_a_worker_without_a_place_for_its_record_is_not_started(executor: Executor, tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        Fleet(study="tiling", folder=tmp_path / "file" / "units", executor=executor) as fleet,
        pytest.raises(LaunchError, match=r"the record of worker tiling/a1 cannot be written\n  found:    .*Not a directory"),
    ):
        fleet.start(python(tmp_path, "open('started', 'w')"))
    assert not (tmp_path / "logs").exists()


def test_a_worker_gets_its_arguments_its_log_and_nothing_of_its_launchers_run(
    fleet: Fleet, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "the launcher's")
    monkeypatch.setenv("KEPT", "yes")
    code = "import os, sys; e = os.environ; print(sys.argv[1:], sys.stdin.read(), e['FROM_SPEC'], e['KEPT'], 'WANDB_RUN_ID' in e)"
    arguments = ("--a=b c", "it's", "$HOME", "line\nbreak", "", "σ", "--no-tile")
    unit = fleet.start(python(tmp_path, code, *arguments))
    assert fleet.wait(PATIENCE_S)
    assert unit.log is not None
    assert unit.log.read_text(encoding="utf-8") == f"{list(arguments)}  a 'b' $HOME\nc yes False\n"


def test_output_is_appended_to_the_log(fleet: Fleet, tmp_path: pathlib.Path) -> None:
    log = tmp_path / "logs" / "a1.log"
    log.parent.mkdir()
    log.write_text("before\n")
    fleet.start(python(tmp_path, "import sys; print('out'); print('err', file=sys.stderr)"))
    assert fleet.wait(PATIENCE_S)
    assert log.read_text() == "before\nout\nerr\n"


def test_a_terminals_ctrl_c_does_not_reach_a_worker(fleet: Fleet, tmp_path: pathlib.Path) -> None:
    unit = started(fleet, tmp_path, "good")
    assert unit.pid is not None
    assert os.getsid(unit.pid) == unit.pid != os.getsid(0)


def test_leaving_the_fleet_leaves_no_worker(executor: Executor, tmp_path: pathlib.Path) -> None:
    with Fleet(study="tiling", folder=tmp_path / "units", executor=executor) as fleet:
        started(fleet, tmp_path, "good", "a1")
        started(fleet, tmp_path, "family", "a2")
    assert [unit.status for unit in fleet.units()] == [UnitStatus.STOPPED] * 2
    assert all(birth(pid) is None for name in ("a1", "a2") for pid in pids(tmp_path, name)[:1])
    eventually(lambda: birth(pids(tmp_path, "a2")[1]) is None)
    fleet.close()


# What a launcher leaves to the next one.


def launch(name: str, folder: pathlib.Path, *kinds: str) -> subprocess.Popen[str]:
    """A launcher in a process of its own, that has started its workers, each of them ready."""
    process = subprocess.Popen(
        [sys.executable, str(PROGRAMS), "launcher", name, str(folder), *kinds],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for number in range(1, len(kinds) + 1):
        pids(folder, f"a{number}")
    return process


def ended(process: subprocess.Popen[str], number: signal.Signals | None) -> tuple[str, str]:
    if number is not None:
        process.send_signal(number)
    output = process.communicate(timeout=PATIENCE_S)
    return output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_when_the_launcher_is_ended(name: str, tmp_path: pathlib.Path, number: signal.Signals) -> None:
    kinds = ("good", "family", "leaver")
    launcher = launch(name, tmp_path, *kinds)
    everybody = [pid for index in range(len(kinds)) for pid in pids(tmp_path, f"a{index + 1}")]
    assert len(everybody) == 5
    ended(launcher, number)
    eventually(lambda: all(birth(pid) is None for pid in everybody))
    assert (tmp_path / "a1.checkpoint").exists()
    assert (tmp_path / "a3.checkpoint").exists()


def test_a_unit_of_a_killed_launcher_is_taken_over(name: str, fleet: Fleet, tmp_path: pathlib.Path) -> None:
    ended(launch(name, tmp_path, "loner"), signal.SIGKILL)
    [unit] = fleet.reattach()
    assert (unit.identity, unit.pid, unit.status) == ("tiling/a1", pids(tmp_path)[0], UnitStatus.RUNNING)
    assert fleet.start(programs.spec(tmp_path, "loner")) is unit
    unit.stop()
    assert fleet.wait(PATIENCE_S)
    assert (unit.status, unit.exit_code) == (UnitStatus.STOPPED, None)


def test_a_unit_is_left_to_a_launcher_that_runs(name: str, executor: Executor, tmp_path: pathlib.Path) -> None:
    launcher = launch(name, tmp_path, "good")
    with Fleet(study="tiling", folder=tmp_path / "units", executor=executor) as other:
        assert not other.reattach()
    assert birth(pids(tmp_path)[0]) is not None
    (tmp_path / "go").touch()
    ended(launcher, None)
    assert launcher.returncode == 0


def test_a_unit_that_was_taken_over_can_be_killed(name: str, fleet: Fleet, tmp_path: pathlib.Path) -> None:
    ended(launch(name, tmp_path, "family"), signal.SIGKILL)
    [unit] = fleet.reattach()
    fleet.kill()
    assert fleet.wait(PATIENCE_S)
    assert unit.status is UnitStatus.STOPPED
    eventually(lambda: all(birth(pid) is None for pid in pids(tmp_path)))


def test_the_exit_code_of_a_unit_that_was_taken_over_is_known(name: str, fleet: Fleet, tmp_path: pathlib.Path) -> None:
    ended(launch(name, tmp_path, "heir"), signal.SIGKILL)
    [unit] = fleet.reattach()
    eventually((tmp_path / "a1.orphaned").exists)
    (tmp_path / "go").touch()
    assert fleet.wait(PATIENCE_S)
    assert (unit.status, unit.exit_code) == (UnitStatus.FAILED, 3)


def test_a_unit_that_ended_with_nobody_looking_is_lost(name: str, fleet: Fleet, tmp_path: pathlib.Path) -> None:
    ended(launch(name, tmp_path, "loner"), signal.SIGKILL)
    os.kill(pids(tmp_path)[0], signal.SIGKILL)
    eventually(lambda: birth(pids(tmp_path)[0]) is None)
    assert not fleet.reattach()
    unit = fleet.start(programs.spec(tmp_path, "loner"))
    assert (unit.status, unit.exit_code) == (UnitStatus.LOST, None)


def test_a_unit_is_found_whose_launcher_died_before_it_could_say_so(name: str, fleet: Fleet, tmp_path: pathlib.Path) -> None:
    ended(launch(f"dies-after-launch:{name}", tmp_path, "loner"), None)
    [unit] = fleet.reattach()
    assert (unit.identity, unit.pid) == ("tiling/a1", pids(tmp_path)[0])


def test_what_an_earlier_launcher_saw_is_remembered(executor: Executor, tmp_path: pathlib.Path) -> None:
    for _ in range(2):
        with Fleet(study="tiling", folder=tmp_path / "units", executor=executor) as fleet:
            assert not fleet.reattach()
            unit = fleet.start(python(tmp_path, "raise SystemExit(3)"))
            assert fleet.wait(PATIENCE_S)
            assert (unit.status, unit.exit_code) == (UnitStatus.FAILED, 3)


def test_an_attempt_takes_an_identity_that_none_has(fleet: Fleet, executor: Executor, tmp_path: pathlib.Path) -> None:
    fleet.start(python(tmp_path, "", name="worker-1-a1"))
    assert fleet.next_identity(1) == "tiling/worker-1-a2"
    assert fleet.next_identity(2) == "tiling/worker-2-a1"
    with Fleet(study="tiling", folder=tmp_path / "units", executor=executor) as another:
        assert another.next_identity(2) == "tiling/worker-2-a2"


def test_workers_of_two_launchers_at_once_are_all_found_again(executor: Executor, tmp_path: pathlib.Path) -> None:
    """Each launcher counts its units from what it found when it began, so both have a first one."""
    folder = tmp_path / "units"
    with Fleet(study="tiling", folder=folder, executor=executor) as one, Fleet(study="tiling", folder=folder, executor=executor) as two:
        assert not one.reattach()
        assert not two.reattach()
        for fleet, name in ((one, "a1"), (two, "b1")):
            fleet.start(python(tmp_path, "", name=name))
            assert fleet.wait(PATIENCE_S)

    async def found() -> set[str]:
        async with WorkerExperiment("tiling", folder, executor) as experiment:
            return {unit.identity for unit in experiment.work_units.values()}

    assert asyncio.run(found()) == {"tiling/a1", "tiling/b1"}


# As an XManager experiment.


def test_a_worker_is_an_xmanager_work_unit(executor: Executor, tmp_path: pathlib.Path) -> None:
    async def experiment() -> None:
        async with WorkerExperiment("tiling", tmp_path / "units", executor) as experiment:
            good = await experiment.add(job_of(experiment, python(tmp_path, "")), identity="tiling/a1")
            assert await good.wait_until_complete() is good
            assert good.get_status().is_completed
            bad = await experiment.add(job_of(experiment, python(tmp_path, "raise SystemExit(3)")), identity="tiling/a2")
            with pytest.raises(xm.ExperimentUnitFailedError, match="tiling/a2: failed, exit code 3"):
                await bad.wait_until_complete()
            assert bad.get_status().is_failed
            slow = await experiment.add(job_of(experiment, python(tmp_path, "import time; time.sleep(60)")), identity="tiling/a3")
            assert slow.get_status().is_active
            slow.stop()
            with pytest.raises(xm.ExperimentUnitNotCompletedError, match="tiling/a3: stopped, exit code -15"):
                await slow.wait_until_complete()
            assert list(experiment.work_units) == [1, 2, 3]
            assert [job.logs for unit in experiment.work_units.values() for job in unit.launched_jobs] == [
                str(tmp_path / "logs" / "a1.log")
            ] * 3

    asyncio.run(experiment())


def test_an_add_that_fails_is_a_failed_unit_and_not_raised_at_the_exit(executor: Executor, tmp_path: pathlib.Path) -> None:
    async def experiment() -> None:
        async with WorkerExperiment("tiling", tmp_path / "units", executor) as experiment:
            job = job_of(experiment, python(tmp_path, "", "x" * 300_000))
            for _ in range(2):
                unit = await experiment.add(job, identity="tiling/a1")
                assert unit.get_status().is_failed
                assert "Argument list too long" in unit.get_status().message
            with pytest.raises(xm.ExperimentUnitFailedError, match="Argument list too long"):
                await unit.wait_until_complete()
            group = xm.JobGroup(one=job, two=job)
            assert "a work unit is one worker" in (await experiment.add(group, identity="tiling/a2")).get_status().message
            with pytest.raises(ValueError, match="a worker is added with an identity"):
                experiment.add(job)
            assert not experiment.work_units

    asyncio.run(experiment())
