"""What a ledger knows of how its studies were run."""

from __future__ import annotations

import dataclasses

import pytest

from orchestrator.contract import Usage
from orchestrator.ledger import Ledger
from orchestrator.records import TrialState
from tests.ledgers import LEASE_S, STUDY, finish, plan, register, rung

USAGE = Usage(
    signature="sig",
    strategy="map",
    width=4,
    lane_steps=400,
    compile_s=2.0,
    train_s=5.0,
    evaluate_s=1.0,
    other_s=0.5,
    lane_s=24.0,
    place_s=25.0,
)


def began(ledger: Ledger, *, estimate_s: float | None = 10.0) -> None:
    ledger.event(STUDY, "run", workers=2, trials=4, estimate_s=estimate_s, inferred=1)


def ended(ledger: Ledger, *, overhead_s: float | None = 1.5) -> None:
    ledger.event(STUDY, "run ended", wall_s=12.0, finished=3, ending="done", overhead_s=overhead_s)


def work(ledger: Ledger, identity: str, *, packs: int, exit_code: int = 0) -> int:
    """A worker that takes a trial, tells of its packs, and ends."""
    worker = register(ledger, identity)
    leases = ledger.lease(STUDY, worker, 1, lease_s=LEASE_S)
    for _ in range(packs):
        ledger.event(STUDY, "usage", None, worker=worker, **dataclasses.asdict(USAGE))
    finish(ledger, worker, leases)
    ledger.worker_ended(worker, exit_code=exit_code)
    return worker


def test_a_run_has_its_estimate_its_end_and_the_workers_that_trained_in_it(ledger: Ledger) -> None:
    ledger.insert_plan(plan(4))
    began(ledger, estimate_s=None)
    work(ledger, "w0", packs=1, exit_code=-9)
    began(ledger)
    work(ledger, "w1", packs=2)
    idle = register(ledger, "w2")
    ledger.event(STUDY, "noise")
    ended(ledger)
    killed, whole = ledger.run_records(STUDY)
    assert (killed.estimate_s, killed.wall_s, killed.finished, killed.ending) == (None, None, None, "")
    assert [(worker.died, len(worker.packs)) for worker in killed.crew] == [(True, 1)]
    assert (whole.workers, whole.trials, whole.estimate_s, whole.inferred) == (2, 4, 10.0, 1)
    assert (whole.wall_s, whole.finished, whole.ending) == (12.0, 3, "done")
    (worker,) = whole.crew
    assert not worker.died
    assert len(worker.packs) == 2, f"worker {idle} trained nothing"
    assert worker.ended_s is not None
    assert 0 <= worker.leased_s <= worker.packs[0].ended_s <= worker.packs[1].ended_s <= worker.ended_s
    assert (worker.packs[0].strategy, worker.packs[0].lane_steps, worker.packs[0].place_s) == ("map", 400, 25.0)


def test_a_ledger_of_an_earlier_version_has_no_runs(ledger: Ledger) -> None:
    ledger.insert_plan(plan(1))
    work(ledger, "w0", packs=1)
    assert ledger.run_records(STUDY) == ()
    assert ledger.run_records("another") == ()


def test_the_device_is_that_of_the_last_trial_finished_on_a_machine(ledger: Ledger) -> None:
    ledger.insert_plan(plan(3))
    worker = register(ledger)
    first, second, third = ledger.lease(STUDY, worker, 3, lease_s=LEASE_S)
    assert ledger.machine("here") == ("", None)
    for lease, provenance in ((first, {"device": "cpu"}), (second, {"device": "H100"}), (third, {"jax": "1"})):
        entry = dataclasses.replace(rung(lease, 1, TrialState.COMPLETE, val_nll=1.0), provenance=provenance)
        assert ledger.record(worker, [entry])[lease.key]
        if lease is second:
            assert ledger.machine("here")[0] == "H100"
    assert ledger.machine("elsewhere")[0] == ""


def test_the_overhead_is_that_of_the_last_run_that_trained(ledger: Ledger) -> None:
    ledger.insert_plan(plan(1))
    for overhead_s in (1.5, 2.5, None):
        began(ledger)
        ended(ledger, overhead_s=overhead_s)
    assert ledger.machine("here")[1] == pytest.approx(2.5)
