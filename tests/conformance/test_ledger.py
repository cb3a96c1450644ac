"""What the ledger promises of plans, leases and records, on SQLite and on PostgreSQL."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Generator

import pytest
import sqlalchemy as sa

from orchestrator.errors import LedgerError
from orchestrator.ledger import Entry, Ledger
from orchestrator.ledger.schema import metadata
from orchestrator.records import Phase, Rung, TrialState
from tests.ledgers import LEASE_S, STUDY, finish, plan, register, rung, states, with_members


@contextlib.contextmanager
def raw(url: str) -> Generator[sa.Connection]:
    """A look behind the ledger's back."""
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://") if "://" in url else f"sqlite:///{url}")
    with engine.connect() as connection:
        yield connection
    engine.dispose()


# Plans


def test_the_migrations_make_the_schema_that_the_code_uses(url: str) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with raw(url) as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, metadata) == []
        wanted = {(table.name, str(check.name)) for table in metadata.sorted_tables for check in table.constraints if _is_check(check)}
        inspector = sa.inspect(connection)
        found = {(table, str(check["name"])) for table in metadata.tables for check in inspector.get_check_constraints(table)}
        assert found == wanted


def _is_check(constraint: sa.Constraint) -> bool:
    return isinstance(constraint, sa.CheckConstraint)


def test_a_plan_comes_back_as_it_went_in(ledger: Ledger) -> None:
    rows = plan(4, arms=("a", "b"))
    ledger.insert_plan(rows)
    found = ledger.members(STUDY)
    assert [(member.key, member.arm, member.index, member.position, member.point) for member in found] == [
        (row.trial, row.arm, row.index, row.position, row.point) for row in rows.members
    ]
    assert {member.state for member in found} == {TrialState.PLANNED}
    assert not any(member.orphaned for member in found)
    assert ledger.study_spec(STUDY) == {"question": "why?"}
    assert ledger.study_spec("another") is None
    assert ledger.study_names() == (STUDY,)


def test_the_same_plan_twice_changes_nothing(ledger: Ledger) -> None:
    ledger.insert_plan(plan(5))
    worker = register(ledger)
    finish(ledger, worker, ledger.lease(STUDY, worker, 2, lease_s=LEASE_S))
    before = ledger.members(STUDY), ledger.trial_records(STUDY)
    ledger.insert_plan(plan(5))
    assert (ledger.members(STUDY), ledger.trial_records(STUDY)) == before


def test_what_leaves_the_plan_is_orphaned_and_comes_back_with_it(ledger: Ledger) -> None:
    ledger.insert_plan(plan(4))
    ledger.insert_plan(plan(2, spec={"question": "why not?"}))
    assert [member.orphaned for member in ledger.members(STUDY)] == [False, False, True, True]
    assert ledger.study_spec(STUDY) == {"question": "why not?"}
    assert [record.key for record in ledger.trial_records(STUDY)] == ["t0000", "t0001"]
    worker = register(ledger)
    assert [lease.key for lease in ledger.lease(STUDY, worker, 9, lease_s=LEASE_S)] == ["t0000", "t0001"]
    ledger.insert_plan(plan(4))
    assert not any(member.orphaned for member in ledger.members(STUDY))
    assert [lease.key for lease in ledger.lease(STUDY, worker, 9, lease_s=LEASE_S)] == ["t0002", "t0003"]


def test_an_orphan_released_by_its_worker_is_not_leased_again(ledger: Ledger) -> None:
    ledger.insert_plan(plan(2))
    worker = register(ledger)
    ledger.lease(STUDY, worker, 2, lease_s=LEASE_S)
    ledger.insert_plan(plan(1))
    ledger.release(worker, state=TrialState.PREEMPTED, reason="told to stop")
    assert [lease.key for lease in ledger.lease(STUDY, worker, 9, lease_s=LEASE_S)] == ["t0000"]


def test_a_renamed_arm_keeps_its_results(ledger: Ledger) -> None:
    ledger.insert_plan(plan(2))
    worker = register(ledger)
    finish(ledger, worker, ledger.lease(STUDY, worker, 2, lease_s=LEASE_S))
    ledger.insert_plan(with_members(plan(2), arm="renamed"))
    assert ledger.counts(STUDY) == {("renamed", Phase.REPLICATE): {TrialState.COMPLETE: 2}}
    assert ledger.lease(STUDY, worker, 9, lease_s=LEASE_S) == []


