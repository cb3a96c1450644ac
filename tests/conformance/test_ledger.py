"""What the ledger promises, on SQLite and on PostgreSQL."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import itertools
import math
import pathlib
import shutil
import threading
from collections.abc import Callable, Generator

import pytest
import sqlalchemy as sa

from orchestrator.contract import Probe
from orchestrator.errors import LedgerError
from orchestrator.ledger import Entry, Ledger, LedgerUnavailableError, MemberRow, TrialRow, TrialRows
from orchestrator.ledger.schema import metadata
from orchestrator.records import Phase, Rung, TrialState
from tests.ledgers import LEASE_S, STUDY, finish, plan, postgresql, register, rung, start, states, with_members

MakeUrl = Callable[[], str]


@pytest.fixture(scope="module")
def sqlite_urls(tmp_path_factory: pytest.TempPathFactory) -> MakeUrl:
    """Copies of one migrated file: migrating costs 200 ms, copying nothing."""
    folder = tmp_path_factory.mktemp("ledgers")
    Ledger.open(folder / "template.sqlite").close()
    numbers = itertools.count()

    def make() -> str:
        return str(shutil.copy(folder / "template.sqlite", folder / f"{next(numbers)}.sqlite"))

    return make


@pytest.fixture(scope="module")
def postgresql_urls() -> Generator[MakeUrl]:
    """Databases made from one migrated template, on a server of our own."""
    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(postgresql())
        except FileNotFoundError as error:
            pytest.skip(str(error))
        admin = sa.create_engine(server.set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
        stack.callback(admin.dispose)
        numbers = itertools.count()

        def make() -> str:
            name = f"ledger{next(numbers)}"
            with admin.connect() as connection:
                connection.exec_driver_sql(f"CREATE DATABASE {name} TEMPLATE migrated")
            return server.set(database=name).render_as_string()

        with admin.connect() as connection:
            connection.exec_driver_sql("CREATE DATABASE migrated")
        Ledger.open(server.set(database="migrated").render_as_string()).close()
        yield make


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest) -> str:
    """An empty ledger."""
    make: MakeUrl = request.getfixturevalue(f"{request.param}_urls")
    return make()


@pytest.fixture
def ledger(url: str) -> Generator[Ledger]:
    """An empty ledger, open."""
    with Ledger.open(url, create=False) as opened:
        yield opened


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


def test_artifacts_are_written_with_their_trial(ledger: Ledger) -> None:
    ledger.insert_plan(plan(1))
    worker = register(ledger)
    lease = ledger.lease(STUDY, worker, 1, lease_s=LEASE_S)[0]
    entry = dataclasses.replace(rung(lease, 5, val_nll=1.0), artifacts={"predictions": "a.npz"})
    ledger.record(worker, [entry, dataclasses.replace(entry, step=6, artifacts={"predictions": "b.npz"})])
    assert [(row.trial, row.name, row.uri) for row in ledger.artifacts(["t0000"])] == [("t0000", "predictions", "b.npz")]


# Failures, losses, retries


def test_a_failure_is_tried_again_until_its_attempts_are_spent(ledger: Ledger) -> None:
    ledger.insert_plan(plan(1))
    worker = register(ledger)
    for expected in (TrialState.PLANNED, TrialState.FAILED):
        lease = ledger.lease(STUDY, worker, 1, lease_s=LEASE_S)[0]
        assert ledger.fail(worker, lease.key, lease.fence, "it raised", max_failures=2) is expected
    record = ledger.trial_records(STUDY)[0]
    assert (record.state, record.reason, record.attempts) == (TrialState.FAILED, "it raised", 2)
    assert ledger.lease(STUDY, worker, 1, lease_s=LEASE_S) == []
    assert ledger.retry(STUDY) == 1
    assert ledger.retry(STUDY) == 0
    lease = ledger.lease(STUDY, worker, 1, lease_s=LEASE_S)[0]
    assert ledger.fail(worker, lease.key, lease.fence, "again", max_failures=2) is TrialState.PLANNED, "failures were forgotten"
    assert ledger.trial_records(STUDY)[0].reason == ""


def test_what_is_handed_back_waits_and_says_why(ledger: Ledger) -> None:
    ledger.insert_plan(plan(3))
    worker = register(ledger)
    leases = ledger.lease(STUDY, worker, 3, lease_s=LEASE_S)
    assert ledger.release(worker, keys=[leases[0].key], state=TrialState.PLANNED, reason="never begun") == 1
    assert ledger.release(worker, state=TrialState.PREEMPTED, reason="told to stop") == 2
    assert list(states(ledger).values()) == [TrialState.PLANNED, TrialState.PREEMPTED, TrialState.PREEMPTED]
    assert len(ledger.lease(STUDY, worker, 9, lease_s=LEASE_S)) == 3
    with pytest.raises(ValueError, match="complete is not planned, preempted or lost"):
        ledger.release(worker, state=TrialState.COMPLETE, reason="")


def test_the_trials_of_a_dead_worker_wait_again_at_once(ledger: Ledger) -> None:
    ledger.insert_plan(plan(4))
    dead, alive = register(ledger, "dead"), register(ledger, "alive")
    ledger.lease(STUDY, dead, 2, lease_s=LEASE_S)
    ledger.lease(STUDY, alive, 1, lease_s=LEASE_S)
    assert ledger.release_dead(STUDY, [dead]) == ["t0000", "t0001"]
    assert list(states(ledger).values()) == [TrialState.LOST, TrialState.LOST, TrialState.LEASED, TrialState.PLANNED]
    assert ledger.release_dead(STUDY, []) == []


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
                ledger.release_dead(STUDY, [worker])
                break
            finish(ledger, worker, leases[:1])
            leases = [*leases[1:], *ledger.lease(STUDY, worker, width - len(leases) + 1, lease_s=LEASE_S)]
    found = states(ledger)
    assert found.pop("t0005") is TrialState.FAILED
    assert set(found.values()) == {TrialState.COMPLETE}
    assert deaths <= 3 + width.bit_length()
    (failed,) = (record for record in ledger.trial_records(STUDY) if record.state is TrialState.FAILED)
    assert failed.reason.startswith("its worker died, and so did ")


def test_a_trial_that_gets_further_each_time_outlives_any_number_of_workers(ledger: Ledger) -> None:
    ledger.insert_plan(plan(1))
    for step in range(1, 9):
        worker = register(ledger, f"w{step}")
        lease = ledger.lease(STUDY, worker, 1, lease_s=LEASE_S)[0]
        ledger.record(worker, [rung(lease, step, val_nll=1.0)])
        ledger.release_dead(STUDY, [worker])
    assert states(ledger) == {"t0000": TrialState.LOST}


def test_deaths_from_outside_are_not_held_against_a_trial(ledger: Ledger) -> None:
    ledger.insert_plan(plan(1))
    for number in range(6):
        worker = register(ledger, f"w{number}")
        assert len(ledger.lease(STUDY, worker, 1, lease_s=-1 if number % 2 else LEASE_S)) == 1
        lost = ledger.expire(STUDY, max_lost=None) if number % 2 else ledger.release_dead(STUDY, [worker], max_lost=None)
        assert lost == ["t0000"]
    assert states(ledger) == {"t0000": TrialState.LOST}


def test_expiry_too_finds_the_trial_that_kills_its_workers(ledger: Ledger) -> None:
    ledger.insert_plan(plan(1))
    worker = register(ledger)
    for _ in range(3):
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
    ledger.fail(worker, leases[2].key, leases[2].fence, "it raised", max_failures=1)
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
    assert [(row.id, row.identity, row.host, row.pid, row.started, row.signature, row.leases) for row in rows] == [
        (first, "one", "here", 1, "then", "sig", 2),
        (second, "two", "here", 1, "then", "", 0),
    ]
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
    ledger.fail(worker, leases[0].key, leases[0].fence, "it raised", max_failures=1)
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


def test_processes_that_lease_at_once_share_no_trial(url: str) -> None:
    with Ledger.open(url) as ledger:
        ledger.insert_plan(plan(400, arms=("a", "b"), signatures=("x", "y", "z")))
        processes = [start("work", url, f"p{number}") for number in range(8)]
        done: list[str] = []
        for process in processes:
            said, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors
            done += said.split()[1:]
        assert len(done) == len(set(done)) == 400
        assert set(states(ledger).values()) == {TrialState.COMPLETE}
        assert {record.attempts for record in ledger.trial_records(STUDY, with_rungs=False)} == {1}


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
        Ledger.open(f"postgresql://ann:secret@/sweeps?host={tmp_path}&sslpassword=hidden")
    assert "secret" not in str(caught.value)
    assert "hidden" not in str(caught.value)


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
