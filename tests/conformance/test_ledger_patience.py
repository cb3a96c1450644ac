"""A database that is locked, full or away is waited for, and a call whose answer was lost counts once."""

from __future__ import annotations

import dataclasses
import inspect
import pathlib
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.engine.default import DefaultDialect

from orchestrator.contract import Probe
from orchestrator.ledger import Ledger, LedgerUnavailableError, Patience, opening
from orchestrator.records import Cause, TrialState
from tests.conformance.conftest import MakeUrl
from tests.ledgers import LEASE_S, STUDY, PostgreSQL, dump, empty, finish, need_postgresql, plan, postgresql, register, rung, start, states
from tests.waiting import eventually

LONG = Patience(for_s=300)


@pytest.fixture(scope="module")
def server() -> Generator[PostgreSQL]:
    """A server that may be stopped: nobody else's."""
    need_postgresql()
    with postgresql() as running:
        yield running


def database(server: PostgreSQL, name: str, password: str | None = None) -> str:
    """URL of a new ledger on the server."""
    admin = sa.create_engine(server.url.set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with admin.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    url = server.url.set(database=name, password=password).render_as_string(hide_password=False)
    Ledger.open(url).close()
    return url


# A server that restarts under load


@pytest.mark.postgres
def test_a_server_that_restarts_under_load_loses_nothing_and_doubles_nothing(server: PostgreSQL) -> None:
    url = database(server, "restarts")
    with Ledger.open(url, patience=LONG) as ledger, ThreadPoolExecutor(3) as threads:
        ledger.insert_plan(plan(400, signatures=("x", "y")))
        processes = [start("work", url, f"p{number}") for number in range(2)]
        mine = [threads.submit(work, url, f"thread {number}") for number in range(2)]
        for done in (40, 160):
            eventually(lambda done=done: complete(ledger) >= done)
            server.restart()
        keys = [key for thread in mine for key in thread.result()]
        for process in processes:
            said, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors
            keys += [word for word in said.split() if word != "open"]
        # What a worker was given without hearing of it, it does not renew; its process has ended by now.
        gone = ledger.release_dead(STUDY, {row.id: Cause.ORPHANED for row in ledger.live_workers(STUDY)})
        assert not set(gone) & set(keys)
        keys += work(url, "last")
        assert sorted(keys) == [f"t{number:04d}" for number in range(400)], "each was finished once, by whom the ledger says"
        records = ledger.trial_records(STUDY)
        assert {record.state for record in records} == {TrialState.COMPLETE}
        assert {tuple(found.step for found in record.rungs) for record in records} == {(1, 2, 10)}
        assert {record.key for record in records if record.attempts > 1} == set(gone)


def work(url: str, identity: str) -> list[str]:
    """Leases and finishes until nothing waits; keys of what was finished."""
    keys: list[str] = []
    with Ledger.open(url, patience=LONG) as ledger:
        worker = register(ledger, identity)
        while leases := ledger.lease(STUDY, worker, 4, lease_s=LEASE_S):
            for step in (1, 2):
                assert all(ledger.record(worker, [rung(lease, step, val_nll=1.0) for lease in leases]).values())
            finish(ledger, worker, leases)
            keys += [lease.key for lease in leases]
    return keys


def complete(ledger: Ledger) -> int:
    return sum(counted[TrialState.COMPLETE] for counted in ledger.counts(STUDY).values() if TrialState.COMPLETE in counted)


@pytest.mark.postgres
def test_a_server_that_is_away_is_waited_for_and_its_password_is_told_to_nobody(server: PostgreSQL) -> None:
    said: list[str] = []
    url = database(server, "away", password="s3cret")
    with Ledger.open(url, patience=dataclasses.replace(LONG, say=said.append)) as ledger, ThreadPoolExecutor(1) as threads:
        server.stop()
        planned = threads.submit(ledger.insert_plan, plan(3))
        eventually(lambda: said)
        server.start()
        assert planned.result() == 1
        assert len(ledger.members(STUDY)) == 3
    assert len(said) == 2, said
    assert said[0].startswith("waiting for the ledger: the ledger's database is out of reach (")
    assert re.fullmatch("the ledger is back after [0-9]+ s", said[1])
    assert not any("s3cret" in line for line in said)
    assert not any("\n" in line for line in said)


@pytest.mark.postgres
def test_without_patience_or_in_haste_a_server_that_is_away_is_an_error_at_once(server: PostgreSQL) -> None:
    url = database(server, "haste", password="s3cret")
    hasty = [False]
    ledgers = [Ledger.open(url), Ledger.open(url, patience=dataclasses.replace(LONG, hasty=lambda: True))]
    waits = Ledger.open(url, patience=dataclasses.replace(LONG, hasty=lambda: hasty[0]))
    server.stop()
    try:
        for ledger in ledgers:
            with pytest.raises(LedgerUnavailableError, match="the ledger's database is out of reach") as caught:
                ledger.insert_plan(plan(1))
            assert "s3cret" not in str(caught.value)
        with ThreadPoolExecutor(1) as threads:
            planned = threads.submit(waits.insert_plan, plan(1))
            hasty[0] = True  # as when Ctrl-C comes while it waits
            with pytest.raises(LedgerUnavailableError, match="out of reach"):
                planned.result()
    finally:
        server.start()
    for ledger in [*ledgers, waits]:
        assert ledger.study_names() == ()
        ledger.close()


# Answers that are lost

Call = Callable[[Ledger, dict[str, Any]], object]
PROBE = Probe(signature="sig", device="cpu", strategy="map", width=4, compile_s=9.0, lane_step_s=0.1)


def prepared(ledger: Ledger) -> dict[str, Any]:
    """A study in the middle: a worker with two leases, one that has ended, one expired lease, a failed trial, a complete one."""
    ledger.insert_plan(plan(8))
    given = {"identity": "w", "host": "here", "pid": 7}
    ids = [ledger.register_worker(STUDY, **given, started=f"birth {number}") for number in range(4)]
    held = ledger.lease(STUDY, ids[0], 2, lease_s=LEASE_S)
    ledger.record(ids[0], [rung(lease, 1, val_nll=1.0) for lease in held])
    dead = ledger.lease(STUDY, ids[1], 1, lease_s=LEASE_S)
    late = ledger.lease(STUDY, ids[2], 1, lease_s=-1)
    for _ in range(3):
        (failing,) = ledger.lease(STUDY, ids[3], 1, lease_s=LEASE_S)
        ledger.fail(ids[3], failing.key, failing.fence, "it raised")
    finish(ledger, ids[3], ledger.lease(STUDY, ids[3], 1, lease_s=LEASE_S))
    ledger.worker_ended(ids[3], exit_code=0)
    ledger.claim(STUDY, "tune", "me", LEASE_S)
    return {"ids": ids, "held": held, "dead": dead, "late": late, "new": given | {"started": "later"}}


def _all(known: dict[str, Any], outcome: TrialState | None, step: int) -> list[Any]:
    made = {"weights": "w"} if outcome else dict[str, str]()
    return [dataclasses.replace(rung(lease, step, outcome, val_nll=0.5), artifacts=made) for lease in known["held"]]


WRITES: dict[str, tuple[Call, object]] = {  # each with what a second call says, where that is not what the first one said
    "insert_plan": (lambda ledger, _: ledger.insert_plan(dataclasses.replace(plan(9), digest="edited")), None),
    "add_trials": (lambda ledger, _: ledger.add_trials(STUDY, plan(2, first=20)), None),
    "register_worker": (lambda ledger, known: ledger.register_worker(STUDY, **known["new"]) > known["ids"][-1], None),
    "worker_seen": (lambda ledger, known: ledger.worker_seen(known["ids"][0]), None),
    "worker_ended": (lambda ledger, known: ledger.worker_ended(known["ids"][0], exit_code=3, reason="told to"), None),
    "renew": (lambda ledger, known: ledger.renew(known["ids"][0], LEASE_S, ["t0000"]), None),
    "record": (lambda ledger, known: ledger.record(known["ids"][0], _all(known, None, 2)), None),
    "record, to the end": (lambda ledger, known: ledger.record(known["ids"][0], _all(known, TrialState.COMPLETE, 2)), None),
    "park": (lambda ledger, known: ledger.park(known["ids"][0], ["t0000"]), 0),
    "release": (lambda ledger, known: ledger.release(known["ids"][0], state=TrialState.PREEMPTED, reason="told to"), 0),
    "fail": (lambda ledger, known: ledger.fail(known["ids"][0], "t0000", 1, "it raised"), "nothing"),
    "expire": (lambda ledger, _: ledger.expire(STUDY), []),
    "release_dead": (lambda ledger, known: ledger.release_dead(STUDY, {known["ids"][1]: Cause.CRASHED}), []),
    "retry": (lambda ledger, _: ledger.retry(STUDY), 0),
    "redo": (lambda ledger, _: ledger.redo(["t0005"]), 0),
    "claim": (lambda ledger, _: ledger.claim(STUDY, "publish", "me", LEASE_S), None),
    "disclaim": (lambda ledger, _: ledger.disclaim(STUDY, "tune", "me"), None),
    "request_stop": (lambda ledger, _: ledger.request_stop(STUDY, True), None),
    "mark_published": (lambda ledger, _: ledger.mark_published(STUDY, "wandb", ["t0004"]), None),
    "probe_put": (lambda ledger, _: ledger.probe_put(PROBE), None),
    "event": (lambda ledger, _: bool(ledger.event(STUDY, "usage", worker=1)), None),
    "lease": (lambda ledger, known: [lease.key for lease in ledger.lease(STUDY, known["ids"][0], 2, lease_s=LEASE_S)], None),
}


def breaks(patch: pytest.MonkeyPatch, url: str, *, committed: bool) -> list[None]:
    """The next connection that commits breaks, before the database has done so or after: a client cannot tell which."""
    commit, broken = DefaultDialect.do_commit, list[None]()
    error = (
        psycopg.OperationalError("server closed the connection unexpectedly")
        if "://" in url
        else sqlite3.OperationalError("disk I/O error")
    )

    def commits(dialect: DefaultDialect, connection: Any) -> None:
        if committed or broken:
            commit(dialect, connection)
        if not broken:
            broken.append(None)
            raise error

    patch.setattr(DefaultDialect, "do_commit", commits)
    return broken


def test_every_write_of_the_ledger_is_tried_with_a_lost_answer() -> None:
    source = inspect.getsource(Ledger)
    methods = re.findall(r"    def (\w+)\((?:(?!    def ).)*?self\._database\.write\(", source, re.DOTALL)
    assert set(methods) == {name.partition(",")[0] for name in WRITES}


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def used_again(request: pytest.FixtureRequest) -> str:
    """A ledger for many short tests, each of which empties it."""
    make: MakeUrl = request.getfixturevalue(f"{request.param}_urls")
    return make()


@pytest.mark.parametrize("committed", [True, False], ids=["written", "not written"])
@pytest.mark.parametrize("name", [name for name in WRITES if name not in ("event", "lease")])
def test_a_call_whose_answer_is_lost_counts_once(used_again: str, monkeypatch: pytest.MonkeyPatch, name: str, committed: bool) -> None:
    call, again = WRITES[name]
    with Ledger.open(used_again, patience=LONG) as ledger:
        empty(used_again)
        said = call(ledger, prepared(ledger))
        once = dump(used_again)
        empty(used_again)
        known = prepared(ledger)
        before = dump(used_again)
        with monkeypatch.context() as patch:
            broken = breaks(patch, used_again, committed=committed)
            heard = call(ledger, known)
        assert broken
        assert heard == (said if again is None or not committed else None if again == "nothing" else again)
    assert dump(used_again) == once
    assert name in ("worker_seen", "renew") or once != before, "the call does something"


@pytest.mark.parametrize("committed", [True, False], ids=["written", "not written"])
def test_an_event_whose_answer_is_lost_is_told_again(ledger: Ledger, url: str, monkeypatch: pytest.MonkeyPatch, committed: bool) -> None:
    known = prepared(ledger)
    with Ledger.open(url, patience=LONG) as patient, monkeypatch.context() as patch:
        breaks(patch, url, committed=committed)
        WRITES["event"][0](patient, known)
    assert [row.payload for row in ledger.events(STUDY)] == [{"worker": 1}] * (1 + committed)


def test_trials_that_a_worker_was_given_without_hearing_of_it_go_to_another(
    ledger: Ledger, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.insert_plan(plan(6))
    worker = register(ledger)
    with Ledger.open(url, patience=LONG) as patient, monkeypatch.context() as patch:
        breaks(patch, url, committed=True)
        heard = {lease.key for lease in patient.lease(STUDY, worker, 2, lease_s=LEASE_S)}
    assert heard == {"t0002", "t0003"}
    ledger.renew(worker, -1, ["t0000", "t0001"])  # time passes
    assert ledger.renew(worker, LEASE_S, heard) == heard
    assert ledger.expire(STUDY) == ["t0000", "t0001"]
    other = register(ledger)
    finish(ledger, other, ledger.lease(STUDY, other, 9, lease_s=LEASE_S))
    ended = {key for key, state in states(ledger).items() if state is TrialState.COMPLETE}
    assert ended == {"t0000", "t0001", "t0004", "t0005"}


# A file that is locked, a disk that is full

LOCKS = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.readline()
connection.execute("ROLLBACK")
"""


def test_a_file_that_another_process_has_locked_is_waited_for(sqlite_urls: MakeUrl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "BUSY_S", 0.01)
    path, said = sqlite_urls(), list[str]()
    patience = dataclasses.replace(LONG, say=said.append)
    command = [sys.executable, "-c", LOCKS, path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        with Ledger.open(path, patience=patience) as ledger, Ledger.open(path) as hasty, ThreadPoolExecutor(1) as threads:
            planned = threads.submit(ledger.insert_plan, plan(3))
            eventually(lambda: said)
            with pytest.raises(LedgerUnavailableError, match="the ledger was locked by another process"):
                hasty.insert_plan(plan(3))
            assert hasty.study_names() == ()
            other.communicate("go on\n")
            assert planned.result() == 1
            assert len(ledger.members(STUDY)) == 3
    assert [line.partition(" (")[0].partition(" after")[0] for line in said] == [
        "waiting for the ledger: the ledger was locked by another process for 60 s",
        "the ledger is back",
    ]


def test_a_full_disk_is_waited_for_until_there_is_room(sqlite_urls: MakeUrl) -> None:
    path = sqlite_urls()
    said: list[str] = []
    room = [pathlib.Path(path).stat().st_size // 4096 + 2]

    def limit(connection: Any, *_: Any) -> None:
        connection.execute(f"PRAGMA max_page_count = {room[0]}")

    def hear(line: str) -> None:
        said.append(line)
        room[0] = 10**6  # somebody frees space

    sa.event.listen(sa.Pool, "checkout", limit)
    try:
        with Ledger.open(path) as ledger, pytest.raises(LedgerUnavailableError, match="there is no space left for the ledger"):
            ledger.insert_plan(plan(300))
        with Ledger.open(path, patience=dataclasses.replace(LONG, say=hear)) as ledger:
            assert ledger.insert_plan(plan(300)) == 1
            assert len(ledger.members(STUDY)) == 300
    finally:
        sa.event.remove(sa.Pool, "checkout", limit)
    assert [line.partition(" (")[0].partition(" after")[0] for line in said] == [
        "waiting for the ledger: there is no space left for the ledger",
        "the ledger is back",
    ]
