"""Who holds a trial when processes are stopped, clocks are wrong and everybody asks at once; on SQLite and on PostgreSQL."""

from __future__ import annotations

import contextlib
import functools
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from orchestrator.ledger import Ledger
from orchestrator.records import Cause, TrialState
from tests.conformance.conftest import MakeUrl
from tests.ledgers import LEASE_S, ROOT, STUDY, dump, finish, plan, register, rung, start, states, with_members
from tests.waiting import eventually


@contextlib.contextmanager
def holder(what: str, url: str) -> Generator[subprocess.Popen[str]]:
    """A process that has leased the only trial for a moment; it does not outlive the test."""
    with start(what, url) as process:
        try:
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def expires(ledger: Ledger) -> None:
    """Waits for the lease of the only trial to be over, and puts it back in the queue."""
    eventually(lambda: ledger.expire(STUDY) == ["t0000"])


# Processes that are stopped


def test_a_worker_stopped_past_its_lease_changes_nothing_when_it_goes_on(ledger: Ledger, url: str) -> None:
    ledger.insert_plan(plan(1))
    with holder("hold", url) as process:
        assert [line(process), line(process)] == ["open", "t0000"]
        process.send_signal(signal.SIGSTOP)
        expires(ledger)
        heir = register(ledger)
        leases = ledger.lease(STUDY, heir, 1, lease_s=LEASE_S)
        ledger.record(heir, [rung(leases[0], 1, val_nll=1.0)])
        before = dump(url)
        process.send_signal(signal.SIGCONT)
        said, errors = process.communicate("go on\n", timeout=300)
        assert said == "set() False False None 0 0\n", errors
    assert dump(url) == before
    finish(ledger, heir, leases)
    assert [found.step for found in ledger.trial_records(STUDY)[0].rungs] == [1, 10]


def test_a_worker_whose_lease_is_over_may_not_use_it_even_when_nobody_else_has_it(ledger: Ledger, url: str) -> None:
    ledger.insert_plan(plan(1))
    with holder("hold", url) as process:
        assert [line(process), line(process)] == ["open", "t0000"]
        process.send_signal(signal.SIGSTOP)
        expires(ledger)
        before = dump(url)
        process.send_signal(signal.SIGCONT)
        assert process.communicate("go on\n", timeout=300)[0] == "set() False False None 0 0\n"
    assert dump(url) == before


@pytest.mark.postgres
def test_a_worker_stopped_within_a_transaction_holds_nobody_up(postgresql_urls: MakeUrl) -> None:
    url = postgresql_urls()
    with Ledger.open(url) as ledger:
        ledger.insert_plan(plan(1))
        with holder("stop", url) as process:
            assert [line(process), line(process)] == ["open", "t0000"]
            expires(ledger)
            ledger.insert_plan(with_members(plan(1), until=5))
            heir = register(ledger)
            leases = ledger.lease(STUDY, heir, 1, lease_s=LEASE_S)
            finish(ledger, heir, leases)
            process.send_signal(signal.SIGCONT)
            said, errors = process.communicate(timeout=300)
            assert said == "False\n", errors
        assert [found.step for found in ledger.trial_records(STUDY)[0].rungs] == [10]


# Clocks

CLOCK = """
import datetime, runpy, sys, time
off_s = float(sys.argv.pop(1))
now, now_ns, gmtime = time.time, time.time_ns, time.gmtime
time.time = lambda: now() + off_s
time.time_ns = lambda: now_ns() + int(off_s * 1e9)
class Wrong(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return super().now(tz) + datetime.timedelta(seconds=off_s)
datetime.datetime = Wrong
runpy.run_module("tests.ledgers", run_name="__main__")
"""


