"""The kill audit finds nothing to hold against Tessera, and it would: fed with what is wrong, it counts it."""

from __future__ import annotations

import json
import math
import os
import pathlib
import random
import sqlite3
import subprocess
import sys

import optuna
import psutil
import pytest

from benchmarks import kill_audit
from benchmarks.audit import table
from benchmarks.audit.disk import Disk, NoDiskError
from benchmarks.audit.findings import Findings, Results, Told, bits, judge
from benchmarks.audit.processes import Victim
from benchmarks.audit.rounds import Killer
from benchmarks.audit.tools import TOOLS, VICTIMS, Tessera, environment
from benchmarks.audit.work import Cell, Job, attest, train, witnesses
from benchmarks.rivals import audit_optuna
from tests.waiting import eventually

ROOT = pathlib.Path(__file__).resolve().parents[2]
CELL = Cell(size=200, learning_rate=0.1, seed=2)


def job(folder: pathlib.Path, *, trials: int = 6) -> Job:
    return Job(folder=folder, trials=trials, workers=2, out=folder, sleep_s=0.0)


@pytest.mark.slow
def test_three_kills_of_a_study_leave_nothing_missing_twice_orphaned_or_different() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "kill_audit.py"), "--kills", "3", "--trials", "12", "--only", "tessera", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)["tessera"]
    assert [found[name] for name in ("missing", "finished_twice", "orphans", "bit_differences")] == [0, 0, 0, 0]
    assert found["kills"] == sum(found["kills_by_victim"].values()) == 3


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, Results]:
    """A study of six trials that came to its end, and its results."""
    asked = job(tmp_path_factory.mktemp("finished"))
    done = subprocess.run(Tessera().command(asked), env=environment(asked), cwd=asked.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return asked, Tessera().told(asked).results


def audited(finished: tuple[Job, Results], folder: pathlib.Path, doctored: str, *values: float) -> Findings:
    """What the audit finds when somebody has changed one thing in the ledger."""
    asked, undisturbed = finished
    copied = job(folder)
    with sqlite3.connect(asked.out / "runs" / "ledger.db") as source:
        (folder / "runs").mkdir()
        with sqlite3.connect(folder / "runs" / "ledger.db") as target:
            source.backup(target)
            target.execute(doctored, values)
    seen = witnesses(asked.folder / "witnesses.jsonl")["finished"]
    return judge(map(str, copied.cells()), Tessera().told(copied), seen, undisturbed)


def test_an_audit_of_a_finished_study_is_clean_and_every_trial_was_seen_once(finished, tmp_path: pathlib.Path) -> None:
    asked, results = finished
    assert set(results) == set(map(str, asked.cells()))
    assert audited(finished, tmp_path, "SELECT 1") == Findings()
    assert sorted(witnesses(asked.folder / "witnesses.jsonl")["finished"]) == sorted(results)


def test_a_trial_without_a_result_is_missing(finished, tmp_path: pathlib.Path) -> None:
    found = audited(finished, tmp_path, "UPDATE trials SET state = 'failed' WHERE key = (SELECT min(key) FROM trials)")
    assert len(found.missing) == 1
    assert not found.is_clean


def test_a_trial_with_a_second_complete_attempt_is_finished_twice(finished, tmp_path: pathlib.Path) -> None:
    with sqlite3.connect(finished[0].out / "runs" / "ledger.db") as connection:
        columns = [row[1] for row in connection.execute("PRAGMA table_info(attempts)")]
    again = ", ".join("fence + 1" if name == "fence" else name for name in columns)
    found = audited(finished, tmp_path, f"INSERT INTO attempts SELECT {again} FROM attempts ORDER BY trial LIMIT 1")
    assert len(found.finished_twice) == 1
    assert not found.is_clean
    assert not found.missing


def test_a_change_of_one_bit_is_a_difference(finished, tmp_path: pathlib.Path) -> None:
    cell = str(finished[0].cells()[0])
    value = finished[1][cell]["val/nll"]
    found = audited(finished, tmp_path, "UPDATE measurements SET value = ? WHERE value = ?", math.nextafter(value, 9.0), value)
    assert found.bit_differences == (cell,)
    assert not found.is_clean


def test_work_that_was_done_twice_and_recorded_once_is_told_and_no_fault() -> None:
    told = Told(results={"a": {"val/nll": 1.0}}, completions={"a": 1})
    found = judge(["a"], told, ["a", "a"], told.results)
    assert found == Findings(ran_to_the_end_twice=("a",))
    assert found.is_clean


def test_bits_tell_zeros_apart_and_let_nan_equal_itself() -> None:
    assert bits({"a": 0.0}) != bits({"a": -0.0})
    assert bits({"a": math.nan}) == bits({"a": math.nan})


def test_a_rival_trains_to_the_bits_that_tessera_records(finished, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUDIT_WITNESS", str(tmp_path / "witnesses.jsonl"))
    steps: list[int] = []
    metrics = train(job(tmp_path), CELL, tmp_path / "lane", lambda report: steps.append(report.step))
    assert bits(metrics) == bits(train(job(tmp_path), CELL, tmp_path / "other", lambda _: None))
    asked, results = finished
    shared = next(cell for cell in asked.cells() if cell.size == 200 and cell.seed == 2)
    assert bits(train(asked, shared, tmp_path / "shared", lambda _: None)) == bits(results[str(shared)])
    assert steps == [20, 40, 60, 80]


def test_a_rival_goes_on_from_its_checkpoint_and_is_told_of_a_rung_when_that_is_on_disk(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("AUDIT_WITNESS", str(tmp_path / "witnesses.jsonl"))

    def cut_off(report) -> None:
        if report.step == 60:
            raise InterruptedError("killed")

    with pytest.raises(InterruptedError, match="killed"):
        train(job(tmp_path), CELL, tmp_path / "lane", cut_off)
    steps: list[int] = []
    metrics = train(job(tmp_path), CELL, tmp_path / "lane", lambda report: steps.append(report.step))
    assert steps == [80]
    assert bits(metrics) == bits(train(job(tmp_path), CELL, tmp_path / "alone", lambda _: None))
    assert witnesses(tmp_path / "witnesses.jsonl") == {"begun": [str(CELL)] * 3, "finished": [str(CELL)] * 2}


def test_a_line_of_a_witness_that_a_kill_tore_is_no_evidence(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUDIT_WITNESS", str(tmp_path / "witnesses.jsonl"))
    attest("finished", [CELL])
    whole = (tmp_path / "witnesses.jsonl").read_text()
    (tmp_path / "witnesses.jsonl").write_text(whole + whole[:-9])
    assert witnesses(tmp_path / "witnesses.jsonl")["finished"] == [str(CELL)]


def test_a_point_that_optuna_has_twice_is_counted_twice() -> None:
    study = optuna.create_study()
    distributions = {
        "size": optuna.distributions.CategoricalDistribution([200]),
        "learning_rate": optuna.distributions.CategoricalDistribution([0.1]),
        "seed": optuna.distributions.IntDistribution(0, 2),
    }
    for _ in range(2):
        params = {"size": 200, "learning_rate": 0.1, "seed": 2}
        attributes = {"metrics": {"val/nll": 1.0}}
        study.add_trial(optuna.create_trial(value=1.0, params=params, distributions=distributions, user_attrs=attributes))
    assert audit_optuna.told(study) == {"results": {str(CELL): {"val/nll": 1.0}}, "completions": {str(CELL): 2}}


def test_the_same_seed_draws_the_same_kills() -> None:
    def drawn() -> list[tuple[Victim, float]]:
        killer = Killer(random=random.Random("1"), left=20, every_s=1.0, victims=VICTIMS)
        draws = []
        for _ in range(20):
            draws.append((killer.victim(), killer.wait_s()))
            killer.hit(draws[-1][0])
        return draws

    assert drawn() == drawn()
    assert len({victim for victim, _ in drawn()}) == len(VICTIMS)


# The program below is the audit's process, for that adopts what its children leave behind: pytest must not.
ORPHANED = """
import os, pathlib, sys
from benchmarks.audit import processes
from benchmarks.audit.processes import Processes, Role, Victim
from tests.waiting import eventually
processes.ORPHAN_S = 0.7
folder = pathlib.Path(sys.argv[1])
child = "import signal; signal.pause()"
launcher = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}], start_new_session=True).wait()"
with Processes(lambda line, parent: Role.WORKER if "subprocess" not in line else Role.OTHER) as study:
    study.launch([sys.executable, "-c", launcher], environment=dict(os.environ), folder=folder, log=folder / "log")
    eventually(lambda: study.strike(Victim.WORKER, lambda seen: seen[0]))
    eventually(lambda: study.ended() is not None)
    first = study.launches, len(study.orphans)
    study.launch([sys.executable, "-c", launcher], environment=dict(os.environ), folder=folder, log=folder / "log")
    eventually(lambda: len(study.look()) >= 2)
    assert study.strike(Victim.LAUNCHER, lambda seen: seen[0]) == 1
    assert study.strike(Victim.EVERYTHING, lambda seen: seen[0]) == 0, "orphans are counted first"
    eventually(lambda: study.look() and study.orphans)
    left = [seen.process.pid for seen in study.look()]
print(*first, len(study.orphans), *left)
"""


def test_a_process_that_outlives_its_launcher_is_an_orphan_and_ends_with_the_audit(tmp_path: pathlib.Path) -> None:
    bystander = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    try:
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run([sys.executable, "-c", ORPHANED, str(tmp_path)], env=environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        launches, orphans_then, orphans, left = map(int, done.stdout.split())
        assert (launches, orphans_then, orphans) == (1, 0, 1)
        assert not psutil.pid_exists(left)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_a_power_cut_loses_what_was_not_synced_or_says_what_the_machine_lacks(tmp_path: pathlib.Path) -> None:
    refused = ""
    try:
        with Disk(tmp_path) as disk:
            with (disk.folder / "synced").open("w") as file:
                file.write("here")
                file.flush()
                os.fsync(file.fileno())
            (disk.folder / "not-synced").write_text("gone")
            disk.cut()
            assert (disk.folder / "synced").read_text() == "here"
            lost = disk.folder / "not-synced"
            assert not lost.exists() or lost.read_text() == ""
    except NoDiskError as reason:  # no root, loop device or ext4: then the audit does nothing, says why, and leaves nothing behind
        refused = str(reason)
    assert not refused or "power cuts need" in refused
    assert not list(tmp_path.glob("*.img")), "nothing is left behind"
    assert not os.path.ismount(tmp_path / "disk")


def test_a_rival_that_is_not_installed_says_so_and_a_fault_of_tessera_is_the_exit_code() -> None:
    row = {name: 0 for name in (*table.COLUMNS, "kills", "rounds")} | {"given_up": [], "error": ""}
    document = {
        "tessera": row,
        "tessera_power_cuts": {"error": "not possible here: power cuts need root"},
        "optuna_journal": {**row, "missing": 3},
        "ray_tune": {"error": "not installed: pip install"},
        "machine": {"processor": "p", "cores": 2, "date": "d", "versions": {"ray": "2"}},
        "asked": {"trials": 60, "workers": 2, "seed": 0},
        "took_s": 1.0,
        "load_average": {"start": [0.0]},
    }
    shown = table.text(document)
    assert "Ray Tune, Tuner.restore: not installed: pip install" in shown
    assert "power cuts need root" in shown
    assert kill_audit.is_clean(document)
    for fault in ("missing", "finished_twice", "orphans", "bit_differences"):
        assert not kill_audit.is_clean({**document, "tessera": {**row, fault: 1}})
    assert not kill_audit.is_clean({**document, "tessera": {**row, "given_up": ["kills-0: no end"]}})
    assert not kill_audit.is_clean({**document, "tessera": {"error": "it does not get to its end undisturbed"}})


def test_every_tool_is_a_row_of_the_table() -> None:
    assert [tool.name for tool in TOOLS] == ["tessera", "optuna_journal", "optuna_rdb", "ray_tune"]


def test_an_interrupted_audit_leaves_no_process_and_no_folder(tmp_path: pathlib.Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "kill_audit.py"), "--kills", "50", "--trials", "12", "--only", "tessera"]
    audit = subprocess.Popen(command, env={**os.environ, "TMPDIR": str(tmp_path)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    eventually(lambda: len(psutil.Process(audit.pid).children(recursive=True)) >= 2)
    family = psutil.Process(audit.pid).children(recursive=True)
    audit.terminate()
    assert audit.wait(60) == 143
    assert not [process for process in family if process.is_running()]
    assert not list(tmp_path.iterdir())
