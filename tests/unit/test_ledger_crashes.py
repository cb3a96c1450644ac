"""A full disk and a killed process leave whole trials, or none."""

from __future__ import annotations

import contextlib
import pathlib
import sqlite3
import subprocess
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa

from orchestrator.ledger import Ledger, LedgerUnavailableError
from orchestrator.records import Cause, TrialState
from tests.ledgers import LEASE_S, STUDY, finish, plan, register, rung, start, states


@contextlib.contextmanager
def at_most(pages: list[int]) -> Generator[None]:
    """Every connection made meanwhile may grow its file to so many pages, and then meets a full disk."""

    def limit(connection: Any, _record: Any) -> None:
        connection.execute(f"PRAGMA max_page_count = {pages[0]}")

    sa.event.listen(sa.Pool, "connect", limit)
    try:
        yield
    finally:
        sa.event.remove(sa.Pool, "connect", limit)


def integrity(path: pathlib.Path) -> list[str]:
    connection = sqlite3.connect(path)
    found = [row[0] for row in connection.execute("PRAGMA integrity_check")]
    found += [str(row) for row in connection.execute("PRAGMA foreign_key_check")]
    connection.close()
    return found


def kill_while_it_writes(process: subprocess.Popen[str]) -> None:
    with process:
        assert process.stdout is not None
        for _ in range(4):
            assert process.stdout.readline(), "it leases and finishes"
        process.kill()


def test_a_full_disk_leaves_no_half_written_trial(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with Ledger.open(path) as ledger:
        ledger.insert_plan(plan(8))
        worker = register(ledger)
        leases = ledger.lease(STUDY, worker, 8, lease_s=LEASE_S)
        ledger.record(worker, [rung(lease, 1, val_nll=1.0) for lease in leases])
        before = ledger.trial_records(STUDY)
    connection = sqlite3.connect(path)
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.close()
    with at_most([pages + 2]), Ledger.open(path) as ledger:
        many = {f"m_{number}_{'x' * 200}": 1.0 for number in range(100)}
        with pytest.raises(LedgerUnavailableError, match="there is no space left for the ledger") as caught:
            ledger.record(worker, [rung(lease, 2, TrialState.COMPLETE, **many) for lease in leases])
        assert "what was recorded before is intact" in str(caught.value)
        assert [record.rungs for record in ledger.trial_records(STUDY)] == [record.rungs for record in before]
        assert set(states(ledger).values()) == {TrialState.LEASED}
        with pytest.raises(LedgerUnavailableError, match="there is no space left for the ledger"):
            ledger.insert_plan(plan(2000))
        assert len(ledger.members(STUDY)) == 8
    with Ledger.open(path) as ledger:
        finish(ledger, worker, leases)
        assert set(states(ledger).values()) == {TrialState.COMPLETE}
    assert integrity(path) == ["ok"]


def test_a_disk_that_is_full_from_the_start_is_said_to_be(tmp_path: pathlib.Path) -> None:
    with at_most([3]), pytest.raises(LedgerUnavailableError, match="there is no space left for the ledger"):
        Ledger.open(tmp_path / "ledger.sqlite")
    with Ledger.open(tmp_path / "ledger.sqlite") as ledger:
        ledger.insert_plan(plan(1))


def test_processes_killed_while_they_write_leave_a_whole_ledger(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with Ledger.open(path) as ledger:
        ledger.insert_plan(plan(400))
        processes = [start("work", path, f"p{number}") for number in range(2)]
        with ThreadPoolExecutor() as threads:  # each dies as soon as it has begun, so that the slower one finds trials left
            list(threads.map(kill_while_it_writes, processes))
        assert integrity(path) == ["ok"]
        lost = ledger.release_dead(STUDY, {row.id: Cause.KILLED for row in ledger.live_workers(STUDY)})
        for record in ledger.trial_records(STUDY):
            whole = {TrialState.COMPLETE: (1, 2, 10), TrialState.PLANNED: ()}
            steps = tuple(found.step for found in record.rungs)
            assert steps == whole[record.state] if record.state in whole else (record.key in lost and steps in ((), (1,), (1, 2)))
        done, errors = start("work", path, "last").communicate(timeout=300)
        assert set(lost) <= set(done.split()), errors
        assert set(states(ledger).values()) == {TrialState.COMPLETE}
        assert {record.attempts for record in ledger.trial_records(STUDY) if record.key not in lost} == {1}