def test_studies_share_trials(ledger: Ledger) -> None:
    ledger.insert_plan(plan(2))
    ledger.insert_plan(with_members(plan(3, study="second"), arm="mine"))
    assert ledger.states(["t0000", "t0002", "unknown"]) == {"t0000": TrialState.PLANNED, "t0002": TrialState.PLANNED}
    first, second = register(ledger), register(ledger, study="second")
    held = ledger.lease(STUDY, first, 1, lease_s=LEASE_S)
    assert [lease.key for lease in ledger.lease("second", second, 9, lease_s=LEASE_S)] == ["t0001", "t0002"]
    finish(ledger, first, held)
    assert states(ledger, "second")["t0000"] is TrialState.COMPLETE
    assert ledger.study_names() == (STUDY, "second")


def test_added_trials_orphan_nothing_and_add_once(ledger: Ledger) -> None:
    ledger.insert_plan(plan(2))
    for _ in range(2):
        ledger.add_trials(STUDY, with_members(plan(2, first=2), phase=Phase.TUNE))
    assert [(member.key, member.phase, member.orphaned) for member in ledger.members(STUDY)] == [
        ("t0000", Phase.REPLICATE, False),
        ("t0001", Phase.REPLICATE, False),
        ("t0002", Phase.TUNE, False),
        ("t0003", Phase.TUNE, False),
    ]
    with pytest.raises(LedgerError, match="the ledger has no study 'nowhere'"):
        ledger.add_trials("nowhere", plan(1))


def test_a_plan_that_names_an_unknown_trial_is_refused_whole(ledger: Ledger) -> None:
    rows = dataclasses.replace(plan(3), trials=plan(2).trials)
    with pytest.raises(ValueError, match=r"members of a plan are trials; unknown: \['t0002'\]"):
        ledger.insert_plan(rows)
    assert ledger.study_names() == ()
    assert ledger.states(["t0000"]) == {}
    twice = dataclasses.replace(plan(1), members=plan(1).members * 2)
    with pytest.raises(ValueError, match="names a trial once for each arm, phase and index"):
        ledger.insert_plan(twice)


def test_a_cell_follows_the_signature_and_cost_of_todays_code(ledger: Ledger) -> None:
    ledger.insert_plan(plan(2))
    rows = plan(2)
    cell = dataclasses.replace(rows.cells[0], signature="newer", cost={"cost/train_gflops": 3.0})
    ledger.insert_plan(dataclasses.replace(rows, cells=(cell,)))
    assert {(record.signature, record.cost["cost/train_gflops"]) for record in ledger.trial_records(STUDY)} == {("newer", 3.0)}
    assert len(ledger.lease(STUDY, register(ledger), 9, signature="newer", lease_s=LEASE_S)) == 2


# Leases


def test_leases_follow_the_plan_and_hold_one_signature(ledger: Ledger) -> None:
    ledger.insert_plan(plan(6, signatures=("x", "y")))
    worker = register(ledger)
    leases = ledger.lease(STUDY, worker, 2, lease_s=LEASE_S)
    assert [(lease.key, lease.signature, lease.seed, lease.attempt) for lease in leases] == [("t0000", "x", 100, 1), ("t0002", "x", 102, 1)]
    assert leases[0].config == {"optim.lr": 0.1, "model.sizes": (1, (2.5,)), "arm": "base"}
    assert [lease.key for lease in ledger.lease(STUDY, worker, 9, signature="x", lease_s=LEASE_S)] == ["t0004"]
    assert ledger.lease(STUDY, worker, 9, signature="x", lease_s=LEASE_S) == []
    assert ledger.lease(STUDY, worker, 0, signature="y", lease_s=LEASE_S) == []


def test_a_worker_takes_the_program_that_no_other_worker_has_compiled(ledger: Ledger) -> None:
    ledger.insert_plan(plan(9, signatures=("x", "y", "z")))
    workers = [register(ledger, name) for name in "abcd"]
    taken = [ledger.lease(STUDY, worker, 1, lease_s=LEASE_S)[0].signature for worker in workers[:3]]
    assert taken == ["x", "y", "z"]
    ledger.lease(STUDY, workers[0], 9, signature="x", lease_s=LEASE_S)
    ledger.lease(STUDY, workers[1], 1, signature="y", lease_s=LEASE_S)
    assert ledger.lease(STUDY, workers[3], 1, lease_s=LEASE_S)[0].signature == "z", "the longest queue"