@pytest.mark.parametrize("off_s", [-3600, 3600])
def test_a_process_whose_clock_is_wrong_neither_steals_leases_nor_loses_its_own(ledger: Ledger, url: str, off_s: int) -> None:
    ledger.insert_plan(plan(8))
    here = register(ledger, "right")
    mine = ledger.lease(STUDY, here, 4, lease_s=LEASE_S)
    command = [sys.executable, "-c", CLOCK, str(off_s), "work", url, STUDY, "wrong"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout.split() == ["open", "t0004", "t0005", "t0006", "t0007"], done.stderr
    assert ledger.expire(STUDY) == []
    finish(ledger, here, mine)
    assert {record.attempts for record in ledger.trial_records(STUDY)} == {1}


# Everybody at once


def test_a_crowd_of_processes_shares_no_trial(url: str) -> None:
    n = 16 if url.startswith("postgresql") else 8
    with Ledger.open(url) as ledger:
        ledger.insert_plan(plan(400, arms=("a", "b"), signatures=("x", "y", "z")))
        said, errors = start("crowd", url, str(n)).communicate(timeout=300)
        keys = [word for word in said.split() if word != "open"]
        assert len(keys) == len(set(keys)) == 400, errors
        assert said.split().count("open") == n
        assert set(states(ledger).values()) == {TrialState.COMPLETE}
        assert {record.attempts for record in ledger.trial_records(STUDY, with_rungs=False)} == {1}
        assert len(ledger.live_workers(STUDY)) == n


def together(url: str, n: int, *calls: Callable[[Ledger], object]) -> list[object]:
    """What the calls say when each is made in `n` threads at one moment, on connections of their own."""
    barrier = threading.Barrier(n * len(calls))

    def one(call: Callable[[Ledger], object]) -> object:
        with Ledger.open(url) as ledger:
            ledger.study_names()
            barrier.wait(timeout=60)
            return call(ledger)

    with ThreadPoolExecutor(n * len(calls)) as threads:
        return list(threads.map(one, [call for call in calls for _ in range(n)]))


def lost(said: Sequence[object]) -> Counter[str]:
    return Counter(key for keys in said if isinstance(keys, list) for key in keys)


@pytest.mark.parametrize("how", ["expired", "dead"])
def test_drivers_that_mourn_at_once_count_a_death_once(ledger: Ledger, url: str, how: str) -> None:
    ledger.insert_plan(plan(8))
    keys = [f"t{number:04d}" for number in range(8)]
    for death in range(1, 4):
        dead = register(ledger)
        while len(ledger.lease(STUDY, dead, 8, lease_s=-1)):
            pass
        held = [key for key, state in states(ledger).items() if state is TrialState.LEASED]
        by_death = functools.partial(Ledger.release_dead, study=STUDY, causes={dead: Cause.KILLED})
        call = by_death if how == "dead" else functools.partial(Ledger.expire, study=STUDY)
        assert lost(together(url, 4, call)) == Counter(held)
        attempts = sum(record.attempts for record in ledger.trial_records(STUDY))
        assert len(ledger.troubles(STUDY)) == attempts
        assert death > 1 or held == keys


def test_a_worker_that_finishes_while_it_is_mourned_has_finished_or_has_not(ledger: Ledger, url: str) -> None:
    for number in range(12):
        study = f"study {number}"
        ledger.insert_plan(plan(3, study=study, first=3 * number))
        worker = register(ledger, study=study)
        leases = ledger.lease(study, worker, 3, lease_s=LEASE_S)
        entries = [rung(lease, 10, TrialState.COMPLETE, test_nll=0.5) for lease in leases]
        records = functools.partial(Ledger.record, worker=worker, entries=entries)
        mourns = functools.partial(Ledger.release_dead, study=study, causes={worker: Cause.KILLED})
        written, gone = together(url, 1, records, mourns)
        assert isinstance(written, dict)
        assert isinstance(gone, list)
        assert {key for key, stands in written.items() if stands}.isdisjoint(gone)
        assert set(written) == {key for key, stands in written.items() if stands} | set(gone)
        ends = {record.key: record.state for record in ledger.trial_records(study)}
        assert ends == {key: TrialState.COMPLETE if stands else TrialState.LOST for key, stands in written.items()}


def test_launchers_that_plan_at_once_make_one_study(url: str) -> None:
    said = together(url, 4, lambda one: one.insert_plan(plan(40, arms=("a", "b"))))
    assert set(said) == {1}
    with Ledger.open(url) as ledger:
        assert len(ledger.members(STUDY)) == len(states(ledger)) == 40


def test_plans_that_stop_trials_while_workers_lease_wait_for_each_other_in_one_order(ledger: Ledger, url: str) -> None:
    ledger.insert_plan(plan(12))

    def decide(one: Ledger) -> None:
        for turn in range(20):
            one.insert_plan(with_members(plan(12), dropped="" if turn % 2 else "place 9 of 9"))

    def work(one: Ledger) -> None:
        worker = register(one)
        for _ in range(20):
            one.lease(STUDY, worker, 3, lease_s=LEASE_S)
            one.renew(worker, LEASE_S)
            one.expire(STUDY)
            one.release(worker, state=TrialState.PREEMPTED, reason="told to")

    together(url, 2, decide, work)
    assert set(states(ledger).values()) <= {TrialState.PLANNED, TrialState.PREEMPTED}
