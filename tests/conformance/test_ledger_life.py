"""What the ledger promises when trials fail, workers die and processes compete, on SQLite and on PostgreSQL."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import itertools
import math
import pathlib
import re
import threading

import pytest

from orchestrator.contract import Probe
from orchestrator.errors import LedgerError
from orchestrator.ledger import BOUNDS, Ledger, LedgerUnavailableError, MemberRow, TrialRow, TrialRows
from orchestrator.records import Cause, Phase, TrialState
from tests.ledgers import LEASE_S, STUDY, finish, plan, register, rung, states

ONCE, TWICE = ({**BOUNDS, Cause.RAISED: n} for n in (1, 2))

# Failures, losses, retries


def test_a_failure_is_tried_again_until_its_attempts_are_spent(ledger: Ledger) -> None:
    ledger.insert_plan(plan(1))
    worker = register(ledger)
    for expected in (TrialState.PLANNED, TrialState.FAILED):
        lease = ledger.lease(STUDY, worker, 1, lease_s=LEASE_S)[0]
        assert ledger.fail(worker, lease.key, lease.fence, "it raised", bounds=TWICE) is expected
    record = ledger.trial_records(STUDY)[0]
    assert (record.state, record.reason, record.attempts) == (TrialState.FAILED, "it raised", 2)
    assert ledger.lease(STUDY, worker, 1, lease_s=LEASE_S) == []
    assert ledger.retry(STUDY) == 1
    assert ledger.retry(STUDY) == 0
    lease = ledger.lease(STUDY, worker, 1, lease_s=LEASE_S)[0]
    assert ledger.fail(worker, lease.key, lease.fence, "again", bounds=TWICE) is TrialState.PLANNED, "failures were forgotten"
    assert ledger.trial_records(STUDY)[0].reason == ""


def test_what_is_handed_back_waits_and_says_why(ledger: Ledger) -> None:
    ledger.insert_plan(plan(3))
    worker = register(ledger)
    leases = ledger.lease(STUDY, worker, 3, lease_s=LEASE_S)
    assert ledger.release(worker, keys=[leases[0].key], state=TrialState.PLANNED, reason="never begun") == 1
    assert ledger.release(worker, state=TrialState.PREEMPTED, reason="told to stop") == 2
    assert list(states(ledger).values()) == [TrialState.PLANNED, TrialState.PREEMPTED, TrialState.PREEMPTED]
    assert len(ledger.lease(STUDY, worker, 9, lease_s=LEASE_S)) == 3
    with pytest.raises(ValueError, match="complete is neither planned nor preempted"):
        ledger.release(worker, state=TrialState.COMPLETE, reason="")


def test_the_trials_of_a_dead_worker_wait_again_at_once(ledger: Ledger) -> None:
    ledger.insert_plan(plan(4))
    dead, alive = register(ledger, "dead"), register(ledger, "alive")
    ledger.lease(STUDY, dead, 2, lease_s=LEASE_S)
    ledger.lease(STUDY, alive, 1, lease_s=LEASE_S)
    assert ledger.release_dead(STUDY, {dead: Cause.KILLED}) == ["t0000", "t0001"]
    assert list(states(ledger).values()) == [TrialState.LOST, TrialState.LOST, TrialState.LEASED, TrialState.PLANNED]
    assert ledger.release_dead(STUDY, {}) == []


@pytest.mark.parametrize("width", [1, 3, 8])
def test_a_trial_that_kills_its_workers_fails_and_takes_no_other_with_it(ledger: Ledger, width: int) -> None:
    ledger.insert_plan(plan(12))
    deaths = 0
    for number in itertools.count():
        worker = register(ledger, f"w{number}")
        leases = ledger.lease(STUDY, worker, width, lease_s=LEASE_S)
        if not leases:
            break
        while leases:
            if any(lease.key == "t0005" for lease in leases):
                deaths += 1
                ledger.worker_ended(worker, exit_code=-9)
                ledger.release_dead(STUDY, {worker: Cause.CRASHED})
                break
            finish(ledger, worker, leases[:1])
            leases = [*leases[1:], *ledger.lease(STUDY, worker, width - len(leases) + 1, lease_s=LEASE_S)]
    found = states(ledger)
    assert found.pop("t0005") is TrialState.FAILED
    assert set(found.values()) == {TrialState.COMPLETE}
    assert deaths <= 3 + width.bit_length()
    (failed,) = (record for record in ledger.trial_records(STUDY) if record.state is TrialState.FAILED)
    assert re.fullmatch("its worker crashed, [0-9] times with no step gained; at last the trial was alone on it", failed.reason)


def test_a_trial_that_gets_further_each_time_outlives_any_number_of_workers(ledger: Ledger) -> None:
    ledger.insert_plan(plan(1))
    for step in range(1, 9):
        worker = register(ledger, f"w{step}")
        lease = ledger.lease(STUDY, worker, 1, lease_s=LEASE_S)[0]
        ledger.record(worker, [rung(lease, step, val_nll=1.0)])
        ledger.release_dead(STUDY, {worker: Cause.CRASHED})
    assert states(ledger) == {"t0000": TrialState.LOST}


def test_deaths_from_outside_are_not_held_against_a_trial(ledger: Ledger) -> None:
    ledger.insert_plan(plan(1))
    for number in range(9):
        worker = register(ledger, f"w{number}")
        assert len(ledger.lease(STUDY, worker, 1, lease_s=LEASE_S)) == 1
        assert ledger.release_dead(STUDY, {worker: Cause.ORPHANED}) == ["t0000"]
    assert states(ledger) == {"t0000": TrialState.LOST}


def test_expiry_too_finds_the_trial_that_kills_its_workers(ledger: Ledger) -> None:
    ledger.insert_plan(plan(1))
    worker = register(ledger)
    for _ in range(BOUNDS[Cause.LOST]):
        assert len(ledger.lease(STUDY, worker, 1, lease_s=-1)) == 1
        ledger.expire(STUDY)
    assert states(ledger) == {"t0000": TrialState.FAILED}


# What is told beside the trials


def test_counts_and_progress_add_up(ledger: Ledger) -> None:
    ledger.insert_plan(plan(8, arms=("b", "a")))
    worker = register(ledger)
    leases = ledger.lease(STUDY, worker, 5, lease_s=LEASE_S)
    ledger.record(worker, [rung(lease, 7, val_nll=1.0) for lease in leases])
    finish(ledger, worker, leases[:2])
    ledger.fail(worker, leases[2].key, leases[2].fence, "it raised", bounds=ONCE)
    assert ledger.counts(STUDY) == {
        ("b", Phase.REPLICATE): {TrialState.COMPLETE: 1, TrialState.FAILED: 1, TrialState.LEASED: 1, TrialState.PLANNED: 1},
        ("a", Phase.REPLICATE): {TrialState.COMPLETE: 1, TrialState.LEASED: 1, TrialState.PLANNED: 2},
    }
    lines = [(row.arm, row.done, row.running, row.waiting, row.failed, row.running_steps) for row in ledger.progress(STUDY)]
    assert lines == [("b", 1, 1, 1, 1, 7), ("a", 1, 1, 2, 0, 7)]


def test_workers_are_known_until_they_end(ledger: Ledger) -> None:
    ledger.insert_plan(plan(2))
    first, second = register(ledger, "one"), register(ledger, "two")
    ledger.lease(STUDY, first, 2, lease_s=LEASE_S)
    ledger.worker_seen(second)
    rows = ledger.live_workers(STUDY)
    assert [(row.id, row.identity, row.host, row.pid, row.signature, row.leases) for row in rows] == [
        (first, "one", "here", 1, "sig", 2),
        (second, "two", "here", 1, "", 0),
    ]
    assert len({row.started for row in rows}) == 2
    assert all(-1 < row.seen_s < 600 for row in rows)
    ledger.worker_ended(first, exit_code=0, reason="nothing waits")
    assert [row.id for row in ledger.live_workers(STUDY)] == [second]
    with pytest.raises(LedgerError, match="the ledger refused a row"):
        register(ledger, study="nowhere")


def test_a_study_can_be_asked_to_stop(ledger: Ledger) -> None:
    ledger.insert_plan(plan(1))
    asked = [ledger.stop_requested(STUDY)]
    for stop in (True, False):
        ledger.request_stop(STUDY, stop)
        asked.append(ledger.stop_requested(STUDY))
    assert asked == [False, True, False]
    with pytest.raises(LedgerError, match="the ledger has no study 'nowhere'"):
        ledger.request_stop("nowhere", True)
    with pytest.raises(LedgerError, match="the ledger has no study 'nowhere'"):
        ledger.stop_requested("nowhere")


def test_events_are_read_from_where_one_left_off(ledger: Ledger) -> None:
    ledger.insert_plan(plan(1))
    ledger.insert_plan(plan(1, study="second"))
    first = ledger.event(STUDY, "worker-died", exit_code=-9)
    ledger.event("second", "elsewhere")
    second = ledger.event(STUDY, "diverged", "t0000", loss=math.nan)
    assert [(row.id, row.kind, row.trial, row.payload) for row in ledger.events(STUDY)] == [
        (first, "worker-died", "", {"exit_code": -9}),
        (second, "diverged", "t0000", {"loss": "nan"}),
    ]
    assert [row.id for row in ledger.events(STUDY, first)] == [second]


def test_a_tracker_is_owed_each_end_of_a_trial_once(ledger: Ledger) -> None:
    ledger.insert_plan(plan(3))
    worker = register(ledger)
    leases = ledger.lease(STUDY, worker, 3, lease_s=LEASE_S)
    finish(ledger, worker, leases[1:2])
    ledger.fail(worker, leases[0].key, leases[0].fence, "it raised", bounds=ONCE)
    assert ledger.unpublished(STUDY, "wandb") == ("t0000", "t0001")
    ledger.mark_published(STUDY, "wandb", "t0000")
    ledger.mark_published(STUDY, "wandb", ["t0000", "t0001"])
    assert ledger.unpublished(STUDY, "wandb") == ()
    assert ledger.unpublished(STUDY, "jsonl") == ("t0000", "t0001")
    ledger.retry(STUDY)
    finish(ledger, worker, ledger.lease(STUDY, worker, 1, lease_s=LEASE_S))
    assert ledger.unpublished(STUDY, "wandb") == ("t0000",), "it ended anew"


def test_probes_are_kept_for_every_study(ledger: Ledger) -> None:
    probe = Probe(signature="sig", device="cpu", strategy="map", width=4, compile_s=9.0, lane_step_s=0.1)
    ledger.probe_put(probe)
    ledger.probe_put(dataclasses.replace(probe, compile_s=3.0))
    ledger.probe_put(dataclasses.replace(probe, width=8))
    assert [(row.width, row.compile_s) for row in ledger.probes(["sig", "other"])] == [(4, 3.0), (8, 9.0)]
    assert ledger.probes(["other"]) == ()


# Several processes


def test_a_heartbeat_in_a_thread_does_not_disturb_recording(ledger: Ledger) -> None:
    ledger.insert_plan(plan(6))
    worker = register(ledger)
    leases = ledger.lease(STUDY, worker, 6, lease_s=LEASE_S)
    recorded = threading.Event()

    def beat() -> int:
        beats = 0
        while not recorded.is_set():
            assert len(ledger.renew(worker, LEASE_S)) == 6
            ledger.expire(STUDY)
            beats += 1
        return beats

    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        beating = [threads.submit(beat) for _ in range(2)]
        try:
            for step in range(1, 40):
                said = ledger.record(worker, [rung(lease, step, val_nll=1.0) for lease in reversed(leases)])
                assert all(said.values())
        finally:
            recorded.set()
        assert all(future.result() > 0 for future in beating)
    assert {len(record.rungs) for record in ledger.trial_records(STUDY)} == {39}


def test_a_database_that_goes_away_is_said_to_be_out_of_reach(tmp_path: pathlib.Path) -> None:
    with pytest.raises(LedgerUnavailableError, match="the ledger's database is out of reach") as caught:
        Ledger.open(f"postgresql://ann:secret@/sweeps?host={tmp_path}&sslpassword=alsosecret")
    assert "secret" not in str(caught.value)


def test_rows_of_an_unplanned_study_are_empty(ledger: Ledger) -> None:
    assert ledger.members("nowhere") == []
    assert ledger.counts("nowhere") == {}
    assert ledger.progress("nowhere") == ()
    rows = TrialRows(cells=(), trials=(TrialRow(key="t", cell="no such cell", seed=0),), members=())
    ledger.insert_plan(plan(1))
    with pytest.raises(LedgerError, match="the ledger refused a row"):
        ledger.add_trials(STUDY, rows)
    known = MemberRow(trial="t0000", arm="more", phase=Phase.TUNE, index=0, position=9, point={})
    ledger.add_trials(STUDY, TrialRows(cells=(), trials=(), members=(known,)))
    assert [member.arm for member in ledger.members(STUDY)] == ["base", "more"]


def test_what_is_unfinished_is_counted_no_further_than_it_matters(ledger: Ledger) -> None:
    ledger.insert_plan(plan(6))
    ledger.insert_plan(plan(9, study="other"))
    worker = register(ledger)
    held = ledger.lease(STUDY, worker, 2, lease_s=LEASE_S)
    assert [ledger.unfinished(STUDY, most=most) for most in (1, 3, 6, 99)] == [1, 3, 6, 6]
    finish(ledger, worker, held[:1])
    assert ledger.unfinished(STUDY, most=99) == 5
    assert ledger.waiting(STUDY, held[0].signature) == 4
    assert ledger.waiting(STUDY, "another") == 0


def test_what_workers_hold_is_told_with_the_step_it_has_reached(ledger: Ledger) -> None:
    ledger.insert_plan(plan(3))
    worker = register(ledger)
    assert ledger.reached(STUDY) == {}
    leases = ledger.lease(STUDY, worker, 2, lease_s=LEASE_S)
    ledger.record(worker, [rung(leases[0], 10, loss=1.0)])
    assert ledger.reached(STUDY) == {leases[0].key: 10, leases[1].key: 0}
    finish(ledger, worker, leases[:1])
    assert ledger.reached(STUDY) == {leases[1].key: 0}


def test_events_of_one_kind_can_be_asked_for(ledger: Ledger) -> None:
    ledger.insert_plan(plan(1))
    first, second = ledger.event(STUDY, "wandb", sweep="a"), ledger.event(STUDY, "other")
    third = ledger.event(STUDY, "wandb", sweep="b")
    assert [row.id for row in ledger.events(STUDY, kind="wandb")] == [first, third]
    assert [row.id for row in ledger.events(STUDY, first)] == [second, third]
