"""Who else works on a study."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

from orchestrator.executors.base import WorkerSpec
from orchestrator.executors.process import birth
from orchestrator.executors.store import UnitRecord, UnitStore, this_launcher
from orchestrator.ledger import Ledger
from orchestrator.neighbours import present, strangers
from tests.ledgers import STUDY, plan

ROOT = pathlib.Path(__file__).parents[2]
HOLD = "import pathlib, sys\nfrom orchestrator.neighbours import present\nwith present(pathlib.Path(sys.argv[1])): print(), input()"


def test_a_launcher_is_alone_until_another_is_there(tmp_path: pathlib.Path) -> None:
    with present(tmp_path) as first, present(tmp_path) as second:
        assert (first, second) == (True, False)
    with present(tmp_path) as first:
        assert first


def test_a_launcher_that_was_killed_is_not_taken_for_one_at_work(tmp_path: pathlib.Path) -> None:
    command = [sys.executable, "-uc", HOLD, str(tmp_path)]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
    assert other.stdout is not None
    assert other.stdout.readline()
    with present(tmp_path) as alone:
        assert not alone
    other.kill()
    other.communicate()
    with present(tmp_path) as alone:
        assert alone


def test_workers_of_others_live_and_are_not_ours(tmp_path: pathlib.Path) -> None:
    """Here one is looked for; of another machine, the one that was heard of lately is taken to live."""
    host, pid, started = this_launcher()
    store = UnitStore(tmp_path / "workers")
    spec = WorkerSpec(identity="study/worker-0-a1", argv=("x",), log=tmp_path / "log", folder=tmp_path)
    store.write(UnitRecord(number=1, spec=spec, launcher=(host, pid, started), handle=""))
    assert started == birth(os.getpid())
    with Ledger.open(tmp_path / "ledger.db") as ledger:
        ledger.insert_plan(plan(1))
        for number, who in enumerate([(pid, started), (pid, started), (1, "never")]):
            ledger.register_worker(STUDY, identity=f"study/worker-{number}-a1", host=host, pid=who[0], started=who[1])
        assert [worker.identity for worker in strangers(ledger, STUDY, tmp_path / "workers")] == ["study/worker-1-a1"]
