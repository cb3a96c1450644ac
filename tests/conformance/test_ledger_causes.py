"""What the ledger tells apart: why attempts end, whose study it is, who may publish, which machines share it."""

from __future__ import annotations

import dataclasses

import pytest

from orchestrator.errors import LedgerError
from orchestrator.ledger import BOUNDS, Ledger, Trouble
from orchestrator.records import Cause, TrialState
from tests.ledgers import LEASE_S, STUDY, finish, plan, register, rung, states, with_members

DEATHS = (Cause.OUT_OF_MEMORY, Cause.CRASHED, Cause.KILLED)


def die(ledger: Ledger, cause: Cause, *, step: int | None = None) -> None:
    """A worker takes the only trial, gets so far, and dies."""
    worker = register(ledger)
    (lease,) = ledger.lease(STUDY, worker, 1, lease_s=LEASE_S)
    if step is not None:
        ledger.record(worker, [rung(lease, step, val_nll=1.0)])
    assert ledger.release_dead(STUDY, {worker: cause}) == [lease.key]


def state(ledger: Ledger) -> TrialState:
    """Of the only trial."""
    (found,) = states(ledger).values()
    return found


@pytest.mark.parametrize("cause", DEATHS)
def test_each_cause_of_death_has_its_own_bound(ledger: Ledger, cause: Cause) -> None:
    ledger.insert_plan(plan(1))
    for other in DEATHS:
        for _ in range(BOUNDS[other] - 1):
            die(ledger, other)
    assert state(ledger) is TrialState.LOST
    die(ledger, cause)
    assert state(ledger) is TrialState.FAILED
    assert f"{BOUNDS[cause]} times with no step gained" in ledger.trial_records(STUDY)[0].reason


@pytest.mark.parametrize("cause", DEATHS)
def test_a_step_gained_forgives_the_deaths_before_it(ledger: Ledger, cause: Cause) -> None:
    ledger.insert_plan(plan(1))
    for step in range(1, 4):
        for _ in range(BOUNDS[cause] - 1):
            die(ledger, cause)
        die(ledger, Cause.ORPHANED, step=step)
    assert state(ledger) is TrialState.LOST


def test_exceptions_add_up_whatever_the_trial_gained_and_a_retry_forgets_them(ledger: Ledger) -> None:
    ledger.insert_plan(plan(1))
    worker = register(ledger)
    for _ in range(2):
        for attempt in range(1, BOUNDS[Cause.RAISED] + 1):
            (lease,) = ledger.lease(STUDY, worker, 1, lease_s=LEASE_S)
            ledger.record(worker, [rung(lease, lease.attempt, val_nll=1.0)])
            then = ledger.fail(worker, lease.key, lease.fence, "it raised")
            assert then is (TrialState.FAILED if attempt == BOUNDS[Cause.RAISED] else TrialState.PLANNED)
        assert ledger.retry(STUDY) == 1


def test_memory_and_exceptions_are_counted_apart(ledger: Ledger) -> None:
    ledger.insert_plan(plan(1))
    worker = register(ledger)
    for cause in [Cause.RAISED, Cause.OUT_OF_MEMORY] * (BOUNDS[Cause.RAISED] - 1):
        (lease,) = ledger.lease(STUDY, worker, 1, lease_s=LEASE_S)
        assert ledger.fail(worker, lease.key, lease.fence, "no", cause=cause) is TrialState.PLANNED
    (lease,) = ledger.lease(STUDY, worker, 1, lease_s=LEASE_S)
    assert ledger.fail(worker, lease.key, lease.fence, "no", cause=Cause.OUT_OF_MEMORY) is TrialState.FAILED


def test_preemptions_are_never_held_against_a_trial(ledger: Ledger) -> None:
    ledger.insert_plan(plan(1))
    worker = register(ledger)
    for _ in range(20):
        assert len(ledger.lease(STUDY, worker, 1, lease_s=LEASE_S)) == 1
        ledger.release(worker, state=TrialState.PREEMPTED, reason="told to")
    assert state(ledger) is TrialState.PREEMPTED
    assert {trouble.cause for trouble in ledger.troubles(STUDY)} == {Cause.PREEMPTED}


