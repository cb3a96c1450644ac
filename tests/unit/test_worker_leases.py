"""A worker and its leases: what it renews, what it gives up when they are gone, and what it is told when a study was edited."""

from __future__ import annotations

import pathlib
import socket
import threading
from collections.abc import Callable, Generator

import pytest

from orchestrator.contract import Host, Report, Verdict
from orchestrator.leases import LeaseLostError, Leases
from orchestrator.ledger import Ledger
from orchestrator.order import WorkerOrder
from orchestrator.records import Cause, TrialState
from orchestrator.worker import Worker
from tests.ledgers import STUDY, plan, register, rung, states
from trainers.curves import Curves

LEASE_S = 60.0


class Told(Curves):
    """A trainer that does as it is told, call after call."""

    def __init__(self, *acts: Callable[[Host], None]) -> None:
        self.acts = list(acts)

    def train(self, host: Host) -> None:
        self.acts.pop(0)(host)


@pytest.fixture
def ledger(tmp_path: pathlib.Path) -> Generator[Ledger]:
    with Ledger.open(tmp_path / "ledger.db") as opened:
        opened.insert_plan(plan(3))
        yield opened


@pytest.fixture
def make(ledger: Ledger, tmp_path: pathlib.Path) -> Callable[..., Worker]:
    def made(*acts: Callable[[Host], None]) -> Worker:
        order = WorkerOrder(
            ledger=ledger.where,
            study=STUDY,
            trainer="tests:Told",
            identity="w",
            out=str(tmp_path),
            n_workers=1,
            lease_s=LEASE_S,
            paths=(),
            provenance=(),
        )
        return Worker(order, ledger, Told(*acts))

    return made


def train(worker: Worker) -> None:
    """One pack."""
    worker._train(worker.lease(1, signature=None))


def expire(ledger: Ledger) -> list[str]:
    """The leases of every worker end, as if nobody had renewed them."""
    for worker in ledger.live_workers(STUDY):
        ledger.renew(worker.id, -1)
    return ledger.expire(STUDY)


def said(key: str, step: int, *, final: bool = False) -> Report:
    return Report(key=key, step=step, metrics={"val/nll": 0.5}, final=final)


# Leases that are gone


def test_a_lane_whose_lease_is_gone_is_given_up_before_its_checkpoint_is_written(make, ledger: Ledger) -> None:
    saved: list[str] = []

    def act(host: Host) -> None:
        lanes = host.pull(2)
        assert len(expire(ledger)) == 2
        worker.leases.renew()
        assert not host.stopping
        saved.extend(lane.key for lane in lanes)

    worker = make(act)
    train(worker)
    assert saved == []
    assert set(states(ledger).values()) == {TrialState.LOST, TrialState.PLANNED}
    assert {trouble.cause for trouble in ledger.troubles(STUDY)} == {Cause.LOST}


