"""Trials that end badly, each in its own way, between healthy ones: each costs itself only, and is told by its cause."""

from __future__ import annotations

import os
import pathlib
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Mapping

import psutil
import pytest

from orchestrator.ledger import Ledger
from tests.end_to_end.conftest import Launches

POISON = '''"""Curves, some of which do something bad at their second rung, until they are mended."""

import dataclasses
import math
import os
import pathlib
import signal

from orchestrator.contract import traced
from trainers.curves import Curves, CurvesConfig

DEEDS = ("none", "raise", "memory", "kill", "abort", "exit", "leave", "diverge")
MENDED = pathlib.Path(__file__).with_name("mended")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PoisonConfig(CurvesConfig):
    deed: int = traced(0, "what the trial does: its number in DEEDS", low=0)


class Poison(Curves):
    name = "poison:Poison"
    config_class = PoisonConfig

    def cost(self, config):
        return super().cost(without(config))

    def steps(self, config):
        return super().steps(without(config))

    def train(self, host):
        super().train(Poisoned(host))


class Poisoned:
    def __init__(self, host):
        self.host, self.deeds = host, {}

    def __getattr__(self, name):
        return getattr(self.host, name)

    def pull(self, n):
        lanes = self.host.pull(n)
        self.deeds |= {lane.key: DEEDS[lane.config["deed"]] for lane in lanes}
        return [dataclasses.replace(lane, config=without(lane.config)) for lane in lanes]

    def report(self, reports):
        return self.host.report([self.spoilt(report) for report in reports])

    def spoilt(self, report):
        deed = self.deeds[report.key]
        if deed == "none" or report.step < 40 or MENDED.exists():
            return report
        if deed == "diverge":
            return dataclasses.replace(report, metrics={name: math.nan for name in report.metrics})
        match deed:
            case "raise":
                raise ValueError("no such optimizer")
            case "memory":
                raise MemoryError
            case "leave":
                raise SystemExit("I am off")
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "abort":
                os.abort()
            case "exit":
                os._exit(3)


def without(config):
    return {key: value for key, value in config.items() if key != "deed"}
'''
STUDY = '''"""Who survives?"""

from orchestrator import *
from poison import DEEDS, PoisonConfig

STUDY = Study(
    name="families",
    trainer="poison:Poison",
    base=PoisonConfig(),
    arms=[Arm("well", baseline=True), Arm("better", {"floor": 0.2}), *(Arm(name, {"deed": n}) for n, name in enumerate(DEEDS) if n)],
    protocol=Replicates(2),
    objectives=[Objective("test/nll")],
)
'''
# Deed: cause, and words of the reason.
CAUSES = {
    "raise": ("raised", "ValueError: no such optimizer"),
    "memory": ("out of memory", "MemoryError"),
    "leave": ("raised", "SystemExit: I am off"),
    "kill": ("killed", "times with no step gained; at last the trial was alone on it"),
    "abort": ("crashed", "times with no step gained; at last the trial was alone on it"),
    "exit": ("crashed", "times with no step gained; at last the trial was alone on it"),
    "diverge": ("", "val/error is nan at step 40"),
}


@pytest.fixture
def poisoned(tmp_path: pathlib.Path) -> Launches:
    """A folder with the study of the poisoned trainer beside it."""
    launches = Launches(tmp_path)
    (tmp_path / "poison.py").write_text(POISON)
    launches.study = tmp_path / "studies" / "families.py"  # what lies beside its folder can be imported, as in the repository
    launches.study.parent.mkdir()
    launches.study.write_text(STUDY)
    return launches


def ended_badly(launches: Launches) -> Mapping[str, list[Mapping[str, str]]]:
    """What `status` says of trials that ended badly, by arm."""
    rows = launches.run("status", "--json").json["ended_badly"]
    assert isinstance(rows, list)
    return {arm: [row for row in rows if row["arm"] == arm] for arm in {row["arm"] for row in rows}}


def attempts(launches: Launches, arm: str) -> list[str]:
    """Outcomes of the attempts at an arm's trials."""
    query = "select outcome from attempts join memberships using (trial) where arm = ? order by fence"
    with sqlite3.connect(launches.out / "ledger.db") as connection:
        return [outcome for (outcome,) in connection.execute(query, [arm])]