def test_troubles_say_what_ended_which_attempt_where(ledger: Ledger) -> None:
    ledger.insert_plan(plan(1))
    worker = register(ledger, "study/worker-0-a1", host="node7")
    (lease,) = ledger.lease(STUDY, worker, 1, lease_s=LEASE_S)
    ledger.fail(worker, lease.key, lease.fence, "ValueError: no")
    (lease,) = ledger.lease(STUDY, worker, 1, lease_s=LEASE_S)
    ledger.release_dead(STUDY, {worker: Cause.KILLED})
    first, second = (dataclasses.replace(trouble, at="") for trouble in ledger.troubles(STUDY))
    where = {"trial": "t0000", "worker": "study/worker-0-a1", "host": "node7", "at": ""}
    assert first == Trouble(attempt=1, cause=Cause.RAISED, reason="ValueError: no", **where)
    assert second == Trouble(attempt=2, cause=Cause.KILLED, reason="its worker was killed", **where)
    assert ledger.troubles("another") == ()


# A worker that lost the answer, and one whose trials were edited away


def test_a_lease_that_the_worker_never_heard_of_expires_while_it_works_on(ledger: Ledger) -> None:
    ledger.insert_plan(plan(2))
    worker = register(ledger)
    heard, unheard = ledger.lease(STUDY, worker, 2, lease_s=LEASE_S)
    ledger.renew(worker, -1, keys=[unheard.key])
    assert ledger.renew(worker, LEASE_S, keys=[heard.key]) == {heard.key}
    assert ledger.expire(STUDY) == [unheard.key]
    assert states(ledger) == {heard.key: TrialState.LEASED, unheard.key: TrialState.LOST}


def test_a_process_that_registers_again_is_the_same_worker(ledger: Ledger) -> None:
    ledger.insert_plan(plan(1))
    who = {"identity": "w", "host": "here", "pid": 7, "started": "then"}
    first = ledger.register_worker(STUDY, **who)
    assert ledger.register_worker(STUDY, **who) == first
    assert ledger.register_worker(STUDY, **(who | {"started": "later"})) != first


def test_a_running_trial_that_no_study_has_any_more_is_unwanted_and_keeps_what_it_has(ledger: Ledger) -> None:
    ledger.insert_plan(plan(2))
    worker = register(ledger)
    leases = ledger.lease(STUDY, worker, 2, lease_s=LEASE_S)
    assert ledger.unwanted(worker) == set()
    ledger.insert_plan(plan(1))
    assert ledger.unwanted(worker) == {"t0001"}
    assert ledger.record(worker, [rung(leases[1], 3, val_nll=1.0)]) == {"t0001": True}
    assert ledger.park(worker, ["t0001"]) == 1
    assert ledger.unwanted(worker) == set()
    assert ledger.lease(STUDY, worker, 9, lease_s=LEASE_S) == []
    ledger.insert_plan(plan(2))
    (again,) = ledger.lease(STUDY, worker, 9, lease_s=LEASE_S)
    assert (again.key, again.attempt) == ("t0001", 2)
    assert [row.step for row in ledger.trial_records(STUDY)[1].rungs] == [3]


def test_a_trial_that_another_study_has_is_wanted(ledger: Ledger) -> None:
    ledger.insert_plan(plan(1))
    ledger.insert_plan(plan(1, study="other"))
    worker = register(ledger)
    ledger.lease(STUDY, worker, 1, lease_s=LEASE_S)
    ledger.insert_plan(plan(0))
    assert ledger.unwanted(worker) == set()
    ledger.insert_plan(with_members(plan(1, study="other"), dropped="place 9 of 9"))
    assert ledger.unwanted(worker) == {"t0000"}


# Whose study it is