def test_a_process_that_was_stopped_for_longer_than_its_leases_asks_the_ledger_before_anything_else(
    make, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def act(host: Host) -> None:
        host.pull(1)
        expire(ledger)
        assert not host.stopping, "nobody has asked yet, and the last renewal is not long ago"
        worker.leases._renewed_at -= LEASE_S + 1
        with pytest.raises(LeaseLostError, match="this worker was not heard of for too long"):
            _ = host.stopping

    worker = make(act)
    worker._train(worker.lease(1, signature=None))


def test_a_process_that_was_stopped_in_time_goes_on(make, ledger: Ledger) -> None:
    def act(host: Host) -> None:
        (lane,) = host.pull(1)
        worker.leases._renewed_at -= LEASE_S + 1
        assert not host.stopping
        assert host.report([said(lane.key, 9, final=True)]) == {lane.key: Verdict.FINISHED}

    worker = make(act)
    train(worker)
    assert states(ledger)["t0000"] is TrialState.COMPLETE


def test_the_other_lanes_of_a_pack_that_lost_one_are_given_back_unblamed(make, ledger: Ledger) -> None:
    def act(host: Host) -> None:
        host.pull(2)
        lost = ledger.live_workers(STUDY)[0].id
        ledger.renew(lost, -1, keys=["t0000"])
        assert ledger.expire(STUDY) == ["t0000"]
        worker.leases.renew()
        _ = host.stopping

    worker = make(act)
    train(worker)
    assert states(ledger) == {"t0000": TrialState.LOST, "t0001": TrialState.PREEMPTED, "t0002": TrialState.PLANNED}
    assert worker.leases._held == {}


def test_a_report_of_a_lane_that_moved_is_answered_lost_and_writes_nothing(make, ledger: Ledger) -> None:
    def act(host: Host) -> None:
        (lane,) = host.pull(1)
        expire(ledger)
        other = register(ledger, "other", host=socket.gethostname())
        (lease,) = ledger.lease(STUDY, other, 1, lease_s=LEASE_S)
        assert lease.key == lane.key
        ledger.record(other, [rung(lease, 3, val_nll=1.0)])
        assert host.report([said(lane.key, 9, final=True)]) == {lane.key: Verdict.LOST}
        host.parked([lane.key])
        assert not host.stopping, "it holds nothing that could be lost"

    train(make(act))
    (first, *_) = ledger.trial_records(STUDY)
    assert (first.state, [row.step for row in first.rungs]) == (TrialState.LEASED, [3])


def test_renewals_that_run_all_the_time_never_take_an_ended_trial_for_a_lost_one(ledger: Ledger) -> None:
    ledger.insert_plan(plan(60))
    worker = register(ledger)
    leases, over = Leases(ledger, STUDY, worker, LEASE_S), threading.Event()
    found: list[frozenset[str]] = []

    def renew() -> None:
        while not over.is_set():
            leases.renew()
            found.append(leases._lost)

    thread = threading.Thread(target=renew)
    thread.start()
    try:
        while held := leases.take(4, None):
            leases.record([rung(lane, 1, TrialState.COMPLETE, val_nll=1.0) for lane in held[:2]])
            leases.release([lane.key for lane in held[2:3]], "no reason")
            leases.park([lane.key for lane in held[3:]])
            leases.check([lane.key for lane in held])
    finally:
        over.set()
        thread.join()
    assert set(found) == {frozenset()}


# Leases that nobody heard of


def test_a_lease_whose_answer_was_lost_is_not_renewed(make, ledger: Ledger) -> None:
    worker = make()
    ledger.lease(STUDY, worker.id, 1, lease_s=-1)  # it was granted, and the connection broke
    (heard,) = worker.lease(1, signature=None)
    worker.leases.renew()
    assert ledger.expire(STUDY) == ["t0000"]
    assert heard.key == "t0001"
    assert not worker.leases._lost


# What the study does not want any more


def test_a_lane_that_no_study_has_any_more_pauses_at_its_next_rung_and_goes_on_when_one_has_it_again(make, ledger: Ledger) -> None:
    def act(host: Host) -> None:
        first, second = host.pull(2)
        ledger.insert_plan(plan(1))
        worker.leases.renew()
        verdicts = host.report([said(first.key, 9), said(second.key, 9)])
        assert verdicts == {first.key: Verdict.CONTINUE, second.key: Verdict.PAUSE}
        host.parked([second.key])
        assert host.report([said(first.key, 20, final=True)]) == {first.key: Verdict.FINISHED}

    def go_on(host: Host) -> None:
        (lane,) = host.pull(1)
        assert lane.key == "t0001"
        assert host.report([said(lane.key, 20, final=True)]) == {lane.key: Verdict.FINISHED}

    worker = make(act, go_on)
    train(worker)
    assert worker.lease(1, signature=None) == []
    ledger.insert_plan(plan(2))
    worker._train(worker.lease(1, signature=None))
    assert set(states(ledger).values()) == {TrialState.COMPLETE}


def test_a_final_report_of_a_lane_that_no_study_has_is_kept(make, ledger: Ledger) -> None:
    def act(host: Host) -> None:
        (lane,) = host.pull(1)
        ledger.insert_plan(plan(0))
        worker.leases.renew()
        assert host.report([said(lane.key, 20, final=True)]) == {lane.key: Verdict.FINISHED}

    worker = make(act)
    train(worker)
    assert ledger.states(["t0000"]) == {"t0000": TrialState.COMPLETE}


# What trainers raise


def test_only_the_lane_that_runs_out_of_memory_alone_fails_of_it(make, ledger: Ledger) -> None:
    def pack(host: Host) -> None:
        assert len(host.pull(3)) == 3
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes")

    def alone(host: Host) -> None:
        (lane,) = host.pull(3)
        if lane.key == "t0001":
            raise MemoryError
        host.report([said(lane.key, 9, final=True)])

    train(make(pack, alone, alone, alone))
    assert states(ledger) == {"t0000": TrialState.COMPLETE, "t0001": TrialState.PLANNED, "t0002": TrialState.COMPLETE}
    (trouble,) = ledger.troubles(STUDY)
    assert (trouble.trial, trouble.cause, trouble.reason) == ("t0001", Cause.OUT_OF_MEMORY, "MemoryError")


def test_a_trainer_that_exits_is_one_that_raises(make, ledger: Ledger) -> None:
    def act(host: Host) -> None:
        host.pull(1)
        raise SystemExit(3)

    train(make(act))
    (trouble,) = ledger.troubles(STUDY)
    assert (trouble.cause, trouble.reason) == (Cause.RAISED, "SystemExit: 3")


def test_a_lane_that_cannot_be_trained_ends_its_own_attempt_and_no_other(make, ledger: Ledger) -> None:
    def act(host: Host) -> None:
        bad, *others = host.pull(3)
        host.failed(bad.key, ValueError("it has no start"))
        host.failed("of nobody", ValueError("it is not held"))
        assert host.report([said(bad.key, 9)]) == {bad.key: Verdict.LOST}
        host.report([said(one.key, 9, final=True) for one in others])

    train(make(act))
    assert states(ledger) == {"t0000": TrialState.PLANNED, "t0001": TrialState.COMPLETE, "t0002": TrialState.COMPLETE}
    (trouble,) = ledger.troubles(STUDY)
    assert (trouble.trial, trouble.cause, trouble.reason) == ("t0000", Cause.RAISED, "ValueError: it has no start")