def test_a_lease_renewed_stays_and_one_that_expired_is_not_revived(ledger: Ledger) -> None:
    ledger.insert_plan(plan(2))
    worker = register(ledger)
    kept = ledger.lease(STUDY, worker, 1, lease_s=LEASE_S)
    gone = ledger.lease(STUDY, worker, 1, lease_s=-1)
    assert ledger.renew(worker, LEASE_S) == {kept[0].key}
    assert ledger.expire(STUDY) == [gone[0].key]
    assert states(ledger) == {"t0000": TrialState.LEASED, "t0001": TrialState.LOST}


def test_a_late_worker_writes_nothing(ledger: Ledger) -> None:
    ledger.insert_plan(plan(1))
    late, next_ = register(ledger, "late"), register(ledger, "next")
    stale = ledger.lease(STUDY, late, 1, lease_s=-1)[0]
    assert ledger.record(late, [rung(stale, 5, TrialState.COMPLETE, test_nll=9.0)]) == {stale.key: False}, "it expired"
    ledger.expire(STUDY)
    lease = ledger.lease(STUDY, next_, 1, lease_s=LEASE_S)[0]
    assert (lease.key, lease.attempt) == (stale.key, 2)
    assert lease.fence > stale.fence
    assert ledger.record(late, [rung(stale, 5, val_nll=9.0)]) == {stale.key: False}
    assert ledger.fail(late, stale.key, stale.fence, "too late") is None
    assert ledger.release(late, state=TrialState.PREEMPTED, reason="too late") == 0
    finish(ledger, next_, [lease])
    assert ledger.record(late, [rung(stale, 5, TrialState.DIVERGED, val_nll=9.0)]) == {stale.key: False}
    record = ledger.trial_records(STUDY)[0]
    assert (record.state, record.rungs, record.attempts) == (TrialState.COMPLETE, (Rung(step=10, metrics={"test/nll": 0.5}),), 2)


def test_an_old_token_of_the_same_worker_writes_nothing(ledger: Ledger) -> None:
    ledger.insert_plan(plan(1))
    worker = register(ledger)
    old = ledger.lease(STUDY, worker, 1, lease_s=LEASE_S)[0]
    ledger.release(worker, state=TrialState.PREEMPTED, reason="")
    new = ledger.lease(STUDY, worker, 1, lease_s=LEASE_S)[0]
    assert ledger.record(worker, [rung(old, 1, val_nll=1.0)]) == {old.key: False}
    assert ledger.record(worker, [rung(new, 1, val_nll=2.0)]) == {new.key: True}


def test_a_worker_that_ended_leases_nothing(ledger: Ledger) -> None:
    ledger.insert_plan(plan(1))
    worker = register(ledger)
    ledger.worker_ended(worker, exit_code=-9)
    assert ledger.lease(STUDY, worker, 1, lease_s=LEASE_S) == []
    with pytest.raises(ValueError, match="worker 99 is not registered for study 'study'"):
        ledger.lease(STUDY, 99, 1, lease_s=LEASE_S)


def test_a_trial_of_two_arms_is_leased_once(ledger: Ledger) -> None:
    rows = plan(3)
    again = tuple(dataclasses.replace(row, arm="same", position=10 + row.position) for row in rows.members)
    ledger.insert_plan(dataclasses.replace(rows, members=rows.members + again))
    worker = register(ledger)
    leases = ledger.lease(STUDY, worker, 9, lease_s=LEASE_S)
    assert [lease.key for lease in leases] == ["t0000", "t0001", "t0002"]
    finish(ledger, worker, leases)
    assert ledger.counts(STUDY) == {(arm, Phase.REPLICATE): {TrialState.COMPLETE: 3} for arm in ("base", "same")}
    assert len(ledger.trial_records(STUDY)) == 6
    assert ledger.unpublished(STUDY, "wandb") == ("t0000", "t0001", "t0002")


# Records