def test_each_bad_trial_costs_itself_only_is_named_with_its_cause_and_can_be_mended(poisoned: Launches) -> None:
    ended = poisoned.run("--workers", "2")
    assert ended.code == 1, ended.err
    assert poisoned.status() == {"complete": 4, "failed": 12, "diverged": 2}
    bad = ended_badly(poisoned)
    assert bad.keys() == CAUSES.keys()
    for arm, rows in bad.items():
        cause, words = CAUSES[arm]
        assert [row["cause"] for row in rows] == [cause] * 2
        for row in rows:
            assert words.casefold() in row["reason"].casefold()
            path, _, line = row["log"].rpartition(":")
            assert int(line) <= len(pathlib.Path(path).read_text().splitlines())
    for arm in ("well", "better"):
        assert attempts(poisoned, arm).count("complete") == 2
    path, _, line = bad["raise"][0]["log"].rpartition(":")
    lines = pathlib.Path(path).read_text().splitlines()[int(line) - 1 :]
    assert f"trial {bad['raise'][0]['key']} raised Traceback" in lines[0]
    assert "ValueError: no such optimizer" in lines

    shown = poisoned.run("status").out
    assert f"raise, replicate 0 ({bad['raise'][0]['key']}): failed: raised, attempt 3 of 3: ValueError: no such optimizer" in shown
    assert f"({bad['kill'][0]['key']}): failed: killed, " in shown
    assert "attempts that ended early: " in shown

    (poisoned.folder / "mended").touch()
    assert poisoned.run("retry").code == 0
    assert poisoned.run("--workers", "2").code == 0, "a trial that diverged is a result"
    assert poisoned.status() == {"complete": 16, "diverged": 2}
    assert attempts(poisoned, "well").count("complete") == 2


def test_workers_that_are_preempted_again_and_again_count_no_failure(slow: Launches, undisturbed) -> None:
    process = slow.start()
    for moment in (2, 6, 10, 14):
        until(slow, process, lambda: slow.finished() >= moment)  # noqa: B023 - called in this round
        for worker in holders(slow):
            worker.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    with Ledger.open(slow.out / "ledger.db", create=False) as ledger:
        assert {trouble.cause.value for trouble in ledger.troubles("families")} == {"preempted"}
    assert slow.result() == undisturbed
    assert "preempted" in slow.run("status").out


def test_a_worker_that_was_stopped_past_its_lease_writes_nothing_more_and_ends_when_it_goes_on(
    slow: Launches, undisturbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TESSERA_LEASE_S", "1")
    process = slow.start("--workers", "1")
    until(slow, process, lambda: slow.finished() >= 1 and bool(holders(slow)))
    (sleeper,) = holders(slow)
    sleeper.suspend()
    asleep = held_by(slow, sleeper.pid)
    # Its trials move on: another worker takes its place.
    until(slow, process, lambda: bool({row.pid for row in holders(slow)} - {sleeper.pid}))
    until(slow, process, lambda: not held_by(slow, sleeper.pid))
    sleeper.resume()
    slow.until(lambda: not sleeper.is_running() or sleeper.status() == psutil.STATUS_ZOMBIE, timeout_s=20)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "not heard of for" in err
    assert asleep
    with Ledger.open(slow.out / "ledger.db", create=False) as ledger:
        assert {trouble.trial for trouble in ledger.troubles("families") if trouble.cause.value == "lost"} >= asleep
    assert slow.result() == undisturbed


def test_a_worker_that_stays_stopped_is_killed_at_the_end_of_the_run(slow: Launches, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TESSERA_LEASE_S", "1")
    process = slow.start("--workers", "1")
    until(slow, process, lambda: slow.finished() >= 1 and bool(holders(slow)))
    (sleeper,) = holders(slow)
    sleeper.suspend()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert not sleeper.is_running() or sleeper.status() == psutil.STATUS_ZOMBIE
    assert not slow.workers()


def until(launches: Launches, process: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    """Waits for what a launch does; fails with its words when it ends before."""
    launches.until(lambda: condition() or process.poll() is not None)
    assert process.poll() is None, process.communicate()


def holders(launches: Launches) -> list[psutil.Process]:
    """Workers that hold trials now, by the ledger."""
    with Ledger.open(launches.out / "ledger.db", create=False) as ledger:
        return [psutil.Process(row.pid) for row in ledger.live_workers("families") if row.leases and psutil.pid_exists(row.pid)]


def held_by(launches: Launches, pid: int) -> set[str]:
    """Trials that a worker holds."""
    query = "select key from trials join workers on trials.worker = workers.id where pid = ?"
    with sqlite3.connect(launches.out / "ledger.db") as connection:
        return {key for (key,) in connection.execute(query, [pid])}


def test_a_death_of_the_launcher_is_never_held_against_a_trial(slow: Launches, undisturbed) -> None:
    for moment in (2, 9):
        process = slow.start()
        until(slow, process, lambda: slow.finished() >= moment)  # noqa: B023 - called in this round
        for worker in holders(slow):
            worker.send_signal(signal.SIGSTOP)  # it would give its trials back before it ended
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        for worker in holders(slow):
            worker.kill()
    assert slow.run().code == 0
    with Ledger.open(slow.out / "ledger.db", create=False) as ledger:
        assert {trouble.cause.value for trouble in ledger.troubles("families")} <= {"orphaned", "preempted"}
    assert slow.result() == undisturbed