def test_a_later_edition_ends_what_older_launchers_may_plan(ledger: Ledger) -> None:
    old, new = (dataclasses.replace(plan(n), digest=digest) for n, digest in ((3, "a"), (2, "b")))
    first = ledger.insert_plan(old)
    assert ledger.insert_plan(old) == first, "a second launcher of the same file is of the same edition"
    second = ledger.insert_plan(new)
    assert second != first
    assert ledger.insert_plan(old, edition=first) is None
    assert set(states(ledger)) == {"t0000", "t0001"}
    assert ledger.insert_plan(new, edition=second) == second


def test_an_edit_that_is_taken_back_is_a_new_edition_too(ledger: Ledger) -> None:
    editions = [ledger.insert_plan(dataclasses.replace(plan(1), digest=digest)) for digest in "aba"]
    assert len(set(editions)) == 3
    assert ledger.insert_plan(dataclasses.replace(plan(1), digest="a"), edition=editions[0]) is None


# Roles


def test_a_role_is_held_by_one_until_it_lets_go_or_is_not_heard_of(ledger: Ledger) -> None:
    ledger.insert_plan(plan(1))
    assert ledger.claim(STUDY, "publish", "first", LEASE_S)
    assert ledger.claim(STUDY, "publish", "first", LEASE_S)
    assert not ledger.claim(STUDY, "publish", "second", LEASE_S)
    assert ledger.claim(STUDY, "another role", "second", LEASE_S)
    ledger.disclaim(STUDY, "publish", "second")
    assert not ledger.claim(STUDY, "publish", "second", LEASE_S)
    ledger.disclaim(STUDY, "publish", "first")
    assert ledger.claim(STUDY, "publish", "second", -1)
    assert ledger.claim(STUDY, "publish", "first", LEASE_S)
    assert not ledger.claim(STUDY, "publish", "second", LEASE_S)


# Machines


def test_workers_of_two_machines_share_a_server_and_never_a_file(ledger: Ledger, url: str) -> None:
    ledger.insert_plan(plan(1))
    here = register(ledger, "a", host="node1")
    if url.startswith("postgresql"):
        register(ledger, "b", host="node2")
        return
    with pytest.raises(LedgerError, match="a SQLite ledger serves the workers of one machine") as caught:
        register(ledger, "b", host="node2")
    assert "on node1, heard of 0 s ago; this is node2" in str(caught.value)
    assert "--storage postgresql://" in str(caught.value)
    register(ledger, "c", host="node1")
    for worker in ledger.live_workers(STUDY):
        ledger.worker_ended(worker.id)
    assert register(ledger, "b", host="node2") != here


# Files that were damaged after all was done


def test_a_complete_trial_that_is_done_again_keeps_its_result_until_it_has_a_new_one(ledger: Ledger) -> None:
    ledger.insert_plan(plan(2))
    worker = register(ledger)
    finish(ledger, worker, ledger.lease(STUDY, worker, 2, lease_s=LEASE_S))
    assert ledger.redo([]) == 0
    assert ledger.redo(["t0001", "unknown"]) == 1
    assert ledger.redo(["t0001"]) == 0
    assert states(ledger) == {"t0000": TrialState.COMPLETE, "t0001": TrialState.PLANNED}
    assert [row.step for row in ledger.trial_records(STUDY)[1].rungs] == [10]
    (again,) = ledger.lease(STUDY, worker, 9, lease_s=LEASE_S)
    ledger.record(worker, [rung(again, 5, val_nll=1.0)])
    finish(ledger, worker, [again])
    assert [row.step for row in ledger.trial_records(STUDY)[1].rungs] == [5, 10]
    assert ledger.unpublished(STUDY, "wandb") == ("t0000", "t0001")


def test_a_trial_that_runs_or_failed_is_not_done_again(ledger: Ledger) -> None:
    ledger.insert_plan(plan(2))
    worker = register(ledger)
    failing, _ = ledger.lease(STUDY, worker, 2, lease_s=LEASE_S)
    ledger.fail(worker, failing.key, failing.fence, "no", bounds=dict.fromkeys(Cause, 1))
    assert ledger.redo(["t0000", "t0001"]) == 0
    assert states(ledger) == {"t0000": TrialState.FAILED, "t0001": TrialState.LEASED}