def test_a_finished_trial_tells_all(ledger: Ledger) -> None:
    ledger.insert_plan(plan(1))
    worker = register(ledger)
    lease = ledger.lease(STUDY, worker, 1, lease_s=LEASE_S)[0]
    assert ledger.record(worker, [rung(lease, 5, val_nll=1.0)]) == {lease.key: True}
    running = ledger.trial_records(STUDY)[0]
    assert (running.state, running.metrics, running.finished_at, running.provenance) == (TrialState.LEASED, {}, "", {})
    ledger.record(worker, [rung(lease, 10, TrialState.COMPLETE, val_nll=0.5, test_nll=0.6)])
    record = ledger.trial_records(STUDY)[0]
    assert record.rungs == (Rung(step=5, metrics={"val/nll": 1.0}), Rung(step=10, metrics={"val/nll": 0.5, "test/nll": 0.6}))
    assert record.metrics == {"val/nll": 0.5, "test/nll": 0.6, "cost/train_gflops": 2.5}
    assert (record.cell, record.arm, record.phase, record.index) == ("cell-base-sig", "base", Phase.REPLICATE, 0)
    assert (record.seed, record.signature, record.attempts, record.provenance) == (100, "sig", 1, {"jax": "1"})
    assert record.config == lease.config
    assert record.point == {"optim.lr": 0.1}
    assert record.elapsed_s >= 0
    assert record.finished_at.endswith("+00:00")


def test_a_step_said_again_replaces_what_was_said(ledger: Ledger) -> None:
    ledger.insert_plan(plan(1))
    worker = register(ledger)
    lease = ledger.lease(STUDY, worker, 1, lease_s=LEASE_S)[0]
    ledger.record(worker, [rung(lease, 5, val_nll=1.0, val_error=0.5), rung(lease, 10, val_nll=0.9)])
    ledger.record(worker, [rung(lease, 10, val_nll=0.8)])
    assert ledger.trial_records(STUDY)[0].rungs[1] == Rung(step=10, metrics={"val/nll": 0.8})
    # From a checkpoint before step 5: what came after is said anew.
    ledger.record(worker, [rung(lease, 5, val_nll=2.0)])
    assert ledger.trial_records(STUDY)[0].rungs == (Rung(step=5, metrics={"val/nll": 2.0}),)
    ledger.record(worker, [rung(lease, 10, val_nll=1.0), rung(lease, 15, val_nll=1.0), rung(lease, 10, val_nll=3.0)])
    assert [value.metrics["val/nll"] for value in ledger.trial_records(STUDY)[0].rungs] == [2.0, 3.0]


def test_an_outcome_without_metrics_leaves_the_curve_alone(ledger: Ledger) -> None:
    ledger.insert_plan(plan(1))
    worker = register(ledger)
    lease = ledger.lease(STUDY, worker, 1, lease_s=LEASE_S)[0]
    ledger.record(worker, [rung(lease, 5, val_nll=1.0)])
    stop = Entry(key=lease.key, fence=lease.fence, step=5, metrics={}, outcome=TrialState.STOPPED, reason="worse than half")
    ledger.record(worker, [stop])
    record = ledger.trial_records(STUDY)[0]
    assert (record.state, record.reason, record.metrics) == (TrialState.STOPPED, "worse than half", {})
    assert record.rungs == (Rung(step=5, metrics={"val/nll": 1.0}),)


def test_numbers_that_are_not_finite_are_kept(ledger: Ledger) -> None:
    ledger.insert_plan(plan(1))
    worker = register(ledger)
    lease = ledger.lease(STUDY, worker, 1, lease_s=LEASE_S)[0]
    ledger.record(worker, [rung(lease, 5, TrialState.DIVERGED, a=math.nan, b=math.inf, c=-math.inf, d=-0.0, e=1e-320, f=1 / 3)])
    metrics = ledger.trial_records(STUDY)[0].rungs[0].metrics
    assert math.isnan(metrics["a"])
    assert (metrics["b"], metrics["c"], metrics["e"], metrics["f"]) == (math.inf, -math.inf, 1e-320, 1 / 3)


def test_a_pack_records_what_it_still_holds(ledger: Ledger) -> None:
    ledger.insert_plan(plan(2))
    worker = register(ledger)
    lost = ledger.lease(STUDY, worker, 1, lease_s=-1)[0]
    held = ledger.lease(STUDY, worker, 1, lease_s=LEASE_S)[0]
    assert ledger.record(worker, [rung(lost, 5, val_nll=1.0), rung(held, 5, val_nll=1.0)]) == {lost.key: False, held.key: True}
    assert [len(record.rungs) for record in ledger.trial_records(STUDY)] == [0, 1]


def test_nothing_follows_the_end_of_a_trial(ledger: Ledger) -> None:
    ledger.insert_plan(plan(1))
    worker = register(ledger)
    lease = ledger.lease(STUDY, worker, 1, lease_s=LEASE_S)[0]
    with pytest.raises(ValueError, match="nothing is recorded of trial t0000 after its end"):
        ledger.record(worker, [rung(lease, 5, TrialState.COMPLETE, val_nll=1.0), rung(lease, 6, val_nll=1.0)])
    assert ledger.trial_records(STUDY)[0].rungs == ()
    finish(ledger, worker, [lease])
    assert ledger.record(worker, [rung(lease, 11, val_nll=1.0)]) == {lease.key: False}


def test_records_can_be_asked_for_by_phase_and_key_and_without_curves(ledger: Ledger) -> None:
    ledger.insert_plan(plan(2))
    ledger.add_trials(STUDY, with_members(plan(2, first=2), phase=Phase.TUNE))
    worker = register(ledger)
    leases = ledger.lease(STUDY, worker, 3, lease_s=LEASE_S)
    ledger.record(worker, [rung(lease, 5, val_nll=1.0) for lease in leases])
    finish(ledger, worker, leases[:2])
    everything = ledger.trial_records(STUDY)
    assert [record.key for record in ledger.trial_records(STUDY, phases=[Phase.TUNE])] == ["t0002", "t0003"]
    assert ledger.trial_records(STUDY, keys=["t0001"]) == everything[1:2]
    without = ledger.trial_records(STUDY, with_rungs=False)
    assert [record.metrics for record in without] == [record.metrics for record in everything]
    assert all(record.rungs == () for record in without)
    assert ledger.trial_records("nowhere") == ()


def test_outcomes_are_known_whatever_the_study(ledger: Ledger) -> None:
    ledger.insert_plan(plan(3))
    worker = register(ledger)
    leases = ledger.lease(STUDY, worker, 2, lease_s=LEASE_S)
    ledger.record(worker, [rung(lease, 5, val_nll=1.0) for lease in leases])
    finish(ledger, worker, leases[:1])
    ledger.insert_plan(plan(0))
    assert ledger.outcomes(["t0000", "t0001", "t0002", "unknown"]) == {
        "t0000": (TrialState.COMPLETE, {"test/nll": 0.5}),
        "t0001": (TrialState.LEASED, {}),
        "t0002": (TrialState.PLANNED, {}),
    }


def test_artifacts_are_written_with_their_trial(ledger: Ledger) -> None:
    ledger.insert_plan(plan(1))
    worker = register(ledger)
    lease = ledger.lease(STUDY, worker, 1, lease_s=LEASE_S)[0]
    entry = dataclasses.replace(rung(lease, 5, val_nll=1.0), artifacts={"predictions": "a.npz"})
    ledger.record(worker, [entry, dataclasses.replace(entry, step=6, artifacts={"predictions": "b.npz"})])
    assert [(row.trial, row.name, row.uri, row.sha256) for row in ledger.artifacts(["t0000"])] == [("t0000", "predictions", "b.npz", "")]
    ledger.record(worker, [dataclasses.replace(entry, step=7, artifacts={"parameters": "p"}, sha256={"parameters": "ab" * 32})])
    assert {row.name: row.sha256 for row in ledger.artifacts(["t0000"])} == {"predictions": "", "parameters": "ab" * 32}


def test_a_trial_that_others_start_from_has_a_phase_of_its_own(ledger: Ledger) -> None:
    ledger.insert_plan(plan(1))
    ledger.add_trials(STUDY, with_members(plan(2, first=1), phase=Phase.UPSTREAM))
    worker = register(ledger)
    finish(ledger, worker, ledger.lease(STUDY, worker, 3, lease_s=LEASE_S)[1:])
    assert [(row.key, row.state) for row in ledger.trial_records(STUDY, phases=[Phase.UPSTREAM])] == [
        ("t0001", TrialState.COMPLETE),
        ("t0002", TrialState.COMPLETE),
    ]
    assert [row.key for row in ledger.trial_records(STUDY, phases=[Phase.REPLICATE])] == ["t0000"]
